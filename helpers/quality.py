"""How a text goes wrong that a language model wrote: loops, gibberish, nothing, half, an echo.

Rules on the surface of a text, so that a rate means the same for every model and nothing has to be
loaded. They see what is broken, not what is bad: correct words without sense are gibberish to a
reader and pass here (a language model's perplexity would tell), and what is wrong or rude passes
too. Measure them on raw answers, before anything is trimmed, filtered or asked again.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence

from helpers.errors import UserError

__all__ = ["FAULTS", "faults", "is_cut_off", "is_echo", "is_empty", "is_gibberish",
           "is_repetitive", "rates"]

FAULTS = ("empty", "repetition", "gibberish", "cut_off", "echo")

WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
SPECIAL = re.compile(r"<\|[^|<>]*\|>|</?(?:s|pad|unk|bos|eos)>|\[(?:PAD|UNK|CLS|SEP|MASK|EOS|BOS)\]")
ROLE = re.compile(r"^\s*(?:Human|Assistant|User|System|Bot|AI)\s*:", re.I | re.M)
CLOSERS = "\"'”’»)]}*_`~"  # what may stand after the sign that ends a sentence
ENDS = ".!?…。！？؟।:;"
OPEN = {")": "(", "]": "[", "}": "{"}


def faults(text: str, prompt: str | None = None, ended: bool | None = None) -> list[str]:
    """Which of `FAULTS` a text has.

    Args:
        text: an answer as it was sampled, special tokens left out.
        prompt: what it answers; without it no echo is looked for.
        ended: whether the model ended it by its end token; without it the text itself must tell
            whether it was cut off.
    """
    if is_empty(text):
        return ["empty"]
    found = [name for name, test in (("repetition", is_repetitive), ("gibberish", is_gibberish))
             if test(text)]
    if (not ended) if ended is not None else is_cut_off(text):
        found.append("cut_off")
    if prompt is not None and is_echo(prompt, text):
        found.append("echo")
    return found


def rates(
    texts: Sequence[str], prompts: Sequence[str] | None = None,
    ended: Sequence[bool] | None = None,
) -> dict[str, float]:
    """The share of texts with each fault, and `any`; `echo` only where prompts are given.

    Raises:
        UserError: no texts, or lists of different lengths.
    """
    if not texts:
        raise UserError("rates of faults need at least one text; the list is empty.")
    for name, other in (("prompts", prompts), ("ended", ended)):
        if other is not None and len(other) != len(texts):
            raise UserError(f"{len(texts)} texts have {len(other)} {name}; give one for each.")
    found = [faults(text, prompts[i] if prompts is not None else None,
                    bool(ended[i]) if ended is not None else None)
             for i, text in enumerate(texts)]
    names = [name for name in FAULTS if name != "echo" or prompts is not None]
    return {**{name: sum(name in row for row in found) / len(texts) for name in names},
            "any": sum(map(bool, found)) / len(texts)}


def is_empty(text: str) -> bool:
    """Nothing is said: no letter, digit or picture is left without role markers and specials."""
    rest = ROLE.sub("", SPECIAL.sub("", text))
    return not any(c.isalnum() or unicodedata.category(c) == "So" for c in rest)


def is_repetitive(text: str) -> bool:
    """Caught in a loop: a stretch said at once again and again, or mostly sentences said before."""
    words = [word.lower() for word in WORD.findall(text)]
    return _looping(words) or _looping([c for c in text if not c.isspace()], least=24) or (
        _said_before(text))


def _looping(items: list[str], least: int = 6) -> bool:
    """Whether some block follows itself three times or more and fills half of the whole, or a
    third of it where it stands at the end."""
    n = len(items)
    for period in range(1, n // 3 + 1):
        run = 0
        for i in range(n - period):
            run = run + 1 if items[i] == items[i + period] else 0
            covered = run + period
            if covered >= max(least, 3 * period) and (
                    2 * covered >= n or (i == n - period - 1 and 3 * covered >= n)):
                return True
    return False
