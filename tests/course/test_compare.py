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
    ("PPO beats SFT", "no difference shown"), ("mean 0.5", "mean nan"), ("-0.3", "0.3"),
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
    old, new = printed("PPO beats SFT: 0.61"), printed("no difference shown: 0.52")
    assert differences(old, new, False, elsewhere="shape") == []
    assert differences(old, new, True, elsewhere="shape")
    assert differences(old, new, False)
    assert differences(printed("0.61"), printed("0.52"), False, elsewhere={"absolute": 0.1}) == []
    assert differences(old, [], False, elsewhere="shape")
    assert differences(old, new, numbers="shape") == []


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


def _compared_numbers():
    for number, path in execute.notebooks().items():
        for cell in execute.read_notebook(path)["cells"]:
            for which, output in enumerate(cell.get("outputs", [])):
                if output.get("name") == "stdout":
                    yield number, cell, which


def test_every_compared_number_of_the_course_turns_red_when_it_is_moved():
    """By twice its tolerance; a number that has none, by one of its last digit."""
    moved = 0
    for number, cell, which in _compared_numbers():
        rule = compare.rule_of(cell, True)
        text = "".join(cell["outputs"][which]["text"])
        if rule in (compare.TIMING, compare.SHAPE) or any(
                pattern.search(text) for pattern, _ in compare.WITHOUT_MEANING):
            continue
        for match in compare.numbers_of(text):
            if compare.TIME_NAME.match(text[text.rfind("\n", 0, match.start()) + 1:]):
                continue
            mantissa, _, power = match[0].partition("e")
            digits = len(mantissa.partition(".")[2])
            far = 2 * compare.tolerance(match[0], rule) or 10.0 ** (int(power or 0) - digits)
            value = compare.number(match[0]) + far
            other = f"{value:.{digits}{'e' if 'e' in match[0] else 'f'}}"
            changed = text[:match.start()] + other + text[match.end():]
            outputs = [*cell["outputs"]]
            outputs[which] = {**outputs[which], "text": [changed]}
            found = compare.compare(cell, outputs, True)
            assert found.differences, (number, match[0], other, text[:200])
            moved += 1
    assert moved > 1000


def test_the_machine_is_named_and_its_threads_matter(monkeypatch):
    here = provenance.machine()
    assert here == provenance.machine() and len(here) == 12
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "other")
    assert provenance.machine() != here


def test_outputs_keep_the_machine_they_were_made_on():
    notebook = {"metadata": {}, "cells": []}
    merged = refresh.merge(notebook, notebook, "abc")
    assert json.loads(json.dumps(merged))["metadata"]["course"] == {"machine": "abc"}
