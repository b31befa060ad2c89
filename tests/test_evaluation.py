"""Evaluation against closed forms, slow loops and SciPy."""

import ast
import itertools
import json
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from support import byte_policy, byte_tokenizer

from helpers import evaluation as ev
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profiles import load_profile


def test_bootstrap_interval_matches_scipy_percentile_bootstrap():
    values = np.random.default_rng(1).exponential(size=200)
    estimate, low, high = ev.bootstrap_interval(values, resamples=8000)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=8000, rng=np.random.default_rng(2))
    assert estimate == pytest.approx(values.mean())
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.02)


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(200):
        _, low, high = ev.bootstrap_interval(rng.normal(3, 1, 60), seed=i, resamples=400, level=0.9)
        hits += low <= 3 <= high
    assert 0.82 <= hits / 200 <= 0.96


def test_bootstrap_interval_takes_any_statistic_and_repeats_with_its_seed():
    values = np.arange(31.0)
    assert ev.bootstrap_interval(values, np.median)[0] == 15
    assert ev.bootstrap_interval(values, lambda v: float(max(v)), resamples=50)[0] == 30
    assert ev.bootstrap_interval(values, seed=3) == ev.bootstrap_interval(values, seed=3)
    assert ev.bootstrap_interval(values, seed=3) != ev.bootstrap_interval(values, seed=4)


@pytest.mark.parametrize(("values", "level"), [([], 0.95), ([1.0, math.nan], 0.95), ([1.0], 95)])
def test_bootstrap_interval_refuses_what_has_no_interval(values, level):
    with pytest.raises(UserError):
        ev.bootstrap_interval(values, level=level)


@pytest.mark.parametrize(("wins", "total"), [(0, 10), (7, 10), (10, 10), (512, 1000)])
def test_wilson_interval_ends_where_the_score_test_would_reject(wins, total):
    """Its ends are the shares from which what was seen lies z standard errors away."""
    share, low, high = ev.wilson_interval(wins, total, level=0.9)
    z = stats.norm.ppf(0.95)
    assert share == wins / total and 0 <= low <= share <= high <= 1
    for end in {low, high} - {0.0, 1.0}:
        assert abs(share - end) == pytest.approx(z * math.sqrt(end * (1 - end) / total), abs=1e-9)


def test_win_rate_counts_ties_as_half_and_is_antisymmetric():
    a, b = [1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 5.0, 1.0]
    assert ev.win_rate(a, b)[0] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert ev.win_rate(a, b)[0] + ev.win_rate(b, a)[0] == pytest.approx(1)
    assert ev.win_rate(a, a) == (0.5, 0.5, 0.5)


def test_win_rate_refuses_lists_that_do_not_pair_up():
    with pytest.raises(UserError, match="3 scores and B has 2"):
        ev.win_rate([1, 2, 3], [1, 2])


def test_judge_agreement_is_one_for_itself_and_kappa_zero_for_a_constant_judge():
    d = np.random.default_rng(0).normal(size=500)
    assert ev.judge_agreement(d, 3 * d)["agreement"] == 1
    assert ev.judge_agreement(d, 3 * d)["kappa"] == pytest.approx(1)
    assert ev.judge_agreement(d, np.ones(500))["kappa"] == pytest.approx(0, abs=1e-9)
    assert ev.judge_agreement([1.0, 0.0, -1.0], [1.0, 1.0, 1.0])["pairs"] == 2


def test_longer_wins_finds_a_judge_that_counts_words():
    a, b = np.array([3, 5, 8, 2]), np.array([4, 1, 2, 2])
    assert ev.longer_wins(a, b, a, b) == 1
    assert ev.longer_wins(a, b, -a, -b) == 0
    assert math.isnan(ev.longer_wins([1], [1], [2], [3]))


def test_sequence_kl_estimators_agree_with_the_exact_kl_of_a_categorical():
    generator = torch.Generator().manual_seed(0)
    p = torch.softmax(torch.randn(7, generator=generator), -1)
    q = torch.softmax(torch.randn(7, generator=generator), -1)
    tokens = torch.multinomial(p, 60_000 * 3, replacement=True, generator=generator).view(-1, 3)
    exact = 3 * float((p * (p / q).log()).sum())
    mask = torch.ones_like(tokens)
    for name in ("k1", "k3"):
        estimate = ev.sequence_kl(p.log()[tokens], q.log()[tokens], mask, name)
        assert estimate.mean().item() == pytest.approx(exact, rel=0.03)
    assert (ev.sequence_kl(p.log()[tokens], q.log()[tokens], mask, "k3") >= -1e-6).all()


