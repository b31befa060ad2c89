"""The mathematics of PPO against slow loops in float64, against TRL, and against closed forms."""

import math
import random

import pytest
import torch

from helpers import ppo, ppo_diagnostics
from helpers.errors import UserError

BATCH, STEPS, VOCABULARY = 5, 7, 11


@pytest.fixture
def batch():
    """Random numbers per token in float64, with responses of different lengths."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([7, 1, 4, 6, 3])

    def random_tensor(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = (torch.arange(STEPS) < lengths[:, None]).double()
    return {
        "mask": mask,
        "lengths": lengths,
        "logprobs": -random_tensor(BATCH, STEPS).abs() * mask,
        "old": -random_tensor(BATCH, STEPS).abs() * mask,
        "reference": -random_tensor(BATCH, STEPS).abs() * mask,
        "values": random_tensor(BATCH, STEPS),
        "old_values": random_tensor(BATCH, STEPS),
        "returns": random_tensor(BATCH, STEPS),
        "rewards": random_tensor(BATCH, STEPS),
        "scores": random_tensor(BATCH),
        "logits": random_tensor(BATCH, STEPS, VOCABULARY),
        "reference_logits": random_tensor(BATCH, STEPS, VOCABULARY),
    }


def rows(tensor):
    return tensor.tolist()


def slow_gae(rewards, values, length, gamma, lam):
    """The definition: a weighted sum of all later one-step errors."""
    deltas = [
        rewards[t] + gamma * (values[t + 1] if t + 1 < length else 0.0) - values[t]
        for t in range(length)
    ]
    return [
        sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, length)) for t in range(length)
    ]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.0), (0.99, 1.0), (1.0, 1.0)])
def test_gae_equals_the_sum_of_its_definition(batch, gamma, lam):
    advantages, returns = ppo.gae(batch["rewards"], batch["values"], batch["mask"], gamma, lam)
    for i, length in enumerate(batch["lengths"].tolist()):
        expected = slow_gae(rows(batch["rewards"])[i], rows(batch["values"])[i], length, gamma, lam)
        assert advantages[i, :length].tolist() == pytest.approx(expected, abs=1e-9)
        assert returns[i, :length].tolist() == pytest.approx(
            [a + v for a, v in zip(expected, rows(batch["values"])[i], strict=False)], abs=1e-9
        )
        assert (advantages[i, length:] == 0).all()


def test_gae_with_lambda_one_is_the_return_to_go_minus_the_value(batch):
    advantages, returns = ppo.gae(batch["rewards"], batch["values"], batch["mask"], 1.0, 1.0)
    to_go = (batch["rewards"] * batch["mask"]).flip(1).cumsum(1).flip(1)
    assert torch.allclose(returns * batch["mask"], to_go * batch["mask"], atol=1e-12)
    assert torch.allclose(advantages, (to_go - batch["values"]) * batch["mask"], atol=1e-12)


def test_gae_stops_at_the_end_of_an_episode_and_bootstraps_after_the_last_step(batch):
    rewards, values = batch["rewards"][:1], batch["values"][:1]
    dones = torch.zeros(1, STEPS, dtype=torch.float64)
    dones[0, 2] = 1
    ones = torch.ones_like(dones)
    after = torch.tensor([0.7], dtype=torch.float64)
    advantages, _ = ppo.gae(rewards, values, ones, 0.9, 0.8, dones, after)
    first = slow_gae(rows(rewards)[0][:3], rows(values)[0][:3], 3, 0.9, 0.8)
    # The second episode ends with a known value: a step of reward 0 and error 0 after it.
    tail_rewards = rows(rewards)[0][3:]
    tail_rewards[-1] += 0.9 * 0.7
    second = slow_gae(tail_rewards, rows(values)[0][3:], STEPS - 3, 0.9, 0.8)
    assert advantages[0].tolist() == pytest.approx(first + second, abs=1e-9)


def test_gae_ignores_what_stands_beyond_the_end(batch):
    clean = ppo.gae(batch["rewards"], batch["values"], batch["mask"])
    garbage = (1 - batch["mask"]) * 1e6
    dirty = ppo.gae(batch["rewards"] + garbage, batch["values"] - garbage, batch["mask"])
    assert torch.equal(clean[0], dirty[0])


def test_extra_padding_changes_neither_reward_nor_advantage(batch):
    def pad(x, beyond=9.0):
        return torch.cat([x, torch.full((BATCH, 3), beyond, dtype=x.dtype)], 1)

    mask = torch.cat([batch["mask"], torch.zeros(BATCH, 3, dtype=torch.float64)], 1)
    short = ppo.token_rewards(
        batch["scores"], batch["logprobs"], batch["reference"], batch["mask"], 0.1
    )
    long = ppo.token_rewards(
        batch["scores"], pad(batch["logprobs"]), pad(batch["reference"], 4.0), mask, 0.1
    )
    assert torch.equal(long[:, :STEPS], short)
    assert (long[:, STEPS:] == 0).all()
    a = ppo.gae(short, batch["values"], batch["mask"])[0]
    b = ppo.gae(long, pad(batch["values"]), mask)[0]
    assert torch.equal(a, b[:, :STEPS])
    assert torch.allclose(ppo.whiten(a, batch["mask"]), ppo.whiten(b, mask)[:, :STEPS], atol=1e-12)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_token_rewards_equal_a_loop(batch, estimator):
    rewards = ppo.token_rewards(
        batch["scores"], batch["logprobs"], batch["reference"], batch["mask"], 0.3, estimator
    )
    for i, length in enumerate(batch["lengths"].tolist()):
        for t in range(STEPS):
            expected = 0.0
            if t < length:
                d = rows(batch["logprobs"])[i][t] - rows(batch["reference"])[i][t]
                expected = -0.3 * (d if estimator == "k1" else math.exp(-d) - 1 + d)
            if t == length - 1:
                expected += rows(batch["scores"])[i]
            assert rewards[i, t].item() == pytest.approx(expected, abs=1e-9)


def test_the_score_is_added_at_the_last_real_token_only(batch):
    rewards = ppo.token_rewards(
        batch["scores"], batch["logprobs"], batch["logprobs"], batch["mask"], 0.3
    )
    assert torch.equal(rewards.sum(1), batch["scores"])
    for i, length in enumerate(batch["lengths"].tolist()):
        assert rewards[i].nonzero().flatten().tolist() == [length - 1]


def test_a_response_without_end_of_text_pays_the_fixed_penalty():
    scores = torch.tensor([1.0, 2.0])
    finished = torch.tensor([True, False])
    assert ppo.penalise_missing_eos(scores, finished, 1.5).tolist() == [1.0, 0.5]


def slow_whiten(values, mask, shift_mean):
    pairs = [p for vs, ms in zip(values, mask, strict=True) for p in zip(vs, ms, strict=True)]
    real = [v for v, m in pairs if m]
    mean = sum(real) / len(real)
    variance = sum((v - mean) ** 2 for v in real) / (len(real) - 1)
    scale = 1 / math.sqrt(variance + 1e-8)
    shift = 0.0 if shift_mean else mean
    return [
        [((v - mean) * scale + shift) if m else 0.0 for v, m in zip(vs, ms, strict=True)]
        for vs, ms in zip(values, mask, strict=True)
    ]


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whiten_equals_a_loop_over_real_tokens(batch, shift_mean):
    result = ppo.whiten(batch["values"], batch["mask"], shift_mean)
    expected = slow_whiten(rows(batch["values"]), rows(batch["mask"]), shift_mean)
    assert torch.allclose(result, torch.tensor(expected, dtype=torch.float64), atol=1e-9)


def test_whitened_advantages_have_mean_0_and_whitened_rewards_keep_theirs(batch):
    shifted = ppo.whiten(batch["values"], batch["mask"])
    kept = ppo.whiten(batch["values"], batch["mask"], shift_mean=False)
    assert ppo.masked_mean(shifted, batch["mask"]).item() == pytest.approx(0, abs=1e-12)
    mean = ppo.masked_mean(batch["values"], batch["mask"]).item()
    assert ppo.masked_mean(kept, batch["mask"]).item() == pytest.approx(mean, abs=1e-9)


def slow_policy_loss(logprobs, old, advantages, mask, clip_range):
    total, count = 0.0, 0
    for i in range(BATCH):
        for t in range(STEPS):
            if mask[i][t]:
                ratio = math.exp(logprobs[i][t] - old[i][t])
                clipped = min(max(ratio, 1 - clip_range), 1 + clip_range)
                total += -min(ratio * advantages[i][t], clipped * advantages[i][t])
                count += 1
    return total / count


def slow_value_loss(values, old_values, returns, mask, clip_range):
    total, count = 0.0, 0
    for i in range(BATCH):
        for t in range(STEPS):
            if mask[i][t]:
                step = values[i][t] - old_values[i][t]
                clipped = old_values[i][t] + min(max(step, -clip_range), clip_range)
                total += max(
                    (values[i][t] - returns[i][t]) ** 2, (clipped - returns[i][t]) ** 2
                )
                count += 1
    return 0.5 * total / count


def finite_differences(function, values, mask, epsilon=1e-6):
    """Slow gradient of a function of a list of lists."""
    gradient = [[0.0] * STEPS for _ in range(BATCH)]
    for i in range(BATCH):
        for t in range(STEPS):
            if not mask[i][t]:
                continue
            sides = []
            for sign in (1, -1):
                moved = [list(row) for row in values]
                moved[i][t] += sign * epsilon
                sides.append(function(moved))
            gradient[i][t] = (sides[0] - sides[1]) / (2 * epsilon)
    return torch.tensor(gradient, dtype=torch.float64)


def test_policy_loss_and_its_gradient_equal_a_loop(batch):
    logprobs = batch["logprobs"].clone().requires_grad_()
    loss = ppo.policy_loss(logprobs, batch["old"], batch["returns"], batch["mask"], 0.2)
    loss.backward()
    others = [rows(batch[k]) for k in ("old", "returns", "mask")]
    slow = slow_policy_loss(rows(batch["logprobs"]), *others, 0.2)
    assert loss.item() == pytest.approx(slow, abs=1e-9)
    gradient = finite_differences(
        lambda x: slow_policy_loss(x, *others, 0.2), rows(batch["logprobs"]), others[-1]
    )
    assert torch.allclose(logprobs.grad, gradient, atol=1e-6)


def test_value_loss_and_its_gradient_equal_a_loop(batch):
    values = batch["values"].clone().requires_grad_()
    loss = ppo.value_loss(values, batch["old_values"], batch["returns"], batch["mask"], 0.2)
    loss.backward()
    others = [rows(batch[k]) for k in ("old_values", "returns", "mask")]
    slow = slow_value_loss(rows(batch["values"]), *others, 0.2)
    assert loss.item() == pytest.approx(slow, abs=1e-9)
    gradient = finite_differences(
        lambda x: slow_value_loss(x, *others, 0.2), rows(batch["values"]), others[-1]
    )
    assert torch.allclose(values.grad, gradient, atol=1e-6)


def test_clipping_stops_the_gradient_only_where_the_step_already_helped():
    old = torch.zeros(1, 4, dtype=torch.float64)
    logprobs = torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0]], dtype=torch.float64)
    ppo.policy_loss(logprobs, old, advantages, torch.ones(1, 4), 0.2).backward()
    assert [g != 0 for g in logprobs.grad[0].tolist()] == [False, True, True, False]


def test_padding_may_hold_anything_without_reaching_loss_or_gradient(batch):
    dirty = torch.where(batch["mask"].bool(), batch["logprobs"], torch.tensor(1e4).double())
    dirty.requires_grad_()
    loss = ppo.policy_loss(dirty, batch["old"], batch["returns"], batch["mask"])
    clean = ppo.policy_loss(batch["logprobs"], batch["old"], batch["returns"], batch["mask"])
    loss.backward()
    assert loss.item() == clean.item()
    assert torch.isfinite(dirty.grad).all()
    assert (dirty.grad[batch["mask"] == 0] == 0).all()


def test_logprobs_and_entropy_equal_a_loop(batch):
    tokens = torch.randint(0, VOCABULARY, (BATCH, STEPS))
    logprobs = ppo.logprobs_from_logits(batch["logits"], tokens, temperature=0.7)
    entropy = ppo.entropy_from_logits(batch["logits"], temperature=0.7)
    for i in range(BATCH):
        for t in range(STEPS):
            scaled = [x / 0.7 for x in rows(batch["logits"])[i][t]]
            total = sum(math.exp(x) for x in scaled)
            p = [math.exp(x) / total for x in scaled]
            assert logprobs[i, t].item() == pytest.approx(math.log(p[tokens[i, t]]), abs=1e-9)
            assert entropy[i, t].item() == pytest.approx(
                -sum(x * math.log(x) for x in p), abs=1e-9
            )


def test_exact_kl_is_zero_for_equal_models_and_equals_the_mean_of_k1_and_of_k3(batch):
    assert ppo.exact_kl(batch["logits"], batch["logits"]).abs().max() < 1e-7
    logits, reference = batch["logits"][0, :1], batch["reference_logits"][0, :1]
    exact = ppo.exact_kl(logits, reference).item()
    p = logits.softmax(-1).flatten().tolist()
    logp, logq = logits.log_softmax(-1).flatten(), reference.log_softmax(-1).flatten()
    # The expectation of each estimator under the policy is the sum over its vocabulary.
    for estimator in ("k1", "k3"):
        values = ppo.kl_estimate(logp, logq, estimator).tolist()
        assert sum(a * b for a, b in zip(p, values, strict=True)) == pytest.approx(exact, abs=1e-9)


def test_k3_is_never_negative_and_k1_may_be(batch):
    assert (ppo.kl_estimate(batch["logprobs"], batch["reference"], "k3") >= 0).all()
    assert (ppo.kl_estimate(batch["logprobs"], batch["reference"], "k1") < 0).any()


def test_an_unknown_kl_estimator_is_named_in_the_error(batch):
    with pytest.raises(UserError, match="k7.*k1.*k3"):
        ppo.kl_estimate(batch["logprobs"], batch["reference"], "k7")


def test_the_fixed_controller_keeps_its_coefficient():
    controller = ppo.FixedKLController(0.1)
    assert controller.update(100.0, 64) == 0.1


def test_the_adaptive_controller_clips_its_proportional_error_at_a_fifth():
    controller = ppo.AdaptiveKLController(0.2, target=6.0, horizon=1000)
    assert controller.update(6.6, 100) == pytest.approx(0.2 * (1 + 0.1 * 0.1))
    far = ppo.AdaptiveKLController(0.2, target=6.0, horizon=1000)
    assert far.update(600.0, 100) == pytest.approx(0.2 * (1 + 0.2 * 0.1))
    assert far.update(0.0, 100) == pytest.approx(0.2 * (1 + 0.2 * 0.1) * (1 - 0.2 * 0.1))


def test_a_critic_that_is_no_better_than_a_mean_is_looked_at():
    row = {name: (max(low, -1e3) + min(high, 1e3)) / 2
           for name, (low, high) in ppo_diagnostics.bands().items()}
    assert not any("look" in line for line in ppo_diagnostics.report([row] * 5))
    lines = ppo_diagnostics.report([row | {"explained_variance": 0.007}] * 5)
    assert ["explained_variance" in line for line in lines] == ["look" in line for line in lines]


def test_explained_variance_is_one_for_the_truth_and_zero_for_the_mean(batch):
    returns, mask = batch["returns"], batch["mask"]
    assert ppo.explained_variance(returns, returns, mask) == pytest.approx(1)
    mean = torch.full_like(returns, ppo.masked_mean(returns, mask).item())
    assert ppo.explained_variance(mean, returns, mask) == pytest.approx(0, abs=1e-9)


def test_formulas_equal_trls_on_the_same_batch(batch):
    trl = pytest.importorskip("trl.experimental.ppo.ppo_trainer")
    mask = batch["mask"].bool()
    for shift in (True, False):
        ours = ppo.whiten(batch["values"], batch["mask"], shift)
        theirs = trl.masked_whiten(batch["values"], mask, shift)
        assert torch.allclose(ours, theirs * mask, atol=1e-9)
    # TRL's losses stand inside its train(): these are its lines, on the same batch.
    difference = batch["logprobs"] - batch["old"]
    ratio = difference.exp()
    losses = torch.max(
        -batch["returns"] * ratio, -batch["returns"] * torch.clamp(ratio, 0.8, 1.2)
    )
    ours = ppo.policy_loss(batch["logprobs"], batch["old"], batch["returns"], batch["mask"])
    assert ours.item() == pytest.approx(trl.masked_mean(losses, mask).item(), abs=1e-9)
    clipped = torch.clamp(
        batch["values"], batch["old_values"] - 0.2, batch["old_values"] + 0.2
    )
    worst = torch.max(
        (batch["values"] - batch["returns"]) ** 2, (clipped - batch["returns"]) ** 2
    )
    ours = ppo.value_loss(batch["values"], batch["old_values"], batch["returns"], batch["mask"])
    assert ours.item() == pytest.approx(0.5 * trl.masked_mean(worst, mask).item(), abs=1e-9)


def bandit_optimum(reference_logits, rewards, beta):
    return (reference_logits.log_softmax(-1) + rewards / beta).log_softmax(-1)


def test_a_bandit_converges_to_the_reference_tilted_by_the_reward():
    """Exact policy gradient of E[r] - β KL on 6 arms ends at π_ref · exp(r/β) / Z."""
    random.seed(0)
    rewards = torch.tensor([random.gauss(0, 1) for _ in range(6)], dtype=torch.float64)
    reference = torch.tensor([random.gauss(0, 1) for _ in range(6)], dtype=torch.float64)
    beta = 0.5
    logits = reference.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.05)
    arms = torch.arange(6)
    for _ in range(800):
        old = logits.detach().log_softmax(-1)
        token_reward = ppo.token_rewards(
            rewards, old[:, None], reference.log_softmax(-1)[:, None], torch.ones(6, 1), beta
        )
        baseline = (old.exp() * token_reward[:, 0]).sum()
        advantages = (token_reward[:, 0] - baseline) * old.exp() * 6  # every arm, by probability
        logprobs = ppo.logprobs_from_logits(logits.expand(6, 6), arms)
        loss = ppo.policy_loss(logprobs, old, advantages, torch.ones(6))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    best = bandit_optimum(reference, rewards, beta)
    final = logits.detach().log_softmax(-1)
    assert (final.exp() * (final - best)).sum().item() < 1e-3


def test_the_file_stays_short_enough_to_read():
    import inspect

    assert len(inspect.getsource(ppo).splitlines()) <= 200
