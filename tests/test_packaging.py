"""One list of pins, ranges that admit them, and every command where it is said to be."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from helpers.course import cli, doctor, environment, execute, fit
from helpers.engine import hub
from helpers.paths import ROOT
from helpers.profiles import load_profile, profile_names

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What a hosted Colab runtime had in August 2026.
COLAB = {"torch": "2.11.0", "transformers": "5.15.0", "numpy": "2.1.0",
         "ipywidgets": "7.7.1", "ipykernel": "6.17.1"}
# import name: distribution, where they differ
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "PyYAML", "sklearn": "scikit-learn",
                 "spellchecker": "pyspellchecker",
                 "IPython": "ipykernel", "cycler": "matplotlib"}


def test_every_requirement_is_an_exact_pin_with_a_reason():
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            assert re.fullmatch(r"[\w-]+==[\w.]+ +# .+", line), line


def test_ranges_admit_the_pins_and_name_the_same_packages():
    pins, ranges = doctor.pins(), doctor.ranges()
    assert set(pins) == set(ranges)
    for name, version in pins.items():
        assert doctor.admits(ranges[name], version), f"{name} {version} is not in {ranges[name]}"


def test_ranges_admit_colab():
    ranges = doctor.ranges()
    for name, version in COLAB.items():
        assert doctor.admits(ranges[name], version), f"{name} {version} is not in {ranges[name]}"
    assert not doctor.admits(ranges["datasets"], "4.0.0")  # which Colab has and TRL replaces


def test_ranges_admit_nothing_that_trl_refuses():
    """Of TRL one release will do; what it does not take, pip would replace unannounced."""
    ranges = doctor.ranges()
    asked = dict(re.fullmatch(r"([\w.-]+)(.*)", text).groups()
                 for text in importlib.metadata.requires("trl") if ";" not in text)
    assert {"datasets", "transformers", "accelerate"} <= set(asked)
    for name in set(asked) & set(ranges):
        least = re.search(r">=([\w.]+)", ranges[name])[1]
        assert doctor.admits(asked[name], least), f"TRL asks for {name}{asked[name]}"


def test_ranges_keep_out_the_trl_that_has_no_ppo():
    assert doctor.admits(doctor.ranges()["trl"], "1.12.0")
    assert not doctor.admits(doctor.ranges()["trl"], "1.13.0")


@pytest.mark.parametrize("spec, version, verdict", [
    (">=2.11", "2.11.0+cpu", True), (">=2.11", "2.9.1", False), (">=1.12,<1.13", "1.12.5", True),
    (">=5,<6", "6.0", False), ("", "1", True), ("!=1.0", "1.0.0", False),
])
def test_ranges_are_understood(spec, version, verdict):
    assert doctor.admits(spec, version) is verdict


def test_the_tested_versions_are_the_installed_ones():
    for name, version in doctor.pins().items():
        try:
            installed = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            pytest.fail(f"{name} is not installed")
        if doctor.ranges()[name] and installed != version:
            assert doctor.admits(doctor.ranges()[name], installed), f"{name} {installed}"


def test_conda_reads_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, extra = environment["dependencies"]
    assert pip == "pip" and extra == {"pip": ["-r requirements.txt"]}
    assert tuple(map(int, python.removeprefix("python=").split("."))) >= (3, 11)
    assert environment["name"] == PROJECT["name"] == "rlhf-notebooks"


@pytest.mark.parametrize("profile", profile_names())
def test_every_hub_id_of_a_profile_stands_with_its_licence_in_the_readme(profile):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[([\w./-]+)\]\(\S+\) \| .+ \| (.+) \|$", readme, re.M))
    for download in fit.downloads(load_profile(profile)):
        assert rows[hub.parse(download.source).repo]


def imported(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def test_everything_imported_is_a_direct_dependency():
    sources = {}
    for folder in ("helpers", "tests", "data", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            sources[path.relative_to(ROOT)] = path.read_text(encoding="utf-8")
    for path in execute.notebooks().values():
        cells = execute.read_notebook(path)["cells"]
        code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        sources[path.name] = "\n".join(c for c in code if not re.search(r"^[%!]", c, re.M))
    own = {p.stem for folder in ("helpers", "tests", "data", "benchmarks")
           for p in [ROOT / folder, *(ROOT / folder).rglob("*")]}
    pins = {name.lower() for name in doctor.pins()}
    for where, source in sources.items():
        for name in imported(source) - sys.stdlib_module_names - own:
            assert DISTRIBUTIONS.get(name, name).lower() in pins, f"{where} imports {name}"


def test_the_wheel_holds_settings_and_all_packages():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    tool = tomllib.loads(text)["tool"]["setuptools"]
    found = {str(p.parent.relative_to(ROOT)).replace("/", ".").replace("\\", ".")
             for p in (ROOT / "helpers").rglob("__init__.py")}
    assert set(tool["packages"]) == found
    assert "settings/*.yaml" in tool["package-data"]["helpers"]


def test_every_make_target_is_one_command_of_the_course():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.M)[1].split())
    rules = dict(re.findall(r"^([\w-]+):\n((?:\t.*\n)+)", text, re.M))
    assert phony == set(rules)
    assert phony >= {"setup", "course", "test", "test-slow", "regress", "bench", "data", "sync",
                     "lab", "lint"}
    for target, recipe in rules.items():
        arguments = re.fullmatch(r"\t\$\(PYTHON\) -m helpers (.*)\n", recipe)
        assert arguments, f"{target} is not one line of `python -m helpers`"
        parsed = cli.build_parser().parse_args(
            arguments[1].replace("$(PROFILE)", "embedded").split())
        assert parsed.command == target


def test_the_settings_and_stamp_inputs_exist():
    for name in (*environment.INPUTS, "LICENSE", "environment.yml", ".ci/run"):
        assert (ROOT / name).is_file(), name


def test_importing_helpers_loads_nothing_that_is_not_pythons_own():
    code = ("import sys; before = set(sys.modules); import helpers\n"
            "print(*{name.partition('.')[0] for name in set(sys.modules) - before})")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, text=True,
                          capture_output=True)
    assert set(done.stdout.split()) - set(sys.stdlib_module_names) == {"helpers"}


@pytest.mark.parametrize("module", [
    "course", "profiles", "data", "world", "sentiment", "feedback", "gridworld", "errors"])
def test_light_modules_load_no_torch(module):
    code = f"import sys; import helpers.{module}; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_helpers_are_found_by_name():
    import helpers

    assert helpers.errors.UserError
    assert {"course", "profiles", "data"} <= set(dir(helpers))
    with pytest.raises(AttributeError):
        _ = helpers.nothing


FORMS = {"CITATION.cff": "vendor.citation-file-format",
         ".github/ISSUE_TEMPLATE/config.yml": "vendor.github-issue-config",
         **{f".github/ISSUE_TEMPLATE/{name}.yml": "vendor.github-issue-forms"
            for name in ("bug", "text", "ran_it")}}


@pytest.mark.parametrize("name", FORMS)
def test_what_github_reads_is_of_its_form(name):
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is missing (extra check)")
    done = subprocess.run([sys.executable, "-m", "check_jsonschema", "--builtin-schema",
                           FORMS[name], str(ROOT / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_form_is_checked_and_the_citation_is_of_this_version():
    there = {p.relative_to(ROOT).as_posix() for p in (ROOT / ".github/ISSUE_TEMPLATE").iterdir()}
    assert there == {name for name in FORMS if name.startswith(".github")}
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["version"], cited["license"]) == (PROJECT["version"], PROJECT["license"])


def test_the_hooks_before_a_commit_run_commands_of_the_course():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    for hook in hooks["repos"][0]["hooks"]:
        words = hook["entry"].split()
        assert words[:3] == ["python", "-m", "helpers"]
        given = cli.parse(words[3:])
        assert all((ROOT / name).is_file() for name in given.rest)
