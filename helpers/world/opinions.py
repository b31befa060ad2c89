"""The opinion words that the judge of reviews knows, read from `data/world/opinions.txt`."""

from __future__ import annotations

from functools import lru_cache

from helpers.paths import DATA

STRENGTHS = {"strong": 1.0, "plain": 0.7, "mild": 0.4}


@lru_cache(maxsize=1)
def _sections() -> dict[str, list[str]]:
    """Lines of the file by section; comments and empty lines left out."""
    sections: dict[str, list[str]] = {}
    section = ""
    text = (DATA / "world" / "opinions.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("# "):
            section = line[2:]
            sections[section] = []
        elif line and not line.startswith("//"):
            sections[section].append(line)
    return sections


def _words(section: str) -> set[str]:
    return {word for line in _sections()[section] for word in line.split()}


ADVERBS_UP, ADVERBS_DOWN = _words("adverbs up"), _words("adverbs down")
OTHER_THINGS, OTHER_PEOPLE = _words("other things"), _words("other people")
FUNCTION_WORDS = _words("function words")
# Word → how many words further on it may still turn an opinion.
NEGATORS = {word: int(reach) for word, reach in map(str.split, _sections()["negators"])}
IRREGULAR = {verb: tuple(forms) for verb, *forms in map(str.split, _sections()["irregular verbs"])}
DOUBLED = _words("doubling verbs")


def inflect(verb: str) -> set[str]:
    """All forms of an English verb: drag → drag, drags, dragged, dragging."""
    forms = {verb, *IRREGULAR.get(verb, ())}
    if verb.endswith(("s", "x", "z", "ch", "sh", "o")):
        forms.add(verb + "es")
    elif verb.endswith("y") and verb[-2] not in "aeiou":
        forms |= {verb[:-1] + "ies", verb[:-1] + "ied"}
    else:
        forms.add(verb + "s")
    if verb in DOUBLED:
        forms |= {verb + verb[-1] + "ed", verb + verb[-1] + "ing"}
    elif verb.endswith("ie"):
        forms |= {verb + "d", verb[:-2] + "ying"}
    elif verb.endswith("e") and not verb.endswith("ee"):
        forms |= {verb + "d", verb[:-1] + "ing"}
    else:
        forms |= {verb + "ing"}
        if not (verb.endswith("y") and verb[-2] not in "aeiou"):
            forms.add(verb + "ed")
    return forms


def build_lexicon() -> dict[tuple[str, str], float]:
    """(phrase, lemma) → signed strength, 0 for phrases that only look like opinions."""
    lexicon: dict[str, tuple[str, float]] = {}
    for kind in ("words", "verbs", "phrases"):
        for sign, side in ((1.0, "positive"), (-1.0, "negative")):
            for name, strength in STRENGTHS.items():
                for line in _sections().get(f"{kind} {side} {name}", ()):
                    for phrase, lemma in _spelt_out(kind, line):
                        lexicon.setdefault(phrase, (lemma, sign * strength))
    for line in _sections()["neutral phrases"]:
        lexicon[line] = (line, 0.0)
    return {(phrase, lemma): value for phrase, (lemma, value) in lexicon.items()}


def _spelt_out(kind: str, line: str) -> list[tuple[str, str]]:
    """The phrases that a line stands for, each with its lemma."""
    if kind == "words":
        return [(word, word) for word in line.split()]
    if kind == "phrases":
        return [(line, line)]
    verb, _, rest = line.partition(" ")
    return [(f"{form} {rest}".strip(), line) for form in inflect(verb)]
