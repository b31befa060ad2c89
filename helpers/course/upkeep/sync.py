"""One truth for what is shown twice: cells tagged `source:…` hold the helper's own source, the
README and notebook 04 the table of forms that rows may have, every notebook the same first cell."""

from __future__ import annotations

import ast
import json
import re
import textwrap
from pathlib import Path
from typing import Any

from helpers.course import execute
from helpers.course.upkeep import opening
from helpers.errors import UserError
from helpers.paths import ROOT

TAG = "source:"


def helper_source(name: str, folder: Path | None = None) -> str:
    """Source of a helper such as `ppo.gae` or `ppo_trainer.PPO.train`, without importing it.

    Raises:
        UserError: no such file, or no such function or class in it.
    """
    module, *path = name.split(".")
    place = folder or ROOT / "helpers"
    files = [place / f"{module}.py"] if (place / f"{module}.py").is_file() else sorted(
        (place / module).glob("*.py"))
    if not files or not path:
        raise UserError(f"the tag {TAG}{name} names no helper; it must be like {TAG}ppo.gae.")
    texts = [file.read_text(encoding="utf-8") for file in files]
    # A face hands on what one of its files defines.
    text = next((t for t in texts if any(
        getattr(n, "name", None) == path[0] for n in ast.parse(t).body)), texts[0])
    body = ast.parse(text).body
    node: Any = None
    for part in path:
        node = next((n for n in body if getattr(n, "name", None) == part), None)
        if node is None:
            where = f"{module}/" if len(files) > 1 else f"{module}.py"
            raise UserError(f"the tag {TAG}{name} names nothing in helpers/{where}.")
        body = getattr(node, "body", [])
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    lines = text.splitlines()[first - 1:node.end_lineno]
    return textwrap.dedent("\n".join(lines))


def source_tag(cell: dict[str, Any]) -> str | None:
    """The helper a cell is said to equal, or None."""
    tags = cell.get("metadata", {}).get("tags", [])
    return next((tag.removeprefix(TAG) for tag in tags if tag.startswith(TAG)), None)


def differs(cell: dict[str, Any]) -> bool:
    """Whether a tagged cell holds anything but its helper's source."""
    name = source_tag(cell)
    return name is not None and "".join(cell["source"]).strip() != helper_source(name).strip()


def forms_table() -> str:
    """The forms of rows that are read, `engine.rows.FORMS`, as a table in Markdown."""
    from helpers.engine.rows import FORMS

    lines = [FORMS_HEAD, "|---|---|---|---|"]
    for kind in SHOWN_KINDS:
        for number, form in enumerate(FORMS[kind]):
            columns = ", ".join(f"`{column}`" for column in form.columns)
            setting = "" if number else f"`data.{kind}`"
            lines.append(f"| {setting} | {form.name} | {columns} | {form.example} |")
    return "\n".join(lines)


FORMS_HEAD = "| setting | form | columns | what is in them |"
SHOWN_KINDS = ("reviews", "preferences", "demonstrations")


def with_forms(text: str) -> str:
    """A text with the table of forms, where it has one, as it should be."""
    return re.sub(rf"^{re.escape(FORMS_HEAD)}(\n\|.*)*", lambda _: forms_table(), text, flags=re.M)


def sync() -> int:
    """Write helpers' sources into the cells that show them, and the table of forms; says what."""
    changed = 0
    readme = ROOT / "README.md"
    if (text := readme.read_text(encoding="utf-8")) != with_forms(text):
        readme.write_text(with_forms(text), encoding="utf-8", newline="\n")
        print("README.md: the table of forms brought up to date")
        changed += 1
    for path in execute.notebooks().values():
        content = execute.read_notebook(path)
        stale = [(cell, name) for cell in content["cells"]
                 if (name := source_tag(cell)) is not None and differs(cell)]
        for cell, name in stale:
            cell["source"] = helper_source(name).splitlines(keepends=True)
            print(f"{path.name}: {TAG}{name} brought up to date")
        tables = [cell for cell in content["cells"] if cell["cell_type"] == "markdown"
                  and with_forms(text := "".join(cell["source"])) != text]
        for cell in tables:
            cell["source"] = with_forms("".join(cell["source"])).splitlines(keepends=True)
            print(f"{path.name}: the table of forms brought up to date")
        opened = _open(path, content)
        if stale or tables or opened:
            write_notebook(path, content)
        changed += len(stale) + len(tables) + opened
    if not changed:
        print("All shown sources equal their helpers.")
    return 0


def _open(path: Path, content: dict[str, Any]) -> int:
    """Bring the badge and the first cell up to date; returns how many of the two were not."""
    where, changed = opening.address(), 0
    for cell in content["cells"]:
        text = "".join(cell["source"])
        if cell is content["cells"][0]:
            wanted = opening.with_badge(text, where, path.name)
        elif opening.TAG in cell.get("metadata", {}).get("tags", []):
            wanted = opening.cell(where)
        else:
            continue
        if text != wanted:
            cell["source"] = wanted.splitlines(keepends=True)
            what = "the badge" if cell["cell_type"] == "markdown" else "the first cell"
            print(f"{path.name}: {what} brought up to date")
            changed += 1
    return changed


def write_notebook(path: Path, content: dict[str, Any]) -> None:
    """Store a notebook the way Jupyter does, in one step."""
    aside = path.with_suffix(".part")
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    aside.write_text(text, encoding="utf-8", newline="\n")
    aside.replace(path)
