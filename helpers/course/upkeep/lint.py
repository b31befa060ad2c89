"""`python -m helpers lint`: what every notebook must keep to, workflows, then ruff on the code."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from helpers.course import execute
from helpers.course.upkeep import compare, opening, prose, sync
from helpers.errors import UserError
from helpers.paths import ROOT

TAGS = {"parameters", "hide-input", "exercise", "solution",
        "long", opening.TAG}
MAX_LINES = 25
MAX_BYTES = 2_000_000
PATHS = re.compile(
    r"(?<![\w:/.])/(home|root|tmp|work|opt|Users|var|mnt|content|private)/|\b[A-Z]:\\\\?\w")
WIDGETS = "application/vnd.jupyter.widget-state+json"
CODE = ("helpers", "tests", "data", "benchmarks")


def lint() -> int:
    """Print what is wrong with notebooks, workflows and code; 0 when nothing is."""
    paths = list(execute.notebooks().values())
    problems = [f"{path.name}: {text}" for path in paths for text in notebook_problems(path)]
    problems += [f"{path.relative_to(ROOT).as_posix()}: {text}"
                 for path in (*sorted(ROOT.glob("*.md")), ROOT / "data" / "README.md")
                 for text in text_problems(path.read_text(encoding="utf-8"), path.parent)]
    print("\n".join(problems) or f"{len(paths)} notebooks: nothing wrong.", flush=True)
    problems += workflow_problems(ROOT / ".github" / "workflows")
    present = [folder for folder in CODE if (ROOT / folder).is_dir()]
    ruff = subprocess.run([sys.executable, "-m", "ruff", "check", *present], cwd=ROOT)
    return 1 if problems or unknown_names(paths) or ruff.returncode else 0


def unknown_names(paths: list[Path]) -> bool:
    """Whether a cell uses a name that no cell defines; ruff prints which and where."""
    found = subprocess.run([sys.executable, "-m", "ruff", "check", "--quiet", "--isolated",
                            "--select", "F821", *map(str, paths)])
    return bool(found.returncode)


def workflow_problems(folder: Path) -> list[str]:
    """Check workflows against GitHub's schema, which check-jsonschema carries; print what it says.

    Returns:
        A sentence where something is wrong, also where the check cannot be made.
    """
    files = sorted(map(str, folder.glob("*.yml")))
    if importlib.util.find_spec("check_jsonschema") is None:
        text = ("the workflows are not checked: check-jsonschema is missing; run "
                "`python -m helpers setup`, or `pip install check-jsonschema`.")
        print(text, flush=True)
        return [text]
    done = subprocess.run([sys.executable, "-m", "check_jsonschema", "--builtin-schema",
                           "vendor.github-workflows", *files])
    return [f"a workflow in {folder.name} is not what GitHub accepts"] if done.returncode else []


def text_problems(text: str, folder: Path, own: set[int] | None = None) -> list[str]:
    """What is wrong with headings, links and references of a text that stands in `folder`.

    own: the numbers of its sections; of a text that has none, "section 3" alone is not checked.
    """
    sections = {number: prose.section_numbers(markdown(execute.read_notebook(path)))
                for number, path in execute.notebooks().items()}
    return [*prose.heading_problems(text, own is not None),
            *prose.link_problems(text, folder, ROOT),
            *prose.reference_problems(text, own or set(), sections)]


def markdown(content: dict[str, Any]) -> str:
    """All Markdown of a notebook."""
    return "\n\n".join("".join(cell["source"]) for cell in content["cells"]
                       if cell["cell_type"] == "markdown")


def notebook_problems(path: Path) -> list[str]:
    """What is wrong with one notebook, a sentence each."""
    try:
        content = execute.read_notebook(path)
    except UserError as error:
        return [str(error)]
    problems = [*_validity(content), *_whole(path, content)]
    words = markdown(content)
    problems += text_problems(words, ROOT / "notebooks", prose.section_numbers(words))
    number = bare = 0
    for cell in content["cells"]:
        problems += [f"tag {tag!r} is not one of ours ({', '.join(sorted(TAGS))}, source:…)"
                     for tag in cell["metadata"].get("tags", [])
                     if tag not in TAGS and not tag.startswith(sync.TAG)]
        if cell["cell_type"] == "markdown" and not cell["metadata"].get(prose.ALLOWED):
            problems += [f"{typed} is typed into prose, after code cell {number}; let a cell print "
                         f"it, or say in the metadata, under {prose.ALLOWED}, why it is no result"
                         for typed in prose.typed_numbers("".join(cell["source"]))]
        if cell["cell_type"] == "code" and "".join(cell["source"]).strip():
            number += 1
            bare += cell.get("execution_count") is None
            problems += [f"code cell {number}: {text}" for text in _cell(cell, number)]
    if bare:
        problems.append(f"{bare} of {number} code cells are not executed; "
                        "use `python -m helpers refresh`")
    return problems


def _validity(content: dict[str, Any]) -> list[str]:
    import nbformat

    try:
        nbformat.validate(nbformat.from_dict(content))
    except nbformat.ValidationError as error:
        return [f"not a valid notebook: {str(error).splitlines()[0]}"]
    return []


def _whole(path: Path, content: dict[str, Any]) -> list[str]:
    problems = []
    cells, metadata = content["cells"], content.get("metadata", {})
    if metadata.get("kernelspec", {}).get("name") != "python3":
        problems.append("the kernelspec is not python3")
    if "papermill" in metadata:
        problems.append("papermill's metadata is left in; use `python -m helpers refresh`")
    widgets = metadata.get("widgets")
    if widgets is not None and "state" not in widgets.get(WIDGETS, {}):
        problems.append("the widget metadata has no state, so GitHub does not show the notebook")
    state = (widgets or {}).get(WIDGETS, {}).get("state", {})
    views = [view for cell in cells for output in cell.get("outputs", [])
             if (view := output.get("data", {}).get(compare.VIEW))]
    if any(view.get("model_id") not in state for view in views):
        problems.append("a widget is shown whose state is not kept; use "
                        "`python -m helpers refresh`")
    needed = {"model_name", "model_module", "state"}
    if any(not isinstance(model, dict) or needed - set(model) for model in state.values()):
        problems.append("the widget state is not valid: a model lacks its name, module or state")
    if path.stat().st_size > MAX_BYTES:
        problems.append(f"{path.stat().st_size / 1e6:.1f} MB; at most {MAX_BYTES / 1e6:.0f}")
    title = "".join(cells[0]["source"]) if cells else ""
    if not (cells and cells[0]["cell_type"] == "markdown"
            and title.startswith(f"# {path.name[:2]} · ")):
        problems.append(f"the first cell is not the title `# {path.name[:2]} · …`")
    where, code = opening.address(), [c for c in cells if c["cell_type"] == "code"]
    if not code or opening.TAG not in code[0]["metadata"].get("tags", []):
        problems.append(f"the first code cell is not tagged {opening.TAG}")
    elif ("".join(code[0]["source"]) != opening.cell(where)
          or opening.with_badge(title, where, path.name) != title):
        problems.append("the first cell or the badge differs; use `python -m helpers sync`")
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    if len(tagged) != 1:
        problems.append(f"{len(tagged)} cells are tagged parameters; there must be one")
    missing = {"profile", "overrides", "seed"} - set(execute.declared_parameters(path))
    if tagged and missing:
        problems.append(f"the parameters cell lacks {', '.join(sorted(missing))}")
    return problems


def _cell(cell: dict[str, Any], number: int) -> list[str]:
    problems = []
    lines = "".join(cell["source"]).splitlines()
    if len(lines) > MAX_LINES:
        problems.append(f"{len(lines)} lines; at most {MAX_LINES}")
    try:
        compare.check_metadata(cell["metadata"])
    except UserError as error:
        problems.append(str(error))
    if cell.get("execution_count") not in (None, number):
        problems.append(f"has execution count {cell['execution_count']}; run from top to bottom")
    if any(o["output_type"] == "error" for o in cell["outputs"]):
        problems.append("ends in an error")
    if any(o.get("name") == "stderr" for o in cell["outputs"]):
        problems.append("has output on stderr")
    problems += prose.figure_problems(cell)
    shown = "\n".join(output_texts(cell))
    if "Warning" in shown:
        problems.append("a warning in the output")
    path = PATHS.search(shown)
    if path:
        place = shown[path.start():path.start() + 40].splitlines()[0]
        problems.append(f"an absolute path in the output: {place}")
    try:
        if sync.differs(cell):
            problems.append(f"differs from helper {sync.source_tag(cell)}; use "
                            "`python -m helpers sync`")
    except UserError as error:
        problems.append(str(error))
    return problems


def output_texts(cell: dict[str, Any]) -> list[str]:
    """All text among a cell's outputs, pictures left out."""
    texts = []
    for output in cell["outputs"]:
        texts.append("".join(output.get("text", [])))
        for kind, value in output.get("data", {}).items():
            if not kind.startswith("image/png") and isinstance(value, str | list):
                texts.append("".join(value))
    return texts
