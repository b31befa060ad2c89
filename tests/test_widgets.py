"""The rating panels, driven from code through the callbacks that a mouse or a key would trigger."""

import errno
import json
import os
import subprocess
import sys
import warnings

import ipywidgets
import portalocker
import pytest

from helpers.errors import UserError
from helpers.feedback import DIMENSIONS, RatingStore
from helpers.paths import ROOT
from helpers.widgets import compare_responses, rate_responses

ITEMS = [{"prompt": f"prompt {n}", "response": f"response {n}", "model": "sft"} for n in range(4)]
PAIRS = [{"prompt": f"prompt {n}", "response_a": f"first {n}", "response_b": f"second {n}",
          "model_a": "base", "model_b": "sft"} for n in range(40)]
GOOD = dict(zip(DIMENSIONS, (5, 4, 3, 2), strict=True))


@pytest.fixture
def store(tmp_path):
    return RatingStore(tmp_path / "ratings.jsonl")


def texts(panel):
    """Every text on show."""
    found = []
    for child in panel.children:
        found += texts(child) if hasattr(child, "children") else [str(getattr(child, "value", ""))]
    return found


# ------------------------------------------------------------------------------------- rating


def test_a_rating_is_in_the_store_before_the_next_item_appears(store):
    panel = rate_responses(ITEMS, store)
    seen = []
    panel.response.observe(lambda change: seen.append((change["new"], len(store.rows()))), "value")
    panel.rate(GOOD)
    assert seen == [("response 1", 1)]
    row = store.rows()[0]
    assert row["ratings"] == GOOD and row["response"] == "response 0" and row["model"] == "sft"
    assert (row["annotator"], row["source"], row["task"]) == ("me", "human", "responses")
    assert panel.progress.value == 1 and "1 of 4" in panel.count.value


def test_nothing_is_saved_before_every_dimension_has_a_value(store):
    panel = rate_responses(ITEMS, store)
    panel.toggles["fluency"].value = 3
    panel.save_button.click()
    assert store.rows() == [] and "coherence, creativity, relevance still" in panel.status.value
    for name in DIMENSIONS:
        panel.toggles[name].value = 3
    panel.save_button.click()
    assert len(store.rows()) == 1


def test_the_next_item_starts_empty(store):
    panel = rate_responses(ITEMS, store)
    panel.rate(GOOD)
    assert all(toggle.value is None for toggle in panel.toggles.values())


def test_the_old_ratings_are_cleared_before_the_next_text_appears(store):
    panel, seen = rate_responses(ITEMS, store), []
    for name, toggle in panel.toggles.items():
        toggle.observe(lambda change, name=name: seen.append((name, change["new"])), "value")
    panel.response.observe(lambda change: seen.append(("text", change["new"])), "value")
    panel.rate(GOOD)
    assert seen[-1] == ("text", ITEMS[1]["response"])
    assert [name for name, value in seen if value is None] == list(GOOD)


def test_autosave_writes_once_when_the_last_dimension_is_set(store):
    panel = rate_responses(ITEMS, store, dimensions=["move"], autosave=True)
    for value in (1, 5, 5, 2):
        panel.toggles["move"].value = value
    assert [row["ratings"]["move"] for row in store.rows()] == [1, 5, 5, 2]
    assert panel.current is None and "All done" in panel.prompt.value
    assert panel.toggles["move"].disabled


def test_skip_brings_the_item_back_at_the_end_and_writes_nothing(store):
    panel = rate_responses(ITEMS, store)
    panel.skip_button.click()
    assert store.rows() == [] and panel.response.value == "response 1"
    for _ in range(3):
        panel.rate(GOOD)
    assert panel.response.value == "response 0" and panel.skip_button.disabled


def test_undo_takes_back_rating_after_rating(store):
    panel = rate_responses(ITEMS, store)
    panel.rate(GOOD)
    panel.rate(GOOD)
    panel.undo_button.click()
    assert panel.response.value == "response 1" and len(store.rows()) == 1
    panel.undo_button.click()
    panel.undo_button.click()
    assert panel.response.value == "response 0" and store.rows() == []
    assert panel.undo_button.disabled and panel.done == 0


