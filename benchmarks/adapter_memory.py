"""Memory that full fine-tuning, LoRA and QLoRA of a reward model take, measured.

    python benchmarks/adapter_memory.py [--layers 12] [--width 768] [--vocabulary 50257]

By default the model has GPT-2's size (124 M), where weights outweigh everything else; its weights
are random, since memory does not ask what a model knows. Every arm is a process of its own: it
loads the same saved model, as notebook 04 does, and takes steps of AdamW on the same pairs.
Resident memory is read every few milliseconds; what the process held before it loaded the model
(Python, libraries, a first tiny model) is taken off. Under glibc freed memory goes back at once, so
that the figure is what training needs and not what an allocator keeps. Beside it stands what can be
counted: weights as they are stored, gradients, and Adam's two moments.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.shared import store
from benchmarks.shared.memory import measure_alone, out_of_file
from helpers import models, reward
from helpers.course.execute import Memory, tree_memory
from helpers.paths import ROOT
from helpers.profiles import load_profile

LORA = {"models.lora": True, "models.lora_r": 16, "models.lora_alpha": 32}
ARMS = {"full": {}, "LoRA, r = 16": LORA, "QLoRA, r = 16": LORA | {
    "models.quantise": "nf4", "models.gradient_checkpointing": True}}
STEPS = 3
WARM_UP = ROOT / "data" / "models" / "zoo" / "gpt2-0.2m"


def give_back() -> None:
    """Return to the system what loading has freed, where its C library can be told to."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def prepare(folder: Path, arguments: argparse.Namespace) -> None:
    """Save the backbone, a GPT-2 with random weights, and a tokenizer beside it."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(models.base_source(load_profile("embedded")))
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=max(arguments.vocabulary, len(tokenizer)), n_layer=arguments.layers,
        n_embd=arguments.width, n_head=arguments.width // 64, n_positions=256))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def ready(folder: Path, arm: str) -> torch.nn.Module:
    """A reward model on the saved backbone, as notebook 04 loads it, ready to train."""
    from transformers import AutoTokenizer

    settings = load_profile("embedded", ARMS[arm])
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    models.prepare_tokenizer(tokenizer, None)
    return out_of_file(models.new_reward_model(folder, tokenizer, settings)).train()


def train(model: torch.nn.Module, pairs: int, tokens: int, steps: int) -> torch.optim.Optimizer:
    """Steps of AdamW on `pairs` random pairs, texts of `tokens` tokens each."""
    ids = torch.randint(5, 4000, (2 * pairs, tokens))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    for _ in range(steps):
        chosen, rejected = reward.reward_logits(model, **batch).chunk(2)
        reward.bradley_terry_loss(chosen, rejected).backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def measure(folder: Path, arm: str, pairs: int, tokens: int) -> dict:
    """Load, train `STEPS` steps, and say what it took. Meant for a process of its own."""
    torch.set_num_threads(load_profile("embedded").threads)
    train(ready(WARM_UP, arm), 1, 8, 1)  # libraries are loaded once; they are not the model's
    give_back()
    before = tree_memory(os.getpid())
    model = ready(folder, arm)
    give_back()
    start = time.perf_counter()
    with Memory(os.getpid(), every=0.003) as memory:
        optimizer = train(model, pairs, tokens, STEPS)
    seconds = time.perf_counter() - start
    count = models.count_parameters(model)
    size = lambda tensors: sum(t.numel() * t.element_size() for t in tensors)  # noqa: E731
    counted = size(model.parameters()) + size(p for p in model.parameters() if p.requires_grad)
    counted += size(value for state in optimizer.state.values() for value in state.values()
                    if torch.is_tensor(value))
    return {"arm": arm, "parameters": count["total"], "trainable": count["trainable"],
            "peak_mb": round((memory.peak - before) / 2**20, 1),
            "counted_mb": round(counted / 2**20, 1),
            "seconds_per_step": round(seconds / STEPS, 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768, help="a multiple of 64")
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--pairs", type=int, default=2, help="pairs in a batch")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each text")
    parser.add_argument("--trial", action="store_true", help="store nothing")
    parser.add_argument("--arm", choices=list(ARMS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        print(json.dumps(measure(arguments.folder, arguments.arm, arguments.pairs,
                                 arguments.tokens)))
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), arguments)
        for arm in ARMS:
            rows.append(measure_alone(
                __file__, "--arm", arm, "--folder", folder, "--pairs", arguments.pairs,
                "--tokens", arguments.tokens))
            print("{arm:<15}{trainable:>12,} trained {peak_mb:>9,.0f} MB measured "
                  "{counted_mb:>9,.0f} MB counted".format(**rows[-1]), flush=True)
    ratio = {f"full over {row['arm']}": round(rows[0]["peak_mb"] / row["peak_mb"], 2)
             for row in rows[1:]}
    print(ratio)
    if not arguments.trial:
        print("stored:", store.save("adapter_memory", rows, ratio=ratio, steps=STEPS,
                                    pairs=arguments.pairs, tokens=arguments.tokens).name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
