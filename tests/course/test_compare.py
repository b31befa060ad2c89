"""Outputs compared: wording as wording, tables by shape, numbers as numbers, times never."""

import json

import pytest

from helpers.course import execute, provenance
from helpers.course.upkeep import compare, refresh


def printed(*texts):
    return [{"output_type": "stream", "name": "stdout", "text": [text]} for text in texts]


def table(*rows):
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return [{"output_type": "display_data", "metadata": {},
             "data": {"text/html": [f"<style>td {{width: 1px}}</style><table>{body}</table>"],
                      "text/plain": ["<Styler at 0x7f12aa>"]}}]


def differences(old, new, same_machine=True, **said):
    cell = {"outputs": old, "metadata": {"compare": said} if said else {}}
    return compare.compare(cell, new, same_machine).differences


ALIKE = [
    ("episodes_per_second  41.2", "episodes_per_second  67"),
    ("seconds_to_make  321.8", "seconds_to_make  955.3"),
    ("8.5 times as many tokens a second", "7.1 times as many tokens a second"),
    ("took 12.3 s", "took 9 s"), ("3.1 minutes, 1,200 MB", "2 minutes, 900 MB"),
    ("41 tokens per second", "77 tokens per second"), ("1.7 times as fast", "2 times as fast"),
    ("12:31 on 2026-11-28", "9:07 on 2027-01-02"), ("<a at 0x7f00aa11>", "<a at 0x7f00bb22>"),
    ("accuracy    0.81", "accuracy 0.82"), ("1.2e-05", "1.3e-05"), ("10ms", "12ms"),
    ("61 episodes a second", "9 episodes a second"), ("-0.31", "-0.30"),
]
APART = [
    ("accuracy 0.81", "accuracy 0.83"), ("right 61 % of the time", "right 65 % of the time"),
    ("7 pairs", "8 pairs"), ("1.2e-05", "1.4e-05"),
    ("PPO beats SFT", "Not shown: PPO beats SFT"), ("mean 0.5", "mean nan"), ("-0.3", "0.3"),
    ("gpt2-1.9m", "gpt2-5.9m"), ("1,200 rows", "1,300 rows"), ("1 2", "1 2 3"), ("a", "a\nb"),
    ("−0.50", "−0.52"),
]


@pytest.mark.parametrize("old, new", ALIKE)
def test_what_means_the_same(old, new):
    assert differences(printed(old), printed(new)) == []


@pytest.mark.parametrize("old, new", APART)
def test_what_has_changed(old, new):
    assert differences(printed(old), printed(new))


def test_a_cell_states_its_own_tolerance():
    old, new = printed("reward 0.80 in 30 steps"), printed("reward 0.86 in 31 steps")
    assert len(differences(old, new)) == 2
    assert len(differences(old, new, numbers={"absolute": 0.07})) == 1
    assert differences(old, new, numbers={"relative": 0.08}) == []
    assert differences(old, new, numbers="timing") == []
    assert differences(printed("0.80"), printed("0.81"), numbers="exact")
    assert differences(old, printed("reward 0.80 in 30 updates"), numbers="timing")


def test_on_another_machine_a_cell_may_ask_for_less():
    old, new = printed("PPO beats SFT: 0.61"), printed("Not shown: PPO beats SFT: 0.52")
    assert differences(old, new, False, elsewhere="shape") == []
    assert differences(old, new, True, elsewhere="shape")
    assert differences(old, new, False)
    assert differences(printed("0.61"), printed("0.52"), False, elsewhere={"absolute": 0.1}) == []
    assert differences(old, [], False, elsewhere="shape")
    assert differences(old, new, numbers="shape") == []


GOLD = "gold_after  0.67  in 5 stored runs (3 seeds): 0.61 to 0.88"


@pytest.mark.parametrize("now, same", [
    ("gold_after  0.84  in 5 stored runs: 0.61 to 0.88", True),
    ("gold_after  1.20  in 9 stored runs (7 seeds): 0.61 to 1.30", True),
    ("gold_after  0.14", True),
    ("gold_after  1.23  in 5 stored runs: 0.61 to 0.88", False), ("gold_after  0.1", False),
    ("gold_after  not a finite number", False), ("gold_before  0.67", False)])
def test_on_another_machine_a_recorded_number_stays_near_the_stored_runs(now, same):
    assert bool(differences(printed(GOLD), printed(now), False, elsewhere="luck")) is not same
    assert differences(printed(GOLD), printed(now), True, elsewhere="luck")
    assert differences(printed("pairs 7"), printed("pairs 9"), False, elsewhere="luck") == []


