"""GPT-2 against GPT-Neo 125M at full size: parameters, disk, memory and speed, measured.

    python benchmarks/two_base_models.py [--rounds 2] [--trial]

Both are made from the configuration that their repository on the hub holds, with random weights:
what a model costs does not ask what it knows, and nothing is fetched. Every model is measured in a
process of its own, the two in turn, and the best of the rounds counts. Quality cannot be measured
so; notebook 02 quotes it, with its source.

Memory beside the weights is counted tensor by tensor (`helpers.engine.costs.peak_bytes`), for
writing and for one step of AdamW; what the process held at most, libraries included, stands beside
it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
)

from benchmarks.shared import store
from benchmarks.shared.memory import measure_alone
from helpers import models
from helpers.course.execute import Memory
from helpers.engine import costs
from helpers.profiles import load_profile

END = 50256  # both use GPT-2's tokenizer
CONFIGS = {
    "gpt2": lambda: GPT2Config(bos_token_id=END, eos_token_id=END),  # its defaults are GPT-2 small
    "gpt-neo-125m": lambda: GPTNeoConfig(
        hidden_size=768, num_layers=12, num_heads=12, attention_types=[[["global", "local"], 6]],
        max_position_embeddings=2048, window_size=256, vocab_size=50257, bos_token_id=END,
        eos_token_id=END)}
CLASSES = {"gpt2": GPT2LMHeadModel, "gpt-neo-125m": GPTNeoForCausalLM}
LENGTHS = (64, 1000)
TRAINED = (4, 128)  # texts and tokens of a training step


def one_step(model: torch.nn.Module) -> None:
    """A step of AdamW on a small batch; the moments are made here and count."""
    ids = torch.arange(TRAINED[1]).repeat(TRAINED[0], 1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=False)
    model(input_ids=ids, labels=ids).loss.backward()
    optimiser.step()


def measure(name: str) -> dict:
    """Everything about one model. Meant for a process of its own."""
    torch.set_num_threads(load_profile("embedded").threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, Memory(os.getpid(), every=0.01) as memory:
        CLASSES[name](CONFIGS[name]()).save_pretrained(folder)
        load = lambda: AutoModelForCausalLM.from_pretrained(folder)  # noqa: E731
        row = {"model": name, "disk (MB)": costs.disk_bytes(folder) / 1e6,
               "load (s)": costs.seconds(load, 1)}
        model = load().eval()
        count, ids = models.count_parameters(model), torch.arange(512)[None] + 2
        row |= {"parameters": count["total"], "embedding": count["embedding"],
                "context": model.config.max_position_embeddings,
                "weights (MB)": models.model_bytes(model) / 1e6,
                "cache, 1000 tokens (MB)": costs.cache_bytes(model.config, 1000) / 1e6}
        with torch.no_grad():
            row["reading (tokens/s)"] = ids.numel() / costs.seconds(lambda: model(input_ids=ids))
        row |= costs.writing_costs(model, repeats=2)
        row |= {f"tokens/s behind {length}": rate for length, rate in zip(
            LENGTHS, costs.rate_at_length(model, LENGTHS, repeats=2), strict=True)}
        model.train()
        row["step of AdamW (MB)"] = costs.peak_bytes(lambda: one_step(model)) / 1e6
        row["step of AdamW (s)"] = costs.seconds(lambda: one_step(model), 1)
    return row | {"process (MB)": memory.peak / 1e6}


def best(rounds: list[dict]) -> dict:
    """Of several rounds the highest rate, and of times and memory the least."""
    return {key: value if isinstance(value, str) else round(
        (max if "tokens/s" in key else min)(row[key] for row in rounds), 3)
        for key, value in rounds[0].items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--trial", action="store_true", help="store nothing")
    parser.add_argument("--model", choices=list(CONFIGS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.model:
        print(json.dumps(measure(arguments.model)))
        return 0
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    found = {name: [] for name in CONFIGS}
    for _ in range(arguments.rounds):
        for name, rounds in found.items():
            rounds.append(measure_alone(__file__, "--model", name))
    rows = [best(rounds) for rounds in found.values()]
    for key in rows[1]:
        print(f"{key:<26}", *(f"{row.get(key, ''):>16}" for row in rows))
    if not arguments.trial:
        print("stored:", store.save("two_base_models", rows, rounds=arguments.rounds,
                                    load_before=load, trained=TRAINED).name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
