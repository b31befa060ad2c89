"""Every figure of the course, in one style.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; the background is a light
panel of its own, so that a figure reads the same on a light and on a dark page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

    from helpers.gridworld import GridMap, Move, Walk

COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#6B6B6B"]
LABEL_CHARACTERS = 80  # of names below bars that fit on one line


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
) -> Figure:
    """Line plot: `series` maps a label to (x, y); `bands` maps it to (low, high) over the same x.

    `reference` draws labelled horizontal lines, such as chance or a ceiling.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = plt.subplots()
    for i, (label, (x, y)) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(x, y, label=label, color=colour, marker="o" if len(x) < 15 else None, ms=4)
        if bands and label in bands:
            axes.fill_between(x, *bands[label], color=colour, alpha=0.2, lw=0)
    for i, (label, value) in enumerate((reference or {}).items()):
        axes.axhline(value, color="#6B6B6B", ls=["--", ":", "-."][i % 3], lw=1.2, label=label)
    for axis, log in ((axes.xaxis, logx), (axes.yaxis, logy)):
        if log:
            axes.set(**{f"{axis.axis_name}scale": "log"})
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
            axis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    labels = len(series) + len(reference or {})
    if labels >= 5:  # inside, so many would cover a line
        figure.set_figwidth(1.3 * figure.get_figwidth())
        figure.legend(loc="outside right upper")
    elif labels > 1:
        axes.legend()
    return figure


