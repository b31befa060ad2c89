"""How a text goes wrong that a language model wrote: loops, gibberish, nothing, half, an echo.

Rules on the surface of a text, so that a rate means the same for every model and no model has to be
loaded. They see what is broken, not what is bad: what is wrong, rude or nonsense in good grammar
passes, and gibberish in other languages than English passes more often. Measure raw answers, before
anything is trimmed, filtered or asked again. The rules were made with the labelled texts of
`tests/quality/` at hand, but for the last author's, on which they were tried once: what came of it
stands in `tests/test_quality.py`.
"""

from __future__ import annotations

import bisect
import difflib
import functools
import gzip
import html
import importlib.resources
import itertools
import json
import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from helpers.errors import UserError
from helpers.paths import ROOT

__all__ = ["FAULTS", "compression_ratio", "echoed_share", "faults", "is_cut_off", "is_echo",
           "is_empty", "is_gibberish", "is_repetitive", "known_share", "rates", "with_fallback",
           "word_order"]

FAULTS = ("empty", "repetition", "gibberish", "cut_off", "echo")

WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
LETTERS = re.compile(r"[^\W\d_]+")
PIECES = frozenset("ing tion ation ment ers ness ous ful ity ive est ly er ed es al re un ll ve th "
                   "ish ized ize sub pre con dis int char".split())  # of words, and none themselves
# What makes a word of a word: `grumbly` is known with `grumble`.
ENDING = re.compile(r"(?:e?[ds]|ing|ers?|ly|ness|less|ful|ish|some|y|like|able|i[sz](?:m|t|e)|al)$")
# What carries no content: special tokens with the role they open; fences and links around nothing.
SPECIAL = re.compile(r"<\|(?:im_start|start_header_id)\|>\s*\w*|<\|[^|<>]*\|>|"
                     r"</?(?:s|pad|unk|bos|eos)>|\[(?:PAD|UNK|CLS|SEP|MASK|EOS|BOS|/?INST)\]|"
                     r"<</?SYS>>|<start_of_turn>\s*\w*|<end_of_turn>|"
                     r"```\w*\s*```|!?\[\s*\]\(\s*\)|(?:\\[nt]\s*){2,}", re.I)
# Markup of HTML and LaTeX; a picture is something said, and a tag alone may be the answer.
TAG = re.compile(r"<!--.*?-->|<[!/]?(?!img|input|svg|video|audio)\w[^<>]*>", re.S)
LATEX = re.compile(r"\\(?:begin|end)\{\w+\*?\}(?:\{[|lcr ]*\})?|\\(?:item|hline)\b|[&\s]*\\\\|"
                   r"\\[\[\]()]|\\\w+\{\s*\}|\$\$\s*\$\$|\$\s+\$")
LABEL = re.compile(r"^[\W_]*\w+(?: \d+)? ?:[ \t*_\"'.-]*$", re.M)  # a role, nothing after it
# The number of an item that is not there, where more follow; a box to tick with nothing to do; a
# line of one sign of Markdown.
NUMBER = r"\s*(?:\d+|[a-z]|[ivx]+)[.)]\s*"
BLANKS = re.compile(rf"^{NUMBER}\n(?:{NUMBER}(?:\n|\Z))+|^\s*(?:[-*+•]\s*)?\[[ x]?\]\s*$|"
                    r"^(?!\A[=~+>#]{1,2}\Z)\s*([-*#_=~>+•`|])\1*\s*$", re.M | re.I)
COMMON = 168  # times that a word must stand in what pyspellchecker counted: 40,000 words do
MARKS = ".,;:!?…'\"“”„‘’«»*|-–—。、"  # of prose and tables: alone they say nothing
NUMBERS = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s+|\b\d+[.:]\s", re.M)  # of items and steps
CLOSERS = "\"'”’»)]}*_`~"  # what may stand after the sign that ends a sentence
# What no reader is meant to see: tokens undecoded, escapes unescaped, bytes that were no text.
DEBRIS = re.compile(r"[ĠĊ▁\ufffd]|##\w*|\[UNK\]|<unk>|</w>|\[unused\d+\]|"
                    r"&?\b(?:amp|quot|nbsp|lt|gt);|\bu00[0-9a-f]{2}|%[0-9A-F]{2}|\\(?:x[0-9a-f]{2}|u[0-9a-f]{4})|\btok(?:en)?_\d+|"
                    r"[ÃÂâï][\x80-¿€‚ƒ„…†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œ]")
HALF_READ = re.compile(r"[\u0400-\u045f][№»®°±´·¬¦©«¶µ†‡•‚„…‰‹›™—–]")  # bytes of UTF-8 in Cyrillic
PLAIN = re.compile(r"[(\"'“‘*]*([A-Z]?[a-z]+(?:['’-][A-Za-z]+)*|[A-Z]+)[)\"'”’*.,;:!?…]*|"
                   r"\d[\d.,:]*%?[.,]?")
