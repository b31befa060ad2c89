"""Load, save and shape the course's models: policy, reference, reward model, classifier.

A model comes from the embedded world, from a folder, from the hub, or from scratch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from helpers import scratch
from helpers.engine import hub
from helpers.engine.class_logits import class_logits, positive_label  # noqa: F401, handed on
from helpers.engine.hub import patiently
from helpers.engine.place import device, dtype, mixed_precision  # noqa: F401, handed on
from helpers.errors import UserError
from helpers.paths import DATA
from helpers.profiles import Settings

EMBEDDED = DATA / "models"


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
    return load_scorer(scratch.require_base("classifier", settings), settings)


def base_source(settings: Settings) -> str:
    """Folder or hub id of the base model; from scratch, the folder it is trained into."""
    return str(scratch.require_base("base", settings))


def benchmark_candidates(settings: Settings, more: Sequence[str] = ()) -> dict[str, str]:
    """Names and sources of the models notebook 02 compares, the profile's base model last."""
    base = base_source(settings)
    named = {}
    if settings.models.base == "embedded":
        smallest = next(iter(zoo()))
        named[smallest] = str(EMBEDDED / "zoo" / smallest)
    named |= {_short_name(source): str(source) for source in more}
    return {**named, _short_name(base): base}


def _short_name(source: str | Path) -> str:
    """The last part of a folder, or of a hub id without its revision."""
    found = None if Path(source).exists() else hub.parse(str(source))
    return Path(found.repo if found else source).name


def zoo() -> dict[str, dict[str, Any]]:
    """What is stored with the models that `data/build.py` trained to be compared, smallest first.

    Returns:
        `{name: metrics}`: `parameters`, `tokens`, `seconds`, `curve` of (tokens, nats per token),
        and `bits_per_byte_reviews` and `bits_per_byte_dialogues` on `data.load_known_texts()`.
    """
    stored = {path.parent.name: json.loads(path.read_text(encoding="utf-8"))
              for path in (EMBEDDED / "zoo").glob("*/metrics.json")}
    return dict(sorted(stored.items(), key=lambda item: (item[1]["parameters"], item[0])))


def load_causal(
    source: str | Path, settings: Settings
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, left-padded, with a pad token that is not eos."""
    with _clear_errors("language model", source):
        name, options = hub.pretrained(source)
        tokenizer = patiently(lambda: AutoTokenizer.from_pretrained(name, **options))
        model = patiently(lambda: AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype(settings), **_quantisation(settings, source), **options))
    prepare_tokenizer(tokenizer, model)
    model.hub_revision = options.get("revision")  # for whoever loads the same weights again by name
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
            name, options = hub.pretrained(source)
            tokenizer = patiently(lambda: AutoTokenizer.from_pretrained(name, **options))
            model = patiently(lambda: AutoModelForSequenceClassification.from_pretrained(
                name, dtype=dtype(settings), **options))
    return _placed(model, settings).eval(), tokenizer


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None) -> None:
    """Give the tokenizer a pad token of its own and left padding, in place.

    When pad equals eos, a loss that ignores padding ignores the end of the text as well, and a
    model never learns to stop; so a missing or shared pad token is replaced and the model's
    embeddings grow by the new token where needed.
    """
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": scratch.PAD})
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
    if isinstance(source, PreTrainedModel):
        revision = getattr(source, "hub_revision", None)
        source = source.name_or_path + (f"@{revision}" if revision else "")
    with _clear_errors("reward model's backbone", source):
        name, options = hub.pretrained(source)
        model = patiently(lambda: AutoModelForSequenceClassification.from_pretrained(
            name, num_labels=1, dtype=dtype(settings), **_quantisation(settings, name), **options))
    model.hub_revision = options.get("revision")
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
    return get_peft_model(model, config, revision=getattr(model, "hub_revision", None))


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
            if not Path(self.source).exists() and hub.parse(str(self.source)):
                raise UserError(f"the {self.what} {hub.refusal(error, self.source)}") from error
            first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise UserError(f"the {self.what} {self.source} could not be loaded ({first}); give a "
                            "folder made by the course or a hub id such as owner/name.") from error


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
