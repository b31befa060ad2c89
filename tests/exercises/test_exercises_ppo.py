"""The checkers of notebook 05: the right answer passes, each named mistake is named."""

import pytest
import torch

from helpers import exercises, ppo


def said(capsys, checker, function):
    result = checker(function)
    return result, capsys.readouterr().out.strip()


def test_an_unsolved_exercise_is_not_done_yet(capsys):
    for checker in (
        exercises.check_gae, exercises.check_clipped_loss, exercises.check_token_rewards
    ):
        result, text = said(capsys, checker, lambda *_: NotImplemented)
        assert not result
        assert text == "not done yet"


def loop_gae(gamma_used=None, lam_used=None, use_mask=True, subtract=True, returns_of=None):
    """GAE as a reader would write it, with switches for the usual mistakes."""

    def my_gae(rewards, values, mask, gamma, lam):
        gamma = gamma if gamma_used is None else gamma_used
        lam = lam if lam_used is None else lam_used
        m = mask if use_mask else torch.ones_like(mask)
        advantages, later, after = torch.zeros_like(values), 0.0, 0.0
        for t in reversed(range(rewards.shape[1])):
            delta = rewards[:, t] + gamma * after - values[:, t]
            later = (delta + gamma * lam * later) * m[:, t]
            after = values[:, t] * m[:, t]
            advantages[:, t] = later
        if not subtract:
            return advantages + values, advantages + values
        if returns_of is not None:
            return advantages, returns_of(rewards, advantages)
        return advantages, advantages + values

    return my_gae


def test_gae_in_the_folded_solution_is_right(capsys):
    result, text = said(capsys, exercises.check_gae, loop_gae())
    assert result
    assert text.startswith("right:")


@pytest.mark.parametrize(("function", "hint"), [
    (loop_gae(use_mask=False), "did you use mask"),
    (loop_gae(lam_used=1.0), "lam has no effect"),
    (loop_gae(gamma_used=1.0), "gamma has no effect"),
    (loop_gae(lam_used=0.0), "one-step error"),
    (loop_gae(subtract=False), "these are the returns"),
    (loop_gae(returns_of=lambda rewards, advantages: advantages), "not the advantages again"),
    (lambda r, v, m, g, x: ppo.gae(r, v, m, g, x)[0], "two tensors"),
    (lambda r, v, m, g, x: tuple(-y for y in ppo.gae(r, v, m, g, x)), "sign"),
])
def test_mistakes_in_gae_are_named(capsys, function, hint):
    result, text = said(capsys, exercises.check_gae, function)
    assert not result
    assert hint in text


def loss(pick=torch.minimum, sign=-1.0, ratio_of=None, mean=None):
    """The clipped loss with switches for the usual mistakes."""

    def my_loss(logprobs, old_logprobs, advantages, mask, clip_range):
        ratio = ratio_of(logprobs, old_logprobs) if ratio_of else (logprobs - old_logprobs).exp()
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        gains = pick(ratio * advantages, clipped * advantages)
        return sign * (mean(gains, mask) if mean else (gains * mask).sum() / mask.sum())

    return my_loss


def test_the_clipped_loss_in_the_folded_solution_is_right(capsys):
    result, text = said(capsys, exercises.check_clipped_loss, loss())
    assert result
    assert text.startswith("right:")


@pytest.mark.parametrize(("function", "hint"), [
    (loss(sign=1.0), "sign"),
    (loss(pick=torch.maximum), "worse"),
    (loss(pick=lambda plain, clipped: plain), "nothing is clipped"),
    (loss(pick=lambda plain, clipped: clipped), "only the clipped"),
    (loss(ratio_of=lambda new, old: (old - new).exp()), "upside down"),
    (loss(ratio_of=lambda new, old: new - old), "exp is missing"),
    (loss(mean=lambda gains, mask: gains.mean()), "padding counts"),
    (loss(mean=lambda gains, mask: (gains * mask).mean()), "number of real tokens"),
    (loss(mean=lambda gains, mask: (gains * mask).sum()), "this is a sum"),
    (loss(mean=lambda gains, mask: ((gains * mask).sum(1) / mask.sum(1)).mean()), "every token"),
    (lambda n, o, a, m, c: torch.zeros(2), "shape"),
])
def test_mistakes_in_the_clipped_loss_are_named(capsys, function, hint):
    result, text = said(capsys, exercises.check_clipped_loss, function)
    assert not result
    assert hint in text


def rewards(coef_sign=-1.0, coef=True, place="last", masked=True, kl=True, score=True):
    """Per-token rewards with switches for the usual mistakes."""

    def my_rewards(scores, logprobs, reference_logprobs, mask, kl_coef):
        difference = logprobs - reference_logprobs
        out = coef_sign * (kl_coef if coef else 1.0) * difference * (1.0 if kl else 0.0)
        if masked:
            out = out * mask
        if not score:
            return out
        if place == "last":
            out[torch.arange(len(scores)), mask.sum(1).long() - 1] += scores
        elif place == "column":
            out[:, -1] += scores
        else:
            out = out + scores[:, None] * mask
        return out

    return my_rewards


def test_the_token_rewards_in_the_folded_solution_are_right(capsys):
    result, text = said(capsys, exercises.check_token_rewards, rewards())
    assert result
    assert text.startswith("right:")


@pytest.mark.parametrize(("function", "hint"), [
    (rewards(coef_sign=1.0), "sign of the KL"),
    (rewards(coef=False), "did you multiply by the KL coefficient?"),
    (rewards(kl=False), "KL term is missing"),
    (rewards(score=False), "score is missing"),
    (rewards(place="column"), "last column"),
    (rewards(place="everywhere"), "paid once"),
    (rewards(masked=False), "padding has a KL term"),
])
def test_mistakes_in_the_token_rewards_are_named(capsys, function, hint):
    result, text = said(capsys, exercises.check_token_rewards, function)
    assert not result
    assert hint in text
