"""How a text goes wrong that a language model wrote: loops, gibberish, nothing, half, an echo.

They look at the surface of a text, so that a rate means the same for every model and no model has
to be loaded. They see what is broken, not what is bad: what is wrong, rude or nonsense in good
grammar passes. Loops, empty and cut-off texts and echoes are found by rules, gibberish by a forest
that was fitted to labelled texts (`helpers.quality.gibberish`). Measure raw answers, before
anything is trimmed, filtered or asked again. How often they are right on texts by authors who knew
no rule stands in `tests/test_quality.py`.
"""

from __future__ import annotations

import difflib
import html
import re
import unicodedata
from collections.abc import Sequence

from helpers.errors import UserError
from helpers.quality.cut_off import is_cut_off
from helpers.quality.gibberish import is_gibberish
from helpers.quality.loops import compression_ratio, is_repetitive
from helpers.quality.words import WORD, known_share, plain, word_order

__all__ = ["FAULTS", "compression_ratio", "echoed_share", "faults", "is_cut_off", "is_echo",
           "is_empty", "is_gibberish", "is_repetitive", "known_share", "rates", "with_fallback",
           "word_order"]

FAULTS = ("empty", "repetition", "gibberish", "cut_off", "echo")

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
MARKS = ".,;:!?…'\"“”„‘’«»*|-–—。、"  # of prose and tables: alone they say nothing
ROLE = re.compile(r"^[\s#*]*(?:Human|Assistant|User|System|Bot|AI|Instruction|Response)[\s*]*:|"
                  r"\A\s*(?:Question|Q|A)\s*:|^(?:Answer|A)\s*:\s*\Z|"
                  + SPECIAL.pattern, re.I | re.M)
LEAD = re.compile(r"\W*(?:\w+\W+){0,3}\w+:\s")  # The question was: …
PERSONS = {"i": "you", "me": "you", "my": "your", "mine": "yours", "am": "are", "i'm": "you're",
           "we": "you", "us": "you", "our": "your"}


def faults(text: str, prompt: str | None = None, ended: bool | None = None) -> list[str]:
    """Which of `FAULTS` a text has; what is caught in a loop is not called gibberish too.

    Args:
        text: an answer as it was sampled, special tokens left out.
        prompt: what it answers; without it no echo is looked for.
        ended: whether the model ended it by its end token; without it the text itself must tell
            whether it was cut off.
    """
    if is_empty(text):
        return ["empty"]
    found = ["repetition"] if is_repetitive(text) else ["gibberish"] if is_gibberish(text) else []
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


def is_echo(prompt: str, text: str) -> bool:
    """The answer opens by saying the prompt, or its beginning, once more."""
    return echoed_share(prompt, text) >= 0.75


def echoed_share(prompt: str, text: str) -> float:
    """Share of the words of the last question, or the whole prompt, that the answer opens with.

    In the same order; 0 unless its first two are among them, side by side and where the answer
    begins: a correction, a translation or an answer in the question's own words skips or turns
    them. "I" and "you" count as one word, and what the answer is too short to hold is left out.
    """
    turns = [turn for turn in ROLE.sub("\0", plain(prompt)).split("\0") if turn.strip()]
    said = _words(ROLE.sub("", plain(text)))
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
