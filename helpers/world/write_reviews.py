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

from helpers.paths import DATA
from helpers.world.grammar import Draw, Grammar, partition, polish

TEXT = DATA / "world"
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
# Words aimed at, and how often.
LENGTHS = ((55, 70, 85, 105, 135, 180), (20, 26, 22, 17, 10, 5))
CLAUSE_KINDS = (46, 9, 13, 16, 16)  # straight, keep, flip, negated, contrast
SENTENCE_KINDS = (52, 24, 14, 10)  # simple, chain, reported and denied, reported and shared
NEGATIONS = (3, 3, 2, 1, 2)
# What one does, before the film, about the opposite of what it turns out to be.
HOPES = {
    1: {
        "hoped": ("feared", "expected", "was braced for"),
        "hoping": ("fearing", "expecting", "braced for"),
        "wants": ("threatens", "seems", "looks set"),
        "promised": ("made me expect", "had promised", "led me to expect"),
        "promise": ("threaten", "seem"),
    },
    -1: {
        "hoped": ("hoped for", "expected", "looked forward to"),
        "hoping": ("hoping for", "expecting", "longing for"),
        "wants": ("wants", "tries", "claims"),
        "promised": ("made me expect", "had promised", "led me to expect"),
        "promise": ("promise", "seem", "aim"),
    },
}
SHARED = ("frames", "adjectives", "pairs", "adv", "disagree", "agree")  # the same in every split
NUMBERS = "zero one two three four five six seven eight nine ten".split()


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


_IRREGULAR = {"have": "has", "be": "is", "do": "does", "go": "goes"}


def _conjugate(verb: str) -> str:
    if verb in _IRREGULAR:
        return _IRREGULAR[verb]
    if re.search(r"(s|x|z|ch|sh|o)$", verb):
        return verb + "es"
    if re.search(r"[^aeiou]y$", verb):
        return verb[:-1] + "ies"
    return verb + "s"


def third_person(phrase: str) -> str:
    """A verb phrase in the base form, put into the third person singular."""
    verb, space, rest = phrase.partition(" ")
    second = re.match(r"and ([a-z]+)(?= with| in| like| us)", rest)
    if second:  # "twist and turn with wit"
        rest = f"and {_conjugate(second.group(1))}{rest[second.end() :]}"
    return f"{_conjugate(verb)}{space}{rest}"


