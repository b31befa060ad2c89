"""What a profile's training needs of memory and work, counted before anything is fetched.

Arithmetic on the shapes of models: nothing here loads torch. A plan is a list of components, each
with the moments at which it is held; the peak is the largest sum at one moment, since a step of the
optimiser needs the gradients and no activations, and the way back begins with activations and
hardly a gradient.

Rows are taken at the profile's longest, so that a plan is what the longest batch needs. What
activations take was counted from the tensors that PyTorch saves for the way back, on a CPU
(`tests/course/test_plan.py` counts again). A GPU adds its context and what its allocator cannot
use, so that a tenth of it is left free (`USABLE`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from helpers.errors import UserError
from helpers.paths import DATA
from helpers.profiles import Settings

Moment = Literal["sample", "score", "learn", "step"]
Task = Literal["text", "score", "sentiment"]  # what a model is for: its head
MOMENTS: tuple[Moment, ...] = ("sample", "score", "learn", "step")
SAYS = {"sample": "sampling", "score": "reading without a way back",
        "learn": "before the way back", "step": "the optimiser's step"}
# The stages of 03 to 06, and what notebooks 07 to 10 hold beside them.
STAGES = ("sft", "reward_model", "ppo", "ppo_trl", "evaluation", "beyond_ppo", "over_optimisation",
          "own_feedback")
USABLE = 0.9  # of a device's memory
FLOAT, HALF = 4, 2  # bytes of a number
# Of a weight in NF4: half a byte, a byte for 64 of them, and four for 256 such bytes.
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
MANY_PAIRS = 100_000  # where `data.pair_limit` sets no limit; HH has 160,800
SFT_PIECE = 256  # positions whose logits TRL's `chunked_nll` holds at once
SAMPLED_AT_ONCE = 64  # rows, `generation.sample` and `sft.response_losses`
ASKED_AT_ONCE = 128  # rows that notebooks 07 to 10 sample
NEW_PAIRS, OLD_PAIRS = 16, 32  # of a step of `feedback_loop.update_reward_model`
LOOP_ROWS = 32  # most at once in the PPO of notebook 07
FEATURES_AT_ONCE = 32  # rows, `reward.active.features`
FEATURES_LENGTH = 2048  # tokens of one at most, `reward.scoring_limit` of a language model
LOGITS_AT_ONCE = 2**26  # numbers, `evaluation.LOGITS`
JUDGED_TEXTS = 3  # of `reward.max_length`: two answers, and one of them said once more
TRL_LOGITS = 4  # copies: the policy's, the reference's or the cooled ones, and gradients of two


@dataclass(frozen=True)
class Architecture:
    """The shape of a transformer, in numbers of its configuration file."""

    family: Literal["gpt2", "gpt_neo", "gpt_neox", "llama", "distilbert"]
    layers: int
    width: int
    inner: int  # of the feed-forward part
    heads: int
    kv_heads: int
    vocabulary: int  # rows of the embedding, which may be more than the tokenizer has
    positions: int = 0  # learned ones; 0 where they are rotary
    tied: bool = True  # whether the output embedding is the input's
    qkv_bias: bool = False  # of the family llama; the others have it
    stored: int = FLOAT  # bytes of a number on disk
    head_width: int = 0  # of attention; 0 where all heads together are as wide as the stream

    @property
    def query_width(self) -> int:
        """Width of all queries of a token."""
        return self.heads * (self.head_width or self.width // self.heads)

    @property
    def kv_width(self) -> int:
        """Width of all keys, or of all values, of a token."""
        return self.query_width // self.heads * self.kv_heads

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(in, out) of the matrices of one layer."""
        w, i = self.width, self.inner
        if self.family in ("gpt2", "gpt_neox"):
            return [(w, 3 * w), (w, w), (w, i), (i, w)]
        if self.family in ("distilbert", "gpt_neo"):
            return [(w, w)] * 4 + [(w, i), (i, w)]
        q, kv = self.query_width, self.kv_width
        return [(w, q), (w, kv), (w, kv), (q, w), (w, i), (w, i), (i, w)]

    @property
    def matrices(self) -> int:
        """Weights in the layers' matrices: what is quantised, or cast by autocast."""
        return self.layers * sum(a * b for a, b in self.linears)

    @property
    def embeddings(self) -> int:
        """Numbers in the input embedding and the learned positions."""
        return (self.vocabulary + self.positions) * self.width

    @property
    def rest(self) -> int:
        """Norms and biases."""
        w = self.width
        if self.family == "llama":
            bias = w + 2 * self.kv_width if self.qkv_bias else 0
            return self.layers * (2 * w + bias) + w
        bare = 3 * w if self.family == "gpt_neo" else 0  # queries, keys and values without a bias
        return self.layers * (sum(out for _, out in self.linears) - bare + 4 * w) + 2 * w

    def head(self, task: Task) -> int:
        """Numbers of a head of its own: next token, one reward, or two labels."""
        if task == "sentiment":
            return (self.width + 1) * (self.width + 2)
        return self.width if task == "score" else 0 if self.tied else self.vocabulary * self.width

    def parameters(self, task: Task = "text") -> int:
        """All parameters with the head for a task."""
        return self.matrices + self.embeddings + self.rest + self.head(task)

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA on every matrix of the layers."""
        return self.layers * rank * sum(a + b for a, b in self.linears)


# From the configuration files on the hub.
ARCHITECTURES = {
    "openai-community/gpt2": Architecture("gpt2", 12, 768, 3072, 12, 12, 50257, 1024),
    "distilbert/distilgpt2": Architecture("gpt2", 6, 768, 3072, 12, 12, 50257, 1024),
    "openai-community/gpt2-medium": Architecture("gpt2", 24, 1024, 4096, 16, 16, 50257, 1024),
    "lvwerra/gpt2-imdb": Architecture("gpt2", 12, 768, 3072, 12, 12, 50257, 1024),
    "lvwerra/distilbert-imdb": Architecture("distilbert", 6, 768, 3072, 12, 12, 30522, 512),
    "EleutherAI/gpt-neo-125m": Architecture("gpt_neo", 12, 768, 3072, 12, 12, 50257, 2048),
    "EleutherAI/pythia-160m": Architecture(
        "gpt_neox", 12, 768, 3072, 12, 12, 50304, tied=False, stored=HALF),
    "google/gemma-2b": Architecture(
        "llama", 18, 2048, 16384, 8, 1, 256000, stored=HALF, head_width=256),
    "google/gemma-7b": Architecture(
        "llama", 28, 3072, 24576, 16, 16, 256000, stored=HALF, head_width=256),
    "HuggingFaceTB/SmolLM2-135M": Architecture(
        "llama", 30, 576, 1536, 9, 3, 49152, stored=HALF),
    "HuggingFaceTB/SmolLM2-135M-Instruct": Architecture(
        "llama", 30, 576, 1536, 9, 3, 49152, stored=HALF),
    "HuggingFaceTB/SmolLM2-360M-Instruct": Architecture(
        "llama", 32, 960, 2560, 15, 5, 49152, stored=HALF),
    "Qwen/Qwen2.5-0.5B": Architecture(
        "llama", 24, 896, 4864, 14, 2, 151936, qkv_bias=True, stored=HALF),
    "Qwen/Qwen2.5-1.5B": Architecture(
        "llama", 28, 1536, 8960, 12, 2, 151936, qkv_bias=True, stored=HALF),
    "Qwen/Qwen2.5-1.5B-Instruct": Architecture(
        "llama", 28, 1536, 8960, 12, 2, 151936, qkv_bias=True, stored=HALF),
    "Qwen/Qwen2.5-7B": Architecture(
        "llama", 28, 3584, 18944, 28, 4, 152064, tied=False, qkv_bias=True, stored=HALF),
    "Qwen/Qwen2.5-7B-Instruct": Architecture(
        "llama", 28, 3584, 18944, 28, 4, 152064, tied=False, qkv_bias=True, stored=HALF),
}
FAMILIES = {"gpt2": "gpt2", "gpt_neo": "gpt_neo", "gpt_neox": "gpt_neox", "llama": "llama",
            "mistral": "llama", "qwen2": "llama", "gemma": "llama", "distilbert": "distilbert",
            "bert": "distilbert", "roberta": "distilbert", "xlm-roberta": "distilbert"}


def from_config(config: Mapping[str, Any], name: str = "this model") -> Architecture:
    """The shape that a `config.json` of transformers describes.

    Raises:
        UserError: a kind of model whose memory is not known here.
    """
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise UserError(f"the memory of {name} cannot be planned: its model_type is {kind!r}, and "
                        f"only {', '.join(FAMILIES)} are known.")
    if kind == "gpt2":
        width = config["n_embd"]
        return Architecture("gpt2", config["n_layer"], width, config.get("n_inner") or 4 * width,
                            config["n_head"], config["n_head"], config["vocab_size"],
                            config["n_positions"])
    if kind == "distilbert":
        return Architecture(kind, config["n_layers"], config["dim"], config["hidden_dim"],
                            config["n_heads"], config["n_heads"], config["vocab_size"],
                            config["max_position_embeddings"])
    half = "16" in str(config.get("dtype") or config.get("torch_dtype"))
    stored = HALF if half else FLOAT
    width = config["hidden_size"]
    if FAMILIES[kind] == "distilbert":  # BERT and its kin: layers alike, and rows for token types
        heads = config["num_attention_heads"]
        return Architecture(
            "distilbert", config["num_hidden_layers"], width, config["intermediate_size"], heads,
            heads, config["vocab_size"],
            config["max_position_embeddings"] + config["type_vocab_size"], stored=stored)
    if kind == "gpt_neo":
        return Architecture(kind, config["num_layers"], width,
                            config.get("intermediate_size") or 4 * width, config["num_heads"],
                            config["num_heads"], config["vocab_size"],
                            config["max_position_embeddings"], stored=stored)
    heads = config["num_attention_heads"]
    tied = config.get("tie_word_embeddings")
    head_width = config.get("head_dim") or 0
    return Architecture(
        "gpt_neox" if kind == "gpt_neox" else "llama", config["num_hidden_layers"], width,
        config["intermediate_size"], heads, config.get("num_key_value_heads") or heads,
        config["vocab_size"], tied=kind == "gemma" if tied is None else bool(tied),
        qkv_bias=kind == "qwen2", stored=stored, head_width=head_width)


def architecture(source: str, settings: Settings) -> Architecture:
    """The shape of what a setting under `models` names.

    Raises:
        UserError: a hub id that is not in the table above and whose configuration is not here.
    """
    if source in ("base", "sft"):
        return architecture(settings.models.base, settings)
    if source == "scratch":
        size = settings.models.scratch
        return Architecture("gpt2", size.n_layer, size.n_embd, 4 * size.n_embd, size.n_head,
                            size.n_head, size.vocab_size, size.n_positions)
    name = source.partition("@")[0]  # without the revision
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    file = (DATA / "models" / "base" if source == "embedded" else Path(source)) / "config.json"
    if not file.is_file():
        file = _cached(name)
    if file is None:
        raise UserError(f"the memory of {source} cannot be planned: its shape is not known here; "
                        f"give a folder that holds its config.json, or `hf download {source} "
                        "config.json`.")
    return from_config(json.loads(file.read_text(encoding="utf-8")), source)


def _cached(source: str) -> Path | None:
    """The configuration of a hub id that was fetched before."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, "config.json") if source.count("/") == 1 else None
    return Path(found) if isinstance(found, str) else None


