"""The web book: all notebooks are in it, its links resolve, and it asks no network for anything."""

import json
import re

import pytest

from helpers.course import execute
from helpers.course.upkeep import book
from helpers.errors import UserError
from helpers.paths import ROOT

needs_libraries = pytest.mark.skipif(
    bool(book.missing()), reason=f"the extra `book` would let it run: {', '.join(book.missing())}")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book")
    return folder / "html", book.book(folder)


@needs_libraries
def test_the_book_is_built_without_a_warning_or_a_dead_link(built):
    html, status = built
    assert status == 0 and book.dead_links(html) == []


@needs_libraries
def test_every_notebook_is_in_the_table_of_contents_in_the_courses_order(built):
    front = (built[0] / "README.html").read_text(encoding="utf-8")
    contents = re.findall(r'class="toctree-l1[^>]*><a[^>]* href="([^"#]+)"', front)
    wanted = [f"notebooks/{path.stem}.html" for path in execute.notebooks().values()]
    assert [link for link in contents if link.startswith("notebooks/")] == wanted
    for page in ("GLOSSARY.html", "WHEN_IT_GOES_WRONG.html", "TEACHING.html"):
        assert page in contents


@needs_libraries
def test_stored_outputs_are_shown_and_figures_are_described(built):
    path = execute.find_notebook("07")
    page = (built[0] / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
    cells = execute.read_notebook(path)["cells"]
    figures = [cell["metadata"]["alt"] for cell in cells if "alt" in cell["metadata"]]
    assert figures and all(f'alt="{words}"' in page for words in figures)
    assert 'class="output' in page and "<math" in page and "Solution</summary>" in page


@needs_libraries
def test_no_page_loads_anything_from_elsewhere(built):
    for path in built[0].rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="https?://[^"]+"', text), path


def test_the_pages_are_taken_from_the_folder_of_notebooks(tmp_path, monkeypatch):
    for name in ("notebooks/09_later.ipynb", "notebooks/02_first.ipynb", "README.md",
                 "GLOSSARY.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    monkeypatch.setenv("RLHF_NOTEBOOKS", str(tmp_path / "notebooks"))
    assert book.pages(tmp_path) == [
        "README.md", "notebooks/02_first.ipynb", "notebooks/09_later.ipynb", "GLOSSARY.md"]


def test_dead_links_are_found_and_live_ones_are_not(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="#here">1</a><a href="#gone">2</a><a href="b.html#there">3</a>'
        '<a href="b.html#nowhere">4</a><img src="no.png"><a href="https://x.org/y">5</a>')
    (tmp_path / "b.html").write_text('<p id="there">')
    assert [fault.partition(": ")[2] for fault in book.dead_links(tmp_path)] == [
        "#gone: no such place in a.html", "b.html#nowhere: no such place in b.html",
        "no.png leads nowhere"]


def test_a_link_to_a_folder_becomes_words_and_one_to_a_file_stays():
    text = "[launch/](launch) and [pins](requirements.txt), [gone](no/such)"
    assert book.without_folders(text, ROOT) == text.replace("[launch/](launch)", "launch/")


def test_the_cell_that_finds_the_course_is_folded_and_no_output_is_touched():
    path = execute.find_notebook("01")
    text = path.read_text(encoding="utf-8")
    before, after = (json.loads(t)["cells"] for t in (text, book.prepared(text)))
    assert [c.get("outputs") for c in before] == [c.get("outputs") for c in after]
    [opening] = [c for c in after if "opening" in c["metadata"].get("tags", [])]
    assert "hide-input" in opening["metadata"]["tags"]


def test_without_its_libraries_the_command_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(book, "LIBRARIES", {"no_such_module": "no-such-package"})
    with pytest.raises(UserError, match=r"needs no-such-package; `pip install -e .\[book\]`"):
        book.book(tmp_path)
