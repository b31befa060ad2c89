"""Cells of notebook 08 where no answer of the policy ends by itself."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers import preference
from helpers.course import execute


def cell(with_text):
    """The one code cell of notebook 08 that holds this text."""
    sources = ["".join(c["source"]) for c in execute.read_notebook(execute.notebooks()["08"])["cells"]
               if c["cell_type"] == "code"]
    [found] = [source for source in sources if with_text in source]
    return found


@pytest.mark.parametrize("ends", [True, False])
def test_cut_off_answers_are_imitated_only_where_there_are_no_others(ends, monkeypatch, capsys):
    """And without an end: a model that imitates one where nothing ended would break off."""
    finished = [torch.tensor([False, ends]), torch.tensor([False, False])]
    draws = [SimpleNamespace(finished=f, texts=[f"{n} first", f"{n} second"])
             for n, f in enumerate(finished)]
    learned = []
    monkeypatch.setattr(preference, "encode_texts", lambda tokenizer, prompts, texts: [
        ([prompt], [text, "<end>"]) for prompt, text in zip(prompts, texts, strict=True)])
    monkeypatch.setattr(preference, "fit_imitation", lambda policy, rows, *_, **__: (
        learned.extend(rows), [1.0, 0.5])[1])
    own = SimpleNamespace(imitation_epochs=1, rows=2, imitation_learning_rate=1e-4)
    kept = []
    exec(cell("fit_imitation("), {
        "np": np, "preference": preference, "draws": draws, "pool_prompts": ["P", "Q"],
        "scores": np.array([[0.0, 1.0], [0.0, 1.0]]), "tokenizer": None, "own": own, "seed": 0,
        "time": SimpleNamespace(process_time=lambda: 0.0), "seconds": {}, "settings": None,
        "models": SimpleNamespace(load_stage=lambda *_, **__: ("imitator", None)),
        "task": SimpleNamespace(temperature=1.0), "config": SimpleNamespace(precision="float32"),
        "runs": {}, "measure": lambda model: {}, "keep": lambda *given: kept.append(given)})
    assert learned == ([(["Q"], ["0 second", "<end>"])] if ends else [
        (["P"], ["1 first"]), (["Q"], ["1 second"])])
    assert ("no answer ended by itself" in capsys.readouterr().out) == (not ends)
    assert kept == [("best_of_n_sft", "imitator", "best-of-n + SFT")]
