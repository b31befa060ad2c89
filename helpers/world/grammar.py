"""A small probabilistic grammar: weighted choices that remember how likely they were.

`Draw` is the source of randomness for one text.  Every choice made through it adds its
log-probability, so that at the end `draw.logprob` is the log-probability (in nats) of the whole
derivation.  A text can have several derivations, so this is a lower bound on the log-probability
of the text itself.

`Grammar` expands templates written as strings:

    {name}      the value bound to `name` in the context, or a recursive expansion of rule `name`
    {Name}      the same with a capital first letter
    [a|b|c]     one of the alternatives, each equally likely; they may be empty and may nest

    >>> grammar = Grammar({"who": ["my [brother|sister]", ("a friend", 2.0)]})
    >>> draw = Draw("train:0:17")
    >>> sentence = grammar.write(draw, "{who} saw {title}", {"title": "The Orchard"})
    >>> draw.logprob  # log of every choice made on the way
"""

from __future__ import annotations

import math
import random
import re
from bisect import bisect
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any
from zlib import crc32

LOG = [0.0, *(math.log(n) for n in range(1, 5000))]


class Draw:
    """Randomness for one text, with the running log-probability of all choices so far.

    Args:
        seed: an int or a string such as `"train:0:17"` (split, seed, number of the text).

    Attributes:
        rng: the underlying `random.Random`; use it directly only for what is not text.
        logprob: log-probability of the choices so far, in nats.
        used: what `fresh` has already handed out in this text.
    """

    __slots__ = ("rng", "logprob", "used", "_random")

    def __init__(self, seed: int | str) -> None:
        self.rng = random.Random(seed)
        self._random = self.rng.random
        self.logprob = 0.0
        self.used: dict[int, set[int]] = {}

    def index(self, n: int) -> int:
        """One of 0 … n−1, uniformly."""
        self.logprob -= LOG[n] if n < len(LOG) else math.log(n)
        return int(self._random() * n)

    def choice(self, options: Sequence[Any], weights: Sequence[float] | None = None) -> Any:
        """One of `options`, uniformly or in proportion to `weights`."""
        if weights is None:
            return options[self.index(len(options))]
        cumulative = list(accumulate(weights))
        position = bisect(cumulative, self._random() * cumulative[-1], 0, len(options) - 1)
        self.logprob += math.log(weights[position] / cumulative[-1])
        return options[position]

    def flip(self, probability: float) -> bool:
        """True with the given probability."""
        if probability <= 0.0 or probability >= 1.0:
            return probability >= 1.0
        hit = self._random() < probability
        self.logprob += math.log(probability if hit else 1.0 - probability)
        return hit

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included, uniformly."""
        return low + self.index(high - low + 1)

    def fresh(self, options: Sequence[Any]) -> Any:
        """One of `options` not yet given by `fresh` from this very sequence in this text.

        Uniform over those left; when all are used up, it starts again.  `options` must outlive
        the draw (module-level banks do), since it is recognised by identity.
        """
        used = self.used.setdefault(id(options), set())
        if len(used) >= len(options):
            used.clear()
        left = len(options) - len(used)
        self.logprob -= math.log(left)
        position = int(self._random() * left)
        if used:
            for taken in sorted(used):
                if position < taken:
                    break
                position += 1
        used.add(position)
        return options[position]


class Grammar:
    """Named rules, each a list of templates (`str`) or weighted templates (`(str, weight)`)."""

    def __init__(
        self, rules: Mapping[str, Sequence[str | tuple[str, float]]] | None = None
    ) -> None:
        self._rules: dict[str, tuple[list, list[float], list[float]]] = {}
        self._compiled: dict[str, list] = {}
        for name, options in (rules or {}).items():
            self.add(name, options)

    def add(self, name: str, options: Sequence[str | tuple[str, float]]) -> None:
        """Add (or replace) one rule."""
        if not options:
            raise ValueError(f"rule {name!r} has no options; give it at least one template")
        pairs = [(o, 1.0) if isinstance(o, str) else o for o in options]
        total = sum(weight for _, weight in pairs)
        self._rules[name] = (
            [compile_template(text) for text, _ in pairs],
            list(accumulate(weight / total for _, weight in pairs)),
            [math.log(weight / total) for _, weight in pairs],
        )

    def __contains__(self, name: str) -> bool:
        return name in self._rules

    def expand(self, draw: Draw, name: str, context: Mapping[str, str] | None = None) -> str:
        """A random expansion of rule `name`."""
        return self._walk(draw, self._pick(draw, name), context or {})

    def write(self, draw: Draw, template: str, context: Mapping[str, str] | None = None) -> str:
        """A random expansion of a template given as text (compiled once, then kept)."""
        compiled = self._compiled.get(template)
        if compiled is None:
            compiled = self._compiled[template] = compile_template(template)
        return self._walk(draw, compiled, context or {})

    def _pick(self, draw: Draw, name: str) -> list:
        try:
            options, cumulative, logs = self._rules[name]
        except KeyError:
            raise KeyError(f"no rule and no context value named {name!r}") from None
        if len(options) == 1:
            return options[0]
        position = bisect(cumulative, draw._random(), 0, len(options) - 1)
        draw.logprob += logs[position]
        return options[position]

    def _walk(self, draw: Draw, parts: list, context: Mapping[str, str]) -> str:
        out = []
        for part in parts:
            if type(part) is str:
                out.append(part)
            elif type(part) is tuple:  # alternatives
                option = part[draw.index(len(part))]
                out.append(option if type(option) is str else self._walk(draw, option, context))
            else:  # [name]: a slot
                out.append(self._fill(draw, part[0], context))
        return "".join(out)

    def _fill(self, draw: Draw, name: str, context: Mapping[str, str]) -> str:
        value = context.get(name)
        if value is not None:
            return value
        if name not in self._rules and name[0].isupper():  # {Name}: {name} with a capital
            value = self._fill(draw, name[0].lower() + name[1:], context)
            return value[:1].upper() + value[1:]
        return self._walk(draw, self._pick(draw, name), context)


def compile_template(text: str) -> list:
    """Parse a template into parts: `str` (literal), `[name]` (slot), `tuple` (alternatives)."""
    parts, position = _parse(text, 0, nested=False)
    if position != len(text):
        raise ValueError(f"unbalanced ']' at character {position} of template {text!r}")
    return parts[0]


def _parse(text: str, position: int, nested: bool) -> tuple[list[list], int]:
    alternatives: list[list] = [[]]
    literal = ""

    def close() -> None:
        nonlocal literal
        if literal:
            alternatives[-1].append(literal)
            literal = ""

    while position < len(text):
        character = text[position]
        if character == "{":
            end = text.index("}", position)
            close()
            alternatives[-1].append([text[position + 1 : end]])
            position = end + 1
        elif character == "[":
            close()
            options, position = _parse(text, position + 1, nested=True)
            if position >= len(text):
                raise ValueError(f"'[' without ']' in template {text!r}")
            simple = [
                "".join(option) if all(type(p) is str for p in option) else option
                for option in options
            ]
            alternatives[-1].append(tuple(simple))
            position += 1
        elif character == "|" and nested:
            close()
            alternatives.append([])
            position += 1
        elif character == "]" and nested:
            close()
            return alternatives, position
        elif character == "]":
            break
        else:
            literal += character
            position += 1
    close()
    return alternatives, position


_AN = re.compile(r"\b([Aa])n? (?=([\"'“‘]?)([A-Za-z0-9][A-Za-z0-9'’-]*))")
_SOUNDS_VOWEL = re.compile(r"(?i)(hour|honest|honou?r|heir|8|11|18|[aeiou])")
_SOUNDS_CONSONANT = re.compile(r"(?i)(uni(on|q|t|v|f|c)|us[eu]|utop|utens|euro|one\b|once|ubiq)")


def fix_articles(text: str) -> str:
    """Write "a" or "an" as the sound of the next word asks."""

    def article(match: re.Match) -> str:
        word = match.group(3)
        vowel = _SOUNDS_VOWEL.match(word) and not _SOUNDS_CONSONANT.match(word)
        return match.group(1) + ("n " if vowel else " ")

    return _AN.sub(article, text)


_SPACES = re.compile(r"[ \t]+")
_BEFORE = re.compile(r" +([,.;:!?])")
_COMMA = re.compile(r",+([,.;:!?])")
_STARTS = re.compile(r"((?:^|[.!?][\"”’)]?)\s+[\"“(]?|^[\"“(]?)([a-z])")


def polish(text: str) -> str:
    """Articles, spaces, and a capital at the start of every sentence."""
    text = _BEFORE.sub(r"\1", _SPACES.sub(" ", text)).strip()
    text = _COMMA.sub(r"\1", text)
    text = fix_articles(text)
    return _STARTS.sub(lambda m: m.group(1) + m.group(2).upper(), text)


def partition(options: Sequence[str], split: str, share: int = 6) -> list[str]:
    """Keep one option in `share` for `split == "ood"` only, the others for every other split.

    The part an option falls into depends on its text alone, so a bank can grow without moving
    what was there.
    """
    keys = {option: crc32(option.encode()) for option in options}
    held_out = {option for option, key in keys.items() if key % share == 0}
    if len(held_out) < 2 <= len(options) // 3:  # a small bank still gives two
        held_out |= set(sorted(keys, key=keys.__getitem__)[:2])
    kept = [option for option in options if (option in held_out) == (split == "ood")]
    return kept or list(options)
