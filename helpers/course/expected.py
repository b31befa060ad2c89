"""Bounds on the headline metrics, kept in `notebooks/expected.yaml` as comparisons to be read.

    04_reward_modelling:
      seconds: 60
      bounds:
        - accuracy >= 0.75
        - accuracy > length_accuracy
"""

from __future__ import annotations

import ast
import operator
from typing import Any

from helpers.course.execute import notebook_folder
from helpers.errors import UserError

COMPARE = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq,
}
SIGNS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "=="}
COMBINE = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}


def read() -> dict[str, dict[str, Any]]:
    """The bounds file by notebook; empty when there is none."""
    import yaml

    path = notebook_folder() / "expected.yaml"
    if not path.is_file():
        return {}
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def seconds(stem: str) -> float | None:
    """The time a notebook took where the bounds were set."""
    return (read().get(stem) or {}).get("seconds")


def judge(stem: str, metrics: dict[str, float | None]) -> list[dict[str, Any]]:
    """Judge a notebook's metrics: a list of `{"bound", "ok", "detail", "goal"}`.

    A bound has to hold; a goal (listed under `goals`) is not reached yet, or not on every
    machine, so it is shown with its verdict and fails nothing.
    """
    wanted = read().get(stem) or {}
    rows = []
    for kind in ("bounds", "goals"):
        for text in wanted.get(kind, []):
            ok, detail = check(text, metrics)
            rows.append({"bound": text, "ok": ok, "detail": detail, "goal": kind == "goals"})
    return rows


def check(text: str, metrics: dict[str, float | None]) -> tuple[bool, str]:
    """Evaluate one comparison such as `val_loss < 0.8 * val_loss_before`.

    Returns:
        Whether it holds, and both sides as numbers (nan where something was divided by 0); a
        metric that was not recorded fails it, and so does a nan.

    Raises:
        UserError: the text is not a comparison of metrics and numbers.
    """
    left, right, compare, missing = _sides(text, metrics)
    if missing:
        return False, f"{', '.join(missing)} not recorded"
    sign = SIGNS[compare]
    return COMPARE[compare](left, right), f"{left:.4g} {sign} {right:.4g}"


def margin(text: str, metrics: dict[str, float | None]) -> float:
    """How far a comparison is from failing, in the unit of its sides; negative where it fails.

    Raises:
        UserError: as `check`, and where a metric was not recorded.
    """
    left, right, compare, missing = _sides(text, metrics)
    if missing:
        raise UserError(f"expected.yaml: {text!r}: {', '.join(missing)} not recorded.")
    apart = abs(left - right)
    if apart != apart:
        raise UserError(f"expected.yaml: {text!r} divides by 0.")
    return apart if COMPARE[compare](left, right) else -apart


def _sides(
    text: str, metrics: dict[str, float | None]
) -> tuple[float, float, type[ast.cmpop], list[str]]:
    """Both sides as numbers, how they are compared, and which metrics were not recorded."""
    try:
        node = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise UserError(f"expected.yaml: {text!r} is not a comparison.") from error
    if not (isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARE):
        raise UserError(f"expected.yaml: {text!r} is not a comparison of two sides.")
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    missing = sorted(name for name in names if metrics.get(name) is None)
    known = {name: float("nan") if (value := metrics.get(name)) is None else value
             for name in names}
    left, right = (_value(side, known, text) for side in (node.left, node.comparators[0]))
    return left, right, type(node.ops[0]), missing


def _value(node: ast.expr, metrics: dict[str, float], text: str) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.Name):
        return metrics[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, metrics, text)
    if isinstance(node, ast.BinOp) and type(node.op) in COMBINE:
        left, right = (_value(side, metrics, text) for side in (node.left, node.right))
        if isinstance(node.op, ast.Div) and right == 0:
            return float("nan")  # no number, so that no comparison with it holds
        return COMBINE[type(node.op)](left, right)
    raise UserError(f"expected.yaml: {text!r} may hold metrics, numbers and + - * / only.")
