"""Validated settings: a profile is a YAML file, an override is a dotted key.

`embedded.yaml` is complete and is the schema at once: every other profile says only where it
differs, and a key that stands nowhere in it is a mistake that names the keys there are.
"""

from __future__ import annotations

import contextlib
import difflib
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from helpers.errors import UserError
from helpers.paths import ROOT

SETTINGS = Path(__file__).resolve().parent / "settings"

# The settings that name a source, and the words that mean one which needs no hub; anything else is
# a path or a hub id.
SOURCES = (
    "models.base", "models.imdb_policy", "models.reward_base", "models.classifier",
    "data.reviews", "data.preferences", "data.demonstrations",
)
WORDS = {"embedded", "scratch", "auto", "base", "sft", "preferences", "none"}

# What a value may be, where its type alone does not say it. A tuple lists the only values; the
# pair (low, high) in RANGES is inclusive.
CHOICES = {
    "device": ("auto", "cpu", "cuda"),
    "dtype": ("auto", "float32", "bfloat16"),
    "mixed_precision": ("auto", "none"),
    "models.quantise": ("none", "nf4"),
    "models.scratch.architecture": ("gpt2", "gpt_neo", "llama"),
    "feedback.source": ("simulated", "human"),
}
RANGES: dict[str, tuple[float, float]] = {
    "ppo.gamma": (0.0, 1.0),
    "ppo.lam": (0.0, 1.0),
    "ppo.clip_range": (1e-6, 10.0),
    "ppo.temperature": (1e-3, 100.0),
    "ppo_trl.temperature": (1e-3, 100.0),
    "sft.warmup_share": (0.0, 1.0),
    "reward.warmup_share": (0.0, 1.0),
    "evaluation.level": (0.5, 0.999),
}
# Numbers that may be zero; every other one must be positive.
MAY_BE_ZERO = {
    "ppo.kl_coef", "ppo.entropy_coef", "ppo.value_coef", "ppo.missing_eos_penalty",
    "ppo.gamma", "ppo.lam", "ppo.updates", "ppo_trl.kl_coef", "ppo_trl.missing_eos_penalty",
    "reward.margin", "reward.likelihood", "sft.warmup_share", "reward.warmup_share",
}
# Keys that may be null although the schema's value is a number, or numbers although it is null.
OPTIONAL_NUMBERS = {
    "data.review_limit", "data.pair_limit", "ppo.kl_target", "ppo_trl.missing_eos_penalty",
}


