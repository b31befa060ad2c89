"""PPO on CartPole-v1 and Acrobot-v1, ten seeds each: does every seed solve its task?

    python benchmarks/control.py [--seeds 10] [--environments CartPole-v1 Acrobot-v1]

Each row is one seed: mean return of 100 episodes with the likeliest action, environment steps, and
processor seconds (which, unlike wall-clock seconds, do not count what else the machine was doing).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.shared import store
from helpers import control

GOALS = {"CartPole-v1": 500.0, "Acrobot-v1": -90.0}


def run(name: str, seed: int) -> dict:
    """Train and judge one seed."""
    config = control.ControlConfig.for_environment(name)
    start = time.process_time()
    policy, curve = control.train_control(name, config, seed)
    trained = time.process_time()
    returns = control.evaluate_control(name, policy)
    return {
        "environment": name, "seed": seed, "steps": config.total_steps,
        "return": round(float(returns.mean()), 2), "lowest": float(returns.min()),
        "cpu_seconds": round(trained - start, 1),
        "curve": [[step, round(value, 1)] for step, value in curve[:: max(1, len(curve) // 40)]],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--environments", nargs="+", default=list(GOALS), choices=list(GOALS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, missed = [], 0
    for name in arguments.environments:
        solved = 0
        for seed in range(arguments.seeds):
            row = run(name, seed)
            rows.append(row)
            solved += row["return"] >= GOALS[name]
            print(f"{name:<12} seed {seed}: return {row['return']:8.2f}, lowest {row['lowest']:.0f}"
                  f", {row['cpu_seconds']:.1f} s", flush=True)
        missed += arguments.seeds - solved
        print(f"{name}: {solved} of {arguments.seeds} seeds reach {GOALS[name]:.0f}")
    print("stored:", store.save("control", rows, goals=GOALS).name)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
