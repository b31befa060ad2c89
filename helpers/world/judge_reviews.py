"""The truth about reviews: how much a text praises or blames the film it speaks of.

`gold_sentiment(text)` reads the text alone, sentence by sentence and clause by clause, so it scores
what a language model writes as well as what the generator wrote.  In short:

 1. A lexicon gives opinion words and phrases a polarity and one of three strengths.
 2. Intensifiers and downtoners scale, negation turns ("hardly brilliant", "never dull"), and
    frames turn what they govern ("nobody could claim that …", "could have been …").
 3. A reported opinion or a question counts only when the writer agrees or disagrees with it.
 4. Concessions weigh less, what follows "but" weighs more, verdicts weigh most.
 5. Opinions about other things (a seat, a pizza, a terrible secret, another film) do not count.
 6. Irony markers turn praise into blame.
 7. An opinion counts once: repeating its words adds nothing.  A clause gives at most 1.2 units.
 8. Repetition, word lists, shuffled words, neighbours that no review of this world has, sentences
    without a capital and endless length lower the quality of the text; a degenerate text scores at
    most 0.  An unfinished last clause counts half.
 9. Praise or blame that names nothing of the film (plot, acting, music …) counts half: a bare
    verdict says less than one with reasons.

The score is tanh of the balance of opinions: > 0 praises, < 0 blames, 0 says nothing either way.
`explain(text)` shows what was counted.  The rules know English film reviews, not people: they are
the truth of the embedded world only.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from itertools import pairwise

from helpers.world import write_reviews
from helpers.world.opinions import (
    ADVERBS_DOWN,
    ADVERBS_UP,
    FUNCTION_WORDS,
    NEGATORS,
    OTHER_PEOPLE,
    OTHER_THINGS,
    build_lexicon,
)

MAX_CLAUSE = 1.2
DEGENERATE = -0.3
BARE = 0.5  # share of the score that opinions without any reason keep

# A capital in mid-sentence makes a name: "The Perfect Storm" is no praise.
_NAME = re.compile(r"((?<=[a-z,;] )|(?<=name\w )|(?<=[A-Z][a-z] ))([A-Z][a-z]+)")
_TAG = re.compile(r"<[^>]{0,40}>")
_SENTENCE = re.compile(r"[^.!?]+(?:[.!?]+[\"”’)]*|$)")
_TOKEN = re.compile(r"[a-zà-öø-ÿ0-9]+(?:['-][a-zà-öø-ÿ0-9]+)*|[,;:?!—–()]")
_WORD = re.compile(r"[a-zà-öø-ÿ0-9]")
_ABBREVIATION = re.compile(r"\b(mr|mrs|ms|dr|st|no|vs|etc|e\.g|i\.e)\.", re.IGNORECASE)

_LINKS = {"is", "was", "are", "were", "had", "felt", "tasted", "smelled", "cost"}
_OWNERS = {"the", "my", "our", "your", "a", "an", "this", "his", "her", "their"}
_FILM_NOUNS = {
    "scene",
    "scenes",
    "film",
    "movie",
    "picture",
    "story",
    "sequence",
    "shot",
    "shots",
    "drama",
    "comedy",
    "thriller",
    "plot",
    "performance",
    "character",
    "song",
    "moment",
    "moments",
}
_BREAKS = {",", ";", ":", "—", "–", "(", ")"}
_CONTRAST = {"but", "yet", "however", "nevertheless", "nonetheless", "still"}
_CONCEDE = {"although", "though", "despite", "notwithstanding", "granted", "admittedly"}
_CONCEDE_PAIRS = {
    ("even", "if"),
    ("even", "though"),
    ("never", "mind"),
    ("may", "be"),
    ("in", "spite"),
    ("for", "all"),
    ("i", "grant"),
    ("true", ","),
    ("to", "be"),
    ("to", "its"),
    ("to", "his"),
}

# Frames whose content the writer denies: the sign turns to the end of the frame.
_DENY = re.compile(
    r"\b(?:nobody|no one|no-one|none of us) (?:\w+ ){0,4}?(?:claim|say|said|call|think|thought|"
    r"believe|argue|pretend)(?:ed)?\b"
    r"|\b(?:cannot|can't|can not|could not|couldn't|would not|wouldn't|would never|will not|won't|"
    r"do not|don't|did not|didn't|never|hardly|wrong to|far be it from me to|hard to|unfair to|"
    r"lie to|lying to) (?:\w+ ){0,2}?"
    r"(?:say|claim|believe|think|pretend|call|argue|let anyone tell you)\b"
    r"|\bnot (?:\w+ )?(?:true|the case|as though|as if)\b"
    r"|\b(?:no moment (?:when|at which)|far from the truth|i doubt|untrue|nonsense) (?:that|to|"
    r"if)\b"
    r"|\b(?:no|not one|hardly an?|not a single) (?:moment|scene|minute|shot|time|second) (?:when|"
    r"in which|at which|where) (?:i|you|we) (?:felt|feel|thought|think|believed?)\b"
    r"|\b(?:don't|do not) (?:you )?let (?:[\w']+ ){1,4}?(?:tell|persuade|claim|say|convince|fool)\b"
    r"|\bfar be it from \w+ to \w+\b"
    r"|\b(?:wish|if only) (?:i|it|they|there|he|she|the)\b"
    r"|\bwaited in vain\b|\b(?:don't|do not|never) listen to\b"
    r"|\b(?:nobody|no one) who [^,.;]*? (?:will|would|can|could)\b"
)
_UNDENIED = re.compile(
    r"\b(?:no denying|no doubt|(?:nobody|no one|cannot|can't|not|nobody can|no one can) "
    r"(?:can )?(?:deny|doubt|overlook|ignore|dispute))\b"
)
# What was hoped, feared or promised is not what was found.
_UNREAL = re.compile(
    r"\b(?:could|might|should|would|ought to|may) (?:so |very |well |just |all too |easily |as )*"
    r"(?:have|'ve) been\b"
    r"|\b(?:i |we |had )?(?:expected|feared|hoped|hoping|was ready|were ready|braced myself|"
    r"was prepared|prepared for|was dreading|dreaded|was led to expect|expecting|fearing|"
    r"longing for|looked forward to|braced for|looking forward to)\b"
    r"|\b(?:on paper|in theory|sounds (?=[^.;]*\bbut\b)|they call|claims? to be|seems? to be|"
    r"sets? out to be|(?:starts|begins|started|began) (?=\w+ (?:and|but) then)|i had heard that)"
    r"|\b(?:promises?|promised|threatens? to|threatened to|made me (?:expect|fear)|"
    r"led me to expect|looks? set to|(?<!me )wants? to be|wanted to be|tries to be|tried to be|"
    r"trying to be|"
    r"meant to be|supposed to be|aims? to be|longs? to be|thinks it is|thinks it's|"
    r"advertised as|sold as|billed as|mistaken for)\b"
)
_FULFILLED = re.compile(
    r"\b(?:as \w+ as (?:i|we|they) (?:had )?(?:hoped|expected|feared)|than (?:i|we) (?:had )?"
    r"(?:hoped|expected|feared)|all (?:i|we) (?:had )?(?:hoped|expected)|everything (?:i|we) "
    r"(?:had )?(?:hoped|expected))\b"
)
_REPORT = re.compile(
    r"\b(?:says?(?! (?:more|volumes|everything|about|it beautifully|so much|\"))|"
    r"said(?! and done)|claims?(?! to be)|claimed|insists?|insisted|wrote|writes|tells? (?:me|us|"
    r"you|everyone)(?! what)|"
    r"told (?:me|us|you|everyone)|been told|was told|had read|have read|had heard|have heard|"
    r"i heard|i read|according to|calls it|called it|assured (?:me|us)|assures (?:me|us)|"
    r"warned (?:me|us)|been warned|was warned|argues?|maintains?|swears?|swore|raved?|raves|"
    r"people (?:think|believe)|they think|describes? it|described it|described (?:the|this)|"
    r"(?:critics?|reviewers?|friends?|people|everyone|everybody|others|they|press|public|children) "
    r"(?:all |in the \w+ )?(?:adored?|loved?|hated?|praised?|call|called|see in|saw in|found in)|"
    r"promised me|thinks that|thought that|found it|finds it|loved it|hated it|hates it|loves it)\b"
)
_FIRST_PERSON = re.compile(r"\b(?:i|i'd|we) (?:have to |must |can |would |will |'d |could |do )*$")
_AGREE = re.compile(
    r"\b(?:i (?:can only |quite |fully |entirely |heartily |wholly |must |have to |do )?agree|"
    r"agreed|quite right|true enough|(?:he|she|they|it|that) (?:is|was|are|were)"
    r"(?: absolutely| quite| entirely| so)? (?:right|true|correct)|absolutely right|"
    r"for once (?:they|he|she|it) (?:is|are|was|were) right|who am i to argue|"
    r"could not agree more|couldn't agree more|so do i|so did i|and so it is|how right|"
    r"not wrong|wasn't wrong|weren't wrong|no exaggeration|right\.$|and (?:they|he|she) (?:is|are) "
    r"right|i second that|i share)\b"
    r"|^ ?(?:right|true|exactly|indeed|absolutely|precisely|correct)\b"
)
_DISAGREE = re.compile(
    r"\b(?:disagree|cannot agree|can't agree|don't agree|do not agree|beg to differ|"
    r"could not disagree|further from the truth|no sign of|don't see it|do not see it|"
    r"cannot see it|not so|isn't so|not the (?:film|case)|wrong|nonsense|rubbish,|mistaken|"
    r"don't believe (?:it|a word|them)|do not believe (?:it|a word|them)|not a bit of it|"
    r"not at all|did we see the same|different film|i beg to|untrue|not true|far from it|"
    r"on the contrary|quite the (?:opposite|reverse)|the opposite|must have seen|hardly|"
    r"do(?:es)? not convince me|liars?|lied|lies|exaggerat\w+|yes, and i am)\b"
)
_YES = re.compile(
    r"^ ?(?:oh,? |but |well,? )?(?:yes|absolutely|certainly|definitely|of course|indeed|very|"
    r"nearly|almost|every|in a heartbeat|without (?:a )?doubt|and how|you bet|entirely|completely|"
    r"more than|all of it|it (?:is|does|was)\b(?! not))"
)
_NO = re.compile(
    r"^ ?(?:oh,? |but |well,? |alas,? |sadly,? )?(?:no\b|not\b|neither|\w+ not\b|of course not|"
    r"never|hardly|nope|far from|"
    r"scarcely|barely|in no way|by no means|nothing of|none|it (?:is|does|was) ?n[o']t|"
    r"i don't think so|i doubt)"
)
_IRONY = re.compile(
    r"^ ?(?:oh|ah|wow|bravo|congratulations|how very|thanks|thank you|well done|just what|yes, and|"
    r"yeah|sure|slow clap|hooray|hurrah|lucky us|what a treat|so|ladies and gentlemen)\b"
)
_IRONY_TAIL = re.compile(
    r"\b(?:yet another|another|thanks a lot|thanks for nothing|nap|asleep|dozing|lamp post|sleep|"
    r"watching paint dry|paint dry|just what the world needed|just what we needed|"
    r"as if|needed another|for the most|it takes (?:talent|skill|genius|a gift)|queen of sheba|"
    r"i am the pope|everyone involved|to whoever|bladder|toothache|flat tyre|power cut|"
    r"root canal|tax return|insomnia|insomniacs?|cure for|remedy for|related to the|"
    r"if you (?:happen|like|enjoy|love|are fond)|your idea of|how very|how original|"
    r"how (?:daring|novel|inventive|clever|subtle) of)\b"
)
_NUISANCE = re.compile(
    r"\b(?:(?:watching )?paint dry|ceiling tiles|queue?ing|cleaning the oven|sorting socks|"
    r"waiting for (?:a|the) bus|traffic jams?|ironing|tax (?:return|form|office)s?|root canals?|"
    r"toothache|flat tyres?|power cuts?|parking (?:tickets?|fines?)|head cold|blocked drain|"
    r"wet (?:sock|towel|glove|sand)|late bus|wisdom tooth|broken lift|mosquito|fire drill|"
    r"dripping tap|waiting room|dental appointment|what an? [\w-]+ idea to|bus timetable)\b"
)
# Faint words that mean nothing beside a praise: "truth in an ordinary line", "the human heart".
_SOFT = {"ordinary", "horror", "cardboard", "flops", "cynical", "distant", "disaster", "empty"}
# Blame that a negation belongs to already: "cannot recommend it in good conscience".
_FIXED = {
    "if you paid me",
    "in good conscience",
    "with a straight face",
    "warn you",
    "at all costs",
    "to like and failed",
    "sharper with the scissors",
}
_SPOILERS = {
    "waste",
    "wastes",
    "wasted",
    "wasting",
    "squander",
    "ruin",
    "spoil",
    "smother",
    "wreck",
    "crush",
    "mar",
    "stifle",
    "borrow",
    "disappoint",
    "bore",
    "botch",
    "insult",
    "mumble",
    "mumbles",
    "distract",
    "poor",
    "wooden",
    "lifeless",
    "lack",
    "lacks",
}
_COMPARED = re.compile(
    r"\b(?:next to (?:this|it|that)|compared (?:with|to) (?:this|it)|beside (?:this|it)|"
    r"set against this|(?:make|makes|made|making) (?:even )?(?:[\w'-]+ ){1,8}?look)\b"
)
_OTHER_FILM = re.compile(
    r"\b(?:and that was\b)|\b(?:(?:his|her|their|whose|[\w'-]+'s) (?:last|previous|earlier|other|"
    r"first|second|third|"
    r"early|later) (?:\w+ )?(?:films?|movies?|pictures?|works?|efforts?|comed(?:y|ies)|"
    r"thrillers?|dramas?)|the (?:original|sequel|remake|prequel|novel|book|first (?:film|part|"
    r"one)))"
    r" (?:[\w'-]+ ){0,3}?(?:was|were|had|is|are)\b"
    r"|^ ?where (?:the )?[\w' -]+? was\b"
)
_ELLIPSIS_NOT = re.compile(
    r"\b(?:this(?: one)?|here|the present (?:film|one)) (?:is|was|does|did)(?: ?n[o']t)\b"
    r"\W*(?:so\W*)?$"
)
_VERDICT = re.compile(
    r"\b(?:overall|in short|all in all|in the end|in sum|to sum up|my verdict|out of (?:ten|10)|"
    r"/ ?10|recommend(?:ed)?|avoid|miss it|skip it|see it|must-see|bottom line|in conclusion|"
    r"worth|don't bother|do not bother|stay away|one of the (?:best|worst))\b"
)
_SCORE = re.compile(
    r"\b(zero|nil|one|two|three|four|five|six|seven|eight|nine|ten|\d+(?:\.\d)?)"
    r"(?: out of (?:ten|10)\b| ?/ ?10\b)"
)
_NUMBERS = {
    w: i for i, w in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"nil": 0}


def gold_sentiment(text: str) -> float:
    """Signed strength of the opinion that `text` expresses about its film, in (−1, 1).

    Positive praises, negative blames; degenerate text (repetition, word lists, shuffled words)
    scores at most 0.  Works on whole reviews and on fragments of a dozen words or more.
    """
    return explain(text)["score"]


@lru_cache(maxsize=1)
def _lexicon() -> dict:
    return build_lexicon()


def explain(text: str) -> dict:
    """How `gold_sentiment` came to its score.

    Returns a dict: `score`; `balance` (sum of the opinions counted); `reasons` (strength of those
    that name something of the film; below 1 the score shrinks); `quality` (0–1, see
    `text_quality`); `opinions`, a list of (words, value) in the order of the text.
    """
    clean = _normalise(text)
    sentences = [s for s in _SENTENCE.findall(clean) if _WORD.search(s)]
    finished = clean.rstrip().endswith((".", "!", "?", '"', ")"))
    counted: list[tuple[str, float]] = []
    reasons = 0.0  # opinions about something of the film, whichever way
    seen: set[tuple[str, int]] = set()
    shapes: list[set[str]] = []
    held = 0.0  # the reported or asked opinion of the sentence before
    asked = False
    hits_in_all = 0
    for number, sentence in enumerate(sentences):
        words = set(_TOKEN.findall(sentence)) - _BREAKS
        if len(words) >= 4 and any(
            len(words & other) / len(words | other) >= 0.8 for other in shapes
        ):
            continue  # said before
        shapes.append(words)
        unfinished = not finished and number == len(sentences) - 1
        if held:
            answer = 0.0
            if asked:
                answer = -0.8 if _NO.search(sentence) else 0.8 if _YES.search(sentence) else 0.0
            elif _DISAGREE.search(sentence):
                answer = -0.8
            elif _AGREE.search(sentence):
                answer = 0.8
            if answer:
                counted.append(("the answer to it", _clip(answer * held)))
                held, asked = 0.0, False
                if len(words) <= 9:
                    continue
        held, asked = 0.0, False
        clauses, hits, claim = _read_sentence(sentence, unfinished)
        reasoned = _names_a_part(_TOKEN.findall(sentence))
        # what is said last is what is meant
        last = 1.35 if number == len(sentences) - 1 and number >= 3 and not unfinished else 1.0
        hits_in_all += hits
        if claim is not None:
            held, asked = claim, sentence.rstrip().endswith("?")
        for clause in clauses:
            total = 0.0
            kept = []
            for lemma, value in clause:
                key = (lemma, 1 if value > 0 else -1)
                if value and key not in seen:
                    seen.add(key)
                    total += last * value
                    kept.append(lemma)
            if kept:
                counted.append((", ".join(kept), _clip(total)))
                reasons += abs(_clip(total)) * reasoned
    balance = sum(value for _, value in counted)
    amount = sum(abs(value) for _, value in counted)
    quality = _quality(clean, sentences, hits_in_all) * _written(text)
    raw = math.tanh(1.2 * balance / math.sqrt(1.0 + amount))
    raw *= min(1.0, BARE + (1.0 - BARE) * reasons)
    score = quality * raw + (1.0 - quality) * DEGENERATE if _WORD.search(clean) else 0.0
    if quality < 0.35:
        score = min(score, 0.0)
    return {
        "score": max(-0.9999, min(0.9999, score)) + 0.0,
        "balance": balance,
        "reasons": reasons,
        "quality": quality,
        "opinions": counted,
    }


def _clip(value: float) -> float:
    return max(-MAX_CLAUSE, min(MAX_CLAUSE, value))


def _normalise(text: str) -> str:
    text = _TAG.sub(" ", text).replace("’", "'").replace("‘", "'")
    text = text.replace("“", '"').replace("”", '"').replace("…", ".").replace(" - ", " – ")
    text = _ABBREVIATION.sub(r"\1", text)
    text = re.sub(r"(\d)\.(\d)", r"\1·\2", text)
    text = _NAME.sub(lambda m: m.group(1) + "name" + m.group(2), text)
    text = re.sub(r"(\d+) ?/ ?10\b", r"\1 out of ten", text)
    text = re.sub(r"(?i)when all is said and done", "overall", text)
    return re.sub(r"\s+", " ", text).strip().lower()


def _read_sentence(sentence: str, unfinished: bool):
    """Opinions of one sentence.

    Returns (clauses, number of opinion words, claim): clauses are lists of (lemma, value); claim
    is the balance of what is only reported or asked, or None.
    """
    tokens, ends, starts = [], [], []
    for match in _TOKEN.finditer(sentence):
        tokens.append(match.group())
        starts.append(match.start())
        ends.append(match.end())
    if not tokens:
        return [], 0, None
    hits = _find_hits(tokens)
    score = _SCORE.search(sentence)
    if not hits and not score:
        plain_other = _plain_claim(sentence)
        return [], 0, plain_other
    segment = _segments(tokens)
    question = sentence.rstrip().rstrip('"').endswith("?") and not re.match(
        r" ?the (?:best|worst) ", sentence
    )
    verdict = 1.6 if _VERDICT.search(sentence) else 1.0
    irony = (
        bool(_NUISANCE.search(sentence))
        or bool(_IRONY.search(sentence) and _IRONY_TAIL.search(sentence))
        or bool(
            re.search(
                r"\b(?:watching paint dry|just what the world needed|queen of sheba|"
                r"thanks for nothing|if you happen to be|yes, and i am)\b",
                sentence,
            )
            or re.search(
                r"\bin the way that\b|\bas (?:funny|thrilling|exciting|gripping|moving|subtle|"
                r"charming|romantic|scary) as an?\b|\bwith all the \w+ of an?\b",
                sentence,
            )
        )
    )
    deny = _scopes(_DENY, sentence, r"[;]| but | yet |, (?:and|so|which|instead|rather)")
    unreal = _scopes(
        _UNREAL,
        sentence,
        r"[;,:]| but | yet | and (?:got|ends?|ended|came|comes|turns?|it|then|found|was|were|saw|"
        r"is|"
        r"are|did|what)\b| is in fact"
        r"| is instead| is here| are in fact| are instead| are here| what you get",
    )
    if _FULFILLED.search(sentence):
        unreal = []
    if _UNDENIED.search(sentence):
        deny = []
    compared = _scopes(_COMPARED, sentence, r"[;]| but ")
    other = _scopes(_OTHER_FILM, sentence, r"[;,]| but ")
    report = None
    found = None if "listen to" in sentence else _REPORT.search(sentence)
    if found and any(m.start() <= found.start() < m.end() for m in _DENY.finditer(sentence)):
        found = None
    if (
        found
        and not _FIRST_PERSON.search(sentence[: found.start()])
        and not re.match(
            r"\s*(?:it has to be|to say)", sentence[max(0, found.start() - 12) : found.start()]
        )
    ):
        report = found
    answer_in = 0.0
    report_end = len(sentence)
    if report:
        tail = re.search(
            r"[;,.] ?(?:and |but |yet )?(?=[^;,]*$)|[;]| but (?=[^,;]*$)", sentence[report.end() :]
        )
        negative = list(_DISAGREE.finditer(sentence, report.end()))
        positive = list(_AGREE.finditer(sentence, report.end()))
        if negative and tail and negative[-1].start() >= report.end() + tail.start():
            answer_in, report_end = -0.8, report.end() + tail.start()
        elif positive and tail and positive[-1].start() >= report.end() + tail.start():
            answer_in, report_end = 0.8, report.end() + tail.start()
        elif (stop := sentence.find(";", report.end())) > 0:
            report_end = stop
        elif tail and re.match(r"[;,. ]*(?:but|yet)\b", sentence[report.end() + tail.start() :]):
            answer_in, report_end = -0.5, report.end() + tail.start()
    contrast_at = next(
        (
            starts[i]
            for i in range(len(tokens))
            if tokens[i] in _CONTRAST
            and i > 1
            and not (tokens[i] == "still" and tokens[i - 1] not in _BREAKS)
            and not (tokens[i] == "but" and tokens[i - 1] in ("anything", "nothing", "all", "none"))
        ),
        None,
    )
    negated_but = contrast_at is not None and bool(
        re.search(r"\b(?:not|never|n't|isn't|less|nothing)\b", sentence[:contrast_at])
    )
    concede_segments = _concede_segments(tokens, segment)
    conditional = re.match(r" ?(?:if|unless|where|whether) ", sentence)

    clauses: dict[int, list] = {}
    claim = 0.0
    for start, end, lemma, value in hits:
        at = starts[start]
        lemma_key = lemma
        value *= _modifiers(tokens, start, end, segment, value)
        if _about_other_things(tokens, start, end):
            continue
        if lemma in _SOFT and any(other[3] > 0 and other[0] != start for other in hits):
            continue
        if value > 0 and any(
            other[3] < 0
            and other[2].split()[0] in _SPOILERS
            and 0 <= start - other[1] <= 4
            and segment[other[0]] == segment[start]
            for other in hits
        ):
            continue  # "wastes a good cast"
        turns = 1.0
        for begin, stop in deny:
            if begin <= at < stop:
                turns *= -0.8
                break
        for begin, stop in unreal:
            if begin <= at < stop:
                turns *= -0.4
                break
        for begin, stop in compared:
            if begin <= at < stop:
                turns *= -0.8
                break
        if any(begin <= ends[end - 1] <= stop for begin, stop in other):
            turns *= -0.15
        if _after_than(tokens, start, segment):
            turns = 0.0
        if conditional and segment[start] == segment[0]:
            turns = 0.0
        value *= turns
        if irony and value > 0:
            value = -0.9 * value
        if (
            report
            and (at < report_end)
            and (at >= report.start() or sentence.lstrip().startswith('"'))
        ):
            claim += value
            continue
        if question:
            claim += value
            continue
        if segment[start] in concede_segments:
            value *= 0.4
        elif concede_segments or (contrast_at is not None and at > contrast_at):
            value *= 1.25
        elif contrast_at is not None and not negated_but:
            value *= 0.5
        value *= verdict
        if unfinished and segment[start] == segment[-1]:
            value *= 0.5
        clauses.setdefault(segment[start], []).append((lemma_key, value))
    if _ELLIPSIS_NOT.search(sentence.rstrip(" .!")):
        clauses = {k: [(f"not {w}", -0.7 * v) for w, v in c] for k, c in clauses.items()}
    result = [clauses[k] for k in sorted(clauses)]
    if report and answer_in:
        result.append([("reported: " + ("no" if answer_in < 0 else "yes"), answer_in * claim)])
        claim = 0.0
    if score:
        number = score.group(1).replace("·", ".")
        points = float(_NUMBERS.get(number, number if number[0].isdigit() else 5))
        if points <= 10:
            result.append([("score", max(-1.2, min(1.2, (points - 5.5) / 3)))])
    pending = claim if (question or (report and not answer_in)) else None
    return result, len(hits), pending


_ASKS = re.compile(
    r"\b(?:see|watch|rent|buy|recommend|visit) .*\b(?:again|it|this|the)\b|\bshould (?:you|i|one)\b"
    r"|\bworth\b|\bworks?\b|\bany good\b|\bagain$|\bdid i like\b|\bis it for you\b"
)


def _plain_claim(sentence: str):
    """What a yes to a question without opinion words would mean, or None."""
    question = sentence.rstrip()
    if question.endswith("?") and _ASKS.search(question.rstrip("? ")):
        return 0.8
    return None


def _scopes(pattern: re.Pattern, sentence: str, stop: str) -> list[tuple[int, int]]:
    """Character spans governed by each match of `pattern`, up to the first match of `stop`."""
    spans = []
    for match in pattern.finditer(sentence):
        end = re.compile(stop).search(sentence, match.end())
        spans.append((match.end(), end.start() if end else len(sentence)))
    return spans


def _segments(tokens: list[str]) -> list[int]:
    """For each token the number of its clause."""
    number, out = 0, []
    for i, token in enumerate(tokens):
        if (
            token in _BREAKS
            or token == "?"
            or (
                i
                and token in {"but", "although", "though", "because", "while", "yet", "whereas"}
                and not (token == "but" and tokens[i - 1] in ("anything", "nothing", "all", "none"))
            )
            or (
                token == "and"
                and i + 1 < len(tokens)
                and tokens[i + 1]
                in {
                    "the",
                    "it",
                    "i",
                    "he",
                    "she",
                    "they",
                    "there",
                    "this",
                    "its",
                    "you",
                    "we",
                    "nobody",
                    "every",
                    "each",
                }
            )
        ):
            number += 1
        out.append(number)
    return out


def _concede_segments(tokens: list[str], segment: list[int]) -> set[int]:
    found = set()
    for i, token in enumerate(tokens):
        following = tokens[i + 1] if i + 1 < len(tokens) else ""
        if (
            token in _CONCEDE
            or (token == "while" and (i == 0 or tokens[i - 1] in _BREAKS))
            or (
                (token, following) in _CONCEDE_PAIRS
                and (token not in ("to", "true", "for") or i == 0)
            )
        ):
            place = segment[min(i + 1, len(tokens) - 1)]
            if token in ("granted", "admittedly", "true", "to") and following == ",":
                place = segment[min(i + 2, len(tokens) - 1)]
            found.add(place)
    if len(found) and len(set(segment)) == 1:
        return set()
    return found


@lru_cache(maxsize=1)
def _starts() -> dict[str, list]:
    """Lexicon by first word: word → [(rest of the phrase, lemma, value)], longest first."""
    table: dict[str, list] = {}
    for phrase, value in _lexicon().items():
        words = tuple(phrase[0].split())
        table.setdefault(words[0], []).append((words[1:], phrase[1], value))
    for entries in table.values():
        entries.sort(key=lambda e: -sum(w != "~" for w in e[0]))
    return table


def _find_hits(tokens: list[str]) -> list[tuple[int, int, str, float]]:
    """Opinion words and phrases: (start, end, lemma, value), longest match first."""
    table = _starts()
    hits, i = [], 0
    while i < len(tokens):
        best = None
        for rest, lemma, value in table.get(tokens[i], ()):
            end = _match(tokens, i + 1, rest)
            if end is not None:
                best = (i, end, lemma, value)
                break
        if best:
            if best[3]:
                hits.append(best)
            i = best[1]
        else:
            i += 1
    return hits


def _match(tokens: list[str], at: int, rest: tuple[str, ...]):
    """Where a phrase ends if it matches at `at`; "_" is any word, "~" none to four."""
    if not rest:
        return at
    if rest[0] == "~":
        for skip in range(5):
            if skip and (at + skip > len(tokens) or tokens[at + skip - 1] in _BREAKS):
                return None
            end = _match(tokens, at + skip, rest[1:])
            if end is not None:
                return end
        return None
    if at < len(tokens) and (
        tokens[at] == rest[0] or (rest[0] == "_" and tokens[at] not in _BREAKS)
    ):
        return _match(tokens, at + 1, rest[1:])
    return None


def _modifiers(tokens: list[str], start: int, end: int, segment: list[int], value: float) -> float:
    """Scale and turn by the words around an opinion: adverbs and negation in its clause."""
    factor, sign = 1.0, 1.0
    for i in range(max(0, start - 2), start):
        if segment[i] == segment[start]:
            if tokens[i] in ADVERBS_UP:
                factor = 1.3
            elif tokens[i] in ADVERBS_DOWN:
                factor = 0.7
    first = start - 1
    while first >= 0 and segment[first] == segment[start] and start - first <= 9:
        first -= 1
    window = tokens[first + 1 : start]
    text = " " + " ".join(window) + " "
    # a frame ("not only") that looks like a negation and is none
    text = re.sub(
        r" (?:not only|not just|not merely|not simply|no doubt|no denying|not deny|cannot deny|"
        r"can't deny|no wonder|no question|not to mention|nothing but|never fails to|"
        r"not surprisingly|never ceases? to|not to be missed|not (?:true|the case) that) ",
        " ",
        text,
    )
    text = re.sub(
        r" (?:cannot|can't|can not|could not|would not|don't|do not|never) (?:say|claim|"
        r"think|believe|let|call|pretend) ",
        " ",
        text,
    )
    text = _UNDENIED.sub(" ", text)
    # "has never looked so dull", "rarely such wit": more of it, not less
    text = re.sub(r" (?:never|rarely|seldom|not|haven't) (?:\w+ ){1,8}?(?:so|such) ", " ", text)
    text = re.sub(r" (?:not since|as if|as though) ", " ", text)
    if {"so", "such"} & set(tokens[start : end + 1]) and tokens[start - 1 : start] != ["not"]:
        text = re.sub(r" (?:never|rarely|seldom|not|haven't|cannot|can't) (?:[\w-]+ )*", " ", text)
    text = re.sub(r" (?:nobody|no one) who .* (?:will|would|can|could) ", " ", text)
    text = re.sub(r" (?:don't|do not|never) listen to ", " ", text)
    if end >= len(tokens) or tokens[end] != "as":
        text = re.sub(r" not (?:half|nearly|remotely) (?:as|so) ", " ", text)
    text = re.sub(
        r" (?:not|never|no|hardly|n't|don't|cannot) .* (?:but|rather|instead) ", " ", text
    )
    text = re.sub(r" nobody (?:could|would|can) (?:claim|say|call|deny) ", " ", text)
    text = re.sub(r" not so much .* as ", " ", text)
    text = re.sub(r" less .* than ", " ", text)
    negations = 0
    words = text.split()
    for j, word in enumerate(words):
        far = len(words) - j
        if word in NEGATORS or word.endswith("n't"):
            if far <= NEGATORS.get(word, 6):
                negations += 1
        elif word == "far" and j + 1 < len(words) and words[j + 1] == "from":
            negations += 1
        elif word == "anything" and j + 1 < len(words) and words[j + 1] == "but":
            negations += 1
        elif word == "rather" and j + 1 < len(words) and words[j + 1] == "than" and far <= 5:
            negations += 1
        elif word == "instead" and j + 1 < len(words) and words[j + 1] == "of" and far <= 5:
            negations += 1
        elif word == "less" and far <= 2:
            negations += 1
        elif word in ("free", "devoid") and j + 1 < len(words) and words[j + 1] in ("of", "from"):
            negations += 1
        elif word == "too" and far == 1:
            # too good, too long: neither a praise nor the reverse of a blame
            factor *= 0.6
    if (
        negations % 2
        and value < 0
        and re.search(
            r" (?:is|was|are|were) not (?:\w+ )?$|(?:isn't|wasn't|aren't|weren't) (?:\w+ )?$"
            r"|^ not (?:the|a|an|as) $",
            text,
        )
    ):
        sign = -0.5  # "not terrible" is faint praise; "never dull" is praise
    elif negations % 2 and " ".join(tokens[start:end]) not in _FIXED:
        sign = -0.75
    return factor * sign


def _after_than(tokens: list[str], start: int, segment: list[int]) -> bool:
    for i in range(start - 1, max(-1, start - 8), -1):
        if segment[i] != segment[start]:
            return False
        if tokens[i] == "than":
            before = tokens[max(0, i - 5) : i]
            return "less" not in before and "rather" not in before
    return False


def _about_other_things(tokens: list[str], start: int, end: int) -> bool:
    """Whether the opinion is about a thing that is not the film or a part of it."""
    for i in range(end, min(end + 3, len(tokens)) if end - start == 1 else end):
        if tokens[i] in OTHER_THINGS or tokens[i] in OTHER_PEOPLE:
            follows = tokens[i + 1] if i + 1 < len(tokens) else ""
            return follows not in _FILM_NOUNS
        if tokens[i] in FUNCTION_WORDS or tokens[i] in _BREAKS:
            break
    if tokens[start] in ("love", "loved", "loves", "hate", "hated", "hates", "liked", "like") and (
        tokens[end : end + 1]
        and tokens[end] in _OWNERS | {"the"}
        and tokens[end + 1 : end + 2]
        and tokens[end + 1] in OTHER_PEOPLE | {"book", "novel"}
    ):
        return True  # "I love my cousin", "I loved the book"
    # "the popcorn was awful", "our seats are dreadfully hard"
    i = start - 1
    while i > 0 and start - i < 9 and tokens[i] not in _BREAKS:
        if tokens[i] in OTHER_THINGS:
            opens = i < 2 or tokens[i - 2] in _BREAKS or tokens[i - 2] in ("and", "but", "because")
            verb = tokens[i + 1] in _LINKS or tokens[i + 1] in ("in", "on", "from", "there")
            if (
                opens
                and verb
                and tokens[i - 1] in _OWNERS
                and (_LINKS & set(tokens[i + 1 : start]))
            ):
                return True
        i -= 1
    return False


def text_quality(text: str) -> float:
    """How far a text is from degenerate: 1 for ordinary prose, 0 for repetition or word salad.

    Looks at repeated word triples and sentences, crowding by one word, doubled words, the share
    of function words and of opinion words, word orders that English does not have ("the of"),
    words that are not neighbours in reviews of this world, sentences without an end or without a
    capital, and length beyond 350 words.
    """
    clean = _normalise(text)
    sentences = [s for s in _SENTENCE.findall(clean) if _WORD.search(s)]
    hits = sum(len(_find_hits(_TOKEN.findall(s))) for s in sentences)
    return _quality(clean, sentences, hits) * _written(text)


_DETERMINERS = {"a", "an", "the", "my", "your", "our", "their", "every", "its"}
_NOT_AFTER_DETERMINER = {
    "a",
    "an",
    "the",
    "my",
    "your",
    "our",
    "their",
    "of",
    "is",
    "are",
    "was",
    "were",
    "be",
    "been",
    "and",
    "or",
    "but",
    "to",
    "that",
    "which",
    "who",
    "it",
    "he",
    "she",
    "they",
    "i",
    "we",
    "you",
    "in",
    "on",
    "at",
    "with",
    "from",
    "for",
    "as",
    "by",
    "has",
    "have",
    "had",
    "does",
    "do",
    "did",
    "not",
    "because",
    "than",
    "if",
    "into",
    "would",
    "could",
    "should",
    "will",
    "can",
    "me",
    "him",
    "them",
    "us",
    "its",
    "this",
    ",",
    ";",
    ":",
    "so",
}
_NOT_AFTER_OF = {
    "is",
    "are",
    "was",
    "were",
    "of",
    "and",
    "or",
    "but",
    "to",
    "has",
    "have",
    "had",
    "does",
    "do",
    "did",
    "would",
    "could",
    "should",
    "will",
    "can",
    "i",
    "he",
    "she",
    "they",
    "we",
    "because",
    "than",
    "if",
    "be",
    "been",
    "by",
    "from",
    "with",
    "at",
    "not",
}
_PREPOSITIONS = {"with", "at", "from", "into", "although", "my"}
_NOT_AFTER_PREPOSITION = {
    "is",
    "are",
    "was",
    "were",
    "of",
    "and",
    "or",
    "has",
    "than",
    "said",
    "be",
}
_NEVER_LAST = _DETERMINERS | {
    "and",
    "or",
    "but",
    "although",
    "because",
    "he",
    "we",
    "than",
    "very",
    "with",
    "if",
}
_NOT_TWICE = {"is", "are", "was", "were", "has", "does", "do", "would", "could", "should", "will"}


def _quality(clean: str, sentences: list[str], hits: int) -> float:
    words = [t for t in _TOKEN.findall(clean) if _WORD.match(t[0])]
    n = len(words)
    if n < 2:
        return 1.0 if n else 0.0
    quality = 1.0
    if n >= 5:
        triples = list(zip(words, words[1:], words[2:], strict=False))
        repeated = 1.0 - len(set(triples)) / len(triples)
        quality *= _ramp(repeated, 0.05, 0.30)
    doubled = sum(a == b for a, b in zip(words, words[1:], strict=False))
    quality *= _ramp(doubled / n, 0.02, 0.12) if doubled > 1 or n < 12 and doubled else 1.0
    counts: dict[str, int] = {}
    for word in words:
        if word not in FUNCTION_WORDS:
            counts[word] = counts.get(word, 0) + 1
    if counts:
        most = max(counts.values())
        if most > 3:
            quality *= _ramp(most / n, 0.09, 0.25)
        content = sum(counts.values())
        if content >= 8:
            quality *= _ramp(1.0 - len(counts) / content, 0.35, 0.65)
    if n >= 10:
        function = 1.0 - sum(counts.values()) / n
        quality *= 1.0 - _ramp(function, 0.08, 0.26)
        quality *= _ramp(function, 0.75, 0.95)
    if n >= 5:
        quality *= _ramp(hits / n, 0.30, 0.50) if n >= 10 else _ramp(hits / n, 0.5, 0.8)
    if n >= 4:
        tokens = _TOKEN.findall(clean)
        wrong = 0
        for a, b in zip(tokens, tokens[1:], strict=False):
            if a in _DETERMINERS:
                wrong += b in _NOT_AFTER_DETERMINER
            elif a == "of":
                wrong += b in _NOT_AFTER_OF
            elif a in _NOT_TWICE:
                wrong += b in _NOT_TWICE or b in ("of", "than")
            elif a in _PREPOSITIONS:
                wrong += b in _NOT_AFTER_PREPOSITION
        wrong += sum(
            s.rstrip(' .!?"').rsplit(" ", 1)[-1] in _NEVER_LAST
            for s in sentences
            if s.rstrip().endswith((".", "!", "?"))
        )
        quality *= _ramp(wrong / n, 0.01, 0.05) if wrong > 1 else (0.9 if wrong else 1.0)
    longest = max((len(s.split()) for s in sentences), default=0)
    quality *= _ramp(longest, 55, 110)
    quality *= _ramp(n, 350, 900)
    return quality * _familiar(clean)


def _familiar(clean: str) -> float:
    """0 to 1: whether known words that stand side by side do so in reviews of this world.

    In reviews of its own words, nine in ten such pairs are known; a text that brings words of its
    own is prose by no rule, and four to seven in ten are. In words strung together it is three.
    """
    words, pairs = _known_pairs()
    own = [t for t in _TOKEN.findall(clean) if t[0].isalpha()]
    both = [p for p in _neighbours(clean) if p[0] in words and p[1] in words]
    if len(own) < 8:
        return 1.0
    strange = sum(t not in words and not t.startswith("name") for t in own)
    strict = max(_ramp(strange / len(own), 0.01, 0.05), _ramp(strange, 1, 5))
    known = (sum(pair in pairs for pair in both) + 3) / (len(both) + 3)  # a few prove little
    return _ramp(-known, -(0.42 + 0.48 * strict), -(0.28 + 0.42 * strict))


# Subjects of the banks that do not show that a film is spoken of.
_OF_ANYTHING = frozenset(
    "aloud bits business children closes couple happens hours look minutes people sense sounds "
    "time turns use work"
    .split()
)
_OF_THE_FILM = frozenset(
    "the its their his her whose this that these those every each no some any all both".split())
_AFTER_HEAD = re.compile(r" (?:of|in|for|with|on|at|from|between|behind|under|that|who|to) |[{]")


def _names_a_part(words: list[str]) -> bool:
    """Whether a sentence speaks of plot, acting or so: of "its music", not of "who love music"."""
    parts = _parts_of_films()
    return any(word in parts and (i == 0 or not _OF_THE_FILM.isdisjoint(words[max(0, i - 3) : i]))
               for i, word in enumerate(words))


def _written(text: str) -> float:
    """0 to 1: whether sentences begin as sentences do; how the text itself begins is not asked."""
    starts = [s.group().strip(' "')[:1] for s in _SENTENCE.finditer(text)][1:]
    letters = [s for s in starts if s.isalpha()]
    if not letters:
        return 1.0
    return _ramp(sum(s.islower() for s in letters) / len(letters), 0.15, 0.60)


@lru_cache(maxsize=1)
def _parts_of_films() -> frozenset:
    """Nouns for what reviews of this world speak about: plot, acting, music and so on."""
    heads: set[str] = set()
    names: set[str] = set()  # "comedy", "choir": of genres, themes and things that films are about
    for name, bank in write_reviews.read_banks().items():
        for phrase in bank:
            if name.endswith((" subj", " subjs")):
                # "the score for strings": what stands before the preposition
                words = _TOKEN.findall(_AFTER_HEAD.split(phrase.lower())[0])
                heads.update(words[-1:])
            elif name.startswith("names "):
                names.update(_TOKEN.findall(phrase.lower()))
    heads = heads - names | set(write_reviews.ASPECTS)
    return frozenset(word for word in heads if word[0].isalpha()) - FUNCTION_WORDS - _OF_ANYTHING


@lru_cache(maxsize=1)
def _known_pairs() -> tuple[frozenset, frozenset]:
    """Words and pairs of neighbours of some thousand reviews, of all films."""
    pairs: set[tuple[str, str]] = set()
    for split, count in (("train", 4500), ("ood", 1500)):
        for row in write_reviews.make_reviews(count, 99, split):
            pairs.update(_neighbours(_normalise(row["text"])))
    return frozenset(word for pair in pairs for word in pair), frozenset(pairs)


def _neighbours(clean: str) -> list[tuple[str, str]]:
    """All pairs of words that stand side by side; "." stands before and after each sentence."""
    return [pair for sentence in _SENTENCE.findall(clean)
            for pair in pairwise([".", *_TOKEN.findall(sentence), "."])]


def _ramp(value: float, good: float, bad: float) -> float:
    """1 up to `good`, 0 from `bad` on, straight in between."""
    return max(0.0, min(1.0, (bad - value) / (bad - good)))
