"""Gibberish: text that is no language, throughout or from some place on.

No single sign tells it. A jumble of common words is known by its neighbours, broken pieces by
their spelling, tokens of all kinds by their signs, and each of these stands in sound text too: in
lists, code, names, slang. So a text is measured in some fifty ways, as a whole and by windows, and
a forest of extremely randomized trees (Geurts, Ernst and Wehenkel 2006) weighs them. It was fitted
to texts that came with a label, readable or not; `python -m benchmarks.gibberish fit` does that,
and says how often it is right on the texts of an author whom it was not fitted to.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from helpers.paths import ROOT
from helpers.quality.loops import compression_ratio
from helpers.quality.words import (
    EMOTICON,
    HASHTAG,
    LETTERS,
    SMALL,
    URL,
    counts,
    is_known,
    kind_of_word,
    languages,
    of_kinds,
    plain,
    script,
    seems_foreign,
    vocabulary,
    word_order,
)

FOREST = ROOT / "data" / "gibberish_forest.npz"
WINDOW = 24  # words, every twelve of them

# What no reader is meant to see: tokens undecoded, escapes unescaped, bytes that were no text.
DEBRIS = re.compile(r"[ĠĊ▁\ufffd]|##\w*|\[UNK\]|<unk>|</w>|\[unused\d+\]|"
                    r"&?\b(?:amp|quot|nbsp|lt|gt);|\bu00[0-9a-f]{2}|%[0-9A-F]{2}|"
                    r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4})|\btok(?:en)?_\d+|"
                    r"[ÃÂâï][\x80-¿€‚ƒ„…†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œ]")
HALF_READ = re.compile(r"[\u0400-\u045f][№»®°±´·¬¦©«¶µ†‡•‚„…‰‹›™—–]")  # bytes of UTF-8 in Cyrillic
PLAIN = re.compile(r"[(\"'“‘*]*([A-Z]?[a-z]+(?:['’-][A-Za-z]+)*|[A-Z]+)[)\"'”’*.,;:!?…]*|"
                   r"\d[\d.,:]*%?[.,]?")
# Endings of words that stand alone; with a hyphen they are talked about.
CHIPS = re.compile(r"(?<!['’\w-])(?:ing|tion|ation|ment|ers|ness|ous|ful|ity|ive|ly|ed|ism|[ae]nce|"
                   r"ally|ish|ized|ty|ic)\b", re.I)
RARE = re.compile(r"[\u0180-\u02af\u1d00-\u1dbf\u0300-\u036f]")  # Latin letters, IPA, piled accents
AGAIN = re.compile(r"(?=\S*[^\W\d_])(\S{1,8}?)\1{3,}")  # nananana: a piece of a word, four times
VOWEL = re.compile(r"[aeiouyøœæıəɪʊɔɛɑɒʌɜаеёиоуыэюяіїєαεηιουω]")
KEYS = [keys[::way] for keys in ("qwertyuiop", "asdfghjkl", "zxcvbnm") for way in (1, -1)]
CODE = re.compile(r"```|^\s*(?:def|import|class|SELECT|for|if|return)\b.*|[{};]$", re.M)
# One of these small words, and those that do not follow it in English.
JUMBLE = re.compile("|".join(
    rf"\b(?:{one})\s+(?=(?:{others})\b(?!['’-]))" for one, others in (
        ("an?|the|my|your|our|their|its|every",
         "an?|the|my|your|our|their|its|his|of|to|in|on|at|by|for|from|with|into|through|and|or|but|then|because|"
         "if|although|while|than|as|is|are|was|were|am|has|had|have|been|be|do|does|did|could|would|"
         "should|that|which|what|who|when|where|how|there|I|it|he|she|they|we|me|him|them"),
        ("of|to|in|on|at|by|for|from|with|into|than",
         "of|is|was|are|were|am|has|had|been|does|can|could|would|will|but|because|if|although|than|"
         "I|he|she|they|we|then"),
        ("he|she|they|we|I", "an?|the|my|your|our|their|it|he|she|they"),
        ("he|she|they|we", "of|to|for|with|from|by|at|you|and"),
        ("is|are|was|were|am|be|been",
         "is|are|was|were|am|have|has|had|does|do|did|will|can|could|would|me|him|them"),
        ("be|been", "he|they|we|I|and|which"),
        ("has|have|had", "of|and|is|was|were|are|he|can|will|would|be|do"),
        ("can|could|will|would|should|may|might|must|to",
         "of|for|with|is|are|was|were|been|has|had|on|from|to|would|could|will|can"),
        ("and|or|but|because|although|if", "and|or|been"),
        ("very", "an?|the|and|is|are|to|of|be|it|that|in|for|with|you"),
        ("not", "are|is|and|was|were|they|will|which"),
        ("these|this", "of|you|they|we|it|but|if")))
    + r"|\b(?:an|the|your|our|their|every)\s*(?=[.,;!?])"
      r"|\b(?:and|or|but|if|because|than)\s*(?=[.!?](?:\s|\Z))")


def is_gibberish(text: str) -> bool:
    """No language, throughout or from some place on, as the forest votes.

    The limit is stored with it: the share of votes that 3 % of the sound texts had, half of them
    hard on purpose, by authors who were left out.
    """
    return _mashed(text) or gibberish_score(text) > float(read_forest()["limit"])


def gibberish_score(text: str) -> float:
    """Share of the votes for gibberish, 0 to 1; a text of no words or signs has none."""
    return float(_votes(features(text))) if text.strip() else 0.0


def _votes(row: np.ndarray) -> float:
    """Every tree at once: from its root to a leaf, a step a turn."""
    of = read_forest()
    node = of["root"]
    while True:
        inner = of["feature"][node] >= 0
        if not inner.any():
            return of["value"][node].mean(dtype=float)
        goes_left = row[of["feature"][node]] <= of["threshold"][node]
        node = np.where(inner, np.where(goes_left, node + 1, of["right"][node]), node)


@functools.cache
def read_forest() -> dict[str, np.ndarray]:
    with np.load(FOREST) as arrays:
        return {name: arrays[name] for name in arrays.files}


def features(text: str) -> np.ndarray:
    """What the forest sees, `float32[4 × measures]`: of the whole text, the least and the greatest
    of its windows, and the last window."""
    text = HASHTAG.sub("", URL.sub("", text))
    whole = np.array(list(measures(text).values()), np.float32)
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    if len(starts) <= WINDOW:
        return np.tile(whole, 4)
    firsts = [*range(0, len(starts) - WINDOW, WINDOW // 2), len(starts) - WINDOW]
    pieces = [text[starts[first] : starts[first + WINDOW] if first + WINDOW < len(starts) else None]
              for first in firsts]
    windows = np.array([list(measures(piece).values()) for piece in pieces], np.float32)
    return np.concatenate([whole, windows.min(0), windows.max(0), windows[-1]])


def measures(text: str) -> dict[str, float]:
    """Signs of language and of none, by name; shares unless the name says otherwise."""
    raw, text = text, plain(text)
    tokens = text.split()
    words = LETTERS.findall(text)
    low = [word.lower() for word in words]
    solid = [c for c in text if not c.isspace()]
    n, letters = max(1, len(solid)), sum(map(str.isalpha, solid))
    # A name or an acronym may well be unknown.
    content = [word for word in words if len(word) > 3 and word.lower() not in SMALL
               and not word.istitle() and word.isupper() <= text.isupper()]
    unknown = [word for word in low if not is_known(word)]
    pairs = list(itertools.pairwise(low))
    order, order_pairs = word_order(text)
    kinds = [of_kinds(kind_of_word(a), kind_of_word(b)) for a, b in pairs] or [0.0]
    frequency = [_log_frequency(word) for word in low] or [-10.0]
    spelt = [_spelling(word) for word in low if len(word) > 2] or [2.3]
    spelt_unknown = [_spelling(word) for word in unknown if len(word) > 2] or [2.3]
    ends = len(re.findall(r"[.!?](?=\s|$)", text))
    jumbled = len(JUMBLE.findall(text))
    scripts = [script(word) for word in words if len(word) > 1]
    speaks = Counter(language for word in low for language in languages().get(word, ()))

    def share(found: Sequence[object] | int, of: Sequence[object]) -> float:
        return (found if isinstance(found, int) else len(found)) / max(1, len(of))

    return {
        # words and their neighbours
        "order, nats": order, "order, pairs": min(order_pairs, 30),
        "order, nats × pairs": order * min(order_pairs, 20),
        "small words": share(sum(word in SMALL for word in low), words),
        "longest run without them": share(run := _longest_run(low), tokens),
        "its length": min(run, 15),
        "known words": 1 - share(unknown, words),
        "known as they stand": share(sum(word in vocabulary() for word in low), words),
        "known content words": share(sum(is_known(word.lower()) for word in content), content)
        if content else 1.0,
        "log frequency": float(np.mean(frequency)), "its spread": float(np.std(frequency)),
        "common pairs": share(sum(pair in counts().pairs for pair in pairs), pairs),
        "kinds of neighbours, nats": float(np.mean(kinds)), "the least likely": min(kinds),
        "a word twice": share(sum(a == b for a, b in pairs), pairs),
        "different words": share(set(low), words),
        "impossible neighbours": share(jumbled, tokens), "their number": min(jumbled, 4),
        # spelling
        "spelling, nats a letter": float(np.mean(spelt)),
        "spelling of unknown words": float(np.mean(spelt_unknown)),
        "letters a word": letters / max(1, len(words)),
        "single letters": share(sum(len(w) == 1 and w not in "aiAI" for w in words), words),
        "pieces in a row": sum(len(match[0]) for match in AGAIN.finditer(text)) / n,
        "endings alone": min(len(set(CHIPS.findall(text))), 5),
        "unsayable": share(sum(map(_unsayable, words)), words),
        "capital inside": share(sum(bool(re.search(r"[a-z][A-Z]", t)) for t in tokens), tokens),
        "glued": share(sum(bool(re.search(r"[A-Za-z][^\w\s'’-][A-Za-z]", t)) for t in tokens),
                       tokens),
        "capital in mid-sentence": share(re.findall(r"(?<=[a-z,;] )[A-Z][a-z]+", text), tokens),
        # signs
        "no plain words": share(sum(bool(t.strip("|-:")) and not PLAIN.fullmatch(t)
                                    for t in tokens), tokens),
        "signs alone": share(sum(not re.search(r"\w", t) for t in tokens), tokens),
        "numbers": share(sum(t.strip(".,;:()").isdigit() for t in tokens), tokens),
        "letters": letters / n, "words a token": share(words, tokens),
        "turns of letter, digit, sign": _turns(solid) / n,
        "sentence ends": share(ends, tokens), "commas": share(text.count(","), tokens),
        "space before a sign": share(re.findall(r"\s[,.;:!?)](?=\s|$)", text), tokens),
        "small letter begins": len(re.findall(r"[.!?]\s+[a-z]", text)) / max(1, ends),
        "lines": share(text.count("\n"), tokens),
        "wrong brackets": min(_wrongly_closed(text), 5),
        "code": float(bool(CODE.search(text))),
        # languages and bytes
        "accents and other scripts": sum(c > "\x7f" and c.isalpha() for c in raw) / n,
        "scripts": len(set(scripts)), "turns of script": share(_changes(scripts), scripts),
        "another language": float(seems_foreign(text)),
        "its words": max(speaks.values(), default=0) / max(1, len(words)),
        "debris": share(DEBRIS.findall(raw), tokens),
        "bytes that were no text": sum(
            unicodedata.category(c) in ("Cn", "Co", "Cc") and c not in "\n\t\r" for c in raw) / n
        + len(HALF_READ.findall(raw)) / n,
        "rare letters": len(RARE.findall(raw)) / n,
        # size
        "tokens": min(len(tokens), 60), "compression": min(compression_ratio(text), 6),
    }


@functools.lru_cache(100_000)
def _log_frequency(word: str) -> float:
    return math.log((counts().words[word] + 1e4) / counts().all_words)


@functools.lru_cache(100_000)
def _spelling(word: str) -> float:
    """Surprise of a word's letters, in nats a letter, by the two before each."""
    threes, twos = _letters()
    padded = f"^^{word}$"
    return sum(-math.log((threes[padded[i - 2 : i + 1]] + 0.5) / (twos[padded[i - 2 : i]] + 15))
               for i in range(2, len(padded))) / (len(padded) - 2)


