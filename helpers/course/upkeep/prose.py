"""What the linter asks of the words: headings in order, links and references that lead somewhere,
figures described for those who do not see them, and no result typed by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

NOT_PROSE = (  # what is no sentence, and numbers that are no result
    r"```.*?```", r"\$\$.*?\$\$", r"\$[^$\n]*\$", r"`[^`]*`", r"\]\([^)]*\)", r"https?://\S+",
    r"arXiv[: ]?\S+", r"<[^>]*>", r"^#+ [^\n]*$",
    r"[Ss]ections? \d+(\.\d+)?((,| and| to) \d+(\.\d+)?)*",
    r"\*\*[^*]*\d\d\.\d[^*]*\*\*", r"\b0\d\.\d\b",  # an exercise's number
    r"\b\d{4}\.\d{5}\b",  # a paper's
    r"\d+ % (?:bootstrap )?interval|(?:middle|interval at) \d+ %",
)
TYPED = re.compile(
    r"(?<![\w.])(?:\d+\.\d+|\.\d+"
    r"|\d+(?:[.,]\d+)?\s?(?:%|per cent\b|percent(?:age points)?\b|nats?\b))")
ALLOWED = "typed"  # in a cell's metadata: why its numbers are no results of a run


def heading_problems(text: str, numbered: bool = True) -> list[str]:
    """Levels that are skipped, no title or several, and, if `numbered`, sections out of order."""
    levels, numbers, problems = [], [], []
    for marks, words in headings(text):
        if levels and len(marks) > levels[-1] + 1:
            problems.append(f"heading {words!r} skips a level")
        levels.append(len(marks))
        number = re.match(r"(\d+)(?: ·| |\.)", words) if len(marks) == 2 else None
        if number:
            numbers.append(int(number[1]))
    if levels.count(1) != 1:
        problems.append(f"{levels.count(1)} headings of the first level; there must be one")
    if numbered and numbers != list(range(1, len(numbers) + 1)):
        problems.append(f"sections are numbered {', '.join(map(str, numbers))}")
    return problems


def headings(text: str) -> list[tuple[str, str]]:
    """Marks and words of each heading, fenced blocks left out."""
    return re.findall(r"^(#+) (.*?)\s*$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)


def anchors(text: str) -> set[str]:
    """The names by which GitHub links to the headings of a text."""
    found = set()
    for _, words in headings(text):
        plain = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        found.add(plain)
    return found


def link_problems(text: str, folder: Path, root: Path) -> list[str]:
    """Links of a text in `folder` that lead to no file, no heading or out of the course.

    Addresses of the web are held against their form alone, since nothing is fetched here.
    """
    problems = []
    plain = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", plain):
        if re.match(r"[a-z]+:", target):
            if not re.match(r"(https?://[\w.-]+\.\w+(/\S*)?|mailto:\S+@\S+)$", target):
                problems.append(f"the link {target} is no address")
            continue
        place, _, anchor = target.partition("#")
        path = (folder / unquote(place)).resolve() if place else None
        if path is not None and (not path.exists() or not path.is_relative_to(root)):
            problems.append(f"the link {target} leads to no file of the course")
        elif anchor:
            there = text if path is None else path.read_text(encoding="utf-8")
            if anchor not in anchors(there):
                problems.append(f"the link {target} leads to no heading")
    return problems


def reference_problems(text: str, own: set[int], sections: Mapping[str, set[int]]) -> list[str]:
    """References to notebooks and sections that are not there.

    own: the numbers of this text's sections; sections: those of every notebook, by its number. A
    section of a paper ("et al.") or with a point in its number is not the course's.
    """
    problems = []
    plain = " ".join(re.sub(r"^```.*?^```", "", text, flags=re.M | re.S).split())
    for number in re.findall(r"\b[Nn]otebooks? (\d\d)\b", plain):
        if number not in sections:
            problems.append(f"there is no notebook {number}")
    pattern = (r"[Nn]otebook (\d\d),? \(?[Ss]ections? (\d+)(?![\d.]*\d)"
               r"|\b[Ss]ections? (\d+)(?!\.\d)(?: of notebook (\d\d))?")
    for sentence in re.split(r"(?<=[.!?;])(?<!al\.)\s", plain):
        if re.search(r"et al\.|\barXiv", sentence):
            continue
        for first, one, other, second in re.findall(pattern, sentence):
            notebook, section = first or second, int(one or other)
            known = sections.get(notebook, set()) if notebook else own
            if section not in known and (notebook or own):
                where = f"notebook {notebook}" if notebook else "this text"
                problems.append(f"{where} has no section {section}")
    return problems


def section_numbers(text: str) -> set[int]:
    """The numbers of a text's numbered sections."""
    found = (re.match(r"(\d+)(?: ·| |\.)", words) for marks, words in headings(text)
             if len(marks) == 2)
    return {int(number[1]) for number in found if number}


def typed_numbers(text: str) -> list[str]:
    """Shares, decimals and nats in the sentences of a text, where a cell should print them."""
    for pattern in NOT_PROSE:
        text = re.sub(pattern, " ", text, flags=re.S | re.M)
    return [match[0] for match in TYPED.finditer(text)]


def figure_problems(cell: Mapping[str, Any]) -> list[str]:
    """A figure without words: neither an `alt` in its metadata nor a text of its own."""
    bare = [output for output in cell["outputs"] if "image/png" in output.get("data", {})
            and not described(output)]
    return ["a figure has no alternative text; describe it in the cell's metadata, under alt"
            ] if bare else []


def described(output: Mapping[str, Any]) -> bool:
    """Whether a picture has words beside it that are more than its size."""
    kind = output.get("metadata", {}).get("image/png", {})
    text = "".join(output["data"].get("text/plain", ""))
    alt = kind.get("alt", "") if isinstance(kind, Mapping) else ""
    return bool(alt.strip()) or not re.match(r"<Figure|<IPython|\s*$", text)


def with_alt(outputs: Sequence[dict[str, Any]], alt: str | None) -> list[dict[str, Any]]:
    """A cell's outputs, its pictures with the alternative text that Jupyter and nbconvert show."""
    if not alt:
        return list(outputs)
    return [{**output, "metadata": {**output.get("metadata", {}), "image/png": {
        **output.get("metadata", {}).get("image/png", {}), "alt": alt}}}
        if "image/png" in output.get("data", {}) else output for output in outputs]
