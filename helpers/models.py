"""Load, save and make the course's models: policy, reference, reward model, classifier.

A model comes from the embedded world, from a folder, from the hub, or from scratch: a byte-level
BPE tokenizer and a small language model trained on any list of texts.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from helpers.errors import UserError
from helpers.muon import Muon
from helpers.profiles import ROOT, Settings

EOS, PAD = "<|endoftext|>", "<|pad|>"
EMBEDDED = ROOT / "data" / "models"


# --- where a computation runs ---------------------------------------------------------------


def device(settings: Settings) -> torch.device:
    """The device the settings ask for; `auto` is the GPU where there is one.

    Raises:
        UserError: a GPU is asked for and none is there.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device is cuda, but PyTorch sees no GPU; set device=cpu, or in Colab "
                        "choose Runtime > Change runtime type > GPU.")
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)


def dtype(settings: Settings) -> torch.dtype:
    """Type of the weights: `auto` is bfloat16 on a GPU that has it, float32 elsewhere."""
    if settings.dtype == "auto":
        good = device(settings).type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if good else torch.float32
    return getattr(torch, settings.dtype)


@cache
def fast_bfloat16(kind: str = "cpu") -> bool:
    """Whether bfloat16 matrix products beat float32 on this machine, found out by trying.

    A CPU with bf16 instructions is several times faster with them, one without is slower, so that
    any threshold between decides the same way each time.
    """
    if kind == "cuda":
        return torch.cuda.is_bf16_supported()

    def seconds(kind_of_number: torch.dtype) -> float:
        a = torch.ones(512, 512, dtype=kind_of_number)
        a @ a
        start = time.perf_counter()
        for _ in range(10):
            a @ a
        return time.perf_counter() - start

    return min(seconds(torch.bfloat16) for _ in range(3)) < 0.7 * min(
        seconds(torch.float32) for _ in range(3))


def mixed_precision(settings: Settings) -> bool:
    """Whether training multiplies in bfloat16: the profile allows it and it is faster here."""
    return settings.mixed_precision == "auto" and fast_bfloat16(device(settings).type)


def inner_model(model: nn.Module) -> nn.Module:
    """The model itself, or the one that a PEFT model wraps."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def plain_attention(model: nn.Module) -> nn.Module:
    """On a CPU, compute attention by plain matrix products; elsewhere change nothing.

    PyTorch 2.13's fused attention has no fast bfloat16 there: its backward pass took three times
    as long as in float32, and ate up what all other layers had gained.
    """
    inner = inner_model(model)
    if next(inner.parameters()).device.type == "cpu" and hasattr(inner, "set_attn_implementation"):
        inner.set_attn_implementation("eager")
    return model


def without_wrappers(model: nn.Module) -> nn.Module:
    """Give a model that Trainer has trained its own `forward` back, in place.

    Trainer and TRL leave theirs on the model: it would go on computing in mixed precision, and a
    second training, which takes it for prepared, would not.
    """
    for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
        model.__dict__.pop(name, None)
    return model


@cache
def reuse_memory() -> bool:
    """Ask glibc to keep freed memory instead of giving every large tensor back to the system.

    Training on a CPU frees and takes the same tens of megabytes at every step, and a third of the
    time went into fresh pages. Returns whether it could be set; elsewhere than on Linux it cannot.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # noqa: N806, the names of mallopt(3)
        return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError):
        return False


# --- loading --------------------------------------------------------------------------------


