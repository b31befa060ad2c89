"""The notebooks that train and measure models, on a pretended GPU: their cells move tensors too.

Rows, steps and lengths are cut as in `make hub`; each notebook takes the stages of those before it.
"""

import matplotlib
import pytest
import yaml
from rehearsal import pretended_gpu  # noqa: F401

from helpers.course import execute
from helpers.paths import ROOT

CUTS = yaml.safe_load((ROOT / "tests/hub/overrides.yaml").read_text(encoding="utf-8"))
TENSORS = [number for number in sorted(execute.notebooks()) if number != "01"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("made")


@pytest.mark.slow
@pytest.mark.parametrize("number", TENSORS)
def test_every_cell_of_a_notebook_runs_on_the_device(gpu, out, number):
    matplotlib.use("agg")
    path = execute.notebooks()[number]
    names = {"__name__": "__main__", "display": lambda *_: None}
    for place, cell in enumerate(execute.read_notebook(path)["cells"]):
        if cell["cell_type"] != "code":
            continue
        exec(compile("".join(cell["source"]), f"{path.stem}, cell {place}", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", []):
            names["overrides"] = CUTS | {"device": "auto", "out": str(out)}
    assert names["settings"].device == "auto"
