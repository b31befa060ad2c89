"""The notebooks that train and measure models, on a pretended GPU: their cells move tensors too.

Rows, steps and lengths are cut as in `make hub`, and the base is a model of random weights that is
as small as can be. What a notebook makes, the next one takes. 02 is left out: of its cells one
makes a tensor, and the models that it compares are read for minutes there.
"""

import functools
import gc

import matplotlib.pyplot as plt
import pytest
import torch
import yaml
from rehearsal import pretended_gpu  # noqa: F401
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from helpers import control, models
from helpers.control import ControlConfig
from helpers.course import execute
from helpers.models import EMBEDDED
from helpers.paths import ROOT

CUTS = yaml.safe_load((ROOT / "tests/hub/overrides.yaml").read_text(encoding="utf-8"))
NUMBERS = ["03", "04", "05", "06", "07", "08", "09", "10"]


def tiny_base(folder):
    """A language model of random weights, with the tokenizer of the course's."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(EMBEDDED / "base", n_embd=32, n_layer=1, n_head=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(EMBEDDED / "base").save_pretrained(folder)
    return str(folder)


def trainable_policies():
    """How many language models are in memory that could be trained on."""
    gc.collect()
    return sum(
        issubclass(type(found), PreTrainedModel) and found.get_output_embeddings() is not None
        and any(p.requires_grad for p in found.parameters()) for found in gc.get_objects())


@pytest.mark.slow
def test_every_cell_of_the_notebooks_runs_on_the_device(gpu, tmp_path, monkeypatch):
    brief = functools.partial(ControlConfig.for_environment, total_steps=10_000)
    monkeypatch.setattr(ControlConfig, "for_environment", brief)  # that stays on the CPU
    monkeypatch.setattr(
        control, "evaluate_control", functools.partial(control.evaluate_control, episodes=2))
    # Trainers lock batches in memory for a driver to copy from; the pretended one has no driver.
    monkeypatch.setattr(torch.utils.data._utils.pin_memory, "pin_memory", lambda batch, *_: batch)
    changes = CUTS | {"device": "auto", "threads": 1, "out": str(tmp_path / "out"),
                      "data.demonstrations": "preferences",
                      "models.base": tiny_base(tmp_path / "base")}
    load_stage, alive = models.load_stage, {}

    def loaded(settings, stage, *, trains=False):
        if trains:
            alive.setdefault(number, []).append(trainable_policies())
        return load_stage(settings, stage, trains=trains)

    monkeypatch.setattr(models, "load_stage", loaded)
    for number in NUMBERS:
        path = execute.notebooks()[number]
        names = {"__name__": "__main__", "display": lambda *_: None}
        for place, cell in enumerate(execute.read_notebook(path)["cells"]):
            if cell["cell_type"] != "code":
                continue
            exec(compile("".join(cell["source"]), f"{path.stem}, cell {place}", "exec"), names)
            if "parameters" in cell["metadata"].get("tags", []):
                names["overrides"] = changes
        assert names["settings"].device == "auto"
        plt.close("all")
    assert alive["08"] == [0] * 7  # each of its trainings has the memory to itself, as is planned