class Settings(SimpleNamespace):
    """One profile's settings with attribute access, e.g. `settings.ppo.kl_coef`.

    Besides the profile's own keys it has `name`, `seed`, `overrides`, and the folders a run
    writes to.
    """

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError(
            f"settings are frozen; pass overrides={{'{key}': {value!r}}} to load_profile instead"
        )

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

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, as the YAML file would hold them."""
        return {
            k: v.as_dict() if isinstance(v, Settings) else v for k, v in vars(self).items()
        }


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
    given = set(overrides or {})
    if name != "embedded":
        changes = _read(name)
        given |= set(flatten(changes))
        _merge(tree, changes, where=f"profile {name}")
    for key, value in (overrides or {}).items():
        _override(tree, key, value)
    if tree["models"]["base"] == "scratch":
        for key, value in tree["ppo_trl"]["scratch"].items():
            if f"ppo_trl.{key}" not in given:
                tree["ppo_trl"][key] = value
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UserError(f"seed is {seed!r}; it must be a whole number, 0 or more.")
    _check_numbers(tree)
    stem = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    return _freeze(tree, name=stem, seed=seed, overrides=dict(overrides or {}))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@cache
def _schema() -> dict[str, Any]:
    return flatten(_read("embedded"))


def _read(name: str) -> dict[str, Any]:
    path = SETTINGS / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
        if path.suffix not in (".yaml", ".yml") or not path.is_file():
            raise UserError(
                f"profile {name!r} is not known; choose one of {', '.join(profile_names())}, "
                "or give the path of a YAML file."
            )
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"profile file {path.name} is not valid YAML: {error}.") from error
    if not isinstance(tree, dict):
        raise UserError(f"profile file {path.name} must hold keys and values, not a list or text.")
    if path.parent == SETTINGS and path.stem == "embedded":
        tree.setdefault("out", None)
    return tree


def _merge(tree: dict[str, Any], changes: dict[str, Any], where: str) -> None:
    for key, value in flatten(changes).items():
        _override(tree, key, value, where=where)


def _override(tree: dict[str, Any], key: str, value: Any, where: str = "overrides") -> None:
    known = _schema()
    if key not in known:
        if any(k.startswith(f"{key}.") for k in known):
            inside = ", ".join(k for k in known if k.startswith(f"{key}."))
            raise UserError(f"{where}: {key!r} is a section; set one of its keys: {inside}.")
        close = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
        section = key.split(".")[0] + "."
        near = close or [k for k in known if k.startswith(section)] or sorted(
            {k.split(".")[0] for k in known})
        raise UserError(f"{where}: unknown key {key!r}; did you mean {', '.join(near)}?")
    *parents, leaf = key.split(".")
    for part in parents:
        tree = tree[part]
    tree[leaf] = _checked(key, value, known[key], where)


def _checked(key: str, value: Any, default: Any, where: str) -> Any:
    if key in CHOICES and value not in CHOICES[key]:
        known = ", ".join(CHOICES[key])
        raise UserError(f"{where}: {key} is {value!r}; it must be one of {known}.")
    optional = default is None or key in OPTIONAL_NUMBERS
    if value is None:
        if optional:
            return None
        raise UserError(f"{where}: {key} must have a value, such as {default!r}.")
    if key == "out":
        return str(value)
    number = key in OPTIONAL_NUMBERS or (
        isinstance(default, int | float) and not isinstance(default, bool))
    if number:
        if isinstance(value, str):  # YAML reads 1e-3, without a point, as text
            with contextlib.suppress(ValueError):
                value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{where}: {key} is {value!r}; it must be a number.")
        whole = isinstance(default, int) or key.endswith("_limit")
        if whole and value != int(value):
            raise UserError(f"{where}: {key} is {value!r}; it must be a whole number.")
        return int(value) if whole else float(value)
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UserError(f"{where}: {key} is {value!r}; it must be true or false.")
    elif isinstance(default, str) and (not isinstance(value, str) or not value.strip()):
        raise UserError(f"{where}: {key} is {value!r}; it must be a text, such as {default!r}.")
    return value


def _check_numbers(tree: dict[str, Any]) -> None:
    flat = flatten(tree)
    for key, value in flat.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        low, high = RANGES.get(key, (0.0, float("inf")))
        if not low <= value <= high:
            raise UserError(f"{key} is {value!r}; it must lie between {low:g} and {high:g}.")
        if value == 0 and key not in MAY_BE_ZERO:
            raise UserError(f"{key} is 0; it must be positive.")
    for small, large in (
        ("ppo.mini_batch_size", "ppo.batch_size"),
        ("ppo.micro_batch_size", "ppo.mini_batch_size"),
        ("ppo_trl.prompt_tokens_min", "ppo_trl.prompt_tokens_max"),
    ):
        if flat[small] > flat[large]:
            raise UserError(f"{small} is {flat[small]}, more than {large}, which is {flat[large]}.")
    if flat["models.scratch.n_embd"] % flat["models.scratch.n_head"]:
        raise UserError(
            f"models.scratch.n_embd is {flat['models.scratch.n_embd']}, which "
            f"models.scratch.n_head ({flat['models.scratch.n_head']}) does not divide."
        )


def _freeze(tree: dict[str, Any], **extra: Any) -> Settings:
    inner = {k: _freeze(v) if isinstance(v, dict) else v for k, v in tree.items()}
    return Settings(**inner, **extra)
