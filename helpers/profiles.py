"""Validated settings: a profile is a YAML file, an override is a dotted key.

`embedded.yaml` is complete: every default stands there, and why. Every other profile says only
where it differs. What a value may be stands below, one class for each section of the file; a key
that stands nowhere in it is a mistake that names the keys there are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast, get_args, get_type_hints

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo

from helpers.errors import UserError, sentence
from helpers.paths import ROOT

SETTINGS = Path(__file__).resolve().parent / "settings"
MINUTES = ("embedded", "quick")  # profiles whose stages are made in minutes, and so made anew

# The settings that name a source, and the words that mean one which needs no hub; anything else is
# a path or a hub id.
SOURCES = (
    "models.base", "models.imdb_policy", "models.reward_base", "models.classifier", "models.judge",
    "data.reviews", "data.preferences", "data.demonstrations",
)
WORDS = {"embedded", "scratch", "auto", "base", "sft", "preferences", "none"}


def _number(value: Any) -> Any:
    if isinstance(value, str):  # YAML reads 1e-3, without a point, as text
        with contextlib.suppress(ValueError):
            value = float(value)
    # pydantic takes true for 1, and holds nan to be 0 or more
    if isinstance(value, bool) or not isinstance(value, Real) or value != value:
        raise ValueError("be a number")  # follows "it must"
    return value


def _text(value: Any) -> Any:
    if isinstance(value, str) and not value.isprintable():  # no path or hub id holds a NUL
        raise ValueError("be a text without control characters")
    return value


def _folder(value: Any) -> Any:
    return value if value is None else _text(str(value))


TRAINED = ("policy", "reward")


def _models(value: Any) -> Any:
    if (not isinstance(value, list | tuple) or not value
            or any(one not in TRAINED for one in value) or len(set(value)) < len(value)):
        raise ValueError(f"be a list of one or both of {', '.join(TRAINED)}")
    return list(value)


def _names(value: Any) -> Any:
    if not isinstance(value, list | tuple) or any(
            not isinstance(one, str) or not one.strip() or not one.isprintable() for one in value):
        raise ValueError("be a list of hub ids and folders, such as [distilbert/distilgpt2]")
    return list(value)


def _targets(value: Any) -> Any:
    names = list(value) if isinstance(value, list | tuple) else []
    if value != "all-linear" and not (names and all(isinstance(n, str) and n for n in names)):
        raise ValueError("be all-linear or a list of layers' names, such as [q_proj, v_proj]")
    return names or value


NUMBER = BeforeValidator(_number)
MOST = 1e9  # of anything that is counted or weighed here; more is a slip of the keyboard
FINITE = Field(allow_inf_nan=False)
Whole = Annotated[int, NUMBER]
Number = Annotated[float, FINITE, NUMBER]
Count = Annotated[int, Field(gt=0, le=int(MOST)), NUMBER]
CountOrZero = Annotated[int, Field(ge=0, le=int(MOST)), NUMBER]
Passes = Annotated[int, Field(gt=0, le=10_000), NUMBER]  # over the same rows
Tokens = Annotated[int, Field(gt=0, le=10**12), NUMBER]
Threads = Annotated[int, Field(gt=0, le=1024), NUMBER]
Positive = Annotated[float, Field(gt=0, le=MOST), NUMBER]
Limit = Annotated[float, Field(gt=0), NUMBER]  # infinite: no limit
NonNegative = Annotated[float, Field(ge=0, le=MOST), NUMBER]
Rate = Annotated[float, Field(gt=0, le=10), NUMBER]  # of learning
Share = Annotated[float, Field(ge=0, le=1), NUMBER]
Temperature = Annotated[float, Field(ge=1e-3, le=100), NUMBER]
# Seeds are 32 bits wide in NumPy, and some are made from this one by adding to it.
Seed = Annotated[StrictInt, Field(ge=0, lt=2**31)]
Text = Annotated[StrictStr, Field(pattern=r"\S"), BeforeValidator(_text)]
ModelNames = Annotated[list[str], BeforeValidator(_models)]
Names = Annotated[list[str], BeforeValidator(_names)]
LayerNames = Annotated[str | list[str], BeforeValidator(_targets)]


class Section(BaseModel):
    """Values under one heading, with attribute access, checked when they are read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError(
            f"settings are frozen; pass overrides={{'{key}': {value!r}}} to load_profile instead"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, as the YAML file would hold them."""
        return {k: v.as_dict() if isinstance(v, Section) else v for k, v in self}

    def _no_more(self, section: str, small: str, large: str) -> None:
        low, high = getattr(self, small), getattr(self, large)
        if low > high:
            raise UserError(
                f"{section}.{small} is {low}, more than {section}.{large}, which is {high}.")


class Scratch(Section):
    """`models.scratch`: the language model and the classifier from random weights."""

    architecture: Literal["gpt2", "gpt_neo", "llama"]
    vocab_size: Count
    n_layer: Count
    n_embd: Count
    n_head: Count
    n_positions: Count
    tokens: Tokens
    batch_tokens: Count
    learning_rate: Rate
    classifier_vocab_size: Count
    classifier_layers: Count
    classifier_dim: Count
    classifier_heads: Count
    classifier_epochs: Passes
    classifier_max_length: Count
    classifier_learning_rate: Rate

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.n_embd % self.n_head:
            raise UserError(
                f"models.scratch.n_embd is {self.n_embd}, which models.scratch.n_head "
                f"({self.n_head}) does not divide."
            )
        return self


class Models(Section):
    """`models`: where each model comes from, and how it is trained."""

    base: Text
    candidates: Names
    imdb_policy: Text
    reward_base: Text
    classifier: Text
    judge: Text
    chat_template: StrictBool
    quantise: Literal["none", "nf4"]
    quantised: ModelNames
    lora: StrictBool
    lora_r: Count
    lora_alpha: Count
    lora_targets: LayerNames
    gradient_checkpointing: StrictBool
    scratch: Scratch

    @model_validator(mode="after")
    def _four_bits_are_not_trained(self) -> Self:
        if self.quantise != "none" and not self.lora:
            raise UserError(
                f"models.quantise is {self.quantise}, but models.lora is false: four-bit weights "
                "cannot be trained, only adapters on them; set models.lora=true.")
        return self

    def quantises(self, model: Literal["policy", "reward"]) -> bool:
        """Whether this model's backbone is loaded in four bits."""
        return self.quantise != "none" and model in self.quantised


class Data(Section):
    """`data`: where the rows come from, and how many."""

    root: Text
    reviews: Text
    preferences: Text
    demonstrations: Text
    review_limit: Count | None
    pair_limit: Count | None
    demonstration_limit: Count | None


class Sft(Section):
    """`sft`: supervised fine-tuning."""

    epochs: Passes
    batch_size: Count
    learning_rate: Rate
    warmup_share: Share
    max_length: Count
    checkpoint_every: Count | None
    eval_rows: Count


class Reward(Section):
    """`reward`: the reward model."""

    epochs: Passes
    batch_size: Count
    gradient_accumulation: Count
    learning_rate: Rate
    warmup_share: Share
    max_length: Count
    margin: NonNegative
    margin_from_scores: StrictBool
    likelihood: NonNegative
    max_grad_norm: Limit
    patience: Count
    report_to: Literal["none", "tensorboard", "wandb", "trackio"]
    eval_pairs: Count


class Ppo(Section):
    """`ppo`: the course's own PPO; what `PPOConfig` takes, and the sizes around it."""

    updates: CountOrZero
    batch_size: Count
    mini_batch_size: Count
    micro_batch_size: Count
    epochs: Passes
    max_prompt_tokens: Count
    max_new_tokens: Count
    temperature: Temperature
    learning_rate: Rate
    kl_coef: NonNegative
    kl_target: Positive | None
    gamma: Share
    lam: Share
    clip_range: Annotated[float, Field(ge=1e-6, le=10), NUMBER]
    value_clip_range: Limit
    value_coef: NonNegative
    entropy_coef: NonNegative
    max_grad_norm: Limit
    missing_eos_penalty: NonNegative
    whiten_rewards: StrictBool
    checkpoint_every: Count | None
    eval_prompts: Count

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        self._no_more("ppo", "mini_batch_size", "batch_size")
        self._no_more("ppo", "micro_batch_size", "mini_batch_size")
        return self


class PpoTrlScratch(Section):
    """`ppo_trl.scratch`: what stands in for its namesakes where `models.base` is `scratch`."""

    total_episodes: Count
    learning_rate: Rate
    kl_coef: Positive


class PpoTrl(Section):
    """`ppo_trl`: TRL's PPO."""

    reward: Literal["sentiment", "reward_model"]
    total_episodes: Count
    batch_size: Count
    mini_batches: Count
    epochs: Passes
    prompt_tokens_min: Count
    prompt_tokens_max: Count
    max_new_tokens: Count
    temperature: Temperature
    learning_rate: Rate
    warmup_updates: Count
    kl_coef: NonNegative
    value_clip_range: Limit
    missing_eos_penalty: NonNegative | None
    score_every: Count | None
    eval_prompts: Count
    best_of: Count
    scratch: PpoTrlScratch

    @model_validator(mode="after")
    def _prompts_have_a_length(self) -> Self:
        self._no_more("ppo_trl", "prompt_tokens_min", "prompt_tokens_max")
        return self


class Evaluation(Section):
    """`evaluation`: how much is drawn before something is said."""

    prompts: Count
    resamples: Count
    level: Annotated[float, Field(ge=0.5, le=0.999), NUMBER]


class Feedback(Section):
    """`feedback`: the loop from ratings to the reward model and back."""

    source: Literal["simulated", "human"]
    raters: Count
    property: Literal["reason", "example", "place", "number", "question"]
    bonus: Positive
    ratings: Count
    per_question: Count
    questions: Count
    held_out: Count
    steps: Count
    learning_rate: Rate
    keep: Positive
    test_pairs: Count
    best_of: Count
    ppo_updates: Count
    ppo_runs: Count


class Preference(Section):
    """`preference`: notebook 08's methods beside PPO; the rest of it they take from `ppo`."""

    prompts: Count
    draws: Annotated[StrictInt, Field(ge=2, multiple_of=2), NUMBER]
    rows: Count
    beta: Positive
    learning_rate: Positive
    imitation_epochs: Count
    imitation_learning_rate: Positive
    group: Annotated[StrictInt, Field(ge=2), NUMBER]
    updates: Count
    batch_size: Count

    @model_validator(mode="after")
    def _rows_and_groups_fill_a_batch(self) -> Self:
        for name, size in (("rows", 2 * self.rows), ("group", self.group)):
            if self.batch_size % size:
                twice = "twice " * (name == "rows")
                raise UserError(
                    f"preference.batch_size is {self.batch_size}; it must be a multiple of {twice}"
                    f"preference.{name}, which is {getattr(self, name)}.")
        return self


class Study(Section):
    """`study`: notebooks' own experiments that no other section sizes."""

    repeats: Annotated[int, Field(ge=2, le=1000), NUMBER]
    control_share: Annotated[float, Field(gt=0, le=1), NUMBER]


class Settings(Section):
    """One profile's settings with attribute access, e.g. `settings.ppo.kl_coef`.

    Besides the profile's own keys it has `name`, `seed`, `overrides`, and the folders a run
    writes to.
    """

    device: Literal["auto", "cpu", "cuda"]
    dtype: Literal["auto", "float32", "bfloat16"]
    mixed_precision: Literal["auto", "none"]
    threads: Threads | None
    models: Models
    data: Data
    sft: Sft
    reward: Reward
    ppo: Ppo
    ppo_trl: PpoTrl
    evaluation: Evaluation
    feedback: Feedback
    preference: Preference
    study: Study
    out: Annotated[str, BeforeValidator(_folder)] | None
    name: str
    seed: Seed
    overrides: dict[str, Any]

    @property
    def artifacts(self) -> Path:
        """Folder of the stages this profile makes, `artifacts/<profile>`."""
        return self._out / "artifacts" / self.name

    @property
    def runs(self) -> Path:
        """Folder of executed notebooks and `summary.json`, `runs/<profile>`."""
        return self._out / "runs" / self.name

    @property
    def world_known(self) -> bool:
        """Whether the true preferences are known, so that gold may judge.

        True only while all text comes from the embedded world or from a folder that
        `data/build.py` wrote (`data.root`).
        """
        data = self.data
        return data.reviews == data.preferences == "embedded" and data.demonstrations in (
            "auto", "embedded", "preferences")

    @property
    def _out(self) -> Path:
        return Path(self.out).resolve() if self.out else ROOT


def profile_names() -> list[str]:
    """Names of the profiles that ship with the course."""
    return sorted(p.stem for p in SETTINGS.glob("*.yaml"))


def load_profile(
    name: str = "embedded", overrides: dict[str, Any] | None = None, seed: int = 0
) -> Settings:
    """Read a profile, apply dotted overrides and check every value.

    Args:
        name: a shipped profile's name, or the path of a YAML file that differs from `embedded`.
        overrides: for example `{"ppo.kl_coef": 0.1, "data.root": "fresh/"}`; `out` moves
            `artifacts/` and `runs/` to another folder. With `models.base` at `scratch` the values
            under `ppo_trl.scratch` take the place of their namesakes, unless the profile's file
            or an override gives these.
        seed: the run's seed, kept as `settings.seed`.

    Raises:
        UserError: unknown profile or key, or a value that cannot be meant.
    """
    tree = _read("embedded")
    where: dict[str, str] = {}  # dotted key: who gave it, if not `embedded.yaml`
    if name != "embedded":
        try:
            for key, value in _items(_read(name)):
                _override(tree, key, value, where, f"profile {name}")
        except RecursionError:
            raise UserError(f"profile {name} has a section that holds itself; write it out in "
                            "place of the alias.") from None
    for key, value in (overrides or {}).items():
        _override(tree, key, value, where, "overrides")
    tree["name"] = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    tree["seed"], tree["overrides"] = seed, dict(overrides or {})
    origins = dict.fromkeys(_schema(), "profile embedded") | where
    examples = {**_schema(), "seed": 0}
    settings = _checked(Settings, tree, examples, origins)
    if settings.models.base != "scratch":
        return settings
    for key, value in settings.ppo_trl.scratch:
        if f"ppo_trl.{key}" not in where:
            tree["ppo_trl"][key] = value
    return _checked(Settings, tree, examples, origins)


def check_fields(config: Any, where: str) -> None:
    """Hold a dataclass's values against the types of its fields, which may be those above.

    A number given as text is read; every other value stays the object that was given.

    Raises:
        UserError: a value that cannot be meant; the sentence begins with `where`.
    """
    model, given = _model_of(type(config)), vars(config)
    examples = {field.name: field.default for field in dataclasses.fields(config)}
    for key, value in _checked(model, given, examples, dict.fromkeys(given, where)):
        if value != given[key]:
            setattr(config, key, value)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries to dotted keys."""
    return dict(_items(tree, prefix))


def _items(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _items(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@cache
def _schema() -> dict[str, Any]:
    return flatten(_read("embedded"))


@cache
def _model_of(kind: type) -> type[BaseModel]:
    fields: dict[str, Any] = {
        key: (hint, ...) for key, hint in get_type_hints(kind, include_extras=True).items()}
    return create_model(kind.__name__, **fields)


def _read(name: str) -> dict[str, Any]:
    path = SETTINGS / f"{name}.yaml"
    if not _is_file(path):
        path = Path(name)
        if path.suffix not in (".yaml", ".yml") or not _is_file(path):
            raise UserError(
                f"profile {name!r} is not known; choose one of {', '.join(profile_names())}, "
                "or give the path of a YAML file."
            )
        _check_name(path)
    try:
        tree = yaml.safe_load(path.read_bytes()) or {}  # bytes: a mark says whether it is UTF-16
    except yaml.YAMLError as error:
        raise UserError(f"profile file {path.name} is not valid YAML: {error}.") from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"profile file {path.name} cannot be read as YAML ({sentence(error)}); "
                        "write plain keys and values.") from None
    except OSError as error:
        raise UserError(f"profile file {path.name} cannot be read ({error.strerror}); check that "
                        "you may read it.") from None
    if not isinstance(tree, dict):
        raise UserError(f"profile file {path.name} must hold keys and values, not a list or text.")
    if path.parent == SETTINGS and path.stem == "embedded":
        tree.setdefault("out", None)
    return tree


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False


def _check_name(path: Path) -> None:
    """Refuse a file that would pass for a shipped profile, or whose name is none for a folder."""
    if path.stem in profile_names() and path.resolve().parent != SETTINGS:
        raise UserError(f"profile file {path} is called as the shipped profile {path.stem}, and "
                        "its results would pass for that one's; give it another name.")
    if not re.fullmatch(r"\w[\w .+=@,-]*", path.stem):
        raise UserError(f"profile file {path.name!r}: runs/ and artifacts/ get folders of this "
                        "name; call it by letters, digits, spaces, dots and dashes, a letter or "
                        "a digit first.")


def _override(
    tree: dict[str, Any], key: str, value: Any, where: dict[str, str], source: str
) -> None:
    known = _schema()
    if key not in known:
        if any(k.startswith(f"{key}.") for k in known):
            inside = ", ".join(k for k in known if k.startswith(f"{key}."))
            raise UserError(f"{source}: {key!r} is a section; set one of its keys: {inside}.")
        close = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
        section = key.split(".")[0] + "."
        near = close or [k for k in known if k.startswith(section)] or sorted(
            {k.split(".")[0] for k in known})
        raise UserError(f"{source}: unknown key {key!r}; did you mean {', '.join(near)}?")
    where[key] = source
    *parents, leaf = key.split(".")
    for part in parents:
        tree = tree[part]
    tree[leaf] = value


Model = TypeVar("Model", bound=BaseModel)


def _checked(
    model: type[Model], values: Mapping[str, Any], examples: Mapping[str, Any],
    where: Mapping[str, str],
) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    reason = first.get("ctx", {}).get("error")
    if isinstance(reason, UserError):  # about several values: it names them itself
        raise reason
    key = ".".join(map(str, first["loc"]))
    source = f"{where[key]}: " if key in where else ""
    field = _field(model, first["loc"])
    right = _right(field, first, examples.get(key)) if field else None
    if right is None:  # a fault of `embedded.yaml` or of a class here
        raise UserError(f"{source}{key}: {first['msg']}.")
    value = "null" if first["input"] is None else repr(first["input"])
    raise UserError(f"{source}{key} is {value}; it must {right}.")


def _field(model: type[BaseModel], loc: tuple[int | str, ...]) -> FieldInfo | None:
    for part in loc[:-1]:
        model = cast(type[BaseModel], model.model_fields[str(part)].annotation)
    return model.model_fields.get(str(loc[-1]))


def _right(field: FieldInfo, error: Mapping[str, Any], example: Any) -> str | None:
    """What would be right, in words that follow "it must"."""
    kind, limits, inside = error["type"], error.get("ctx", {}), get_args(field.annotation)
    if kind == "literal_error":
        return f"be one of {', '.join(inside)}"
    if kind.startswith("bool_"):
        return "be true or false"
    if error["input"] is None:
        return f"have a value, such as {example!r}"
    if kind.startswith("string_"):
        return f"be a text, such as {example!r}"
    if kind == "value_error":
        right = str(limits["error"])
    elif kind in ("greater_than", "greater_than_equal", "less_than_equal", "less_than"):
        right = _range(field, kind)
    elif kind.startswith("int_"):
        right = "be a whole number"
    elif kind == "finite_number":
        right = "be a whole number" if int in (field.annotation, *inside) else "be finite"
    else:
        return None
    if type(None) in inside:
        right += ", or null" if " or " in right else " or null"
    return right


def _range(field: FieldInfo, kind: str) -> str:
    """Between what a number must lie; a limit that only a slip reaches is named when it is met."""
    limits = {side: getattr(part, side) for part in _constraints(field)
              for side in ("gt", "ge", "lt", "le") if getattr(part, side, None) is not None}
    above = kind.startswith("less")
    if "ge" in limits and limits.get("le", MOST) < MOST:
        return f"lie between {limits['ge']:g} and {limits['le']:g}"
    if above:
        return f"be at most {limits['le']:,.10g}" if "le" in limits else (
            f"be less than {limits['lt']:,.10g}")
    if "gt" in limits:
        return "be positive" if limits["gt"] == 0 else f"be more than {limits['gt']:g}"
    return f"be {limits['ge']:g} or more"


def _constraints(field: FieldInfo) -> list[Any]:
    """What is asked of a field's number, also where null may stand in its place."""
    found = list(field.metadata)
    for part in get_args(field.annotation):
        for more in getattr(part, "__metadata__", ()):
            found += more.metadata if isinstance(more, FieldInfo) else [more]
    return found
