"""The words of a text: known or not, of which language and script, in an order or in none."""

from __future__ import annotations

import functools
import gzip
import importlib.resources
import itertools
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from helpers.paths import ROOT

WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
LETTERS = re.compile(r"[^\W\d_]+")
PIECES = frozenset("ing tion ation ment ers ness ous ful ity ive est ly er ed es al re un ll ve th "
                   "ish ized ize sub pre con dis int char".split())  # of words, and none themselves
# What makes a word of a word: `grumbly` is known with `grumble`.
ENDING = re.compile(r"(?:e?[ds]|ing|ers?|ly|ness|less|ful|ish|some|y|like|able|i[sz](?:m|t|e)|al)$")
COMMON = 168  # times that a word must stand in what pyspellchecker counted: 40,000 words do
URL = re.compile(r"\b(?:\w+://|www\.)[^\s()\[\]<>\"]+")
HASHTAG = re.compile(r"(?<!\S)#[^\W_]+(?!\S)")
EMOTICON = re.compile(r"(?<!\S)>?[:;=][-o'^]?[()\[\]{}DPp/\\|*<>]+(?!\w)|<3\b|¯\S*¯")
LOOKALIKES = str.maketrans("’‘ʼ´", "''''")
# A long word that no small dictionary has, but that any scholar might use.
LEARNED = re.compile(r"\w{6,}(?:ation|ical|ative|ine|one|ome|ase|ose|ide|ane|itis|ology|ial|ism)s?")
# Of messages typed in haste, in no book and no gibberish; none that is a piece of a word too.
CHAT = frozenset(
    "idk tbh ngl lol lmao omg brb btw imo imho afaik fyi smh smth sth thx pls plz gonna wanna "
    "gotta kinda dunno cuz bc bf gf tmrw ttyl ikr wtf dont cant wont didnt doesnt isnt im ive "
    "youre thats whats".split())
UNFINISHED = frozenset(
    "a an the this that these those my your his her its our their every each some any no and or "
    "but nor because although while if unless until when where who whose which than as of "
    "to in on at by for from with without into onto over under between among during before after "
    "about is are was were be been am has have had do does did will would can could may might "
    "shall should must not very we he she they eg ie vs cf viz mr mrs ms dr prof fig approx "
    "approximately".split())
# Small words of any sentence, each a kind of its own.
SMALL = UNFINISHED | frozenset(
    "i you it there me him them us so then that more most much many such only also other all both "
    "own just even still too here now one two up down out off again s t".split())
CONTRACTIONS = [(re.compile(pattern, re.I), full) for pattern, full in (
    (r"\bwon't\b", "will not"), (r"\bcan't\b", "can not"), (r"n't\b", " not"), (r"'re\b", " are"),
    (r"'ve\b", " have"), (r"'ll\b", " will"), (r"'m\b", " am"), (r"'d\b", " would"),
    (r"\b(it|that|he|she|there|what|who|here)'s\b", r"\1 is"), (r"'s\b", ""))]
CLAUSE_END = re.compile(r"[^\w\s,'’\-]+|\n|(?<=\w)[\s,'’\-]+(?!I\b)[A-Z]\w*")  # a sign, a name


def plain(text: str) -> str:
    """One form of each character: NFKC, straight apostrophes, nothing invisible."""
    text = unicodedata.normalize("NFKC", text.translate(LOOKALIKES))
    return "".join(c for c in text if unicodedata.category(c) != "Cf")


def known_share(words: Sequence[str]) -> float:
    """Share of words that are English, as they stand, with an ending, with two letters swapped or
    one not doubled: 1 minus the OOV rate. The words are those of pyspellchecker that are not rare,
    the course's own and `CHAT`.
    """
    known = [is_known(word) for word in map(str.lower, words)]
    return sum(known) / len(known) if known else 1.0


@functools.lru_cache(100_000)
def is_known(word: str) -> bool:
    known, stem = vocabulary(), ENDING.sub("", word)
    forms = [word, stem, stem + "e"] if len(stem) > 2 else [word]
    for i in range(len(word) - 1):
        forms += [word[:i] + word[i + 1] + word[i] + word[i + 2 :], word[:i] + word[i] + word[i:]]
    return word in CHAT or bool(LEARNED.fullmatch(word)) or any(form in known for form in forms)


@functools.cache
def sorted_vocabulary() -> list[str]:
    return sorted(vocabulary())


@functools.cache
def vocabulary() -> frozenset[str]:
    def lines() -> Iterable[str]:
        for path in sorted((ROOT / "data" / "handwritten").glob("*.jsonl")):
            yield from path.read_text(encoding="utf-8").splitlines()
        with gzip.open(ROOT / "data/demonstrations/train.jsonl.gz", "rt", encoding="utf-8") as f:
            yield from f

    own = {word.lower() for line in lines() for value in json.loads(line).values()
           if isinstance(value, str) for word in LETTERS.findall(value)}
    from spellchecker import SpellChecker

    listed = {word for word, times in SpellChecker(language="en").word_frequency.items()
              if times >= COMMON and len(word) > 2}
    return frozenset(own | listed) - PIECES