def plural(noun: str) -> str:
    """The plural of a genre: comedy → comedies, heist film → heist films."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


# What cannot stand inside "they say that …" or "nobody could claim that …".
_PERSONAL = re.compile(r"\b(I|my|me|myself)\b|, and |[;:]")


class _World:
    """The banks of one partition, and the grammar over them."""

    def __init__(self, split: str) -> None:
        self.banks = {
            name: bank
            if name.split()[1] in SHARED or name.startswith("rule ")
            else tuple(partition(bank, split))
            for name, bank in read_banks().items()
        }
        self.opinions: dict[tuple, tuple[str, ...]] = {}
        for aspect in ASPECTS:
            for sign in "+-":
                for kind in ("adj", "vp", "clause"):
                    bank = self.banks[f"{aspect} {kind}{sign}"]
                    if kind == "adj":
                        bank += self.banks[f"any adj{sign}"]
                    for personal in (True, False):
                        kept = [t for t in bank if personal or not _PERSONAL.search(t)] or bank
                        strong = [t[1:] for t in kept if t.startswith("!")]
                        mild = [t for t in kept if not t.startswith("!")]
                        key = (aspect, kind, sign)
                        self.opinions[*key, 2, personal] = tuple(strong * 2 + mild)
                        self.opinions[*key, 1, personal] = tuple(mild or strong)
        self.general = {
            sign: tuple(t.lstrip("!") for t in self.banks[f"any adj{sign}"]) for sign in "+-"
        }
        self.plain = tuple(t for t in self.banks["plain adjectives"] if not _PERSONAL.search(t))
        names = {
            name.split()[1]: list(bank)
            for name, bank in self.banks.items()
            if name.split()[0] in ("rule", "names")
        }
        self.grammar = Grammar(
            names
            | {
                "adv": list(self.banks["any adv"]),
                "half": ["first half", "second half", "first hour", "last hour"],
                "other": [
                    "{titleadj} {titlenoun}",
                    "{titleadj} {titlenoun}",
                    "The {titlenoun}",
                    "The {titleadj} {titlenoun}",
                    "The {titlenoun} of {city}",
                    "A {titlenoun} for {first}",
                    "{titlenoun} and {titlenoun}",
                    "{first} and the {titlenoun}",
                    "The {titlenoun} {day}",
                ],
                "first": [*self.banks["names he"], *self.banks["names she"]],
                "nuisance2": ["{nuisance}"],
            }
        )


@lru_cache
def _world(split: str) -> _World:
    return _World("ood" if split == "ood" else "train")


def _film(world: _World, draw: Draw) -> dict[str, str]:
    """A film that does not exist: title, people, place, year."""
    banks = world.banks
    film: dict[str, str] = {}
    for who in ("lead", "second", "director", "writer", "composer"):
        first = draw.fresh(banks["names he" if draw.flip(0.5) else "names she"])
        film[f"{who}_last"] = draw.fresh(banks["names last"])
        film[who] = f"{first} {film[f'{who}_last']}"
    film["job"] = draw.fresh(banks["names job"])
    film["job2"] = draw.fresh(banks["names job"])
    film["role"] = "the " + film["job"]
    film["role2"] = "the " + film["job2"]
    film["in_place"] = draw.choice(banks["names place"])
    film["place"] = film["in_place"].split(" ", 1)[1]
    film["genre"] = draw.choice(banks["names genre"])
    film["genre2"] = draw.choice(banks["names genre"])
    film["genres"] = plural(film["genre"])
    film["theme"] = draw.choice(banks["names theme"])
    film["thing"] = draw.choice(banks["names thing"])
    film["title"] = world.grammar.expand(draw, "other")
    year = draw.integer(1948, 2024)
    film["year"] = str(year)
    film["decade"] = f"{year // 10 * 10}s"
    film["minutes"] = str(draw.integer(80, 165))
    return film


class _Writer:
    """Writes one review; `sign` and `strength` say what an opinion is to mean."""

    def __init__(self, world: _World, draw: Draw, film: dict, rating: int, stance: dict) -> None:
        self.world, self.draw, self.film = world, draw, film
        self.rating, self.stance = rating, stance
        self.sign = 1 if rating >= 7 else -1
        self.said: set[str] = set()

    def bank(self, name: str) -> tuple[str, ...]:
        return self.world.banks[name]

    def fill(self, template: str, **slots: str) -> str:
        return self.world.grammar.write(self.draw, template, {**self.film, **slots})

    def opinion(
        self, aspect: str, kind: str, sign: int, strength: int, personal: bool = True, **slots: str
    ) -> str:
        bank = self.world.opinions[aspect, kind, "+" if sign > 0 else "-", strength, personal]
        fresh = [template for template in bank if template not in self.said]
        template = self.draw.choice(fresh or bank)
        self.said.add(template)
        return self.fill(template, **slots)

    def subject(self, aspect: str) -> tuple[str, bool]:
        """A noun phrase for the aspect, and whether it is plural."""
        one, many = self.bank(f"{aspect} subj"), self.bank(f"{aspect} subjs")
        is_plural = self.draw.flip(len(many) / (len(many) + len(one)))
        subject = self.fill(self.draw.choice(many if is_plural else one))
        return subject, is_plural or " and " in subject and self._pair(subject)

    def _pair(self, subject: str) -> bool:
        film = self.film
        return subject == f"{film['lead_last']} and {film['second_last']}"

    def straight(self, aspect: str, sign: int, strength: int, personal: bool = True) -> str:
        """A clause that says it straight."""
        draw = self.draw
        kind = draw.choice(("clause", "verb", "adjective"), (42, 32, 26))
        if kind == "clause":
            return self.opinion(aspect, "clause", sign, strength, personal)
        subject, many = self.subject(aspect)
        if kind == "verb":
            verb = self.verb(aspect, sign, strength, many, keep_tail=True)
            return f"{subject} {verb if many else third_person(verb)}"
        bank = self.bank("plain adjectives") if personal else self.world.plain
        return self.described(bank, aspect, subject, many, sign, strength)

    def verb(self, aspect: str, sign: int, strength: int, many: bool, keep_tail: bool) -> str:
        phrase = self.opinion(
            aspect,
            "vp",
            sign,
            strength,
            its="their" if many else "its",
            itself="themselves" if many else "itself",
        )
        if keep_tail:
            return phrase.replace("~", "")
        return re.split(r" *~|,", phrase)[0]  # what follows would not be denied

    def described(self, bank, aspect, subject, many, sign, strength) -> str:
        slots = {
            "is": "are" if many else "is",
            "they": "they" if many else "it",
        }
        hopes = self.hopes(sign)
        hopes["promise"] += "" if many else "s"
        return self.fill(
            self.draw.choice(bank),
            s=subject,
            a=self.opinion(aspect, "adj", sign, strength),
            a2=self.opinion(aspect, "adj", sign, 1),
            x=self.opinion(aspect, "adj", -sign, strength),
            **slots,
            **hopes,
        )

    def hopes(self, sign: int) -> dict[str, str]:
        return {slot: self.draw.choice(words) for slot, words in HOPES[sign].items()}

    def clause(self, aspect: str, value: int, alone: bool = False) -> str:
        """A clause whose meaning has the sign and strength of `value`, straight or turned.

        `alone`: it will stand as a sentence of its own, so that it may be a compound one.
        """
        draw, sign, strength = self.draw, 1 if value > 0 else -1, abs(value)
        kind = draw.choice(("straight", "keep", "flip", "negated", "contrast"), CLAUSE_KINDS)
        if kind == "straight":
            return self.straight(aspect, sign, strength)
        if kind == "keep":
            return self.fill(
                draw.fresh(self.bank("keep frames")),
                c=self.straight(aspect, sign, strength, personal=False),
            )
        if kind == "flip":
            return self.fill(
                draw.fresh(self.bank("flip frames")),
                o=self.straight(aspect, -sign, strength, personal=False),
            )
        subject, many = self.subject(aspect)
        if kind == "contrast":
            bank = self.bank("wide adjectives" if alone else "contrast adjectives")
            return self.described(bank, aspect, subject, many, sign, strength)
        verb = self.verb(aspect, -sign, strength, many, keep_tail=False)
        negation = draw.choice(("not", "never", "never once", "at no point", "refuse"), NEGATIONS)
        if negation == "not":
            return f"{subject} {'do' if many else 'does'} not {verb}"
        if negation == "refuse":
            return f"{subject} {'refuse' if many else 'refuses'} to {verb}"
        return f"{subject} {negation} {verb if many else third_person(verb)}"

    def sentence(self, aspect: str) -> str:
        """One or two sentences about an aspect."""
        draw, value = self.draw, self.stance[aspect]
        sign, strength = 1 if value > 0 else -1, abs(value)
        kind = draw.choice(("simple", "chain", "disagree", "agree"), SENTENCE_KINDS)
        if kind == "simple":
            return self.clause(aspect, value, alone=draw.flip(0.4)) + "."
        if kind == "chain":
            return self.joined("chain pairs", self.clause(aspect, value), self.clause(aspect, sign))
        turn = -1 if kind == "disagree" else 1
        claim = self.straight(aspect, turn * sign, strength, personal=False)
        return self.fill(
            draw.choice(self.bank(f"reported {kind}")),
            **{"o" if turn < 0 else "c": claim, "O" if turn < 0 else "C": cap(claim)},
        )

    def concession(self, less: str, more: str) -> str:
        """What speaks against the verdict, then what counts."""
        value = self.stance[less]
        minor = self.straight(less, 1 if value > 0 else -1, abs(value))
        return self.joined("concession pairs", minor, self.clause(more, self.stance[more]))

    def joined(self, bank: str, first: str, second: str) -> str:
        return self.fill(
            self.draw.choice(self.bank(bank)),
            m=first,
            M=cap(first),
            c=second if bank.startswith("con") else first,
            C=cap(second if bank.startswith("con") else first),
            d=second,
            D=cap(second),
        )

    def whole(self, name: str, sign: int) -> str:
        """A sentence about the film as a whole from bank `name`."""
        draw = self.draw
        plus, minus = self.world.general["+"], self.world.general["-"]
        good, bad = (plus, minus) if sign > 0 else (minus, plus)
        return self.fill(
            draw.fresh(self.bank(name)),
            a=draw.fresh(good),
            a2=draw.fresh(good),
            a3=draw.fresh(good),
            x=draw.fresh(bad),
            x2=draw.fresh(bad),
            score=NUMBERS[self.rating],
            **self.hopes(sign),
        )

    def global_move(self) -> str:
        mark = "+" if self.sign > 0 else "-"
        banks = ["expect whole", f"compare{mark} whole", f"question {mark}"]
        weights = [30, 28, 18]
        if self.sign > 0:
            banks.append("praise+ whole")
            weights.append(24)
        else:
            banks += ["moan- whole", "irony- whole"]
            weights += [18, 22]
        return self.whole(self.draw.choice(banks, weights), self.sign)

    def body(self, words_left: int, against: list[str], left: list[str]) -> list[str]:
        """Recursive rule: body → move body, until the words are spent or nothing is left to say."""
        if words_left <= 0 or not left:
            return []
        draw = self.draw
        kinds, weights = ["say", "whole", "anecdote"], [52, 18, 8]
        if against:
            kinds.append("concede")
            weights.append(40)
        kind = draw.choice(kinds, weights)
        if kind == "say":
            part = self.sentence(left.pop(draw.index(len(left))))
        elif kind == "concede":
            part = self.concession(
                against.pop(draw.index(len(against))), left.pop(draw.index(len(left)))
            )
        elif kind == "whole":
            part = self.global_move()
        else:
            part = self.fill(draw.fresh(self.bank("anecdote any")))
        return [part, *self.body(words_left - len(part.split()), against, left)]

    def text(self) -> str:
        """The review: review → opening? summary? body verdict?."""
        draw, stance = self.draw, self.stance
        words_left = draw.choice(*LENGTHS)
        start, end = [], []
        if draw.flip(0.8):
            start.append(self.fill(draw.fresh(self.bank("opening any"))))
        if draw.flip(0.55):
            start.append(self.fill(draw.fresh(self.bank("summary any"))))
        if draw.flip(0.75):
            mark = "+" if self.sign > 0 else "-"
            end.append(self.whole(f"verdict{mark} whole", self.sign))
        words_left -= sum(len(part.split()) for part in start + end)
        against = [a for a in stance if stance[a] * self.sign < 0]
        left = [a for a in stance if stance[a] * self.sign > 0]
        middle = self.body(words_left, against, left)
        if end and middle and draw.flip(0.15):  # the verdict first
            start, end = [*end, *start], []
        return polish(" ".join([*start, *(cap(part) for part in middle), *end]))


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
