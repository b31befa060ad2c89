"""What all checkers share: call, convert, compare, and name one mistake or two made at once.

An exercise is a right answer with switches: `right(*case, wrong)` computes what comes out with the
mistakes named in `wrong`. A reader's answer is held against it without a switch, with each one,
and with each two.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import Any, ParamSpec

import numpy as np

P = ParamSpec("P")
COARSEST = 2.0**-7  # bfloat16; with fewer digits a mistake looks like rounding


class NotDone(Exception):
    """The reader has not answered yet."""


class NotRight(Exception):
    """What is wrong, in one sentence without its full stop."""


def checker(check: Callable[P, str]) -> Callable[P, bool]:
    """Turn a function that returns praise or raises into one that prints a line and says whether.

    The line begins with "right:", with "not right yet:", or is "not done yet".
    """

    @functools.wraps(check)
    def told(*args: P.args, **kwargs: P.kwargs) -> bool:
        try:
            praise = check(*args, **kwargs)
        except NotDone:
            print("not done yet")
        except NotRight as error:
            print(_sentence(f"not right yet: {error}"))
        else:
            print(_sentence(f"right: {praise}"))
            return True
        return False

    return told


def _sentence(text: str) -> str:
    return text if text.endswith(("?", "!")) else f"{text}."


def call(function: Any, *args: Any) -> Any:
    """The reader's function on copies of `args`, which it may change as it likes.

    Raises:
        NotDone: it returned None or NotImplemented.
        NotRight: it is no function, or broke off.
    """
    if function is None or function is NotImplemented:
        raise NotDone
    if not callable(function):
        raise NotRight(f"hand over the function itself; this is {_kind(function)}")
    name = getattr(function, "__name__", type(function).__name__)
    try:
        result = function(*copy.deepcopy(args))
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
        raise NotRight(f"{name} stopped with {type(error).__name__}: {reason}") from None
    if result is None or result is NotImplemented:
        raise NotDone
    return result


def numbers(
    given: Any, shape: tuple[int | None, ...] | None = None, *, booleans: bool = False,
    hint: str = "", endless: str = "",
) -> tuple[np.ndarray, float]:
    """An answer as float64, and the relative precision with which it can be compared.

    Args:
        given: numbers in any form: a list, a tuple, an array, a tensor on any device, one number.
        shape: what it must have, None for a side of any length.
        booleans: True and False may stand for 1 and 0.
        hint: said after a wrong shape.
        endless: said after a number that is not finite.

    Raises:
        NotDone: it is None or NotImplemented.
        NotRight: no numbers, not finite, too coarse, or of another shape.
    """
    if given is None or given is NotImplemented:
        raise NotDone
    if isinstance(given, Iterator):
        given = list(islice(given, 100_000))
    _look_through(given, booleans)
    try:
        with np.errstate(all="ignore"):
            array = np.asarray(_plain(given), dtype=np.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise NotRight(f"the result must be {_shaped(shape)}; this is {_kind(given)}") from None
    if shape is not None and (len(shape) != array.ndim or any(
            want not in (None, have) for want, have in zip(shape, array.shape, strict=True))):
        more = f"; {hint}" if hint else ""
        raise NotRight(f"the result has shape {array.shape} and must be {_shaped(shape)}{more}")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        where = f" at {bad[0].tolist()}" if array.ndim else ""
        more = f"; {endless}" if endless else ""
        raise NotRight(f"the result is {array[tuple(bad[0])]}{where}, no finite number{more}")
    return array, max(1e-4, 2 * _coarseness(given))


def _look_through(given: Any, booleans: bool) -> None:
    """Refuse texts, missing values and, where they mean nothing, truth values, also inside."""
    if given is None or given is NotImplemented:
        raise NotRight("the result holds None where a number must be")
    if isinstance(given, str | bytes):
        raise NotRight(f"the result holds the text {_short(given, 40)}; give the number itself")
    kind = str(getattr(given, "dtype", "")).removeprefix("torch.")
    if not booleans and (isinstance(given, bool) or kind == "bool"):
        raise NotRight("the result holds True or False where a number must be")
    if isinstance(given, complex) or kind.startswith("complex"):
        raise NotRight("the result holds complex numbers")
    if kind.startswith(("<U", "|S", "str", "datetime", "timedelta", "<M8", "<m8")):
        raise NotRight("the result holds texts or dates where numbers must be")
    if isinstance(given, list | tuple) or kind == "object":
        flat = given if isinstance(given, list | tuple) else given.ravel()
        for one in islice(flat, 100_000):
            _look_through(one, booleans)


def _plain(given: Any) -> Any:
    """Tensors as arrays, also inside lists."""
    if isinstance(given, list | tuple):
        return [_plain(one) for one in given]
    if hasattr(given, "detach"):
        import torch

        return given.detach().to("cpu", torch.float64).numpy()
    return given


def _coarseness(given: Any) -> float:
    """Distance of 1 to the next number in the least precise type among the answer's parts."""
    if isinstance(given, list | tuple):
        return max(map(_coarseness, given[:100]), default=0.0)
    kind = str(getattr(given, "dtype", "")).removeprefix("torch.")
    if kind.startswith("float8") or kind.startswith("float4"):
        raise NotRight(f"{kind} keeps too few digits to tell right from wrong; use float32")
    return {"bfloat16": COARSEST, "float16": 2.0**-10}.get(kind, 0.0)


