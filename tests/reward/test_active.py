"""Reward heads on a frozen model, and which pairs they would ask about."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from support import byte_policy, byte_tokenizer

from benchmarks.shared import store
from helpers.engine.tokens import encode_response
from helpers.errors import UserError
from helpers.reward import active

PROMPT = "\n\nHuman: Q\n\nAssistant:"


def world_of(pairs=400, width=6, seed=0):
    """Differences, and chances of a Bradley-Terry rater with one true head."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(pairs, width))
    return x, 1 / (1 + np.exp(-x @ np.linspace(-2, 2, width)))


def test_features_are_those_of_each_text_read_alone():
    tokenizer = byte_tokenizer()
    model = byte_policy(tokenizer).eval()
    texts = ["yes", "a longer answer", "no no"]
    found = active.features(model, tokenizer, [PROMPT] * 3, texts, batch_size=2)
    for text, row in zip(texts, found, strict=True):
        before, after = encode_response(tokenizer, PROMPT, text)
        with torch.no_grad():
            out = model(torch.tensor([before + after]), output_hidden_states=True)
        hidden, logp = out.hidden_states[-1][0], out.logits[0].log_softmax(-1)
        told = [logp[len(before) + i - 1, t] for i, t in enumerate(after)]
        slow = torch.cat([hidden[-1], hidden[len(before):].mean(0), torch.stack(told).mean()[None]])
        assert row == pytest.approx(slow.double().numpy(), abs=1e-4)
    pairs = [{"prompt": PROMPT, "chosen": texts[0], "rejected": texts[1]}]
    assert active.pair_features(model, tokenizer, pairs)[0] == pytest.approx(
        found[0] - found[1], abs=1e-5)
    with pytest.raises(UserError, match="1 prompts but 3 responses"):
        active.features(model, tokenizer, [PROMPT], texts)


def test_logits_are_held_for_a_few_tokens_at_once(monkeypatch):
    """A vocabulary of fifty thousand, times the tokens of 32 long texts, is many gigabytes."""
    tokenizer = byte_tokenizer()
    model, texts = byte_policy(tokenizer).eval(), ["yes", "a longer answer", "no no"]
    at_once, asked = 3, []
    whole = active.features(model, tokenizer, [PROMPT] * 3, texts)
    real = active.next_token_logprobs
    monkeypatch.setattr(active, "LOGITS", at_once * len(tokenizer))
    monkeypatch.setattr(active, "next_token_logprobs", lambda model, hidden, ids: (
        asked.append(len(ids)), real(model, hidden, ids))[1])
    assert active.features(model, tokenizer, [PROMPT] * 3, texts) == pytest.approx(whole, abs=1e-5)
    assert max(asked) == at_once < sum(asked)


def test_a_head_is_the_minimum_of_bradley_terry_with_a_penalty():
    x, p = world_of(80)
    labels = (np.random.default_rng(1).random(80) < p) + 0.0
    sign = np.where(labels > 0.5, 1.0, -1.0)
    weights = np.random.default_rng(2).integers(1, 4, 80).astype(float)

    def loss(w):
        return 2 * (weights * np.logaddexp(0, -sign * (x @ w))).sum() + w @ w / (2 * 0.05)

    slow = minimize(loss, np.zeros(6)).x
    found = active.fit_head(x, labels, 0.05, weights)
    assert found == pytest.approx(slow, abs=2e-3)
    assert active.fit_head(-x, 1 - labels, 0.05, weights) == pytest.approx(found, abs=1e-3)
    with pytest.raises(UserError, match="at least one labelled pair"):
        active.fit_head(x[:0], labels[:0])


def test_each_strategy_asks_for_what_it_says():
    x = np.array([[0.1, 0.0], [2.0, 0.0], [-0.2, 0.0], [0.0, 3.0]])
    rng, rows = np.random.default_rng(0), np.arange(4)
    doubt = active.choose("uncertainty", x, rows, np.array([[1.0, 2.0]]), 2, rng)
    assert doubt.tolist() == [0, 2]
    heads = np.array([[1.0, 1.0], [1.0, -1.0]])
    assert active.choose("disagreement", x, rows, heads, 1, rng).tolist() == [3]
    assert active.choose("disagreement", x, rows[:3], heads, 1, rng).tolist() != [3]  # has a label
    drawn = {int(active.choose("random", x, rows, heads, 1, rng)[0]) for _ in range(60)}
    assert drawn == {0, 1, 2, 3}
    with pytest.raises(UserError, match="must be one of random, uncertainty, disagreement"):
        active.choose("best", x, rows, heads, 1, rng)


def test_a_curve_asks_no_pair_twice_and_all_strategies_hear_the_same_labels():
    x, p = world_of()
    counts = [20, 40, 400]
    curves = {s: active.label_curve(s, x, p, x, p, counts, members=3, seed=5, keep_head=True)
              for s in active.STRATEGIES}
    for rows in curves.values():
        assert [row["labels"] for row in rows] == counts
        # In the end all have asked about every pair and heard the same.
        assert rows[-1]["head"] == pytest.approx(curves["random"][-1]["head"], abs=1e-3)
        assert rows[-1]["accuracy"] > rows[0]["accuracy"]
    again = active.label_curve("disagreement", x, p, x, p, counts, members=3, seed=5)
    assert [r["accuracy"] for r in again] == [r["accuracy"] for r in curves["disagreement"]]
    assert curves["uncertainty"][1]["closeness"] > curves["random"][1]["closeness"]


def test_expected_accuracy_is_that_of_many_raters():
    x, p = world_of(300)
    head = np.array([1.0, 0, 0, 0, 0, 1.0])
    votes = np.random.default_rng(0).random((4000, 300)) < p
    slow = (votes == (x @ head > 0)).mean()
    assert active.expected_accuracy(head, x, p) == pytest.approx(slow, abs=0.005)
    assert active.expected_accuracy(0 * head, x, p) == 0.5


def test_labels_needed_lie_on_the_line_between_counts():
    rows = [{"labels": n, "accuracy": a} for n, a in ((10, 0.6), (20, 0.7), (40, 0.7), (80, 0.8))]
    needed = [active.labels_needed(rows, a) for a in (0.5, 0.65, 0.7, 0.75, 0.9)]
    assert needed == pytest.approx([10, 15, 20, 60, float("inf")])


def test_the_stored_study_holds_every_strategy_for_every_seed():
    stored = store.load("active")
    keys = {(row["strategy"], row["seed"], row["labels"]) for row in stored["rows"]}
    assert len(keys) == len(stored["rows"])
    seeds, counts = ({key[i] for key in keys} for i in (1, 2))
    assert len(seeds) >= 10 and len(keys) == len(active.STRATEGIES) * len(seeds) * len(counts)
    assert all(0.5 < row["accuracy"] < stored["ceiling"] for row in stored["rows"])
