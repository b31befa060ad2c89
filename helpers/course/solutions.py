"""`python -m helpers solutions NN`: what a notebook folds away, or a copy of it without that."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from helpers.course.execute import find_notebook
from helpers.errors import UserError, printable, saving

FOLDED = re.compile(
    r"<details>\s*<summary>([^<]*[Ss]olution[^<]*)</summary>(.*?)</details>\s*", re.S)
TITLE = re.compile(r"^\*\*([^*]+)\*\*", re.M)  # what an exercise's text begins with


@dataclass(frozen=True)
class Solution:
    """A folded solution, and the bold words with which its exercise begins."""

    exercise: str
    text: str


def find(path: Path) -> list[Solution]:
    """The solutions in a notebook's texts, in order."""
    found, title = [], ""
    for cell in _cells(path):
        if cell["cell_type"] != "markdown":
            continue
        text, end = "".join(cell["source"]), 0
        for folded in FOLDED.finditer(text):
            title = _last_title(text[end:folded.start()]) or title
            found.append(Solution(title, folded[2].strip()))
            end = folded.end()
        title = _last_title(text[end:]) or title
    return found


def solutions(number: str, without: str | None = None) -> int:
    """Print a notebook's solutions, or write a copy of it that has none; 0.

    Args:
        number: "04", "4" or the notebook's name.
        without: the file of the copy, which may not be there yet; outputs stay as they are.

    Raises:
        UserError: no such notebook, no solution in it, or the copy cannot be written.
    """
    path = find_notebook(number)
    found = find(path)
    if not found:
        raise UserError(f"{path.name} holds no solutions.")
    if without is None:
        for one in found:
            print(printable(f"## {path.name[:2]} · {one.exercise}\n\n{one.text}\n"))
        return 0
    copy = Path(without)
    if copy.exists():
        raise UserError(f"{copy} is there already; give the name of a new file.")
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = FOLDED.sub("", "".join(cell["source"])).splitlines(keepends=True)
    notebook["cells"] = [cell for cell in notebook["cells"]
                         if cell["cell_type"] != "markdown" or cell["source"]]
    with saving(copy, "give a file that you may write"):
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{copy}: without its {len(found)} solutions")
    return 0


def _cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def _last_title(text: str) -> str | None:
    titles = TITLE.findall(text)
    return " ".join(titles[-1].split()).rstrip(".") if titles else None
