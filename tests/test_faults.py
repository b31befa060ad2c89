"""The faults that `tests/faults.py` sows: each still has its place, and what was found is stored."""

import ast

import pytest
from faults import FAULTS, ROOT, sown

from benchmarks.shared import store


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_still_be_sown(fault):
    changed = sown(fault)
    good = (ROOT / "helpers" / fault.file).read_text(encoding="utf-8")
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(good))
    assert all((ROOT / "tests" / name).is_file() for name in fault.tests)


def test_the_stored_faults_are_these_and_nine_of_ten_were_caught():
    stored = store.load("faults")
    assert stored is not None
    rows = {row["fault"]: row for row in stored["rows"]}
    assert list(rows) == [fault.name for fault in FAULTS] and len(rows) >= 20
    assert sum(row["caught"] for row in rows.values()) >= 0.9 * len(rows)
    assert stored["date"] and stored["machine"]
