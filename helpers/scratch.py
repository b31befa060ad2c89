"""Models from random weights: tokenizer, language model and sentiment classifier on any texts.

`data/build.py` makes the embedded world's models with it, `models.base: scratch` a reader's own.
"""

from __future__ import annotations

import getpass
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from helpers import data
from helpers.engine import artifacts
from helpers.engine.class_logits import class_logits
from helpers.engine.kinds import Review
from helpers.engine.muon import Muon
from helpers.engine.place import fast_bfloat16, gpu_or_cpu, reuse_memory
from helpers.engine.tokens import text_ids
from helpers.errors import UserError
from helpers.profiles import Scratch, Settings

EOS, PAD = "<|endoftext|>", "<|pad|>"


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (as GPT-2's) of at most `vocab_size` tokens from texts.

    Its first two tokens are the end of text and the padding; any text can be encoded, since every
    byte is a token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[EOS, PAD], min_frequency=2, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, bos_token=EOS, pad_token=PAD,
        padding_side="left", clean_up_tokenization_spaces=False)


def scratch_config(tokenizer: PreTrainedTokenizerBase, scratch: Scratch) -> Any:
    """Model configuration of the architecture and size that `models.scratch` names."""
    common = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.eos_token_id,
              "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    if scratch.architecture == "llama":
        return AutoConfig.for_model(
            "llama", hidden_size=scratch.n_embd, num_hidden_layers=scratch.n_layer,
            num_attention_heads=scratch.n_head, intermediate_size=scratch.n_embd * 8 // 3,
            max_position_embeddings=scratch.n_positions, tie_word_embeddings=True, **common)
    if scratch.architecture == "gpt_neo":
        return AutoConfig.for_model(
            "gpt_neo", hidden_size=scratch.n_embd, num_layers=scratch.n_layer,
            attention_types=[[["global"], scratch.n_layer]], num_heads=scratch.n_head,
            max_position_embeddings=scratch.n_positions, attention_dropout=0.0,
            embed_dropout=0.0, resid_dropout=0.0, **common)
    return AutoConfig.for_model(
        "gpt2", n_embd=scratch.n_embd, n_layer=scratch.n_layer, n_head=scratch.n_head,
        n_positions=scratch.n_positions, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
        activation_function="gelu_pytorch_tanh",  # GPT-2's function in one kernel instead of eight
        **common)


def pack(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int) -> np.ndarray:
    """All texts as one stream, an end-of-text token after each, cut into rows: (rows, length)."""
    stream: list[int] = []
    end = cast(int, tokenizer.eos_token_id)
    for start in range(0, len(texts), 1000):
        for ids in text_ids(tokenizer, texts[start:start + 1000]):
            stream.extend([*ids, end])
    rows = len(stream) // length
    if not rows:
        raise UserError(f"the texts hold {len(stream)} tokens, fewer than one row of {length}; "
                        "give more text or a smaller models.scratch.n_positions.")
    return np.asarray(stream[:rows * length], dtype=np.int64).reshape(rows, length)


