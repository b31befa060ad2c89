"""Load, save and shape the course's models: policy, reference, reward model, classifier.

A model comes from the embedded world, from a folder, from the hub, or from scratch.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file

from helpers import scratch
from helpers.engine import folders, hub
from helpers.engine.adapters import in_four_bits
from helpers.engine.artifacts import damage, stage_info
from helpers.engine.class_logits import class_logits, positive_label  # noqa: F401, handed on
from helpers.engine.costs import (  # noqa: F401, handed on
    cache_bytes,
    disk_bytes,
    licence,
    peak_bytes,
    rate_at_length,
    seconds,
    write_greedily,
    writing_costs,
)
from helpers.engine.hub import patiently
from helpers.engine.place import device, dtype, mixed_precision  # noqa: F401, handed on
from helpers.engine.scale import scale_from_metrics, scale_of
from helpers.engine.tokens import bos_in_front, use_chat_template
from helpers.errors import UserError
from helpers.paths import DATA
from helpers.profiles import Settings

EMBEDDED = DATA / "models"
NOT_SAMPLING = {"bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id",
                "use_cache", "return_dict_in_generate", "transformers_version"}


def load_base(
    settings: Settings, *, trains: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base language model with its tokenizer; with `models.base: scratch` it is trained first.

    `trains`: see `load_causal`.

    Raises:
        UserError: the folder or hub id is not to be had.
    """
    return load_causal(base_source(settings), settings, trains=trains)


