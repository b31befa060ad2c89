"""Stages: whole or absent, made again when missing or stale."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from helpers import profiles, scratch
from helpers.course import stages
from helpers.engine import artifacts, sources
from helpers.errors import UserError
from helpers.paths import ROOT


class Weights:
    """Stands for a model: writes one file."""

    def __init__(self, text="weights"):
        self.text = text

    def save_pretrained(self, folder):
        Path(folder, "config.json").write_text(self.text)


@pytest.fixture(autouse=True)
def files(monkeypatch):
    monkeypatch.setattr(sources, "fingerprint", lambda settings: "the same files")


@pytest.fixture
def settings(tmp_path):
    def make(seed=0, **overrides):
        overrides = {key.replace("__", "."): value for key, value in overrides.items()}
        return profiles.load_profile("embedded", {"out": str(tmp_path), **overrides}, seed)
    return make


def test_a_stage_says_what_it_was_made_from(settings):
    folder = artifacts.save_stage("sft", settings(seed=2), Weights(), None, {"val_loss": 1.5})
    info = json.loads((folder / "stage.json").read_text())
    assert info["stage"] == "sft" and info["profile"] == "embedded" and info["seed"] == 2
    assert info["metrics"] == {"val_loss": 1.5}
    assert info["versions"]["torch"] and info["hash"] == artifacts.folder_hash(folder)
    assert info["settings"]["sft.epochs"] == settings().sft.epochs
    assert str(folder.parent) not in json.dumps(info)


def test_only_settings_that_made_a_stage_make_it_stale(settings):
    artifacts.save_stage("sft", settings(), Weights())
    assert artifacts.stale("sft", settings()) is None
    for harmless in ({"ppo__kl_coef": 0.5}, {"sft__eval_rows": 7}, {"threads": 1},
                     {"sft__checkpoint_every": 3}, {"models__judge": "owner/judge"},
                     {"models__classifier": "scratch"}, {"evaluation__prompts": 3},
                     {"models__scratch__n_layer": 2}):
        assert artifacts.stale("sft", settings(**harmless)) is None, harmless
    for change in ({"sft__epochs": 9}, {"models__base": "owner/name"}, {"data__pair_limit": 5}):
        assert "was made from other settings" in artifacts.stale("sft", settings(**change)), change
    assert "seed was 0, is 1" in artifacts.stale("sft", settings(seed=1))


def test_values_for_a_base_from_scratch_count_only_where_they_take_effect(settings):
    artifacts.save_stage("ppo_trl", settings(), Weights())
    assert artifacts.stale("ppo_trl", settings(ppo_trl__scratch__kl_coef=0.5)) is None
    assert "ppo_trl.kl_coef" in artifacts.stale("ppo_trl", settings(ppo_trl__kl_coef=0.5))


def test_other_training_files_make_a_stage_stale(settings, monkeypatch):
    artifacts.save_stage("sft", settings(), Weights())
    monkeypatch.setattr(sources, "fingerprint", lambda settings: "other files")
    assert "data.files" in artifacts.stale("sft", settings())


def test_another_parent_makes_a_stage_stale(settings):
    artifacts.save_stage("sft", settings(), Weights("one"))
    artifacts.save_stage("reward_model", settings(), Weights(), parents=["sft"])
    artifacts.save_stage("sft", settings(), Weights("one"))  # the same bits: nothing to do
    assert artifacts.stale("reward_model", settings()) is None
    artifacts.save_stage("sft", settings(), Weights("two"))
    assert artifacts.stale("reward_model", settings()) == "was made from another sft"


def test_a_failed_save_leaves_the_old_stage_and_no_litter(settings):
    class Broken(Weights):
        def save_pretrained(self, folder):
            super().save_pretrained(folder)
            raise OSError("disk full")

    folder = artifacts.save_stage("sft", settings(), Weights("old"))
    with pytest.raises(OSError, match="disk full"):
        artifacts.save_stage("sft", settings(), Broken("new"))
    assert (folder / "config.json").read_text() == "old"
    assert [p.name for p in folder.parent.iterdir()] == ["sft"]


def killed_save(out):
    code = f"""
    import os, signal
    from pathlib import Path
    from helpers import profiles
    from helpers.engine import artifacts, sources
    sources.fingerprint = lambda settings: "the same files"
    class Killed:
        def save_pretrained(self, folder):
            Path(folder, "config.json").write_text("half")
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    settings = profiles.load_profile("embedded", {{"out": {str(out)!r}}})
    artifacts.save_stage("sft", settings, Killed())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT)
    assert done.returncode != 0