URL = re.compile(r"\b(?:\w+://|www\.)[^\s()\[\]<>\"]+")
HASHTAG = re.compile(r"(?<!\S)#[^\W_]+(?!\S)")
# Endings of words that stand alone; with a hyphen they are talked about.
CHIPS = re.compile(r"(?<!['’\w-])(?:ing|tion|ation|ment|ers|ness|ous|ful|ity|ive|ly|ed|ism|[ae]nce|"
                   r"ally|ish|ized|ty|ic)\b", re.I)
VOWEL = re.compile(r"[aeiouyøœæıəɪʊɔɛɑɒʌɜаеёиоуыэюяіїєαεηιουω]")
RARE = re.compile(r"[\u0180-\u02af\u1d00-\u1dbf\u0300-\u036f]")  # Latin letters, IPA, piled accents
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
ACCENTED = re.compile(r"[\u00c0-\u024f\u1e00-\u1eff]")
KEYS = re.compile(r"(?:" + "|".join(  # five keys in a row
    row[i : i + 5] for keys in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for row in (keys, keys[::-1]) for i in range(len(row) - 4)) + r")\w*")
IN_WORDS = re.compile(r"[\s()+*/=^_.,:'’@&-]+")  # what parts words, formulas and addresses
EMOTICON = re.compile(r"(?<!\S)>?[:;=][-o'^]?[()\[\]{}DPp/\\|*<>]+(?!\w)|<3\b|¯\S*¯")
ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|vs|cf|viz|Mr|Mrs|Ms|Dr|Prof|Fig|approx)\.|"
                          r"\b(?:[A-Z]|St)\.(?= [A-Z])")
LOOKALIKES = str.maketrans("’‘ʼ´", "''''")
# A long word that no small dictionary has, but that any scholar might use.
LEARNED = re.compile(r"\w{6,}(?:ation|ical|ative|ine|one|ome|ase|ose|ide|ane|itis|ology|ial|ism)s?")
# Of messages typed in haste, in no book and no gibberish; none that is a piece of a word too.
CHAT = frozenset(
    "idk tbh ngl lol lmao omg brb btw imo imho afaik fyi smh smth sth thx pls plz gonna wanna "
    "gotta kinda dunno cuz bc bf gf tmrw ttyl ikr wtf dont cant wont didnt doesnt isnt im ive "
    "youre thats whats".split())
SENTENCE_END = re.compile(r"[.!?:;।][\"'”’)]*\s+|\b[A-Da-d]\)\s+|[。！？]")
FULL_STOP = re.compile(r"(?<=[^\W\d_A-Z]|[)\"”’*\d%])[.!?।][\"”’)*]*\s+")
LONE_LETTER = re.compile(r"\b(?:the|an?|my|your|our|their|very) [b-hj-z]\Z")
SUBJECT = re.compile(r"\b(?:if|when|because|that|although|while|unless|whether|until|since|where)"
                     r" (?:you|it|i|there)\Z", re.I)
# A clause that may end in its preposition: the house (that) I grew up in
STRANDED = re.compile(r"\b(?:that|what|which|who|where|the \w+) (?:i|you|he|she|it|we|they)\b"
                      r"(?: \w+){1,4}\Z", re.I)
PAIRS = (("“", "”"), ("«", "»"), ("\\begin{", "\\end{"), ("<think>", "</think>"))
QUOTE = re.compile(r"(?<!\d)\"")  # after a digit it means inches or seconds
ITEM = re.compile(r"\s*(?:\d+[.)]|[a-hA-H]\)|([-*+•]))(?=\s|\Z)")
NUMERALS = "two three four five six seven eight nine ten eleven twelve".split()
ANNOUNCED = re.compile(
    r"(?:\b(?:here are|here is|there are|list of|the|these|following|top|name|give you|suggest) "
    rf"(?:\w+ )?)({'|'.join(NUMERALS)}|[2-9]|1\d|20) (?!minutes|hours|days|weeks|times)"
    r"[^.:;\n]*:\**\s*\n", re.I)
HEADING = re.compile(r"\s*(?:#{1,6} .*\w.*|\*\*[^*]+\*\*:?)\s*")
# Signed by its author, or a time.
SIGNED = re.compile(r"[.!?\"”]\s*[-–—~]+ ?(?:[A-Z]\w*\.? ?){1,4}\Z|\d ?[ap]m\Z")
FAREWELL = re.compile(
    r"(?:(?:many )?thanks|thank you|cheers|enjoy|(?:kind |best |warm )?(?:regards|wishes)|bye|love|"
    r"good luck|take care|have fun|stay safe|all the best|see you|hope (?:this|it) helps|ok|okay|"
    r"lol|xx?)\b", re.I)
