"""Two outputs of one cell compared: wording as wording, tables by their shape, numbers as numbers.

A cell says in its metadata how its numbers are compared, under the key `compare`:

    {"numbers": "exact"}            not even the last printed digit may differ
    {"numbers": {"absolute": 0.02}} or {"relative": 0.1}
    {"numbers": "timing"}           they are times, rates or memory and never compared
    {"numbers": "shape"}            what is said depends on times, so only the kinds of output and
                                    the shapes of tables are compared
    {"numbers": "luck"}             lines of `course.record`: a number with the range of stored runs
                                    behind it may lie as far away as twice the width of that range;
                                    one without a range is not compared
    {"elsewhere": …}                the same, for a run on another machine than the stored one; it
                                    is "shape" or "luck" where luck decides there

Without it whole numbers are compared exactly and others to one unit of their last printed digit. A
number with a unit of time, rate or memory behind it, in a table's column that is called so, or of a
metric that is (`tokens_per_second`), is never compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from helpers.errors import UserError

Rule = str | dict[str, float]
PRINTED, SHAPE, TIMING, EXACT, LUCK = "printed", "shape", "timing", "exact", "luck"
UNIT = (r"(?:s|secs?|seconds?|ms|milliseconds?|µs|min|minutes?|hours?|[kKMG]i?B|megabytes?"
        r"|(?:tokens|episodes|pairs|rows|texts|steps|updates|samples|examples)"
        r" ?(?:/ ?s|/ ?min|(?:a|per) (?:second|minute))|/ ?s|(?:a|per) second"
        r"|(?:×|times) (?:as )?(?:(?:fast|slow)(?:er)?|many tokens a second))")
NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.])(?:(?<![0-9])[-−+])?"
    r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?"
    r"(?![A-Za-z_])(?!\.\d)")
TIMED = re.compile(NUMBER.pattern + r"(?=[ \u00a0]?" + UNIT + r"(?![A-Za-z]))"
                   r"|" + NUMBER.pattern.replace(r"(?![A-Za-z_])(?!\.\d)", "") + UNIT
                   + r"(?![A-Za-z])")
TIME_COLUMN = re.compile(
    r"\b(?:seconds?|minutes?|ms|MB|MiB|GB|memory|time)\b|\(s\)|^s$|(?:per|a) second|/ ?s\b", re.I)
TIME_NAME = re.compile(r"\s*\w*(?:per_second|seconds|minutes|_ms|_mb)\w*\s")  # of a metric
WITHOUT_MEANING = (  # what differs between two runs and means nothing
    (re.compile(r"(Posix|Windows)Path\('[^']*?(artifacts|runs|ratings)"), r"Path('\2"),
    (re.compile(r"\b\d{4}-\d{2}-\d{2}([T ]\d{1,2}:\d{2}(:\d{2})?(\.\d+)?)?"), "DATE"),
    (re.compile(r"\b\d{1,2}:\d{2}(:\d{2})?(\.\d+)?\b"), "CLOCK"),
    (re.compile(r"0x[0-9a-f]{6,}"), "ADDRESS"),
)
RECORDED = re.compile(r"(?P<name>\w+) +(?P<value>\S+) +in \d+ stored runs(?: \(\d+ seeds?\))?: "
                      r"(?P<low>\S+) to (?P<high>\S+)$")
VIEW = "application/vnd.jupyter.widget-view+json"


@dataclass
class Found:
    """What the comparison of one cell found: differences, and how much it compared and how."""

    rule: Rule = PRINTED
    differences: list[str] = field(default_factory=list)
    numbers: int = 0
    images_only: bool = False


def compare(cell: dict[str, Any], outputs: list[dict[str, Any]], same_machine: bool) -> Found:
    """A cell's stored outputs against those of another run, both as `refresh` cleans them."""
    rule = rule_of(cell, same_machine)
    old, new = kinds(cell["outputs"]), kinds(outputs)
    found = Found(rule, images_only=bool(old) and set(old) == {"image"})
    for kind in sorted({*old, *new}):
        before, after = old.get(kind, []), new.get(kind, [])
        if len(before) != len(after):
            found.differences.append(f"{len(before)} × {kind} before, {len(after)} × {kind} now")
        elif kind != "image":
            for one, other in zip(before, after, strict=True):
                _compare_text(one, other, kind, found)
    return found


def rule_of(cell: dict[str, Any], same_machine: bool) -> Rule:
    """How a cell's numbers are compared."""
    said = cell["metadata"].get("compare", {})
    here: Rule = said.get("numbers", PRINTED)
    return here if same_machine or here == SHAPE else said.get("elsewhere", here)


def check_metadata(metadata: dict[str, Any]) -> None:
    """Raise UserError where `compare` says something that is not understood."""
    said = metadata.get("compare", {})
    wrong = f"metadata compare is {said!r}; it must be as helpers/course/upkeep/compare.py says."
    if not isinstance(said, dict) or set(said) - {"numbers", "elsewhere"}:
        raise UserError(wrong)
    for rule in said.values():
        if isinstance(rule, dict):
            (name, value), *more = [*rule.items()] or [("", 0)]
            good = not more and name in ("absolute", "relative") and value > 0
        else:
            good = rule in (EXACT, TIMING, PRINTED, SHAPE, LUCK)
        if not good:
            raise UserError(wrong)


