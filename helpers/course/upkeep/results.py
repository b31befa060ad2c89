"""`python -m helpers results`: the README's results, written from a run and never by hand."""

from __future__ import annotations

import json
import platform
from datetime import date
from pathlib import Path

from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profiles import load_profile

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
# The figures the README shows, out of those a run records: notebook, metrics, what they mean.
SHOWN = (
    ("01", ("success_random", "success_feedback", "return_cost", "return_feedback"),
     "share of unseen starts that reach the goal, and true return"),
    ("02", ("bits_per_byte_reviews", "bits_per_byte_xz"), "base model, and xz on the same text"),
    ("03", ("val_loss_before", "val_loss"), "nats per response token, held out"),
    ("04", ("accuracy", "bayes_ceiling", "length_accuracy", "ece"), "held-out pairs"),
    ("05", ("cartpole_return", "bandit_kl_to_optimum", "reward_before", "reward_after", "kl",
            "gold_before", "gold_after"), "KL in nats per response"),
    ("06", ("reward_before", "reward_after", "kl", "gold_before", "gold_after"),
     "classifier's logit, KL in nats per response"),
    ("07", ("win_rate", "win_rate_low", "win_rate_high"), "PPO over SFT, gold being the judge"),
    ("07", ("loop_ratings", "loop_preferred_before", "loop_preferred_after", "loop_accuracy_lost"),
     "how often the named property is preferred, before and after the ratings"),
    ("08", ("bandit_worst_claim", "best_of_n_sft_gain", "dpo_gain", "rloo_gain", "format_before",
            "format_after"), "nats to the optimum; gains in gold, one run each"),
    ("09", ("best_of_proxy_gain", "best_of_gold_gain", "best_of_gold_fall"),
     "best of 128 over one answer: deviations of the reward, points of gold"),
    ("10", ("judge_agreement", "judge_first", "letter_agreement", "letter_first",
            "active_accuracy", "random_accuracy", "best_of_gain"),
     "the AI judge on labelled pairs, and how often it names what it reads first; heads after as "
     "many labels; gain in gold"),
)


def results() -> int:
    """Replace the README's results by those of `runs/embedded/summary.json`; returns 0."""
    notebooks = default_run()
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise UserError(f"README.md lacks the lines {BEGIN} and {END}.")
    before, rest = text.split(BEGIN, 1)
    table = render(notebooks)
    readme.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")
    print("README.md: results brought up to date")
    return 0


def default_run() -> dict[str, dict]:
    """The notebooks of the last `make course`, as `summary.json` tells of them.

    Raises:
        UserError: there is none, it had other settings, or a notebook of it failed.
    """
    path = load_profile("embedded").runs / "summary.json"
    if not path.is_file():
        raise UserError("there is no runs/embedded/summary.json; run make course first.")
    summary = json.loads(path.read_text(encoding="utf-8"))
    if summary["overrides"] or summary["seed"]:
        raise UserError("the last run had overrides or another seed; run make course first.")
    failed = [name for name, row in summary["notebooks"].items() if row["status"] != "ok"]
    if failed:
        raise UserError(f"{', '.join(failed)} failed in the last run; run make course first.")
    return summary["notebooks"]


def render(notebooks: dict[str, dict]) -> str:
    """The table in Markdown, with the day and the processor it was measured on."""
    lines = ["| notebook | seconds | peak memory (MB) | measured | |", "|---|---|---|---|---|"]
    for number, names, meaning in SHOWN:
        stem = next((s for s in sorted(notebooks) if s.startswith(number)), None)
        if stem is None:
            continue
        row = notebooks[stem]
        shown = ", ".join(
            f"{n} {row['metrics'][n]:.3g}" for n in names if row["metrics"].get(n) is not None)
        first = not lines[-1].startswith(f"| {number} ")
        cost = f"{row['seconds']:.0f} | {row['peak_memory_mb']:.0f}" if first else " | "
        lines.append(f"| {number} | {cost} | {shown} | {meaning} |")
    total = sum(row["seconds"] for row in notebooks.values())
    lines += ["", f"All notebooks: {total / 60:.1f} minutes. Measured on {date.today():%d %B %Y}, "
              f"{_processor()}, profile `embedded`, seed 0."]
    return "\n".join(lines)


def _processor() -> str:
    import os

    info = Path("/proc/cpuinfo")
    name = platform.processor() or platform.machine()
    if info.is_file():
        name = next((line.split(":", 1)[1].strip() for line in info.read_text().splitlines()
                     if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"