def test_a_killed_save_leaves_no_half_stage(settings, tmp_path):
    killed_save(tmp_path)
    folder = tmp_path / "artifacts" / "embedded" / "sft"
    assert not folder.exists()
    assert artifacts.stale("sft", settings()) == "does not exist yet"
    assert len(list(folder.parent.iterdir())) == 1  # the part that was written aside
    artifacts.save_stage("sft", settings(), Weights("whole"))
    killed_save(tmp_path)
    assert (folder / "config.json").read_text() == "whole"
    assert artifacts.stale("sft", settings()) is None
    artifacts.save_stage("sft", settings(), Weights("whole"))
    assert [p.name for p in folder.parent.iterdir()] == ["sft"]  # leftovers are swept up


def test_a_torn_stage_file_counts_as_missing(settings):
    folder = artifacts.save_stage("sft", settings(), Weights())
    (folder / "stage.json").write_text('{"stage": "sf')
    assert artifacts.stale("sft", settings()) == "does not exist yet"


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "config.json", "x.safetensors"])
def test_another_file_that_loading_reads_is_another_stage(tmp_path, name):
    """Of the same weights with another tokenizer, what builds on them would not be the same."""
    (tmp_path / "model.safetensors").write_text("weights")
    (tmp_path / name).write_text("one")
    before = artifacts.folder_hash(tmp_path)
    (tmp_path / name).write_text("two")
    after = artifacts.folder_hash(tmp_path)
    assert after != before
    (tmp_path / "README.md").write_text("a note")
    assert artifacts.folder_hash(tmp_path) == after


def test_unknown_stages_are_refused(settings):
    for act in (stages.require, lambda s, x: artifacts.save_stage(s, x, Weights())):
        with pytest.raises(UserError, match="no stage is called 'sfd'"):
            act("sfd", settings())


MAKE = """\
from pathlib import Path
from helpers import profiles
from helpers.course import stages
from helpers.engine import artifacts, sources
sources.fingerprint = lambda settings: "the same files"
settings = profiles.load_profile(profile, overrides, seed)
class Weights:
    def save_pretrained(self, folder):
        Path(folder, "config.json").write_text("{}")
"""


def test_missing_parents_are_made_one_from_the_other(settings, notebook_tree, capsys):
    log = "print(1, file=open(settings.artifacts.parent / '{0}.log', 'a'))"
    notebook_tree("03_sft", MAKE, "artifacts.save_stage('sft', settings, Weights())",
                  log.format("sft"))
    notebook_tree("04_reward", MAKE, "stages.require('sft', settings)",
                  "artifacts.save_stage('reward_model', settings, Weights(), parents=['sft'])",
                  log.format("reward"))
    notebook_tree("05_ppo", MAKE, "for p in ('sft', 'reward_model'): stages.require(p, settings)",
                  "artifacts.save_stage('ppo', settings, Weights(),\n"
                  "                     parents=['sft', 'reward_model'])")
    here = settings(sft__epochs=3)
    folder = stages.require("ppo", here)
    assert folder == here.artifacts / "ppo"
    line = capsys.readouterr().out.splitlines()
    assert line == ["Stage ppo does not exist yet; making it with notebook 05_ppo "
                    "(time not known yet)."]
    times = {name: (here.artifacts.parent / f"{name}.log").read_text().count("1")
             for name in ("sft", "reward")}
    assert times == {"sft": 1, "reward": 1}
    assert artifacts.stage_info("sft", here)["settings"]["sft.epochs"] == 3
    stages.require("ppo", here)  # nothing left to do
    assert capsys.readouterr().out == ""


def test_a_maker_that_makes_nothing_is_an_error(settings, notebook_tree):
    notebook_tree("03_sft", "pass")
    with pytest.raises(RuntimeError, match="notebook 03 ran, but stage sft: does not exist yet"):
        stages.require("sft", settings())


