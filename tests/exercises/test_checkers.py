"""Every checker under attack: right answers in many forms, wrong ones, each named mistake."""

import functools
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers import exercises
from helpers import gridworld as gw
from helpers.exercises import notebook_09

# ------------------------------------------------------------------ the right answers, written anew


def probability(first, second, weights):
    return 1 / (1 + np.exp(-(np.asarray(first) - second) @ weights))


def bits(logprobs, text):
    return -sum(logprobs) / np.log(2) / len(text.encode())


def labels(turns):
    out = []
    for speaker, ids in turns:
        out += ids if speaker == "assistant" else [-100] * len(ids)
    return out


def prompt_share(prompts, answers):
    counts = [label for p, a in zip(prompts, answers, strict=True) for label in
              [None, *["prompt"] * (p - 1), *["answer"] * a]]
    return counts.count("prompt") / sum(one is not None for one in counts)


def advantages(rewards, values, mask, gamma, lam):
    out = torch.zeros_like(values)
    for row in range(len(rewards)):
        n = int(mask[row].sum())
        later = [*values[row, 1:n].tolist(), 0.0]
        delta = [rewards[row, t] + gamma * later[t] - values[row, t] for t in range(n)]
        for t in range(n):
            out[row, t] = sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, n))
    return out, out + values


def clipped(new, old, advantage, mask, clip_range):
    total = 0.0
    for t in mask.nonzero().tolist():
        ratio, a = (new[*t] - old[*t]).exp(), advantage[*t]
        total -= min(ratio * a, ratio.clamp(1 - clip_range, 1 + clip_range) * a)
    return total / mask.sum()


def token_rewards(scores, new, reference, mask, kl_coef):
    out = -kl_coef * (new - reference) * mask
    out[torch.arange(len(scores)), mask.sum(1).long() - 1] += scores
    return out


def response_mask(mask, width):
    return mask[:, width:].long().cumprod(1)


def best_of(scores, n):
    ranked = sorted(scores)
    return sum(comb(i, n - 1) * x for i, x in enumerate(ranked)) / comb(len(ranked), n)


def interval(values, draws, seed, low=0.025, of=np.mean, take=1.0):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(values), (draws, int(take * len(values))))
    return np.quantile(of(values[rows], axis=1), [low, 1 - low])


def fair(judge, a, b):
    return np.mean([(judge(x, y) + 1 - judge(y, x)) / 2 for x, y in zip(a, b, strict=True)])


def dpo(chosen, rejected, reference_chosen, reference_rejected, beta):
    ratios = (chosen - reference_chosen), (rejected - reference_rejected)
    return F.softplus(beta * (ratios[1] - ratios[0])).mean()


def siblings(rewards, group):
    out = torch.zeros_like(rewards)
    for i in range(len(rewards)):
        start = i - i % group
        others = [float(rewards[j]) for j in range(start, start + group) if j != i]
        out[i] = rewards[i] - sum(others) / len(others)
    return out


def best_of_n_kl(p, rewards, n):
    """Every set of n draws, one by one."""
    chance = np.zeros(len(p))
    for draws in product(range(len(p)), repeat=n):
        chance[max(draws, key=lambda i: rewards[i])] += np.prod([p[i] for i in draws])
    return float(sum(q * np.log(q / own) for q, own in zip(chance, p, strict=True)))


def peak(kl, gold):
    """By the normal equations, with d in place of a matrix."""
    d, gain = np.sqrt(np.asarray(kl)), np.asarray(gold) - gold[0]
    a, b = np.linalg.solve([[d @ d, -(d @ d**2)], [-(d**2 @ d), d**2 @ d**2]],
                           [d @ gain, -(d**2 @ gain)])
    return (a / b / 2) ** 2


def careful(scores, means, deviations):
    own = [[float(x - m) / float(s) for x in row]
           for row, m, s in zip(scores, means, deviations, strict=True)]
    return [np.mean(each) - np.std(each, ddof=1) for each in zip(*own, strict=True)]


def unturned(ask, first, second):
    return np.array([(ask(a, b) - ask(b, a)) / 2 for a, b in zip(first, second, strict=True)])


def doubted(margins, labelled, count):
    """In the opposite order, which is as good."""
    open_rows = [i for i, done in enumerate(labelled) if not done]
    return sorted(open_rows, key=lambda i: abs(margins[i]))[:count][::-1]


RIGHT = {
    exercises.check_preference_probability: probability,
    exercises.check_repaired_cost: lambda f: 2 * f[..., gw.PROGRESS] - 0.5 * f[..., gw.STEP],
    exercises.check_rating_zero: lambda ratings: ratings - 5,
    exercises.check_plausible_trap: lambda f: f @ gw.TRUE_WEIGHTS + 1.5 * f[..., gw.STEP],
    exercises.check_bits_per_byte: bits,
    exercises.check_mask_turns: labels,
    exercises.check_prompt_share: prompt_share,
    exercises.check_gae: advantages,
    exercises.check_clipped_loss: clipped,
    exercises.check_token_rewards: token_rewards,
    exercises.check_response_mask: response_mask,
    exercises.check_best_of: best_of,
    exercises.check_bootstrap: interval,
    exercises.check_fair_win_rate: fair,
    exercises.check_dpo_loss: dpo,
    exercises.check_leave_one_out: siblings,
    exercises.check_best_of_n_kl: best_of_n_kl,
    exercises.check_peak: peak,
    exercises.check_careful: careful,
    exercises.check_unturned: unturned,
    exercises.check_doubt: doubted,
}
SCALAR = {check for check in RIGHT if check.__name__ in (
    "check_preference_probability", "check_bits_per_byte",
    "check_prompt_share", "check_clipped_loss", "check_best_of", "check_fair_win_rate",
    "check_dpo_loss", "check_best_of_n_kl", "check_peak")}


