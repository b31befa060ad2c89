"""Threads that spin, spin briefly or sleep while they wait, on an idle and on a busy machine.

    python benchmarks/waiting.py [--seconds 10] [--rounds 3]

PyTorch's threads (libgomp) wait for each other after every operation. By default the one that is
done first spins for some 300,000 turns before it sleeps; GOMP_SPINCOUNT says for how many, and
OMP_WAIT_POLICY=PASSIVE for none. Measured in processes of their own, in turn: gradient steps of the
embedded language model on 16 rows of 64 tokens, and sampling 16 answers of 24 tokens; alone, and
beside one other process for each core. Numbers are per second, the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.shared import store
from benchmarks.shared.load import other_work
from helpers.paths import ROOT

POLICIES = {"spin": {}, "spin briefly": {"GOMP_SPINCOUNT": "10000"},
            "hardly spin": {"GOMP_SPINCOUNT": "1000"}, "sleep": {"OMP_WAIT_POLICY": "PASSIVE"}}
WORK = """
import json, sys, time
import torch
from helpers import models
from helpers.generation import sample
from helpers.profiles import load_profile

seconds = float(sys.argv[1])
torch.set_num_threads(2)
model, tokenizer = models.load_causal(models.base_source(load_profile("embedded")),
                                      load_profile("embedded"), trains=True)
ids = torch.randint(2, 200, (16, 64), generator=torch.Generator().manual_seed(0))
prompts = ["Human: What makes a garden grow?" for _ in range(16)]

def step():
    model(input_ids=ids, labels=ids).loss.backward()

def write():
    sample(model, tokenizer, prompts, 24, seed=0)

found = {}
for name, work in (("gradient steps", step), ("batches sampled", write)):
    work()
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        work()
        count += 1
    found[name] = count / (time.perf_counter() - begun)
print(json.dumps(found))
"""


def measure(policy: dict[str, str], seconds: float) -> dict[str, float]:
    """Rates per second of a process with these variables, by what it does."""
    env = {key: value for key, value in os.environ.items()
           if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", WORK, str(seconds)], cwd=ROOT, check=True,
                          env={**env, **policy, "PYTHONPATH": str(ROOT)},
                          stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows = []
    for busy in (False, True):
        found: dict[tuple[str, str], list[float]] = {}
        with other_work(busy):
            for _ in range(arguments.rounds):
                for name, policy in POLICIES.items():
                    for work, rate in measure(policy, arguments.seconds).items():
                        found.setdefault((work, name), []).append(rate)
        for work in dict.fromkeys(work for work, _ in found):
            rates = {name: round(statistics.median(found[work, name]), 3) for name in POLICIES}
            rows.append({"work": work, "busy": busy, **rates})
            print(rows[-1], flush=True)
    store.save("waiting", rows, seconds=arguments.seconds, rounds=arguments.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
