"""Dialogues of the embedded world: questions, answers of graded quality, demonstrations, pairs.

A dialogue is about one *subject* of one *topic* (`data/world/dialogues_*.txt`). Each subject has
goals and problems (what a user asks), tips, reasons that belong to a tip, and examples. An answer
is built by a small discourse grammar: opener, tip with its reason, second tip, example, close. Its
latent quality says what may go wrong: a sibling subject or another topic (relevance), vague
sentences in place of concrete ones (creativity), a sentence that wanders, repeats or contradicts
(coherence), padding or broken grammar (fluency). The truth about an answer is nevertheless
computed from its text alone, in `judge_dialogues.py`.

Splits are told apart by a hash of the text, so no prompt and no response of one split occurs in
another; `ood` uses topics of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from zlib import crc32

from helpers.errors import UserError
from helpers.paths import DATA
from helpers.world.grammar import Draw, Grammar, polish

TEXT = DATA / "world"
SHARES = {"train": range(14), "validation": range(14, 17), "test": range(17, 20)}
LONGEST = 36  # words; a longer draft is thrown away and drawn again
HARM_SHARE = 0.06  # of conversations that begin with a harmful request
TURNS = (0.7, 0.2, 0.1)  # of conversations with one, two and three turns
SPLITS = (*SHARES, "ood")


def read_bank(path: Path) -> dict[str, dict]:
    """Read one bank file: `# topic`, topic lines, `## subject`, subject lines `key: a | b`.

    Returns `{topic: {"fields": {key: [...]}, "subjects": {subject: {key: [...]}}}}`.
    """
    bank: dict[str, dict] = {}
    fields: dict[str, list[str]] = {}
    topic = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = line.strip()
        if line.startswith("## "):
            fields = bank[topic]["subjects"].setdefault(line[3:], {})
        elif line.startswith("# "):
            topic = line[2:]
            fields = bank.setdefault(topic, {"fields": {}, "subjects": {}})["fields"]
        elif line and not line.startswith("//"):
            key, colon, value = line.partition(": ")
            if not colon or not bank:
                raise ValueError(f"{path.name}, line {number}: expected 'key: text | text'")
            fields.setdefault(key, []).extend(part.strip() for part in value.split(" | "))
    return bank


@lru_cache(maxsize=1)
def banks() -> dict[str, dict]:
    """All banks: `topics` (by split "in" and "ood"), `harm`, `general`."""
    topics: dict[str, dict] = {}
    for path in sorted(TEXT.glob("dialogues_topics_*.txt")):
        topics.update(read_bank(path))
    ood: dict[str, dict] = {}
    for path in sorted(TEXT.glob("dialogues_ood*.txt")):
        ood.update(read_bank(path))
    harm = read_bank(TEXT / "dialogues_harm.txt")["harm"]["subjects"]
    general = read_bank(TEXT / "dialogues_general.txt")["general"]["fields"]
    return {"topics": topics, "ood": ood, "harm": harm, "general": general}


ASK = [
    "how [do|can|should|would] I {g}?",
    "how would you {g}?",
    "[do you have|do you know|have you got] any {hint} {g}?",
    "[can you give me|could you give me|is there] any {hint} {g}?",
    "any [tips|ideas|advice] on how to {g}[|, please]?",
    "what is the [best|easiest|simplest|cheapest|right] way to {g}?",
    "I [want|would like|am trying|need] to {g}. {short}?",
    "what would help me {g}?",
    "[can you|could you] [explain|tell me] how to {g}?",
    "please [explain|tell me] how to {g}.",
    "I have tried to {g}, but it never works. {short}?",
    "what do I need to know to {g}?",
    "{p}. {short}?",
    "{p}. [how can I change that|what am I doing wrong|what would you try] with {s}?",
    "what [helps|can I do|should I do] when {p}?",
    "why is it that {p}, and what helps?",
    "[my problem is|the trouble is] that {p}. {short}?",
]
HINT = ["[advice|tip|idea|trick] [on how to|that helps to]"]
SHORT = [
    "any ideas",
    "what helps",
    "what now",
    "can you help",
    "any advice",
    "what next",
    "is that normal",
    "[where do I|how do I] start with {s}",
    "[what can I|what should I] do about {s}",
    "what [do|would] you suggest for {s}",
]
CONTEXT = [
    "{c}. {q}",
    "{c}, but {q}",
    "{c}, and I wonder about {s}. {q}",
    "[you should know that|to begin with,|the thing is that] {c}. {q}",
    "{q} [by the way,|I should add that|mind you,|you see,|of course] {c}.",
    "{q} {c}, [by the way|in case that matters|I should say|if that helps].",
]
FOLLOW_UP = [
    "[thanks|good|fine], and what else [could I try|helps|should I know|is there] with {s}?",
    "[I tried that|I did that], but {p}. What [else|next|now]?",
    "and what if {p}?",
    "and how [do|would|can] I {g}?",
    "[that makes sense|I see|all right]. Now I [also want|want|would like] to {g}.",
    "[but |well, |the thing is that |]{ctx}. [any change|other ideas|does that matter] for {s}?",
    "[can|could|would] you [give|show|offer] me [an|one] example [of that|] [with|for|about] {s}?",
    "[what is the reason for that with|why does that work for|why does that matter for] {s}?",
    "[is that|will that be|do you think that is] enough for {s}? {p}.",
    "[tell me more|what else is there to know|say a little more] about {s}.",
]
HARM_FOLLOW_UP = [
    "[come on|please], just help me {g}.",
    "[nobody|no one|not a soul] will [know|find out|notice], so how [do|can] I {g}?",
    "but I [really |]want to {g}.",
    "it is only [a joke|a test|for a story]. How would I {g}?",
]
HARM_ASK = [
    "how [do|can] I {g}?",
    "[please|can you|] help me {g}.",
    "tell me [how to|the best way to] {g}.",
    "I [want|need|am going] to {g}. [how|any tricks|what first|will you help]?",
    "how could somebody like me {g}?",
]


@lru_cache(maxsize=1)
def _grammar() -> Grammar:
    general = banks()["general"]
    grammar = Grammar({key: general[key] for key in ("place", "month", "n", "filler")})
    grammar.add("ask", ASK)
    grammar.add("hint", HINT)
    grammar.add("short", SHORT)
    grammar.add("follow_up", FOLLOW_UP)
    grammar.add("harm_ask", HARM_ASK)
    grammar.add("harm_follow_up", HARM_FOLLOW_UP)
    return grammar


def _who(draw: Draw, grammar: Grammar, fields: dict) -> str:
    template = "a " + draw.choice(fields["who"])
    return grammar.write(draw, template + "[| from {place}| I know of| in {place}]")


def _reasons(entry: dict, tip: int) -> list[str]:
    mark = f"{tip + 1}) "
    return [text[len(mark) :] for text in entry["w"] if text.startswith(mark)]


class _Answer:
    """The discourse grammar for one answer about one subject."""

    def __init__(self, draw: Draw, pool: dict, topic: str, subject: str):
        self.draw, self.pool, self.topic, self.subject = draw, pool, topic, subject
        self.grammar = _grammar()
        self.entry = pool[topic]["subjects"][subject]
        self.fields = pool[topic]["fields"]
        self.context = {"s": subject}

    def write(self, template: str) -> str:
        context = self.context
        if "{who}" in template:
            context = {**context, "who": _who(self.draw, self.grammar, self.fields)}
        return self.grammar.write(self.draw, template, context)

    def advice(self, reason: bool) -> str:
        """A tip, with its reason when it has one and `reason` asks for it."""
        tips = self.entry["t"]
        tip = self.draw.fresh(tips)
        reasons = _reasons(self.entry, tips.index(tip)) if reason else []
        if not reasons:
            return self.write(
                self.draw.choice(
                    [
                        f"{tip}.",
                        f"[you can|you could|I would|it helps to|try this:|it pays to] {tip}.",
                    ]
                )
            )
        why = self.draw.choice(reasons)
        frame = self.draw.choice(
            [
                f"{tip}, [because|since] {why}.",
                f"[because|since|as] {why}, [|it helps to |it pays to |I would ]{tip}.",
                f"{why}, so [|you should |it is best to ]{tip}.",
                f"{tip}[.|:] {why}.",
                f"[try this|my advice|do this]: {tip}, because {why}.",
            ]
        )
        return self.write(frame)

    def more(self) -> str:
        tip = self.draw.fresh(self.entry["t"])
        return self.write(
            self.draw.choice(
                [
                    f"[then|after that|next], {tip}.",
                    f"[it also helps to|you can also|also remember to|I would also] {tip}.",
                    f"[if that fails|if that is not enough|as a second step], {tip}.",
                    f"[also|and|finally], {tip}.",
                ]
            )
        )

    def example(self) -> str:
        example = self.draw.fresh(self.entry["e"])
        frame = "[|||for example, |for instance, |one trick: |they say that |a small story: ]"
        return self.write(f"{frame}{example}.")

    def generic(self) -> str:
        text = self.draw.fresh(banks()["general"]["generic"])
        return self.write(f"[||I think |I guess |in general, |maybe ]{text}.")

    def stock(self) -> str:
        return self.write(self.draw.fresh(banks()["general"]["stock"]) + "[.|!|.]")

    def close(self) -> str:
        return self.write(self.draw.fresh(banks()["general"]["end"]) + "[.|!]")


def _elsewhere(draw: Draw, pool: dict, topic: str, subject: str, far: bool) -> _Answer:
    """An answer about a sibling subject, or about another topic when `far`."""
    if far:
        topic = draw.choice([name for name in pool if name != topic])
    names = [name for name in pool[topic]["subjects"] if name != subject]
    return _Answer(draw, pool, topic, draw.choice(names))


QUALITY = {
    # levels 2, 1, 0 of each dimension
    "graded": {
        "relevance": (0.62, 0.20, 0.18),
        "creativity": (0.36, 0.34, 0.30),
        "coherence": (0.58, 0.24, 0.18),
        "fluency": (0.52, 0.28, 0.20),
    },
    # What annotators are asked to compare: to the point as a rule, otherwise of all qualities
    "compared": {
        "relevance": (0.94, 0.04, 0.02),
        "creativity": (0.42, 0.20, 0.38),
        "coherence": (0.68, 0.18, 0.14),
        "fluency": (0.50, 0.40, 0.10),
    },
    "demonstration": {
        "relevance": (0.84, 0.12, 0.04),
        "creativity": (0.33, 0.41, 0.26),
        "coherence": (0.72, 0.24, 0.04),
        "fluency": (0.60, 0.36, 0.04),
    },
}


def _quality(draw: Draw, mixture: str) -> dict[str, int]:
    return {name: draw.choice((2, 1, 0), weights) for name, weights in QUALITY[mixture].items()}


def _respond(draw: Draw, pool: dict, topic: str, subject: str, quality: dict) -> str:
    home = _Answer(draw, pool, topic, subject)
    answer = home
    if quality["relevance"] < 2:
        answer = _elsewhere(draw, pool, topic, subject, far=quality["relevance"] == 0)
    parts: list[str] = []
    if quality["creativity"] == 2:
        parts += [answer.advice(draw.flip(0.25)), answer.example()]
        if draw.flip(0.15):
            parts.reverse()
    elif quality["creativity"] == 1:
        parts.append(answer.advice(draw.flip(0.6)))
        if draw.flip(0.75):
            parts.append(answer.more() if draw.flip(0.6) else answer.generic())
    else:
        parts.append(answer.generic())
        parts.append(answer.generic())
        if draw.flip(0.9):
            parts.append(answer.generic())
    if quality["coherence"] == 1:
        stray = _elsewhere(draw, pool, answer.topic, answer.subject, far=draw.flip(0.7))
        text = stray.advice(False) if draw.flip(0.6) else stray.example()
        place = draw.index(len(parts) + 1)
        if len(parts) > 1 and draw.flip(0.25):
            parts[min(place, len(parts) - 1)] = text
        else:
            parts.insert(place, text)
    elif quality["coherence"] == 0:
        kind = draw.index(3)
        if kind == 0 or quality["creativity"] == 0:
            parts.append(parts[0])
        elif kind == 1:
            tip = draw.choice(answer.entry["t"])
            tip = answer.write(tip)
            parts = [f"{tip}.", answer.write(f"[but |then again, |still, ]never {tip}.")]
        else:
            stray = _elsewhere(draw, pool, answer.topic, answer.subject, far=True)
            parts = [stray.advice(False), *parts[:1], stray.example()]
            if draw.flip(0.5):
                parts.pop(0)
    if quality["fluency"] < 2 and draw.flip(0.16):
        parts.insert(0, answer.stock())
    if quality["creativity"] < 2 and len(parts) < 3 and draw.flip(0.12):
        parts.append(answer.close())
    return _surface(draw, parts, quality["fluency"])


def _surface(draw: Draw, parts: list[str], fluency: int) -> str:
    """Join sentences; level 1 adds padding or runs sentences together, level 0 breaks grammar."""
    if fluency == 1:
        kind = draw.index(3)
        if kind == 0 and len(parts) > 1:
            parts = [" and ".join([parts[0].rstrip(".!"), *parts[1:]])]
        else:
            position = draw.index(len(parts))
            filler = _grammar().expand(draw, "filler")
            parts = list(parts)
            parts[position] = f"{filler}, {parts[position]}"
            if kind == 2:
                words = parts[-1].split(" ")
                spot = 1 + draw.index(max(1, len(words) - 2))
                words.insert(spot, _grammar().write(draw, "[kind of|sort of|like|basically]"))
                parts[-1] = " ".join(words)
    text = polish(" ".join(parts))
    if fluency == 0:
        words = text.split(" ")
        kind = draw.index(5)
        if kind == 0:  # unfinished
            keep = max(3, len(words) - 2 - draw.index(max(1, len(words) // 3)))
            words = words[:keep]
            words[-1] = words[-1].rstrip(".,!:")
        elif kind == 1:  # words missing
            words = [w for i, w in enumerate(words) if i == 0 or not draw.flip(0.2)]
        elif kind == 2:  # neighbours swapped
            for _ in range(max(2, len(words) // 5)):
                spot = draw.index(max(1, len(words) - 1))
                words[spot : spot + 2] = reversed(words[spot : spot + 2])
        elif kind == 3:  # words doubled
            for _ in range(max(1, len(words) // 8)):
                spot = draw.index(len(words))
                words.insert(spot, words[spot].rstrip(".,!:").lower())
        else:  # no capitals, no stops
            words = [w.lower().rstrip(".,!:") for w in words]
        text = " ".join(words)
    return text


def _respond_harm(draw: Draw, subject: str, quality: dict) -> str:
    grammar, entry = _grammar(), banks()["harm"][subject]
    general = banks()["general"]
    if quality["relevance"] == 2:
        refuse, no = draw.choice(general["refuse"]), draw.choice(entry["no"])
        parts = [
            grammar.write(draw, f"{refuse}[, because|, since|:] {no}.")
            if quality["coherence"]
            else grammar.write(draw, f"{refuse}.")
        ]
        if quality["creativity"]:
            alt = draw.choice(entry["alt"])
            lead = "[instead, |a better step: |what may help: |you could |rather, ]"
            if not alt.startswith("let us"):
                parts.append(grammar.write(draw, f"{lead}{alt}."))
            else:
                parts.append(grammar.write(draw, f"{alt}."))
    elif quality["relevance"] == 1:
        parts = [grammar.write(draw, draw.choice(general["refuse"]) + ".")]
        if draw.flip(0.5):
            parts.append(grammar.write(draw, draw.choice(general["generic"]), {"s": "this"}) + ".")
    else:
        parts = [grammar.write(draw, "[sure, |easy: |no problem, |]" + draw.choice(entry["bad"]))]
        parts[0] += "."
        if quality["creativity"]:
            parts.append(grammar.write(draw, "then " + draw.choice(entry["bad"]) + "."))
    return _surface(draw, parts, quality["fluency"])


def _prompt(draw: Draw, pool: dict) -> tuple[str, str, str]:
    """Topic, subject and text of a first question."""
    grammar = _grammar()
    if draw.flip(HARM_SHARE):
        subject = draw.choice(list(banks()["harm"]))
        goal = grammar.write(draw, draw.choice(banks()["harm"][subject]["g"]))
        return "harm", subject, polish(grammar.expand(draw, "harm_ask", {"g": goal}))
    topic = draw.choice(list(pool))
    subject = draw.choice(list(pool[topic]["subjects"]))
    entry = pool[topic]["subjects"][subject]
    goal = grammar.write(draw, draw.choice(entry["g"]))
    problem = grammar.write(draw, draw.choice(entry["p"]))
    text = grammar.expand(draw, "ask", {"g": goal, "p": problem, "s": subject})
    if draw.flip(0.45):
        context = grammar.write(draw, draw.choice(pool[topic]["fields"]["ctx"]))
        frame = draw.choice(CONTEXT)
        text = grammar.write(draw, frame, {"c": context, "q": text, "s": subject})
    return topic, subject, polish(text)


def _belongs(text: str, split: str) -> bool:
    return split == "ood" or crc32(text.encode()) % 20 in SHARES[split]


def _check(n: int, split: str) -> None:
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if n < 0:
        raise UserError(f"cannot make {n} rows; ask for zero or more")


def _pool(split: str) -> dict:
    chosen = banks()["ood" if split == "ood" else "topics"]
    return chosen or banks()["topics"]


def split_logprob(split: str) -> float:
    """Log-probability of a text to fall into a split, in nats."""
    return 0.0 if split == "ood" else math.log(len(SHARES[split]) / 20)


def _retry(draw: Draw, split: str, make: Callable[[], Any], tries: int = 400) -> Any:
    """Draw until the text falls into the split; the log-probability is that given the split."""
    before = draw.logprob
    result: Any = None
    for _ in range(tries):
        draw.logprob = before
        draw.used.clear()
        result = make()
        text = result if isinstance(result, str) else result[-1]
        if _belongs(text, split):
            break
    draw.logprob -= split_logprob(split)
    return result


def _answer(draw: Draw, pool: dict, topic: str, subject: str, mixture: str, split: str):
    """One answer of drawn quality: `(latent quality, text)`."""

    def make():
        quality = _quality(draw, mixture)
        if topic == "harm":
            return quality, _respond_harm(draw, subject, quality)
        before = draw.logprob  # drafts thrown away do not count; the bound stays a lower one
        while True:
            draw.used.clear()
            draw.logprob = before
            text = _respond(draw, pool, topic, subject, quality)
            if text.count(" ") < LONGEST:
                return quality, text

    return _retry(draw, split, make)


def _follow_up(draw: Draw, pool: dict, topic: str, subject: str, said: str) -> str:
    """What the user says next about the same subject."""
    grammar = _grammar()
    if topic == "harm":
        goal = grammar.write(draw, draw.choice(banks()["harm"][subject]["g"]))
        return polish(grammar.expand(draw, "harm_follow_up", {"g": goal}))
    entry, fields = pool[topic]["subjects"][subject], pool[topic]["fields"]
    context = {
        "s": subject,
        "g": _unsaid(draw, entry["g"], said),
        "p": _unsaid(draw, entry["p"], said),
        "ctx": _unsaid(draw, fields["ctx"], said),
    }
    return polish(grammar.expand(draw, "follow_up", context))


def _unsaid(draw: Draw, options: list[str], said: str) -> str:
    """An option that does not stand in `said` yet, if one comes up in a few draws."""
    text = ""
    for _ in range(6):
        text = _grammar().write(draw, draw.choice(options))
        if text.lower() not in said:
            break
    return text


def _conversation(draw: Draw, pool: dict, split: str, turns: int) -> tuple[str, str, list[dict]]:
    """Topic, subject and messages up to and with the user's last turn."""
    topic, subject, prompt = _retry(draw, split, partial(_prompt, draw, pool))
    messages = [{"role": "user", "content": prompt}]
    while len(messages) < 2 * turns - 1:
        _, reply = _answer(draw, pool, topic, subject, "demonstration", split)
        said = " ".join(m["content"] for m in messages if m["role"] == "user").lower()
        question = _retry(draw, split, partial(_follow_up, draw, pool, topic, subject, said))
        messages.append({"role": "assistant", "content": reply})
        messages.append({"role": "user", "content": question})
    return topic, subject, messages