STEP = re.compile(r"\W*(?:step|part|day|week|tip|phase) \d+\s*[:.]", re.I)
PRONOUN = re.compile(r"(?:i|you|he|she|it|we|they|who|that|there)'(?:m|re|ve|ll|d|s)", re.I)
ASKS = re.compile(r"\s*(?:wh(?:o|at|ich|ere|en)|how)\b", re.I)  # may end in a preposition
ROLE = re.compile(r"^[\s#*]*(?:Human|Assistant|User|System|Bot|AI|Instruction|Response)[\s*]*:|"
                  r"\A\s*(?:Question|Q|A)\s*:|^(?:Answer|A)\s*:\s*\Z|"
                  + SPECIAL.pattern, re.I | re.M)
LEAD = re.compile(r"\W*(?:\w+\W+){0,3}\w+:\s")  # The question was: …
PERSONS = {"i": "you", "me": "you", "my": "your", "mine": "yours", "am": "are", "i'm": "you're",
           "we": "you", "us": "you", "our": "your"}
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
WINDOW = 24  # words in which an order is looked for
CONTRACTIONS = [(re.compile(pattern, re.I), full) for pattern, full in (
    (r"\bwon't\b", "will not"), (r"\bcan't\b", "can not"), (r"n't\b", " not"), (r"'re\b", " are"),
    (r"'ve\b", " have"), (r"'ll\b", " will"), (r"'m\b", " am"), (r"'d\b", " would"),
    (r"\b(it|that|he|she|there|what|who|here)'s\b", r"\1 is"), (r"'s\b", ""))]
CLAUSE_END = re.compile(r"[^\w\s,'’\-]+|\n|(?<=\w)[\s,'’\-]+(?!I\b)[A-Z]\w*")  # a sign, a name
# What may not end a sentence in other languages.
UNFINISHED_ABROAD = frozenset(
    "und oder der die das dem den des ein eine einen mit von zu zum zur für auf als wenn dass weil "
    "le les un une du et ou que pour avec dans sur au aux el los las y con por una del lo il gli i "
    "e che per di della nel o os as um uma em com da do dos het een en van met te voor om in och "
    "att av med på i w z na że la".split())
# Whole sentences that may end in such a word: Yes, I do; Log in.
SHORT = re.compile(r"(?:(?:yes|no|sure|of course)\W+)?\w+ (?:did|do|does|can|could|should)"
                   r"(?: not)?|(?:yes|no)\W+\w+ \w+(?: not)?|(?:[\w']+ ){1,2}(?:in|on|over|by)|no|"
                   r"not|.*\b(?:log|sign|go|come|carry|move|drop|turn it) (?:in|on|by)|"
                   r"(?:\w+ ){0,2}to \w+ (?:about|for|with|of)|\w+ (?:used|have|need) to", re.I)


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
    found = _found(texts, prompts, ended)
    names = [name for name in FAULTS if name != "echo" or prompts is not None]
    return {**{name: sum(name in row for row in found) / len(texts) for name in names},
            "any": sum(map(bool, found)) / len(texts)}


def with_fallback(
    texts: Sequence[str], sentence: str, prompts: Sequence[str] | None = None,
    ended: Sequence[bool] | None = None,
) -> tuple[list[str], dict[str, float]]:
    """The texts as a user may see them, a broken one replaced by `sentence`, and the raw rates.

    Both come together so that nobody reports the rates of texts that were mended first.

    Raises:
        UserError: as `rates`; or `sentence` has a fault itself.
    """
    if faults(sentence):
        raise UserError(f"the fallback {sentence!r} is broken itself ({', '.join(faults(sentence))}"
                        "); give one whole sentence.")
    found = _found(texts, prompts, ended)
    return ([sentence if bad else text for text, bad in zip(texts, found, strict=True)],
            rates(texts, prompts, ended))


def _found(
    texts: Sequence[str], prompts: Sequence[str] | None, ended: Sequence[bool] | None
) -> list[list[str]]:
    if not len(texts):
        raise UserError("rates of faults need at least one text; the list is empty.")
    for name, other in (("prompts", prompts), ("ended", ended)):
        if other is not None and len(other) != len(texts):
            raise UserError(f"{len(texts)} texts have {len(other)} {name}; give one for each.")
    return [faults(text, prompts[i] if prompts is not None else None,
                   bool(ended[i]) if ended is not None else None)
            for i, text in enumerate(texts)]