@dataclass(frozen=True)
class Way:
    """How a model is held and trained."""

    rank: int = 0  # of LoRA; 0: all weights are trained
    nf4: bool = False
    frozen: int = FLOAT  # bytes of a weight that does not train
    autocast: bool = False  # products in 16 bits
    checkpointing: bool = False
    scores: bool = False  # attention that keeps its scores, as on a CPU under autocast

    @property
    def computed(self) -> int:
        """Bytes of a number between two layers' products."""
        return HALF if self.autocast else FLOAT


@dataclass(frozen=True)
class Component:
    """Some bytes of one model, and when they are held."""

    model: str
    what: str
    bytes: int
    when: tuple[Moment, ...] = MOMENTS


def peak(components: Sequence[Component]) -> int:
    """The most bytes that are held at one moment."""
    return max(at(components).values(), default=0)


def at(components: Sequence[Component]) -> dict[Moment, int]:
    """Bytes held at each moment."""
    return {moment: sum(c.bytes for c in components if moment in c.when) for moment in MOMENTS}


def activation_bytes(shape: Architecture, way: Way, rows: int, length: int) -> int:
    """What one layer keeps for its way back, over `rows` texts of `length` tokens.

    Bytes per token are linear in the widths of the stream, of the feed-forward part and of keys and
    values; a frozen norm keeps one copy of its input less.
    """
    w, i, q, kv = shape.width, shape.inner, shape.query_width, shape.kv_width
    half = bool(way.rank) and way.frozen == HALF and not way.nf4  # norms in 16 bits
    scores = FLOAT + HALF if way.scores else 0  # of attention
    if shape.family == "llama" and way.autocast:
        # Plain attention repeats keys and values for every head.
        attention = 6 * q if way.scores else (4 if way.rank else 2) * q + 4 * kv
        token = (18 if way.rank else 26) * w + 2 * q + 8 * i + attention
    elif shape.family == "llama":
        token = (16 if way.rank else 24) * w + 8 * q + 16 * i + 8 * kv
    elif shape.family == "gpt_neox":  # gelu as PyTorch has it keeps its input
        attention = 6 if way.scores else 8 if way.nf4 else 12
        token = (attention + (8 if half else 10)) * w + 4 * i if way.autocast else 40 * w + 8 * i
    elif shape.family == "gpt_neo":  # has no attention but the one that keeps its scores
        token = (20 if half else 24) * w + 10 * i if way.autocast else 32 * w + 20 * i
        scores = FLOAT if not way.autocast else HALF if half else FLOAT + HALF
    else:  # gelu as GPT-2 has it keeps four steps of its formula
        token = ((18 if half else 20) * w + 10 * i) if way.autocast else (32 * w + 20 * i)
    if way.nf4 and way.autocast:  # four-bit layers give float32 back
        token += (FLOAT - HALF) * {"llama": 3, "gpt_neox": 1}.get(shape.family, 4) * i
    token += len(shape.linears) * way.rank * way.computed
    return rows * length * (token + shape.heads * length * scores)


