"""`make hub`: the notebooks under the profiles that load from the hub, against a local one.

    python tests/hub/course.py [--profiles gpt2 a100 smollm2 distilgpt2] [--notebooks 02,03,…]

Ids, file names, formats and habits are the hub's, weights are tiny and random; `overrides.yaml`
cuts rows, steps, lengths and batches and nothing else; `distilgpt2` is the README's line for a
reward model on it, with the same cuts. After each notebook it is asked what was active (dtype,
adapters, four-bit modules, head) and which files were fetched, the AI judge's by 10. Profiles run
side by side, each against a hub of its own, in one thread. Prints a table and writes
`runs/hub/summary.json`; exit status 1 when anything is not as the profile says.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import content
from server import LocalHub

from helpers.course import cli
from helpers.engine import hub as hub_ids
from helpers.paths import ROOT, child_environment
from helpers.profiles import load_profile

PROFILES = ("gpt2", "a100", "smollm2")
LINE = "distilgpt2"
OVERRIDES = Path(__file__).with_name("overrides.yaml")
NOTEBOOKS = ("02", "03", "04", "05", "06", "07", "08", "09", "10")
# 08 and 10 are run under every profile: adapters or none make two ways through 08, 10 needs its
# stages, and every profile has a judge of its own. 09 samples and scores as these two do, and all
# else in it is stored: once is enough, where a laptop would run it.
ONCE = {"09": "smollm2"}
RUNS = ROOT / "runs" / "hub"
MOST_MEMORY_MB = 6 * 1024
# files that no profile needs: other splits and folders, and weights that execute code when read
UNWANTED = re.compile(
    r"unsupervised|red-team|\.bin$|shp_2|stack_exchange|nectar|ultrafeedback_mean|_sft-|_gen-")


def real_data(spare: Path) -> Path:
    """The folder of real rows or, where there is none, embedded rows in the same files."""
    folder = Path(os.environ.get("RLHF_REAL_DATA") or ROOT.parent / "shared" / "data")
    if (folder / "imdb").is_dir():
        return folder
    print("No real data here (RLHF_REAL_DATA): the hub serves rows of the embedded world.")
    return content.stand_in(spare)


def readme_line() -> list[str]:
    """What the README gives to `python -m helpers` for a reward model on DistilGPT2."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    [line] = re.findall(rf"^python -m helpers (run .*{LINE}.*)$", text, re.M)
    return shlex.split(line)


def run(begin: list[str], notebook: str, out: Path, hub: LocalHub, cache: Path) -> dict:
    """One notebook in a process of its own: its row of the summary, and what it fetched.

    `begin`: the arguments of `python -m helpers`, without the cuts.
    """
    cuts = yaml.safe_load(OVERRIDES.read_text(encoding="utf-8"))
    hub.requests.clear()
    done = subprocess.run(
        [sys.executable, "-m", "helpers", *begin, "--out", str(out),
         *(f"--set={key}={value}" for key, value in cuts.items())],
        cwd=ROOT, env=child_environment(RLHF_NO_VENV="1", **hub.environment(cache)),
        capture_output=True, text=True)
    try:
        notebooks = json.loads(next(out.rglob("summary.json")).read_text())["notebooks"]
        row = next(row for name, row in notebooks.items() if name.startswith(notebook))
    except (StopIteration, OSError, ValueError):
        row = {"status": "failed", "error": {"message": done.stderr.strip()[-300:]}}
    return {**row, "fetched": sorted(hub.fetched())}


