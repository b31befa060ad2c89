"""How a text goes wrong that a language model wrote: loops, gibberish, nothing, half, an echo.

Rules on the surface of a text, so that a rate means the same for every model and nothing has to be
loaded. They see what is broken, not what is bad: correct words without sense pass here (a language
model's perplexity would tell), and what is wrong or rude passes too. Measure raw answers, before
anything is trimmed, filtered or asked again. The rules were made with
`tests/quality/examples.jsonl` at hand; how they do on other texts stands in
`tests/test_quality.py`.
"""

from __future__ import annotations

import difflib
import functools
import gzip
import json
import re
import unicodedata
import zlib
from collections.abc import Iterable, Sequence

from helpers.errors import UserError
from helpers.paths import ROOT

__all__ = ["FAULTS", "compression_ratio", "echoed_share", "faults", "is_cut_off", "is_echo",
           "is_empty", "is_gibberish", "is_repetitive", "known_share", "rates", "with_fallback"]

FAULTS = ("empty", "repetition", "gibberish", "cut_off", "echo")

WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
LETTERS = re.compile(r"[^\W\d_]+")
# What carries no content: special tokens with the role they open, and tags with nothing in them.
SPECIAL = re.compile(r"<\|(?:im_start|start_header_id)\|>\s*\w*|<\|[^|<>]*\|>|"
                     r"</?(?:s|pad|unk|bos|eos)>|\[(?:PAD|UNK|CLS|SEP|MASK|EOS|BOS)\]|"
                     r"<(\w+)>\s*</\1>|```\w*\s*```", re.I)
LABEL = re.compile(r"[\W_]*\w+ ?:\W*")  # a role or heading with nothing after it
# The number of an item that is not there, where more follow; a line of one sign of Markdown.
BLANKS = re.compile(r"^\s*(?:\d+|[a-z])[.)]\s*\n(?:\s*(?:\d+|[a-z])[.)]\s*(?:\n|\Z))+|"
                    r"^\s*([-*#_=~>+•`|])\1*\s*$", re.M | re.I)
MARKS = ".,;:!?…'\"“”„‘’«»*|-–—"  # of prose and tables: alone they say nothing
NUMBERS = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s+|\b\d+[.:]\s", re.M)  # of items and steps
CLOSERS = "\"'”’»)]}*_`~"  # what may stand after the sign that ends a sentence
# What no reader is meant to see: tokens undecoded, escapes unescaped, bytes that were no text.
DEBRIS = re.compile(r"[ĠĊ▁\ufffd]|##\w*|</w>|\[unused\d+\]|&?\b(?:amp|quot|nbsp|lt|gt);|"
                    r"\bu00[0-9a-f]{2}|%[0-9A-F]{2}|[ÃÂâï][\x80-¿€‚ƒ„…†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œ]")
# Closed-class words: by some a language is told, after the others a sentence cannot end.
FUNCTION_WORDS = {
    "de": "der die das und ist nicht ein eine zu den dem mit von auf für sie ich es im sich",
    "fr": "le la les et est un une des du que pas pour dans en je vous il à au sur ne",
    "es": "el la los las y es un una de que no en por con para se su lo del al",
    "it": "il la le e è un una di che non in per con si del della i gli al sono",
    "pt": "o a os as e é um uma de que não em para com por do da se no na",
    "nl": "de het een en is van niet dat in op te voor met ik je zijn aan er om we",
    "sv": "och är en ett att det som på inte för med av den jag till i har de om var",
    "pl": "i w nie na się z do to że jest o jak co po od za dla są ma by",
    "la": "et in est non ad ut cum sed qui quae quod ex de si aut per a ab nec sunt",
}
SENTENCE_END = re.compile(r"[.!?:;][\"'”’)]*\s+|\b[A-D]\)\s+")
ASKS = re.compile(r"\s*(?:wh(?:o|at|ich|ere|en)|how)\b", re.I)  # may end in a preposition
ROLE = re.compile(r"^\s*(?:Human|Assistant|User|System|Bot|AI)\s*:", re.I | re.M)
PERSONS = {"i": "you", "me": "you", "my": "your", "mine": "yours", "am": "are", "i'm": "you're",
           "we": "you", "us": "you", "our": "your"}
