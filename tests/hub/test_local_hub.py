"""The real loading code against a local hub: ids as a user would write them, nothing mocked.

The client reads its address once, so that the code runs in processes of its own.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from helpers import models, scratch
from helpers.engine import hub as hub_ids
from helpers.paths import ROOT
from helpers.profiles import load_profile

sys.path.insert(0, str(Path(__file__).parent))
import content
from server import Fault, LocalHub

REVIEWS = [{"text": f"Film number {i}.<br />It was {'good' if i % 2 else 'bad'}.", "label": i % 2}
           for i in range(60)]
PAIRS = [{"chosen": f"\n\nHuman: Question {i}?\n\nAssistant: A good answer.",
          "rejected": f"\n\nHuman: Question {i}?\n\nAssistant: A bad one."} for i in range(60)]
LOAD_MODEL = ("from helpers.models import load_base\nm, t = load_base(settings)\n"
              "print(m.config.n_embd, t.pad_token_id != t.eos_token_id)")
LOAD_REVIEWS = "print(len(data.load_reviews(settings, 'test')))"
MODEL = {"models.base": "someone/tiny-gpt2"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    torch.set_num_threads(1)
    size = load_profile("embedded", {f"models.scratch.{k}": v for k, v in {
        "vocab_size": 280, "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 32,
        "tokens": 2000, "batch_tokens": 256}.items()}).models.scratch
    model, tokenizer, _ = scratch.train_from_scratch(
        [r["text"] for r in REVIEWS], size, progress=False)
    tiny = root / "models" / "someone" / "tiny-gpt2"
    models.save(model, tokenizer, tiny)
    model.save_pretrained(tiny.with_name("sharded"), max_shard_size="10KB")
    tokenizer.save_pretrained(tiny.with_name("sharded"))
    content.pickled(shutil.copytree(tiny, tiny.with_name("pickled")))
    own_code = shutil.copytree(tiny, tiny.with_name("own-code")) / "config.json"
    own_code.write_text(json.dumps({"model_type": "ours", "auto_map": {
        "AutoConfig": "ours.OurConfig", "AutoModelForCausalLM": "ours.OurModel"}}))
    (own_code.parent / "ours.py").write_text("raise SystemExit('this code has run')")
    model.transformer.wte.weight.data.zero_()
    models.save(model, tokenizer, tiny.with_name("tiny-gpt2@v1"))
    for name, rows in (("someone/films", REVIEWS), ("someone/talk", PAIRS)):
        folder = root / "datasets" / name
        folder = folder / "harmless" if name.endswith("talk") else folder
        folder.mkdir(parents=True)
        for split in ("train", "test"):
            (folder / f"{split}.jsonl").write_text(
                "".join(json.dumps(r) + "\n" for r in (rows if split == "train" else rows[:20])))
    yield from served_with_client(root)


def served_with_client(root, revisions=None):
    with LocalHub(root) as served:
        served.revisions = revisions or {}
        served.client = Client(served, root)
        yield served
        served.client.close()


@pytest.fixture(scope="module")
def real_hub(tmp_path_factory, real_data):
    """The ids of the profiles, at the revisions that these pin."""
    root = content.build(tmp_path_factory.mktemp("real_hub"), real_data)
    yield from served_with_client(root, content.pins())


@pytest.fixture(autouse=True)
def fresh(request):
    """No faults and no requests of the test before."""
    for name in {"hub", "real_hub"} & set(request.fixturenames):
        served = request.getfixturevalue(name)
        served.faults.clear(), served.requests.clear()
        shutil.rmtree(served.client.cache, ignore_errors=True)


# Imports what takes long, then runs each request in a fork of its own, so that none sees the
# caches of another; what they fetched is removed between the tests.
NURSERY = """
import json, os, sys
from helpers import data, models
from helpers.errors import UserError
from helpers.engine import hub
from helpers.profiles import load_profile
import datasets
hub.WAIT = 0.05  # between tries; their number stays
for line in sys.stdin:
    asked = json.loads(line)
    if not (child := os.fork()):
        for number, name in ((1, "out"), (2, "err")):
            with open(f"{asked['folder']}/{name}", "w") as file:
                os.dup2(file.fileno(), number)
        settings = load_profile(asked["profile"], asked["sources"])
        status = 1
        try:
            exec(asked["code"], globals())
            status = 0
        except UserError as error:
            print(error)
        except BaseException:
            import traceback
            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)
    os.waitpid(child, 0)
    print("done", flush=True)