def train_from_scratch(
    texts: Sequence[str], scratch: Scratch, seed: int = 0, *, validation: Sequence[str] = (),
    tokenizer: PreTrainedTokenizerBase | None = None, progress: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """Train tokenizer and language model on texts; `data/build.py` makes the embedded one with it.

    Args:
        texts: what to learn from, one document each.
        scratch: the section `models.scratch` of a profile (sizes, tokens, learning rate).
        seed: of the weights and the order of rows.
        validation: held-out documents; their loss is part of the returned metrics.
        tokenizer: reuse this one instead of training one.
        progress: show a bar.

    Returns:
        model (float32), tokenizer, metrics: `tokens`, `seconds`, `curve` of (tokens, loss in
        nats per token), `val_loss` in nats per token and `bits_per_byte` where held-out text is
        given.
    """
    start = time.perf_counter()
    if not texts:
        raise UserError("there is no text to train a language model on.")
    tokenizer = tokenizer or train_tokenizer(texts, scratch.vocab_size)
    rows = torch.from_numpy(pack(tokenizer, texts, scratch.n_positions))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(scratch_config(tokenizer, scratch)).float()
    kind = gpu_or_cpu().type
    model.to(kind).train()
    batch = max(1, scratch.batch_tokens // scratch.n_positions)
    steps = max(1, round(scratch.tokens / (batch * scratch.n_positions)))
    curve: list[tuple[int, float]] = []
    loss_of = _packed_loss
    if steps > 200:  # compiling takes about as long as a hundred steps save
        with torch.autocast(kind, torch.bfloat16, enabled=fast_bfloat16(kind)):
            loss_of = _compiled(loss_of, model, rows[:1].expand(batch, -1).to(kind))
    for step, loss in _steps(model, _batches(len(rows), batch, steps, seed), scratch.learning_rate,
                             steps, lambda m, index: loss_of(m, rows[index].to(kind)),
                             progress, "language model", kind):
        if step % max(1, steps // 60) == 0 or step == steps - 1:
            curve.append(((step + 1) * batch * scratch.n_positions, round(loss, 4)))
    model.to("cpu").eval()
    metrics: dict[str, Any] = {"tokens": steps * batch * scratch.n_positions, "curve": curve,
                               "corpus_tokens": rows.numel()}
    if validation:
        held_out = torch.from_numpy(pack(tokenizer, validation, scratch.n_positions))
        with torch.no_grad():
            losses = [_packed_loss(model, held_out[i:i + 16]).item() * len(held_out[i:i + 16])
                      for i in range(0, len(held_out), 16)]
        metrics["val_loss"] = sum(losses) / len(held_out)
        size = len("".join(tokenizer.batch_decode(held_out)).replace(EOS, "\n").encode())
        metrics["bits_per_byte"] = metrics["val_loss"] / math.log(2) * held_out.numel() / size
    metrics["seconds"] = round(time.perf_counter() - start, 1)
    return model, tokenizer, metrics


def train_classifier(
    reviews: Sequence[Review], held_out: Sequence[Review], scratch: Scratch,
    seed: int = 0, progress: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """A sentiment classifier of DistilBERT's architecture with its own WordPiece tokenizer.

    It is trained on whole reviews and on random stretches of them, since the policies it will
    judge write a sentence or two, not a page.

    Args:
        reviews, held_out: rows with `text` and `label`.
        scratch: the section `models.scratch` (its `classifier_…` keys).

    Returns:
        model (float32), tokenizer, metrics: `accuracy` on the held-out reviews, `accuracy_low` and
        `accuracy_high` (95 %, normal approximation), `seconds`.
    """
    start = time.perf_counter()
    tokenizer = _wordpiece([r["text"] for r in reviews], scratch.classifier_vocab_size)
    limit = scratch.classifier_max_length
    config = AutoConfig.for_model(
        "distilbert", vocab_size=len(tokenizer), dim=scratch.classifier_dim,
        n_layers=scratch.classifier_layers, n_heads=scratch.classifier_heads,
        hidden_dim=4 * scratch.classifier_dim, max_position_embeddings=limit, dropout=0.1,
        seq_classif_dropout=0.2, num_labels=2, pad_token_id=tokenizer.pad_token_id,
        id2label={0: "NEGATIVE", 1: "POSITIVE"}, label2id={"NEGATIVE": 0, "POSITIVE": 1})
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config).float()
    kind = gpu_or_cpu().type
    model.to(kind).train()
    ids = text_ids(tokenizer, [r["text"] for r in reviews])
    labels = torch.tensor([r["label"] for r in reviews])
    rng = np.random.default_rng(seed)
    batch, steps = 32, max(1, scratch.classifier_epochs * len(reviews) // 32)

    def loss_of(net: nn.Module, index: np.ndarray) -> torch.Tensor:
        crops = [_crop(ids[i], limit - 2, rng) for i in index]
        inputs = _padded(tokenizer, crops, kind)
        return net(**inputs, labels=labels[index].to(kind)).loss

    for _ in _steps(model, _batches(len(ids), batch, steps, seed), scratch.classifier_learning_rate,
                    steps, loss_of, progress, "classifier", kind):
        pass
    model.to("cpu").eval()
    logits = class_logits(model, tokenizer, [r["text"] for r in held_out])
    right = logits[:, 1] > logits[:, 0]
    accuracy = float(np.mean(right == np.array([r["label"] for r in held_out])))
    spread = 1.96 * math.sqrt(accuracy * (1 - accuracy) / len(held_out))
    return model, tokenizer, {
        "accuracy": accuracy, "accuracy_low": accuracy - spread, "accuracy_high": accuracy + spread,
        "held_out": len(held_out), "steps": steps,
        "seconds": round(time.perf_counter() - start, 1)}


def require_base(stage: str, settings: Settings) -> Path | str:
    """Folder or hub id of `base` or `classifier`; from scratch it is trained when missing or stale.

    Raises:
        UserError: this copy of the course lacks the embedded one.
    """
    place, source = artifacts.base_place(stage, settings), artifacts.base_origin(stage, settings)
    if source == "scratch":
        reason = artifacts.reason_to_make(stage, settings)
        if reason:
            print(f"Stage {stage} {reason}; training it from scratch.", flush=True)
            _train_base(stage, settings)
    elif source == "embedded" and not (Path(place) / "config.json").is_file():
        raise UserError(
            f"data/models/{stage} is missing from this copy of the course; "
            "restore it with `git checkout data/models` or make it with `python data/build.py`."
        )
    return place


def _train_base(stage: str, settings: Settings) -> None:
    size = settings.models.scratch
    reviews = data.load_reviews(settings, "train")
    with torch.random.fork_rng():  # what comes after must not depend on whether this was needed
        if stage == "base":
            texts = [r["text"] for r in reviews] + data.load_dialogues(settings, "train")
            held_out = [r["text"] for r in data.load_reviews(settings, "test", 200)]
            model, tokenizer, metrics = train_from_scratch(
                texts, size, settings.seed, validation=held_out)
        else:
            model, tokenizer, metrics = train_classifier(
                reviews, data.load_reviews(settings, "test"), size, settings.seed)
    artifacts.save_stage(stage, settings, model, tokenizer, metrics)


def _wordpiece(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    from tokenizers import BertWordPieceTokenizer
    from tokenizers.processors import TemplateProcessing

    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(texts, vocab_size=vocab_size, min_frequency=2, show_progress=False)
    core = trained._tokenizer
    core.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(t, core.token_to_id(t)) for t in ("[CLS]", "[SEP]")])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"])


def _crop(ids: list[int], limit: int, rng: np.random.Generator) -> list[int]:
    """Half of the time as much as fits, else a random stretch of 12 tokens or more."""
    length = min(len(ids), limit)
    if rng.random() < 0.5 and length > 12:
        length = int(rng.integers(12, length + 1))
    first = int(rng.integers(0, len(ids) - length + 1))
    return ids[first:first + length]


def _padded(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]], where: str) -> Any:
    wrapped = [[tokenizer.cls_token_id, *ids, tokenizer.sep_token_id] for ids in rows]
    return tokenizer.pad({"input_ids": wrapped}, return_tensors="pt").to(where)


def _packed_loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss in nats over packed rows: ids (batch, length)."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


def _batches(rows: int, batch: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """Shuffled row numbers, epoch after epoch, `steps` batches in all."""
    rng = np.random.default_rng(seed)
    pool = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        while len(pool) < batch:
            pool = np.concatenate([pool, rng.permutation(rows)])
        index, pool = pool[:batch], pool[batch:]
        yield index


def _optimisers(model: nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for embeddings, biases and norms.

    Muon (Jordan et al. 2024) makes the update of a matrix orthogonal before it is applied. From
    random weights and for the same number of tokens it reached a much lower loss than AdamW alone.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    hidden = [p for p in model.parameters() if p.dim() == 2 and id(p) not in tables]
    chosen = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        Muon(hidden, lr=learning_rate, weight_decay=0.05,
             bfloat16=fast_bfloat16(hidden[0].device.type)),
        torch.optim.AdamW(rest, lr=0.3 * learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _compiled(loss_of: Any, model: nn.Module, first: Any) -> Any:
    """The loss as one compiled graph, or as it is where no working compiler is found.

    The compiler finds again what it made before by a key that leaves out ATEN_CPU_CAPABILITY: code
    for 16 numbers at once, built for 8, ends the process. So each set of instructions has a folder
    of its own, within the one that the environment names: PyTorch writes its usual folder there
    as soon as anything asks for it.
    """
    try:
        instructions = torch.backends.cpu.get_cpu_capability()
        folder = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR")
                      or Path(tempfile.gettempdir()) / f"torchinductor-{getpass.getuser()}")
        if folder.name != instructions:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / instructions)
        fast = torch.compile(loss_of, dynamic=False)
        fast(model, first)
    except Exception:  # the ways in which a machine can lack a working compiler are many
        torch._dynamo.reset()
        return loss_of
    return fast


def _steps(model, batches, learning_rate, steps, loss_of, progress, name, kind):
    """Warm-up over 5 % of the steps and cosine decay; yields (step, loss)."""
    from tqdm.auto import tqdm

    reuse_memory()
    optimisers = _optimisers(model, learning_rate)
    warm = max(1, steps // 20)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda s: min(
        (s + 1) / warm, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(s / steps, 1)))))
        for o in optimisers]
    quiet = not progress or os.environ.get("RLHF_NO_PROGRESS")
    for step, index in enumerate(tqdm(batches, total=steps, desc=name, disable=bool(quiet))):
        with torch.autocast(kind, torch.bfloat16, enabled=fast_bfloat16(kind)):
            loss = loss_of(model, index)
        if not torch.isfinite(loss):
            raise UserError(f"the loss of the {name} is {loss.item()} at step {step}; lower its "
                            "learning rate (models.scratch) and start again.")
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*optimisers, *schedules):
            part.step()
        yield step, loss.item()
