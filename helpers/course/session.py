"""How a notebook begins: repeatable, quiet, with or without the hub, its versions told."""

from __future__ import annotations

import logging
import os
import platform
import random
import sys
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

from helpers import profiles
from helpers.engine import hub
from helpers.engine.artifacts import session
from helpers.errors import UserError
from helpers.profiles import SOURCES, WORDS, Settings

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
    "GOMP_SPINCOUNT": "1000",  # where torch is not loaded yet; see paths.child_environment
}


def start(
    profile: str = "embedded", overrides: dict[str, Any] | None = None, seed: int = 0
) -> Settings:
    """Make a notebook repeatable and quiet, and return its settings.

    Fixes the number of threads, seeds `random`, NumPy and torch, asks torch for deterministic
    algorithms, silences progress bars and advice of the libraries, and sets the figure style.
    The hub is switched off when no setting names a hub id.

    Raises:
        UserError: unknown profile or key, or a value that cannot be meant.
    """
    if profile.endswith((".yaml", ".yml")):
        profile = str(Path(profile).expanduser().resolve())
    settings = profiles.load_profile(profile, overrides, seed)
    session.update(profile=profile, started=time.monotonic(),
                   stock=profile == "embedded" and not overrides)
    if settings.threads is not None:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = str(settings.threads)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    _hub(settings)
    quiet()
    _short_user_errors()
    _seed(settings)
    _style()
    return settings


def hub_ids(settings: Settings) -> list[str]:
    """The hub ids that the settings name; empty means that no network is needed."""
    flat = profiles.flatten(settings.as_dict())
    values = [*(flat.get(key) for key in SOURCES), *settings.models.candidates]
    return [
        v for v in values
        if isinstance(v, str) and v not in WORDS and hub.parse(v) and not os.path.exists(v)
    ]


def _hub(settings: Settings) -> None:
    if "HF_HUB_OFFLINE" in os.environ and not session.get("offline"):
        return  # the reader's own choice
    session["offline"] = not hub_ids(settings)
    if session["offline"]:
        os.environ["HF_HUB_OFFLINE"] = "1"
    else:
        os.environ.pop("HF_HUB_OFFLINE", None)
    constants: Any = sys.modules.get("huggingface_hub.constants")
    if constants is not None:  # read once at import, so a second start has to tell it
        constants.HF_HUB_OFFLINE = session["offline"]


def quiet() -> None:
    """Silence the advice and progress bars of the libraries, also of those loaded later."""
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


def _seed(settings: Settings) -> None:
    import numpy as np
    import torch

    random.seed(settings.seed)
    np.random.seed(settings.seed % 2**32)
    torch.manual_seed(settings.seed)
    if settings.threads is not None:
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
