"""Small faults, sown one by one in a copy of the course: do the tests of the helper find each?

    python -m tests.faults [--only NAME …] [--list]

Each fault replaces one piece of text of one file, a sign or an index as a tired hand would. Then
the test files named beside it run (`pytest -x -q -m "not slow"`) in the copy; the fault is caught
when a test fails. Before that all of these files run once without a fault, and must pass. What was
found is kept, with date, commit and machine, in `benchmarks/results/faults.json`, where `--only`
replaces the rows that it looked for. To be run for a release.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("helpers", "tests", "benchmarks", "pyproject.toml", "requirements.txt")
LINKED = ("data", "notebooks", "README.md", "Makefile", "CONTRIBUTING.md", "environment.yml")
LONGEST = 900  # seconds that the tests of one fault may take


class Sown(Protocol):
    """What every fault has, whoever is asked to find it; `file` is below `helpers/`."""

    @property
    def name(self) -> str: ...
    @property
    def file(self) -> str: ...
    @property
    def old(self) -> str: ...
    @property
    def new(self) -> str: ...


class Fault(NamedTuple):
    """A replacement in a file below `helpers/`, and the test files, below `tests/`, to find it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


PPO, TRAINER = ("test_ppo.py",), ("test_ppo_trainer.py",)
REWARD, EVALUATION = ("reward/test_reward.py",), ("test_evaluation.py",)
FAULTS = (
    Fault("the advantage has the other sign", "ppo.py",
          "torch.maximum(-advantages * ratio, -advantages * clipped)",
          "torch.maximum(advantages * ratio, advantages * clipped)", PPO),
    Fault("the ratio is clipped above only", "ppo.py",
          "ratio.clamp(1 - clip_range, 1 + clip_range)", "ratio.clamp(max=1 + clip_range)", PPO),
    Fault("KL is paid at padding too", "ppo.py",
          "    rewards = torch.where(mask.bool(), rewards, rewards.new_zeros(()))\n    last",
          "    last", PPO),
    Fault("the score stands one token early", "ppo.py",
          "last = mask.sum(1, keepdim=True).long() - 1",
          "last = (mask.sum(1, keepdim=True).long() - 2).clamp(min=0)", PPO),
    Fault("GAE takes the value of the next episode", "ppo.py",
          "mask[:, t] if dones is None else mask[:, t] * (1 - dones[:, t])", "mask[:, t]", PPO),
    Fault("GAE discounts by gamma alone", "ppo.py",
          "delta + gamma * lam * advantage", "delta + gamma * advantage", PPO),
    Fault("value clipping takes the smaller error", "ppo.py",
          "torch.maximum((values - returns) ** 2", "torch.minimum((values - returns) ** 2", PPO),
    Fault("the temperature is forgotten in all log-probabilities", "ppo.py",
          "(logits if temperature == 1 else logits / temperature).log_softmax(-1)",
          "logits.log_softmax(-1)", PPO),
    Fault("the temperature is forgotten in the chosen log-probabilities", "ppo.py",
          "logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature",
          "logits.to(torch.promote_types(logits.dtype, torch.float32))", PPO),
    Fault("k3 is that of the other direction", "ppo.py",
          "torch.expm1(-difference) + difference", "torch.expm1(difference) - difference", PPO),
    Fault("the KL controller steers away from its target", "ppo.py",
          "kl / self.target - 1, -0.2", "1 - kl / self.target, -0.2", PPO),
    Fault("whole responses are punished for a missing end", "ppo.py",
          "(~finished.bool())", "(finished.bool())", PPO),
    Fault("whitening counts padding", "ppo.py",
          "variance = masked_sum((values - mean) ** 2, mask)",
          "variance = ((values - mean) ** 2).sum()", PPO),
    Fault("adapters stay on in the reference", "ppo_trainer.py",
          "return self.policy.disable_adapter()", "return contextlib.nullcontext()", TRAINER),
    Fault("log-probabilities are read one position late", "ppo_trainer.py",
          "batch.starts[index][row] + column - 1", "batch.starts[index][row] + column", TRAINER),
    Fault("the reference is read at temperature 1", "ppo_trainer.py",
          "theirs = chosen_logprobs(reference, tokens, t)",
          "theirs = chosen_logprobs(reference, tokens)", TRAINER),
    Fault("the loss is a mean of micro-batches' means", "ppo_trainer.py",
          "share = len(logprobs) / total", "share = 1 / len(parts)", TRAINER),
    Fault("the penalty for a missing end is forgotten in training", "ppo_trainer.py",
          "c.missing_eos_penalty", "0.0", TRAINER),
    Fault("the gradient of a log-probability forgets the temperature", "engine/token_logprobs.py",
          "(gradient / ctx.temperature)[:, None]", "gradient[:, None]",
          ("engine/test_token_logprobs.py",)),
    Fault("positions count padding in sampling", "generation.py",
          "position_ids(mask).to(device)",
          "torch.arange(ids.shape[1]).expand(len(ids), -1).to(device)", ("test_generation.py",)),
    Fault("the end-of-text token is not scored", "generation.py",
          "lengths[where] = step + 1",
          "lengths[where] = max(1, step) + (tokens != tokenizer.eos_token_id).long().cpu()",
          ("test_generation.py",)),
    Fault("sampling reports log-probabilities at temperature 1", "generation.py",
          "return tokens, logprobs.gather(1, tokens[:, None]).squeeze(1)",
          "return tokens, logits.log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)",
          ("test_generation.py",)),
    Fault("the prompt's labels are not masked", "sft.py",
          "[IGNORED] * len(question) + answer", "question + answer", ("test_sft.py",)),
    Fault("the loss reads the token itself", "sft.py",
          "model(input_ids=ids).logits[:, :-1]", "model(input_ids=ids).logits[:, 1:]",
          ("test_sft.py",)),
    Fault("the held-out loss is a mean of rows' means", "sft.py",
          "float(nats.sum() / tokens.sum())", "float((nats / tokens).mean())", ("test_sft.py",)),
    Fault("pooling takes the token before the last", "reward/model.py",
          "return (attention_mask * positions).argmax(dim=1)",
          "return ((attention_mask * positions).argmax(dim=1) - 1).clamp(min=0)", REWARD),
    Fault("chosen and rejected are swapped in the loss", "reward/model.py",
          "F.logsigmoid(chosen - rejected - margin)", "F.logsigmoid(rejected - chosen - margin)",
          REWARD),
    Fault("a margin asks for less", "reward/model.py",
          "F.logsigmoid(chosen - rejected - margin)", "F.logsigmoid(chosen - rejected + margin)",
          REWARD),
    Fault("the rejected response sees the chosen one", "reward/model.py",
          "(read == 0) | (read == reader)", "(read == 0) | (read <= reader)", REWARD),
    Fault("the rejected response is counted on from the chosen one", "reward/pairs.py",
          "[*range(chosen), *range(prompt, rejected)]", "[*range(chosen + rejected - prompt)]",
          REWARD),
    Fault("the expected accuracy is that of the other side", "reward/measures.py",
          "right * p + (1 - right) * (1 - p)", "right * (1 - p) + (1 - right) * p", REWARD),
    Fault("calibration weighs all bins alike", "reward/measures.py",
          'gaps = sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in rows)',
          'rows = [row | {"count": 1} for row in rows]\n'
          '    gaps = sum(abs(row["confidence"] - row["accuracy"]) for row in rows)', REWARD),
    Fault("a judge sees comparisons in one order only", "reward/ties.py",
          "probabilities = (probabilities + other[:, [1, 0, 2]]) / 2", "del other",
          ("reward/test_ties.py",)),
    Fault("swapped comparisons keep their winner", "reward/ties.py",
          'other = {"a": "b", "b": "a"}', 'other = {"a": "a", "b": "b"}',
          ("reward/test_ties.py",)),
    Fault("an annotator's taste for the first answer is counted", "world/annotators.py",
          "(gap - rater.position)", "(gap + rater.position)",
          ("world/test_judge_dialogues.py", "world/test_write_dialogues.py")),
    Fault("an interval leaves out twice what it should", "evaluation.py",
          "tail = (1 - level) / 2", "tail = 1 - level", EVALUATION),
    Fault("an interval draws every prompt twice", "evaluation.py",
          "(min(250, resamples - start), len(sample))",
          "(min(250, resamples - start), 2 * len(sample))", EVALUATION),
    Fault("an interval resamples columns and not prompts", "evaluation.py",
          "draws.append(_apply(statistic, sample[rows]))",
          "draws.append(_apply(statistic, rng.permuted(sample[rows], axis=1)))", EVALUATION),
    Fault("bits per byte are a mean over texts", "evaluation.py",
          "return total[..., 0] / total[..., 1]",
          "return total[..., 0] * 0 + np.mean(rows[..., 0] / rows[..., 1], axis=axis)", EVALUATION),
    Fault("a tie counts as a loss", "evaluation.py",
          "0.5, (a > b).astype(float))\n    return bootstrap_interval(wins",
          "0.0, (a > b).astype(float))\n    return bootstrap_interval(wins", EVALUATION),
    Fault("KL is summed over padding", "evaluation.py",
          "per_token.masked_fill(~mask.bool(), 0.0).sum(-1)", "per_token.sum(-1)", EVALUATION),
    Fault("a response's log-probabilities are read one position late", "evaluation.py",
          ".logits[:, width - start - 1 : -1]", ".logits[:, width - start :]", EVALUATION),
    Fault("best-of-n's KL is too large", "evaluation.py",
          "math.log(n) - (n - 1) / n", "math.log(n) - 1 / n", EVALUATION),
    Fault("a prompt lies on both sides of a split", "data.py",
          'row.get("prompt") or row["text"]', "str(sorted(row.items()))", ("test_data.py",)),
    Fault("prompts that are measured on are trained on", "data.py",
          'sorted(set(of("train")) - set(test))', 'sorted(set(of("train")))', ("test_data.py",)),
    Fault("the answer that was not preferred is taken", "feedback.py",
          'if row["preference"] == "b":', 'if row["preference"] == "a":', ("test_feedback.py",)),
    Fault("the sides of a comparison are never swapped", "widgets.py",
          "pair[::-1] if swap else pair", "pair", ("test_widgets.py",)),
    Fault("another tokenizer does not change a stage", "engine/artifacts.py",
          '"adapter_config.json", "tokenizer.json",', '"adapter_config.json",',
          ("course/test_stages.py",)),
    Fault("a nan passes for a number", "profiles.py",
          "not isinstance(value, Real) or value != value", "not isinstance(value, Real)",
          ("test_profiles.py",)),
)


