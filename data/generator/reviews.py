"""Film reviews with a known stance: the reviews half of the embedded world.

A film and a reader's stance on its aspects are drawn first (`stance`: aspect → −2…2), the rating
(1–10, never 5 or 6, as in IMDB) and the label follow, and a recursive discourse grammar then puts
them into words: opinions, reasons, concessions, reported and ironic opinions, comparisons,
anecdotes and verdicts.  The same words praise and blame, since about half of the opinions are
negated, reported, hoped for or said of something else.

`make_reviews(n, seed, split)` is the entry point; `split="ood"` speaks of other films with other
clauses than the rest.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from data.generator.grammar import Draw, Grammar, partition, polish

TEXT = Path(__file__).parent / "text"
ASPECTS = (
    "plot",
    "acting",
    "pacing",
    "dialogue",
    "music",
    "camera",
    "effects",
    "ending",
    "humour",
    "characters",
    "atmosphere",
    "direction",
)
RATINGS = (1, 2, 3, 4, 7, 8, 9, 10)
RATING_WEIGHTS = (3, 2, 2, 2, 2, 2, 2, 3)
# Share of the discussed aspects whose stance has the sign of the rating.
AGREEMENT = {1: 0.96, 2: 0.9, 3: 0.84, 4: 0.74, 7: 0.74, 8: 0.84, 9: 0.9, 10: 0.96}
SPLITS = ("train", "validation", "test", "ood")
NUMBERS = (
    "zero one two three four five six seven eight nine ten".split()  # scores out of ten
)


def is_unambiguous(review: dict) -> bool:
    """Whether the latent rating is clear: at most 3 or at least 8."""
    return review["rating"] <= 3 or review["rating"] >= 8


@lru_cache
def read_banks() -> dict[str, tuple[str, ...]]:
    """All text banks, `"aspect bank"` → templates."""
    banks: dict[str, list[str]] = {}
    for path in sorted(TEXT.glob("reviews_*.txt")):
        bank: list[str] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            if line.startswith("@"):
                bank = banks.setdefault(line[1:], [])
            elif line.count("; ") >= 3 and "{" not in line:
                bank.extend(item.strip() for item in line.split(";") if item.strip())
            else:
                bank.append(line)
    return {name: tuple(dict.fromkeys(bank)) for name, bank in banks.items()}


def count_clauses() -> int:
    """How many clauses and clause templates the banks hold (words and names not counted)."""
    banks = read_banks()
    kinds = ("vp+", "vp-", "clause+", "clause-", "whole", "any", "frames", "+", "-")
    return sum(len(bank) for name, bank in banks.items() if name.split()[1] in kinds)


def third_person(phrase: str) -> str:
    """A verb phrase in the base form, put into the third person singular."""
    verb, _, rest = phrase.partition(" ")
    irregular = {"have": "has", "be": "is", "do": "does", "go": "goes"}
    if verb in irregular:
        verb = irregular[verb]
    elif re.search(r"(s|x|z|ch|sh|o)$", verb):
        verb += "es"
    elif re.search(r"[^aeiou]y$", verb):
        verb = verb[:-1] + "ies"
    else:
        verb += "s"
    return f"{verb} {rest}" if rest else verb


class _World:
    """The banks of one partition, and the grammar over them."""

    def __init__(self, split: str) -> None:
        banks = read_banks()
        keep_whole = ("frames", "adjectives", "pairs")
        self.banks = {
            name: (bank if name.split()[1] in keep_whole else tuple(partition(bank, split)))
            for name, bank in banks.items()
        }
        self.strength = {}
        for aspect in ASPECTS:
            for sign in "+-":
                own = self.banks[f"{aspect} adj{sign}"]
                general = self.banks[f"any adj{sign}"]
                for kind in ("adj", "vp", "clause"):
                    bank = self.banks[f"{aspect} {kind}{sign}"]
                    if kind == "adj":
                        bank = (*own, *general) if len(own) * 2 > len(general) else (
                            *own, *own, *general)
                    strong = tuple(t[1:] for t in bank if t.startswith("!"))
                    mild = tuple(t for t in bank if not t.startswith("!"))
                    self.strength[aspect, kind, sign, 2] = strong + mild if strong else mild
                    self.strength[aspect, kind, sign, 1] = mild or strong
        general = {s: tuple(t.lstrip("!") for t in self.banks[f"any adj{s}"]) for s in "+-"}
        self.general = general
        self.grammar = Grammar(
            {
                "film": ["film", "picture", "movie"],
                "adv": list(self.banks["any adv"]),
                "half": ["first half", "second half", "middle", "first hour", "last hour"],
                "other": ["{otherfilm}"],
                "otherfilm": [
                    '{title_a} {title_n}', 'The {title_n}', 'The {title_n} of {place1}',
                    'A {title_n} for {first}',
                ],
                "title_a": list(self.banks["names titleadj"]),
                "title_n": list(self.banks["names titlenoun"]),
                "place1": [p for p in self.banks["names place"] if p[0].isupper()] or ["Leeds"],
                "first": [*self.banks["names he"], *self.banks["names she"]],
                "critic": list(self.banks["names critic"]),
                "friend": list(self.banks["names friend"]),
            }
        )

    def write(self, draw: Draw, template: str, context: dict) -> str:
        return self.grammar.write(draw, template, context)


@lru_cache
def _world(split: str) -> _World:
    return _World("ood" if split == "ood" else "train")


def _film(world: _World, draw: Draw) -> dict[str, str]:
    """A film that does not exist: title, people, place, year."""
    banks = world.banks
    film: dict[str, str] = {}
    for who in ("lead", "second", "director", "writer", "composer"):
        he = draw.flip(0.5)
        last = draw.fresh(banks["names last"])
        film[who] = f"{draw.fresh(banks['names he' if he else 'names she'])} {last}"
        film[f"{who}_last"] = last
        film[f"{who}_he"] = "he" if he else "she"
    film["job"] = draw.fresh(banks["names job"])
    film["job2"] = draw.fresh(banks["names job"])
    film["role"] = "the " + film["job"]
    film["role2"] = "the " + film["job2"]
    film["place"] = draw.choice(banks["names place"])
    film["genre"] = draw.choice(banks["names genre"])
    film["theme"] = draw.choice(banks["names theme"])
    film["title"] = world.grammar.expand(draw, "otherfilm")
    year = draw.integer(1948, 2024)
    film["year"] = str(year)
    film["decade"] = f"{year // 10 * 10}s"
    film["minutes"] = str(draw.integer(80, 165))
    return film


class _Writer:
    """Writes one review: `sign` is +1 or −1 wherever it is asked for."""

    def __init__(self, world: _World, draw: Draw, film: dict, rating: int, stance: dict) -> None:
        self.world, self.draw, self.film = world, draw, film
        self.rating, self.stance = rating, stance
        self.sign = 1 if rating >= 7 else -1

    def bank(self, name: str) -> tuple[str, ...]:
        return self.world.banks[name]

    def fill(self, template: str, **slots: str) -> str:
        return self.world.write(self.draw, template, {**self.film, **slots})

    def adjective(self, aspect: str, sign: int, strength: int) -> str:
        return self.draw.fresh(
            self.world.strength[aspect, "adj", "+" if sign > 0 else "-", strength])

    def phrase(self, aspect: str, kind: str, sign: int, strength: int) -> str:
        return self.fill(self.draw.fresh(
            self.world.strength[aspect, kind, "+" if sign > 0 else "-", strength]))

    def plain_clause(self, aspect: str, sign: int, strength: int) -> str:
        """A clause that says it straight."""
        draw = self.draw
        if draw.flip(0.4):
            return self.phrase(aspect, "clause", sign, strength)
        subject, plural = self.subject(aspect)
        if draw.flip(0.55):
            verb = self.phrase(aspect, "vp", sign, strength)
            return f"{subject} {verb if plural else third_person(verb)}"
        return self.adjectives("plain adjectives", aspect, subject, plural, sign, strength)

    def subject(self, aspect: str) -> tuple[str, bool]:
        singular, plural = self.bank(f"{aspect} subj"), self.bank(f"{aspect} subjs")
        many = self.draw.flip(len(plural) / (len(plural) + len(singular)))
        return self.fill(self.draw.choice(plural if many else singular)), many

    def adjectives(self, bank, aspect, subject, plural, sign, strength) -> str:
        return self.fill(
            self.draw.choice(self.bank(bank)),
            s=subject,
            **{"is": "are" if plural else "is", "they": "they" if plural else "it"},
            a=self.adjective(aspect, sign, strength),
            a2=self.adjective(aspect, sign, 1),
            x=self.adjective(aspect, -sign, strength),
        )

    def clause(self, aspect: str, value: int) -> str:
        """A clause whose meaning has the sign and strength of `value`, straight or turned."""
        draw, sign = self.draw, 1 if value > 0 else -1
        strength = abs(value)
        kind = draw.choice(("plain", "keep", "flip", "negated", "contrast"), (50, 8, 12, 16, 14))
        if kind == "plain":
            return self.plain_clause(aspect, sign, strength)
        if kind == "keep":
            return self.fill(draw.fresh(self.bank("keep frames")),
                             c=self.plain_clause(aspect, sign, strength))
        if kind == "flip":
            return self.fill(draw.fresh(self.bank("flip frames")),
                             o=self.plain_clause(aspect, -sign, strength))
        subject, plural = self.subject(aspect)
        if kind == "contrast":
            return self.adjectives(
                "contrast adjectives", aspect, subject, plural, sign, strength)
        verb = self.phrase(aspect, "vp", -sign, strength)
        negation = draw.choice(("not", "never", "refuse", "hardly ever"), (3, 4, 2, 1))
        if negation == "not":
            return f"{subject} {'do' if plural else 'does'} not {verb}"
        if negation == "refuse":
            return f"{subject} {'never once' if plural else 'never once'} " + (
                verb if plural else third_person(verb))
        return f"{subject} {negation} {verb if plural else third_person(verb)}"

    def sentence(self, aspect: str) -> str:
        """One or two sentences about an aspect (and perhaps a second one)."""
        draw, value = self.draw, self.stance[aspect]
        sign = 1 if value > 0 else -1
        kind = draw.choice(("simple", "chain", "reported", "agree"), (52, 24, 14, 10))
        if kind == "simple":
            return cap(self.clause(aspect, value)) + "."
        if kind == "chain":
            first, second = self.clause(aspect, value), self.clause(aspect, sign)
            return self.fill(draw.choice(self.bank("chain pairs")), c=first, C=cap(first),
                             d=second, D=cap(second))
        if kind == "reported":
            claim = self.plain_clause(aspect, -sign, abs(value))
            return self.fill(draw.choice(self.bank("reported disagree")), o=claim, O=cap(claim))
        return self.fill(draw.choice(self.bank("reported agree")),
                         c=self.plain_clause(aspect, sign, abs(value)))

    def concession(self, less: str, more: str) -> str:
        """What speaks against, then what counts."""
        minor = self.plain_clause(less, self.stance[less])
        major = self.clause(more, self.stance[more])
        return self.fill(self.draw.choice(self.bank("concession pairs")),
                         m=minor, M=cap(minor), c=major, C=cap(major))

    def plain(self, aspect: str) -> str:
        value = self.stance[aspect]
        return self.plain_clause(aspect, 1 if value > 0 else -1, abs(value))

    def whole(self, name: str, sign: int) -> str:
        """A sentence about the film as a whole from bank `name`."""
        draw = self.draw
        plus, minus = self.world.general["+"], self.world.general["-"]
        good, bad = (plus, minus) if sign > 0 else (minus, plus)
        score = self.rating
        return self.fill(
            draw.fresh(self.bank(name)),
            a=draw.fresh(good), a2=draw.fresh(good), x=draw.fresh(bad),
            score=NUMBERS[score],
        )

    def text(self) -> str:
        """The review: opening, moves until it is long enough, verdict."""
        draw, stance, mark = self.draw, self.stance, "+" if self.sign > 0 else "-"
        target = draw.choice((45, 60, 75, 95, 120, 160), (18, 26, 24, 17, 10, 5))
        parts: list[str] = []
        if draw.flip(0.8):
            parts.append(self.fill(draw.fresh(self.bank("opening any"))))
        if draw.flip(0.6):
            parts.append(self.fill(draw.fresh(self.bank("summary any"))))
        against = [a for a in stance if stance[a] * self.sign < 0]
        left = [a for a in stance if stance[a] * self.sign > 0]
        closing = self.whole(f"verdict{mark} whole", self.sign) if draw.flip(0.8) else ""
        length = sum(len(p.split()) for p in parts) + len(closing.split())
        while length < target:
            kinds, weights = ["say", "global", "anecdote"], [60, 16, 9]
            if against and left:
                kinds.append("concede")
                weights.append(60)
            if not left:
                weights[0] = 0
                if not against and length >= 50:
                    break
            kind = draw.choice(kinds, weights)
            if kind == "say":
                part = self.sentence(left.pop(draw.index(len(left))))
            elif kind == "concede":
                part = self.concede(against.pop(draw.index(len(against))),
                                    left.pop(draw.index(len(left))))
            elif kind == "anecdote":
                part = self.fill(draw.fresh(self.bank("anecdote any")))
            else:
                part = self.global_move()
            parts.append(part)
            length += len(part.split())
        if closing:
            parts.append(closing)
        return polish(" ".join(parts))

    def concede(self, less: str, more: str) -> str:
        minor, major = self.plain(less), self.clause(more, self.stance[more])
        return self.fill(self.draw.choice(self.bank("concession pairs")),
                         m=minor, M=cap(minor), c=major, C=cap(major))

    def global_move(self) -> str:
        mark = "+" if self.sign > 0 else "-"
        banks = ["expect whole", f"compare{mark} whole", f"question {mark}"]
        weights = [30, 25, 15]
        if self.sign > 0:
            banks.append("praise+ whole")
            weights.append(20)
        else:
            banks += ["moan- whole", "irony- whole"]
            weights += [15, 25]
        return self.whole(self.draw.choice(banks, weights), self.sign)


def cap(text: str) -> str:
    """First letter upper case."""
    return text[:1].upper() + text[1:]


def make_review(draw: Draw, split: str) -> dict:
    """One review from its own source of randomness."""
    world = _world(split)
    rating = draw.choice(RATINGS, RATING_WEIGHTS)
    sign = 1 if rating >= 7 else -1
    stance = {}
    for aspect in ASPECTS:
        own = sign if draw.flip(AGREEMENT[rating]) else -sign
        strong = draw.flip(0.65 if own == sign and rating in (1, 2, 9, 10) else 0.25)
        stance[aspect] = own * (2 if strong else 1)
    film = _film(world, draw)
    text = _Writer(world, draw, film, rating, stance).text()
    return {
        "text": text,
        "label": int(rating >= 7),
        "rating": rating,
        "stance": stance,
        "logprob": draw.logprob,
    }


def make_reviews(n: int, seed: int = 0, split: str = "train") -> list[dict]:
    """`n` reviews, each `{text, label, rating, stance, logprob}`.

    Args:
        n: how many.
        seed: the same seed gives the same reviews; another one gives others.
        split: "train", "validation", "test" or "ood"; each has its own stream of randomness.

    `label` is 1 for a rating of 7 or more, 0 for 4 or less.  `stance` maps the aspects to
    −2 (bad) … 2 (good).  `logprob` is the log-probability (nats) of the derivation.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; use one of {', '.join(SPLITS)}")
    return [make_review(Draw(f"reviews:{split}:{seed}:{i}"), split) for i in range(n)]