def test_sequence_kl_ignores_whatever_stands_under_the_padding():
    a, b = torch.randn(2, 5), torch.randn(2, 5)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    dirty = a.clone()
    dirty[0, 2:] = torch.tensor([math.inf, math.nan, 1e9])
    for name in ("k1", "k3"):
        torch.testing.assert_close(
            ev.sequence_kl(a, b, mask, name), ev.sequence_kl(dirty, b, mask, name))
    with pytest.raises(UserError):
        ev.sequence_kl(a, b[:, :4], mask)


def test_best_of_n_equals_the_mean_over_all_subsets():
    scores = np.random.default_rng(0).normal(size=(3, 7))
    for n in (1, 2, 4, 7):
        slow = [np.mean([max(c) for c in itertools.combinations(row, n)]) for row in scores]
        np.testing.assert_allclose(ev.best_of_n(scores, n), slow)
    with pytest.raises(UserError):
        ev.best_of_n(scores, 8)


@pytest.mark.parametrize("n", [1, 2, 300, 4096])
def test_the_best_of_n_among_thousands_has_the_rank_that_theory_says(n):
    weights = ev.best_of_weights(4096, n)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    # The mean rank of the largest of n drawn from 1..N without replacement.
    assert weights @ np.arange(1, 4097) == pytest.approx(n * 4097 / (n + 1))


def test_best_of_n_kl_is_the_kl_of_the_best_rank_among_n_uniform_draws():
    assert ev.best_of_n_kl(1) == 0
    for n in (2, 5, 16):
        # The best of n uniform draws has density n u^(n-1); its KL is the integral below.
        u = np.linspace(0, 1, 200_001)[1:]
        density = n * u ** (n - 1)
        assert ev.best_of_n_kl(n) == pytest.approx(
            np.trapezoid(density * np.log(density), u), abs=1e-4)


@pytest.mark.parametrize("n", [2, 4, 16])
def test_best_of_n_kl_is_above_that_of_responses_with_a_probability_of_their_own(n):
    """Language models have such responses: no two share a score here, and the bound is not met."""
    for chances in np.random.default_rng(0).dirichlet(np.ones(6), 20):
        up_to = np.append(0, chances.cumsum())  # responses in the order of their scores
        best = np.diff(up_to**n)
        assert 0 < (best * np.log(best / chances)).sum() < 0.999 * ev.best_of_n_kl(n)


def test_distinct_and_repetition_on_texts_counted_by_hand():
    assert ev.distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)
    assert ev.distinct_n(["A b", "a B"], 1) == pytest.approx(0.5)
    assert math.isnan(ev.distinct_n(["a"], 2))
    assert ev.distinct_share(["x  y", "x y", "z"]) == pytest.approx(2 / 3)
    assert ev.repetition("so good so good so good", 2) == pytest.approx(3 / 5)
    assert ev.repetition("one two three", 3) == 0


