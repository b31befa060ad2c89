"""What a notebook tells: where it stands in the course, its figures, and what they show."""

from __future__ import annotations

import html
import io
import json
import math
import os
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.course import luck
from helpers.engine.artifacts import session
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profiles import Settings

# The figure's boxes: notebook number, name, what it makes; the columns run from left to right.
STEPS = (
    ("01", "Feedback", "on a grid"),
    ("02", "Base model", "chosen"),
    ("03", "Fine-tuning", "SFT model"),
    ("04", "Reward model", "from pairs"),
    ("05", "PPO", "from scratch"),
    ("06", "PPO", "with TRL"),
    ("07", "Evaluation", "who won?"),
    ("08", "Beyond PPO", "one objective"),
    ("09", "Too far", "proxy and gold"),
    ("10", "Your labels", "and their use"),
)


def pipeline(number: str) -> None:
    """Draw the course from left to right with one notebook lit.

    The colours are middle tones with white letters on a transparent ground, so that the picture
    reads on a light page and on a dark one.
    """
    number = f"{int(number):02d}" if str(number).isdigit() else str(number)
    if number not in [step[0] for step in STEPS]:
        known = ", ".join(step[0] for step in STEPS)
        raise UserError(f"the pipeline has no notebook {number!r}; it has {known}.")
    session["notebook"] = number
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    figure = Figure(figsize=(1.25 * len(STEPS), 1.15), dpi=100,
                    layout="none")  # pyright: ignore[reportArgumentType]  # no stub has "none"
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.08, len(STEPS) - 0.06), ylim=(0, 1))
    axes.axis("off")
    for column, (step, name, makes) in enumerate(STEPS):
        lit = step == number
        axes.add_patch(FancyBboxPatch(
            (column, 0.14), 0.76, 0.72, boxstyle="round,pad=0.02,rounding_size=0.06",
            facecolor="#b3480f" if lit else "#5c6f82", edgecolor="none", mutation_aspect=1.4))
        for y, text in ((0.72, step), (0.5, name), (0.28, makes)):
            axes.text(column + 0.38, y, text, ha="center", va="center", color="white", fontsize=8.6,
                      fontweight="bold" if text == name else "normal", family="DejaVu Sans")
        if column < len(STEPS) - 1:
            axes.annotate("", (column + 0.97, 0.5), (column + 0.79, 0.5), annotation_clip=False,
                          arrowprops={"arrowstyle": "-|>", "color": "#8a97a5", "lw": 1.6})
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True)
    names = [f"[{step} {name}]" if step == number else f"{step} {name}" for step, name, _ in STEPS]
    _show({"image/png": b64encode(buffer.getvalue()).decode(), "text/plain": " → ".join(names)})


def _show(bundle: dict[str, str]) -> None:
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        get_ipython = display = None
    if get_ipython is None or display is None or get_ipython() is None:
        print(bundle["text/plain"])
    else:
        display(bundle, raw=True)


def record(**metrics: float) -> None:
    """Print headline numbers and hand them to the runner for `summary.json`.

    A number that is not finite is recorded as missing (null), since JSON has no other word. Under
    the embedded profile as it stands, the range of the stored runs with other seeds and on other
    machines, some of earlier code, is printed behind each number that has one.

    Raises:
        UserError: a value that is not a number.
    """
    tidy: dict[str, float | int | None] = {}
    for name, value in metrics.items():
        tidy[name] = _number(name, value)
    ranges = stored_runs()
    width = max((len(name) for name in tidy), default=0)
    for name, value in tidy.items():
        shown = "not a finite number" if value is None else f"{value:.4g}"
        if name in ranges:
            of = ranges[name]
            shown = f"{shown:<11}{of}"
        print(f"{name:<{width}}  {shown}")
    target = os.environ.get("RLHF_METRICS_FILE")
    if target:
        with open(target, "a", encoding="utf-8") as file:
            file.write(json.dumps(tidy) + "\n")


def stored_runs() -> dict[str, luck.Spread]:
    """The range of each metric of this notebook in stored runs, other seeds and other machines.

    Empty unless the notebook runs under the embedded profile as it stands, as those runs did.
    """
    stock = session.get("stock") and session.get("notebook")
    return luck.spread(session["notebook"]) if stock else {}


def benchmark(name: str) -> dict[str, Any] | None:
    """What `benchmarks/<name>.py` last stored, and a line that says when, where and at what commit.

    None, and the command that would make it, where nothing is stored.
    """
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    if not path.is_file():
        print(f"Nothing is stored of this benchmark; `python benchmarks/{name}.py` makes it.")
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    print(f"From benchmarks/results/{path.name}: {stored['date']}, commit {stored['commit']}, "
          f"{stored['machine']}.")
    return stored


def _number(name: str, value: Any) -> float | int | None:
    if hasattr(value, "item"):  # a NumPy or torch scalar
        try:
            value = value.item()
        except (ValueError, RuntimeError):
            value = None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"metric {name} is {value!r}; course.record takes single numbers.")
    return value if math.isfinite(value) else None