def test_a_new_panel_goes_on_where_the_old_one_left_off(store):
    first = rate_responses(ITEMS, store)
    first.rate(GOOD)
    first.skip()
    first.rate(GOOD)
    again = rate_responses(ITEMS, store)
    assert again.done == 2 and again.response.value == "response 1"
    assert "Resumed: 2" in again.status.value
    again.undo_button.click()
    assert again.response.value == "response 2", "undo reaches back over the reload, newest first"


def test_annotators_tasks_and_sources_do_not_mix(store):
    rate_responses(ITEMS, store).rate(GOOD)
    assert rate_responses(ITEMS, store, annotator="bob").done == 0
    assert rate_responses(ITEMS, store, task="other").done == 0
    assert rate_responses(ITEMS, store, source="simulated").done == 0


def test_simulated_is_said_on_the_panel_and_in_the_row(store):
    panel = rate_responses(ITEMS, store, source="simulated", annotator="simulated 1")
    panel.rate(GOOD)
    assert "simulated" in panel.status.value and store.rows()[0]["source"] == "simulated"


@pytest.mark.parametrize("typed, ratings", [
    (["5", "54", "543", "5432"], (5, 4, 3, 2)),
    (["5432"], (5, 4, 3, 2)),
    (["5 4 3 2"], (5, 4, 3, 2)),
    (["9", "9x", "9x1", "9x1111"], (1, 1, 1, 1)),
])
def test_keys_rate_each_dimension_in_turn(store, typed, ratings):
    panel = rate_responses(ITEMS, store)
    for text in typed:
        panel.shortcuts.value = text
    assert tuple(store.rows()[0]["ratings"].values()) == ratings
    assert panel.shortcuts.value == "" and panel.response.value == "response 1"


def test_a_key_typed_before_the_field_was_emptied_counts_for_the_next_item(store):
    panel = rate_responses(ITEMS, store, dimensions=["move"], autosave=True)
    panel.shortcuts.value = "4"
    panel.shortcuts.value = "42"
    panel.shortcuts.value = "2"
    assert [row["ratings"]["move"] for row in store.rows()] == [4, 2, 2]


def test_the_same_key_twice_rates_twice(store):
    panel = rate_responses(ITEMS, store, dimensions=["move"], autosave=True)
    panel.shortcuts.value = "4"
    panel.shortcuts.value = "4"
    assert len(store.rows()) == 2


def test_keys_that_arrive_together_all_count(store):
    one = rate_responses(ITEMS, store, dimensions=["move"], autosave=True)
    one.shortcuts.value = "4"
    one.shortcuts.value = "421"
    assert [row["ratings"]["move"] for row in store.rows()] == [4, 2, 1]
    four = rate_responses(ITEMS, store, task="four")
    four.shortcuts.value = "4321s54"
    assert four.response.value == "response 2" and four.shortcuts.value == "54"
    assert [t.value for t in four.toggles.values()] == [5, 4, None, None]
    four.shortcuts.value = "5432"
    assert list(store.rows(task="four")[1]["ratings"].values()) == [5, 4, 3, 2]


def test_keys_skip_and_undo(store):
    panel = rate_responses(ITEMS, store)
    panel.shortcuts.value = "1111"
    panel.shortcuts.value = "s"
    assert panel.response.value == "response 2"
    panel.shortcuts.value = "U"
    assert panel.response.value == "response 0" and store.rows() == []


def test_a_failed_write_keeps_the_item_on_show_and_says_why(store, monkeypatch):
    panel = rate_responses(ITEMS, store)

    def full(_):
        raise OSError(28, "No space left on <device>")

    monkeypatch.setattr(store, "append", full)
    panel.rate(GOOD)
    assert panel.response.value == "response 0" and panel.done == 0
    assert "Not saved" in panel.status.value and "&lt;device&gt;" in panel.status.value


def test_text_of_a_model_is_only_ever_in_text_areas(store):
    nasty = "<script>alert(1)</script> <img src=x onerror=alert(2)> **bold** $\\alpha$"
    item = {"prompt": nasty, "response": nasty, "response_a": nasty, "response_b": nasty + "2",
            "model": nasty, "model_a": nasty, "model_b": nasty}
    for panel in (rate_responses([item], store), compare_responses([item], store)):
        stack, holders = list(panel.children), []
        while stack:
            widget = stack.pop()
            stack += getattr(widget, "children", ())
            if any(nasty in str(getattr(widget, name, "")) for name in
                   ("value", "description", "tooltip", "placeholder", "options")):
                holders.append(widget)
        assert holders and all(type(w) is ipywidgets.Textarea and w.disabled for w in holders)