def histograms(
    groups: Mapping[str, Sequence[float]], *, xlabel: str, title: str = "", bins: int = 40
) -> Figure:
    """Overlaid histograms of several groups on common bins, each as a share of its group.

    Three groups or more are outlines, since their fillings would merge.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    values = np.concatenate([np.asarray(v, dtype=float) for v in groups.values()])
    edges = np.histogram_bin_edges(values[np.isfinite(values)], bins=bins)
    look: dict[str, Any] = (
        {"histtype": "stepfilled", "alpha": 0.35} if len(groups) < 3 else
        {"histtype": "step", "lw": 1.8})
    for i, (label, group) in enumerate(groups.items()):
        group = np.asarray(group, dtype=float)
        axes.hist(group, edges.tolist(), weights=np.full(len(group), 1 / max(len(group), 1)),
                  color=COLOURS[i % len(COLOURS)], **look)
        axes.axvline(float(np.nanmean(group)), color=COLOURS[i % len(COLOURS)], lw=1.5,
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
) -> Figure:
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
    _turn_if_crowded(axes, labels)
    axes.grid(axis="x", visible=False)
    if reference:
        axes.legend()
    return figure


def _turn_if_crowded(axes: Axes, names: Sequence[str]) -> None:
    """Write the names below bars aslant where they would run into each other."""
    if names and max(map(len, names)) * len(names) > LABEL_CHARACTERS:
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")


def reliability(
    groups: Mapping[str, Sequence[Mapping[str, float]]], *, title: str = ""
) -> Figure:
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
    x: ArrayLike, y: ArrayLike, *, xlabel: str, ylabel: str, title: str = "", limit: int = 2000,
) -> Figure:
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


# --- 01, walks on a grid --------------------------------------------------------------------


def grid_walks(
    panels: Sequence[tuple[str, GridMap, Mapping[str, Walk]]], *, columns: int = 3,
    size: float = 2.7,
) -> Figure:
    """Maps side by side, each with its walks.

    panels: (title, map, {label: walk}) of each. A walk is a line from its round start to its
    end; walks are shifted a little against each other, so that shared ways stay visible. A walk
    that meets a cell again is drawn with a swing, so that circling shows.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from helpers import gridworld

    rows = -(-len(panels) // columns)
    columns = min(columns, len(panels))
    figure, axes = plt.subplots(rows, columns, squeeze=False,
                                figsize=(size * columns, size * rows + 0.55))
    ground = gridworld.COLOURS / 255
    labels: dict[str, str] = {}
    for axis in axes.flat[len(panels):]:
        axis.axis("off")
    for axis, (title, grid, walks) in zip(axes.flat, panels, strict=False):
        n = len(grid.terrain)
        axis.imshow(ground[grid.terrain], extent=(-0.5, n - 0.5, n - 0.5, -0.5))
        axis.set(xticks=np.arange(n + 1) - 0.5, yticks=np.arange(n + 1) - 0.5, title=title)
        axis.tick_params(length=0, labelbottom=False, labelleft=False)
        axis.plot(grid.goal[1], grid.goal[0], "*", color="#B8860B", ms=14, mec="black", mew=0.6,
                  zorder=5)
        for i, (label, walk) in enumerate(walks.items()):
            colour = labels.setdefault(label, COLOURS[[0, 3, 4, 1][len(labels) % 4]])
            shift = 0.14 * (i - (len(walks) - 1) / 2)
            path = np.array(walk.cells, float) + shift
            axis.plot(path[:, 1], path[:, 0], color=colour, lw=2.2, alpha=0.9)
            axis.plot(*path[0][::-1], "o", color=colour, ms=7, mec="black", mew=0.6)
    names = ("plain", "obstacle", "mud", "view")
    handles = [Patch(fc=ground[i], ec="#888888", label=name) for i, name in enumerate(names)]
    handles += [Line2D([], [], color=c, lw=2.2, label=label) for label, c in labels.items()]
    handles.append(Line2D([], [], color="#B8860B", marker="*", ls="", ms=11, mec="black",
                          mew=0.6, label="goal"))
    lines_of_legend = 1 if len(handles) <= 2 * columns + 2 else 2
    figure.legend(handles=handles, loc="outside lower center", fontsize=9, handlelength=1.4,
                  ncols=-(-len(handles) // lines_of_legend))
    return figure


def walk_film(grid: GridMap, walk: Walk, times: Sequence[int], *, title: str = "") -> Figure:
    """A walk as a strip of pictures, one per number of moves made, with the way so far."""
    import matplotlib.pyplot as plt

    from helpers import gridworld

    figure, axes = plt.subplots(1, len(times), figsize=(1.45 * len(times), 1.9))
    for axis, time in zip(np.atleast_1d(axes), times, strict=True):
        time = min(time, walk.steps)
        axis.imshow(gridworld.picture(grid, walk.cells[time], scale=12))
        path = np.array(walk.cells[: time + 1]) * 12 + 6
        axis.plot(path[:, 1], path[:, 0], color=COLOURS[0], lw=1.6)
        axis.set(title=f"move {time}", xticks=[], yticks=[])
        axis.title.set_fontsize(9)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def rated_moves(
    moves: Sequence[Move], ratings: Sequence[int], *, source: str = "human"
) -> Figure:
    """Pictures of moves side by side, each with what it does and how a `source` rater rated it."""
    import textwrap

    import matplotlib.pyplot as plt

    from helpers import gridworld

    figure, axes = plt.subplots(1, len(moves), figsize=(2.0 * len(moves), 2.75))
    for axis, move, rating in zip(np.atleast_1d(axes), moves, ratings, strict=True):
        cell = gridworld.cell_of(move.grid, move.state)
        axis.imshow(gridworld.picture(move.grid, cell, move.action, scale=16))
        words = textwrap.fill(gridworld.describe_move(move)[1], 22)
        axis.set(xticks=[], yticks=[], title=words, xlabel=f"{rating} of 5 ({source})")
        axis.title.set_fontsize(8.5)
    return figure


def walk_animation(
    grid: GridMap, walks: Mapping[str, Walk], *, scale: int = 14, milliseconds: int = 250
) -> str:
    """Walks on one map side by side as an animated GIF in an HTML figure, below 200 kB.

    walks: {label: Walk}. Runs wherever HTML output does; the strip of `walk_film` says the same
    where it does not.
    """
    import base64
    import html
    import io

    from PIL import Image

    from helpers import gridworld

    steps = max(walk.steps for walk in walks.values())
    frames = []
    for time in range(steps + 1):
        parts = [gridworld.picture(grid, walk.cells[min(time, walk.steps)], scale=scale)
                 for walk in walks.values()]
        gap = np.full((len(parts[0]), scale, 3), 255, np.uint8)
        row = [part for picture in parts for part in (picture, gap)][:-1]
        frames.append(Image.fromarray(np.hstack(row)).quantize(16))
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], loop=0,
                   duration=milliseconds, optimize=True)
    source = base64.b64encode(buffer.getvalue()).decode()
    caption = " · ".join(walks)
    return (f'<figure style="margin:0"><img src="data:image/gif;base64,{source}" '
            f'alt="animated walks: {html.escape(caption)}"><figcaption>from left to right: '
            f"{html.escape(caption)}</figcaption></figure>")


def dots(
    groups: Mapping[str, tuple[float, float, float]], *, xlabel: str, title: str = "",
    reference: float | None = None,
) -> Figure:
    """One row per label: a dot at the estimate, a line over its interval (estimate, low, high)."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.0, 0.8 + 0.36 * len(groups)))
    for row, (estimate, low, high) in enumerate(groups.values()):
        axes.plot([low, high], [row, row], color=COLOURS[0], lw=2.4, solid_capstyle="butt")
        axes.plot(estimate, row, "o", color=COLOURS[0], ms=7)
    if reference is not None:
        axes.axvline(reference, color="#6B6B6B", ls="--", lw=1.2)
    axes.set(yticks=range(len(groups)), ylim=(len(groups) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)
    axes.set(yticklabels=list(groups), xlabel=xlabel, title=title)
    return figure


# --- 05, PPO --------------------------------------------------------------------------------


def grouped_bars(
    groups: Mapping[str, Sequence[float]], names: Sequence[str], *, ylabel: str, title: str = ""
) -> Figure:
    """Bars side by side: `groups` maps a label to one height per name on the x axis."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    width = 0.8 / len(groups)
    for i, (label, heights) in enumerate(groups.items()):
        x = np.arange(len(names)) + (i - (len(groups) - 1) / 2) * width
        axes.bar(x, heights, width * 0.92, label=label, color=COLOURS[i % len(COLOURS)])
    axes.set(xticks=range(len(names)), xticklabels=names, ylabel=ylabel, title=title)
    _turn_if_crowded(axes, names)
    axes.grid(axis="x", visible=False)
    axes.legend()
    return figure


def panels(
    runs: Mapping[str, Sequence[Mapping[str, float]]], measures: Mapping[str, str], *,
    x: str = "step", columns: int = 3, healthy: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """One small plot per measure, one line per run.

    `runs` maps a label to the trainer's history; `measures` maps a key of its rows to the panel's
    title; `healthy` maps a key to the (low, high) range that is shaded, either end may be infinite.
    """
    import matplotlib.pyplot as plt

    rows = -(-len(measures) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.3 * columns, 2.1 * rows), squeeze=False)
    for axis in axes.flat[len(measures):]:
        axis.axis("off")
    for axis, (key, title) in zip(axes.flat, measures.items(), strict=False):
        for i, (label, history) in enumerate(runs.items()):
            axis.plot([row[x] for row in history], [row[key] for row in history],
                      color=COLOURS[i % len(COLOURS)], lw=1.6, label=label)
        if healthy and key in healthy:
            low, high = axis.get_ylim()
            bottom, top = healthy[key]
            axis.axhspan(max(bottom, low), min(top, high), color="#009E73", alpha=0.10, lw=0)
            axis.set_ylim(low, high)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(x if x != "step" else "update")
    if len(runs) > 1:
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(runs))
    return figure