def load_base(settings: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base language model with its tokenizer; with `models.base: scratch` it is trained first.

    Raises:
        UserError: the folder or hub id is not to be had.
    """
    return load_causal(base_source(settings), settings)


def load_imdb_policy(settings: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """What notebook 06 starts from: the base model, or another that continues film reviews."""
    source = settings.models.imdb_policy
    return load_causal(base_source(settings) if source == "base" else source, settings)


def load_stage(
    settings: Settings, stage: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A stage's model: a reward model for `reward_model`, else a language model.

    Raises:
        UserError: the stage has not been made yet.
    """
    folder = settings.artifacts / stage
    if not (folder / "stage.json").is_file():
        raise UserError(f"stage {stage} has not been made under profile {settings.name}; call "
                        f"course.require('{stage}', settings) first.")
    if stage in ("reward_model", "classifier"):
        return load_scorer(folder, settings)
    return load_causal(folder, settings)


def load_classifier(settings: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The sentiment classifier (label 1 is positive) with its own tokenizer."""
    source = settings.models.classifier
    if source == "embedded" and settings.data.reviews != "embedded":
        source = "scratch"  # real reviews are judged by a classifier of real reviews
    if source == "embedded":
        source = str(EMBEDDED / "classifier")
    elif source == "scratch":
        source = _made("classifier", settings)
    return load_scorer(source, settings)


def base_source(settings: Settings) -> str:
    """Folder or hub id of the base model; from scratch, the folder it is trained into."""
    source = settings.models.base
    if source == "embedded":
        return str(EMBEDDED / "base")
    return _made("base", settings) if source == "scratch" else source


def benchmark_candidates(settings: Settings, more: Sequence[str] = ()) -> dict[str, str]:
    """Names and sources of the models notebook 02 compares, the profile's base model last."""
    base = base_source(settings)
    named = {}
    if settings.models.base == "embedded":
        smallest = next(iter(zoo()))
        named[smallest] = str(EMBEDDED / "zoo" / smallest)
    named |= {Path(source).name: str(source) for source in more}
    return {**named, Path(base).name: base}


def zoo() -> dict[str, dict[str, Any]]:
    """What is stored with the models that `data/build.py` trained to be compared, smallest first.

    Returns:
        `{name: metrics}`: `parameters`, `tokens`, `seconds`, `curve` of (tokens, nats per token),
        and `bits_per_byte_reviews` and `bits_per_byte_dialogues` on `data.load_known_texts()`.
    """
    stored = {path.parent.name: json.loads(path.read_text(encoding="utf-8"))
              for path in (EMBEDDED / "zoo").glob("*/metrics.json")}
    return dict(sorted(stored.items(), key=lambda item: (item[1]["parameters"], item[0])))


def _made(stage: str, settings: Settings) -> str:
    # The stage's bookkeeping lives above the helpers, so it is looked up only when needed.
    from helpers.course.stages import require

    return str(require(stage, settings))


def load_causal(
    source: str | Path, settings: Settings
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, left-padded, with a pad token that is not eos."""
    with _clear_errors("language model", source):
        tokenizer = AutoTokenizer.from_pretrained(str(source))
        model = AutoModelForCausalLM.from_pretrained(
            str(source), dtype=dtype(settings), **_quantisation(settings, source))
    prepare_tokenizer(tokenizer, model)
    return _placed(model, settings), tokenizer


def load_scorer(
    source: str | Path, settings: Settings
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence classifier (reward model or sentiment classifier) and its tokenizer."""
    with _clear_errors("classifier or reward model", source):
        if (Path(source) / "adapter_config.json").is_file():
            from peft import AutoPeftModelForSequenceClassification as Auto

            tokenizer = AutoTokenizer.from_pretrained(str(source))
            model = Auto.from_pretrained(str(source), num_labels=1, dtype=dtype(settings))
        else:
            tokenizer = AutoTokenizer.from_pretrained(str(source))
            model = AutoModelForSequenceClassification.from_pretrained(
                str(source), dtype=dtype(settings))
    return _placed(model, settings).eval(), tokenizer


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None) -> None:
    """Give the tokenizer a pad token of its own and left padding, in place.

    When pad equals eos, a loss that ignores padding ignores the end of the text as well, and a
    model never learns to stop; so a missing or shared pad token is replaced and the model's
    embeddings grow by the new token where needed.
    """
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
        if model is not None and len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tokenizer.padding_side = "left"
    if model is not None:
        model.config.pad_token_id = tokenizer.pad_token_id
        if model.generation_config is not None:
            model.generation_config.pad_token_id = tokenizer.pad_token_id


def new_reward_model(
    source: str | Path | PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Settings
) -> PreTrainedModel:
    """A reward model on a language model's backbone: hidden state to one number per position.

    The head is drawn from N(0, 1/(d+1)), that is a standard deviation of 1/sqrt(d+1) for hidden
    size d, as Stiennon et al. (2020, arXiv:2009.01325) do, so that rewards start near one another.
    """
    name = source.name_or_path if isinstance(source, PreTrainedModel) else str(source)
    with _clear_errors("reward model's backbone", name):
        model = AutoModelForSequenceClassification.from_pretrained(
            name, num_labels=1, dtype=dtype(settings), **_quantisation(settings, name))
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    if getattr(model.score, "bias", None) is not None:
        nn.init.zeros_(model.score.bias)
    nn.init.normal_(model.score.weight, std=1 / math.sqrt(model.score.in_features + 1))
    return _placed(disable_dropout(model), settings)


def add_lora(model: nn.Module, settings: Settings, task: str = "CAUSAL_LM") -> nn.Module:
    """Wrap a model in LoRA adapters (Hu et al. 2021, arXiv:2106.09685), `r` and alpha by profile.

    A reward model's head is trained and saved whole: without `modules_to_save` it would be lost
    on reload.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if getattr(model, "is_loaded_in_4bit", False):
        model = prepare_model_for_kbit_training(model)
    config = LoraConfig(
        task_type=task, r=settings.models.lora_r, lora_alpha=settings.models.lora_alpha,
        target_modules="all-linear", modules_to_save=["score"] if task == "SEQ_CLS" else None)
    return get_peft_model(model, config)


def _quantisation(settings: Settings, source: str | Path) -> dict[str, Any]:
    if settings.models.quantise == "none":
        return {}
    from transformers import BitsAndBytesConfig

    return {"quantization_config": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype(settings))}


def _placed(model: PreTrainedModel, settings: Settings) -> PreTrainedModel:
    if not getattr(model, "is_quantized", False):
        return model.to(device(settings))
    # On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks four-bit weights at the first evaluation
    # and keeps them so; the next training step then stops with "a view of a leaf Variable that
    # requires grad is being used in an in-place operation".
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


class _clear_errors:
    """Turn the hub client's many errors into one sentence that says what to change."""

    def __init__(self, what: str, source: str | Path):
        self.what, self.source = what, source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> None:
        if isinstance(error, OSError | ValueError) and not isinstance(error, UserError):
            first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise UserError(f"the {self.what} {self.source} could not be loaded ({first}); give a "
                            "folder made by the course or a hub id such as owner/name.") from error


# --- small tools ----------------------------------------------------------------------------


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Numbers of parameters: `total`, `trainable`, and `embedding` (input table, tied or not)."""
    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    return {
        "total": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "embedding": sum(p.numel() for p in embedding.parameters()) if embedding else 0,
    }


def freeze(model: nn.Module) -> nn.Module:
    """Evaluation mode and no gradients: a reference or a reward model."""
    return model.eval().requires_grad_(False)


def disable_dropout(model: nn.Module) -> nn.Module:
    """Set every dropout to zero, so that the same tokens always have the same probability."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attn_dropout", "dropout"):  # numbers, in some models
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def model_bytes(model: nn.Module) -> int:
    """Memory of weights and buffers in bytes."""
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path,
         half: bool = False) -> None:
    """Write safetensors and tokenizer; `half` stores float16, which halves the file."""
    if half:
        model = model.half()
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