def copied(shape: Architecture, way: Way) -> int:
    """Weights of one layer that autocast casts to 16 bits and that the way back needs.

    Four-bit matrices are unpacked again instead.
    """
    cast = way.autocast and not way.nf4 and (not way.rank or way.frozen == FLOAT)
    numbers = cast * shape.matrices + way.autocast * shape.adapters(way.rank)
    return HALF * numbers // shape.layers


def held(name: str, shape: Architecture, task: Task, way: Way) -> list[Component]:
    """A frozen model's weights."""
    rest = FLOAT if way.nf4 else way.frozen  # PEFT makes float32 of all that is not in four bits
    adapters = FLOAT * shape.adapters(way.rank) if way.nf4 else 0  # else they are merged
    return [Component(name, "weights", _frozen_weights(shape, task, way, rest) + adapters)]


def trained(
    name: str, shape: Architecture, task: Task, way: Way, rows: int, length: int,
    logits: int = 0, accumulates: bool = False,
) -> list[Component]:
    """A model that is trained on `rows` texts of `length` tokens at once.

    `logits`: bytes of logits and what is made of them; `accumulates`: gradients of earlier batches
    are held while the next one is computed.
    """
    head = shape.head(task) if task != "text" else 0
    trains = shape.adapters(way.rank) + head if way.rank else shape.parameters(task)
    # PEFT makes float32 of all that is not in four bits.
    rest = FLOAT if way.nf4 else way.frozen
    weights = _frozen_weights(shape, task, way, rest) + FLOAT * trains if way.rank else (
        FLOAT * trains)
    table = 0 if way.rank else FLOAT * shape.vocabulary * shape.width
    layer = activation_bytes(shape, way, rows, length)
    kept, copies = shape.layers * layer, shape.layers * copied(shape, way)
    stream = rows * length * shape.width * (way.frozen if way.rank and not way.nf4 else FLOAT)
    if way.checkpointing:
        kept = shape.layers * stream + layer
        copies = copies if not way.rank else copied(shape, way)
    working = rows * length * way.computed * (shape.width + 2 * shape.inner)
    parts = [
        Component(name, "weights", weights),
        Component(name, "gradients", FLOAT * trains,
                  ("sample", "score", "learn", "step") if accumulates else ("step",)),
        Component(name, "optimiser", 2 * FLOAT * trains),
        Component(name, "optimiser's working copy", table or FLOAT * shape.inner * max(
            way.rank, 1), ("step",)),
        Component(name, "activations", kept + stream, ("learn",)),
        Component(name, "one layer at work", working, ("learn",)),
        Component(name, "logits", logits, ("learn",)),
    ]
    if task == "text" and not way.rank and not accumulates:
        parts.append(Component(name, "gradient of the output embedding", table, ("learn",)))
    # Of what trains autocast remembers its copies, of what is frozen the way back holds them.
    parts.append(Component(name, "16-bit copies of matrices", copies,
                           ("learn",) if way.rank else ("sample", "score", "learn")))
    if way.nf4:
        parts.append(Component(name, "one matrix unpacked", _largest(shape) * way.computed,
                               ("sample", "score", "learn")))
    return [part for part in parts if part.bytes]