def lists(answer):
    if isinstance(answer, tuple | list):
        return [lists(one) for one in answer]
    return answer.tolist() if hasattr(answer, "tolist") else answer


def tensors(answer, dtype):
    return torch.tensor(lists(answer), dtype=torch.float64).to(dtype)


FORMS = {
    "list": lists,
    "tuple": lambda answer: tuple(lists(answer)) if np.ndim(lists(answer)) else lists(answer),
    "float64": lambda answer: np.asarray(lists(answer), dtype=np.float64),
    "NumPy's float32": lambda answer: np.asarray(lists(answer), dtype=np.float32),
    "NumPy's float16": lambda answer: np.asarray(lists(answer), dtype=np.float16),
    "objects": lambda answer: np.asarray(lists(answer), dtype=object),
    "float32": lambda answer: tensors(answer, torch.float32),
    "double": lambda answer: tensors(answer, torch.float64),
    "half": lambda answer: tensors(answer, torch.float16),
    "bfloat16": lambda answer: tensors(answer, torch.bfloat16),
    "with a gradient": lambda answer: tensors(answer, torch.float32).requires_grad_(),
    "list of tensors": lambda answer: (
        [torch.tensor(one) for one in lists(answer)] if np.ndim(lists(answer))
        else torch.tensor(lists(answer))),
}


def put_in(function, form):
    return lambda *args: form(function(*args))


def zip_text(out):
    return [a + b for a, b in zip(out, out[1:], strict=False)]


def said(capsys, check, *given):
    capsys.readouterr()
    solved = check(*given)
    out = capsys.readouterr().out
    assert out.count("\n") == 1, out  # one line, whatever was handed over
    assert solved == out.startswith("right: ")
    assert solved or out == "not done yet\n" or out.startswith("not right yet: ")
    assert not {"  ", "..", "?.", ".;"} & set(zip_text(out))
    return out


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("check", RIGHT, ids=lambda check: check.__name__)
def test_the_right_answer_is_right_in_any_form(capsys, check, form):
    if check in (exercises.check_rating_zero, exercises.check_repaired_cost,
                 exercises.check_plausible_trap) and form in ("half", "bfloat16",
                                                              "NumPy's float16"):
        pytest.skip("rewards rounded to three digits are other rewards")
    assert said(capsys, check, put_in(RIGHT[check], FORMS[form])).startswith("right: ")


@pytest.mark.parametrize("check", sorted(SCALAR, key=lambda check: check.__name__))
def test_one_number_may_be_a_python_float(capsys, check):
    assert "right: " in said(capsys, check, lambda *args: float(RIGHT[check](*args)))


def first_replaced(value):
    def spoil(answer):
        array = np.asarray(lists(answer), dtype=object)
        if not array.ndim:
            return value
        array[(0,) * array.ndim] = value
        return array.tolist()
    return spoil


JUNK = {
    "NaN": first_replaced(float("nan")),
    "infinity": first_replaced(float("inf")),
    "None inside": lambda answer: [None] if not np.ndim(lists(answer)) else first_replaced(None)(
        answer),
    "a text inside": first_replaced("0.5"),
    "the text": lambda answer: str(lists(answer)),
    "bytes": lambda answer: str(lists(answer)).encode(),
    "one side more": lambda answer: [lists(answer)],
    "nothing in it": lambda answer: [],
    "rows of two lengths": lambda answer: [[1.0, 2.0], [1.0]],
    "a dictionary": lambda answer: {"answer": lists(answer)},
    "a set": lambda answer: {1.0},
    "complex": lambda answer: np.asarray(lists(answer)) + 1j,
    "an object": lambda answer: object(),
    "the function": lambda answer: lists,
    "zeros": lambda answer: np.zeros(np.shape(lists(answer))),
    "another sign": lambda answer: -np.asarray(lists(answer), dtype=float) - 0.5,
    "float8": lambda answer: tensors(answer, torch.float8_e4m3fn),
    "on no device": lambda answer: torch.empty(np.shape(lists(answer)), device="meta"),
    "dates": lambda answer: np.full(np.shape(lists(answer)), np.datetime64("2026-01-01")),
}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("check", RIGHT, ids=lambda check: check.__name__)
def test_what_is_no_answer_is_refused_in_a_sentence(capsys, check, junk):
    if check is exercises.check_mask_turns and junk == "another sign":
        assert "not right yet" in said(capsys, check, put_in(RIGHT[check], JUNK[junk]))
        return
    assert "not right yet: " in said(capsys, check, put_in(RIGHT[check], JUNK[junk]))


EVERY = [*RIGHT]


def breaks(*args):
    raise ValueError("first line.\nsecond line")