def _kind(given: Any) -> str:
    name = type(given).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _shaped(shape: tuple[int | None, ...] | None) -> str:
    if shape is None:
        return "numbers"
    sides = ["any" if side is None else str(side) for side in shape]
    return "one number" if not shape else f"numbers of shape ({', '.join(sides)}" + (
        ",)" if len(shape) == 1 else ")")


def close(given: np.ndarray, wanted: Any, precision: float) -> bool:
    """Whether they agree, to `precision` of the largest number that is wanted."""
    wanted = np.asarray(wanted, dtype=np.float64)
    if given.shape != wanted.shape or not np.isfinite(wanted).all():
        return False
    return bool((np.abs(given - wanted) <= precision * max(np.abs(wanted).max(), 1e-3)).all())


def name_mistakes(fits: Callable[[frozenset[str]], bool], mistakes: Mapping[str, str]) -> str:
    """What to say of the one mistake that explains an answer, or of the two; "" where none does."""
    for one in mistakes:
        if fits(frozenset([one])):
            return mistakes[one]
    for two in combinations(mistakes, 2):
        if fits(frozenset(two)):
            return f"two things at once: {mistakes[two[0]]}; and: {mistakes[two[1]]}"
    return ""


@dataclass
class Exercise:
    """A function to be written, the cases on which it is tried, and its usual mistakes.

    `right(*case, wrong=frozenset())` is the answer, with the mistakes in `wrong` made; `keep`
    picks what of an answer counts (padding does not); `extremes` are cases that only a careful
    answer survives, each with what to say where it does not.
    """

    right: Callable[..., Any]
    mistakes: Mapping[str, str]
    cases: list[tuple[Any, ...]]
    praise: str
    hint: str = ""
    booleans: bool = False
    extremes: list[tuple[tuple[Any, ...], str]] = field(default_factory=list)
    keep: Callable[..., Any] = lambda answer, *case: answer
    precision: float = 0.0  # where the answer is drawn by chance

    def check(self, function: Any) -> str:
        """The praise; raises NotDone or NotRight."""
        given = [self._answer(function, case) for case in self.cases]

        def fits(wrong: frozenset[str]) -> bool:
            return all(self._agrees(answer, case, wrong)
                       for answer, case in zip(given, self.cases, strict=True))

        if not fits(frozenset()):
            raise NotRight(name_mistakes(fits, self.mistakes) or self._difference(given))
        for case, sentence in self.extremes:
            answer = self._answer(function, case, sentence)
            if not self._agrees(answer, case, frozenset()):
                raise NotRight(sentence)
        return self.praise

    def _answer(self, function: Any, case: tuple[Any, ...], endless: str = "") -> Any:
        wanted = np.shape(self.right(*case, wrong=frozenset()))
        return numbers(call(function, *case), wanted, hint=self.hint, booleans=self.booleans,
                       endless=endless)

    def _agrees(self, answer: tuple[np.ndarray, float], case: tuple[Any, ...],
                wrong: frozenset[str]) -> bool:
        with np.errstate(all="ignore"):
            wanted = np.asarray(self.right(*case, wrong=wrong), dtype=np.float64)
        return close(np.asarray(self.keep(answer[0], *case)),
                     self.keep(wanted, *case) if wanted.shape == answer[0].shape else wanted,
                     max(answer[1], self.precision))

    def _difference(self, given: list[tuple[np.ndarray, float]]) -> str:
        """Where the answer first differs from the right one."""
        for number, (answer, case) in enumerate(zip(given, self.cases, strict=True)):
            if self._agrees(answer, case, frozenset()):
                continue
            mine = np.asarray(self.keep(answer[0], *case))
            wanted = np.asarray(self.keep(np.asarray(self.right(*case, wrong=frozenset()),
                                                     dtype=np.float64), *case))
            place = np.unravel_index(np.abs(mine - wanted).argmax(), wanted.shape)
            where = f" at {[int(i) for i in place]}" if wanted.ndim else ""
            also = "" if number == 0 else "right in some cases, but "
            return (f"{also}for {shown(case)} it is {wanted[place]:.4f}{where}, "
                    f"not {mine[place]:.4f}")
        return "it differs from the right answer"