def test_an_empty_list_and_an_incomplete_item(store):
    assert rate_responses([], store).current is None
    with pytest.raises(UserError, match="Item 2 has no 'response'"):
        rate_responses([ITEMS[0], {"prompt": "p"}], store)


def test_an_image_is_shown_and_made_only_when_its_turn_comes(store):
    made = []

    def picture():
        made.append(1)
        return b"png"

    panel = rate_responses([ITEMS[0] | {"image": b"first"}, ITEMS[1] | {"image": picture},
                            ITEMS[2]], store)
    assert panel.picture.value == b"first" and not made
    panel.rate(GOOD)
    assert panel.picture.value == b"png" and panel.picture.layout.display == ""
    panel.rate(GOOD)
    assert panel.picture.layout.display == "none"


def saving_controls(panel):
    yield from (panel.undo_button, panel.shortcuts)
    yield from [panel.save_button, *panel.toggles.values()] if hasattr(panel, "toggles") else \
        panel.buttons.values()


@pytest.mark.parametrize("reads", [True, False], ids=["read-only", "a folder"])
def test_where_nothing_can_be_saved_the_panel_says_so_before_the_first_rating(
        tmp_path, monkeypatch, reads):
    path = tmp_path / "<ratings>.jsonl"
    store = RatingStore(path)
    if reads:
        rate_responses(ITEMS, store).rate(GOOD)
        compare_responses(PAIRS, store).choose("a")

        def refuse(_):
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(RatingStore, "_lock_file", refuse)
    else:
        path.mkdir()
    for panel in (rate_responses(ITEMS, store), compare_responses(PAIRS, store)):
        assert panel.done == (1 if reads else 0), "what is there is still read"
        assert "&lt;ratings&gt;.jsonl: nothing can be saved here" in panel.status.value
        assert ("read-only" if reads else "it is a folder") in panel.status.value
        assert "nothing can be saved here" in repr(panel)
        assert all(control.disabled for control in saving_controls(panel))
        panel.skip()
        assert "nothing can be saved here" in panel.status.value
        with pytest.raises(UserError, match="nothing can be saved here"):
            panel.rate(GOOD) if hasattr(panel, "rate") else panel.choose("a")
    monkeypatch.undo()
    for panel in (rate_responses(ITEMS, RatingStore(tmp_path / "good.jsonl")),
                  compare_responses(PAIRS, RatingStore(tmp_path / "good.jsonl"))):
        assert not any(c.disabled for c in saving_controls(panel) if c is not panel.undo_button)


def test_a_place_that_stops_taking_ratings_is_told_at_the_save(store, monkeypatch):
    panel = rate_responses(ITEMS, store)

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(portalocker, "lock", refuse)
    panel.rate(GOOD)
    assert panel.done == 0 and "Not saved" in panel.status.value
    assert "has no locks" in panel.status.value


def test_half_a_character_is_told_when_the_panel_is_built(store):
    with pytest.raises(UserError, match="Item 2: 'response' holds half of a character"):
        rate_responses([ITEMS[0], ITEMS[1] | {"response": "hi \ud83d"}], store)


def test_undo_takes_back_a_rating_that_was_corrected_in_a_file(store):
    panel = rate_responses(ITEMS, store)
    panel.rate(GOOD)
    [row] = store.rows()
    store.extend([row | {"ratings": dict.fromkeys(GOOD, 1)}])
    assert len(store.rows()) == 1 and rate_responses(ITEMS, store).done == 1
    panel.undo_button.click()
    assert store.rows() == [] and panel.done == 0 == rate_responses(ITEMS, store).done


def test_a_row_without_an_id_in_the_file_can_be_taken_back(store):
    panel = rate_responses(ITEMS, store)
    panel.rate(GOOD)
    row = {k: v for k, v in store.rows()[0].items() if k != "id"}
    store.path.write_text(json.dumps(row) + "\n")
    again = rate_responses(ITEMS, store)
    again.undo_button.click()
    assert store.rows() == [] and again.done == 0


# --------------------------------------------------------------------------------- comparison