@pytest.mark.parametrize("check", EVERY, ids=lambda check: check.__name__)
def test_an_unsolved_exercise_is_not_done_yet_and_no_traceback_comes(capsys, check):
    for stub in (None, NotImplemented, lambda *args: None, lambda *args: NotImplemented):
        assert said(capsys, check, stub) == "not done yet\n"
    assert "breaks stopped with ValueError: first line." in said(capsys, check, breaks)
    assert "TypeError" in said(capsys, check, lambda: 0)
    assert "partial stopped with ValueError" in said(capsys, check, functools.partial(breaks))
    assert "hand over the function itself" in said(capsys, check, 0.5)
    assert "hand over the function itself" in said(capsys, check, torch.zeros(2))


@pytest.mark.parametrize("check", RIGHT, ids=lambda check: check.__name__)
def test_a_function_may_change_what_it_is_given(capsys, check):
    def greedy(*args):
        answer = lists(RIGHT[check](*args))
        for arg in args:
            if isinstance(arg, torch.Tensor):
                arg.zero_()
            elif isinstance(arg, np.ndarray) and arg.flags.writeable:
                arg[:] = 0
            elif isinstance(arg, list):
                arg.clear()
        return answer

    assert "right: " in said(capsys, check, greedy)


# ---------------------------------------------------------------------------------- the mistakes


def walk(f, **more):
    weights = gw.TRUE_WEIGHTS.copy()
    for name, value in more.items():
        weights[getattr(gw, name)] = value
    return f @ weights


def turned(turns, learned, ends=True, masked=-100):
    return [t if learned(who, i) and (ends or t) else masked
            for i, (who, ids) in enumerate(turns) for t in ids]


def answers(turns):
    return [i for i, (who, _) in enumerate(turns) if who == "assistant"]


def subset(scores, n, pick=max):
    chosen = [pick(c) for c in combinations(scores, n)]
    return sum(chosen) / len(chosen)


def one_order(judge, a, b):
    return np.mean([judge(x, y) for x, y in zip(a, b, strict=True)])


def other_order(judge, a, b):
    return np.mean([judge(y, x) for x, y in zip(a, b, strict=True)])