def kinds(outputs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Outputs by kind: all that was printed as one text, tables, other values, images."""
    sorted_out: dict[str, list[str]] = {}
    for output in outputs:
        data = output.get("data", {})
        if output.get("name") == "stdout":
            printed = sorted_out.setdefault("text", [""])
            printed[0] += "".join(output["text"])
        elif any(key.startswith("image/") for key in data):
            sorted_out.setdefault("image", []).append("")
        elif "text/html" in data:
            sorted_out.setdefault("table", []).append("".join(data["text/html"]))
        elif data and set(data) != {VIEW}:
            key = "text/markdown" if "text/markdown" in data else "text/plain"
            sorted_out.setdefault("value", []).append("".join(data.get(key, "")))
    return sorted_out


def numbers_of(text: str) -> Iterator[re.Match[str]]:
    """The numbers of a text that are compared, where they stand."""
    timed = [match.span() for match in TIMED.finditer(text)]
    for match in NUMBER.finditer(text):
        if not any(start <= match.start() < end for start, end in timed):
            yield match


def tolerance(printed: str, rule: Rule) -> float:
    """How far another number may lie from this one, as it is printed, under a rule."""
    value = abs(number(printed))
    if isinstance(rule, dict):
        return rule["absolute"] if "absolute" in rule else rule["relative"] * value
    digits, _, power = printed.lower().partition("e")
    if rule == EXACT or "." not in digits:
        return 0.0
    return 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))


def number(printed: str) -> float:
    """The value of a printed number."""
    return float(printed.replace(",", "").replace("−", "-"))


def _compare_text(one: str, other: str, kind: str, found: Found) -> None:
    before, after = _lines(one, kind), _lines(other, kind)
    if found.rule == SHAPE:
        if kind == "table" and [row.count("\t") for row in before] != [
                row.count("\t") for row in after]:
            found.differences.append(f"a table of {_shape(before)} before, of {_shape(after)} now")
        return
    if len(before) != len(after):
        found.differences.append(f"{len(before)} lines before, {len(after)} now")
        return
    untimed: set[int] = set()
    for row, (line, now) in enumerate(zip(before, after, strict=True)):
        cells = list(zip(line.split("\t"), now.split("\t"), strict=False))
        if line.count("\t") != now.count("\t"):
            found.differences.append(f"{line!r} before, {now!r} now: another number of columns")
            continue
        if kind == "table" and row == 0:
            untimed = {i for i, (name, _) in enumerate(cells) if TIME_COLUMN.search(name)}
        for column, (old, new) in enumerate(cells):
            if not (row and column in untimed):
                _compare_line(old, new, found)


def _compare_line(old: str, new: str, found: Found) -> None:
    if found.rule == LUCK:
        _compare_recorded(old, new, found)
        return
    before, after = list(numbers_of(old)), list(numbers_of(new))
    if _wording(old) != _wording(new) or len(before) != len(after):
        found.differences.append(f"{old.strip()!r} before, {new.strip()!r} now")
        return
    if found.rule == TIMING or TIME_NAME.match(old):
        return
    for one, other in zip(before, after, strict=True):
        found.numbers += 1
        allowed = tolerance(one[0], found.rule)
        apart = abs(number(one[0]) - number(other[0]))
        if not apart <= allowed * (1 + 1e-9) + 1e-12:
            found.differences.append(f"{one[0]} before, {other[0]} now (at most {allowed:g} apart) "
                                     f"in {new.strip()!r}")


def _compare_recorded(old: str, new: str, found: Found) -> None:
    """A line of `course.record`; the stored range says how far the number may lie."""
    recorded = RECORDED.match(old.strip())
    if recorded is None:
        return
    if recorded["name"] != new.split()[0]:
        found.differences.append(f"{old.strip()!r} before, {new.strip()!r} now")
        return
    allowed = 2 * (float(recorded["high"]) - float(recorded["low"]))
    allowed = max(allowed, tolerance(recorded["value"], PRINTED))
    now = new.split()[1]
    found.numbers += 1
    try:
        apart = abs(float(recorded["value"]) - float(now))
    except ValueError:  # "not a finite number"
        apart = float("nan")
    if not apart <= allowed * (1 + 1e-9):
        found.differences.append(f"{recorded['name']}: {recorded['value']} before, {now} now (at "
                                 f"most {allowed:.4g} apart, twice the range of stored runs)")


def _wording(line: str) -> str:
    """A line without its numbers and without the spaces that align them."""
    return " ".join(NUMBER.sub(" # ", TIMED.sub(" TIME ", line)).split())


def _lines(text: str, kind: str) -> list[str]:
    if kind == "table":
        parser = _Cells()
        parser.feed(text)
        text = "\n".join("\t".join(row) for row in parser.rows)
    for pattern, name in WITHOUT_MEANING:
        text = pattern.sub(name, text)
    lines = text.split("\n") if kind == "table" else text.replace("\t", " ").splitlines()
    return [line for line in lines if line.strip()]


def _shape(rows: list[str]) -> str:
    return f"{len(rows)} rows with {', '.join(sorted({str(r.count(chr(9)) + 1) for r in rows}))}"


class _Cells(HTMLParser):
    """The text of HTML: a row for each table row, with its cells, and for each other block."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = [[""]]
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in ("style", "script")
        if tag in ("tr", "p", "div", "br", "li", "pre"):
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("style", "script")
        if tag in ("tr", "p", "div", "table", "li", "pre"):
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        if self.hidden or not data.strip():
            return
        if not self.rows[-1]:
            self.rows[-1].append("")
        self.rows[-1][-1] += " ".join(data.split())
