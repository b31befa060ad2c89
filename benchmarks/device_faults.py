"""Faults that a GPU would show and a CPU does not, sown one by one: does the rehearsal find them?

    python benchmarks/device_faults.py [--only NAME …]

Each fault is a replacement of one piece of text in a copy of `helpers/`, under which the tests of
`tests/test_rehearsal.py` run in a process of their own (a fork: not on Windows). It is found if one
of them fails. Two controls: nothing replaced, where all must pass on the pretended device; and each
fault with the CPU in the device's place, where the test that found it must pass, since otherwise it
is no fault of devices.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.shared import store
from helpers.paths import ROOT

FILE = "tests/test_rehearsal.py"
# What takes long to import and is no part of the course is imported once, before the forks.
LIBRARIES = ("datasets", "peft", "pytest", "transformers", "trl.experimental.ppo")
# Of the tests, those that say what the device does hold no line of `helpers/` to account.
COURSE = ("not takes and not pytorchs_own and not refused and not fixture_alone "
          "and not gone_after")


class Fault(NamedTuple):
    """A name, a file below `helpers/`, what stands there once, what takes its place, and the tests
    that are tried first (an expression of pytest's `-k`); if these pass, all are."""

    name: str
    file: str
    old: str
    new: str
    near: str


FAULTS = (
    Fault("a mask left on the CPU", "generation.py",
          "full = torch.cat([mask, torch.ones(len(rows), steps, dtype=torch.long)], 1).to(device)",
          "full = torch.cat([mask, torch.ones(len(rows), steps, dtype=torch.long)], 1)",
          "sampling"),
    Fault("a generator of the CPU", "generation.py",
          "noise = noise.to(device)",
          "noise = torch.rand(noise.shape, device=device, generator=torch.Generator())",
          "sampling"),
    Fault("numpy() without cpu()", "engine/class_logits.py",
          ".logits.float().cpu().numpy()", ".logits.float().numpy()", "with_the_course"),
    Fault("labels not moved", "sft.py",
          "ids.to(where), labels[:, 1:].to(where)", "ids.to(where), labels[:, 1:]",
          "fine_tuning"),
    Fault("a model that trains on the CPU", "sft.py",
          'use_cpu=next(model.parameters()).device.type == "cpu"', "use_cpu=True", "fine_tuning"),
    Fault("a stage loaded and not moved", "models.py",
          "return model.to(device(settings))", "return model", "sampling"),
    Fault("row 6: a head made on the CPU", "models.py",
          'return _to_train(_placed(model, settings), settings, "SEQ_CLS")',
          "model = _placed(model, settings)\n"
          "    model.score = nn.Linear(model.score.in_features, 1, bias=False)\n"
          '    return _to_train(model, settings, "SEQ_CLS")', "reward_model"),
    Fault("row 6: samples of the CPU meet the policy", "ppo_loop.py",
          "config.max_new_tokens, t, seed).to(policy.device)", "config.max_new_tokens, t, seed)",
          "plain_loop"),
    Fault("row 6: rewards made on the CPU", "ppo_loop.py",
          "dtype=torch.float32, device=policy.device)", "dtype=torch.float32)", "plain_loop"),
    Fault("row 6: bfloat16 states meet the value head in float32", "ppo_loop.py",
          "[:, columns].to(value_head.weight.dtype)", "[:, columns]", "plain_loop"),
    Fault("bfloat16 states meet the reward head in float32", "reward/model.py",
          "head(values.to(head.weight.dtype))", "head(values)", "reward_model and qwen2"),
    Fault("positions made on the CPU", "reward/model.py",
          "torch.arange(attention_mask.shape[1], device=attention_mask.device)",
          "torch.arange(attention_mask.shape[1])", "reward_model"),
    Fault("a batch that is not moved", "reward/model.py",
          "pair_rewards(model, moved(batch, device))", "pair_rewards(model, batch)",
          "reward_model"),
    Fault("numbers of the device beside a mask of the CPU", "evaluation.py",
          "ids[:, 1:, None].to(device)).squeeze(-1).cpu()",
          "ids[:, 1:, None].to(device)).squeeze(-1)", "evaluation"),
    Fault("numbers of the device written into a tensor of the CPU", "ppo_trainer.py",
          "column.detach().float().cpu()", "column.detach().float()", "our_ppo"),
    Fault("a gradient made on the CPU", "engine/token_logprobs.py",
          "out = torch.empty_like(logits)", "out = torch.empty(logits.shape)", "our_ppo"),
    Fault("an optimiser's state made on the CPU", "engine/muon.py",
          "torch.zeros_like(p)", "torch.zeros(p.shape)", "random_weights"),
    Fault("scores of the CPU handed to TRL", "trl_adapter.py",
          "torch.as_tensor(scores, device=input_ids.device)", "torch.as_tensor(scores)",
          "trls_ppo"),
)


def replaced(fault: Fault, root: Path = ROOT) -> str:
    """The file's text with the fault in it.

    Raises:
        ValueError: what is to be replaced does not stand there exactly once.
    """
    text = (root / "helpers" / fault.file).read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        raise ValueError(f"{fault.name}: helpers/{fault.file} holds {fault.old!r} "
                         f"{text.count(fault.old)} times; it must be there once.")
    return text.replace(fault.old, fault.new)


def rehearse(fault: Fault | None, on: str, *which: str) -> dict:
    """Run the tests over a copy of the course with the fault in it, up to the first failure.

    `on` is "gpu", the pretended one, or "cpu"; `which` tells pytest the tests to run, if not all.
    Returns `failed`, the first test that did or None, and `error`, what it said.

    Raises:
        RuntimeError: the tests could not be run.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("helpers", "tests"):
            shutil.copytree(ROOT / name, copy / name,
                            ignore=shutil.ignore_patterns("__pycache__", "artefacts"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        (copy / "data").symlink_to(ROOT / "data")
        if fault:
            (copy / "helpers" / fault.file).write_text(replaced(fault), encoding="utf-8")
        result = copy / "result.txt"
        process = multiprocessing.get_context("fork").Process(
            target=_run_tests, args=(copy, on, which or ("-k", COURSE, FILE), result))
        process.start()
        process.join()
        said = result.read_text(encoding="utf-8")
    if process.exitcode not in (0, 1):
        raise RuntimeError(said[-2000:])
    failed = re.search(r"^FAILED tests/test_rehearsal\.py::(\S+)", said, re.M)
    error = re.search(r"^(?:E +|/\S+:\d+: )(.*)$", said, re.M)
    return {"failed": failed[1] if failed else None,
            "error": error[1][:160] if failed and error else None}


def _run_tests(folder: Path, on: str, which: Sequence[str], result: Path) -> None:
    """In a process of its own: the tests in `folder` over the helpers that stand there."""
    import pytest

    os.chdir(folder)
    with result.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        os.environ |= {"PYTHONPATH": str(folder), "REHEARSE_ON": on}
        for name in [n for n in sys.modules if n.partition(".")[0] in ("helpers", "benchmarks")]:
            del sys.modules[name]
        sys.path[0] = str(folder)
        code = pytest.main([*which, "-x", "-q", "--tb=line", "-p", "no:cacheprovider"])
        import helpers

        if Path(helpers.__file__).resolve().parent != (folder / "helpers").resolve():
            code = 3  # no fault was there to be found
        sys.stdout.flush()
    os._exit(code)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", metavar="NAME", help="names of faults; stores nothing")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for name in LIBRARIES:
        importlib.import_module(name)
    chosen = [f for f in FAULTS if not arguments.only or f.name in arguments.only]
    whole = rehearse(None, "gpu")
    if whole["failed"]:
        raise SystemExit(f"without a fault {whole['failed']} fails: {whole['error']}")
    print("no fault: all pass", flush=True)
    rows = []
    for fault in chosen:
        there = rehearse(fault, "gpu", "-k", f"({fault.near}) and {COURSE}", FILE)
        if there["failed"] is None:
            there = rehearse(fault, "gpu")
        found_by = [f"{FILE}::{there['failed']}"] if there["failed"] else []
        here = rehearse(fault, "cpu", *found_by)
        rows.append({"fault": fault.name, "file": fault.file, "found": there["failed"] is not None,
                     "by": there["failed"], "error": there["error"],
                     "passes_on_cpu": here["failed"] is None})
        print(f"{fault.name:<60}", there["failed"] or "NOT FOUND", "|",
              "" if rows[-1]["passes_on_cpu"] else f"ON THE CPU {here['failed']} {here['error']}",
              there["error"], flush=True)
    found = sum(row["found"] for row in rows)
    print(f"{found} of {len(rows)} found")
    if not arguments.only:
        print("stored:", store.save("device_faults", rows, found=found, faults=len(rows)).name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
