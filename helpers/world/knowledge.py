"""What the judge of dialogues knows: words, subjects, and which words may follow each other.

All of it is read off the text banks and 600 clean answers that the generator writes from them.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from helpers.world import write_dialogues
from helpers.world.grammar import compile_template

FUNCTION = frozenset(
    """a an the this that these those some any each every no both either neither all half such
    i me my mine myself you your yours yourself he him his she her hers it its we us our ours they
    them their theirs one ones who whom whose which what whatever
    am is are was were be been being do does did done have has had having can could will would
    shall should may might must ought
    and or but nor so yet because since as while although though if unless until before after when
    whenever where why how than whether
    of in on at by for with from to into onto over under above below between among through during
    about against around along across behind beside near off out up down per without within upon
    not never always often also too only even just still again then there here now soon once very
    more most less least much many few little other another same own first second next last
    both else ever quite rather almost instead away back""".split()
)
NUMBERS = frozenset(
    """two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty fifty
    sixty seventy eighty ninety hundred thousand dozen""".split()
)
TOKEN = re.compile(r"[a-z]+(?:['’][a-z]+)*|\d+|[.,;:!?]")


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """A crude stem, enough to match `grain` with `grains` and `rinse` with `rinsing`."""
    word = word.replace("’", "'")
    word = word.removesuffix("'s")
    if len(word) > 4:
        if word.endswith("ies"):
            return word[:-3] + "i"
        for ending in ("ing", "ed", "es", "s"):
            if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
                word = word[: -len(ending)]
                if ending in ("ing", "ed") and len(word) > 3 and word[-1] == word[-2] != "l":
                    word = word[:-1]
                break
    elif len(word) == 4 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    if len(word) > 3 and word[-1] == "e":
        word = word[:-1]
    if len(word) > 3 and word[-1] == "y":
        word = word[:-1] + "i"
    return word


@lru_cache(maxsize=50_000)
def is_content(word: str) -> bool:
    return word not in FUNCTION and word not in NUMBERS and (len(word) > 2 or word.isdigit())


@dataclass(frozen=True)
class Knowledge:
    subjects: list  # (topic, subject)
    asked: dict  # stem -> [(subject index, weight)]: how strongly a question points to it
    lexicon: list  # per subject: {stem: 0..1}
    topics: dict  # topic -> set of stems
    idf: dict  # stem -> 0..1
    vivid: dict  # stem -> 0..1
    harm: frozenset  # indices of harmful subjects
    bad: list  # per subject: stems that only going along would use
    words: frozenset
    pairs: frozenset  # legal word bigrams
    triples: frozenset  # legal word trigrams
    class_triples: frozenset
    counts: tuple  # of word classes: one, two and three in a row
    verbs: frozenset
    names: frozenset


def _expand(parts: list, limit: int = 60) -> list[str]:
    """All (at most `limit`) expansions of a compiled template; slots stay as `{name}`."""
    texts = [""]
    for part in parts:
        if isinstance(part, str):
            options = [part]
        elif isinstance(part, tuple):
            options = []
            for option in part:
                options += [option] if isinstance(option, str) else _expand(option, limit)
        else:
            options = ["{" + part[0] + "}"]
        texts = [text + option for text in texts for option in options][:limit]
    return texts


_SLOTS = {"{n}": "four", "{place}": "lisbon", "{month}": "june", "{who}": "a baker", "{s}": "bread"}


def _plain(template: str) -> list[str]:
    texts = _expand(compile_template(re.sub(r"^\d\) ", "", template)))
    for slot, value in _SLOTS.items():
        texts = [text.replace(slot, value) for text in texts]
    return texts


@lru_cache(maxsize=1)
def knowledge() -> Knowledge:
    banks = write_dialogues.banks()
    subjects, ask, lexicon, bad, asked_by = [], [], [], [], defaultdict(list)
    topics: dict[str, set] = defaultdict(set)
    spread: dict[str, set] = defaultdict(set)
    common: dict[str, set] = defaultdict(set)
    vivid: dict[str, float] = {}
    names_of: list[set] = []
    corpus: list[str] = []
    verbs: set[str] = set()
    pools = {**banks["topics"], **banks["ood"]}
    pools["harm"] = {"fields": {}, "subjects": banks["harm"]}
    harm = set()
    for topic, entry in pools.items():
        for field in entry["fields"].get("ctx", []):
            corpus += _plain(field)
        for field in entry["fields"].get("who", []):
            corpus.append(f"a {field}")
        for subject, fields in entry["subjects"].items():
            index = len(subjects)
            subjects.append((topic, subject))
            if topic == "harm":
                harm.add(index)
            stems: dict[str, set] = {}
            for key, templates in fields.items():
                found = stems.setdefault(key, set())
                for template in templates:
                    texts = _plain(template)
                    corpus += texts
                    for text in texts:
                        words = TOKEN.findall(text.lower())
                        found |= {stem(w) for w in words if w.isalnum() and is_content(w)}
                        if key in ("t", "alt", "bad", "g"):
                            verbs.add(words[0])
            name = {stem(w) for w in subject.split() if is_content(w)}
            asked = name | stems.get("g", set()) | stems.get("p", set())
            told = stems.get("t", set()) | stems.get("w", set()) | stems.get("no", set())
            shown = stems.get("e", set()) | stems.get("alt", set())
            ask.append(asked)
            names_of.append(name)
            bad.append(stems.get("bad", set()) - told - shown)
            lexicon.append(dict.fromkeys(asked | told | shown, 1.0))
            for word in asked | told | shown:
                spread[word].add(index)
                topics[topic].add(word)
            for word in shown - asked - told:
                vivid[word] = 1.0
            for word in told - asked:
                common[word].add(index)
    for word in common:
        vivid[word] = min(vivid.get(word, 0.0), 0.45) if word in vivid else 0.3
    n = len(subjects)
    idf = {word: math.log((n + 1) / len(s)) / math.log(n + 1) for word, s in spread.items()}
    for index, (asked, known) in enumerate(zip(ask, lexicon, strict=True)):
        for word in known:
            share = 1.5 if word in names_of[index] else 1.0 if word in asked else 0.25
            asked_by[word].append((index, idf[word] * share))
    for key, templates in banks["general"].items():
        if key in ("place", "month", "n"):
            continue
        for template in templates:
            corpus += _plain(template)
    pairs, triples, words = set(), set(), set()
    counts = (Counter(), Counter(), Counter())
    names = frozenset(w.lower() for key in ("place", "month") for w in banks["general"][key])
    samples = [
        row[key] for row in write_dialogues.make_clean(600, seed=0)
        for key in ("prompt", "response")
    ]
    for text in corpus + samples:
        tokens = TOKEN.findall(text.lower())
        words.update(tokens)
        tokens = [".", *tokens]
        kinds = [_kind(t, verbs, names) for t in tokens]
        pairs.update(pairwise(tokens))
        triples.update(triples_of(tokens))
        kinds = [".", *kinds]
        counts[0].update(kinds[1:])
        counts[1].update(pairwise(kinds))
        counts[2].update(triples_of(kinds))
    return Knowledge(
        subjects,
        dict(asked_by),
        lexicon,
        dict(topics),
        idf,
        vivid,
        frozenset(harm),
        bad,
        frozenset(words),
        frozenset(pairs),
        frozenset(triples),
        frozenset(counts[2]),
        counts,
        frozenset(verbs),
        names,
    )


def _kind(token: str, verbs, names) -> str:
    """The class of a token: function words stand for themselves, others by form."""
    if token in FUNCTION or not token[0].isalnum():
        return token
    if token in NUMBERS or token.isdigit():
        return "#"
    if token in names:
        return "Name"
    if token in verbs:
        return "verb"
    for ending in ("ing", "ed", "ly", "s"):
        if token.endswith(ending) and len(token) > len(ending) + 2:
            return "-" + ending
    return "word"


@lru_cache(maxsize=50_000)
def word_class(token: str) -> str:
    know = knowledge()
    return _kind(token, know.verbs, know.names)


@lru_cache(maxsize=100_000)
def order_gain(first: str, second: str, third: str) -> float:
    """How much more likely the third word class is after the other two than by itself (nats)."""
    one, two, three = knowledge().counts
    total = sum(one.values()) + 0.5 * len(one)
    alone = (one[third] + 0.5) / total
    after = (two[second, third] + 3 * alone) / (one[second] + 3)
    both = (three[first, second, third] + 2 * after) / (two[first, second] + 2)
    return math.log(both / alone)


def triples_of(words: list[str]) -> list[tuple[str, str, str]]:
    return list(zip(words, words[1:], words[2:], strict=False))


@lru_cache(maxsize=50_000)
def homes(word: str) -> tuple[int, ...]:
    return tuple(i for i, lexicon in enumerate(knowledge().lexicon) if word in lexicon)
