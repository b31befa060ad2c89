"""`python -m helpers doctor`: what is here, what is wanted, what would not work.

Imports nothing but the standard library at the top, so that it runs where the rest does not.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from helpers.course import environment
from helpers.paths import ROOT

OPTIONAL = {
    "bitsandbytes": "QLoRA in notebook 04 and the profile a100 need it",
    "playwright": "the tests of the rating widgets in a browser need it",
    "jupyterlab": "`make lab` needs it",
    "tornado": "`python -m helpers label` needs it",
    "nbval": "`make regress` needs it",
    "pytest": "`make test` needs it",
    "pytest-xdist": "`make test` shares the tests among the cores with it",
    "hypothesis": "the tests of arbitrary files and rows need it",
    "ruff": "`make lint` needs it",
    "check-jsonschema": "`make lint` needs it",
}
NEEDED_GB = {"memory": 4.0, "disk": 2.0}
DATA = (
    "data/reviews/train.parquet", "data/preferences/train.jsonl.gz",
    "data/demonstrations/train.jsonl.gz", "data/models/base/model.safetensors",
    "data/models/classifier/model.safetensors",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def doctor() -> int:
    """Print the findings; 0 unless something that the embedded course needs is missing."""
    broken: list[str] = []
    limits: list[str] = []
    print(f"Python       {platform.python_version()} ({platform.system()} {platform.machine()})")
    print(f"Environment  {_environment()}")
    _packages(broken, limits)
    _machine(broken, limits)
    _files(broken)
    _tools(limits)
    print()
    for text in broken:
        print(f"MISSING  {text}")
    for text in limits:
        print(f"limit    {text}")
    print("Not everything the course needs is here." if broken else
          "The course runs here under the embedded profile.")
    return 1 if broken else 0


def _environment() -> str:
    if environment.inside():
        return ".venv" if environment.is_current() else (
            ".venv, not up to date: run `python -m helpers setup`")
    where = "conda" if os.environ.get("CONDA_PREFIX") == sys.prefix else (
        "another virtual environment" if sys.prefix != sys.base_prefix else "this Python's own")
    ready = " (.venv is not made yet: `python -m helpers setup`)" if not os.environ.get(
        "RLHF_NO_VENV") else ""
    return where + ready


def pins(path: Path = ROOT / "requirements.txt") -> dict[str, str]:
    """The pinned versions by package name."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        match = re.match(r"([A-Za-z0-9_.-]+)==([^\s#;]+)", line)
        if match:
            found[match[1]] = match[2]
    return found


def ranges(path: Path = ROOT / "pyproject.toml",
           extras: Sequence[str] | None = None) -> dict[str, str]:
    """The version ranges that the course accepts, by package name.

    Args:
        extras: the groups of optional packages that are meant too; None: all of them.
    """
    import tomllib

    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    groups = project.get("optional-dependencies", {})
    specs = [*project["dependencies"], *(spec for name, group in groups.items()
                                         if extras is None or name in extras for spec in group)]
    parts = [re.match(r"([A-Za-z0-9_.-]+)\s*(.*)", spec) for spec in specs]
    return {m[1]: m[2].replace(" ", "") for m in parts if m}


def admits(spec: str, version: str) -> bool:
    """Whether a version meets a range such as `>=2.11,<3` (numbers only, no pre-releases)."""
    def numbers(text: str) -> tuple[int, ...]:
        digits = tuple(int(n) for n in re.findall(r"\d+", re.split(r"[+a-z]", text)[0]))
        return digits + (0,) * (4 - len(digits))

    have = numbers(version)
    tests = {
        ">=": have.__ge__, "<=": have.__le__, "==": have.__eq__, "!=": have.__ne__,
        ">": have.__gt__, "<": have.__lt__,
    }
    for part in filter(None, spec.split(",")):
        match = re.match(r"(>=|<=|==|!=|>|<)(.+)", part)
        if match and tests[match[1]](numbers(match[2])) is not True:
            return False
    return True


def _packages(broken: list[str], limits: list[str]) -> None:
    accepted = ranges()
    print(f"\n{'package':<18} {'installed':<14} {'tested with':<14} accepted")
    for name, wanted in pins().items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            version = None
        spec = accepted.get(name, "")
        print(f"{name:<18} {version or '-':<14} {wanted:<14} {spec or 'any'}")
        if version is None:
            if name in OPTIONAL:
                limits.append(f"{name} is not installed: {OPTIONAL[name]}.")
            else:
                broken.append(f"{name} {wanted} is not installed: run `python -m helpers setup`.")
        elif spec and not admits(spec, version):
            broken.append(f"{name} is {version}, the course needs {spec}: run "
                          "`python -m helpers setup`.")


def _machine(broken: list[str], limits: list[str]) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"\nCPU          {cores} cores usable")
    if importlib.util.find_spec("torch"):
        _torch(limits)
    if importlib.util.find_spec("psutil"):
        import psutil

        free = psutil.virtual_memory().available / 2**30
        print(f"Memory       {free:.1f} GB free")
        if free < NEEDED_GB["memory"]:
            limits.append(f"only {free:.1f} GB of memory are free; the embedded course needs up to "
                          f"{NEEDED_GB['memory']:.0f}.")
    free = shutil.disk_usage(ROOT).free / 2**30
    print(f"Disk         {free:.1f} GB free")
    if free < NEEDED_GB["disk"]:
        limits.append(f"only {free:.1f} GB of disk are free; stages and executed notebooks need up "
                      f"to {NEEDED_GB['disk']:.0f}.")
    if not os.access(ROOT, os.W_OK):
        broken.append("the course's folder cannot be written to: runs/ and artifacts/ go there; "
                      "give --out DIR or copy the course elsewhere.")


def _torch(limits: list[str]) -> None:
    try:
        import torch
    except Exception as error:  # a broken binary raises what it likes
        limits.append(f"torch is installed but cannot be loaded ({error}): install it again with "
                      "`python -m helpers setup`.")
        return
    print(f"             {torch.get_num_threads()} threads in torch, "
          f"bf16 instructions: {'yes' if cpu_bf16() else 'no'}")
    if not torch.cuda.is_available():
        print("GPU          none that torch can use")
        limits.append("no CUDA device: the profiles gpt2 and a100 would take days; embedded and "
                      "smollm2 need none.")
        return
    device = torch.cuda.get_device_properties(0)
    size = device.total_memory / 2**30
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    print(f"GPU          {device.name}, {size:.0f} GB, bf16: {'yes' if bf16 else 'no'}")
    if size < 15:
        limits.append(f"{size:.0f} GB of GPU memory: the profile gpt2 is meant for 16.")
    if size < 38:
        limits.append(f"{size:.0f} GB of GPU memory: the profile a100 is meant for 40.")
    if not bf16:
        limits.append("the GPU has no bf16 of its own: with dtype=auto all stays in float32.")


def cpu_bf16() -> bool:
    """Whether the CPU has bf16 instructions (known on Linux and macOS)."""
    if sys.platform == "darwin":
        asked = ["sysctl", "-n", "hw.optional.arm.FEAT_BF16"]
        done = subprocess.run(asked, capture_output=True, text=True)
        return done.stdout.strip() == "1"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags or " bf16" in flags


def _files(broken: list[str]) -> None:
    missing = [name for name in DATA if not (ROOT / name).is_file()]
    notebooks = len(list((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")))
    print(f"Data         {len(DATA) - len(missing)} of {len(DATA)} files of the embedded world")
    print(f"Notebooks    {notebooks}")
    if missing:
        broken.append(f"{', '.join(missing)}: restore with `git checkout data` or make with "
                      "`python -m helpers data`.")
    if not notebooks:
        broken.append("no notebooks are in notebooks/.")


def _tools(limits: list[str]) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    print(f"Browser      {Path(browser).name if browser else 'no Chromium found'}")
    if browser is None:
        limits.append("no Chromium: the browser tests of the rating widgets cannot run (on Debian "
                      "and Ubuntu: `apt install chromium`).")
    if shutil.which("git") is None:
        limits.append("no git: stored results cannot name the commit they were made at.")
