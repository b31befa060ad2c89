"""Time and memory of the log-probabilities of chosen tokens, two ways, over the same logits.

    python benchmarks/token_logprobs.py [--rows 512] [--width 256] [--rounds 7]

Plain: `ppo.all_logprobs`, then the choice of tokens, as the formula says. In pieces:
`token_logprobs.chosen_logprobs`, with which the trainer works. Both get a head's logits for
`--rows` response tokens and go all the way back to the hidden states and the head's weights, for
the vocabulary of the embedded profile and for GPT-2's, in float32 and bfloat16. The two take turns
and the median of the rounds counts. Memory is the peak of a process that does nothing else, less
what it held before; under glibc freed memory goes back at once, so that it is what the pass needs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.shared import store
from benchmarks.shared.memory import measure_alone
from helpers import ppo
from helpers.course.execute import Memory, tree_memory
from helpers.engine.token_logprobs import chosen_logprobs
from helpers.profiles import load_profile

VOCABULARIES = {"embedded": 4096, "GPT-2": 50257}


def plain(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability of each token, from those of the whole vocabulary."""
    return ppo.all_logprobs(logits).gather(-1, tokens[:, None]).squeeze(-1)


WAYS = {"plain": plain, "in pieces": chosen_logprobs}


def there_and_back(way: str, hidden, head, tokens) -> float:
    """Seconds for logits, log-probabilities and all gradients."""
    hidden.grad = head.grad = None
    start = time.perf_counter()
    WAYS[way](hidden @ head.T, tokens).sum().backward()
    return time.perf_counter() - start


def inputs(rows: int, width: int, vocabulary: int, precision: str):
    """Random hidden states (rows, width), a head (vocabulary, width) and tokens (rows,)."""
    torch.manual_seed(0)
    dtype = getattr(torch, precision)
    hidden = torch.randn(rows, width).to(dtype).requires_grad_()
    head = (torch.randn(vocabulary, width) / width**0.5).to(dtype).requires_grad_()
    return hidden, head, torch.randint(0, vocabulary, (rows,))


def peak(way: str, *of) -> float:
    """Megabytes that one pass takes at most. Meant for a process of its own."""
    there_and_back(way, *inputs(2, 8, 16, of[-1]))  # libraries are loaded once
    given = inputs(*of)
    before = tree_memory(os.getpid())
    with Memory(os.getpid(), every=0.001) as memory:
        there_and_back(way, *given)
    return (memory.peak - before) / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=512, help="response tokens")
    parser.add_argument("--width", type=int, default=256, help="of the hidden states")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(load_profile("embedded").threads)
    if arguments.peak:
        way, vocabulary, precision = arguments.peak
        print(json.dumps(
            peak(way, arguments.rows, arguments.width, int(vocabulary), precision)))
        return 0
    rows, ratio = [], {}
    for name, vocabulary in VOCABULARIES.items():
        for precision in ("float32", "bfloat16"):
            given = inputs(arguments.rows, arguments.width, vocabulary, precision)
            seconds = {way: [] for way in WAYS}
            for _ in range(arguments.rounds + 1):
                for way in WAYS:
                    seconds[way].append(there_and_back(way, *given))
            found = {}
            for way in WAYS:
                peak_mb = measure_alone(
                    __file__, "--rows", arguments.rows, "--width", arguments.width,
                    "--peak", way, vocabulary, precision)
                found[way] = {"milliseconds": round(1e3 * float(np.median(seconds[way][1:])), 2),
                              "peak_mb": round(peak_mb, 1)}
                rows.append({"vocabulary": vocabulary, "precision": precision, "way": way,
                             **found[way]})
            ratio[f"{name}, {precision}"] = {
                key: round(found["plain"][key] / found["in pieces"][key], 2)
                for key in ("milliseconds", "peak_mb")}
            print(f"{name:<9}{vocabulary:>7,} tokens, {precision:<9}", *(
                f"{way}: {row['milliseconds']:7.1f} ms, {row['peak_mb']:6.1f} MB;"
                for way, row in found.items()),
                "ratios {milliseconds:.2f} and {peak_mb:.2f}".format(
                    **ratio[f"{name}, {precision}"]), flush=True)
    print("stored:", store.save(
        "token_logprobs", rows, ratio=ratio, response_tokens=arguments.rows,
        width=arguments.width).name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