@functools.cache
def _letters() -> tuple[Counter[str], Counter[str]]:
    """How often three letters, and two, follow one another in the vocabulary."""
    threes: Counter[str] = Counter()
    for word in vocabulary():
        if word.isascii():
            threes.update(f"^^{word}$"[i - 2 : i + 1] for i in range(2, len(word) + 3))
    twos: Counter[str] = Counter()
    for three, times in threes.items():
        twos[three[:2]] += times
    return threes, twos


@functools.lru_cache(100_000)
def _unsayable(word: str) -> bool:
    """No acronym; three letters or more, without a vowel and unknown, or four consonants in a
    row."""
    if len(word) < 3 or word.isupper() or script(word) not in ("LATIN", "CYRILLIC", "GREEK"):
        return False
    bare = "".join(c for c in unicodedata.normalize("NFD", word.lower()) if c.isalpha())
    bare = re.sub(r"(.)\1\1+", r"\1", bare)  # a letter that is drawn out (`hmmm`) counts once
    mute = not VOWEL.search(bare) and not is_known(word.lower())
    return mute or (len(bare) > 3 and max(map(len, VOWEL.split(bare))) > 3)


def _mashed(text: str) -> bool:
    """One to three unknown words that are keys side by side: too short for the forest to know."""
    words = text.lower().split()
    return 0 < len(words) < 4 and all(
        len(word) > 2 and not is_known(word) and any(word in keys for keys in KEYS)
        for word in words)


def _longest_run(words: Sequence[str]) -> int:
    """Of words that are not small."""
    return max((sum(1 for _ in run) for small, run in itertools.groupby(words, SMALL.__contains__)
                if not small), default=0)


def _turns(signs: Sequence[str]) -> int:
    return _changes(["letter" if c.isalpha() else "digit" if c.isdigit() else "sign"
                     for c in signs])


def _changes(kinds: Sequence[str]) -> int:
    return sum(a != b for a, b in itertools.pairwise(kinds))


def _wrongly_closed(text: str) -> int:
    """Brackets that close one of another kind, or none if they are square or curly; intervals
    (0, 1] aside."""
    text = re.sub(r"[\[(][^\[\](){}]*,[^\[\](){}]*[\])]", "", EMOTICON.sub("", text))
    opened: list[str] = []
    wrong = 0
    for c in re.findall(r"[\[\](){}]", text):
        if c in "([{":
            opened.append(c)
        elif opened and opened[-1] + c in ("()", "[]", "{}"):
            opened.pop()
        else:
            wrong += bool(opened) or c in "]}"
    return wrong
