"""A text that stops before its end, as the text itself tells it."""

from __future__ import annotations

import bisect
import itertools
import math
import re

from helpers.quality.words import (
    CHAT,
    EMOTICON,
    UNFINISHED,
    URL,
    WORD,
    plain,
    seems_foreign,
    sorted_vocabulary,
    vocabulary,
)

CLOSERS = "\"'”’»)]}*_`~"  # what may stand after the sign that ends a sentence
ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|vs|cf|viz|Mr|Mrs|Ms|Dr|Prof|Fig|approx)\.|"
                          r"\b(?:[A-Z]|St)\.(?= [A-Z])")
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
    r"(?:^|\b(?:here are|here is|there are|list of|the|these|following|top|name|give you|suggest) "
    rf"(?:\w+ )?)({'|'.join(NUMERALS)}|[2-9]|1\d|20) (?!minutes|hours|days|weeks|times)"
    r"[^.:;\n]*:\**\s*\n", re.I | re.M)
ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6}
COUNTED = re.compile(  # Here are three reasons …; The first is
    rf"\b(?:here|there) are ({'|'.join(NUMERALS[:5])}) (?:\w+ )?\w+s\b", re.I)
HALF_URL = re.compile(r"(?:https?:/{0,2}|\bwww\.|://[\w-]+\.)\Z")
# An operator, an arrow, a currency, a dash: something must follow. An equation ends in none.
OPEN_SIGN = re.compile(r"(?:\s[→⇒←×÷·−—$€£]|\d/|\w —|\d ?[×÷=])\Z")
HALF_WORD = re.compile(r"\b(?:they|we|you|I|he|she|it|that|don|didn|isn|doesn|wasn)'\Z")
CODE_LINE = re.compile(r"^\s*(?:def|import|const|let|var|function|class|return|for|if|while)\b"
                       r".*[({;:]|=>|[{};]$", re.M)
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
VOID = ("br", "hr", "img", "input", "meta", "link", "li", "p", "td", "tr", "source")
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


def is_cut_off(text: str) -> bool:
    """It stops in mid-sentence, in mid-word or with something left open.

    A missing full stop alone is no sign: lists, signatures, addresses and careless writers have
    none. It is one where a writer who ended the sentences or list items before, or began with a
    capital letter, has let the last one grow long: the longer, the fewer sentences were ended.
    """
    text = plain(text).rstrip()
    if HALF_URL.search(text):
        return True
    text = URL.sub("🔗", EMOTICON.sub("🙂", text)).rstrip()
    text = ABBREVIATION.sub(lambda m: m[0].replace(".", ""), text)
    line = re.split(r"\n|<br ?/?>", text)[-1]
    if any(text.count(mark) % 2 for mark in ("```", '"""', "'''", "$$")) or any(
            text.count(a) > text.count(b) for a, b in PAIRS):
        return True
    if (_open_tag(text) or _short_row(text) or _bare_item(text) or _bare_heading(text)
            or _short_list(text) or _short_record(text) or _short_count(text)
            or _half_number(line)):
        return True
    bare = text.rstrip(CLOSERS)
    if len(QUOTE.findall(line)) % 2 and re.search(r"[\s(:]\"\w[^\"]*\Z", line):
        return True  # even behind a full stop
    # Any bracket closes any other: intervals may be half open.
    opened, closed = (sum(map(text.count, signs)) for signs in ("([{", ")]}"))
    if opened > closed + 1 and CODE_LINE.search(text):
        return True
    if not bare or bare[-1] in ".!?。؟।" or SIGNED.search(line):
        return False
    if opened > closed or len(QUOTE.findall(line)) % 2 or text.rstrip("*_")[-1:] == ":":
        return True
    words = WORD.findall(line)
    if words and re.search(r"[,、\\-]$|\s[=+&/<>|]+$", text):
        return not line.startswith("|")
    if OPEN_SIGN.search(line) or (
            len(words) > 5 and line.endswith(";") and not re.search(r"[(){}=]", line)):
        return True
    if re.search(r"(?:(?:^|[\s(])`|\*\*(?=[^\s*]))[^`*]+\Z", line) and (
            line.count("`") % 2 or line.count("**") % 2):
        return True
    last = SENTENCE_END.split(line)[-1].strip()
    token = last.split()[-1].lstrip("\"'“‘(") if last.split() else ""
    foreign = seems_foreign(text)
    unfinished = UNFINISHED_ABROAD if foreign else UNFINISHED
    named = " ".join(last.split()[-2:]).istitle() and " " in last  # The Who
    asks = ASKS.match(last) and not last.split()[0].isupper()
    if not named and token.lower() in unfinished and token not in ("A", "I") and not (
            asks or (SHORT.fullmatch(last) and not last.isupper()) or STRANDED.search(last)):
        return True
    if PRONOUN.fullmatch(token) or HALF_WORD.search(line) or (
            token.endswith(("n't", "'s")) and SENTENCE_END.search(text)):
        return True
    if LONE_LETTER.search(last) or SUBJECT.search(last) or _begins_a_word(token, line):
        return True
    new = token.islower() and token not in vocabulary() and not foreign  # half a word, perhaps
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
    low, known = word.lower(), sorted_vocabulary()
    alone = len(word) > 3 and re.search(r"(?:^\W*[-*+•|]|\d[.)]|[|*])\W*\w+\Z", line)
    if not word.isalpha() or len(word) < 2 or not (word.islower() or alone) or low in CHAT:
        return False
    place = bisect.bisect_left(known, low)
    return low not in known[place : place + 1] and known[place : place + 1] != [] and (
        known[place].startswith(low))


