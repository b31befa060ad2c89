"""A plugin for nbval: cells that were executed already, their numbers compared as numbers.

    pytest -p nbval_numbers --executed FOLDER [--report FILE] notebooks/*.ipynb

FOLDER holds the executed copy of every notebook, under the same name, and the run's summary.json
with the machine it was executed on. nbval collects the cells and
reports; what it would get from a kernel comes from there, and `compare` compares it. The report
says of every notebook how many cells with output it has and how many were compared.
"""

import json
from pathlib import Path

import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

from helpers.course import execute
from helpers.course.upkeep import compare, refresh


def pytest_addoption(parser):
    group = parser.getgroup("executed notebooks")
    group.addoption("--executed", metavar="FOLDER", help="where the executed copies are")
    group.addoption("--report", metavar="FILE", help="where to write what was compared")


def pytest_configure(config):
    config.stash[ROWS] = {}


ROWS = pytest.StashKey[dict]()


def pytest_collect_file(file_path, parent):
    if file_path.suffix == ".ipynb" and parent.config.option.executed:
        return ExecutedNotebook.from_parent(parent, path=file_path)


def pytest_sessionfinish(session):
    if target := session.config.option.report:
        rows = session.config.stash[ROWS]
        total = {key: sum(row[key] for row in rows.values()) for key in NOTHING}
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_text(json.dumps({"notebooks": rows, **total}, indent=2) + "\n",
                                encoding="utf-8")


NOTHING = {"cells_with_output": 0, "compared": 0, "by_shape": 0, "ignored": 0, "images_only": 0,
           "numbers": 0}


class ExecutedNotebook(IPyNbFile):
    """A notebook whose cells have been run elsewhere."""

    def setup(self):
        folder = Path(self.config.option.executed)
        done = execute.read_notebook(folder / self.path.name)
        self.done = [c for c in execute.own_cells(done) if c["cell_type"] == "code"]
        stored = self.nb.metadata.get("course", {}).get("machine")
        ran = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["notebooks"]
        self.same_machine = stored is not None and stored == ran[self.path.stem]["machine"]
        self.row = self.config.stash[ROWS].setdefault(self.path.stem, dict(NOTHING))

    def teardown(self):
        pass

    def collect(self):
        for cell in super().collect():
            yield ExecutedCell.from_parent(self, name=cell.name, cell_num=cell.cell_num,
                                           cell=cell.cell, options=cell.options)


class ExecutedCell(IPyNbCell):
    """One cell: what is stored against what its run gave."""

    def runtest(self):
        done = self.parent.done[self.cell_num]
        if "".join(done["source"]) != self.cell.source:
            self.raise_cell_error("The cell has changed since it was executed")
        stored = {**self.cell, "outputs": refresh.clean_outputs(self.cell.outputs)}
        found = compare.compare(stored, refresh.clean_outputs(done["outputs"]),
                                self.parent.same_machine)
        count(self.parent.row, stored, found)
        if found.differences:
            self.raise_cell_error("Cell outputs differ", "\n".join(found.differences))


def count(row, cell, found):
    """Enter a cell into the notebook's row of the report."""
    if not cell["outputs"]:
        return
    if found.images_only:  # what is plotted is asserted where it is computed
        row["images_only"] += 1
        return
    row["cells_with_output"] += 1
    row["numbers"] += found.numbers
    if found.rule == compare.SHAPE:
        row["by_shape"] += 1
    row["ignored" if found.rule in (compare.SHAPE, compare.TIMING) else "compared"] += 1
