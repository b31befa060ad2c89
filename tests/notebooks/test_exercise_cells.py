"""The exercises as they stand in the notebooks: stubs, and solutions that their checkers take."""

import ast
import json
import re
from types import SimpleNamespace as Stub

import numpy as np
import pytest

from helpers.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
NEEDS_A_JUDGE = {"my_probe", "my_text"}  # only a trained model is fooled; see tests/exercises


def exercises_of(path):
    """Source, outputs and the solution's code of each cell that is an exercise."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for here, after in zip(cells, cells[1:], strict=False):
        if "exercise" in here["metadata"].get("tags", []):
            folded = re.search(r"<details><summary>.*?</details>", "".join(after["source"]), re.S)
            code = re.findall(r"```python\n(.*?)```", folded[0], re.S) if folded else []
            inline = re.findall(r"`(my_\w+ = [^`]+)`", folded[0]) if folded else []
            yield "".join(here["source"]), here["outputs"], "\n".join(code or inline)


EVERY = [pytest.param(path, *found, id=f"{path.name[:2]}-{found[0].split('(')[0][-30:].strip()}")
         for path in NOTEBOOKS for found in exercises_of(path)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name[:2])
def test_there_are_enough(path):
    assert len(list(exercises_of(path))) >= 3


@pytest.mark.parametrize(("path", "source", "outputs", "solution"), EVERY)
def test_an_exercise_waits_and_has_a_solution(path, source, outputs, solution):
    said = "".join("".join(output.get("text", [])) for output in outputs)
    assert said.splitlines()[-1] == "not done yet"
    assert solution


def stand_ins():
    """What the cells before an exercise leave, as far as checkers and solutions need it."""
    import math

    import torch
    from torch.nn import functional as F

    from helpers import evaluation, exercises, gridworld

    rng = np.random.default_rng(0)
    words = "a story about bread that nobody wanted to hear or to tell again".split()
    texts = [" ".join(rng.choice(words, n)) for n in rng.integers(3, 40, 60)]
    pairs = [{"prompt": str(i), "chosen": a, "rejected": b}
             for i, (a, b) in enumerate(zip(texts[::2], texts[1::2], strict=True))] * 4
    return {**vars(gridworld), "np": np, "math": math, "torch": torch, "F": F,
            "evaluation": evaluation, "exercises": exercises, "kl_after": 7.68,
            "points": {"TRL": {"kl": 7.68}},
            "model": Stub(config=Stub(vocab_size=4096)), "pairs": {"test": pairs},
            "test_prompts": ["Tell me about bread?"] * len(texts), "before": {"texts": texts}}


@pytest.mark.parametrize(("path", "source", "outputs", "solution"), EVERY)
def test_the_folded_solution_is_right(path, source, outputs, solution, capsys):
    names = {getattr(node, "name", None) or getattr(node.targets[0], "id", "")
             for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.Assign)}
    if names & NEEDS_A_JUDGE:
        pytest.skip("only a trained judge can be fooled")
    space = stand_ins()
    exec(solution, space)
    check = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)
             and getattr(node.targets[0], "id", "") == "solved"]
    exec(compile(ast.Module(check, []), str(path), "exec"), space)
    assert space["solved"] is True, capsys.readouterr().out