def test_tables_are_compared_by_cells_and_their_times_not_at_all():
    named = table(("SFT's", "time (s)"), ("1.02", "3.2"))
    assert differences(named, table(("SFT's", "time (s)"), ("1.02", "9.9"))) == []
    assert differences(named, table(("SFT's", "time (s)"), ("1.09", "3.2")))
    old = table(("model", "loss", "seconds"), ("a", "1.02", "3.2"), ("b", "1.50", "12"))
    assert differences(old, table(("model", "loss", "seconds"), ("a", "1.02", "7"),
                                  ("b", "1.50", "9.5"))) == []
    assert differences(old, table(("model", "loss", "seconds"), ("a", "1.05", "3.2"),
                                  ("b", "1.50", "12")))
    more = table(("model", "loss", "seconds"), ("a", "1.02", "3.2"))
    assert differences(old, more) and differences(old, more, False, elsewhere="shape")


def test_an_image_counts_as_one_and_what_was_printed_as_one_text():
    image = [{"output_type": "display_data", "metadata": {}, "data": {"image/png": "aa"}}]
    assert differences(image, image) == [] and differences(image, [])
    assert compare.compare({"outputs": image, "metadata": {}}, image, True).images_only
    assert differences([*printed("a 1\n"), *image, *printed("b 2")],
                       [*printed("a 1\nb 2"), *image]) == []


def _outputs_of_the_course():
    """(notebook, cell, output, its text) of what is printed, and of tables, as plain rows."""
    for number, path in execute.notebooks().items():
        for cell in execute.read_notebook(path)["cells"]:
            for output in cell.get("outputs", []):
                if output.get("name") == "stdout":
                    yield number, cell, False, "".join(output["text"])
                elif html := "".join(output.get("data", {}).get("text/html", [])):
                    rows = compare._lines(html, "table")
                    yield number, cell, True, "\n".join(rows)


def as_outputs(text, is_table):
    return table(*(row.split("\t") for row in text.split("\n"))) if is_table else printed(text)


def test_every_compared_number_of_the_course_turns_red_when_it_is_moved():
    """By twice its tolerance; a number that has none, by one of its last digit."""
    moved = {False: 0, True: 0}
    for number, cell, is_table, text in _outputs_of_the_course():
        rule = compare.rule_of(cell, True)
        if rule in (compare.TIMING, compare.SHAPE) or any(
                pattern.search(text) for pattern, _ in compare.WITHOUT_MEANING):
            continue
        stored = {**cell, "outputs": as_outputs(text, is_table)}
        whole = compare.compare(stored, stored["outputs"], True)
        assert not whole.differences
        turned = 0
        for match in compare.numbers_of(text):
            mantissa, _, power = match[0].partition("e")
            digits = len(mantissa.partition(".")[2])
            far = 2 * compare.tolerance(match[0], rule) or 10.0 ** (int(power or 0) - digits)
            value = compare.number(match[0]) + far
            other = f"{value:.{digits}{'e' if 'e' in match[0] else 'f'}}"
            changed = text[:match.start()] + other + text[match.end():]
            found = compare.compare(stored, as_outputs(changed, is_table), True)
            turned += bool(found.differences)
        assert turned >= whole.numbers, (number, text[:300])
        moved[is_table] += turned
    assert moved[False] > 1000 and moved[True] > 100, moved


def test_the_machine_is_named_and_its_threads_matter(monkeypatch):
    here = provenance.machine()
    assert here == provenance.machine() and len(here) == 12
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "other")
    assert provenance.machine() != here


@pytest.mark.parametrize("lines", [
    "model name\t: Xeon\nflags\t\t: avx2 avx512f\ncache size\t: 36608 KB",
    "CPU implementer\t: 0x41\nCPU part\t: 0xd0c\nFeatures\t: fp asimd"])
def test_a_processor_is_known_by_what_it_can_and_not_by_its_clock(lines):
    """Of x86 and of Arm, which name other things."""
    def of(mhz, text=lines):
        return provenance.lasting(f"processor\t: 0\ncpu MHz\t\t: {mhz}\n{text}\nBogoMIPS\t: 50"
                                  f"\n\nprocessor\t: 1\n{text}")
    assert of(2100.0) == of(3400.5) == lines.splitlines()
    assert of(2100.0) != of(2100.0, lines[:-1])


def test_the_code_is_told_from_other_code(tmp_path, monkeypatch):
    for folder in ("helpers", "data", "benchmarks/results"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setattr(provenance, "DATA", tmp_path / "data")
    seen = [provenance.code()]
    for name, text in (("helpers/a.py", "x = 1"), ("helpers/a.py", "x = 2"),
                       ("data/rows.jsonl", "{}"), ("benchmarks/results/r.json", "{}")):
        (tmp_path / name).write_text(text)
        seen.append(provenance.code())
    (tmp_path / "helpers" / "a.pyc").write_text("made by Python")
    assert len(set(seen)) == 5 and provenance.code() == seen[-1]


def test_outputs_keep_the_machine_they_were_made_on():
    notebook = {"metadata": {}, "cells": []}
    merged = refresh.merge(notebook, notebook, "abc")
    assert json.loads(json.dumps(merged))["metadata"]["course"] == {"machine": "abc"}