def load_imdb_policy(
    settings: Settings, *, trains: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """What notebook 06 starts from: the base model, or another that continues film reviews."""
    source = settings.models.imdb_policy
    return load_causal(
        base_source(settings) if source == "base" else source, settings, trains=trains)


def load_stage(
    settings: Settings, stage: str, *, trains: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A stage's model: a reward model, with its scale, for `reward_model`, else a language model.

    `trains`: whether it goes on training, see `load_causal`. A quantised reward model comes back
    as it was trained: the backbone in four bits, its adapters, its head.

    Raises:
        UserError: the stage has not been made yet, or its files are not those that were saved.
    """
    folder = settings.artifacts / stage
    if not (folder / "stage.json").is_file():
        raise UserError(f"stage {stage} has not been made under profile {settings.name}; call "
                        f"course.require('{stage}', settings) first.")
    broken = damage(stage, settings)
    if broken:
        raise UserError(f"stage {stage} {broken}; course.require('{stage}', settings) says what to "
                        "do about it.")
    if stage not in ("reward_model", "classifier"):
        return load_causal(folder, settings, trains=trains)
    labels = 1 if stage == "reward_model" else 2
    model, tokenizer = load_scorer(folder, settings, trains=trains, labels=labels)
    if stage == "reward_model":
        scale_from_metrics(model, (stage_info(stage, settings) or {}).get("metrics", {}))
        scale_of(model).max_length = settings.reward.max_length
    return model, tokenizer


def load_classifier(settings: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The sentiment classifier (label 1 is positive) with its own tokenizer."""
    return load_scorer(scratch.require_base("classifier", settings), settings, labels=2)


def base_source(settings: Settings) -> str:
    """Folder or hub id of the base model; from scratch, the folder it is trained into."""
    return str(scratch.require_base("base", settings))


def benchmark_candidates(settings: Settings, more: Sequence[str] = ()) -> dict[str, str]:
    """Names and sources of the models notebook 02 compares, the profile's base model last."""
    base = base_source(settings)
    named = {}
    if settings.models.base == "embedded":
        named = {name: str(EMBEDDED / "zoo" / name) for name in zoo()}
    named |= {_short_name(source): str(source)
              for source in (*settings.models.candidates, *more)}
    named.pop(_short_name(base), None)
    return {**named, _short_name(base): base}


def _short_name(source: str | Path) -> str:
    """The last part of a folder, or of a hub id without its revision."""
    found = None if os.path.exists(source) else hub.parse(str(source))
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
    source: str | Path, settings: Settings, *, trains: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, left-padded, with a pad token that is not eos.

    With `trains` it comes ready to train as the profile says: float32 weights, or new adapters in
    float32 on frozen weights (`models.lora`) that may be in four bits (`models.quantised`), and
    checkpointing. With its adapters switched off it is the model that was loaded. Otherwise it is
    to be read only, and its weights are of `place.dtype`.

    It samples from its own probabilities: of the settings that it brings for sampling (penalties,
    top-k, beams, forbidden words and the rest), only the ids that begin, end and pad a text are
    kept, and saved with it. The others are `model.sampling_set_aside`, a dictionary.

    Rows of the embedding beyond the tokenizer's last id, with which many vocabularies are rounded
    up, are cut off: no text has such a token, and none can be sampled or has a probability.

    Raises:
        UserError: the folder or hub id is not to be had, or damaged, or holds something else.
    """
    what = "language model"
    with _clear_errors(what, source):
        folders.check(source, what)
        tokenizer = _tokenizer(source, what, settings)
        model = _pretrained(AutoModelForCausalLM, source, settings, "policy" if trains else None)
        folders.check_fit(tokenizer, model.get_input_embeddings().num_embeddings, what, source)
        prepare_tokenizer(tokenizer, model)
        _cut_rows(model, tokenizer)
        _tell(_own_sampling(model, tokenizer, source), tokenizer)
    model = _placed(model, settings)
    return (_to_train(model, settings) if trains else model), tokenizer


def load_tokenizer(
    source: str | Path, settings: Settings | None = None
) -> PreTrainedTokenizerBase:
    """A language model's tokenizer alone, prepared as with its model.

    `settings`: whether it writes dialogues in its chat template (`models.chat_template`); without
    them it does not.
    """
    with _clear_errors("tokenizer", source):
        folders.check(source, "tokenizer", weights=False)
        tokenizer = _tokenizer(source, "tokenizer", settings)
    prepare_tokenizer(tokenizer, None)
    return tokenizer


def _tokenizer(
    source: str | Path, what: str, settings: Settings | None, ends: bool = True
) -> PreTrainedTokenizerBase:
    name, options = hub.pretrained(source)
    with _clear_errors(what, source, "tokenizer.json and tokenizer_config.json make no tokenizer"):
        tokenizer = patiently(lambda: AutoTokenizer.from_pretrained(name, **options))
    folders.check_words(tokenizer, what, source, ends)
    if ends and settings is not None and settings.models.chat_template:
        use_chat_template(tokenizer)
    return tokenizer


def load_scorer(
    source: str | Path, settings: Settings, *, trains: bool = False, labels: int | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence classifier (reward model or sentiment classifier) and its tokenizer.

    `labels`: how many numbers it must give for a text, 1 for a reward model.

    Raises:
        UserError: the folder or hub id is not to be had, or damaged, or holds something else.
    """
    what = {1: "reward model", None: "classifier or reward model"}.get(labels, "classifier")
    with _clear_errors(what, source):
        folders.check(source, what)
        tokenizer = _tokenizer(source, what, settings, ends=labels == 1)
        if (Path(source) / "adapter_config.json").is_file():
            return _with_adapters(source, tokenizer, settings, trains).eval(), tokenizer
        auto = AutoModelForSequenceClassification
        model = _pretrained(auto, source, settings, "reward" if trains else None, what)
        folders.check_fit(tokenizer, model.get_input_embeddings().num_embeddings, what, source)
        if tokenizer.pad_token_id is None:
            folders.refuse(what, source, "its tokenizer has no padding token", 'name it as '
                           '"pad_token" in tokenizer_config.json')
        if labels not in (None, model.config.num_labels):
            folders.refuse(what, source, f"it gives {model.config.num_labels} numbers for a text, "
                           f"and a {what} gives {labels}", f"give a folder or hub id of a {what}")
    if hasattr(model, "score"):
        model.score.float()  # what it multiplies is small: rewards keep their precision
    model = _placed(model, settings)
    return (_to_train(model, settings, "SEQ_CLS") if trains else model).eval(), tokenizer


def _with_adapters(
    folder: str | Path, tokenizer: PreTrainedTokenizerBase, settings: Settings, trains: bool
) -> Any:
    """A reward model from its stored adapters and head, on its backbone as it was in training."""
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(str(folder))
    revision = f"@{config.revision}" if config.revision else ""
    model = _reward_model(f"{config.base_model_name_or_path}{revision}", tokenizer, settings)
    model = PeftModel.from_pretrained(
        _ready_for_adapters(model), str(folder), is_trainable=trains)
    folders.check_finite(model, "reward model", folder)
    return _placed(_checkpointed(model, settings) if trains else model, settings)


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, model: Any) -> None:
    """Give the tokenizer a pad token of its own and left padding, in place.

    When pad equals eos, a loss that ignores padding ignores the end of the text as well, and a
    model never learns to stop; so a missing or shared pad token is replaced and the model's
    embeddings grow by the new token where needed.
    """
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": scratch.PAD})
    tokenizer.padding_side = "left"
    if model is not None:
        _know_padding(model, tokenizer)
        if model.generation_config is not None:
            model.generation_config.pad_token_id = tokenizer.pad_token_id


def _know_padding(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    needed = folders.highest(tokenizer.get_vocab().values())
    if needed > model.get_input_embeddings().num_embeddings:
        _add_rows(model, needed)
    model.config.pad_token_id = tokenizer.pad_token_id


@torch.no_grad()
def _add_rows(model: PreTrainedModel, size: int) -> None:
    """Grow the embeddings to `size` rows; the new ones are the mean of the others, at each load.

    Drawn at random, a new token's logit would lie near 0. Where all others are far below, as with
    GPT-2, the model would write nothing else, and no two loads would be the same model.
    """
    known = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(size, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        if layer is not None:
            weight = cast(torch.Tensor, layer.weight)
            weight[known:] = weight[:known].float().mean(0)


def _cut_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Take the rows that no token has off the embeddings; the logits of the others stay."""
    needed = folders.highest(tokenizer.get_vocab().values())
    if needed < cast(int, model.get_input_embeddings().num_embeddings):
        model.resize_token_embeddings(needed, mean_resizing=False)


def _own_sampling(
    model: Any, tokenizer: PreTrainedTokenizerBase, source: str | Path
) -> dict[str, Any]:
    """Leave ids alone in the model's `generation_config`; returns what its source says besides.

    `from_pretrained` was given an empty one, so that nothing of the file is at work before.
    """
    name, options = hub.pretrained(source)
    options = {key: value for key, value in options.items() if key == "revision"}
    stored: dict[str, Any] = model.config.to_dict()
    for file in ("config.json", "generation_config.json"):  # old checkpoints have only the first
        if path := cached_file(name, file, _raise_exceptions_for_missing_entries=False, **options):
            stored |= json.loads(Path(path).read_text(encoding="utf-8"))
    known = model.get_input_embeddings().num_embeddings
    ends = stored.get("eos_token_id")
    ends = [tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])]
    ends = list(dict.fromkeys(i for i in ends if isinstance(i, int) and 0 <= i < known))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0])
    plain = GenerationConfig().to_dict()
    model.sampling_set_aside = {
        key: value for key, value in stored.items() if key in plain and value is not None
        and not key.startswith(("_", "output_")) and key not in NOT_SAMPLING}
    for key in model.sampling_set_aside.keys() & vars(model.config).keys():
        delattr(model.config, key)
    return model.sampling_set_aside


@functools.cache
def _say_once(text: str) -> None:
    print(text, flush=True)


def _tell(set_aside: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    """What a reader should know of a model that was loaded, each once."""
    bos = bos_in_front(tokenizer)
    if bos is not None:
        _say_once(f"Every text begins with {tokenizer.convert_ids_to_tokens(bos)!r}, as this "
                  "model's tokenizer has it.")
    if set_aside:
        listed = ", ".join(f"{key}={value!r}"[:40] for key, value in list(set_aside.items())[:6])
        _say_once(f"Sampling settings that this model brings are not used: {listed}.")


def new_reward_model(
    source: str | Path | PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Settings
) -> PreTrainedModel:
    """A reward model on a language model's backbone, ready to train as the profile says.

    It makes one number of the hidden state at a position. The head is drawn from N(0, 1/(d+1)),
    that is a standard deviation of 1/sqrt(d+1) for hidden size d, as Stiennon et al. (2020,
    arXiv:2009.01325) do, so that rewards start near one another. Weights that train are float32;
    with `models.lora` these are adapters and the head.
    """
    if isinstance(source, PreTrainedModel):
        revision = getattr(source, "hub_revision", None)
        source = f"{source.name_or_path}@{revision}" if revision else str(source.name_or_path)
    with _clear_errors("reward model's backbone", source):
        model = _reward_model(str(source), tokenizer, settings)
    if getattr(model.score, "bias", None) is not None:
        nn.init.zeros_(model.score.bias)
    nn.init.normal_(model.score.weight, std=1 / math.sqrt(model.score.in_features + 1))
    scale_of(model).max_length = settings.reward.max_length
    return _to_train(_placed(model, settings), settings, "SEQ_CLS")


def with_new_head(
    source: str | Path, tokenizer: PreTrainedTokenizerBase, settings: Settings,
    labels: Sequence[str], what: str
) -> PreTrainedModel:
    """A language model's backbone, float32, with a new head of one logit for each label.

    Args:
        what: "comparison model" or the like, for messages.

    Raises:
        UserError: the folder or hub id is not to be had, or damaged, or does not fit the tokenizer.
    """
    plain = settings.models.model_copy(update={"lora": False})
    what = f"{what}'s backbone"
    with _clear_errors(what, source):
        return _backbone(str(source), tokenizer, settings.model_copy(update={"models": plain}),
                         what, num_labels=len(labels), id2label=dict(enumerate(labels)),
                         label2id={name: i for i, name in enumerate(labels)})


def _reward_model(name: str, tokenizer: PreTrainedTokenizerBase, settings: Settings) -> Any:
    return _backbone(name, tokenizer, settings, "reward model's backbone", num_labels=1)


def _backbone(
    name: str, tokenizer: PreTrainedTokenizerBase, settings: Settings, what: str, **head: Any
) -> Any:
    folders.check(name, what, tokenizer=False)
    model = _pretrained(AutoModelForSequenceClassification, name, settings, "reward", what,
                        new_head=True, **head)
    folders.check_fit(tokenizer, model.get_input_embeddings().num_embeddings, what, name)
    _know_padding(model, tokenizer)
    return disable_dropout(model)


def add_lora(model: nn.Module, settings: Settings, task: str = "CAUSAL_LM") -> Any:
    """Wrap a model in LoRA adapters (Hu et al. 2021, arXiv:2106.09685) as `models.lora_*` say.

    What trains is float32, whatever is frozen. A reward model's head is trained and saved whole:
    without `modules_to_save` it would be lost on reload.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type=task, r=settings.models.lora_r, lora_alpha=settings.models.lora_alpha,
        target_modules=settings.models.lora_targets,
        modules_to_save=["score"] if task == "SEQ_CLS" else None)
    model = get_peft_model(_ready_for_adapters(model), config,
                           revision=getattr(model, "hub_revision", None))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def _to_train(model: Any, settings: Settings, task: str = "CAUSAL_LM") -> Any:
    """Give a loaded model the adapters and the checkpointing that the profile asks for."""
    if settings.models.lora:
        model = add_lora(model, settings, task)
    return _checkpointed(model, settings)


def _checkpointed(model: Any, settings: Settings) -> Any:
    if settings.models.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if settings.models.lora:
            model.enable_input_require_grads()
    return model


def _ready_for_adapters(model: Any) -> Any:
    """Of a quantised model, freeze all and make float32 of what is not in four bits."""
    if not in_four_bits(model):
        return model
    from peft import prepare_model_for_kbit_training

    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def _pretrained(
    auto: Any, source: str | Path, settings: Settings, trains: str | None,
    what: str = "language model", new_head: bool = False, **options: Any
) -> Any:
    """Weights in the type they need, all of them: `trains` says what is trained, if anything."""
    options["dtype"] = dtype(settings)
    if trains and not settings.models.lora:
        options["dtype"] = torch.float32
    elif trains and settings.models.quantises(trains):  # pyright: ignore[reportArgumentType]
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype(settings))
        options["device_map"] = {"": device(settings)}
    name, found = hub.pretrained(source)
    if auto is AutoModelForCausalLM:
        options["generation_config"] = GenerationConfig()
    with _clear_errors(what, source, "config.json and the weights make no model"):
        model, info = patiently(lambda: cast(Any, auto).from_pretrained(
            name, **options, **found, use_safetensors=True, output_loading_info=True,
            ignore_mismatched_sizes=True))  # they are named below
    folders.check_tensors(model, info, what, source, new_head)
    model.hub_revision = found.get("revision")  # for whoever loads the same weights again by name
    return model


def _placed(model: Any, settings: Settings) -> Any:
    if not in_four_bits(model):
        return model.to(device(settings))
    # On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks four-bit weights at the first evaluation
    # and keeps them so; the next training step then stops with "a view of a leaf Variable that
    # requires grad is being used in an in-place operation".
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


class _clear_errors:
    """Turn the many errors of loading into one sentence that says what to change.

    Their kinds cannot be listed: a damaged file meets whatever code comes upon it first.
    """

    def __init__(self, what: str, source: str | Path, damaged: str = ""):
        self.what, self.source, self.damaged = what, source, damaged

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> None:
        ours = isinstance(error, UserError | MemoryError | torch.OutOfMemoryError)
        if isinstance(error, Exception) and not ours:
            if not os.path.exists(self.source) and hub.parse(str(self.source)):
                raise UserError(f"the {self.what} {hub.refusal(error, self.source)}") from error
            first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
            reason = first if isinstance(error, OSError | ValueError | ImportError) and first else (
                f"{type(error).__name__}: {first}")
            if self.damaged:
                folders.refuse(self.what, self.source, f"{self.damaged} ({reason})",
                               "mend what the brackets say, or " + folders.AGAIN)
            raise UserError(f"the {self.what} {self.source} could not be loaded ({reason}); give a "
                            "folder made by the course or a hub id such as owner/name.") from error


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Numbers of parameters: `total`, `trainable`, and `embedding` (input table, tied or not)."""
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
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