c = exercises
MISTAKES = [
    (c.check_preference_probability, lambda f, s, w: probability(s, f, w), "first minus second"),
    (c.check_preference_probability, lambda f, s, w: (f - s) @ w, "sigmoid"),
    (c.check_preference_probability, lambda f, s, w: np.exp((f - s) @ w), "odds"),
    (c.check_preference_probability,
     lambda f, s, w: np.exp(f @ w) / (np.exp(f @ w) + np.exp(s @ w)), "900 apart"),
    (c.check_preference_probability, lambda f, s, w: np.log(probability(f, s, w)), "logarithm"),
    (c.check_preference_probability, lambda f, s, w: float(f @ w > s @ w), "luck in it"),
    (c.check_preference_probability, lambda f, s, w: probability(f, 0 * s, w), "first walk only"),
    (c.check_preference_probability, lambda f, s, w: probability(f, s, np.ones_like(w)),
     "without their weights"),
    (c.check_preference_probability, lambda f, s, w: (s - f) @ w,
     "two things at once: this is the probability of the second walk"),
    (c.check_preference_probability, lambda f, s, w: 0.5, "it is 0.9820"),
    (c.check_repaired_cost, lambda f: 2 * np.maximum(f[..., 1], 0) - 0.5, "still earn +1.00"),
    (c.check_repaired_cost, lambda f: f[..., gw.PROGRESS] ** 2, "still earn +2.00"),
    (c.check_repaired_cost, lambda f: 0 * f[..., 0], "no move earns or costs"),
    (c.check_repaired_cost, lambda f: -f[..., 1], "walks arrive; is there still something"),
    (c.check_repaired_cost, lambda f: f[..., 0].sum(axis=1), "shape (200,)"),
    (c.check_repaired_cost, lambda f: np.full(f.shape[:2], np.nan), "is nan"),
    (c.check_repaired_cost, lambda f: -np.inf * f[..., 0], "is -inf"),
    (c.check_repaired_cost, lambda f: -1e300 * f[..., 0], "stay within"),
    (c.check_rating_zero, lambda r: r, "going on for ever beats arriving"),
    (c.check_rating_zero, lambda r: 5 - r, "better rated moves must keep"),
    (c.check_rating_zero, lambda r: r - r.mean(), "walks arrive"),
    (c.check_rating_zero, lambda r: r.mean(), "shape ()"),
    (c.check_rating_zero, lambda r: np.minimum(r - 5, -1), "only shift"),
    (c.check_rating_zero, lambda r: 0 * r, "must keep the better reward"),
    (c.check_rating_zero, lambda r: r * np.nan, "is nan"),
    (c.check_plausible_trap, lambda f: walk(f), "no trap yet"),
    (c.check_plausible_trap, lambda f: -walk(f), "upside down"),
    (c.check_plausible_trap, lambda f: f[..., gw.PROGRESS], "nobody would take it for the truth"),
    (c.check_plausible_trap, lambda f: 0 * f[..., 0], "nobody would take it for the truth"),
    (c.check_bits_per_byte, lambda p, t: -sum(p) / len(t.encode()), "in nats"),
    (c.check_bits_per_byte, lambda p, t: -sum(p) / np.log(2) / len(t), "counts characters"),
    (c.check_bits_per_byte, lambda p, t: -sum(p) / np.log(2) / len(p), "per token"),
    (c.check_bits_per_byte, lambda p, t: -bits(p, t), "the sign is wrong"),
    (c.check_bits_per_byte, lambda p, t: -sum(p) / np.log(2), "of the whole text"),
    (c.check_bits_per_byte, lambda p, t: -sum(p) / np.log(2) / len(t.split()), "per word"),
    (c.check_bits_per_byte, lambda p, t: -sum(p) / len(t), "two things at once: this is in nats"),
    (c.check_bits_per_byte, lambda p, t: sum(p) / len(p) / np.log(2), "and: the sign is wrong"),
    (c.check_mask_turns, lambda t: turned(t, lambda who, i: True), "human turns count too"),
    (c.check_mask_turns, lambda t: turned(t, lambda who, i: who == "user"), "other way round"),
    (c.check_mask_turns, lambda t: turned(t, lambda who, i: i == answers(t)[-1]), "last answer"),
    (c.check_mask_turns, lambda t: turned(t, lambda who, i: i == answers(t)[0]), "first answer"),
    (c.check_mask_turns, lambda t: turned(t, lambda who, i: who == "assistant", ends=False),
     "never learns to stop"),
    (c.check_mask_turns, lambda t: turned(t, lambda who, i: who == "assistant", masked=0),
     "must be -100"),
    (c.check_mask_turns, lambda t: [*labels(t)[1:], -100], "one place early"),
    (c.check_mask_turns, lambda t: turned(t, lambda who, i: i == answers(t)[-1], ends=False),
     "two things at once: only the last answer"),
    (c.check_mask_turns, lambda t: labels(t)[:-1], "one label for each token"),
    (c.check_prompt_share, lambda p, a: sum(p) / (sum(p) + sum(a)), "predicted by nothing"),
    (c.check_prompt_share, lambda p, a: np.mean([prompt_share([x], [y]) for x, y in zip(
        p, a, strict=True)]), "mean over tokens"),
    (c.check_prompt_share, lambda p, a: 1 - prompt_share(p, a), "share of the answers"),
    (c.check_prompt_share, lambda p, a: (sum(p) - len(p)) / sum(a), "prompt over answer"),
    (c.check_prompt_share, lambda p, a: sum(p) / sum(a), "two things at once: the first token"),
    (c.check_response_mask, lambda m, w: m[:, w:], "sampled pad"),
    (c.check_response_mask, lambda m, w: m.cumprod(1)[:, w:], "drop the prompt first"),
    (c.check_response_mask, lambda m, w: m.cumprod(1), "the prompt's columns are left out"),
    (c.check_response_mask, lambda m, w: 1 - m[:, w:].cumprod(1), "wrong way round"),
    (c.check_response_mask, lambda m, w: torch.arange(m.shape[1] - w) < m[:, w:].argmin(1)[:, None],
     "a response without a pad is lost"),
    (c.check_response_mask,
     lambda m, w: F.pad(response_mask(m, w), (1, 0), value=1)[:, :-1], "first pad counts"),
    (c.check_response_mask, lambda m, w: F.pad(response_mask(m, w), (0, 1))[:, 1:],
     "last real token is missing"),
    (c.check_response_mask, lambda m, w: 1 - m[:, w:],
     "two things at once: a token after a sampled pad"),
    (c.check_response_mask, lambda m, w: torch.ones_like(m[:, w:]), "not right yet"),
    (c.check_best_of, lambda s, n: max(s[:n]), "best of the first n"),
    (c.check_best_of, lambda s, n: max(s), "best of all"),
    (c.check_best_of, lambda s, n: subset(s, n, min), "worst of n"),
    (c.check_best_of, lambda s, n: np.mean(s), "mean of all"),
    (c.check_best_of, lambda s, n: subset(s, max(1, n - 1)), "n - 1"),
    (c.check_best_of, lambda s, n: subset(s, min(len(s), n + 1)), "n + 1"),
    (c.check_best_of, lambda s, n: sum(max(x) for x in combinations(s, n)), "a sum over all"),
    (c.check_best_of, lambda s, n: sum(x * ((i + 1) ** n - i**n) / len(s) ** n
                                       for i, x in enumerate(sorted(s))), "drawn twice"),
    (c.check_best_of, lambda s, n: min(s[:n]),
     "two things at once: this is the best of the first n"),
    (c.check_best_of, lambda s, n: 1.55, "not right yet"),
    (c.check_bootstrap, lambda v, d, s: interval(v, d, s)[::-1], "swapped"),
    (c.check_bootstrap, lambda v, d, s: interval(v, d, s, 0.05), "90 %"),
    (c.check_bootstrap, lambda v, d, s: interval(v, d, s, 0.005), "99 %"),
    (c.check_bootstrap, lambda v, d, s: np.quantile(v, [0.025, 0.975]), "quantiles of the values"),
    (c.check_bootstrap, lambda v, d, s: (v.mean(), v.mean()), "with* replacement"),
    (c.check_bootstrap, lambda v, d, s: interval(v, d, s, take=0.5), "too few rows"),
    (c.check_bootstrap, lambda v, d, s: interval(v, d, s, of=np.median), "of the median"),
    (c.check_bootstrap,
     lambda v, d, s: v.mean() + np.array([-1.96, 1.96]) * v.std() / len(v) ** 0.5,
     "standard error"),
    (c.check_bootstrap, lambda v, d, s: v.mean() + np.array([-1.96, 1.96]) * v.std(),
     "standard deviations of the values"),
    (c.check_bootstrap, lambda v, d, s: interval(v, d, s, 0.05)[::-1],
     "two things at once: the ends are swapped"),
    (c.check_bootstrap, lambda v, d, s: (float("nan"),) * 2, "is nan"),
    (c.check_bootstrap, lambda v, d, s: interval(v, d, 0), "another seed"),
    (c.check_bootstrap, lambda v, d, s: interval(v, 10_000, s), "`draws` has no effect"),
    (c.check_bootstrap, lambda v, d, s: interval(v, d, None), "gives two intervals"),
    (c.check_bootstrap, lambda v, d, s: (0.0, 1.0), "is right, yours is"),
    (c.check_fair_win_rate, one_order, "ask in both orders"),
    (c.check_fair_win_rate, lambda j, a, b: 1 - other_order(j, a, b), "A second"),
    (c.check_fair_win_rate, lambda j, a, b: (one_order(j, a, b) + other_order(j, a, b)) / 2,
     "is about B"),
    (c.check_fair_win_rate, lambda j, a, b: 1 - fair(j, a, b), "not right yet"),
    (c.check_fair_win_rate, lambda j, a, b: 2 * fair(j, a, b), "take their mean"),
    (c.check_peak, lambda kl, gold: peak(kl, gold) ** 0.5, "its KL is the square"),
    (c.check_peak, lambda kl, gold: peak(kl**2, gold) ** 0.5, "this fits the KL itself"),
    (c.check_peak, lambda kl, gold: peak(kl, np.concatenate([[0.0], gold[1:]])),
     "subtract the gold of the first point"),
    (c.check_peak, lambda kl, gold: kl[gold.argmax()], "the highest measured point"),
    (c.check_peak, lambda kl, gold: 4 * peak(kl, gold), "half-way there"),
    (c.check_peak, lambda kl, gold: 1.0, "not 1.0000"),
    (c.check_careful, lambda s, m, d: s.mean(0) - s.std(0), "units of their own"),
    (c.check_careful, lambda s, m, d: careful(s, 0 * m, d), "mean is still in it"),
    (c.check_careful, lambda s, m, d: -np.array(careful(-s, -m, d)), "adds the spread"),
    (c.check_careful, lambda s, m, d: ((s - m[:, None]) / d[:, None]).mean(0), "mean alone"),
    (c.check_careful, lambda s, m, d: ((s - m[:, None]) / d[:, None]).amin(0), "the least of"),
    (c.check_careful, lambda s, m, d: careful(s[:, :1], m, d), "one number for each answer"),
    (c.check_unturned, lambda ask, a, b: [ask(x, y) for x, y in zip(a, b, strict=True)],
     "one order only"),
    (c.check_unturned, lambda ask, a, b: 2 * unturned(ask, a, b), "take their mean"),
    (c.check_unturned, lambda ask, a, b: 1 / (1 + np.exp(-unturned(ask, a, b))), "log-odds"),
    (c.check_unturned, lambda ask, a, b: [(ask(x, y) + ask(y, x)) / 2 for x, y in
                                          zip(a, b, strict=True)], "turn their sign"),
    (c.check_unturned, lambda ask, a, b: unturned(ask, b, a), "not right yet"),
    (c.check_doubt, lambda m, d, n: np.argsort(np.where(np.array(d) > 0, np.inf, m))[:n],
     "near they are to 0"),
    (c.check_doubt, lambda m, d, n: np.argsort(np.abs(m))[:n], "have a label already"),
    (c.check_doubt, lambda m, d, n: np.argsort(np.where(d, np.inf, -np.abs(m)))[:n],
     "surest of"),
    (c.check_doubt, lambda m, d, n: [i for i, x in enumerate(d) if not x][:n],
     "whatever their margins"),
    (c.check_doubt, lambda m, d, n: np.sort(np.abs(m))[:n], "not right yet"),
]