def sown(fault: Sown, root: Path = ROOT) -> str:
    """The text of the fault's file with the fault in it; its old text must stand there once."""
    text = (root / "helpers" / fault.file).read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        raise ValueError(f"{fault.name}: {fault.old!r} stands {text.count(fault.old)} times in "
                         f"helpers/{fault.file}; it must stand there once.")
    return text.replace(fault.old, fault.new)


@contextlib.contextmanager
def sowing(fault: Sown, folder: Path) -> Iterator[None]:
    """The fault is in the copy as long as this lasts."""
    path = folder / "helpers" / fault.file
    good = path.read_text(encoding="utf-8")
    path.write_text(sown(fault, folder), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(good, encoding="utf-8")


def copy(
    folder: Path, copied: Sequence[str] = COPIED, linked: Sequence[str] = LINKED
) -> None:
    """A copy of the course that may be changed; what is only read is linked."""
    for name in copied:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name,
                            ignore=shutil.ignore_patterns("__pycache__", "artefacts"))
        else:
            shutil.copy2(ROOT / name, folder / name)
    for name in linked:
        (folder / name).symlink_to(ROOT / name)


def run(tests: tuple[str, ...], folder: Path) -> tuple[int, str]:
    """pytest's exit status on test files in the copy, and what it printed; -1: it took too long."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p",
               "no:cacheprovider", *(f"tests/{name}" for name in tests)]
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True,
                              timeout=LONGEST, errors="replace")
    except subprocess.TimeoutExpired:
        return -1, ""
    return done.returncode, done.stdout


def look_for(fault: Fault, folder: Path) -> dict[str, Any]:
    """Sow a fault in the copy, run its tests, and take it out again."""
    begun = time.monotonic()
    with sowing(fault, folder):
        status, said = run(fault.tests, folder)
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    if status not in (0, 1, -1):
        raise RuntimeError(f"{fault.name}: pytest ended with {status}:\n{said[-2000:]}")
    return {"fault": fault.name, "file": f"helpers/{fault.file}", "tests": list(fault.tests),
            "caught": status != 0, "by": "the time limit" if status < 0 else
            found[1] if found else None, "seconds": round(time.monotonic() - begun)}


def keep(name: str, faults: Sequence[Sown], rows: Sequence[dict[str, Any]]) -> Path:
    """Store rows in `benchmarks/results/`, in the order of `faults`; those of others there stay."""
    from benchmarks.shared import store

    known = {row["fault"]: row for row in (store.load(name) or {"rows": []})["rows"]}
    known |= {row["fault"]: row for row in rows}
    kept = [known[fault.name] for fault in faults if fault.name in known]
    return store.save(name, kept, caught=sum(row["caught"] for row in kept))


def main(arguments: list[str]) -> int:
    """Sow all faults, or some; 0 when every one was caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="a part of the names of some")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    given = parser.parse_args(arguments)
    chosen = [f for f in FAULTS if not given.only or any(n in f.name for n in given.only)]
    if given.list:
        print("\n".join(f"{f.file:28} {f.name}" for f in chosen))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy(folder)
        files = tuple(sorted({test for fault in chosen for test in fault.tests}))
        status, said = run(files, folder)
        if status:
            print(f"Without any fault the tests do not pass:\n{said[-3000:]}", file=sys.stderr)
            return 1
        rows = []
        for fault in chosen:
            rows.append(look_for(fault, folder))
            print(f"{'caught' if rows[-1]['caught'] else 'MISSED'}  {rows[-1]['seconds']:4} s  "
                  f"{fault.name}  ({rows[-1]['by']})", flush=True)
    caught = sum(row["caught"] for row in rows)
    print(f"{caught} of {len(rows)} faults were caught.")
    print(f"Stored in {keep('faults', FAULTS, rows).relative_to(ROOT)}.")
    return 0 if caught == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