HH = ("hh-rlhf", "anthropic_hh", "preference-datasets-tulu")  # names that Anthropic's HH goes by


def text_warning(settings: Settings) -> None:
    """Print a word of warning where texts of Anthropic's HH are about to be shown; else nothing.

    Its authors collected attempts to draw harm out of a model, and kept what was said.
    """
    named = (settings.data.preferences, settings.data.demonstrations)
    if any(name in source.lower() for source in named for name in HH):
        print("A warning: these dialogues are Anthropic's HH, in which people try to make a model "
              "do harm. They hold abuse, violence, prejudice and sexual content, and are shown as "
              "they are.")


def verdict(
    claim: str, estimate: float, low: float, high: float, null: float | None = 0.0, unit: str = ""
) -> None:
    """Print whether a claim is shown, from its number and its interval.

    Args:
        claim: what an interval wholly above `null` shows, such as "PPO beats SFT".
        estimate, low, high: the number and its interval's ends.
        null: the value of no difference, 0.5 for a win rate; None where nothing is claimed, and
            `claim` names what was measured.
        unit: written after each number; "%" and "percentage points" turn shares into hundredths.
    """
    print(verdict_sentence(claim, estimate, low, high, null, unit))


def verdict_sentence(
    claim: str, estimate: float, low: float, high: float, null: float | None = 0.0, unit: str = ""
) -> str:
    """The sentence that `verdict` prints."""
    estimate, low, high = float(estimate), float(low), float(high)
    if not all(math.isfinite(x) for x in (estimate, low, high, null or 0.0)):
        return f"{claim}: cannot be judged, a number is not finite."
    if low > high:
        raise UserError(f"verdict {claim!r}: the interval [{low:g}, {high:g}] is upside down.")
    hundredths = unit in ("%", "percentage points")
    scale, digits = (100.0, 0) if hundredths else (1.0, _digits(low, high, estimate))
    value = below = above = zero = ""
    for more in range(4):  # an end must not look like the null when it is not
        value, below, above, zero = (
            f"{scale * x:z.{digits + more}f}" for x in (estimate, low, high, null or 0.0))
        if null is None or zero not in (below, above) or null in (low, high):
            break
    space = f" {unit}" if unit else ""
    interval = f"{value}{space} [{below}, {above}]"
    zero = zero if null else "0"
    words = claim.lstrip()  # what stands before them sets the line in, and stays before it
    margin = claim[: len(claim) - len(words)]
    if null is None or low > null:
        return f"{claim}: {interval}."
    if high < null:
        return f"{margin}The opposite of: {words}: {interval}, all below {zero}."
    return f"{margin}Not shown: {words}: {interval}, which holds {zero}."


def write_report(
    folder: Path, title: str,
    findings: Sequence[tuple[str, str, Sequence[float], float | None, str]],
) -> list[Path]:
    """One report in Markdown and in HTML: under each question its findings, a sentence each.

    Before them stands how many of the question's claims are shown, and of how many the opposite.

    Args:
        folder: made if it is not there; gets `report.md` and `report.html`.
        findings: (question, claim, (estimate, low, high), null, unit), the last four as `verdict`
            takes them; findings of one question need not follow each other.

    Returns:
        The two files.

    Raises:
        UserError: no findings.
    """
    if not findings:
        raise UserError("a report needs at least one finding; the list is empty.")
    by_question: dict[str, list[str]] = {}
    fates: dict[str, list[str]] = {}
    for question, claim, numbers, null, unit in findings:
        estimate, low, high = numbers
        by_question.setdefault(question, []).append(
            verdict_sentence(claim, estimate, low, high, null, unit))
        if null is not None:
            fates.setdefault(question, []).append(
                "shown" if low > null else "opposite" if high < null else "open")
    count = {question: _count(fates.get(question, [])) for question in by_question}
    markdown, page = [f"# {title}"], [f"<h1>{html.escape(title)}</h1>"]
    for question, said in by_question.items():
        markdown += [f"## {question}", *count[question],
                     "\n".join(f"- {sentence}" for sentence in said)]
        page += [f"<h2>{html.escape(question)}</h2>",
                 *(f"<p>{line}</p>" for line in count[question]), "<ul>",
                 *(f"<li>{html.escape(sentence)}</li>" for sentence in said), "</ul>"]
    folder.mkdir(parents=True, exist_ok=True)
    head = f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}'
    files = {"report.md": "\n\n".join(markdown) + "\n",
             "report.html": "\n".join([f"{head}</title>", *page, "</html>"]) + "\n"}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]


def _count(fates: Sequence[str]) -> list[str]:
    """How many claims are shown, in one line; no line where nothing is claimed."""
    if not fates:
        return []
    turned = fates.count("opposite")
    return [f"Shown: {fates.count('shown')} of {len(fates)}"
            + (f"; of {turned} the opposite." if turned else ".")]


def _digits(*values: float) -> int:
    size = max(abs(v) for v in values)
    return 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 3