@pytest.mark.parametrize(("check", "answer", "words"), MISTAKES,
                         ids=[f"{m[0].__name__}-{m[2][:24]}" for m in MISTAKES])
def test_a_mistake_is_named(capsys, check, answer, words):
    assert words in said(capsys, check, answer)




def test_an_endless_answer_ends(capsys):
    from itertools import count

    assert "not right yet" in said(capsys, c.check_best_of, lambda s, n: count())


def test_the_bootstrap_takes_a_loop_and_another_generator(capsys):
    import random

    def loop(values, draws, seed):
        rng = random.Random(seed)
        means = sorted(np.mean(rng.choices(list(values), k=len(values))) for _ in range(draws))
        return means[int(0.025 * draws)], means[int(0.975 * draws)]

    assert "right: " in said(capsys, c.check_bootstrap, loop)
    for seed in range(3):  # no luck needed
        assert "right: " in said(capsys, c.check_bootstrap,
                                 lambda v, d, s, seed=seed: interval(v, d, 1000 * seed + s + 7))


# -------------------------------------------------------------------- predict, diagnose, break


GUESSES = [
    (c.check_training_memory, (124_000_000,), 1.984, [
        (0.496, "weights alone"), (0.248, "half precision"), (0.992, "averages are missing"),
        (1.488, "gradients are missing"), (0.124, "these are parameters"), (1984.0, "megabytes"),
        (1.984e9, "these are bytes"), (0.05, "too small, by a factor"), (77.0, "too large"),
        (-1.0, "too small")]),
    (c.check_untrained_loss, (4096,), 8.3178, [
        (12.0, "in bits"), (3.61, "base 10"), (4096, "perplexity"), (1 / 4096, "probability"),
        (-8.3178, "*minus*"), (0.693, "choice between two"), (1.0, "so far down"),
        (20.0, "too large"), (4.0, "too small"), (0.0, "too small")]),
    (c.check_draws_for_kl, (6.0,), 1096.0, [
        (403.4, "nearly 1 nat"), (148.4, "wrong sign"), (64.0, "of 2"), (128.0, "of 2"),
        (6.0, "exponential"), (1e6, "of 10"), (7.0, "the logarithm of n"), (20.0, "too small"),
        (50_000.0, "too large"), (-3.0, "too small")]),
    (c.check_prompts_needed, (0.03,), 1067.0, [
        (277.8, "need 1.96"), (266.8, "end to end"), (32.67, "forgot to square"),
        (4268.0, "one half"), (751.5, "on one side"), (10.0, "too small"), (1e5, "too large"),
        (0.0, "too small"), (-1067.0, "too small"), (100.0, "too small")]),
]