def read(
    name: str, shape: Architecture, way: Way, rows: int, length: int, when: Moment = "score",
) -> list[Component]:
    """A forward pass without a way back."""
    bytes_ = FLOAT if way.frozen == FLOAT and not way.autocast else HALF
    token = 2 * FLOAT * shape.width + bytes_ * (3 * shape.width + 3 * shape.inner)
    unpacked = bytes_ * _largest(shape) if way.nf4 else 0
    return [Component(name, "forward pass", rows * length * token + unpacked, (when,))]


def sampled(name: str, shape: Architecture, way: Way, rows: int, length: int) -> list[Component]:
    """Sampling: keys and values of every token so far, and the next token's distribution."""
    number = HALF if way.autocast or (way.rank and way.frozen == HALF) else FLOAT
    cache = shape.layers * 2 * shape.kv_width * rows * length * number
    return [Component(name, "KV cache", cache, ("sample",)),
            Component(name, "next token's distribution", 4 * FLOAT * rows * shape.vocabulary,
                      ("sample",))]


def plan(
    settings: Settings, stage: str, *, half: bool = False, autocast: bool | None = None,
    on_cpu: bool = False,
) -> list[Component]:
    """What one stage of a profile holds, all models that are alive at once.

    Args:
        half: whether the device has bfloat16, so that `dtype: auto` freezes in it.
        autocast: whether training multiplies in 16 bits where the profile allows it; None: as
            `half`.
        on_cpu: attention then keeps its scores under autocast.

    Raises:
        UserError: another stage, or a model whose shape is not known.
    """
    if stage not in STAGES:
        raise UserError(f"stage {stage!r} has no plan; choose one of {', '.join(STAGES)}.")
    models = settings.models
    cast = settings.mixed_precision == "auto" and (half if autocast is None else autocast)
    frozen = HALF if settings.dtype == "bfloat16" or (settings.dtype == "auto" and half) else FLOAT
    way = Way(models.lora_r if models.lora else 0, False, frozen, cast,
              models.gradient_checkpointing, cast and on_cpu)
    ways = {name: replace(way, nf4=models.quantises(name)) for name in ("policy", "reward")}
    return _STAGES[stage](settings, ways["policy"], ways["reward"], 16 if on_cpu else 64)


