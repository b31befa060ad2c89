"""Repetition: a text caught in a loop."""

from __future__ import annotations

import re
import zlib
from collections import Counter

from helpers.quality.words import WORD

NUMBERS = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s+|\b\d+[.:]\s", re.M)  # of items and steps


def compression_ratio(text: str) -> float:
    """Bytes of a text over its bytes after DEFLATE: about 1 to 2 for prose of an answer's length.

    Whisper gives an output up as a loop above 2.4 (Radford et al. 2022, arXiv:2212.04356).
    """
    data = text.encode("utf-8", "replace")
    return len(data) / len(zlib.compress(data, 9, -zlib.MAX_WBITS)) if data else 1.0


def is_repetitive(text: str) -> bool:
    """Caught in a loop: it compresses well, its word pairs were said before, no word is new.

    None of them is enough: a table compresses well, a rhyme says pairs again, a long text has few
    new words, a chant says its lines twice (a loop says some four words three times or more). Long
    texts compress better than short ones, so pieces of 600 characters are asked: most of them, or
    the last, since a loop that has begun rarely ends.
    """
    text = NUMBERS.sub("", text)
    pieces = [text[i : i + 600] for i in range(0, max(1, len(text) - 300), 300)]
    looping = [_loops(piece) for piece in pieces]
    return _ends_in_a_loop(text) or looping[-1] or 2 * sum(looping) >= len(looping)


def _ends_in_a_loop(text: str) -> bool:
    """The last block of words, seven or more of them in all, was said four times in a row."""
    words = [word.lower() for word in WORD.findall(text)][-400:]
    return any(words[-max(6, 3 * period):] == words[-max(6, 3 * period) - period : -period]
               for period in range(1, len(words) // 4 + 1))


def _loops(text: str) -> bool:
    ratio = compression_ratio(text)
    words = [word.lower() for word in WORD.findall(text)]
    pairs = list(zip(words, words[1:], strict=False))
    again = 1 - len(set(pairs)) / len(pairs) if pairs else 0.0
    first = {word: i for i, word in reversed(list(enumerate(words)))}
    half = len(words) // 2
    new = sum(i >= half for i in first.values()) / max(1, len(words) - half)
    fours = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    few = 0.125 if max(fours.values(), default=0) >= 3 else 0.02
    loops = ratio > 4 or (ratio > 2 and again > 0.33 and new < few)
    return loops and not _grows(text)


def _grows(text: str) -> bool:
    """A tale or song that says all again and goes on: each verse, or sentence where there are no
    verses, has two words or more not said before, after the first third."""
    said: set[str] = set()
    new = []
    verses = re.split(r"\n\s*\n", text.strip())
    parts = verses if len(verses) > 2 else re.split(r"[.!?]+\s|\n+", text)
    for words in ({word.lower() for word in WORD.findall(part)} for part in parts if part.strip()):
        new.append(len(words - said))
        said |= words
    return len(new) > 2 and min(new[len(new) // 3 :]) >= 2