def test_bad_input_met_by_a_maker_stays_one_sentence(settings, notebook_tree):
    notebook_tree("03_sft", "from helpers.errors import UserError\nraise UserError('row 3: no.')")
    with pytest.raises(UserError, match=r"^row 3: no\.$"):
        stages.require("sft", settings())


def test_where_the_base_comes_from(settings, tmp_path):
    assert artifacts.base_place("base", settings()) == ROOT / "data" / "models" / "base"
    assert artifacts.base_place("base", settings(models__base="owner/name")) == "owner/name"
    assert artifacts.base_place("base", settings(models__base=str(tmp_path))) == tmp_path
    scratch = settings(models__base="scratch")
    assert artifacts.base_place("base", scratch) == scratch.artifacts / "base"
    real = settings(data__reviews=str(tmp_path))
    assert artifacts.base_place("classifier", real) == real.artifacts / "classifier"
    assert artifacts.stage_hash("base", settings(models__base="owner/name")) == "owner/name"


def test_a_base_from_scratch_is_trained_once(settings, monkeypatch, capsys):
    def train(stage, here):
        artifacts.save_stage(stage, here, Weights())

    monkeypatch.setattr(scratch, "_train_base", train)
    here = settings(models__base="scratch")
    assert stages.require("base", here) == here.artifacts / "base"
    assert "training it from scratch" in capsys.readouterr().out
    stages.require("base", here)
    assert capsys.readouterr().out == ""
    wider = settings(models__base="scratch", models__scratch__n_layer=2)
    stages.require("base", wider)
    assert "models.scratch.n_layer was 4, is 2" in capsys.readouterr().out


def test_a_small_base_from_scratch_learns_and_loads(settings, tmp_path, capsys):
    import torch

    reviews = [{"text": f"A {word} film number {i}.", "label": i % 2}
               for i, word in enumerate(["good", "bad"] * 150)]
    folder = tmp_path / "reviews"
    folder.mkdir()
    for split in ("train", "test"):
        rows = "".join(json.dumps(row) + "\n" for row in reviews)
        (folder / f"{split}.jsonl").write_text(rows)
    pairs = [{"chosen": f"\n\nHuman: What is {i}?\n\nAssistant: It is {i}.",
              "rejected": f"\n\nHuman: What is {i}?\n\nAssistant: No."} for i in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    size = {"vocab_size": 300, "n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 32,
            "tokens": 10_000, "batch_tokens": 512, "classifier_vocab_size": 200,
            "classifier_layers": 1, "classifier_dim": 32, "classifier_heads": 2,
            "classifier_epochs": 1, "classifier_max_length": 16}
    here = settings(models__base="scratch", data__reviews=str(folder),
                    data__preferences=str(tmp_path / "pairs.jsonl"),
                    **{f"models__scratch__{key}": value for key, value in size.items()})
    torch.manual_seed(5)
    place = stages.require("base", here)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))  # training on the way changes no later draw
    assert (place / "model.safetensors").is_file() and (place / "tokenizer.json").is_file()
    curve = artifacts.stage_info("base", here)["metrics"]["curve"]
    assert curve[-1][1] < 0.8 * curve[0][1]
    assert stages.require("classifier", here) == here.artifacts / "classifier"
    assert "accuracy" in artifacts.stage_info("classifier", here)["metrics"]
    capsys.readouterr()
    stages.require("base", here)
    stages.require("classifier", here)
    assert capsys.readouterr().out == ""


# --------------------------------------------------------------------- damaged, exchanged, aged


class Model:
    """Stands for a model: weights, a config and a tokenizer."""

    def __init__(self, text="weights"):
        self.text = text

    def save_pretrained(self, folder):
        for name in FILES:
            Path(folder, name).write_text(f"{name}: {self.text}" * 100)


FILES = ["model.safetensors", "config.json", "tokenizer.json", "generation_config.json",
         "chat_template.jinja"]


def zeroed(path):
    data = bytearray(path.read_bytes())
    data[10:20] = bytes(10)
    path.write_bytes(data)


def truncated(path):
    path.write_bytes(path.read_bytes()[:7])


def exchanged(path):
    other = path.parent.parent / "other"
    other.mkdir()
    Model("another model").save_pretrained(other)
    (other / path.name).replace(path)


