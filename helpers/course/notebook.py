"""What the notebooks call: set-up, versions, the pipeline figure, headline metrics, verdicts."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import platform
import random
import re
import sys
import time
import warnings
from base64 import b64encode
from importlib import metadata
from pathlib import Path
from typing import Any

from helpers.errors import UserError

PACKAGES = (
    "torch", "transformers", "trl", "datasets", "accelerate", "peft", "gymnasium", "numpy",
    "ipywidgets",
)
NOISY = "transformers|datasets|trl|accelerate|peft|huggingface_hub|torch|bitsandbytes|gymnasium"
QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "BITSANDBYTES_NOWELCOME": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
# What the settings call a source that needs no hub; anything else is a path or a hub id.
WORDS = {"embedded", "scratch", "auto", "base", "sft", "preferences", "none"}
SOURCES = (
    "models.base", "models.imdb_policy", "models.reward_base", "models.classifier",
    "data.reviews", "data.preferences", "data.demonstrations",
)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

# The figure's boxes: notebook number, name, what it makes; the columns run from left to right.
STEPS = (
    ("01", "Feedback", "on a grid"),
    ("02", "Base model", "chosen"),
    ("03", "Fine-tuning", "SFT model"),
    ("04", "Reward model", "from pairs"),
    ("05", "PPO", "from scratch"),
    ("06", "PPO", "with TRL"),
    ("07", "Evaluation", "who won?"),
)

session: dict[str, Any] = {"profile": None, "started": time.monotonic()}


def start(profile: str = "embedded", overrides: dict[str, Any] | None = None, seed: int = 0):
    """Make a notebook repeatable and quiet, and return its settings.

    Fixes the number of threads, seeds `random`, NumPy and torch, asks torch for deterministic
    algorithms, silences progress bars and advice of the libraries, and sets the figure style.
    The hub is switched off when no setting names a hub id.

    Raises:
        UserError: unknown profile or key, or a value that cannot be meant.
    """
    from helpers import profiles

    if profile.endswith((".yaml", ".yml")):
        profile = str(Path(profile).expanduser().resolve())
    settings = profiles.load_profile(profile, overrides, seed)
    session.update(profile=profile, started=time.monotonic())
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(settings.threads)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    _hub(settings)
    _quiet()
    _short_user_errors()
    _seed(settings)
    _style()
    return settings


def hub_ids(settings) -> list[str]:
    """The hub ids that the settings name; empty means that no network is needed."""
    from helpers.profiles import flatten

    flat = flatten(settings.as_dict())
    values = [flat.get(key) for key in SOURCES]
    return [
        v for v in values
        if isinstance(v, str) and v not in WORDS and HUB_ID.fullmatch(v) and not Path(v).exists()
    ]


def _hub(settings) -> None:
    if "HF_HUB_OFFLINE" in os.environ and not session.get("offline"):
        return  # the reader's own choice
    session["offline"] = not hub_ids(settings)
    if session["offline"]:
        os.environ["HF_HUB_OFFLINE"] = "1"
    else:
        os.environ.pop("HF_HUB_OFFLINE", None)
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:  # read once at import, so a second start has to tell it
        constants.HF_HUB_OFFLINE = session["offline"]


def _quiet() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", module=rf"({NOISY})(\.|$)")
    warnings.filterwarnings("ignore", message=r".*(pin_memory|use_deterministic_algorithms).*")
    warnings.filterwarnings("ignore", message=r".*does not have a deterministic implementation.*")
    for name in NOISY.split("|"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if "transformers" in sys.modules:
        from transformers.utils import logging as hf_logging

        hf_logging.set_verbosity_error()
        hf_logging.disable_progress_bar()


def _short_user_errors() -> None:
    """Show a UserError in a notebook as its one sentence, still as an error of the cell."""
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()
    if shell is None:
        return

    def show(self, kind, error, trace, tb_offset=None):
        self._showtraceback(kind, error, [f"{kind.__name__}: {error}"])

    shell.set_custom_exc((UserError,), show)


def _seed(settings) -> None:
    import numpy as np
    import torch

    random.seed(settings.seed)
    np.random.seed(settings.seed % 2**32)
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)


def _style() -> None:
    try:
        from helpers import plots
    except ImportError:
        return
    plots.use_style()


def versions() -> None:
    """Print the Python and library versions this notebook runs on, and the device."""
    import torch

    rows = [("python", platform.python_version())]
    for name in PACKAGES:
        try:
            rows.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            rows.append((name, "not installed"))
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    rows.append(("device", f"{device}, {torch.get_num_threads()} threads"))
    print("\n".join(f"{name:<14}{version}" for name, version in rows))


def pipeline(number: str) -> None:
    """Draw the course from left to right with one notebook lit.

    The colours are middle tones with white letters on a transparent ground, so that the picture
    reads on a light page and on a dark one.
    """
    number = f"{int(number):02d}" if str(number).isdigit() else str(number)
    if number not in [step[0] for step in STEPS]:
        known = ", ".join(step[0] for step in STEPS)
        raise UserError(f"the pipeline has no notebook {number!r}; it has {known}.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    figure = Figure(figsize=(10, 1.15), dpi=100, layout="none")
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
        get_ipython = None
    if get_ipython is None or get_ipython() is None:
        print(bundle["text/plain"])
    else:
        display(bundle, raw=True)


def record(**metrics: float) -> None:
    """Print headline numbers and hand them to the runner for `summary.json`.

    A number that is not finite is recorded as missing (null), since JSON has no other word.

    Raises:
        UserError: a value that is not a number.
    """
    tidy: dict[str, float | int | None] = {}
    for name, value in metrics.items():
        tidy[name] = _number(name, value)
    width = max((len(name) for name in tidy), default=0)
    for name, value in tidy.items():
        print(f"{name:<{width}}  {'not a finite number' if value is None else f'{value:.4g}'}")
    target = os.environ.get("RLHF_METRICS_FILE")
    if target:
        with open(target, "a", encoding="utf-8") as file:
            file.write(json.dumps(tidy) + "\n")


def benchmark(name: str) -> dict[str, Any] | None:
    """What `benchmarks/<name>.py` last stored, and a line that says when, where and at what commit.

    None, and the command that would make it, where nothing is stored.
    """
    from helpers.profiles import ROOT

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


def verdict(
    claim: str, estimate: float, low: float, high: float, null: float = 0.0, unit: str = ""
) -> None:
    """Print whether a claim is shown, from its number and its interval.

    Args:
        claim: what an interval wholly above `null` shows, such as "PPO beats SFT".
        estimate, low, high: the number and its interval's ends.
        null: the value of no difference, 0.5 for a win rate.
        unit: written after each number; "%" turns shares into per cent.
    """
    print(verdict_sentence(claim, estimate, low, high, null, unit))


def verdict_sentence(
    claim: str, estimate: float, low: float, high: float, null: float = 0.0, unit: str = ""
) -> str:
    """The sentence that `verdict` prints."""
    numbers = [float(x) for x in (estimate, low, high, null)]
    if not all(math.isfinite(x) for x in numbers):
        return f"{claim}: cannot be judged, a number is not finite."
    estimate, low, high, null = numbers
    if low > high:
        raise UserError(f"verdict {claim!r}: the interval [{low:g}, {high:g}] is upside down.")
    scale, digits = (100.0, 0) if unit == "%" else (1.0, _digits(low, high, estimate))
    for more in range(4):  # an end must not look like the null when it is not
        value, below, above, zero = (
            f"{scale * x:z.{digits + more}f}" for x in (estimate, low, high, null))
        if zero not in (below, above) or null in (low, high):
            break
    space = f" {unit}" if unit else ""
    interval = f"{value}{space} [{below}, {above}]"
    if low > null:
        return f"{claim}: {interval}."
    if high < null:
        return f"{claim}: no, the opposite: {interval}, all below {zero}{space}."
    return f"{claim}: no difference shown: {interval}, an interval that holds {zero}{space}."


def _digits(*values: float) -> int:
    size = max(abs(v) for v in values)
    return 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 3