def seems_foreign(text: str) -> bool:
    """Whether the text seems to be in a Latin-written language other than English: accents on two
    letters of a hundred, or a sixth of the words common words of one language, more than there
    are small English words."""
    accents = sum(c > "\x7f" and c.isalpha() for c in text)
    words = Counter(word.lower() for word in LETTERS.findall(text))
    spoken: Counter[str] = Counter()
    for word, times in words.items():
        spoken.update({language: times for language in languages().get(word, ())})
    common = max(spoken.values(), default=0)
    return accents > 0.02 * len(text) or (
        common >= words.total() / 6 and common > sum(words[word] for word in UNFINISHED))


@functools.cache
def languages() -> dict[str, list[str]]:
    """Languages and dialects in Latin letters in which a word is common."""
    rows = json.loads((ROOT / "data" / "function_words.json").read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    for language, words in rows.items():
        for word in words.split():
            if len(word) > 1:
                found.setdefault(word, []).append(language)
    return found


def script(word: str) -> str:
    """LATIN, CYRILLIC, …; the three scripts that Japanese mixes are one."""
    name = unicodedata.name(word[0], "?").split()[0]
    return {"HIRAGANA": "CJK", "KATAKANA": "CJK", "MODIFIER": "LATIN"}.get(name, name)


def word_order(text: str) -> tuple[float, int]:
    """How much likelier neighbours are than the same words in any other order, in nats, and of how
    many pairs of neighbours that is the mean.

    The mean pointwise mutual information (Church and Hanks 1990) of neighbours in a clause, less
    its mean over all orders of the text's words, once of the words and once of their kinds, added:
    about 0 for shuffled English, 2 to 5 for English. A clause ends at a sign and at a name. Counts
    are those of symspellpy (Google's n-grams, 83,000 words and the 243,000 commonest pairs). A pair
    of words that is not among them counts as chance, or less where chance alone would make it
    common; an unknown word has a kind.
    """
    for pattern, full in CONTRACTIONS:
        text = pattern.sub(full, text)
    one = counts().words
    clauses = [re.findall(r"[a-z]+", clause.lower()) for clause in CLAUSE_END.split(text)]
    pairs = [list(itertools.pairwise(clause)) for clause in clauses]
    known = list({(a, b) for of in pairs for a, b in of if a in one and b in one})
    kinds = [(kind_of_word(a), kind_of_word(b)) for of in pairs for a, b in of]
    every = [word for clause in clauses for word in clause]
    return (_gain(of_words, known, [word for word in every if word in one])
            + _gain(of_kinds, kinds, map(kind_of_word, every))), len(known)


@functools.lru_cache(300_000)
def of_words(a: str, b: str) -> float:
    of = counts()
    chance = of.words[a] * of.words[b] / of.all_words
    if (a, b) in of.pairs:
        return math.log(of.pairs[a, b] / chance)
    return min(0, math.log(of.rarest / chance))


@functools.lru_cache(100_000)
def of_kinds(a: str, b: str) -> float:
    of = counts()
    chance = of.first[a] * of.second[b] / of.all_kinds
    return math.log((of.kinds[a, b] + of.rarest) / (chance + of.rarest))


def _gain(information: Callable[[str, str], float], pairs: Sequence[tuple[str, str]],
          words: Iterable[str]) -> float:
    times = Counter(words)
    orders = times.total() * (times.total() - 1)
    if not pairs or not orders:
        return 0.0
    any_order = sum(information(a, b) * n * (times[b] - (a == b))
                    for a, n in times.items() for b in times) / orders
    return sum(itertools.starmap(information, pairs)) / len(pairs) - any_order


@functools.lru_cache(100_000)
def kind_of_word(word: str) -> str:
    if word in SMALL:
        return word
    ending = re.search(r"(?<=...)(?:ing|ed|ly)$|(?<=[^s]{3})s$", word)
    return ending.group() if ending else "other"


class Counts(NamedTuple):
    """How often words, pairs of them and pairs of their kinds stand in Google's n-grams, the first
    and the second kind of a pair, the rarest pair that is counted, and the sums."""

    words: Counter[str]
    pairs: Counter[tuple[str, str]]
    kinds: Counter[tuple[str, str]]
    first: Counter[str]
    second: Counter[str]
    rarest: int
    all_words: int
    all_kinds: int


@functools.cache
def counts() -> Counts:
    files = importlib.resources.files("symspellpy")
    one, two = ([line.split() for line in (files / name).read_text("utf-8-sig").splitlines()]
                for name in ("frequency_dictionary_en_82_765.txt",
                             "frequency_bigramdictionary_en_243_342.txt"))
    pairs = Counter({(a, b): int(times) for a, b, times in two})
    kinds: Counter[tuple[str, str]] = Counter()
    first: Counter[str] = Counter()
    second: Counter[str] = Counter()
    for (a, b), times in pairs.items():
        a, b = kind_of_word(a), kind_of_word(b)
        kinds[a, b] += times
        first[a] += times
        second[b] += times
    words = Counter({word: int(times) for word, times in one})
    return Counts(words, pairs, kinds, first, second, min(pairs.values()), words.total(),
                   kinds.total())