@pytest.mark.parametrize("harm", [zeroed, truncated, exchanged, Path.unlink])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_found(settings, name, harm):
    folder = artifacts.save_stage("sft", settings(), Model())
    assert artifacts.damage("sft", settings()) is None
    harm(folder / name)
    told = artifacts.damage("sft", settings())
    assert told.startswith("is damaged: ") and name in told


def test_a_file_that_was_not_saved_is_damage_where_loading_would_read_it(settings):
    folder = artifacts.save_stage("sft", settings(), Model())
    (folder / "notes.txt").write_text("mine")
    assert artifacts.damage("sft", settings()) is None
    (folder / "adapter_config.json").write_text("{}")
    assert "adapter_config.json was not saved with it" in artifacts.damage("sft", settings())


def test_another_stage_in_its_place_is_found(settings):
    artifacts.save_stage("ppo", settings(), Model("ppo"))
    folder = artifacts.save_stage("sft", settings(), Model("sft"))
    folder.rename(folder.with_name("away"))
    folder.with_name("ppo").rename(folder)
    assert artifacts.damage("sft", settings()) == "is stage ppo under another name"


def test_a_damaged_stage_is_made_anew_and_the_old_one_is_kept(settings, notebook_tree, capsys):
    notebook_tree("03_sft", MAKE, "artifacts.save_stage('sft', settings, Weights())")
    folder = artifacts.save_stage("sft", settings(), Model("first"))
    truncated(folder / "model.safetensors")
    assert stages.require("sft", settings()) == folder
    assert "is damaged: model.safetensors is not the file that was saved; making it" in (
        capsys.readouterr().out)
    assert (folder / "config.json").read_text() == "{}"
    kept = folder.with_name("sft.replaced")
    assert "first" in (kept / "config.json").read_text()
    stages.require("sft", settings())
    assert capsys.readouterr().out == ""


@pytest.fixture
def other_profile(tmp_path):
    """Settings under another name than `embedded`."""
    stock = ROOT / "helpers" / "settings" / "embedded.yaml"
    (tmp_path / "mine.yaml").write_text(stock.read_text())
    return lambda **more: profiles.load_profile(
        str(tmp_path / "mine.yaml"),
        {"out": str(tmp_path), **{k.replace("__", "."): v for k, v in more.items()}})


def test_under_another_profile_a_damaged_stage_is_refused_in_a_sentence(other_profile):
    folder = artifacts.save_stage("sft", other_profile(), Model())
    zeroed(folder / "tokenizer.json")
    before = (folder / "tokenizer.json").read_bytes()
    with pytest.raises(UserError, match=r"stage sft is damaged: tokenizer.json .* move it away"):
        stages.require("sft", other_profile())
    assert (folder / "tokenizer.json").read_bytes() == before


def test_no_load_takes_a_damaged_stage(settings):
    from support import from_scratch

    from helpers import models

    model, tokenizer, _ = from_scratch(tokens=1000, n_positions=64)
    folder = artifacts.save_stage("sft", settings(), model, tokenizer)
    models.load_stage(settings(), "sft")
    truncated(folder / "model.safetensors")
    with pytest.raises(UserError, match="stage sft is damaged: model.safetensors"):
        models.load_stage(settings(), "sft")


def older(folder, *fields):
    """As it would have been saved before there were such fields."""
    info = json.loads((folder / "stage.json").read_text())
    for name in fields:
        info.pop(name)
    info["settings"].pop("mixed_precision")
    info["fingerprint"] = "of fewer settings"
    (folder / "stage.json").write_text(json.dumps(info))


def test_a_stage_from_before_the_digests_is_used_and_named(settings, capsys):
    folder = artifacts.save_stage("sft", settings(), Model())
    older(folder, "files", "code")
    assert stages.require("sft", settings()) == folder
    told = capsys.readouterr().out
    assert told.startswith("Stage sft has no digest") and "cannot be verified" in told
    stages.require("sft", settings())
    assert capsys.readouterr().out == ""  # once is enough
    assert "sft.epochs was" in artifacts.stale("sft", settings(sft__epochs=9))
    zeroed(folder / "model.safetensors")  # what its hash covers is still compared
    assert "is damaged: its weights" in artifacts.damage("sft", settings())


