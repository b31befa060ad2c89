"""What to look at while PPO runs, and the range each measure should stay in.

The ranges are this course's rules of thumb, wide and from no study: a value outside is a reason to
look, not a verdict, and a value inside is no proof of health.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

# measure: (low, high, what a value outside usually means)
HEALTHY: dict[str, tuple[float, float, str]] = {
    "kl": (-1.0, 15.0, "nats per response, k1; far above: the reward model is out of its depth"),
    "kl_k3": (0.0, 15.0, "the same by k3; far above k1 means a few tokens were given up"),
    "kl_exact": (0.0, 15.0, "the same, summed over the vocabulary: no sampling noise"),
    "clip_fraction": (0.0, 0.3, "share of tokens whose ratio left 1 ± clip; high: steps too large"),
    "approx_kl": (0.0, 0.05, "nats per token between old and new policy; high: steps too large"),
    "ratio_mean": (0.95, 1.05, "should stay at 1; a drift means old log-probabilities are wrong"),
    "entropy": (0.3, math.inf, "nats per token; near 0 the policy says one thing only"),
    "explained_variance": (0.1, 1.0, "of returns by the critic; at 0 a mean does as well"),
    "advantage_mean": (-0.5, 0.5, "before whitening; far from 0 the critic is biased"),
    "grad_norm": (0.0, 10.0, "before clipping; spikes announce trouble"),
    "eos_rate": (0.5, 1.0, "share of responses that end by themselves; falling: rambling pays"),
    "response_length": (2.0, math.inf, "tokens; look at its drift: is longer simply better paid?"),
}


def bands() -> dict[str, tuple[float, float]]:
    """The (low, high) range of each measure."""
    return {name: (low, high) for name, (low, high, _) in HEALTHY.items()}


def report(history: Sequence[Mapping[str, float]], last: int = 5) -> list[str]:
    """Lines of a table: each measure first, at the end (mean of the last rows), and its range."""
    end = history[-last:]
    lines = [f"{'measure':<19}{'first':>8}{'last':>8}   {'healthy':<14}"]
    for name, (low, high, meaning) in HEALTHY.items():
        final = sum(row[name] for row in end) / len(end)
        top = "" if math.isinf(high) else f"{high:g}"
        span = f"{low:g} … {top}" if top else f"from {low:g}"
        look = "" if low - 1e-6 <= final <= high + 1e-6 else f"   look: {meaning}"
        lines.append(f"{name:<19}{history[0][name]:>8.3f}{final:>8.3f}   {span:<14}{look}")
    return lines