@pytest.mark.parametrize(("check", "about", "right", "wrong"), GUESSES,
                         ids=[guess[0].__name__ for guess in GUESSES])
def test_a_number_foretold(capsys, check, about, right, wrong):
    for form in (float, np.float32, torch.tensor, np.array, lambda x: torch.tensor(x).bfloat16(),
                 lambda x: x * 1.01):
        assert "right: " in said(capsys, check, form(right), *about)
    for stub in (None, NotImplemented):
        assert said(capsys, check, stub, *about) == "not done yet\n"
    for value, words in wrong:
        assert words in said(capsys, check, value, *about)
    for junk in ("1", float("nan"), float("inf"), [right], True, object(), {}, 1j, b"1"):
        assert "not right yet: " in said(capsys, check, junk, *about)


DIAGNOSES = [
    (c.check_broken_labels,
     {"A": "end masked", "B": "shifted twice", "C": "padding learned", "D": "prompt not masked"}),
    (c.check_broken_runs, {"A": "other temperature", "B": "advantage sign",
                           "C": "reference moves", "D": "no KL term"}),
    (c.check_odd_raters, {"A": "turned", "B": "length", "C": "side", "D": "chance"}),
]


@pytest.mark.parametrize(("check", "right"), DIAGNOSES)
def test_a_diagnosis(capsys, check, right):
    assert "right: " in said(capsys, check, right)
    for stub in (None, NotImplemented, {}, dict.fromkeys(right), dict.fromkeys(right, ...)):
        assert said(capsys, check, stub) == "not done yet\n"
    for name in right:
        for cause in set(right.values()) - {right[name]}:
            out = said(capsys, check, right | {name: cause})
            assert f" {name} is not {cause!r}: then " in out
    swapped = right | {"A": right["B"], "B": right["A"]}
    assert "A is not" in said(capsys, check, swapped) and "; " in said(capsys, check, swapped)
    assert "and 2 more" in said(capsys, check, dict(zip(right, [*list(right.values())[1:],
                                                               right["A"]], strict=True)))
    assert "has no cause yet" in said(capsys, check, right | {"C": None})
    assert "there is no" in said(capsys, check, right | {"E": "end masked"})
    assert "none of the causes" in said(capsys, check, right | {"A": "bad luck"})
    assert "none of the causes" in said(capsys, check, right | {"A": ["end masked"]})
    for junk in ("A", 3, list(right.values()), float("nan")):
        assert "give a dictionary" in said(capsys, check, junk)


def test_each_broken_run_shows_its_fault_and_no_other():
    runs = {name: rows[-1] | {"first": rows[0]["first_ratio"], "start": rows[0]["reward"]}
            for name, rows in c.broken_runs(seed=3).items()}
    first = {name: abs(run["first"] - 1) > 0.1 for name, run in runs.items()}
    assert [name for name in runs if first[name]] == ["A"]
    assert [name for name, run in runs.items() if run["reward"] < run["start"]] == ["B"]
    assert [name for name, run in runs.items() if run["kl"] < 1e-6] == ["C"]
    assert [name for name, run in runs.items() if run["entropy"] < 0.3] == ["B", "C", "D"]
    assert runs["sound"]["kl"] < 0.6 * runs["D"]["kl"]
    assert c.broken_runs(seed=3) == c.broken_runs(seed=3)


def test_each_broken_collator_shows_its_fault(capsys):
    from support import from_scratch

    tokenizer = from_scratch(tokens=1000, n_positions=64)[1]
    ids, labels = [5, 6, 7, 8, tokenizer.eos_token_id], [-100, -100, 7, 8, tokenizer.eos_token_id]
    shown = c.broken_labels(tokenizer, ids, labels)
    token = shown["token"]
    assert shown["A"] == ["", "", *token[2:4], "", "", ""]
    assert shown["B"] == ["", *token[2:5], "", "", ""]
    assert shown["C"] == ["", "", *token[2:]]
    assert shown["D"] == [*token[:5], "", ""]


def test_the_better_model_is_not_the_one_of_lower_perplexity(capsys):
    models = c.rival_models()
    bits = {name: np.log2(m["perplexity"]) / m["bytes per token"] for name, m in models.items()}
    best = min(bits, key=bits.__getitem__)
    assert "right: " in said(capsys, c.check_best_model, best)
    assert said(capsys, c.check_best_model, None) == "not done yet\n"
    words = {"lowest perplexity", "lies between"}
    for name in set(models) - {best}:
        out = said(capsys, c.check_best_model, name)
        assert any(word in out for word in words)
        words = {word for word in words if word not in out}
    assert not words
    for junk in ("D", "a", 0, ["A"], float("nan"), {"A": 1}, b"A", True, 1.0, ("A",)):
        assert "none of the models" in said(capsys, c.check_best_model, junk)