def changed_code(monkeypatch, module="sft"):
    real = artifacts.code_digests
    monkeypatch.setattr(artifacts, "code_digests", lambda stage: real(stage) | {module: "other"})


def test_other_code_makes_a_stage_anew_under_embedded(settings, notebook_tree, monkeypatch, capsys):
    notebook_tree("03_sft", MAKE, "artifacts.save_stage('sft', settings, Weights())")
    folder = artifacts.save_stage("sft", settings(), Model("first"))
    assert artifacts.aged("sft", settings()) is None
    changed_code(monkeypatch)
    stages.require("sft", settings())
    assert "was made by other code: helpers/sft.py; making it" in capsys.readouterr().out
    assert "first" in (folder.with_name("sft.replaced") / "config.json").read_text()


def test_under_another_profile_it_is_named_and_kept(other_profile, monkeypatch, capsys):
    folder = artifacts.save_stage("sft", other_profile(), Model("hours"))
    changed_code(monkeypatch, "engine.muon")
    assert stages.require("sft", other_profile()) == folder
    told = capsys.readouterr().out
    assert "was made by other code: helpers/engine/muon.py. It is used as it is" in told
    assert "move the folder artifacts/mine/sft away" in told
    assert "hours" in (folder / "config.json").read_text()


@pytest.mark.parametrize(("name", "version", "counts"), [
    ("torch", "1.0", True), ("python", "3.11.99", False), ("python", "3.8.1", True),
    ("transformers", "4.0", True)])
def test_other_libraries_age_a_stage(settings, monkeypatch, name, version, counts):
    folder = artifacts.save_stage("sft", settings(), Model())
    now = artifacts._versions() | {"python": "3.11.7"}
    info = json.loads((folder / "stage.json").read_text())
    info["versions"] = now | {name: version}
    (folder / "stage.json").write_text(json.dumps(info))
    monkeypatch.setattr(artifacts, "_versions", lambda: now)
    told = artifacts.aged("sft", settings())
    assert (told is not None and f"{name} {version[:3]}" in told) == counts


def test_comments_docstrings_and_line_breaks_are_no_code(tmp_path):
    def digest(text):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text)
        return artifacts._code_digest(path)

    plain = digest("def f(x):\n    return x + 1\n")
    assert plain == digest('"""Of this."""\n# note\n\ndef f(x):\n    """Adds."""\n'
                           "    return (x +\n            1)  # one\n")
    for other in ("def f(x):\n    return x - 1\n", "def f(x):\n    return x + 2\n",
                  "def f(y):\n    return y + 1\n", "def f(x, y=0):\n    return x + 1\n",
                  "def f(x):\n    return x + 1\nA = 1\n"):
        assert digest(other) != plain


# Keeping order, reading files and saying what is wrong do not change what a model learns; nor does
# what one stage's training uses change another's.
BOOKKEEPING = {
    "errors", "paths", "profiles", "engine", "engine.artifacts", "engine.hub", "engine.sources",
    "engine.place", "engine.folders", "engine.checkpoints", "engine.values", "engine.tables",
    "engine.annotation_tools", "engine.rating_rows", "reward", "scratch", "reward.ties",
    "reward.pairs", "reward.training", "reward.measures", "ppo_diagnostics", "world",
    "engine.class_logits", "engine.costs", "engine.scale", "ppo"}


@pytest.mark.parametrize("stage", artifacts.MADE_BY)
def test_no_module_that_trains_is_forgotten(stage):
    from test_house import MODULES, imports

    named = set(artifacts.MADE_BY[stage])
    assert named <= set(MODULES)
    found, to_do = set(), list(named)
    while to_do:
        module = to_do.pop()
        if module not in found:
            found.add(module)
            to_do += imports(MODULES[module])
    assert not {m for m in found - named - BOOKKEEPING if not m.startswith("world.")}


def test_each_trainer_is_among_what_makes_its_stage():
    for stage, trainers in {"sft": {"sft"}, "ppo": {"ppo", "ppo_trainer", "engine.scale"},
                            "reward_model": {"reward.training", "reward.pairs", "reward.model"},
                            "ppo_trl": {"ppo", "trl_adapter", "engine.class_logits"},
                            "base": {"scratch"}, "classifier": {"scratch"}}.items():
        assert trainers <= set(artifacts.MADE_BY[stage])


