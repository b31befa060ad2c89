"""`python -m helpers chat`: talk to a stage in the terminal, and say what you think of its answers.

What you see has passed the detectors of `quality`: an answer that they find broken is drawn again.
The log keeps every draw with its faults, so that the raw rate is known, and a thumb goes into a
rating store like those of the notebooks.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.engine import artifacts
from helpers.engine.dialogues import render_prompt
from helpers.errors import UserError, printable, saving
from helpers.profiles import Settings

SILENT = ("base", "classifier", "reward_model", "ppo_trl")  # answer no questions
FIRST = ("ppo", "sft")  # the first of these that is there is taken by default
TRIES = 4  # draws for one answer before the fallback is shown
THUMBS = {"/up": 5, "/down": 1}  # on the store's scale from 1 to 5
FALLBACK = "I have no good answer to that."
HELP = ("Type what you want to say. /up or /down rates the last answer, /again draws another one, "
        "/new begins a new dialogue, /quit ends.")


class Chat:
    """One dialogue with one model.

    settings: its `ppo` section says how long an answer may be and at which temperature it is drawn.
    stage: the model's name in the log and the store. filtered: draw again what is broken.
    folder: for `chat.jsonl` (the log: every draw) and `ratings.jsonl`; made when first needed.

    `drawn` counts draws, `broken` how often each fault was found in them.
    """

    def __init__(self, settings: Settings, model: Any, tokenizer: Any, stage: str, folder: Path,
                 annotator: str = "me", filtered: bool = True) -> None:
        from helpers.feedback import RatingStore

        self.settings, self.model, self.tokenizer, self.stage = settings, model, tokenizer, stage
        self.annotator, self.tries = annotator, TRIES if filtered else 1
        self.log = Path(folder) / "chat.jsonl"
        self.store = RatingStore(Path(folder) / "ratings.jsonl", ["thumb"])
        self.turns: list[dict[str, str]] = []
        self.last: tuple[str, str] | None = None  # prompt and answer that a thumb is about
        self.drawn, self.broken = 0, Counter()

    def say(self, text: str) -> str:
        """Take the next turn of the dialogue and return the answer.

        Raises:
            UserError: the dialogue has become too long for the model.
        """
        turns = [*self.turns, {"role": "user", "content": text}]
        answer = self._answer(render_prompt(turns), text)
        self.turns = [*turns, {"role": "assistant", "content": answer}]
        return answer

    def again(self) -> str:
        """Another answer to the last turn, in place of the one before."""
        if not self.turns:
            raise UserError("there is no answer yet to draw again; say something first.")
        *before, asked, _ = self.turns
        self.turns = before
        return self.say(asked["content"])

    def thumb(self, word: str) -> None:
        """Store `/up` or `/down` for the last answer: 5 or 1 of `thumb`."""
        from helpers.feedback import rating_row

        if self.last is None:
            raise UserError("there is no answer yet to rate; say something first.")
        prompt, answer = self.last
        self.store.append(rating_row(prompt, answer, {"thumb": THUMBS[word]}, model=self.stage,
                                     annotator=self.annotator, task="chat"))

    def raw_rate(self) -> str:
        """How many of the draws were broken, before any was drawn again: a sentence."""
        whole = self.drawn - self.broken["any"]
        faults = ", ".join(f"{name} {n}" for name, n in self.broken.most_common() if name != "any")
        return f"{whole} of {self.drawn} draws were sound" + (f"; {faults}" if faults else "")

    def _answer(self, prompt: str, asked: str) -> str:
        from helpers import quality
        from helpers.generation import sample

        task = self.settings.ppo
        for _ in range(self.tries):
            rollout = sample(self.model, self.tokenizer, [prompt], task.max_new_tokens,
                             task.temperature, seed=self.settings.seed + self.drawn)
            text, ended = rollout.texts[0].strip(), bool(rollout.finished[0])
            found = quality.faults(text, asked, ended)
            self.drawn += 1
            self.broken.update([*found, *(["any"] if found else [])])
            shown = not found or self.tries == 1
            self._note({"stage": self.stage, "prompt": prompt, "response": text, "ended": ended,
                        "faults": found, "shown": shown})
            if shown:
                self.last = (prompt, text)
                return text
        self.last = None
        return FALLBACK

    def _note(self, row: dict[str, Any]) -> None:
        with saving(self.log, "give another --out"):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def chosen_stage(settings: Settings, named: str | None = None) -> str:
    """The stage to talk to: the one named, or the furthest that is there.

    Raises:
        UserError: it is not there, or answers no questions.
    """
    known = [stage for stage in artifacts.MAKERS if stage not in SILENT]
    if named is not None and named not in known:
        raise UserError(f"{named!r} is no stage to talk to; there are {', '.join(known)}.")
    wanted = [named] if named else [*FIRST, *known]
    for stage in wanted:
        if artifacts.stage_info(stage, settings):
            return stage
    raise UserError(f"stage {wanted[0]} is not there under profile {settings.name}; make it with "
                    f"`python -m helpers run --notebooks {artifacts.MAKERS[wanted[0]][0]} "
                    f"--profile {settings.name}`.")


def talk(chat: Chat, read: Callable[[], str] = lambda: input("> ")) -> int:
    """The loop in the terminal until `/quit` or the end of the input; 0.

    A line that cannot be answered is one sentence, and the dialogue goes on.
    """
    words: dict[str, Callable[[], Any]] = {
        "/again": lambda: print(printable(chat.again())),
        "/new": lambda: chat.turns.clear(),
        "/help": lambda: print(HELP)}
    print(f"{HELP}\nStage {chat.stage}; draws go to {chat.log.name}, thumbs to "
          f"{chat.store.path.name}.")
    while True:
        try:
            line = read().strip()
        except (EOFError, KeyboardInterrupt):
            print()
            break
        try:
            if line == "/quit":
                break
            if line in THUMBS:
                chat.thumb(line)
            elif line.startswith("/"):
                words.get(line, words["/help"])()
            elif line:
                print(printable(chat.say(line)))
        except UserError as error:
            print(error, file=sys.stderr)
    print(chat.raw_rate())
    return 0


def main(settings: Settings, stage: str | None, annotator: str, filtered: bool) -> int:
    """Load the stage and talk."""
    from helpers import models
    from helpers.course.session import quiet

    quiet()
    chosen = chosen_stage(settings, stage)
    model, tokenizer = models.load_stage(settings, chosen)
    models.freeze(model)
    return talk(Chat(settings, model, tokenizer, chosen, settings.runs / "chat", annotator,
                     filtered))
