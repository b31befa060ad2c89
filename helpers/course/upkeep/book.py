"""`python -m helpers book`: the whole course as a web book, made from the notebooks as they are.

Sphinx with MyST-NB reads notebooks and texts where they lie; nothing is executed, the pages show
the stored outputs. Formulas become MathML, search is Sphinx's own, so that the book needs no
network and no server: `runs/book/html/index.html` opens in a browser. This module is an extension
of Sphinx too, see `setup`.
"""

from __future__ import annotations

import importlib.util
import json
import posixpath
import re
import shutil
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from helpers.course.execute import notebooks
from helpers.errors import UserError, no_saving
from helpers.paths import ROOT

LIBRARIES = {"sphinx": "sphinx", "myst_nb": "myst-nb", "sphinx_book_theme": "sphinx-book-theme",
             "latex2mathml": "latex2mathml"}
BEFORE = ("README.md",)
AFTER = ("GLOSSARY.md", "WHEN_IT_GOES_WRONG.md", "TEACHING.md", "data/README.md",
         "CONTRIBUTING.md", "CHANGELOG.md")
STYLE = Path(__file__).with_name("book.css")
FOLDED = {"opening": "hide-input"}  # a notebook's tag, and what MyST-NB calls it


def pages(root: Path = ROOT) -> list[str]:
    """The pages in their order, as paths below the course's folder; the first is the front page."""
    chapters = [path.relative_to(root).as_posix() for path in notebooks().values()
                if path.is_relative_to(root)]
    return [name for name in (*BEFORE, *chapters, *AFTER) if (root / name).is_file()]


def book(out: Path | None = None) -> int:
    """Build the book and look for dead links in it.

    Args:
        out: where `html/` is written; `runs/book` when not given.

    Returns:
        0, or 1 when something could not be read as it was meant, or a link leads nowhere; each is
        named.

    Raises:
        UserError: a library of the extra `book` is missing, or the folder cannot be written.
    """
    if lacking := missing():
        raise UserError(f"the book needs {', '.join(lacking)}; `pip install -e .[book]` brings "
                        "what it needs.")
    folder = out or ROOT / "runs" / "book"
    html = folder / "html"
    try:
        shutil.rmtree(html, ignore_errors=True)  # pages that are no more
        html.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(no_saving(folder, error)) from error
    warnings = _build(ROOT, html, folder / "doctrees")
    (html / "index.html").write_text(
        '<!doctype html><meta charset="utf-8"><title>RLHF in notebooks</title>'
        '<meta http-equiv="refresh" content="0; url=README.html">'
        '<a href="README.html">RLHF in notebooks</a>\n', encoding="utf-8")
    wrong = warnings + dead_links(html)
    for line in wrong:
        print(line)
    print(f"{len(pages())} pages, {len(wrong)} faults: {html / 'index.html'}")
    return int(bool(wrong))


def missing() -> list[str]:
    """The libraries of the extra `book` that are not installed, by their names on PyPI."""
    return [name for module, name in LIBRARIES.items() if importlib.util.find_spec(module) is None]


def _build(source: Path, html: Path, trees: Path) -> list[str]:
    """Run Sphinx; the warnings it gave, one a line."""
    import io

    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    said = io.StringIO()
    with patch_docutils(), docutils_namespace():
        app = Sphinx(str(source), None, str(html), str(trees), "html", settings(), status=None,
                     warning=said, freshenv=True)
        app.build(force_all=True)
    text = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
    return [line for line in text.splitlines() if line.strip()]


def settings() -> dict[str, Any]:
    """What would stand in Sphinx's `conf.py`."""
    return {
        "project": "RLHF in notebooks",
        "extensions": ["myst_nb", __name__],
        "root_doc": BEFORE[0].removesuffix(".md"),
        "include_patterns": pages(),
        "myst_enable_extensions": ["dollarmath"],
        "myst_heading_anchors": 4,
        "myst_dmath_double_inline": True,
        "nb_execution_mode": "off",
        "nb_render_image_options": {"align": "left"},
        "nb_ipywidgets_js": {},
        "suppress_warnings": [],
        "html_theme": "sphinx_book_theme",
        "html_title": "RLHF in notebooks",
        "html_math_renderer": "mathml",
        "html_static_path": [str(STYLE)],
        "html_css_files": [STYLE.name],
        "html_copy_source": False,
        "html_show_copyright": False,
        "html_theme_options": {"use_download_button": False, "use_fullscreen_button": False,
                               "show_toc_level": 2, "footer_content_items": []},
    }


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx: formulas as MathML, and sources prepared as they are read."""
    app.add_html_math_renderer("mathml", (_formula, None), (_display, None))
    app.connect("source-read", _prepare)
    return {"parallel_read_safe": True}


def _prepare(app: Any, name: str, content: list[str]) -> None:
    path = Path(app.env.doc2path(name))
    if path.suffix == ".ipynb":
        content[0] = prepared(content[0])
        return
    content[0] = without_folders(content[0], path.parent)
    if name == app.config.root_doc:
        content[0] += contents(pages()[1:])


def without_folders(text: str, here: Path) -> str:
    """Markdown whose links to folders are plain words: a book has files to hand out, no folders."""
    def words(link: re.Match) -> str:
        return link[1] if (here / link[2]).is_dir() else link[0]

    return re.sub(r"\[([^\]]+)\]\(([^)\s#]+)\)", words, text)


def contents(names: list[str]) -> str:
    """The table of contents, which Sphinx wants inside of a page: the course, then all else."""
    def tree(caption: str, chosen: list[str]) -> str:
        lines = "\n".join("/" + name.rpartition(".")[0] for name in chosen)
        return f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"

    chapters = [name for name in names if name.endswith(".ipynb")]
    beside = [name for name in names if name not in chapters]
    return tree("The course", chapters) + tree("Beside it", beside)


def prepared(text: str) -> str:
    """A notebook's JSON, its first code cell folded away and its figures described."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        about = cell["metadata"]
        tags = about.get("tags", [])
        about["tags"] = [*tags, *(FOLDED[tag] for tag in tags if tag in FOLDED)]
        if "alt" in about:
            about["mystnb"] = {"image": {"alt": about["alt"]}}
    return json.dumps(notebook)


def _formula(writer: Any, node: Any) -> None:
    _write_mathml(writer, node, "inline")


def _display(writer: Any, node: Any) -> None:
    writer.body.append('<div class="math-display">')
    _write_mathml(writer, node, "block")
    writer.body.append("</div>")
    raise _skip()


def _write_mathml(writer: Any, node: Any, display: str) -> None:
    from latex2mathml.converter import convert

    writer.body.append(convert(node.astext(), display=display))
    if display == "inline":
        raise _skip()


def _skip() -> Exception:
    from docutils.nodes import SkipNode

    return SkipNode()


class _Page(HTMLParser):
    """What a page refers to, and the places in it that can be referred to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key == "id" and value:
                self.places.add(value)
            elif key in ("href", "src") and value:
                self.links.append(value)


def dead_links(folder: Path) -> list[str]:
    """References of the pages below a folder that lead nowhere, or out of it to be loaded.

    Links to other sites are not followed; what a page would have to load from one is a fault.
    """
    read = {path.relative_to(folder).as_posix(): _Page(path.read_text(encoding="utf-8"))
            for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts}
    faults = []
    for name, page in read.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path)))
            target = name if not parts.path else path
            place = unquote(parts.fragment)
            if not (folder / target).exists():
                faults.append(f"{name}: {escape(link)} leads nowhere")
            elif place and target in read and place not in read[target].places:
                faults.append(f"{name}: {escape(link)}: no such place in {target}")
    return faults