def test_precision_and_a_learned_reward_make_a_stage_stale(settings):
    for stage in ("sft", "reward_model", "ppo", "ppo_trl"):
        artifacts.save_stage(stage, settings(), Model())
        assert "mixed_precision" in artifacts.stale(stage, settings(mixed_precision="none"))
    assert artifacts.stale("ppo_trl", settings(reward__epochs=9)) is None
    learned = {"ppo_trl__reward": "reward_model"}
    artifacts.save_stage("ppo_trl", settings(**learned), Model())
    assert artifacts.stale("ppo_trl", settings(**learned)) is None
    assert "reward.epochs" in artifacts.stale("ppo_trl", settings(**learned, reward__epochs=9))


def test_files_are_read_once_in_a_process(settings, monkeypatch):
    artifacts.save_stage("sft", settings(), Model())
    artifacts.damage("sft", settings())
    monkeypatch.setattr("hashlib.file_digest", lambda *a: pytest.fail("read again"))
    assert artifacts.damage("sft", settings()) is None


SAVER = """
import sys
from pathlib import Path
from helpers import profiles
from helpers.engine import artifacts, sources
sources.fingerprint = lambda settings: "the same files"
class Weights:
    def save_pretrained(self, folder):
        for n in range(30):
            Path(folder, f"{n}.safetensors").write_text(sys.argv[2])
settings = profiles.load_profile("embedded", {"out": sys.argv[1]})
for _ in range(40):
    artifacts.save_stage("sft", settings, Weights())
"""


def test_saves_of_two_processes_do_not_stop_each_other(settings, tmp_path):
    saving = [subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path), who], cwd=ROOT,
                               stderr=subprocess.PIPE, text=True) for who in "ab"]
    for process in saving:
        assert process.wait() == 0, process.stderr.read()
    assert artifacts.damage("sft", settings()) is None
    assert [p.name for p in (settings().artifacts).iterdir()] == ["sft"]


def test_an_old_folder_in_the_way_does_not_stop_every_later_save(settings):
    """One that could not be removed, of this very process or of one with its number."""
    import os

    folder = artifacts.save_stage("sft", settings(), Model("old"))
    for kind in ("old", "part"):
        left = folder.parent / f".sft.{os.getpid()}.{kind}"
        left.mkdir()
        (left / "file").write_text("left")
    artifacts.save_stage("sft", settings(), Model("new"))
    assert "new" in (folder / "config.json").read_text()


def of_a_reader(settings):
    """The same settings under a name of the reader's own, where training may take hours."""
    own = settings.model_copy() if hasattr(settings, "model_copy") else settings
    object.__setattr__(own, "name", "mine")
    return own


def test_an_unfinished_training_is_found_again_by_the_same_settings_parents_and_code(
        settings, monkeypatch):
    own = of_a_reader(settings())
    artifacts.save_stage("sft", own, Weights())
    folder = artifacts.unfinished("ppo", own, ["sft"])
    folder.mkdir(parents=True)
    assert artifacts.unfinished("ppo", own, ["sft"]) == folder and folder.is_dir()
    others = [artifacts.unfinished("ppo", of_a_reader(settings(ppo__kl_coef=0.5)), ["sft"]),
              artifacts.unfinished("reward_model", own, ["sft"])]
    artifacts.save_stage("sft", own, Weights("trained anew"))
    others.append(artifacts.unfinished("ppo", own, ["sft"]))
    monkeypatch.setattr(artifacts, "code_digests", lambda stage: {"ppo": "edited"})
    others.append(artifacts.unfinished("ppo", own, ["sft"]))
    assert len({folder, *others}) == 5
    assert folder.is_dir()  # saving another stage takes nothing away
    artifacts.save_stage("ppo", own, Weights())
    assert not folder.exists()


def test_the_embedded_course_begins_every_training_anew(settings):
    folder = artifacts.unfinished("ppo", settings())
    folder.mkdir(parents=True)
    assert artifacts.unfinished("ppo", settings()) == folder and not folder.exists()
