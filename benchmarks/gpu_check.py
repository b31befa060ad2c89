"""The trainers on a GPU at full size: GPT-2 from its configuration, real text, one command.

    python -m benchmarks.gpu_check [PART …] [--data FOLDER] [--minutes 8]

Nothing is fetched. A GPT-2 of 124 M parameters is made with random weights, and each part trains it
in a process of its own: `sft`; the reward model `full`, with `lora` and in `nf4`; `ppo` and `trl`,
that is our trainer of PPO and TRL's; `notebooks` 04 and 05 by papermill under the profile `gpt2`.
A row says what was learned, the peak of the device's memory beside the memory plan's, tokens per
second, and the share of the rate at which the same chip multiplies large matrices. FOLDER (or
`RLHF_REAL_DATA`) holds imdb/, hh-rlhf/harmless-base/ and tokenizers/gpt2; without it the embedded
world's rows are taken. A part that fails, lacks a package or would begin after `--minutes` is a row
that says so. Rows go to `results/gpu_check.json` with the device's name; exit status 1 if a part
failed, 2 where there is no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.shared import store
from helpers import data, models, ppo_trainer, reward, sft, trl_adapter
from helpers.course import plan
from helpers.engine import place
from helpers.errors import UserError
from helpers.paths import ROOT, child_environment
from helpers.profiles import Settings, load_profile

LORA = {"models.lora": True, "models.lora_r": 16, "models.lora_alpha": 32}
WAYS: dict[str, dict[str, Any]] = {"full": {}, "lora": LORA,
                                   "nf4": LORA | {"models.quantise": "nf4"}}
NEEDS = {"nf4": ("bitsandbytes", "peft"), "lora": ("peft",), "trl": ("trl",), "sft": ("trl",),
         "notebooks": ("papermill", "trl", "ipywidgets", "matplotlib")}
FULL = {"rows": 256, "updates": 6, "episodes": 64, "new_tokens": 32}
TINY = {"rows": 16, "updates": 2, "episodes": 8, "new_tokens": 8}  # for tests, on a CPU


class Check:
    """Where model and rows are, and how much of everything."""

    def __init__(self, work: Path, rows: Path | None, tiny: bool) -> None:
        self.work, self.rows, self.tiny = work, rows, tiny
        self.sizes = TINY if tiny else FULL

    def settings(self, **more: Any) -> Settings:
        """The profile `gpt2` with this model and these rows; `__` stands for a dot."""
        said: dict[str, Any] = {
            "models.base": str(self.work / "base"), "models.imdb_policy": "base",
            "models.classifier": "embedded", "data.reviews": "embedded",
            "data.preferences": "embedded", "data.demonstrations": "preferences",
            "data.pair_limit": None, "data.review_limit": None,
            "out": str(self.work / "out"), "sft.epochs": 2, "reward.epochs": 2,
            "reward.learning_rate": 5e-5, "sft.learning_rate": 1e-4}
        if self.rows is not None:
            said |= {"data.reviews": str(self.rows / "imdb"),
                     "data.preferences": str(self.rows / "hh-rlhf" / "harmless-base")}
        if self.tiny:
            said |= {"sft.max_length": 64, "reward.max_length": 64, "device": "cpu", "threads": 1}
        return load_profile("gpt2", said | {k.replace("__", "."): v for k, v in more.items()})

    def pairs(self, settings: Settings) -> list[Any]:
        """Pairs that the training length holds whole."""
        tokenizer = models.load_tokenizer(settings.models.base)
        found = data.load_pairs(settings, "train", 8 * self.sizes["rows"])
        whole = [found[row["row"]] for row in reward.encode_pairs(
            tokenizer, found, settings.reward.max_length) if not row["cut"]]
        return whole[:self.sizes["rows"]]


def make_base(check: Check) -> None:
    """GPT-2 of 124 M parameters (tiny: of a few thousand) with random weights, and a tokenizer."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

    own = check.rows and check.rows / "tokenizers" / "gpt2"
    if own and own.is_dir():
        tokenizer: Any = GPT2Tokenizer.from_pretrained(str(own))
    else:
        zoo = models.EMBEDDED / "zoo"
        tokenizer = AutoTokenizer.from_pretrained(zoo / next(iter(models.zoo())))
    size = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256} if check.tiny else {}
    words = max(len(tokenizer), 0 if check.tiny else 50257)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=words, bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id, **size))
    model.save_pretrained(check.work / "base")
    tokenizer.save_pretrained(check.work / "base")