"""


class Client:
    """A process that takes a `LocalHub` for the hub and runs pieces of code."""

    def __init__(self, hub, folder, **variables):
        # the client's variables must be those of a user, not those of this test run
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        self.cache = folder / "cache"
        environment |= hub.environment(self.cache) | {"PYTHONPATH": str(ROOT)} | variables
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], env=environment, text=True, cwd=folder,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(self, folder, code, profile="embedded", **sources):
        asked = {"folder": str(folder), "code": code, "profile": profile, "sources": sources}
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"
        return subprocess.CompletedProcess(code, 0, (folder / "out").read_text(),
                                           (folder / "err").read_text())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# The client gives up a request that is not answered after ten seconds; here it knows that none is.
IMPATIENT = ("from huggingface_hub import constants\n"
             "constants.HF_HUB_ETAG_TIMEOUT = constants.HF_HUB_DOWNLOAD_TIMEOUT = 2\n")


def run(hub, tmp_path, code, profile="embedded", **sources):
    return hub.client.run(tmp_path, code, profile, **sources)


def said(done):
    """The one line that a process printed."""
    [line] = done.stdout.strip().splitlines() or [done.stderr]
    return line


def test_a_model_id_is_loaded_from_the_hub(hub, tmp_path):
    done = run(hub, tmp_path, LOAD_MODEL, **MODEL)
    assert done.stdout.split() == ["16", "True"], done.stderr
    assert hub.fetched()["someone/tiny-gpt2/model.safetensors"] == 1


def test_weights_in_several_files_are_loaded(hub, tmp_path):
    done = run(hub, tmp_path, LOAD_MODEL, **{"models.base": "someone/sharded"})
    assert done.stdout.split() == ["16", "True"], done.stderr
    assert sum(name.endswith(".safetensors") for name in hub.fetched()) > 1


def test_the_revision_behind_an_id_is_what_every_model_is_made_of(hub, tmp_path):
    code = ("from helpers import models\nm, t = models.load_base(settings)\n"
            "r = models.new_reward_model(m, t, settings)\n"
            "print(*(x.transformer.wte.weight[:280].abs().sum().item() == 0 for x in (m, r)),\n"
            "      models.add_lora(m, settings).peft_config['default'].revision)")
    done = run(hub, tmp_path, code, **{"models.base": "someone/tiny-gpt2@v1"})
    assert done.stdout.split() == ["True", "True", "v1"], done.stderr
    assert not [path for _, path in hub.requests if "/resolve/main/" in path]
    done = run(hub, tmp_path, LOAD_MODEL, **{"models.base": "someone/tiny-gpt2@v9"})
    assert "it has no revision 'v9'; check it at" in said(done)


def test_reviews_of_a_dataset_id_are_cleaned_and_split(hub, tmp_path):
    done = run(hub, tmp_path, "parts = {s: data.load_reviews(settings, s) for s in data.SPLITS}\n"
               "print(*[len(p) for p in parts.values()], parts['test'][0]['text'])",
               **{"data.reviews": "someone/films"})
    train, validation, test, *words = done.stdout.split()
    assert int(train) + int(validation) == 60, done.stderr
    assert int(validation) > 0
    assert test == "20"
    assert "<br" not in " ".join(words)


def test_a_data_dir_behind_the_id_names_a_part_of_the_dataset(hub, tmp_path):
    done = run(hub, tmp_path, "print(data.load_pairs(settings, 'test')[0]['chosen'])",
               **{"data.preferences": "someone/talk/harmless"})
    assert done.stdout.strip() == "A good answer.", done.stderr


def test_what_was_fetched_before_is_enough_without_a_network(hub, tmp_path):
    sources = {**MODEL, "data.preferences": "someone/talk/harmless",
               "data.reviews": "someone/films"}
    code = (f"{LOAD_MODEL}\n{LOAD_REVIEWS}\nprint(len(data.load_pairs(settings, 'test')))")
    first = run(hub, tmp_path, code, **sources)
    asked = len(hub.requests)
    offline = Client(hub, hub.root, HF_HUB_OFFLINE="1")
    again = offline.run(tmp_path, code, **sources)
    assert (again.stdout, len(hub.requests)) == (first.stdout, asked), again.stderr
    assert first.stdout.split()[2:] == ["20", "20"]
    other = offline.run(tmp_path, LOAD_REVIEWS, **{"data.reviews": "someone/other"})
    offline.close()
    assert "HF_HUB_OFFLINE is set and not all of its files were fetched before" in said(other)


# --- what is refused, and what passes


@pytest.mark.parametrize(("name", "words"), [
    ("no-model", "there is no model of this name, or it is private; check the name at"),
    ("pickled", "only pickled ones (pytorch_model.bin), which can run any code"),
    ("own-code", "it brings code of its own (auto_map), which is not run here"),
])
def test_a_model_that_cannot_be_had_is_one_sentence(hub, tmp_path, name, words):
    line = said(run(hub, tmp_path, LOAD_MODEL, **{"models.base": f"someone/{name}"}))
    assert f"someone/{name}" in line and words in line
    assert not [name for name in hub.fetched() if name.endswith((".bin", ".py", ".safetensors"))]


def test_a_dataset_that_is_not_there_is_one_sentence(hub, tmp_path):
    line = said(run(hub, tmp_path, LOAD_REVIEWS, **{"data.reviews": "someone/nothing"}))
    assert "data.reviews: someone/nothing could not be loaded" in line
    assert "there is no dataset of this name" in line


LOADS = [(LOAD_MODEL, MODEL, "someone/tiny-gpt2"),
         (LOAD_REVIEWS, {"data.reviews": "someone/films"}, "someone/films")]


@pytest.mark.parametrize("load", LOADS, ids=["model", "dataset"])
@pytest.mark.parametrize(("kind", "words"), [
    ("gated", "accept the terms at https://huggingface.co/"),
    ("429", "asked too often (429); wait a few minutes"),
    ("500", "the hub has a fault of its own (500); wait"),
    ("hang", "it did not answer, or broke off; check the network"),
])
def test_a_fault_that_stays_ends_in_a_sentence_with_the_remedy(hub, tmp_path, load, kind, words):
    code, sources, name = load
    hub.faults[name] = Fault(kind)
    line = said(run(hub, tmp_path, IMPATIENT * (kind == "hang") + code, **sources))
    assert name in line and words in line
    assert len(hub.requests) < 40
    assert not list(hub.client.cache.rglob("*.safetensors"))


@pytest.mark.parametrize("load", LOADS, ids=["model", "dataset"])
@pytest.mark.parametrize("kind", ["429", "500", "cut", "hang"])
def test_a_fault_that_passes_is_outlasted(hub, tmp_path, load, kind):
    code, sources, name = load
    hub.faults[name] = Fault(kind, times=1)
    good = run(hub, tmp_path, IMPATIENT * (kind == "hang") + code, **sources)
    assert good.stdout.split() in (["16", "True"], ["20"]), good.stdout + good.stderr
    assert hub.faults[name].times < 0 or kind == "cut"


@pytest.mark.slow  # the client itself tries for long
def test_a_download_that_always_breaks_off_leaves_nothing_that_looks_whole(hub, tmp_path):
    hub.faults["someone/films"] = Fault("cut")
    sources = {"data.reviews": "someone/films"}
    line = said(run(hub, tmp_path, LOAD_REVIEWS, **sources))
    assert "someone/films could not be loaded" in line and "or broke off" in line
    assert not list(hub.client.cache.rglob("snapshots/*/*.jsonl"))
    hub.faults.clear()
    assert said(run(hub, tmp_path, LOAD_REVIEWS, **sources)) == "20"


# --- the ids of the profiles


@pytest.mark.parametrize("name", content.MODELS)
def test_the_models_of_the_profiles_load_at_their_revisions(real_hub, tmp_path, name):
    pinned = content.pins().get(("models", name), {"main"})
    scorer = "imdb" in name and "distil" in name
    code = (f"from helpers.models import load_{'classifier' if scorer else 'base'} as load\n"
            "m, t = load(settings)\nprint(m.config.model_type)")
    done = run(real_hub, tmp_path, code, **{
        f"models.{'classifier' if scorer else 'base'}": f"{name}@{next(iter(pinned))}"})
    *_, kind = done.stdout.split() or [done.stderr]
    other = {"EleutherAI/gpt-neo-125m": "gpt_neo", "EleutherAI/pythia-160m": "gpt_neox"}
    assert kind == other.get(name, {"Qw": "qwen2", "Hu": "llama"}.get(
        name[:2], "distilbert" if scorer else "gpt2"))
    weights = [file for file in real_hub.fetched() if file.endswith((".bin", ".safetensors"))]
    assert weights and not [file for file in weights if file.endswith(".bin")]


def test_the_models_have_the_quirks_of_the_real_ones(real_hub):
    def parts(name):
        folder = real_hub.root / "models" / name
        return (AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder),
                {file.name for file in folder.iterdir()})

    tokenizer, config, _ = parts("openai-community/gpt2")
    assert tokenizer.pad_token is None and len(tokenizer) == config.vocab_size == 50_257
    for name, tied in (("Qwen/Qwen2.5-1.5B", True), ("Qwen/Qwen2.5-7B", False)):
        tokenizer, config, files = parts(name)
        assert tokenizer.pad_token_id == tokenizer.eos_token_id
        assert len(tokenizer) < config.vocab_size and config.dtype == torch.bfloat16
        assert config.tie_word_embeddings == tied
        assert ("model.safetensors.index.json" in files) != tied
        assert tokenizer.bos_token is None and tokenizer.chat_template
        sampling = GenerationConfig.from_pretrained(real_hub.root / "models" / name)
        assert sampling.do_sample and sampling.temperature == 0.7 and sampling.top_k == 20
    tokenizer, config, _ = parts("HuggingFaceTB/SmolLM2-135M")
    assert (config.model_type, config.dtype) == ("llama", torch.bfloat16)
    assert config.tie_word_embeddings and tokenizer.pad_token is None
    tokenizer, config, files = parts("lvwerra/distilbert-imdb")
    assert config.id2label == {0: "NEGATIVE", 1: "POSITIVE"} and "model.safetensors" not in files
    assert tokenizer.decode(tokenizer("good")["input_ids"]) == "[CLS] good [SEP]"


def test_imdb_comes_mixed_and_without_the_rows_that_nobody_judged(real_hub, tmp_path):
    done = run(real_hub, tmp_path, "for s in data.SPLITS:\n"
               "    labels = [r['label'] for r in data.load_reviews(settings, s, 200)]\n"
               "    print(len(labels), sum(labels))", profile="gpt2")
    lines = [list(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(lines) == 3, done.stderr
    assert all(count == 200 and 70 < positive < 130 for count, positive in lines)
    assert {f for f in real_hub.fetched() if f.endswith(".parquet")} == {
        f"datasets/stanfordnlp/imdb/plain_text/{s}-00000-of-00001.parquet"
        for s in ("train", "test")}


def test_hh_is_loaded_from_all_its_folders_and_the_odd_rows_are_counted(real_hub, tmp_path):
    code = ("for s in data.SPLITS:\n    rows = data.load_pairs(settings, s)\n"
            "    print(len(rows), len({r['prompt'] for r in rows}))")
    done = run(real_hub, tmp_path, code, profile="gpt2")
    lines = [list(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(lines) == 3, done.stderr
    assert 1740 < lines[0][0] + lines[1][0] < 1790  # of 1,800
    assert "of 1800 rows set aside" in done.stderr
    fetched = [f for f in real_hub.fetched() if f.endswith(".gz")]
    assert len(fetched) == 2 * len(content.HH_FOLDERS)
    part = run(real_hub, tmp_path, "print(len(data.load_pairs(settings, 'test')))",
               **{"data.preferences": "Anthropic/hh-rlhf/helpful-base"})
    assert 120 < int(part.stdout) <= 128, part.stderr


def test_of_tulu_only_the_files_of_the_split_are_fetched(real_hub, tmp_path):
    code = ("parts = [data.load_pairs(settings, s) for s in data.SPLITS]\n"
            "prompts = [{r['prompt'] for r in p} for p in parts]\n"
            "print(sum(map(len, parts)), *(len(a & b) for a, b in zip(prompts, prompts[1:])))")
    done = run(real_hub, tmp_path, code, profile="a100")
    count, *shared = map(int, done.stdout.split() or [0])
    assert 2250 < count < 2312 and shared == [0, 0], done.stderr
    files = {f for f in real_hub.fetched() if f.endswith(".parquet")}
    assert files == {"datasets/allenai/preference-datasets-tulu/data/"
                     "anthropic_hh-00000-of-00001.parquet"}


@pytest.mark.parametrize("spoken", ["", ":anthropic"])
def test_a_split_that_is_not_there_is_told_with_those_that_are(real_hub, tmp_path, spoken):
    name = "allenai/preference-datasets-tulu"
    done = run(real_hub, tmp_path, "data.load_pairs(settings, 'train')",
               **{"data.preferences": name + spoken})
    line = said(done)
    assert f"{name} has no split {spoken[1:] or 'train'!r}; name one of its splits" in line
    assert f"as in {name}:anthropic_hh; there are anthropic_hh, nectar, shp_2," in line
    assert not [f for f in real_hub.fetched() if f.endswith(".parquet")]


def test_ultrafeedback_keeps_its_own_test_split_and_arena_its_ties(real_hub, tmp_path):
    code = ("print(*(len(data.load_pairs(settings, s)) for s in data.SPLITS))\n"
            "arena = load_profile('embedded',\n"
            "    {'data.preferences': 'lmarena-ai/arena-human-preference-55k'})\n"
            "print(sum(len(data.load_comparisons(arena, s)) for s in data.SPLITS),\n"
            "      {r['winner'] for r in data.load_comparisons(arena, 'train')} == {*'ab', 'tie'})")
    done = run(real_hub, tmp_path, code, **{
        "data.preferences": "HuggingFaceH4/ultrafeedback_binarized:train_prefs"})
    train, validation, test, judged, ties = done.stdout.split() or [done.stderr] * 5
    assert 950 < int(train) + int(validation) <= 1000 and int(validation) > 50
    assert 190 < int(test) <= 200 and int(judged) > 900 and ties == "True"
    assert {f.rpartition("/")[2].partition("-")[0] for f in real_hub.fetched()
            if f.endswith(".parquet")} == {"train_prefs", "test_prefs"}


# --- what an id means


@pytest.mark.parametrize(("text", "parts"), [
    ("owner/name", ("owner/name", None, None, None)),
    ("owner/name/a/b", ("owner/name", "a/b", None, None)),
    ("owner/name@refs/pr/1", ("owner/name", None, "refs/pr/1", None)),
    ("owner/name/a@v1:test", ("owner/name", "a", "v1", "test")),
])
def test_the_parts_of_an_id(text, parts):
    assert hub_ids.parse(text) == parts


@pytest.mark.parametrize("text", ["embedded", "owner/", "owner/name:", "owner/name@", "a/b c"])
def test_what_is_no_id(text):
    assert hub_ids.parse(text) is None