def clipped_objective(clip_range: float = 0.2) -> Figure:
    """The clipped surrogate of one token against its ratio, for a good and for a bad action."""
    import matplotlib.pyplot as plt

    ratio = np.linspace(0.4, 1.6, 241)
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.9))
    for axis, advantage in zip(axes, (1.0, -1.0), strict=True):
        clipped = np.clip(ratio, 1 - clip_range, 1 + clip_range) * advantage
        axis.plot(ratio, ratio * advantage, color=COLOURS[6], ls="--", lw=1.3, label="ratio · A")
        axis.plot(ratio, np.minimum(ratio * advantage, clipped), color=COLOURS[0], lw=2.2,
                  label="clipped objective")
        axis.axvspan(1 - clip_range, 1 + clip_range, color="#009E73", alpha=0.10, lw=0)
        axis.plot(1, advantage, "o", color="black", ms=5)
        axis.set(xlabel="ratio new / old", title=f"advantage A = {advantage:+.0f}")
    axes[0].set_ylabel("objective of one token")
    axes[0].legend(loc="upper left")
    return figure


# --- 08, beyond PPO -------------------------------------------------------------------------


def paths(
    runs: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]], *, xlabel: str,
    ylabel: str, title: str = "",
) -> Figure:
    """A line through the means of clouds, each with its spread: ranges over seeds in both axes.

    `runs` maps a label to its points in order, each the (x values, y values) of all seeds.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.4, 4.4))
    marks = "osD^vP*X"
    for i, (label, points) in enumerate(runs.items()):
        x, y = (np.array([np.mean(point[side]) for point in points]) for side in (0, 1))
        ends = [[[m - min(p[side]) for m, p in zip(means, points, strict=True)],
                 [max(p[side]) - m for m, p in zip(means, points, strict=True)]]
                for side, means in ((0, x), (1, y))]
        axes.errorbar(x, y, xerr=np.abs(ends[0]), yerr=np.abs(ends[1]), label=label,
                      color=COLOURS[i % len(COLOURS)], marker=marks[i % len(marks)], ms=5, lw=1.4,
                      ls=["-", "--"][i // len(COLOURS) % 2], elinewidth=0.9, capsize=2)
    axes.axhline(0, color="#6B6B6B", lw=0.9)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.legend(fontsize=9)
    return figure


# --- 02, choosing a model -------------------------------------------------------------------


def front(
    points: Mapping[str, tuple[float, float]], kept: Sequence[bool] | np.ndarray, *, xlabel: str,
    ylabel: str, title: str = "",
) -> Figure:
    """Named points over a logarithmic x axis, and a line through those that nothing beats.

    `kept` says which those are; both axes are costs, so that down and to the left is better.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = plt.subplots()
    best = sorted(point for point, on in zip(points.values(), kept, strict=True) if on)
    axes.step(*zip(*best, strict=True), where="post", color=COLOURS[0], lw=1.4,
              label="nothing is better in both")
    for (name, (x, y)), on in zip(points.items(), kept, strict=True):
        axes.plot(x, y, "o", color=COLOURS[0] if on else "#6B6B6B", ms=7 if on else 5)
        axes.annotate(name, (x, y), xytext=(6, 5), textcoords="offset points", fontsize=9)
    axes.set(xscale="log", xlabel=xlabel, ylabel=ylabel, title=title)
    axes.margins(x=0.18, y=0.12)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend()
    return figure