def _open_tag(text: str) -> bool:
    """In a text with closing tags, the first or the last tag is one that nothing closes."""
    tags = re.findall(r"<(/?)(\w+)[^<>]*(?<!/)>", text)
    if not any(close for close, _ in tags):
        return False
    open_, name = tags[0]
    lacks = not open_ and text.startswith("<") and name not in VOID and ("/", name) not in tags
    return lacks or (not tags[-1][0] and tags[-1][1].lower() not in VOID)


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


def _short_count(text: str) -> bool:
    """Told in prose, fewer than were announced: three reasons, the first, the second, no more."""
    announced = COUNTED.search(text)
    if not announced or re.search(r"\b(?:last|final|finally|lastly|other|another)\b", text, re.I):
        return False
    told = [ORDINALS[word] for word in
            re.findall(rf"\bthe ({'|'.join(ORDINALS)})\b", text[announced.end() :].lower())]
    return bool(told) and told[0] == 1 and max(told) < _number(announced[1])


def _short_record(text: str) -> bool:
    """The last line has fewer commas than each before, which have as many, or a key and no value
    where those before have both."""
    *above, last = text.split("\n")
    commas = [line.count(",") for line in above[-3:]]
    if len(commas) == 3 and len(set(commas)) == 1 and last.count(",") < commas[0] > 1:
        return not re.search(r", |[.!?]\s", above[-1]) and bool(last.strip())
    pairs = [re.match(r"\s*\S.{0,30}? [–—-] \S", line) for line in above]
    return re.search(r"\w [–—-]\Z", last) is not None and sum(map(bool, pairs)) > 1


def _half_number(line: str) -> bool:
    """A decimal without its decimals, behind an operator; the number of a move that is not made;
    an item that is no more than a number where it counts something."""
    if re.search(r"[×*+/−] ?\d+\.\Z", line) and re.search(r"\d\.\d", line):
        return True
    move = re.search(r"(?<!\d)(\d+)\.\Z", line)
    if move and re.search(rf"(?<!\d){int(move[1]) - 1}\. ?\S+", line) and int(move[1]) > 1:
        return True
    return re.fullmatch(r"\s*[-*•] (?:\d+|\d*[½¼¾⅓])/?", line) is not None


def _number(word: str) -> int:
    return int(word) if word.isdigit() else NUMERALS.index(word.lower()) + 2


def _bare_item(text: str) -> bool:
    """The last line is the mark of a next item of a list, with nothing behind it."""
    *above, last = ["", *(line for line in text.split("\n") if line.strip())]
    mark = ITEM.fullmatch(last)
    starts = [(line, ITEM.match(line)) for line in above] if mark else []
    return bool(starts) and above[-1].endswith(":") or any(
        m and m[1] == mark[1] and line[m.end():].strip() for line, m in starts)