def verdict(row: dict, profile: str, notebook: str, out: Path) -> str:
    """"ok", or the first thing that is not as it should be."""
    if row["status"] != "ok":
        error = row["error"]
        return f"cell {error.get('cell', '?')}: {error.get('kind', '')} {error['message']}".strip()
    if row["peak_memory_mb"] > MOST_MEMORY_MB:
        return f"took {row['peak_memory_mb']:.0f} MB of memory, more than {MOST_MEMORY_MB}"
    if unwanted := [name for name in row["fetched"] if UNWANTED.search(name)]:
        return f"fetched {unwanted[0]}, which it does not need"
    if notebook == "10":
        judge = hub_ids.parse(load_profile(profile).models.judge).repo
        if not any(name.startswith(f"{judge}/") for name in row["fetched"]):
            return f"did not ask {judge}, the profile's judge"
    stages = {"03": ["sft"], "04": ["reward_model"], "05": ["ppo"], "06": ["ppo_trl"],
              "08": ["best_of_n_sft", "dpo", "rloo"]}
    for stage in stages.get(notebook, []):
        if wrong := not_as_said(stage, profile, out):
            return f"{stage}: {wrong}"
    return "ok"


def not_as_said(stage: str, profile: str, out: Path) -> str | None:
    """What a stage was made with, against what its profile says; None when they agree."""
    settings = load_profile(profile, {"out": str(out)}).models
    info = json.loads((load_profile(profile, {"out": str(out)}).artifacts / stage / "stage.json")
                      .read_text(encoding="utf-8"))
    made = info["made_with"]
    part = "reward" if stage == "reward_model" else "policy"
    four_bit = settings.quantise == "nf4" and part in settings.quantised
    wanted = {"adapters": settings.lora, "four_bit": four_bit, "trained_in": ["float32"]}
    found = {"adapters": made["adapters"], "four_bit": made["four_bit_modules"] > 0,
             "trained_in": made["trained_in"]}
    if not found["trained_in"]:  # frozen again before it was stored
        del wanted["trained_in"]
    for key, value in wanted.items():
        if found[key] != value:
            return f"{key} is {found[key]}, the profile says {value}"
    if part == "reward" and not made["head_trained"]:
        return "the head was not trained"
    return None


def numbers(name: str, asked: str | None = None) -> list[str]:
    """The notebooks to run under a profile: those asked for, or all that are worth it there."""
    if name == LINE:
        return ["04"]
    if asked:
        return asked.split(",")
    return [number for number in NOTEBOOKS if ONCE.get(number, name) == name]


def run_profile(
    name: str, notebooks: list[str], root: Path, spare: Path,
    told: Callable[[str, str, dict], None],
) -> None:
    """A profile's notebooks in turn, against a hub of its own; `told` hears of each."""
    profile = "gpt2" if name == LINE else name
    out, cache = RUNS / name, spare / "cache" / name
    shutil.rmtree(out, ignore_errors=True)
    with LocalHub(root) as hub:
        hub.revisions = content.pins()
        for notebook in notebooks:
            begin = readme_line() if name == LINE else [
                "run", "--profile", profile, "--notebooks", notebook]
            row = run(begin, notebook, out, hub, cache)
            told(name, notebook, {**row, "verdict": verdict(row, profile, notebook, out)})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profiles", nargs="+", default=[*PROFILES, LINE],
                        choices=[*PROFILES, LINE])
    parser.add_argument("--notebooks", metavar="NN,NN")
    arguments = parser.parse_args()
    table: dict[str, dict[str, str]] = {name: {} for name in arguments.profiles}
    lock = threading.Lock()

    def told(name: str, notebook: str, row: dict) -> None:
        with lock:
            table[name][notebook] = row["verdict"]
            print(f"{name:<10} {notebook}  {row.get('seconds', 0):>6.0f} s "
                  f"{row.get('peak_memory_mb', 0):>6.0f} MB  {row['verdict']}", flush=True)
            RUNS.mkdir(parents=True, exist_ok=True)
            (RUNS / "summary.json").write_text(
                json.dumps(table, indent=2) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder:
        spare = Path(folder)
        root = content.build(spare / "hub", real_data(spare / "rows"))
        # one more than share the tests: these wait for kernels to start
        with ThreadPoolExecutor(min(len(table), cli.workers() + 1)) as pool:
            for done in [pool.submit(run_profile, name, numbers(name, arguments.notebooks), root,
                                     spare, told) for name in table]:
                done.result()
    return int(any(v != "ok" for row in table.values() for v in row.values()))


if __name__ == "__main__":
    sys.exit(main())