def _sft(settings: Settings, way: Way, _: Way, __: int) -> list[Component]:
    shape, size = architecture("base", settings), settings.sft
    positions = min(SFT_PIECE, size.batch_size * size.max_length)
    return [*trained("policy", shape, "text", way, size.batch_size, size.max_length,
                     3 * FLOAT * positions * shape.vocabulary
                     + _head_copy(shape, way, HALF if way.autocast else FLOAT)),
            *read("policy", shape, way, SAMPLED_AT_ONCE, size.max_length),
            *sampled("policy", shape, way, SAMPLED_AT_ONCE,
                     size.max_length + settings.ppo.max_new_tokens)]


def _reward(settings: Settings, _: Way, way: Way, __: int) -> list[Component]:
    shape, size = architecture(settings.models.reward_base, settings), settings.reward
    rows = 2 * size.batch_size
    likely = 3 * FLOAT * rows * size.max_length * shape.vocabulary if size.likelihood else 0
    return [*trained("reward model", shape, "score", way, rows, size.max_length, likely,
                     size.gradient_accumulation > 1),
            *read("reward model", shape, way, 2 * rows, size.max_length)]


def _ppo(settings: Settings, way: Way, reward: Way, scored: int) -> list[Component]:
    size = settings.ppo
    return [*_learner(settings, way, reward, scored, size.micro_batch_size, size.mini_batch_size),
            *_reference(architecture("base", settings), way),
            *held("reward model", architecture(settings.models.reward_base, settings), "score",
                  reward)]