# --- parts: each returns what it measured besides time and memory ---------------------------


def fine_tuning(check: Check, settings: Settings) -> dict[str, Any]:
    """SFT on the chosen answers; the loss on its own rows must fall."""
    pairs = check.pairs(settings)
    rows = [{"prompt": pair["prompt"], "response": pair["chosen"]} for pair in pairs]
    model, tokenizer = models.load_base(settings, trains=True)
    rows = sft.short_rows(tokenizer, rows, settings.sft.max_length)
    before = sft.response_loss(model, tokenizer, rows)
    tokens = settings.sft.epochs * sum(
        len(sft.encode_example(tokenizer, row["prompt"], row["response"])[0]) for row in rows)
    seconds = _timed(lambda: sft.train_sft(model, tokenizer, rows, settings))
    after = sft.response_loss(model, tokenizer, rows)
    return _trained(model, tokens, seconds, settings) | {
        "before": before, "after": after, "learned": after < before - 0.5}


def reward_model(check: Check, settings: Settings) -> dict[str, Any]:
    """A reward model on pairs; it must tell its own pairs apart better than a coin."""
    pairs = check.pairs(settings)
    tokenizer = models.load_tokenizer(settings.models.base)
    model = models.new_reward_model(settings.models.base, tokenizer, settings)
    config = reward.RewardConfig.from_settings(settings, evaluations=0, patience=None)
    tokens = settings.reward.epochs * sum(
        len(row["chosen_ids"]) + len(row["rejected_ids"])
        for row in reward.encode_pairs(tokenizer, pairs, settings.reward.max_length))
    seconds = _timed(lambda: reward.train_reward_model(
        model, tokenizer, pairs, pairs[:8], check.work / "reward", config))
    scores = reward.score_pairs(model, tokenizer, pairs)
    right = float(np.mean(scores[0] > scores[1]))
    return _trained(model, tokens, seconds, settings) | {
        "before": 0.5, "after": right, "learned": right > 0.5 + 1.96 * 0.5 / len(pairs) ** 0.5}


def policy(check: Check, settings: Settings) -> dict[str, Any]:
    """Our PPO against a reward that every policy can learn: the share of one frequent letter."""
    model, tokenizer = models.load_base(settings, trains=True)
    config = ppo_trainer.PPOConfig.from_settings(
        settings, normalise_reward=False, updates=check.sizes["updates"])
    reference = None if settings.models.lora else models.load_base(settings)[0]
    trainer = ppo_trainer.PPO(model, reference, letters, tokenizer, config)
    history: list[dict[str, float]] = []
    seconds = _timed(lambda: history.extend(trainer.train(_prompts(check, settings))))
    tokens = sum(row["response_length"] for row in history) * check.sizes["episodes"]
    return _trained(model, int(tokens * (1 + settings.ppo.epochs)), seconds, settings) | {
        "first_kl": history[0]["kl"], "before": history[0]["reward"],
        "after": history[-1]["reward"],
        "learned": history[-1]["reward"] > history[0]["reward"] and abs(history[0]["kl"]) < 0.05}


def policy_with_trl(check: Check, settings: Settings) -> dict[str, Any]:
    """TRL's PPO on the same."""
    from datasets import Dataset

    model, tokenizer = models.load_imdb_policy(settings, trains=True)
    reference = models.load_imdb_policy(settings)[0]
    prompts, width = _prompts(check, settings), settings.ppo_trl.prompt_tokens_max
    trl_adapter.ready_for_trl(model, tokenizer)
    with trl_adapter.quiet():
        from trl.experimental.ppo import PPOTrainer

        trainer = PPOTrainer(
            args=trl_adapter.trl_config(settings, str(check.work / "trl")),
            processing_class=tokenizer, model=model, ref_model=reference,
            reward_model=trl_adapter.TextReward(letters, tokenizer, width),
            value_model=trl_adapter.new_value_model(reference, tokenizer.pad_token_id),
            train_dataset=Dataset.from_list(trl_adapter.pad_prompts(prompts, tokenizer, width)))
    history: list[dict[str, float]] = []
    seconds = _timed(lambda: history.extend(trl_adapter.train_quietly(trainer)))
    scores = [row["objective/scores"] for row in history if "objective/scores" in row]
    tokens = settings.ppo_trl.total_episodes * settings.ppo_trl.max_new_tokens
    return _trained(model, tokens * (1 + settings.ppo_trl.epochs), seconds, settings) | {
        "before": scores[0], "after": scores[-1], "learned": scores[-1] > scores[0]}