# --- training from scratch ------------------------------------------------------------------


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


def scratch_config(tokenizer: PreTrainedTokenizerBase, scratch: Settings) -> Any:
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
    for start in range(0, len(texts), 1000):
        for ids in tokenizer(list(texts[start:start + 1000]))["input_ids"]:
            stream.extend([*ids, tokenizer.eos_token_id])
    rows = len(stream) // length
    if not rows:
        raise UserError(f"the texts hold {len(stream)} tokens, fewer than one row of {length}; "
                        "give more text or a smaller models.scratch.n_positions.")
    return np.asarray(stream[:rows * length], dtype=np.int64).reshape(rows, length)


def train_from_scratch(
    texts: Sequence[str], scratch: Settings, seed: int = 0, *, validation: Sequence[str] = (),
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
    kind = "cuda" if torch.cuda.is_available() else "cpu"
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
    reviews: Sequence[dict[str, Any]], held_out: Sequence[dict[str, Any]], scratch: Settings,
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
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(kind).train()
    ids = tokenizer([r["text"] for r in reviews], add_special_tokens=False)["input_ids"]
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
    right = classify(model, tokenizer, [r["text"] for r in held_out]) > 0
    accuracy = float(np.mean(right == np.array([r["label"] for r in held_out])))
    spread = 1.96 * math.sqrt(accuracy * (1 - accuracy) / len(held_out))
    return model, tokenizer, {
        "accuracy": accuracy, "accuracy_low": accuracy - spread, "accuracy_high": accuracy + spread,
        "held_out": len(held_out), "steps": steps,
        "seconds": round(time.perf_counter() - start, 1)}


@torch.no_grad()
def classify(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str],
    batch_size: int = 64,
) -> np.ndarray:
    """Sentiment logit of each text, positive minus negative, in nats: (texts,)."""
    where = next(model.parameters()).device
    limit = min(getattr(model.config, "max_position_embeddings", 512), 512)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    logits = np.zeros(len(texts))
    for start in range(0, len(texts), batch_size):
        index = order[start:start + batch_size]
        inputs = tokenizer([texts[i] for i in index], padding=True, truncation=True,
                           max_length=limit, return_tensors="pt").to(where)
        inputs.pop("token_type_ids", None)
        out = model(**inputs).logits.float()
        logits[index] = (out[:, 1] - out[:, 0]).cpu().numpy()
    return logits


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
    """The loss as one compiled graph, or as it is where no working compiler is found."""
    try:
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
