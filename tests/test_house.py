"""The plan of the house: floors, circles, doors, and the map in `helpers/__init__`."""

import ast
import json
import re
from graphlib import TopologicalSorter

import pytest

import helpers
from helpers.paths import ROOT

HOUSE = ROOT / "helpers"
# A room (a file at the door, or a folder) imports rooms of lower floors only. From the ground up.
FLOORS = (
    ("errors", "paths"),
    ("profiles", "ppo", "ppo_diagnostics", "gridworld", "quality", "world"),
    ("engine", "control", "plots", "exercises"),
    ("data", "generation", "sft", "feedback"),
    ("evaluation", "scratch", "widgets"),
    ("models",),
    ("judge", "reward", "ppo_trainer"),
    ("feedback_loop", "ppo_loop", "preference", "trl_adapter", "course"),
)
# Files and folders, `settings` counted, `__init__` and `__main__` not; 29 with `quality`, `judge`
# and `preference`, which the design puts at the door.
MOST_AT_THE_DOOR = 29
DYNAMIC = {"__init__.py", "course/__init__.py"}  # the only files that import by a computed name


def files():
    return sorted(HOUSE.rglob("*.py"))


def name_of(path):
    """Dotted name below `helpers`; a package is named without `__init__`."""
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in files()}


def imports(path):
    """Modules of the house that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports by dots hide where they go"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            assert path.relative_to(HOUSE).as_posix() in DYNAMIC, f"{path}: a hidden import"
    inside = {name.removeprefix("helpers.") for name in found if name.startswith("helpers.")}
    return (inside & set(MODULES)) - {name_of(path)}


def room(module):
    return module.partition(".")[0]


def doors():
    found = {p.stem for p in HOUSE.glob("*.py")} | {p.name for p in HOUSE.iterdir() if p.is_dir()}
    return found - {"__init__", "__main__", "__pycache__"}


def test_every_room_stands_on_one_floor():
    placed = [name for floor in FLOORS for name in floor]
    assert len(placed) == len(set(placed))
    assert set(placed) == doors() - {"settings"}


@pytest.mark.parametrize("module", [name for name in MODULES if name and name != "__main__"])
def test_imports_run_down(module):
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    for other in imports(MODULES[module]):
        if room(other) != room(module):
            assert floor[room(other)] < floor[room(module)], f"{module} imports {other}"


@pytest.mark.parametrize("folder", sorted(
    path.parent.name for path in HOUSE.glob("*/__init__.py")))
def test_no_circle_inside_a_folder(folder):
    inside = {name for name in MODULES if room(name) == folder}
    faces = {name for name in inside if MODULES[name].name == "__init__.py"}
    TopologicalSorter({  # raises CycleError; a face is imported with every part, and hands on
        name: {other for other in imports(MODULES[name]) & inside if other not in faces}
        for name in inside - faces}).prepare()


def test_what_the_face_of_the_course_hands_on_stands_in_lower_rooms_or_in_its_own():
    from helpers import course

    assert {place.partition(".")[0] for place in course._API.values()} <= {"course", "engine"}


def public_functions(body):
    """Functions of a module and methods of its classes that others may call, `__init__` too."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if not node.name.startswith("_") or node.name == "__init__":
                yield node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body)


@pytest.mark.parametrize("module", list(MODULES))
def test_every_public_function_says_what_it_takes_and_gives(module):
    bare = []
    for node in public_functions(ast.parse(MODULES[module].read_text(encoding="utf-8")).body):
        a = node.args
        given = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        bare += [f"{node.name}: {arg.arg}" for arg in given
                 if arg.annotation is None and arg.arg not in ("self", "cls")]
        bare += [f"{node.name}: what it returns"] * (node.returns is None)
    assert not bare


def test_the_door_is_not_crowded_and_each_says_what_is_behind_it():
    assert len(doors()) <= MOST_AT_THE_DOOR
    for name, path in MODULES.items():
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert doc and len(doc.splitlines()[0]) > 20, name


def rows_of_the_map():
    rows = re.findall(r"^\| `(\w+)/?` \| (.+) \| (.*?) ?\|$", helpers.__doc__, re.M)
    return {name: set(re.findall(r"\d\d", numbers)) or ({"all"} if numbers == "all" else set())
            for name, _, numbers in rows}