def notebooks(check: Check, settings: Settings) -> dict[str, Any]:
    """04 and 05 from the top under `gpt2`, cut as `make hub` cuts them."""
    import yaml

    cuts = yaml.safe_load((ROOT / "tests" / "hub" / "overrides.yaml").read_text(encoding="utf-8"))
    given = {**cuts, **{key: value for key, value in settings.overrides.items()
                                          if key.startswith(("models.", "data.", "out", "device"))}}
    options = [part for key, value in given.items() if value is not None
               for part in ("--set", f"{key}={json.dumps(value)}")]
    done = subprocess.run([sys.executable, "-m", "helpers", "run", "--notebooks", "04,05",
                           "--profile", "gpt2", *options], cwd=ROOT, env=child_environment(),
                          capture_output=True, text=True)
    if done.returncode:
        raise UserError((done.stderr or done.stdout).strip()[-600:])
    ran = json.loads((Path(settings.runs) / "summary.json").read_text(encoding="utf-8"))
    return {"learned": notebooks_learned(ran["notebooks"]), "notebooks": {
        name: {key: row[key] for key in ("status", "seconds", "peak_memory_mb", "metrics")}
        for name, row in ran["notebooks"].items()}}


def notebooks_learned(ran: dict[str, Any]) -> bool:
    """Whether 04's reward model is right on more than half of the held-out pairs, and 05's policy
    earns more than it did at its start. A number that was not recorded shows nothing."""
    found = {name[:2]: row["metrics"] for name, row in ran.items()}
    judge, policy = found.get("04", {}), found.get("05", {})
    numbers = [judge.get("accuracy"), policy.get("reward_before"), policy.get("reward_after")]
    if any(number is None or not np.isfinite(number) for number in numbers):
        return False
    accuracy, before, after = numbers
    return accuracy > 0.5 and after > before


PARTS: dict[str, tuple[Callable[[Check, Settings], dict[str, Any]], str, dict[str, Any]]] = {
    "sft": (fine_tuning, "sft", {}),
    **{way: (reward_model, "reward_model", more) for way, more in WAYS.items()},
    "ppo": (policy, "ppo", {}),
    "trl": (policy_with_trl, "ppo_trl", {}),
    "notebooks": (notebooks, "", {}),
}


def letters(prompts: Any, responses: Any) -> list[float]:
    """The share of a response's letters that are an e, times ten."""
    return [10 * text.lower().count("e") / max(1, len(text)) for text in responses]