UNFINISHED = frozenset(
    "a an the this that these those my your his her its our their every each some any no and or "
    "but nor because although while if unless until since when where who whose which than as of "
    "to in on at by for from with without into onto over under between among during before after "
    "about is are was were be been am has have had do does did will would can could may might "
    "shall should must not very we he she they".split())


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
    rest = BLANKS.sub("", SPECIAL.sub("", text)).strip()
    return bool(LABEL.fullmatch(rest)) or all(
        c in MARKS or c.isspace() or unicodedata.category(c) in ("Cf", "Cc") for c in rest)


def compression_ratio(text: str) -> float:
    """Bytes of a text over its bytes after DEFLATE: about 1 to 2 for prose of an answer's length.

    Whisper gives an output up as a loop above 2.4 (Radford et al. 2022, arXiv:2212.04356).
    """
    data = text.encode("utf-8", "replace")
    return len(data) / len(zlib.compress(data, 9, -zlib.MAX_WBITS)) if data else 1.0


def is_repetitive(text: str) -> bool:
    """Caught in a loop: it compresses well, its word pairs were said before, no word is new.

    None of them is enough: a table compresses well, a rhyme says pairs again, a long text has few
    new words. Long texts compress better than short ones, so pieces of 600 characters are asked:
    most of them, or the last, since a loop that has begun rarely ends.
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
    return ratio > 4 or (ratio > 2 and again > 0.33 and new < 0.125)


def is_gibberish(text: str) -> bool:
    """No language: signs without words, debris, scripts or signs in a jumble, unknown words."""
    solid = [c for c in text if not c.isspace()]
    n = max(1, len(solid))
    letters = sum(c.isalpha() for c in solid) / n
    if n >= 16 and letters < 0.1 and not any(c.isdigit() for c in solid):
        return not any(unicodedata.category(c) == "So" for c in solid)
    found = DEBRIS.findall(text)
    if len("".join(found)) > 0.05 * n and len(found) >= 3:
        return True
    if n >= 16 and sum("\x80" <= c <= "\xff" for c in solid) > 0.3 * n:
        return True  # Latin-1 above ASCII: no language writes a third of its letters with it
    if n >= 16 and len(text.split()) <= n / 16 and _turns([_kind(c) for c in solid]) > n / 2:
        return True
    words = LETTERS.findall(text)
    scripts = [_script(word) for word in words if len(word) > 1]
    if len(scripts) >= 6 and _turns(scripts) > len(scripts) / 3:
        return True
    lower = [word for word in words if not word.istitle()]  # a name may well be unknown
    few = known_share(lower) <= (0.25 if len(lower) >= 10 else 0)
    longer = [word for word in lower if len(word) > 2]  # chance makes short words out of letters
    unknown = (len(lower) >= 6 and few) or (len(longer) >= 8 and known_share(longer) <= 0.25)
    return letters >= 0.8 and set(scripts) == {"LATIN"} and unknown and not _foreign(text)


def _turns(kinds: Sequence[str]) -> int:
    return sum(a != b for a, b in zip(kinds, kinds[1:], strict=False))


def _kind(c: str) -> str:
    return "letter" if c.isalpha() else "digit" if c.isdigit() else "sign"


def known_share(words: Sequence[str]) -> float:
    """Share of words that stand in the course's own English texts: 1 minus the OOV rate.

    Those are a few thousand words; ordinary English finds more than half of its words there.
    """
    return sum(word.lower() in _vocabulary() for word in words) / len(words) if words else 1.0


@functools.cache
def _vocabulary() -> frozenset[str]:
    def lines() -> Iterable[str]:
        for path in sorted((ROOT / "data" / "handwritten").glob("*.jsonl")):
            yield from path.read_text(encoding="utf-8").splitlines()
        with gzip.open(ROOT / "data/demonstrations/train.jsonl.gz", "rt", encoding="utf-8") as f:
            yield from f

    return frozenset(word.lower() for line in lines() for value in json.loads(line).values()
                     if isinstance(value, str) for word in LETTERS.findall(value))


def _foreign(text: str) -> bool:
    """Whether the text seems to be in a Latin-written language other than English: accents on two
    letters of a hundred, or a fifth of the words function words of one language."""
    accents = sum(c > "\x7f" and c.isalpha() for c in text)
    words = [word.lower() for word in LETTERS.findall(text)]
    return accents > 0.02 * len(text) or any(
        sum(word in own.split() for word in words) >= len(words) / 5
        for own in FUNCTION_WORDS.values())


def _script(word: str) -> str:
    """LATIN, CYRILLIC, …; the three scripts that Japanese mixes are one."""
    name = unicodedata.name(word[0], "?").split()[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA") else name


def is_cut_off(text: str) -> bool:
    """It stops in mid-sentence, in mid-word or with something left open.

    A missing full stop alone is no sign: lists, signatures, addresses and careless writers have
    none. It is one where a writer who ended the sentences before, or began with a capital letter,
    has let the last one grow long.
    """
    text = text.rstrip()
    line = re.split(r"\n|<br ?/?>", text)[-1]
    if text.count("```") % 2 or _open_tag(text) or _short_row(text):
        return True
    bare = text.rstrip(CLOSERS)
    if not bare or bare[-1] in ".!?…。！？؟।":
        return False
    if any(text.count(a) > text.count(b) for a, b in ("()", "[]", "{}")):
        return True
    words = WORD.findall(line)
    if words and (text[-1] in ",=+&/\\-" or text.endswith((" <", " >", " |"))):
        return not line.startswith("|")
    last = SENTENCE_END.split(line)[-1]
    token = last.split()[-1].lstrip("\"'“‘(") if last.split() else ""
    if token.lower() in UNFINISHED and token not in ("A", "I") and not ASKS.match(last):
        return True
    if _begins_a_word(token):
        return True
    long = 7 if SENTENCE_END.search(text) else 12 if last.lstrip()[:1].isupper() else len(text)
    return token.isalpha() and len(WORD.findall(last)) >= long


def _begins_a_word(word: str) -> bool:
    """An unknown word in lower case that some known word goes on from: `inter`, `subst`."""
    known = _vocabulary()
    return (len(word) > 1 and word.isalpha() and word.islower() and word not in known
            and any(other.startswith(word) for other in known))


def _open_tag(text: str) -> bool:
    """In a text with closing tags, the last tag is an opening one that wants to be closed."""
    tags = re.findall(r"<(/?)(\w+)[^<>]*>", text)
    return any(close for close, _ in tags) and not tags[-1][0] and (
        tags[-1][1].lower() not in ("br", "hr", "img", "input", "meta", "link"))


def _short_row(text: str) -> bool:
    """The last row of a Markdown table has fewer bars than the one above."""
    above, _, last = text.rpartition("\n")
    return last.startswith("|") and last.count("|") < above.rpartition("\n")[2].count("|")


def is_echo(prompt: str, text: str) -> bool:
    """The answer opens by saying the prompt, or its beginning, once more."""
    return echoed_share(prompt, text) >= 0.75


def echoed_share(prompt: str, text: str) -> float:
    """Share of the last question's words that the answer's opening has in the same order.

    0 unless its first word is among them: a correction, a translation or an answer in
    the question's own words skips it. "I" and "you" count as one word, and what the answer is too
    short to hold is left out.
    """
    turns = [turn for turn in ROLE.split(prompt) if turn.strip()]
    asked, said = ([PERSONS.get(word.lower(), word.lower()) for word in WORD.findall(
        part.replace("'s ", " is "))] for part in (turns[-1] if turns else "", ROLE.sub("", text)))
    if min(len(asked), len(said)) < 3:
        return float(bool(asked) and asked == said)
    asked = asked[: min(len(said), 100)]
    said = said[: len(asked) + 4]
    blocks = difflib.SequenceMatcher(None, asked, said, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks) / len(asked) if blocks[0].a == 0 else 0.0