def is_empty(text: str) -> bool:
    """Nothing is said: markup, list numbers, a role and punctuation are all there is."""
    rest = SPECIAL.sub("", text).strip()
    if "`" not in rest and not re.fullmatch(r"<\w[^<>]*>", rest):
        rest = LATEX.sub("", html.unescape(TAG.sub("", rest))).strip()
    rest = LABEL.sub("", BLANKS.sub("", rest))
    return all(
        c in MARKS or c.isspace() or unicodedata.category(c) in ("Cf", "Cc") for c in rest)


def _plain(text: str) -> str:
    """One form of each character: NFKC, straight apostrophes, nothing invisible."""
    text = unicodedata.normalize("NFKC", text.translate(LOOKALIKES))
    return "".join(c for c in text if unicodedata.category(c) != "Cf")


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


def is_gibberish(text: str) -> bool:
    """No language, throughout or in its last half or third (what has begun rarely ends): signs
    without words, debris, scripts, signs or words in a jumble, words that nobody can say, unknown
    words."""
    text = HASHTAG.sub("", URL.sub("", text))
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    lasts = [text[starts[-count] :] for share in (2, 3)
             if 10 <= (count := max(10, len(starts) // share)) <= len(starts) - 8]
    return _no_text(text) or any(_soup(part) or _no_english(part) for part in (text, *lasts))


def _no_text(text: str) -> bool:
    """Signs, debris, scripts or letters that make no words of any language."""
    solid = [c for c in text if not c.isspace()]
    n = max(1, len(solid))
    letters = sum(c.isalpha() for c in solid) / n
    found = DEBRIS.findall(text)
    if len("".join(found)) > 0.05 * n and len(found) >= 3:
        return True
    if n >= 16 and letters < 0.1 and len(set(solid)) > 4 and not any(map(str.isdigit, solid)):
        return not any(unicodedata.category(c) == "So" for c in solid)
    loose = [token for token in text.split() if re.fullmatch(r"[.,;:!?'\"()\-]+", token)]
    if len(loose) >= max(8, 0.4 * len(text.split())) and len(set("".join(loose))) > 3:
        return True
    if sum(unicodedata.category(c) in ("Cn", "Co") for c in solid) > 0.02 * n >= 0.2 or (
            len(HALF_READ.findall(text)) >= max(3, 0.05 * n)):
        return True
    if n >= 16 and sum("\x80" <= c <= "\xff" for c in solid) > 0.3 * n:
        return True  # Latin-1 above ASCII: no language writes a third of its letters with it
    strange = max(len(RARE.findall(text)), len(ACCENTED.findall(text)))
    if n >= 8 and strange > 0.6 * letters * n:
        return True
    if len(KEYS.findall(text)) >= max(2, len(text.split()) / 2):
        return True
    if _wrongly_closed(text) or len(set(CHIPS.findall(text))) >= max(4, len(text.split()) / 5):
        return True
    text = _plain(text)
    pieces = [piece for piece in IN_WORDS.split(text) if piece]
    if len(pieces) >= 6 and sum(map(_mixed, pieces)) >= len(pieces) / 2:
        return True
    if n >= 16 and len(text.split()) <= n / 16 and _turns([_kind(c) for c in solid]) > n / 2 and (
            text[0] not in "[{"):
        return True
    words = LETTERS.findall(text)
    scripts = [_script(word) for word in words if len(word) > 1]
    if len(scripts) >= 6 and _turns(scripts) > len(scripts) / 3:
        return True
    return _unsayable(words) and not (set(scripts) == {"LATIN"} and _foreign(text))


def _no_english(text: str) -> bool:
    """In Latin letters, by their words no other language, and no English: unknown, or no order."""
    text = _plain(text)
    words = LETTERS.findall(text)
    if sum(map(len, words)) < 0.85 * len("".join(text.split())) or _foreign(text) or (
            {_script(word) for word in words if len(word) > 1} != {"LATIN"}):
        return False
    # A name or an acronym may well be unknown.
    lower = [word for word in words if not word.istitle() and word.isupper() <= text.isupper()]
    return (_unknown(lower) or (len(lower) >= 24 and _unknown(lower[-16:]))
            or _invented(text, lower) or (len(lower) >= 30 and _invented(text, lower[-20:]))
            or _jumbled(text))


def _soup(text: str) -> bool:
    """Words of any topic, script and program by turns, as a model draws them where all tokens are
    alike to it: a fifth are no plain words of English, some foreign and some not, and few small."""
    tokens = [token for token in text.split() if token.strip("|-:")]  # no bars of a table
    plain = [word for token in tokens if (word := PLAIN.fullmatch(token))]
    known = [word for found in plain if len(word := (found[1] or "").lower()) > 3
             and _is_known(word)]
    odd = [token for token in tokens if not PLAIN.fullmatch(token)]
    kinds = {"foreign" if any(c > "\x7f" and c.isalpha() for c in token)
             else "glued" if re.search(r"[^\W_]", token) else "signs" for token in odd}
    small = sum((word[1] or "").lower() in SMALL for word in plain)
    return (len(known) >= 8 and len(odd) >= max(4, 0.2 * len(tokens)) and small < 0.2 * len(tokens)
            and "foreign" in kinds and len(kinds) > 1 and word_order(text)[0] < 2.5)


def _mixed(piece: str) -> bool:
    """Small letters, digits and signs by turns, and no hexadecimal number or size in pixels."""
    core = re.sub(r"^\W+|\W+$|^[0-9a-f]+$|^\d+x\d+$", "", piece)
    return core.islower() and _turns([_kind(c) for c in core]) >= 2


def _unknown(words: Sequence[str]) -> bool:
    few = known_share(words) <= (0.25 if len(words) >= 10 else 0)
    exact = sum(word.lower() in _vocabulary() for word in words)
    if len(words) >= 10 and exact <= 0.15 * len(words):
        return True  # no misspelling, if it befalls all words
    longer = [word for word in words if len(word) > 2]  # chance makes short words out of letters
    return (len(words) >= 6 and few) or (len(longer) >= 8 and known_share(longer) <= 0.2)


def _invented(text: str, words: Sequence[str]) -> bool:
    """In sentences, no mere list: about half of the words that carry content are unknown, to
    the end."""
    content = [word for word in words if len(word) > 3 and word.lower() not in UNFINISHED]
    return (4 * text.count(",") < len(text.split()) and len(content) >= 6
            and known_share(content) < 0.55 and known_share(content[-8:]) < 0.75)


def _jumbled(text: str) -> bool:
    """Words in no order: small words that never follow one another do (twice or more, and one word
    in forty), or somewhere neighbours are hardly likelier than the same words shuffled."""
    count = len(JUMBLE.findall(text))
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    last = text[starts[-WINDOW] if len(starts) > WINDOW else 0 :]
    if 2 <= count >= len(starts) / 40 or len(JUMBLE.findall(last)) >= 3:
        return True
    ends = [*starts[WINDOW :: WINDOW // 2], None]
    pieces = [text[start:end] for start, end in zip(starts[:: WINDOW // 2], ends, strict=False)]
    if len(pieces) < 3:
        return _order(text) < 0.8
    orders = sorted(map(_order, [*pieces, last]))
    return orders[0] < 0.3 or orders[1] < 1.2  # pieces overlap


def _order(text: str) -> float:
    """`word_order`, less if small words follow that never do; infinite where it is no witness: in
    few words, in verse, where words return, and in lists, names and code, whose short clauses
    have few small words."""
    words = [word.lower() for word in LETTERS.findall(text)]
    gain, pairs = word_order(text)
    small = sum(word in SMALL for word in words) / max(1, len(words))
    if pairs < (6 if small > 0.28 else 14) or text.count(",") > 0.15 * len(words) or (
            len(set(words)) < 0.6 * len(words)):
        return math.inf
    if pairs < 5 * text.strip().count("\n") or (
            small < 0.28 and pairs < 4 * len(re.findall(r"[^\w\s,'’\-]+\s|\n", text))):
        return math.inf
    return gain - bool(JUMBLE.search(text)) + 0.6 * (pairs < 14) + 0.4 * (pairs < 8)


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
    one = _counts().words
    clauses = [re.findall(r"[a-z]+", clause.lower()) for clause in CLAUSE_END.split(text)]
    pairs = [list(itertools.pairwise(clause)) for clause in clauses]
    known = list({(a, b) for of in pairs for a, b in of if a in one and b in one})
    of_kinds = [(_kind_of_word(a), _kind_of_word(b)) for of in pairs for a, b in of]
    every = [word for clause in clauses for word in clause]
    return (_gain(_of_words, known, [word for word in every if word in one])
            + _gain(_of_kinds, of_kinds, map(_kind_of_word, every))), len(known)


@functools.lru_cache(300_000)
def _of_words(a: str, b: str) -> float:
    of = _counts()
    chance = of.words[a] * of.words[b] / of.all_words
    if (a, b) in of.pairs:
        return math.log(of.pairs[a, b] / chance)
    return min(0, math.log(of.rarest / chance))


@functools.lru_cache(100_000)
def _of_kinds(a: str, b: str) -> float:
    of = _counts()
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
def _kind_of_word(word: str) -> str:
    if word in SMALL:
        return word
    ending = re.search(r"(?<=...)(?:ing|ed|ly)$|(?<=[^s]{3})s$", word)
    return ending.group() if ending else "other"


class _Counts(NamedTuple):
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
def _counts() -> _Counts:
    files = importlib.resources.files("symspellpy")
    one, two = ([line.split() for line in (files / name).read_text("utf-8-sig").splitlines()]
                for name in ("frequency_dictionary_en_82_765.txt",
                             "frequency_bigramdictionary_en_243_342.txt"))
    pairs = Counter({(a, b): int(times) for a, b, times in two})
    kinds: Counter[tuple[str, str]] = Counter()
    first: Counter[str] = Counter()
    second: Counter[str] = Counter()
    for (a, b), times in pairs.items():
        a, b = _kind_of_word(a), _kind_of_word(b)
        kinds[a, b] += times
        first[a] += times
        second[b] += times
    words = Counter({word: int(times) for word, times in one})
    return _Counts(words, pairs, kinds, first, second, min(pairs.values()), words.total(),
                   kinds.total())


def _wrongly_closed(text: str) -> bool:
    """Two brackets or more, a tenth of all, close one of another kind, or none if they are square
    or curly; intervals (0, 1] aside."""
    text = re.sub(r"[\[(][^\[\](){}]*,[^\[\](){}]*[\])]", "", EMOTICON.sub("", text))
    opened, wrong = [], 0
    brackets = re.findall(r"[\[\](){}]", text)
    for c in brackets:
        if c in "([{":
            opened.append(c)
        elif opened and opened[-1] + c in ("()", "[]", "{}"):
            opened.pop()
        else:
            wrong += bool(opened) or c in "]}"
    return wrong >= 2 and 10 * wrong >= len(brackets)


def _unsayable(words: Sequence[str]) -> bool:
    """Two fifths of the words of four letters or more, acronyms aside, have four consonants in a
    row or no vowel; of fewer than four words, all have five different letters and no vowel."""
    bare = [_bare(word) for word in dict.fromkeys(words) if len(word) > 3 and not word.isupper()]
    bare = [word for word in bare if _script(word) in ("LATIN", "CYRILLIC", "GREEK")]
    if len(bare) < 4:
        return bool(words) and len(bare) == len(set(words)) and all(
            len(set(word)) > 4 and not VOWEL.search(word) for word in bare)
    hard = [max(map(len, VOWEL.split(word))) > 3 or not VOWEL.search(word) for word in bare]
    return sum(hard) >= 0.4 * len(bare)


def _bare(word: str) -> str:
    """In lower case and without its accents, a letter that is drawn out (`hmmm`) once."""
    plain = "".join(c for c in unicodedata.normalize("NFD", word.lower()) if c.isalpha())
    return re.sub(r"(.)\1\1+", r"\1", plain) or word


def _turns(kinds: Sequence[str]) -> int:
    return sum(a != b for a, b in zip(kinds, kinds[1:], strict=False))


def _kind(c: str) -> str:
    return "letter" if c.isalpha() else "digit" if c.isdigit() else "sign"


def known_share(words: Sequence[str]) -> float:
    """Share of words that are English, as they stand, with an ending, with two letters swapped or
    one not doubled: 1 minus the OOV rate. The words are those of pyspellchecker that are not rare,
    the course's own and `CHAT`.
    """
    known = [_is_known(word) for word in map(str.lower, words)]
    return sum(known) / len(known) if known else 1.0


@functools.lru_cache(100_000)
def _is_known(word: str) -> bool:
    known, stem = _vocabulary(), ENDING.sub("", word)
    forms = [word, stem, stem + "e"] if len(stem) > 2 else [word]
    for i in range(len(word) - 1):
        forms += [word[:i] + word[i + 1] + word[i] + word[i + 2 :], word[:i] + word[i] + word[i:]]
    return word in CHAT or bool(LEARNED.fullmatch(word)) or any(form in known for form in forms)


@functools.cache
def _sorted_vocabulary() -> list[str]:
    return sorted(_vocabulary())


@functools.cache
def _vocabulary() -> frozenset[str]:
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


def _foreign(text: str) -> bool:
    """Whether the text seems to be in a Latin-written language other than English: accents on two
    letters of a hundred, or a sixth of the words common words of one language, more than there
    are small English words."""
    accents = sum(c > "\x7f" and c.isalpha() for c in text)
    words = Counter(word.lower() for word in LETTERS.findall(text))
    languages: Counter[str] = Counter()
    for word, times in words.items():
        languages.update({language: times for language in _languages().get(word, ())})
    common = max(languages.values(), default=0)
    return accents > 0.02 * len(text) or (
        common >= words.total() / 6 and common > sum(words[word] for word in UNFINISHED))


@functools.cache
def _languages() -> dict[str, list[str]]:
    """Languages and dialects in Latin letters in which a word is common."""
    rows = json.loads((ROOT / "data" / "function_words.json").read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    for language, words in rows.items():
        for word in words.split():
            if len(word) > 1:
                found.setdefault(word, []).append(language)
    return found


def _script(word: str) -> str:
    """LATIN, CYRILLIC, …; the three scripts that Japanese mixes are one."""
    name = unicodedata.name(word[0], "?").split()[0]
    return {"HIRAGANA": "CJK", "KATAKANA": "CJK", "MODIFIER": "LATIN"}.get(name, name)


def is_cut_off(text: str) -> bool:
    """It stops in mid-sentence, in mid-word or with something left open.

    A missing full stop alone is no sign: lists, signatures, addresses and careless writers have
    none. It is one where a writer who ended the sentences or list items before, or began with a
    capital letter, has let the last one grow long: the longer, the fewer sentences were ended.
    """
    text = URL.sub("🔗", EMOTICON.sub("🙂", _plain(text))).rstrip()
    text = ABBREVIATION.sub(lambda m: m[0].replace(".", ""), text)
    line = re.split(r"\n|<br ?/?>", text)[-1]
    if any(text.count(mark) % 2 for mark in ("```", '"""', "'''", "$$")) or any(
            text.count(a) > text.count(b) for a, b in PAIRS):
        return True
    if (_open_tag(text) or _short_row(text) or _bare_item(text) or _bare_heading(text)
            or _short_list(text)):
        return True
    bare = text.rstrip(CLOSERS)
    if len(QUOTE.findall(line)) % 2 and re.search(r"[\s(:]\"\w[^\"]*\Z", line):
        return True  # even behind a full stop
    if not bare or bare[-1] in ".!?。؟।" or SIGNED.search(line):
        return False
    # Any bracket closes any other: intervals may be half open.
    opened, closed = (sum(map(text.count, signs)) for signs in ("([{", ")]}"))
    if opened > closed or len(QUOTE.findall(line)) % 2 or text.rstrip("*_")[-1:] == ":":
        return True
    words = WORD.findall(line)
    if words and re.search(r"[,、\\-]$|\s[=+&/<>|]+$", text):
        return not line.startswith("|")
    if re.search(r"(?:(?:^|[\s(])`|\*\*(?=[^\s*]))[^`*]+\Z", line) and (
            line.count("`") % 2 or line.count("**") % 2):
        return True
    last = SENTENCE_END.split(line)[-1].strip()
    token = last.split()[-1].lstrip("\"'“‘(") if last.split() else ""
    foreign = _foreign(text)
    unfinished = UNFINISHED_ABROAD if foreign else UNFINISHED
    named = " ".join(last.split()[-2:]).istitle() and " " in last  # The Who
    if not named and token.lower() in unfinished and token not in ("A", "I") and not (
            ASKS.match(last) or (SHORT.fullmatch(last) and not last.isupper())
            or STRANDED.search(last)):
        return True
    if PRONOUN.fullmatch(token) or (token.endswith(("n't", "'s")) and SENTENCE_END.search(text)):
        return True
    if LONE_LETTER.search(last) or SUBJECT.search(last) or _begins_a_word(token, line):
        return True
    new = token.islower() and token not in _vocabulary() and not foreign  # half a word, perhaps
    sentence = last if re.search(r"\b[A-Da-d]\)\s", line) else FULL_STOP.split(line)[-1]
    counts = token.isalpha() or (token.isalnum() and "\n" in text and bool(ITEM.match(line)))
    return counts and len(WORD.findall(sentence)) + 3 * new >= _long(text, line, foreign)


def _long(text: str, line: str, foreign: bool) -> float:
    """With how many words a sentence must have ended, to judge by those before it."""
    *above, _ = text.split("\n")
    if item := ITEM.match(line) or STEP.match(line):
        others = [other for other in above if ITEM.match(other) or STEP.match(other)]
        ended = sum(other.rstrip()[-1:] in tuple(".!?") for other in others)
        if not ended and not FULL_STOP.search(line[item.end():]):
            return math.inf
        if ended and ended == len(others):
            return 3 if ended == 1 else 1
    *before, last = FULL_STOP.split(line)
    if len(before) > 1 and not foreign and len(last.split()) < 4:
        name = last.istitle() and " " in last
        return math.inf if name or FAREWELL.match(last) else 1
    first = last.lstrip("\"'“‘(*_ ")[:1]
    names = [word for word in WORD.findall(last) if len(word) > 3]
    if not first.isupper() or 4 * sum(map(str.istitle, names)) > 3 * len(names):
        return math.inf  # written in haste, or a heading
    if last.count(",") > max(2, len(last.split()) / 4):
        return math.inf  # a list
    sizes = [len(sentence.split()) for sentence in FULL_STOP.split(text)[:-1]]
    whole = sum(size >= 3 for size in sizes)
    if whole > 1 and not foreign:
        whole += sum(size >= 8 for size in sizes)  # who writes long ones takes care
    if not whole:
        return 9 if foreign else 13
    return (7, 7, 6, 4, 3)[min(whole, 4)] if before else 7


def _begins_a_word(word: str, line: str) -> bool:
    """An unknown word that some known word goes on from: `subst`; with a capital letter (it may be
    a name) only alone in an item or cell."""
    low, known = word.lower(), _sorted_vocabulary()
    alone = len(word) > 3 and re.search(r"(?:^\W*[-*+•|]|\d[.)]|[|*])\W*\w+\Z", line)
    if not word.isalpha() or len(word) < 2 or not (word.islower() or alone) or low in CHAT:
        return False
    place = bisect.bisect_left(known, low)
    return low not in known[place : place + 1] and known[place : place + 1] != [] and (
        known[place].startswith(low))


def _open_tag(text: str) -> bool:
    """In a text with closing tags, the last tag is an opening one that wants to be closed."""
    tags = re.findall(r"<(/?)(\w+)[^<>]*>", text)
    return any(close for close, _ in tags) and not tags[-1][0] and (
        tags[-1][1].lower() not in ("br", "hr", "img", "input", "meta", "link"))


def _short_row(text: str) -> bool:
    """The last row of a Markdown table has fewer bars than the one above."""
    above, _, last = text.rpartition("\n")
    return last.startswith("|") and last.count("|") < above.rpartition("\n")[2].count("|")


def _bare_heading(text: str) -> bool:
    """The last line is a heading where one before has text under it or behind it."""
    *above, last = ["", *(line for line in text.split("\n") if line.strip())]
    heads = [bool(HEADING.fullmatch(line)) for line in above]
    return bool(HEADING.fullmatch(last)) and (
        any(head and not following for head, following in itertools.pairwise(heads))
        or ("**" in last and any(re.match(r"\s*\*\*[^*]+\*\*:? \w", line) for line in above)))


def _short_list(text: str) -> bool:
    """Fewer items than were announced: `Here are five tips:`, and then three."""
    announced = list(ANNOUNCED.finditer(text))
    items = [line for line in text[announced[-1].end() :].split("\n")
             if ITEM.match(line)] if announced else []
    return bool(items) and len(items) < _number(announced[-1][1]) and (
        text.rsplit("\n", 1)[-1] == items[-1])


def _number(word: str) -> int:
    return int(word) if word.isdigit() else NUMERALS.index(word.lower()) + 2


def _bare_item(text: str) -> bool:
    """The last line is the mark of a next item of a list, with nothing behind it."""
    *above, last = text.split("\n")
    mark = ITEM.fullmatch(last)
    starts = [(line, ITEM.match(line)) for line in above] if mark else []
    return bool(starts) and above[-1].endswith(":") or any(
        m and m[1] == mark[1] and line[m.end():].strip() for line, m in starts)


def is_echo(prompt: str, text: str) -> bool:
    """The answer opens by saying the prompt, or its beginning, once more."""
    return echoed_share(prompt, text) >= 0.75


def echoed_share(prompt: str, text: str) -> float:
    """Share of the words of the last question, or the whole prompt, that the answer opens with.

    In the same order; 0 unless its first two are among them, side by side and where the answer
    begins: a correction, a translation or an answer in the question's own words skips or turns
    them. "I" and "you" count as one word, and what the answer is too short to hold is left out.
    """
    turns = [turn for turn in ROLE.sub("\0", _plain(prompt)).split("\0") if turn.strip()]
    said = _words(ROLE.sub("", _plain(text)))
    return max((_opens(_words(asked), said, bool(LEAD.match(text)))
                for asked in (" ".join(turns), *turns[-1:])), default=0.0)


def _words(text: str) -> list[str]:
    return [PERSONS.get(word.lower(), word.lower())
            for word in WORD.findall(re.sub(r"'s\b", " is", text))]


def _opens(asked: list[str], said: list[str], lead: bool) -> float:
    if min(len(asked), len(said)) < 3:
        return float(len("".join(asked)) > 7 and asked == said)
    asked = asked[: min(len(said), 100)]
    said = said[: len(asked) + 4]
    blocks = difflib.SequenceMatcher(None, asked, said, autojunk=False).get_matching_blocks()
    first = blocks[0]
    opens = first.a == 0 and first.b <= (4 if lead else 1) and first.size >= 2
    return sum(block.size for block in blocks) / len(asked) if opens else 0.0