def _learner(
    settings: Settings, way: Way, reward: Way, scored: int, rows: int, mini_batch: int
) -> list[Component]:
    """Our PPO's policy in training, `rows` at once, and what sampling and judging take."""
    shape, size = architecture("base", settings), settings.ppo
    length = size.max_prompt_tokens + size.max_new_tokens
    logits = 2 * FLOAT * rows * size.max_new_tokens * shape.vocabulary
    logits += _head_copy(shape, way, FLOAT)  # of our PPO they are always float32
    return [*trained("policy", shape, "text", way, rows, length, logits, rows < mini_batch),
            *sampled("policy", shape, way, min(SAMPLED_AT_ONCE, size.batch_size), length),
            *read("reward model", architecture(settings.models.reward_base, settings), reward,
                  scored, length)]


def _evaluation(settings: Settings, way: Way, reward: Way, scored: int) -> list[Component]:
    """The fullest of notebook 07's three parts: asking all models, the update, PPO after it."""
    shape, judge = (architecture(name, settings) for name in ("base", settings.models.reward_base))
    size, length = settings.reward, settings.ppo.max_prompt_tokens + settings.ppo.max_new_tokens
    plain = replace(way, rank=0, nf4=False)  # stages are stored with their adapters merged
    always = [*held("fine-tuned model", shape, "text", plain),  # and the reference of PPO
              *held("reward model", judge, "score", reward)]
    asked = [*always, *held("base model", shape, "text", plain),
             *held("PPO's model", shape, "text", plain),
             *sampled("PPO's model", shape, plain, ASKED_AT_ONCE, length),
             *read("reward model", judge, reward, scored, length)]

    pairs = size.batch_size if size.batch_size < OLD_PAIRS else NEW_PAIRS + OLD_PAIRS
    loop = replace(reward, autocast=False, scores=False)
    new = trained("new reward model", judge, "score", loop, 2 * pairs, size.max_length,
                  accumulates=pairs < NEW_PAIRS + OLD_PAIRS)
    update = [*always, *new, *read("new reward model", judge, loop, 4 * size.batch_size,
                                   size.max_length)]

    rows = min(LOOP_ROWS, settings.ppo.micro_batch_size)
    after = [*always, *(part for part in new if part.what == "weights"),
             *_learner(settings, way, loop, scored, rows, LOOP_ROWS)]
    return max((asked, update, after), key=peak)


def _beyond_ppo(settings: Settings, way: Way, reward: Way, scored: int) -> list[Component]:
    """The fullest of notebook 08's trainings: DPO and RLOO, ours and TRL's; a policy at a time.

    Imitation has half of DPO's texts, and TRL's GRPO the sizes of its RLOO.
    """
    shape, judge = (architecture(name, settings) for name in ("base", settings.models.reward_base))
    own, ppo = settings.preference, settings.ppo
    length, half = ppo.max_prompt_tokens + ppo.max_new_tokens, own.batch_size // 2
    plain = replace(way, rank=0, nf4=False)
    always = [*held("fine-tuned model", shape, "text", plain),  # and the reference of ours
              *held("reward model", judge, "score", reward)]
    dpo = [*_dpo(settings, way), *sampled("policy", shape, way, ASKED_AT_ONCE, length),
           *read("reward model", judge, reward, scored, length)]
    rloo = _learner(settings, way, reward, scored, min(ppo.micro_batch_size, half), half)

    whole = min(length, settings.reward.max_length)
    dpo_trl = [*with_trl(shape, way, 2 * own.rows, whole, whole),
               *sampled("policy", shape, way, ASKED_AT_ONCE, length)]
    rloo_trl = [*with_trl(shape, way, own.rows, length, ppo.max_new_tokens, half > own.rows),
                *sampled("policy", shape, way, max(own.batch_size, ASKED_AT_ONCE), length),
                *read("reward model", judge, reward, scored, length)]
    return max(([*always, *part] for part in (dpo, rloo, dpo_trl, rloo_trl)), key=peak)


