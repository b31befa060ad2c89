"""Every figure of the course, in one style.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; the background is a light
panel of its own, so that a figure reads the same on a light and on a dark page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#6B6B6B"]


def use_style() -> None:
    """Set matplotlib's defaults for the course; call once per notebook."""
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update({
        "figure.figsize": (7.0, 3.4),
        "figure.dpi": 100,
        "savefig.dpi": 100,
        "figure.facecolor": "#FBFBF8",
        "axes.facecolor": "#FBFBF8",
        "savefig.facecolor": "#FBFBF8",
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#DDDDD8",
        "axes.axisbelow": True,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "font.size": 10,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
    })


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    reference: Mapping[str, float] | None = None,
    logx: bool = False,
    logy: bool = False,
):
    """Line plot: `series` maps a label to (x, y); `bands` maps it to (low, high) over the same x.

    `reference` draws labelled horizontal lines, such as chance or a ceiling.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    for i, (label, (x, y)) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(x, y, label=label, color=colour, marker="o" if len(x) < 15 else None, ms=4)
        if bands and label in bands:
            axes.fill_between(x, *bands[label], color=colour, alpha=0.2, lw=0)
    for i, (label, value) in enumerate((reference or {}).items()):
        axes.axhline(value, color="#6B6B6B", ls=["--", ":", "-."][i % 3], lw=1.2, label=label)
    if logx:
        axes.set_xscale("log")
    if logy:
        axes.set_yscale("log")
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if len(series) + len(reference or {}) > 1:
        axes.legend()
    return figure


def histograms(
    groups: Mapping[str, Sequence[float]], *, xlabel: str, title: str = "", bins: int = 40
):
    """Overlaid histograms of several groups on common bins, each as a share of its group."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    values = np.concatenate([np.asarray(v, dtype=float) for v in groups.values()])
    edges = np.histogram_bin_edges(values[np.isfinite(values)], bins=bins)
    for i, (label, group) in enumerate(groups.items()):
        group = np.asarray(group, dtype=float)
        axes.hist(group, edges, weights=np.full(len(group), 1 / max(len(group), 1)),
                  histtype="stepfilled", alpha=0.35, color=COLOURS[i % len(COLOURS)])
        axes.axvline(np.nanmean(group), color=COLOURS[i % len(COLOURS)], lw=1.5,
                     label=f"{label} (line: mean)")
    axes.set(xlabel=xlabel, ylabel="share of the group", title=title)
    axes.legend()
    return figure


def bars(
    values: Mapping[str, float],
    *,
    ylabel: str,
    title: str = "",
    intervals: Mapping[str, tuple[float, float]] | None = None,
    reference: Mapping[str, float] | None = None,
):
    """One bar per label, with its interval (low, high) where given."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    labels = list(values)
    heights = [values[k] for k in labels]
    axes.bar(labels, heights, color=[COLOURS[i % len(COLOURS)] for i in range(len(labels))],
             width=0.6)
    for i, label in enumerate(labels):
        if intervals and label in intervals:
            low, high = intervals[label]
            axes.errorbar(i, heights[i], yerr=[[heights[i] - low], [high - heights[i]]],
                          color="black", capsize=4, lw=1.2)
    for i, (label, value) in enumerate((reference or {}).items()):
        axes.axhline(value, color="#6B6B6B", ls=["--", ":", "-."][i % 3], lw=1.2, label=label)
    axes.set(ylabel=ylabel, title=title)
    axes.grid(axis="x", visible=False)
    if reference:
        axes.legend()
    return figure


def reliability(groups: Mapping[str, Sequence[Mapping[str, float]]], *, title: str = ""):
    """Stated confidence against accuracy; the area of a point grows with its number of pairs.

    `groups` maps a label to rows `confidence`, `accuracy`, `count` (from `reward.reliability`).
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4.6, 4.2))
    axes.plot([0.5, 1], [0.5, 1], color="#6B6B6B", ls="--", lw=1.2, label="perfectly calibrated")
    for i, (label, rows) in enumerate(groups.items()):
        keys = ("confidence", "accuracy", "count")
        x, y, count = (np.array([row[key] for row in rows]) for key in keys)
        axes.plot(x, y, color=COLOURS[i % len(COLOURS)], lw=1.5, label=label)
        axes.scatter(x, y, s=20 + 260 * count / count.sum(), color=COLOURS[i % len(COLOURS)])
    axes.set(xlabel="stated confidence", ylabel="accuracy", title=title, xlim=(0.48, 1.02))
    axes.legend()
    return figure


def scatter(
    x: Sequence[float], y: Sequence[float], *, xlabel: str, ylabel: str, title: str = "",
    limit: int = 2000,
):
    """Points with lines through zero; of more than `limit` points an even share is drawn."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5.2, 4.2))
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    step = max(1, -(-len(x) // limit))
    axes.axhline(0, color="#6B6B6B", lw=0.8)
    axes.axvline(0, color="#6B6B6B", lw=0.8)
    axes.scatter(x[::step], y[::step], s=9, alpha=0.35, color=COLOURS[0], lw=0)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return figure