def named_by(notebook):
    """Modules at the door that a notebook's code imports."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module == "helpers":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers."):
            found.add(node.module.split(".")[1])
    return {room(helpers.MOVED.get(name, f"helpers.{name}").removeprefix("helpers."))
            for name in found}


def test_the_map_says_which_notebook_uses_what():
    told = rows_of_the_map()
    assert set(told) == doors() - {"settings"}
    used = {name: set() for name in told}
    notebooks = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    for notebook in notebooks:
        for name in named_by(notebook):
            used[name].add(notebook.name[:2])
    everywhere = {n.name[:2] for n in notebooks}
    for name, numbers in told.items():
        assert (everywhere if numbers == {"all"} else numbers) == used[name], name


def test_what_no_notebook_names_stands_behind_a_door():
    """Nothing in a notebook reaches past a face."""
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        text = notebook.read_text(encoding="utf-8")
        for name in re.findall(r"(?:from|import) helpers\.(\w+)\.", text):
            pytest.fail(f"{notebook.name} reaches into helpers/{name}/")


def code_that_names_helpers():
    """Every script, test and notebook: its name and its source."""
    for folder in ("helpers", "data", "benchmarks", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        yield path.name, "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


def test_every_name_that_is_imported_from_the_house_is_there():
    """Also where the import stands inside a function that no test calls."""
    import importlib

    missing = []
    for where, source in code_that_names_helpers():
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] not in (
                    "helpers", "data", "benchmarks"):
                continue
            for alias in node.names:
                try:
                    found = hasattr(importlib.import_module(node.module), alias.name)
                    found or importlib.import_module(f"{node.module}.{alias.name}")
                except ImportError:
                    missing.append(f"{where}: from {node.module} import {alias.name}")
    assert not missing


def test_modules_that_moved_are_found_by_their_old_names():
    import importlib

    for old, new in helpers.MOVED.items():
        assert importlib.import_module(f"helpers.{old}") is importlib.import_module(new)
        assert getattr(helpers, old) is importlib.import_module(new)
    from helpers.comparison import davidson
    from helpers.sentiment import gold_sentiment

    from helpers import world
    from helpers.reward import ties

    assert davidson is ties.davidson and gold_sentiment is world.gold_sentiment


def walks():
    """Of each walk in the README, the (module, name) of its stops."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("Three ways through it:")[2].partition("Where do I change")[0]
    return [[tuple(stop.replace("/", ".").rsplit(".", 1)) for stop in
             re.findall(r"`((?:\w+/)?\w+\.\w+)`", " ".join(walk.split()))]
            for walk in re.split(r"^- ", section, flags=re.M)[1:]]


def test_the_walks_name_what_there_is_and_are_short():
    assert len(walks()) == 3
    for walk in walks():
        assert len({module for module, _ in walk}) <= 6
        for module, name in walk:
            defined = {node.name for node in ast.parse(MODULES[module].read_text()).body
                       if isinstance(node, ast.FunctionDef | ast.ClassDef)}
            assert name in defined, f"helpers.{module} has no {name}"


def test_a_pair_takes_the_walk_that_the_readme_tells(tmp_path):
    """The functions of the first walk are entered in the order in which it names them."""
    import sys

    import torch
    from support import from_scratch

    from helpers import data, models, reward
    from helpers.profiles import load_profile

    pairs = [{"chosen": f"\n\nHuman: Where is it {n}?\n\nAssistant: The cat sat on the mat.",
              "rejected": f"\n\nHuman: Where is it {n}?\n\nAssistant: No."} for n in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    settings = load_profile("embedded", {"data.preferences": str(tmp_path / "pairs.jsonl")})
    model, tokenizer, _ = from_scratch(tokens=1000, n_positions=64)
    models.save(model, tokenizer, tmp_path / "base")
    torch.manual_seed(0)
    judge = models.new_reward_model(tmp_path / "base", tokenizer, settings)
    walk, entered = walks()[0], []

    def note(frame, event, _):
        if event == "call":
            stop = frame.f_globals.get("__name__", ""), frame.f_code.co_name
            entered.append((stop[0].removeprefix("helpers."), stop[1]))

    sys.setprofile(note)
    try:
        train = data.load_pairs(settings, "train")
        reward.train_reward_model(judge, tokenizer, train, train[:4], tmp_path / "run",
                                  reward.RewardConfig(batch_size=8, max_length=64, evaluations=0))
    finally:
        sys.setprofile(None)
    first = [entered.index(stop) for stop in walk]
    assert first == sorted(first)


def test_texts_become_tokens_in_one_place():
    """A tokenizer that is called on texts itself takes what they spell out for special tokens."""
    calls = [f"{path.relative_to(ROOT)}:{node.lineno}"
             for folder in ("helpers", "benchmarks") for path in (ROOT / folder).rglob("*.py")
             if path != HOUSE / "engine" / "tokens.py"
             for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(node, ast.Call) and re.fullmatch(
                 r"(.*\.)?tokenizer(\.(encode|__call__|batch_encode_plus))?",
                 ast.unparse(node.func))]
    assert not calls