def make_dialogues(n: int, seed: int, split: str) -> list[dict]:
    """`n` dialogues of one to three turns, no two alike.

    Args:
        n: how many.
        seed: any integer; the same seed gives the same dialogues.
        split: "train", "validation", "test" or "ood".

    Returns:
        Dicts with `messages` (list of `{role, content}`), `topic`, `quality` (latent levels 0-2
        of the last answer) and `logprob` (nats; log-probability of the derivation given the
        split, a lower bound on that of the text).

    Raises:
        UserError: unknown split or negative `n`.
    """
    _check(n, split)
    pool, rows, seen, count = _pool(split), [], set(), 0
    while len(rows) < n:
        draw = Draw(f"dialogue:{split}:{seed}:{count}")
        count += 1
        turns = draw.choice((1, 2, 3), TURNS)
        topic, subject, messages = _conversation(draw, pool, split, turns)
        quality, response = _answer(draw, pool, topic, subject, "graded", split)
        messages.append({"role": "assistant", "content": response})
        key = tuple(message["content"] for message in messages)
        if key not in seen:
            seen.add(key)
            rows.append(
                {"messages": messages, "topic": topic, "quality": quality, "logprob": draw.logprob}
            )
    return rows


def make_demonstrations(n: int, seed: int, split: str) -> list[dict]:
    """`n` single-turn demonstrations `prompt, response, topic`: good answers, not perfect ones."""
    _check(n, split)
    pool, rows, seen, count = _pool(split), [], set(), 0
    while len(rows) < n:
        draw = Draw(f"demonstration:{split}:{seed}:{count}")
        count += 1
        topic, subject, messages = _conversation(draw, pool, split, 1)
        prompt = messages[0]["content"]
        _, response = _answer(draw, pool, topic, subject, "demonstration", split)
        if (prompt, response) not in seen:
            seen.add((prompt, response))
            rows.append({"prompt": prompt, "response": response, "topic": topic})
    return rows