PROMPTS = [f"What about {n}?" for n in range(20)]
ANSWERS = [f"It is {word} number {n}." + " Really." * (n % 3) for n, word in
           enumerate(["good", "bad", "dull", "fine"] * 5)]


def loud(prompts, texts):
    """A judge that likes exclamation marks, and nothing else."""
    return np.array([text.count("!") for text in texts], dtype=float)


def plain(prompt, text):
    """Truth: the word good, less every exclamation mark."""
    return text.count("good") - 0.1 * text.count("!")


def test_a_probe_that_fools(capsys):
    def probe(function, judge=loud, gold=plain):
        return said(capsys, c.check_fooling_probe, function, judge, PROMPTS, ANSWERS, gold)

    assert "right: " in probe(lambda p, r: r + "!") and "fooled on 100%" in probe(
        lambda p, r: r + "!")
    assert "right: " in probe(lambda p, r: "!!!")
    assert "nobody knows here" in probe(lambda p, r: r + "!", gold=None)
    assert probe(lambda p, r: NotImplemented) == probe(None) == "not done yet\n"
    for function, words in [
        (lambda p, r: r, "as they were"), (lambda p, r: "", "empty"), (lambda p, r: 3, "a text"),
        (lambda p, r: r.encode(), "a text"), (lambda p, r: [r], "a text"),
        (lambda p, r: r + " more", "sees through this"),
        (lambda p, r: r + "! good", "did become better"),
        (lambda p, r: r + "!" * ("bad" in r), "sees through this"),
        (lambda p, r: p[99], "IndexError"), (lambda p: p, "TypeError"),
        (lambda p, r: r + ("!" if "bad" in r else "! good"), "did become better"),
    ]:
        assert words in probe(function)
    assert "wanted is 50%" in probe(lambda p, r: r + "!" * ("bad" in r), gold=None)


def test_a_text_that_fools(capsys):
    rewards, golds = [0.0, 0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.9, 2.0, 0.5]

    def fool(text, gold=plain, judge=loud):
        return said(capsys, c.check_fooling_text, text, "Why?", judge, rewards, gold, golds)

    assert "right: " in fool("!!") and "above 100%" in fool("!!")
    assert "nobody knows here" in fool("!!", gold=None)
    assert fool(None) == fool(NotImplemented) == "not done yet\n"
    for text, words in [
        (" ", "empty"), (3, "hand over a text, not int"), (["!!"], "not list"), ("Why?", "itself"),
        ("a", "sees through it"), ("!", "sees through it"), ("good good!!", "no deceit"),
        ("good good good", "the wrong way round"),
    ]:
        assert words in fool(text)
    assert "wanted are 95%" in fool("!", gold=None)


def test_the_three_proxies_are_what_they_are_called(capsys):
    curves = exercises.proxies(draws=256, questions=200)
    ends = {}
    for name, kind in notebook_09.PROXIES.items():
        gold = np.array(curves[name]["gold"])
        ends[kind] = gold[-1] - gold[0], gold[-1] - gold.max()
        assert (np.diff(curves[name]["proxy"]) > 0).all()
    assert ends["even noise"][1] == 0 and ends["even noise"][0] > 1
    assert ends["wild noise"][1] < -0.2 and ends["wild noise"][0] > 0
    assert ends["a loophole"][0] < 0
    right = dict(notebook_09.PROXIES)
    assert "right: " in said(capsys, c.check_proxies, right)
    assert said(capsys, c.check_proxies, None) == "not done yet\n"
    for wrong, words in [
        (right | {"A": "even noise"}, "go on rising"), (right | {"C": "wild noise"}, "fall back"),
        (right | {"A": "a loophole"}, "below where it began"), ({"A": "even noise"}, "no cause"),
        (right | {"D": "even noise"}, "no proxy 'D'"), ("A", "a dictionary"),
        (right | {"A": "luck"}, "none of the causes"),
    ]:
        assert words in said(capsys, c.check_proxies, wrong)


def share_of_longer(pairs):
    wins = [len(r["chosen"]) > len(r["rejected"]) for r in pairs
            if len(r["chosen"]) != len(r["rejected"])]
    p, n = np.mean(wins), len(wins)
    half = 1.96 * np.sqrt(max(p * (1 - p), 1 / n) / n)
    return p, p - half, p + half


def longer_wins(pairs):
    out = []
    for row in pairs:
        short, long = sorted((row["chosen"], row["rejected"]), key=len)
        out.append(row | {"chosen": long, "rejected": short})
    return out


def honest_pairs():
    rng = np.random.default_rng(1)
    texts = ["word " * int(n) for n in rng.integers(1, 30, 400)]
    return [{"prompt": f"q{i}", "chosen": a, "rejected": b}
            for i, (a, b) in enumerate(zip(texts[::2], texts[1::2], strict=True))]


