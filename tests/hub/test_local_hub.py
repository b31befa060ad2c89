"""The real loading code against a local hub: ids as a user would write them, nothing mocked.

The client reads its address once, so every case runs in a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import models, scratch
from helpers.paths import ROOT
from helpers.profiles import load_profile

sys.path.insert(0, str(Path(__file__).parent))
from server import serve

REVIEWS = [{"text": f"Film number {i}.<br />It was {'good' if i % 2 else 'bad'}.", "label": i % 2}
           for i in range(60)]
PAIRS = [{"chosen": f"\n\nHuman: Question {i}?\n\nAssistant: A good answer.",
          "rejected": f"\n\nHuman: Question {i}?\n\nAssistant: A bad one."} for i in range(60)]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    torch.set_num_threads(1)
    size = load_profile("embedded", {f"models.scratch.{k}": v for k, v in {
        "vocab_size": 280, "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 32,
        "tokens": 2000, "batch_tokens": 256}.items()}).models.scratch
    model, tokenizer, _ = scratch.train_from_scratch(
        [r["text"] for r in REVIEWS], size, progress=False)
    models.save(model, tokenizer, root / "models" / "someone" / "tiny-gpt2")
    for name, rows in (("someone/films", REVIEWS), ("someone/talk", PAIRS)):
        folder = root / "datasets" / name
        folder = folder / "harmless" if name.endswith("talk") else folder
        folder.mkdir(parents=True)
        for split in ("train", "test"):
            (folder / f"{split}.jsonl").write_text(
                "".join(json.dumps(r) + "\n" for r in (rows if split == "train" else rows[:20])))
    server, address, seen = serve(root)
    yield address, seen
    server.shutdown()


def run(hub, tmp_path, code, **sources):
    address, _ = hub
    # the client's variables must be those of a user, not those of this test run
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"),
                    "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT)}
    script = ("from helpers import data\nfrom helpers.profiles import load_profile\n"
              f"settings = load_profile('embedded', {sources!r})\n{code}")
    return subprocess.run([sys.executable, "-c", script], env=environment, text=True,
                          capture_output=True, cwd=tmp_path)


def test_a_model_id_is_loaded_from_the_hub(hub, tmp_path):
    done = run(hub, tmp_path, "from helpers.models import load_base\nm, t = load_base(settings)\n"
               "print(m.config.n_embd, t.pad_token_id != t.eos_token_id)",
               **{"models.base": "someone/tiny-gpt2"})
    assert done.stdout.split() == ["16", "True"], done.stderr
    assert any("tiny-gpt2/resolve" in request for request in hub[1])


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


def test_an_id_that_is_not_there_is_one_sentence(hub, tmp_path):
    done = run(hub, tmp_path, "from helpers.errors import UserError\n"
               "from helpers.models import load_base\n"
               "for f in (lambda: data.load_reviews(settings, 'train'), "
               "lambda: load_base(settings)):\n"
               "    try:\n        f()\n    except UserError as e:\n        print(e)",
               **{"data.reviews": "someone/nothing", "models.base": "someone/no-model"})
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 2, done.stdout + done.stderr
    assert "someone/nothing could not be loaded" in lines[0]
    assert "someone/no-model could not be loaded" in lines[1]