def _dpo(settings: Settings, way: Way) -> list[Component]:
    """The policy in the course's DPO, of notebook 08 and of 10's labels, without its reference."""
    shape, size = architecture("base", settings), settings.ppo
    rows = 2 * settings.preference.rows
    logits = 2 * FLOAT * rows * size.max_new_tokens * shape.vocabulary
    return trained("policy", shape, "text", way, rows, size.max_prompt_tokens + size.max_new_tokens,
                   logits + _head_copy(shape, way, FLOAT))


def with_trl(
    shape: Architecture, way: Way, rows: int, length: int, predicted: int, accumulates: bool = False
) -> list[Component]:
    """A policy in TRL's `DPOTrainer` or `RLOOTrainer` as notebook 08 has them, and its reference.

    `predicted`: positions of each row whose logits are made, DPO's all, RLOO's the answer's.
    """
    theirs = replace(way, autocast=False, scores=False)  # they are told to leave it
    number = HALF if way.rank and way.frozen == HALF and not way.nf4 else FLOAT
    return [*trained("policy", shape, "text", theirs, rows, length,
                     TRL_LOGITS * number * rows * predicted * shape.vocabulary, accumulates),
            *_reference(shape, way)]


def _over_optimisation(settings: Settings, way: Way, reward: Way, scored: int) -> list[Component]:
    """Notebook 09 samples and judges; what else it shows is stored."""
    shape, judge = (architecture(name, settings) for name in ("base", settings.models.reward_base))
    plain, length = replace(way, rank=0, nf4=False), (
        settings.ppo.max_prompt_tokens + settings.ppo.max_new_tokens)
    return [*held("fine-tuned model", shape, "text", plain),
            *held("reward model", judge, "score", reward),
            *sampled("fine-tuned model", shape, plain, ASKED_AT_ONCE, length),
            *read("reward model", judge, reward, scored, length)]