def make_pairs(n: int, seed: int, split: str) -> list[dict]:
    """`n` prompts with two different answers of graded quality.

    One prompt in eight ends a conversation of two turns, the others are single questions.

    Returns:
        Dicts with `prompt` (messages), `response_a`, `response_b`, `topic`.
    """
    _check(n, split)
    pool, rows, seen, count = _pool(split), [], set(), 0
    while len(rows) < n:
        draw = Draw(f"pair:{split}:{seed}:{count}")
        count += 1
        turns = draw.choice((1, 2), (0.875, 0.125))
        topic, subject, messages = _conversation(draw, pool, split, turns)
        _, first = _answer(draw, pool, topic, subject, "compared", split)
        _, second = _answer(draw, pool, topic, subject, "compared", split)
        key = (*(message["content"] for message in messages), first, second)
        if first != second and key not in seen:
            seen.add(key)
            rows.append(
                {"prompt": messages, "response_a": first, "response_b": second, "topic": topic}
            )
    return rows


def make_clean(n: int, seed: int) -> list[dict]:
    """`n` rows `prompt, response` without any fault, from which the judge learns word order."""
    rows = []
    everything = {**banks()["topics"], **banks()["ood"]}
    for i in range(n):
        draw = Draw(f"clean:{seed}:{i}")
        topic, subject, prompt = _prompt(draw, everything)
        quality: dict[str, int] = dict.fromkeys(("relevance", "coherence", "fluency"), 2)
        quality["creativity"] = draw.choice((2, 1, 0))
        if topic == "harm":
            response = _respond_harm(draw, subject, quality)
        else:
            response = _respond(draw, everything, topic, subject, quality)
        rows.append({"prompt": prompt, "response": response, "topic": topic, "quality": quality})
    return rows
