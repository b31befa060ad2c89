"""Single values of rows: whether they say anything, are whole, and how a message shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from helpers.errors import printable


def blank(value: Any) -> bool:
    """Whether a field of a table says nothing: None, NaN, or text without a character to see."""
    return value is None or (isinstance(value, str) and not value.strip()) or (
        isinstance(value, float) and value != value)


def is_whole_text(text: str) -> bool:
    """Whether UTF-8 can hold a text: it has no half of a character (a lone surrogate)."""
    return not re.search("[\ud800-\udfff]", text)


# How a cell begins that a spreadsheet computes; the wide signs count too where Chinese or Japanese
# is set (https://owasp.org/www-community/attacks/CSV_Injection).
FORMULA = re.compile(r"'*\s*[=+\-@＝＋－＠]")


def no_formula(value: Any) -> Any:
    """A value for a CSV file: a text that would be a formula in it gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def as_it_was(value: Any) -> Any:
    """What `no_formula` was given."""
    apart = isinstance(value, str) and value.startswith("'") and FORMULA.match(value)
    return value[1:] if apart else value


def shown(value: Any) -> str:
    """A value for a message: in one line, and not longer than 80 characters."""
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}…"


def columns_of(row: Mapping[Any, Any]) -> str:
    """The names of a row's fields for a message: in one line, and not longer than 200 letters."""
    text = printable(", ".join(" ".join(str(name).split()) for name in row))
    return text if len(text) <= 200 else f"{text[:199]}…"
