"""The faults that `benchmarks/device_faults.py` sows: each still has its place, and is found."""

import pytest

from benchmarks.device_faults import FAULTS, replaced
from benchmarks.shared import store


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_still_be_sown(fault):
    compile(replaced(fault), fault.file, "exec")


def test_at_least_nine_of_ten_faults_were_found_and_the_stored_rows_are_of_these_faults():
    stored = store.load("device_faults")
    assert stored is not None
    rows = {row["fault"]: row for row in stored["rows"]}
    assert list(rows) == [fault.name for fault in FAULTS] and len(rows) >= 10
    assert all(row["passes_on_cpu"] for row in rows.values())
    assert sum(row["found"] for row in rows.values()) >= 0.9 * len(rows)
    assert all(row["found"] for name, row in rows.items() if name.startswith("row 6"))