def test_a_choice_is_stored_as_it_was_shown(store):
    panel = compare_responses(PAIRS, store)
    for choice in ("a", "b", "tie"):
        shown = panel.texts["a"].value, panel.texts["b"].value
        panel.buttons[choice].click()
        row = store.rows()[-1]
        assert (row["response_a"], row["response_b"], row["preference"]) == (*shown, choice)
        assert row["model_a"] == ("base" if row["response_a"].startswith("first") else "sft")


def test_the_order_is_random_and_stays_the_same_over_a_reload(store):
    first, orders = compare_responses(PAIRS, store), []
    again = compare_responses(PAIRS, store)
    other = compare_responses(PAIRS, store, annotator="bob")
    same = 0
    for _ in PAIRS:
        orders.append(first.texts["a"].value.startswith("first"))
        assert again.texts["a"].value == first.texts["a"].value
        same += other.texts["a"].value == first.texts["a"].value
        for panel in (first, again, other):
            panel.skip()
    assert 8 <= sum(orders) <= 32 and 8 <= same <= 32


def test_the_models_names_are_not_on_show(store):
    panel = compare_responses([PAIRS[0] | {"model_a": "NAME ONE", "model_b": "NAME TWO"}], store)
    assert not any("NAME" in text for text in texts(panel))


def test_comparing_by_keys_with_undo_and_resume(store):
    panel = compare_responses(PAIRS, store)
    for key in ("a", "b", "T", "x", "u"):
        panel.shortcuts.value = key
    assert [row["preference"] for row in store.rows()] == ["a", "b"]
    again = compare_responses(PAIRS, store)
    assert again.done == 2 and again.prompt.value == "prompt 2"


def test_both_panels_say_what_they_are_where_no_widget_can_be_shown(store):
    assert "0 of 4 done, source: human" in repr(rate_responses(ITEMS, store))
    assert "ComparisonPanel: 0 of 40" in repr(compare_responses(PAIRS, store))


# ------------------------------------------------------------------------------- ipywidgets 7

NOTEBOOK_RUN = """
import sys, ipykernel, ipywidgets, nbformat, nbclient
assert ipywidgets.__version__ == "7.7.1" and ipykernel.__version__.startswith("6.")
cell = '''
import sys
sys.path.insert(0, %r)
from helpers.feedback import RatingStore
from helpers.widgets import compare_responses, rate_responses
store = RatingStore("r.jsonl")
panel = rate_responses([{"prompt": "p", "response": "<b>r</b>"}], store)
pair = compare_responses([{"prompt": "p", "response_a": "x", "response_b": "y"}], store)
display(panel, pair)
panel.rate(dict(coherence=1, creativity=2, relevance=3, fluency=4))
pair.buttons["a"].click()
assert len(store.rows()) == 2
'''
book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
nbclient.NotebookClient(book, kernel_name="python3").execute()
views = [o["data"] for o in book.cells[0].outputs]
assert all("application/vnd.jupyter.widget-view+json" in view for view in views), views
print("both panels work under ipywidgets", ipywidgets.__version__)
"""


@pytest.mark.skipif(not os.environ.get("RLHF_WIDGETS7"),
                    reason="set RLHF_WIDGETS7=1 to test the panels under ipywidgets 7.7.1 and "
                           "ipykernel 6 in an environment of their own (needs pip's index)")
def test_panels_under_ipywidgets_7_and_ipykernel_6(tmp_path):
    """This file's tests, and both panels in a running kernel, with the versions Colab has."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    scripts = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    subprocess.run([scripts / "python", "-m", "pip", "install", "-q", "ipywidgets==7.7.1",
                    "ipykernel==6.17.1", "nbclient", "nbformat", "numpy", "portalocker", "pytest"],
                   check=True)
    environment = {key: value for key, value in os.environ.items()
                   if key not in ("RLHF_WIDGETS7", "PYTHONPATH", "JUPYTER_PATH")}
    environment |= {"PYTHONPATH": str(ROOT), "JUPYTER_PREFER_ENV_PATH": "1",
                    "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    for command in (["-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "-c",
                     os.devnull, "--rootdir", str(tmp_path), __file__],
                    ["-c", NOTEBOOK_RUN % str(ROOT)]):
        done = subprocess.run([scripts / "python", *command], env=environment, cwd=tmp_path,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_no_warning_is_given_by_either_panel(store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rate_responses(ITEMS, store).rate(GOOD)
        compare_responses(PAIRS, store).choose("a")
