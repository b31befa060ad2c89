"""What flows between the modules: rows of text, and functions that reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]
# Prompts and responses, both lists of strings, to one number per response.
RewardFn = Callable[[list[str], list[str]], Sequence[float]]
