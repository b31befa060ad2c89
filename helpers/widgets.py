"""Panels in which a person rates or compares responses, on the widget API that ipywidgets 7.7 and
8.1 share.

The text of a response is only ever the value of a disabled text area, so nothing in it is read as
HTML, Markdown or LaTeX. A callback does one small thing; a row is on the disk before the next item
appears; nothing waits for a person. Values set from code (`panel.rate(…)`) go through the same
callbacks, so a run that has no person uses the same panel.

Keyboard: Tab and Shift+Tab move between controls, Enter or Space presses one. In the *keys* field
one key does one thing: for ratings a digit 1-5 for each dimension in turn, for comparisons `a`,
`b` or `t` (tie); `s` skips, `u` undoes.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np

from helpers.engine.values import is_whole_text
from helpers.errors import UserError
from helpers.feedback import DIMENSIONS, RatingStore, Row, preference_row, rating_row

Item = Mapping[str, Any]
FULL = {"width": "98%"}
# A disabled text area is greyed out; what is to be read must not be.
STYLE = """<style>.rlhf-text textarea:disabled { color: inherit; opacity: 1;
-webkit-text-fill-color: currentcolor; cursor: text; }</style>"""


class FeedbackPanel(widgets.VBox):
    """What both panels share: the queue of items, progress, skip, undo, keys and status.

    `done` counts the items with a row, `queue` holds the numbers of those without, the first of
    which is on show; `current` is that item or None at the end. Where the store cannot be written
    `problem` says why: then so does the panel, and what would save is disabled.
    """

    def __init__(
        self, items: Sequence[Item], store: RatingStore, annotator: str, source: str, task: str,
        controls: Sequence[widgets.Widget], hint: str,
    ) -> None:
        self.items, self.store = list(items), store
        self.annotator, self.source, self.task = annotator, source, task
        self.written: list[tuple[int, str]] = []
        self._typed = ""
        self._busy = False
        self.problem = _problem_of(store)

        self.progress = widgets.IntProgress(min=0, max=max(1, len(self.items)))
        self.count = widgets.HTML()
        self.status = widgets.HTML()
        self.prompt = _text_area("Prompt")
        self.picture = widgets.Image(
            format="png", layout={"align_self": "flex-start", "max_width": "100%"})
        self.skip_button = widgets.Button(description="Skip (s)", tooltip="Come back to it later")
        self.undo_button = widgets.Button(description="Undo (u)", tooltip="Take the last one back")
        self.shortcuts = widgets.Text(description="Keys:", placeholder=hint)
        self.skip_button.on_click(lambda _: self.skip())
        self.undo_button.on_click(lambda _: self.undo())
        self.shortcuts.observe(self._on_keys, "value")
        super().__init__([
            widgets.HBox([self.progress, self.count, widgets.HTML(STYLE)]), self.picture,
            self.prompt, *controls,
            widgets.HBox([self.skip_button, self.undo_button, self.shortcuts]), self.status])
        self._resume()
        self._show()
        if self.problem:
            self._say("")

    # What a subclass fills in; `_press` obeys the first command among the keys and returns how
    # many of them it used up.

    def _key_of(self, item: Item) -> tuple[str, ...]:
        raise NotImplementedError

    def _key_of_row(self, row: Row) -> tuple[str, ...] | None:
        raise NotImplementedError

    def _fill(self, item: Item | None) -> None:
        raise NotImplementedError

    def _press(self, keys: str) -> int:
        raise NotImplementedError

    def __repr__(self) -> str:
        hint = self.problem or "run this notebook to see the panel"
        return (f"{type(self).__name__}: {self.done} of {len(self.items)} done, "
                f"source: {self.source} ({hint})")

    @property
    def current(self) -> Item | None:
        return self.items[self.queue[0]] if self.queue else None

    @property
    def done(self) -> int:
        return len(self.items) - len(self.queue)

    def skip(self) -> None:
        """Put the item on show at the end of the queue; nothing is written."""
        if self.queue:
            self.queue.append(self.queue.pop(0))
            self._say("Skipped; it comes back at the end.")
            self._show()

    def undo(self) -> None:
        """Take back the last row that this annotator wrote here, and show its item again."""
        if not self.written:
            self._say("Nothing to undo.")
            return
        number, row_id = self.written[-1]
        if self._saved(lambda: self.store.retract(row_id, self.annotator, self.source, self.task)):
            self.written.pop()
            self.queue.insert(0, number)
            self._say("Taken back.")
            self._show()

    def _resume(self) -> None:
        known = {}
        try:
            rows = self.store.rows(task=self.task, annotator=self.annotator, source=self.source)
        except UserError:
            if not self.problem:
                raise
            rows = []  # neither to be read nor to be written; the panel says why
        for row in rows:
            if (key := self._key_of_row(row)) is not None:
                known[key] = row["id"]
        keys = [self._key_of(item) for item in self.items]
        self.queue = [n for n, key in enumerate(keys) if key not in known]
        order = {row_id: place for place, row_id in enumerate(known.values())}
        self.written = sorted(((n, known[key]) for n, key in enumerate(keys) if key in known),
                              key=lambda pair: order[pair[1]])
        if self.written:
            self._say(f"Resumed: {self.done} done earlier.")

    def _write(self, row: dict[str, Any]) -> None:
        if self._saved(lambda: self.written.append((self.queue[0], self.store.append(row)))):
            self.queue.pop(0)
            self._say("Saved.")
            self._show()

    def _saved(self, write: Callable[[], Any]) -> bool:
        try:
            write()
        except (OSError, UserError) as error:
            self._say(f"Not saved, still on this item: {error}")
            return False
        return True

    def _say(self, text: str) -> None:
        who = " · simulated annotator" if self.source == "simulated" else ""
        self.status.value = html.escape(f"{self.problem or text}{who}")

    def _refuse(self) -> None:
        """What is to be saved from code is not lost without a word."""
        if self.problem:
            raise UserError(self.problem)

    def _show(self) -> None:
        item = self.current
        self.progress.value = self.done
        self.count.value = html.escape(f"{self.done} of {len(self.items)} done")
        self.undo_button.disabled = not self.written or bool(self.problem)
        self.shortcuts.disabled = bool(self.problem)
        self.skip_button.disabled = len(self.queue) < 2
        self._busy = True
        try:
            image = (item or {}).get("image")
            self.picture.value = (image() if callable(image) else image) or b""
            self.picture.layout.display = "" if image else "none"
            _set_text(self.prompt, str(item["prompt"]) if item else "All done. Thank you.")
            self._fill(item)
        finally:
            self._busy = False

    def _on_keys(self, change: Mapping[str, Any]) -> None:
        text = change["new"]
        if self._busy:
            return
        # Keys used up come back in front of new ones that were typed before the browser emptied
        # the field; several keys may arrive at once.
        if len(text) <= len(self._typed) or not text.startswith(self._typed):
            self._typed = ""
        rest = fresh = text[len(self._typed):]
        while rest and (used := self._press(rest.lower())):
            rest = rest[used:]
        if len(rest) < len(fresh):
            self._typed = text[:len(text) - len(rest)]
            self._busy = True
            self.shortcuts.value = rest
            self._busy = False


class RatingPanel(FeedbackPanel):
    """The panel of `rate_responses`; `toggles` maps each dimension to its ToggleButtons."""

    def __init__(
        self, items: Sequence[Item], store: RatingStore, dimensions: Sequence[str],
        annotator: str, source: str, task: str, autosave: bool,
    ) -> None:
        self.dimensions, self.autosave = tuple(dimensions), autosave
        self.response = _text_area("Response")
        self.toggles = {name: widgets.ToggleButtons(
            options=[1, 2, 3, 4, 5], value=None, style={"button_width": "44px"},
            tooltips=[f"{name}: {n} of 5" for n in range(1, 6)],
        ) for name in self.dimensions}
        rows = [widgets.HBox([widgets.HTML(html.escape(name), layout={"width": "90px"}), toggle])
                for name, toggle in self.toggles.items()]
        self.save_button = widgets.Button(description="Save and next", button_style="primary")
        self.save_button.on_click(lambda _: self.save())
        for toggle in self.toggles.values():
            toggle.observe(self._on_toggle, "value")
        super().__init__(items, store, annotator, source, task,
                         [self.response, *rows, self.save_button],
                         "1-5 for each, s, u")

    def rate(self, ratings: Mapping[str, int]) -> None:
        """Set the values from code and save, through the callbacks a mouse would trigger.

        Raises UserError where the store cannot be written.
        """
        self._refuse()
        for name, value in ratings.items():
            self.toggles[name].value = value
        if not self.autosave:
            self.save_button.click()

    def save(self) -> None:
        """Write the row of the item on show, if every dimension has a value."""
        ratings = {name: toggle.value for name, toggle in self.toggles.items()
                   if toggle.value is not None}
        missing = [name for name in self.toggles if name not in ratings]
        if self.current is None or missing:
            self._say("Nothing left to rate." if self.current is None else
                      f"Not saved yet: {', '.join(missing)} still to rate.")
            return
        item = self.current
        self._write(rating_row(
            str(item["prompt"]), str(item["response"]), ratings, annotator=self.annotator,
            source=self.source, model=str(item.get("model", "")), task=self.task))

    def _on_toggle(self, change: Mapping[str, Any]) -> None:
        if self._busy or change["new"] is None:
            return
        complete = all(toggle.value is not None for toggle in self.toggles.values())
        if complete and self.autosave:
            self.save()

    def _press(self, keys: str) -> int:
        digits: list[int] = []
        for used, key in enumerate(keys, 1):
            if key in "su":
                (self.skip if key == "s" else self.undo)()
                return used
            if key in "12345":
                digits.append(int(key))
            if len(digits) == len(self.dimensions):
                self._set(digits)
                self.save()
                return used
        self._set(digits)
        return 0

    def _set(self, digits: Sequence[int]) -> None:
        self._busy = True
        for toggle, value in zip(self.toggles.values(), digits, strict=False):
            toggle.value = value
        self._busy = False

    def _fill(self, item: Item | None) -> None:
        # The text comes last: who sees it may press at once, and a browser that is behind would
        # otherwise clear what was pressed together with the old ratings.
        for toggle in self.toggles.values():
            toggle.value = None
            toggle.disabled = item is None or bool(self.problem)
        # Never disabled for want of a value: somebody quick at the Tab key would pass over it.
        self.save_button.disabled = item is None or bool(self.problem)
        _set_text(self.response, str(item["response"]) if item else "")

    def _key_of(self, item: Item) -> tuple[str, ...]:
        return str(item["prompt"]), str(item["response"])

    def _key_of_row(self, row: Row) -> tuple[str, ...] | None:
        return (row["prompt"], row["response"]) if "ratings" in row else None


class ComparisonPanel(FeedbackPanel):
    """The panel of `compare_responses`; `buttons` maps "a", "tie" and "b" to a Button each."""

    def __init__(
        self, items: Sequence[Item], store: RatingStore, annotator: str, source: str, task: str,
        seed: int,
    ) -> None:
        self.seed = seed
        self.texts = {"a": _text_area("A"), "b": _text_area("B")}
        self.buttons = {
            "a": widgets.Button(description="A is better (a)"),
            "tie": widgets.Button(description="Tie (t)"),
            "b": widgets.Button(description="B is better (b)"),
        }
        for name, button in self.buttons.items():
            button.on_click(lambda _, name=name: self.choose(name))
        super().__init__(items, store, annotator, source, task,
                         [*self.texts.values(), widgets.HBox(list(self.buttons.values()))],
                         "a, b, t, s, u")

    def shown(self) -> tuple[tuple[str, str], tuple[str, str]] | None:
        """(response, model) on show as A and as B; the order is drawn per annotator and item."""
        item = self.current
        if item is None:
            return None
        pair = [(str(item[f"response_{side}"]), str(item.get(f"model_{side}", "")))
                for side in "ab"]
        text = "\0".join([str(self.seed), self.annotator, *map(str, self._key_of(item))])
        swap = hashlib.sha256(text.encode("utf-8", "replace")).digest()[0] % 2
        first, second = pair[::-1] if swap else pair
        return first, second

    def choose(self, preference: str) -> None:
        """Write the choice "a", "b" or "tie" for the pair on show.

        Raises UserError where the store cannot be written.
        """
        self._refuse()
        item, shown = self.current, self.shown()
        if item is None or shown is None:
            self._say("Nothing left to compare.")
            return
        (text_a, model_a), (text_b, model_b) = shown
        self._write(preference_row(
            str(item["prompt"]), text_a, text_b, preference, annotator=self.annotator,
            source=self.source, model_a=model_a, model_b=model_b, task=self.task))

    def _press(self, keys: str) -> int:
        if keys[0] in "su":
            (self.skip if keys[0] == "s" else self.undo)()
        elif keys[0] in "abt":
            self.choose("tie" if keys[0] == "t" else keys[0])
        return 1

    def _fill(self, item: Item | None) -> None:
        pair = self.shown() or (("", ""), ("", ""))
        for area, (text, _) in zip(self.texts.values(), pair, strict=True):
            _set_text(area, text)
        for button in self.buttons.values():
            button.disabled = item is None or bool(self.problem)

    def _key_of(self, item: Item) -> tuple[str, ...]:
        return (str(item["prompt"]), *sorted((str(item["response_a"]), str(item["response_b"]))))

    def _key_of_row(self, row: Row) -> tuple[str, ...] | None:
        if "preference" not in row:
            return None
        return (row["prompt"], *sorted((row["response_a"], row["response_b"])))


def rate_responses(
    items: Sequence[Item],
    store: RatingStore,
    *,
    annotator: str = "me",
    dimensions: Sequence[str] = DIMENSIONS,
    source: str = "human",
    task: str = "responses",
    autosave: bool = False,
) -> RatingPanel:
    """A panel to rate responses 1-5 on each dimension; show it with `display(panel)`.

    items: dicts of `prompt`, `response`, and where known `model` and `image` (the bytes of a PNG,
    or a function that makes them). Items that this annotator has rated in this store under this
    task are not asked again. With `autosave` an item is saved as soon as its last dimension is
    set; otherwise by *Save and next*.
    """
    _check_items(items, ("prompt", "response"))
    return RatingPanel(items, store, dimensions, annotator, source, task, autosave)


def compare_responses(
    items: Sequence[Item],
    store: RatingStore,
    *,
    annotator: str = "me",
    source: str = "human",
    task: str = "comparisons",
    seed: int = 0,
) -> ComparisonPanel:
    """A panel to choose between two responses, blind and in random order.

    items: dicts of `prompt`, `response_a`, `response_b`, and where known `model_a`, `model_b`,
    which are stored and not shown. The row holds the two responses in the order shown.
    """
    _check_items(items, ("prompt", "response_a", "response_b"))
    return ComparisonPanel(items, store, annotator, source, task, seed)


def _check_items(items: Sequence[Item], names: Sequence[str]) -> None:
    for number, item in enumerate(items, 1):
        if missing := [name for name in names if name not in item]:
            raise UserError(f"Item {number} has no {missing[0]!r}: an item needs "
                            f"{', '.join(names)}.")
        for name in names:
            if not is_whole_text(str(item[name])):
                raise UserError(f"Item {number}: {name!r} holds half of a character (a lone "
                                "surrogate), which no file can hold; mend the text first.")


def _problem_of(store: RatingStore) -> str:
    """Why no rating could be saved, or "" where it can."""
    try:
        store.check_writable()
    except UserError as error:
        return str(error)
    return ""


def _text_area(description: str) -> widgets.Textarea:
    area = widgets.Textarea(description=description, disabled=True, layout=FULL)
    area.add_class("rlhf-text")
    return area


def _set_text(area: widgets.Textarea, text: str) -> None:
    lines = sum(1 + len(line) // 90 for line in text.split("\n"))
    area.rows = int(np.clip(lines, 1, 14))
    area.value = text