def shown(case: tuple[Any, ...]) -> str:
    """The arguments of a case, short enough for a line."""
    parts = [_short(part) for part in case]
    return ", ".join(part for part in parts if part) or "the case tried"


def _short(part: Any, most: int = 70) -> str:
    if callable(part):
        return ""
    if hasattr(part, "tolist"):
        part = np.round(np.asarray(part, dtype=np.float64), 4).tolist()
    if isinstance(part, float):
        part = round(part, 4)
    text = repr(part)
    return text if len(text) <= most else f"{text[:most - 2].rstrip()} …"


def check_guess(
    guess: Any, right: float, mistakes: Mapping[str, tuple[float, str]], within: float = 0.02
) -> float:
    """Hold a number that the reader foretold against the right one.

    Args:
        mistakes: by name, what comes out with that mistake and what to say.
        within: the share of the right number by which a guess may be off.

    Returns:
        The guess. Raises NotDone or NotRight.
    """
    given, precision = numbers(guess, ())
    precision = max(within, precision)
    if close(given, right, precision):
        return float(given)
    for value, sentence in mistakes.values():
        if close(given, value, precision):
            raise NotRight(sentence)
    way = "too small" if given < right else "too large"
    if given and right and given * right > 0:
        ratio = max(given / right, right / given)
        way += f", by a factor of {ratio:.3g}"
    raise NotRight(f"{float(given):.6g} is {way}")


def check_diagnosis(
    diagnosis: Any, truth: Mapping[str, str], causes: Mapping[str, str], what: str = "run"
) -> None:
    """Hold the reader's causes against the true ones; raises NotDone or NotRight.

    Args:
        diagnosis: by the name of a run, one of `causes`.
        truth: by the name of a run, the cause that was put into it.
        causes: by name, what a run with that cause would show.
    """
    if diagnosis is None or diagnosis is NotImplemented:
        raise NotDone
    if not isinstance(diagnosis, Mapping):
        raise NotRight(f"give a dictionary with a cause for each {what}, "
                       f"such as {{{next(iter(truth))!r}: {next(iter(causes))!r}}}")
    said = {str(k): v for k, v in diagnosis.items()}
    strange = sorted(set(said) - set(truth))
    if strange:
        raise NotRight(f"there is no {what} {strange[0]!r}; there are {', '.join(truth)}")
    open_ = [name for name in truth if said.get(name) in (None, NotImplemented, "", ...)]
    if len(open_) == len(truth):
        raise NotDone
    if open_:
        raise NotRight(f"{what} {open_[0]} has no cause yet")
    wrong = []
    for name, cause in said.items():
        if not isinstance(cause, str) or cause not in causes:
            raise NotRight(f"{cause!r:.40} is none of the causes; they are {', '.join(causes)}")
        if cause != truth[name]:
            wrong.append(f"{what} {name} is not {cause!r}: then {causes[cause]}")
    if wrong:
        raise NotRight("; ".join(wrong[:2]) + (f"; and {len(wrong) - 2} more" if wrong[2:] else ""))