class _Uniform(torch.nn.Module):
    """A language model that finds every token equally likely."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.vocabulary = vocabulary
        self.config = SimpleNamespace(max_position_embeddings=16)

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        logits = torch.zeros(*input_ids.shape, self.vocabulary) + self.weight
        return SimpleNamespace(logits=logits)


class _Bytes:
    """A tokenizer whose tokens are the bytes of ASCII text."""

    bos_token_id, eos_token_id, unk_token_id = None, 0, None
    all_special_ids, added_tokens_decoder = [0], {}

    def __len__(self):
        return 256

    def __call__(self, texts, **_):
        return {"input_ids": [list(text.encode()) for text in texts]}

    def decode(self, ids):
        return bytes(ids).decode()


def test_bits_per_byte_holds_few_logits_at_once_and_does_not_change_by_it(monkeypatch):
    shapes = []

    class Watched(_Uniform):
        def __call__(self, input_ids, attention_mask):
            shapes.append(tuple(input_ids.shape))
            logits = input_ids[..., None] / 99 * torch.arange(256.0) / 99
            return SimpleNamespace(logits=logits)

    texts = ["a", "bcd", "efgh" * 3, "ij" * 20, "k" * 41]
    model = Watched(256)
    model.config.max_position_embeddings = 64
    whole = ev.bits_per_byte(model, _Bytes(), texts)
    assert shapes == [(5, 42)]
    monkeypatch.setattr(ev, "LOGITS", 256 * 45)
    model.config.vocab_size = 256
    assert ev.bits_per_byte(model, _Bytes(), texts) == pytest.approx(whole)
    assert shapes[1:] == [(3, 13), (1, 41), (1, 42)]


def test_log_probabilities_of_responses_hold_few_logits_at_once(monkeypatch):
    shapes = []

    class Watched(_Uniform):
        def forward(self, input_ids, attention_mask=None, position_ids=None):
            shapes.append(tuple(input_ids.shape))
            logits = input_ids[..., None] / 9 * torch.arange(16.0) / 9
            return SimpleNamespace(logits=logits)

    model = Watched(16)
    model.config.vocab_size = 16
    torch.manual_seed(0)
    prompts, responses = torch.randint(0, 16, (6, 5)), torch.randint(0, 16, (6, 3))
    parts = prompts, torch.ones_like(prompts), responses, torch.ones_like(responses)
    whole = ev.response_logprobs(model, *parts)
    assert shapes == [(6, 8)]
    monkeypatch.setattr(ev, "LOGITS", 16 * 8 * 2 + 1)
    torch.testing.assert_close(ev.response_logprobs(model, *parts), whole)
    assert shapes[1:] == [(2, 8)] * 3


def test_bits_per_byte_of_a_uniform_byte_model_is_eight():
    texts = ["ab", "longer than the context of sixteen tokens", "", "x"]
    assert ev.bits_per_byte(_Uniform(256), _Bytes(), texts, batch_size=2) == pytest.approx(8)
    with pytest.raises(UserError):
        ev.bits_per_byte(_Uniform(256), _Bytes(), ["", ""])


def test_response_logprobs_do_not_depend_on_padding_or_batch(tiny_policy):
    ids = torch.tensor([[5, 6, 7]])
    response = torch.tensor([[8, 9, 10, 11]])
    ones = torch.ones_like
    plain = ev.response_logprobs(tiny_policy, ids, ones(ids), response, ones(response))
    wide = torch.cat([torch.zeros(1, 4, dtype=torch.long), ids], 1)
    mask = torch.cat([torch.zeros(1, 4, dtype=torch.long), ones(ids)], 1)
    longer = torch.cat([response, torch.full((1, 3), 2)], 1)
    keep = torch.cat([ones(response), torch.zeros(1, 3, dtype=torch.long)], 1)
    padded, entropy = ev.response_logprobs(
        tiny_policy, wide, mask, longer, keep, with_entropy=True)
    torch.testing.assert_close(padded[:, :4], plain, atol=1e-5, rtol=1e-5)
    assert (padded[:, 4:] == 0).all()
    assert (entropy[:, :4] > 0).all() and (entropy[:, 4:] == 0).all()


@pytest.fixture
def tiny_policy():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=32, n_layer=2, n_head=2, n_embd=16, n_positions=32,
        bos_token_id=1, eos_token_id=1, pad_token_id=0)).eval()


def test_best_of_curve_is_the_mean_over_all_subsets_for_reward_and_for_gold():
    from itertools import combinations

    rng = np.random.default_rng(0)
    scores, gold = rng.normal(size=(2, 3, 5))
    curve = ev.best_of_curve(scores, gold)
    assert list(curve["n"]) == [1, 2, 3, 4, 5]
    for i, n in enumerate(curve["n"]):
        subsets = [list(c) for c in combinations(range(5), int(n))]
        best = [[c[int(np.argmax(row[c]))] for c in subsets] for row in scores]
        reward = np.mean([scores[r, best[r]].mean() for r in range(3)])
        chosen = np.mean([gold[r, best[r]].mean() for r in range(3)])
        assert curve["reward"][i] == pytest.approx(reward)
        assert curve["gold"][i] == pytest.approx(chosen)
        assert curve["kl"][i] == pytest.approx(np.log(n) - (n - 1) / n)


def test_stored_draws_count_only_for_the_same_models_and_task():
    def task(**changes):
        return SimpleNamespace(**{"reward": "sentiment", "prompt_tokens_min": 2, "temperature": 1.0,
                                  "prompt_tokens_max": 8, "max_new_tokens": 20} | changes)

    torch.manual_seed(0)
    one, two = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    found = ev.task_hash(one, two, task())
    assert ev.task_hash(one, two, task(total_episodes=9)) == found  # no part of drawing
    others = [ev.task_hash(two, one, task()),
              ev.task_hash(one, two, task(temperature=0.7))]
    with torch.no_grad():
        two.weight[0, 0] += 1e-3
    others.append(ev.task_hash(one, two, task()))
    assert len({found, *others}) == 4
    named = [ev.task_hash(torch.nn.ModuleDict({name: one}), two, task())
             for name in ("a", "b")]
    assert named[0] != named[1]


def test_share_of_best_of_n_is_one_for_best_of_n_itself():
    curve = ev.best_of_curve(np.random.default_rng(1).normal(size=(50, 16)))
    gains = curve["reward"] - curve["reward"][0]
    for kl, gain in zip(curve["kl"][1:], gains[1:], strict=True):
        assert ev.share_of_best_of_n(gain, kl, curve) == pytest.approx(1)
    middle = (curve["kl"][3] + curve["kl"][4]) / 2
    share = ev.share_of_best_of_n
    assert share((gains[3] + gains[4]) / 2, middle, curve) == pytest.approx(1)
    assert share(gains[-1], 50.0, curve) == pytest.approx(1)  # held at the last n
    assert np.isnan(ev.share_of_best_of_n(0.1, 0.0, curve))


def test_bits_and_bytes_of_each_text_add_up_to_those_of_all():
    tokenizer = byte_tokenizer()
    model = byte_policy(tokenizer)
    texts = ["a good film", "", "the end of a bad day", "it", "a film " * 40]
    rows = ev.text_bits(model, tokenizer, texts, batch_size=2)
    assert rows.shape == (4, 2)  # the empty one is left out
    assert ev.bits_over_bytes(rows) == pytest.approx(ev.bits_per_byte(model, tokenizer, texts))
    for row, text in zip(rows, [t for t in texts if t], strict=True):
        assert row[0] / row[1] == pytest.approx(ev.bits_per_byte(model, tokenizer, [text]))
    assert list(rows[:3, 1]) == [len(t) for t in texts if t][:3] and rows[3, 1] < 280  # cut
    mean, low, high = ev.bootstrap_interval(rows, ev.bits_over_bytes)
    assert low < mean < high and mean == pytest.approx(ev.bits_over_bytes(rows))


def test_the_log_probability_of_a_choice_is_that_of_its_tokens_alone():
    tokenizer = byte_tokenizer()
    model = byte_policy(tokenizer)
    prompts, choices = ["a good", "the end of"], [[" film", " day and"], [" it", " a bad day"]]
    found = ev.choice_logprobs(model, tokenizer, prompts, choices)
    for prompt, row, numbers in zip(prompts, choices, found, strict=True):
        for choice, number in zip(row, numbers, strict=True):
            ids, after = (tokenizer(t)["input_ids"] for t in (prompt, choice))
            logp = model(input_ids=torch.tensor([ids + after])).logits[0].log_softmax(-1)
            slow = sum(logp[len(ids) + i - 1, t].item() for i, t in enumerate(after))
            assert number == pytest.approx(slow, abs=1e-4)
    with pytest.raises(UserError, match="the model reads 64"):
        ev.choice_logprobs(model, tokenizer, ["a film " * 90], [["it", "day"]])


def test_the_share_of_n_grams_that_were_seen():
    train = ["The cat sat on the mat today."]
    shares = ev.seen_share(["the CAT sat on a wall", "cat sat", "nothing here at all"], train, 3)
    assert list(shares) == [0.5, 0.0, 0.0]
    assert ev.seen_share(train, train, 3)[0] == 1


def test_the_front_holds_what_nothing_beats():
    costs = np.array([[1, 5], [2, 3], [3, 3], [4, 1], [2, 3], [5, 5]])
    slow = [not any((o <= c).all() and (o < c).any() for o in costs) for c in costs]
    assert list(ev.pareto_front(costs)) == slow == [True, True, False, True, True, False]


def test_a_power_law_finds_the_one_that_made_the_numbers():
    sizes = np.array([1e5, 3e5, 1e6, 3e6, 1e7, 3e7])
    floor, height, slope = ev.power_law(sizes, 0.5 + 40 * sizes**-0.4)
    assert floor == pytest.approx(0.5, abs=0.01) and slope == pytest.approx(0.4, abs=0.02)
    assert floor + height * 1e8**-slope == pytest.approx(0.5 + 40 * 1e8**-0.4, rel=0.01)
    assert ev.power_law(sizes, 40 * sizes**-0.4)[0] == pytest.approx(0, abs=0.001)
    for sizes, losses in (([1, 2], [2, 1]), ([1, 2, 3], [1, 2, 3])):
        with pytest.raises(UserError):
            ev.power_law(sizes, losses)


def test_a_weighed_choice_does_not_depend_on_units_or_on_who_else_was_measured():
    costs = {"small": {"bits": 2.0, "ms": 1.0}, "large": {"bits": 1.0, "ms": 8.0}}
    equal = {"bits": 1.0, "ms": 1.0}
    assert list(ev.weighed(costs, equal)) == ["small", "large"]
    assert list(ev.weighed(costs, {"bits": 4.0, "ms": 1.0})) == ["large", "small"]
    seconds = {name: row | {"ms": row["ms"] / 1000} for name, row in costs.items()}
    gaps = [found["large"] - found["small"] for found in (
        ev.weighed(costs, equal), ev.weighed(seconds, equal),
        ev.weighed(costs | {"absurd": {"bits": 9.0, "ms": 1e6}}, equal))]
    assert gaps == pytest.approx([2, 2, 2])
    with pytest.raises(UserError, match="small has bits = 0"):
        ev.weighed({"small": {"bits": 0, "ms": 1}}, equal)
    with pytest.raises(UserError, match="small has grams = None"):
        ev.weighed(costs, {"grams": 1.0})


def test_02_times_a_gpu_until_it_has_finished():
    """A GPU returns at once: here work takes a second that passes when somebody waits for it."""
    notebook = ROOT / "notebooks" / "02_benchmarking_language_models.ipynb"
    cells = json.loads(notebook.read_text("utf-8"))
    source = next(text for cell in cells["cells"]
                  if "def seconds(" in (text := "".join(cell["source"])))
    function = ast.unparse(next(node for node in ast.parse(source).body
                                if isinstance(node, ast.FunctionDef) and node.name == "seconds"))
    clock = {"now": 0.0, "given": 0.0}

    def wait():
        clock["now"] += clock.pop("given", 0.0)

    gpu = SimpleNamespace(is_available=lambda: True, synchronize=wait)
    names = {"time": SimpleNamespace(perf_counter=lambda: clock["now"]),
             "torch": SimpleNamespace(cuda=gpu), "Callable": Callable, "Any": Any}
    exec(function, names)
    assert names["seconds"](lambda: clock.update(given=1.0)) == 1.0


def test_a_measure_of_the_reference_itself_has_no_kl_and_repeats():
    settings = load_profile("embedded", {"ppo_trl.max_new_tokens": 10})
    tokenizer = byte_tokenizer()
    policy, prompts = byte_policy(tokenizer), ["a", "a good", "the end"]
    args = (policy, policy, tokenizer, prompts, lambda p, r: [len(t) for t in r], settings.ppo_trl)
    first, again = (ev.measure(*args, gold_fn=len, repeats=2) for _ in range(2))
    assert first["scores"].shape == first["gold"].shape == first["kl"].shape == (3, 2)
    assert np.abs(first["kl"]).max() == 0
    assert first["texts"] == again["texts"] and (first["scores"] == again["scores"]).all()
    assert list(first["scores"][:, 0]) == [len(t) for t in first["texts"]]
    lengths = np.array([[len(p)] for p in prompts])
    assert (first["gold"] == first["scores"] + lengths).all()
    assert 0 < first["entropy"] < np.log(len(tokenizer)) + 1e-6
    assert "gold" not in ev.measure(*args, repeats=1)


def test_length_control_takes_out_a_taste_for_length_and_leaves_the_rest():
    rng = np.random.default_rng(5)
    n = 4000
    lengths = rng.normal(40, 10, (2, n))
    x = np.tanh((lengths[0] - lengths[1]) / np.std(lengths[0] - lengths[1]))

    def won(intercept, slope):
        gap = np.where(rng.random(n) < 1 / (1 + np.exp(-intercept - slope * x)), 1.0, -1.0)
        return ev.length_controlled_win_rate(gap, np.zeros(n), *lengths, resamples=200)

    rate, low, high = won(0.0, 2.0)  # only length counts
    assert low < 0.5 < high and high - low < 0.05
    rate, low, high = won(0.6, -1.0)  # better, and the judge likes short answers
    assert low < 1 / (1 + math.exp(-0.6)) < high


def test_length_control_is_an_ordinary_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 300))
    longer = rng.integers(10, 60, 300) + 8 * (a > b)
    other = rng.integers(10, 60, 300)
    x = np.tanh((longer - other) / (longer - other).std())[:, None]
    fit = LogisticRegression(C=1e6).fit(x, a > b)
    rate, low, high = ev.length_controlled_win_rate(a, b, longer, other, resamples=300)
    assert rate == pytest.approx(1 / (1 + math.exp(-fit.intercept_[0])), abs=2e-3)
    assert low < rate < high
    draws = np.random.default_rng(0).integers(0, 300, (40, 300))  # the first of the bootstrap's
    rows = np.stack([(a > b).astype(float), x[:, 0]], -1)
    together = ev._rate_at_equal_length(rows[draws], axis=1)
    assert together == pytest.approx([ev._rate_at_equal_length(rows[d]) for d in draws])


def test_length_control_without_differences_or_losses():
    same = np.full(50, 30)
    plain = ev.win_rate([1.0] * 30 + [0.0] * 20, [0.5] * 50)
    assert ev.length_controlled_win_rate(
        [1.0] * 30 + [0.0] * 20, [0.5] * 50, same, same)[0] == pytest.approx(plain[0], abs=1e-3)
    rate, low, high = ev.length_controlled_win_rate([1.0] * 50, [0.0] * 50, range(50), same)
    assert 0.97 < low <= rate <= high <= 1
    with pytest.raises(UserError, match="same prompt"):
        ev.length_controlled_win_rate([1.0], [0.0], [3, 4], [3])


@pytest.mark.parametrize("rate", [0.55, 0.65, 0.3])
def test_as_many_comparisons_as_said_find_a_win_rate_four_times_in_five(rate):
    n = ev.comparisons_needed(rate)
    k = np.arange(n + 1)
    found = np.abs(k / n - 0.5) > stats.norm.ppf(0.975) * 0.5 / math.sqrt(n)
    assert stats.binom.pmf(k, n, rate)[found].sum() == pytest.approx(0.8, abs=0.04)
    assert ev.comparisons_needed(rate, power=0.95) > n


@pytest.mark.parametrize("bad", [(0.5,), (0.0,), (1.2,), (0.6, 1.0), (0.6, 0.8, 0.0)])
def test_a_win_rate_that_cannot_be_looked_for(bad):
    with pytest.raises(UserError):
        ev.comparisons_needed(*bad)


def test_bleu_by_hand():
    assert ev.bleu("a b c d e", ["a b c d e", "x"]) == pytest.approx(1)
    assert ev.bleu("x y z", ["a b c"]) == 0
    # one-word precision 3/4, pairs (1 + 1)/(3 + 1), triples 1/3, fours 1/2; closest length 4
    expected = (3 / 4 * 2 / 4 * 1 / 3 * 1 / 2) ** 0.25
    assert ev.bleu("the cat the mat", ["the cat sat the"], n=4) == pytest.approx(expected)
    assert ev.bleu("a b", ["a b c d"], n=1) == pytest.approx(math.exp(1 - 4 / 2))


def test_self_bleu_is_bleu_against_all_others():
    rng = np.random.default_rng(2)
    texts = [" ".join(rng.choice(list("abcdef"), rng.integers(1, 12))) for _ in range(30)]
    slow = [ev.bleu(text, texts[:i] + texts[i + 1 :]) for i, text in enumerate(texts)]
    assert ev.self_bleu(texts) == pytest.approx(slow)
    assert ev.self_bleu(["a b c d e"] * 3) == pytest.approx([1, 1, 1])
    with pytest.raises(UserError, match="too few"):
        ev.self_bleu(["one"])


def test_sentences_lose_their_signs():
    assert ev.sentences("Salt it. Really? Yes!\n\n- and wait…") == [
        "salt it", "really", "yes", "- and wait"]
    assert ev.sentences("") == []


def test_policies_are_compared_with_one_of_them_question_by_question():
    rng = np.random.default_rng(0)
    base = rng.normal(size=80)
    scores = {"sft": base, "worse": base - 0.5, "better": base + rng.normal(1, 0.3, 80)}
    lengths = {name: rng.integers(5, 40, 80) for name in scores}
    rows = ev.compare_policies(scores, lengths, "sft", seed=3, resamples=200)
    assert [row["policy"] for row in rows] == ["better", "worse"]
    for row in rows:
        name = row["policy"]
        alone = ev.win_rate(scores[name], base, seed=3, resamples=200)
        assert row["win_rate"] == alone
        assert row["gain"][0] == pytest.approx(np.mean(scores[name] - base))
    assert rows[1]["win_rate"][0] == 0 and rows[1]["gain"] == pytest.approx((-0.5,) * 3)
    with pytest.raises(UserError, match="'ppo' is none of the policies"):
        ev.compare_policies(scores, lengths, "ppo")