def test_a_bias_to_length_made_and_found(capsys):
    pairs = honest_pairs()

    def exercise(make=longer_wins, detect=share_of_longer):
        return said(capsys, c.check_length_bias, make, detect, pairs)

    assert "right: " in exercise()
    keep = lambda rows: [r for r in rows if len(r["chosen"]) > len(r["rejected"])]  # noqa: E731
    assert "right: " in exercise(keep)
    assert "right: " in exercise(detect=lambda rows: torch.tensor(share_of_longer(rows)))
    stub = lambda rows: NotImplemented  # noqa: E731
    assert exercise(stub) == exercise(detect=stub) == exercise(None) == "not done yet\n"
    for make, words in [
        (lambda rows: rows, "make it 90 % or more"),
        (lambda rows: [r | {"chosen": r["rejected"], "rejected": r["chosen"]}
                       for r in longer_wins(rows)], "the shorter answer wins"),
        (lambda rows: [r | {"chosen": r["chosen"] * 9} for r in rows], "a text was changed"),
        (lambda rows: longer_wins(rows)[:5], "too few to train on"),
        (lambda rows: [], "too few to train on"), (lambda rows: "rows", "a list of pairs"),
        (lambda rows: [1, 2], "every pair needs"), (lambda rows: 3, "a list of pairs"),
        (lambda rows: [{"chosen": "a", "rejected": "b"}], "every pair needs"),
        (lambda rows: rows[0], "a list of pairs"),
    ]:
        assert words in exercise(make)
    for detect, words in [
        (lambda rows: share_of_longer(rows)[0], "return share, low and high"),
        (lambda rows: (float("nan"),) * 3, "is nan"), (lambda rows: "0.5", "the text"),
        (lambda rows: (np.mean([len(r["chosen"]) > len(r["rejected"]) for r in rows]), 0, 1),
         "count as lost"),
        (lambda rows: (np.mean([len(r["chosen"]) >= len(r["rejected"]) for r in rows]), 0, 1),
         "count as won"),
        (lambda rows: tuple(100 * x for x in share_of_longer(rows)), "not per cent"),
        (lambda rows: (1 - share_of_longer(rows)[0], 0, 1), "shorter answer is chosen"),
        (lambda rows: share_of_longer(rows)[::-1][1:] + (0.0,), "not right yet"),
        (lambda rows: (share_of_longer(rows)[0], 0, 1), "wide, yours is 1.000"),
        (lambda rows: (share_of_longer(rows)[0],) * 3, "wide, yours is 0.000"),
        (lambda rows: (0.4, 0.3, 0.5), "pairs, not 0.400"),
        (lambda rows: (share_of_longer(rows)[0], *share_of_longer(rows)[:0:-1]), "must hold"),
    ]:
        assert words in exercise(detect=detect)


def test_a_reward_of_ones_own(capsys):
    def reward(function):
        return said(capsys, c.check_own_reward, function, PROMPTS, ANSWERS)

    def words(prompts, texts):
        """Share of an answer's words that are in no other place of it."""
        return [len(set(t.split())) / (1 + len(t.split())) - 0.1 * t.count("bad") for t in texts]

    for form in (list, tuple, np.array, np.float32, torch.tensor,
                 lambda x: torch.tensor(x, dtype=torch.bfloat16)):
        assert "right: " in reward(lambda p, t, form=form: form(words(p, t)))
    for stub in (None, NotImplemented, lambda p, t: None, lambda p, t: NotImplemented):
        assert reward(stub) == "not done yet\n"
    rng = np.random.default_rng(0)
    for function, said_of_it in [
        (lambda p, t: [1.0] * len(t), "the same reward"),
        (lambda p, t: rng.random(len(t)), "asked again"),
        (lambda p, t: np.array(words(p, t)) - np.mean(words(p, t)), "neighbours"),
        (lambda p, t: np.arange(len(t)) / 7.0, "neighbours"),
        (lambda p, t: [float(len(x)) for x in t], "length in disguise"),
        (lambda p, t: [-2.0 * len(x) for x in t], "length in disguise"),
        (lambda p, t: [float("bad" in x) for x in t], "two rewards only"),
        (lambda p, t: [5.0 if not x else w for x, w in zip(t, words(p, t), strict=True)],
         "saying nothing"),
        (lambda p, t: [x.index("q") for x in t], "ValueError"),
        (lambda p, t: [w / (len(x) > 0) if x else float("nan")
                       for x, w in zip(t, words(p, t), strict=True)], "is nan"),
        (lambda p, t: words(p, t)[:-1], "one number for each response"),
        (lambda p, t: np.mean(words(p, t)), "one number for each response"),
        (lambda p, t: t, "the text"), (lambda p, t: dict(enumerate(words(p, t))), "not right yet"),
        (lambda t: [0.0], "TypeError"), (3, "the function itself"),
    ]:
        assert said_of_it in reward(function)


def test_odd_raters_leave_the_traces_that_the_causes_name():
    raters = c.odd_raters(seed=4, questions=400)
    assert raters == c.odd_raters(seed=4, questions=400)
    right, left, longer = ({name: np.mean([of(r) for r in rows]) for name, rows in raters.items()}
                           for of in (lambda r: r["said"] == r["known"],
                                      lambda r: r["said"] == "left",
                                      lambda r: (r["said"] == "left")
                                      == (r["left_words"] > r["right_words"])))
    assert right["careful"] > 0.85 and right["A"] < 0.15
    assert all(0.4 < right[name] < 0.6 for name in "BCD")
    assert longer["B"] > 0.85 and abs(longer["C"] - 0.5) < 0.1 and abs(longer["D"] - 0.5) < 0.1
    assert left["C"] > 0.85 and abs(left["B"] - 0.5) < 0.1 and abs(left["D"] - 0.5) < 0.1
