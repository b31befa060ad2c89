"""Log-probabilities computed a few rows at a time, against sums written out in float64."""

import math

import pytest
import torch

from helpers.engine import token_logprobs
from helpers.engine.token_logprobs import chosen_logprobs, entropy_and_kl

ROWS, VOCABULARY = 13, 7


@pytest.fixture(params=[1, 5, 100], ids=lambda rows: f"{rows} rows at once")
def pieces(request, monkeypatch):
    """Fewer rows at once than there are, a number that does not divide them, and more."""
    monkeypatch.setitem(token_logprobs.NUMBERS_AT_ONCE, "cpu", request.param * VOCABULARY)


def numbers(dtype=torch.float64, scale=3.0):
    generator = torch.Generator().manual_seed(11)
    logits, reference = (
        scale * torch.randn(2, ROWS, VOCABULARY, generator=generator, dtype=torch.float64)
    ).to(dtype)
    tokens = torch.randint(0, VOCABULARY, (ROWS,), generator=generator)
    return logits, reference, tokens


def slow_distribution(logits, temperature):
    weights = [math.exp(x / temperature) for x in logits]
    return [w / sum(weights) for w in weights]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_all_three_equal_their_definitions(pieces, temperature):
    logits, reference, tokens = numbers()
    chosen = chosen_logprobs(logits, tokens, temperature)
    entropy, kl = entropy_and_kl(logits, reference, temperature)
    for row in range(ROWS):
        p = slow_distribution(logits[row].tolist(), temperature)
        q = slow_distribution(reference[row].tolist(), temperature)
        assert chosen[row].item() == pytest.approx(math.log(p[tokens[row]]), abs=1e-12)
        assert entropy[row].item() == pytest.approx(-sum(x * math.log(x) for x in p), abs=1e-12)
        assert kl[row].item() == pytest.approx(
            sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)), abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_is_that_of_finite_differences(pieces, temperature):
    logits, _, tokens = numbers()
    weights = torch.linspace(-2, 3, ROWS, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: weights * chosen_logprobs(x, tokens, temperature), logits.requires_grad_())


def test_a_bfloat16_gradient_is_the_float64_one_rounded_once():
    logits, _, tokens = numbers(torch.bfloat16)
    logits.requires_grad_()
    chosen_logprobs(logits, tokens).sum().backward()
    assert logits.grad.dtype == torch.bfloat16
    p = torch.tensor([slow_distribution(row, 1.0) for row in logits.detach().tolist()])
    exact = torch.nn.functional.one_hot(tokens, VOCABULARY) - p
    assert torch.allclose(logits.grad.double(), exact.double(), rtol=2**-8, atol=1e-6)


def test_half_precision_logits_give_float32_sums():
    logits, reference, tokens = numbers(torch.bfloat16)
    results = (chosen_logprobs(logits, tokens), *entropy_and_kl(logits, reference))
    assert [result.dtype for result in results] == 3 * [torch.float32]


def test_equal_models_have_no_kl_at_all():
    logits, _, tokens = numbers(torch.float32)
    assert entropy_and_kl(logits, logits.clone())[1].abs().max() == 0
    # The k1 estimate too: both log-probabilities come from the same sums.
    with torch.no_grad():
        again = chosen_logprobs(logits.clone(), tokens)
    assert torch.equal(chosen_logprobs(logits.requires_grad_(), tokens).detach(), again)


def test_logits_are_left_as_they_are():
    logits, reference, tokens = numbers(torch.float32)
    before = logits.clone(), reference.clone()
    logits.requires_grad_()
    chosen_logprobs(logits, tokens).sum().backward()
    entropy_and_kl(logits.detach(), reference)
    assert torch.equal(logits, before[0]) and torch.equal(reference, before[1])


def test_nothing_of_the_vocabularys_size_is_kept_but_the_logits():
    logits, _, tokens = numbers(torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append((tuple(t.shape), t.data_ptr())) or t, lambda t: t
    ):
        chosen_logprobs(logits.requires_grad_(), tokens)
    assert [place for shape, place in kept if len(shape) > 1] == [logits.data_ptr()]