def part_settings(check: Check, part: str) -> Settings:
    """The settings of one part: batches and lengths as the plan is asked for them."""
    sizes = check.sizes
    return check.settings(**PARTS[part][2], **{
        "ppo__batch_size": sizes["episodes"], "ppo__mini_batch_size": sizes["episodes"] // 2,
        "ppo__micro_batch_size": min(16, sizes["episodes"] // 2), "ppo__epochs": 2,
        "ppo__max_prompt_tokens": 16, "ppo__max_new_tokens": sizes["new_tokens"],
        "ppo__learning_rate": 1e-4, "ppo__kl_target": None,
        "ppo_trl__total_episodes": sizes["episodes"] * sizes["updates"],
        "ppo_trl__batch_size": sizes["episodes"], "ppo_trl__mini_batches": 2,
        "ppo_trl__epochs": 2, "ppo_trl__max_new_tokens": sizes["new_tokens"],
        "ppo_trl__prompt_tokens_max": 16, "ppo_trl__learning_rate": 1e-4})


def _prompts(check: Check, settings: Settings) -> list[str]:
    tokenizer = models.load_tokenizer(settings.models.base)
    reviews = [row["text"] for row in data.load_reviews(settings, "train", 512)]
    return data.cut_prompts(reviews, tokenizer, 64, 4, 8, seed=0)


def _timed(job: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    job()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _trained(model: Any, tokens: int, seconds: float, settings: Settings) -> dict[str, Any]:
    """Tokens a second, and the share of the chip's own rate that they make.

    A token costs six operations for each parameter that it passes through (forward and back).
    """
    rate = 6 * models.count_parameters(model)["total"] * tokens / seconds
    return {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds,
            "share_of_chip": rate / chip_rate(settings)}


def chip_rate(settings: Settings) -> float:
    """Operations a second of this device on one large product, in the type training uses."""
    where = place.device(settings)
    size = 8192 if where.type == "cuda" else 512
    kind = torch.bfloat16 if place.mixed_precision(settings) else torch.float32
    one = torch.randn(size, size, device=where, dtype=kind)
    one @ one
    return 2 * size**3 * 10 / _timed(lambda: [one @ one for _ in range(10)])


def measure(check: Check, part: str) -> dict[str, Any]:
    """One part, in this process."""
    job, stage, _ = PARTS[part]
    settings = part_settings(check, part)
    row = job(check, settings)
    if stage and torch.cuda.is_available():
        planned = plan.peak(plan.plan(settings, stage, autocast=place.mixed_precision(settings)))
        row |= {"peak_mb": torch.cuda.max_memory_allocated() / 2**20, "planned_mb": planned / 2**20}
    return row | {"precision": "bfloat16" if place.mixed_precision(settings) else "float32"}


def run(check: Check, parts: list[str], minutes: float) -> list[dict[str, Any]]:
    """Each part in a process of its own; what cannot be done says so in its row."""
    begun, rows = time.monotonic(), []
    for part in parts:
        lacking = [name for name in NEEDS.get(part, ()) if importlib.util.find_spec(name) is None]
        left = 60 * minutes - (time.monotonic() - begun)
        if lacking:
            row: dict[str, Any] = {"status": f"not run: {', '.join(lacking)} is not installed"}
        elif left < 20:
            row = {"status": f"not run: the {minutes:g} minutes were over"}
        else:
            row = _alone(check, part, left)
        rows.append({"part": part, **row})
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "notebooks"}), flush=True)
    return rows


def _alone(check: Check, part: str, left: float) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_check", part,
               "--work", str(check.work), *(["--tiny"] if check.tiny else []),
               *(["--data", str(check.rows)] if check.rows else [])]
    try:
        done = subprocess.run(command, cwd=ROOT, env=child_environment(), capture_output=True,
                              text=True, timeout=left)
    except subprocess.TimeoutExpired:
        return {"status": f"stopped after {left:.0f} s: the time was over"}
    if done.returncode:
        return {"status": "failed", "error": (done.stderr or done.stdout).strip()[-800:]}
    row = json.loads(done.stdout.splitlines()[-1])
    return {"status": "ok" if row["learned"] else "nothing was learned", **row}


def device_name() -> str:
    """The GPU's name, or that there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all when none is given")
    parser.add_argument("--data", type=Path, default=os.environ.get("RLHF_REAL_DATA"))
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--tiny", action="store_true", help="a tiny model, also without a GPU; "
                        "nothing is stored")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # a part on its own
    given = parser.parse_args()
    unknown = [part for part in given.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part is called {unknown[0]!r}; there are {', '.join(PARTS)}.")
    rows_at = Path(given.data).resolve() if given.data else None
    if given.work:
        print(json.dumps(measure(Check(given.work, rows_at, given.tiny), given.parts[0]),
                         default=float))
        return 0
    if not (given.tiny or torch.cuda.is_available()):
        print("gpu_check: there is no GPU here, so nothing was measured; `--tiny` tries the parts "
              "on the CPU with a tiny model.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as work:
        check = Check(Path(work), rows_at, given.tiny)
        make_base(check)
        rows = run(check, given.parts or list(PARTS), given.minutes)
    if not given.tiny:
        known = (store.load("gpu_check") or {}).get("devices", {})
        print("stored:", store.save("gpu_check", rows, device=device_name(), devices={
            **known, device_name(): rows}))
    return 1 if any(row["status"] in ("failed", "nothing was learned") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