def _own_feedback(settings: Settings, way: Way, reward: Way, scored: int) -> list[Component]:
    """The fullest of notebook 10's parts: the AI judge, DPO, or asking all policies after it."""
    shape, judge = (architecture(name, settings) for name in ("base", settings.models.judge))
    plain = replace(way, rank=0, nf4=False)
    features = [
        *read("fine-tuned model", shape, plain, FEATURES_AT_ONCE,
              min(FEATURES_LENGTH, shape.positions or FEATURES_LENGTH)),
        Component("fine-tuned model", "logits", 2 * FLOAT * LOGITS_AT_ONCE, ("score",))]

    length = JUDGED_TEXTS * settings.reward.max_length
    rows = max(1, LOGITS_AT_ONCE // (length * judge.vocabulary))
    other = [] if settings.models.judge == "sft" else held("AI judge", judge, "text", plain)
    logits = (plain.frozen + FLOAT) * rows * length * judge.vocabulary  # and those of the reply
    sft = held("fine-tuned model", shape, "text", plain)
    judging = [*sft, *other, *read("AI judge", judge, plain, rows, length),
               Component("AI judge", "logits", logits, ("score",))]
    scorer = held(
        "reward model", architecture(settings.models.reward_base, settings), "score", reward)
    learning = [*sft, *scorer, *_dpo(settings, way)]
    asking = [*_over_optimisation(settings, way, reward, scored),
              *(part for part in _dpo(settings, way) if part.what == "weights"),
              *held("other policy", shape, "text", plain),  # one after another, beside the last
              *held("next policy", shape, "text", plain)]
    return max(([*sft, *features], judging, learning, asking), key=peak)


def _ppo_trl(settings: Settings, way: Way, reward: Way, scored: int) -> list[Component]:
    shape, size = architecture(settings.models.imdb_policy, settings), settings.ppo_trl
    length = size.prompt_tokens_max + size.max_new_tokens
    rows = max(1, size.batch_size // size.mini_batches)
    # TRL keeps the whole batch's logits of the rollout, and makes those of prompts as well.
    rollout = FLOAT * size.batch_size * size.max_new_tokens * shape.vocabulary
    logits = 4 * FLOAT * rows * length * shape.vocabulary
    logits += _head_copy(shape, way, HALF if way.autocast else FLOAT)
    parts = [*trained("policy", shape, "text", way, rows, length, logits),
             *trained("value model", shape, "score", way, rows, length),
             *sampled("policy", shape, way, min(SAMPLED_AT_ONCE, size.batch_size), length),
             Component("policy", "logits of the rollout", rollout, ("sample", "score")),
             Component("policy", "logits read again",
                       2 * FLOAT * size.batch_size * length * shape.vocabulary, ("score",)),
             *_reference(shape, way)]
    if size.reward == "reward_model":
        judge = architecture(settings.models.reward_base, settings)
        return [*parts, *held("reward model", judge, "score", reward),
                *read("reward model", judge, reward, scored, length)]
    judge, plain = architecture(settings.models.classifier, settings), Way(frozen=way.frozen)
    return [*parts, *held("classifier", judge, "sentiment", plain),
            *read("classifier", judge, plain, 128, length)]


_STAGES = {"sft": _sft, "reward_model": _reward, "ppo": _ppo, "ppo_trl": _ppo_trl,
           "evaluation": _evaluation, "beyond_ppo": _beyond_ppo,
           "over_optimisation": _over_optimisation, "own_feedback": _own_feedback}


def _reference(shape: Architecture, way: Way) -> list[Component]:
    """With adapters the reference is the policy with its adapters off."""
    return [] if way.rank else held("reference", shape, "text", way)


def _frozen_weights(shape: Architecture, task: Task, way: Way, rest: int) -> int:
    matrices = shape.matrices * (NF4 if way.nf4 else way.frozen)
    return round(matrices) + (shape.parameters(task) - shape.matrices) * rest


def _head_copy(shape: Architecture, way: Way, number: int) -> int:
    """The output embedding with so many bytes a number, where it is held with others."""
    stored = HALF if way.rank and way.frozen == HALF and not way.nf4 else FLOAT
    return number * shape.vocabulary * shape.width if number != stored else 0


def _largest(shape: Architecture) -> int:
    return max(a * b for a, b in shape.linears)


# --- work and downloads ---------------------------------------------------------------------


def work(settings: Settings) -> dict[str, float]:
    """Floating-point operations of each stage: 2 a parameter and token read, 6 one learned from.

    Tokens are counted at the profile's longest rows; what notebooks do beside it is left out.
    """
    base, ppo, trl = architecture("base", settings), settings.ppo, settings.ppo_trl
    judge = architecture(settings.models.reward_base, settings).parameters("score")
    again = 8 if settings.models.gradient_checkpointing else 6
    pairs = settings.data.pair_limit or MANY_PAIRS
    length = ppo.max_prompt_tokens + ppo.max_new_tokens
    imdb = architecture(settings.models.imdb_policy, settings).parameters()
    return {
        "sft": again * base.parameters() * pairs * settings.sft.epochs * settings.sft.max_length,
        "reward_model": again * judge * 2 * pairs * settings.reward.epochs
        * settings.reward.max_length,
        "ppo": ppo.updates * ppo.batch_size * length * (
            base.parameters() * (4 + again * ppo.epochs) + 2 * judge),
        "ppo_trl": trl.total_episodes * (trl.prompt_tokens_max + trl.max_new_tokens) * imdb * (
            4 + 2 * again * trl.epochs),
    }


def model_bytes_on_disk(source: str) -> int | None:
    """Bytes of a model's weights on the hub, counted from its shape; None where it is unknown."""
    shape = ARCHITECTURES.get(source)
    if shape is None:
        return None
    return shape.stored * shape.parameters(
        "sentiment" if shape.family == "distilbert" else "text")


def disk_bytes(settings: Settings) -> int:
    """What stages and checkpoints take on disk: float32 of all that trains, in the reward model's
    two checkpoints with Adam's moments."""
    models = settings.models

    def trains(source: str, task: Task) -> int:
        shape = architecture(source, settings)
        return shape.adapters(models.lora_r) if models.lora else shape.parameters(task)

    policy, reward = trains("base", "text"), trains(models.reward_base, "score")
    return FLOAT * (2 * policy + trains(models.imdb_policy, "text") + (1 + 2 * 3) * reward)
