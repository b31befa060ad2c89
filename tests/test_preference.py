"""Losses and advantages against TRL's on the same batch, and what each method ends at."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from support import byte_policy, byte_tokenizer

from helpers import preference as pr
from helpers import trl_adapter as ta
from helpers.errors import UserError
from helpers.generation import sample
from helpers.ppo_trainer import PPOConfig

CLOSE = {"abs": 1e-5, "rel": 1e-5}
PAIRS = [
    {"prompt": "a good", "chosen": " film", "rejected": " day at the sea"},
    {"prompt": "it was", "chosen": " a long and good day", "rejected": " bad"},
    {"prompt": "the end", "chosen": " came late", "rejected": " was a bad film"},
    {"prompt": "no", "chosen": " one knows", "rejected": " way"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def moved(model, by=0.05, seed=3):
    """A copy whose weights are a little elsewhere, so that no log-ratio is 0."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(by * torch.randn(p.shape, generator=generator))
    return other.eval()


# ------------------------------------------------------------------------------ as TRL has it


def dpo_trainer(policy, reference, tokenizer, folder, **settings):
    with ta.quiet():
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer

        return DPOTrainer(
            model=policy, ref_model=reference, processing_class=tokenizer,
            args=DPOConfig(**{
                "output_dir": str(folder), "report_to": "none", "use_cpu": True, "bf16": False,
                "gradient_checkpointing": False, "disable_dropout": True, "max_steps": 1,
                "per_device_train_batch_size": len(PAIRS), "dataloader_pin_memory": False,
                **settings}),
            train_dataset=Dataset.from_list(PAIRS))


@pytest.mark.parametrize(("settings", "loss_fn"), [
    ({"loss_type": "sigmoid", "beta": 0.3}, pr.dpo_loss),
    ({"loss_type": "robust", "beta": 0.3, "label_smoothing": 0.2},
     functools.partial(pr.dpo_loss, label_noise=0.2)),
    ({"loss_type": "ipo", "beta": 0.4}, pr.ipo_loss),
], ids=["sigmoid", "robust", "ipo"])
def test_losses_of_pairs_are_trls_on_the_same_batch(tokenizer, tmp_path, settings, loss_fn):
    reference = byte_policy(tokenizer)
    policy = moved(reference)
    trainer = dpo_trainer(policy, reference, tokenizer, tmp_path, **settings)
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(policy, batch).item()
    rows = [([int(i) for i, real, own in zip(ids, mask, mine, strict=True) if real and not own],
             [int(i) for i, own in zip(ids, mine, strict=True) if own])
            for ids, mask, mine in zip(batch["input_ids"], batch["attention_mask"],
                                       batch["completion_mask"], strict=True)]
    assert rows[0][1][-1] == tokenizer.eos_token_id
    sums = [side for model in (policy, reference) for side in
            pr.response_sums(model, rows).chunk(2)]
    more = ()
    if loss_fn is pr.ipo_loss:
        more = torch.tensor([float(len(r)) for _, r in rows]).chunk(2)
    ours = loss_fn(*sums, settings["beta"], *more)
    assert ours.shape == (len(PAIRS),)
    assert ours.mean().item() == pytest.approx(theirs, **CLOSE)


def test_training_on_pairs_is_trls_step_by_step_and_answers_end(tmp_path):
    """In the same order. A tokenizer that spells the end out (`ready_for_trl`) would end none."""
    tokenizer = byte_tokenizer()
    reference = byte_policy(tokenizer)
    ours, theirs = copy.deepcopy(reference), copy.deepcopy(reference)
    sides = [pr.encode_texts(tokenizer, [p["prompt"] for p in PAIRS], [p[s] for p in PAIRS])
             for s in ("chosen", "rejected")]
    how = {"learning_rate": 1e-3, "batch_size": 2, "epochs": 1, "seed": 5}
    losses = pr.fit_dpo(ours, reference, *sides, 0.3, **how)
    trainer = dpo_trainer(theirs, copy.deepcopy(reference), tokenizer, tmp_path, beta=0.3,
                          learning_rate=how["learning_rate"], lr_scheduler_type="linear",
                          per_device_train_batch_size=2, max_steps=2, logging_steps=1)
    order = torch.randperm(len(PAIRS), generator=torch.Generator().manual_seed(5)).tolist()
    trainer._get_train_sampler = lambda *_: order
    assert [row["chosen_ids"] for row in trainer.train_dataset] == [r for _, r in sides[0]]
    ta.train_quietly(trainer)
    told = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert told == pytest.approx(losses, **CLOSE) and losses[1] != losses[0]

    ta.ready_for_trl(theirs, tokenizer)
    spelled = dpo_trainer(theirs, reference, tokenizer, tmp_path)
    assert spelled.train_dataset[0]["chosen_ids"][-1] != tokenizer.eos_token_id


def group_trainer(kind, policy, tokenizer, folder, rewards, **settings):
    """TRL's RLOO or GRPO trainer; its reward function hands out `rewards`."""
    policy.save_pretrained(folder / "policy")
    policy.config._name_or_path = str(folder / "policy")
    with ta.quiet():
        import trl
        from datasets import Dataset

        args = getattr(trl, f"{kind}Config")(
            output_dir=str(folder), report_to="none", use_cpu=True, bf16=False, max_steps=1,
            gradient_checkpointing=False, per_device_train_batch_size=8, num_generations=4,
            max_completion_length=6, dataloader_pin_memory=False, disable_dropout=True,
            **settings)
        trainer = getattr(trl, f"{kind}Trainer")(
            model=policy, args=args, processing_class=tokenizer,
            reward_funcs=lambda prompts, **_: rewards,
            train_dataset=Dataset.from_list([{"prompt": "a good"}, {"prompt": "the end"}]))
    trainer.current_gradient_accumulation_steps = 1
    return trainer


REWARDS = [1.0, 2.0, -1.0, 0.5, 3.0, 3.0, 0.0, -2.0]
PROMPTS = [{"prompt": "a good"}] * 4 + [{"prompt": "the end"}] * 4


def per_token(model, out):
    from helpers.evaluation import response_logprobs

    return response_logprobs(model, out["prompt_ids"], out["prompt_mask"], out["completion_ids"],
                             out["completion_mask"])


def test_rloos_advantages_and_loss_are_trls(tokenizer, tmp_path):
    policy = byte_policy(tokenizer)
    trainer = group_trainer("RLOO", policy, tokenizer, tmp_path, REWARDS, beta=0.3)
    reference = trainer.ref_model
    policy.load_state_dict(moved(policy).state_dict())  # now the KL is not 0
    policy.train()
    out = trainer._generate_and_score_completions(PROMPTS)
    mask, old = out["completion_mask"].float(), per_token(policy, out)
    kl = ((old - per_token(reference, out)) * mask).sum(1)
    assert kl.abs().max() > 0.01
    ours = pr.leave_one_out(torch.tensor(REWARDS) - 0.3 * kl, 4)
    assert torch.allclose(ours, out["advantages"], atol=1e-5, rtol=1e-5)

    policy.load_state_dict(moved(policy, by=0.03, seed=4).state_dict())  # ratios are not 1
    policy.train()
    theirs = trainer._compute_loss(policy, {**out, "old_logps": (old * mask).sum(1)})
    new = per_token(policy, out)
    ratio = ((new - old) * mask).sum(1).exp()
    assert (ratio > 1.2).any() or (ratio < 0.8).any()  # the clip is at work
    assert pr.rloo_loss(new, old, ours, mask).mean().item() == pytest.approx(
        theirs.item(), **CLOSE)


@pytest.mark.parametrize(("loss_type", "divide_by", "scale", "weigh"), [
    ("grpo", "response", True, False), ("grpo", "response", False, True),
    ("bnpo", "tokens", True, True), ("dr_grpo", 6.0, False, False)])
def test_grpos_advantages_and_loss_are_trls(
        tokenizer, tmp_path, loss_type, divide_by, scale, weigh):
    policy = byte_policy(tokenizer)
    trainer = group_trainer("GRPO", policy, tokenizer, tmp_path, REWARDS, beta=0.3,
                            scale_rewards="group" if scale else "none", loss_type=loss_type,
                            use_bias_correction_kl=weigh)
    reference = trainer.ref_model
    policy.load_state_dict(moved(policy).state_dict())
    policy.train()
    out = trainer._generate_and_score_completions(PROMPTS)
    ours = pr.group_advantages(torch.tensor(REWARDS), 4, scale)
    assert torch.allclose(ours, out["advantages"], atol=1e-5, rtol=1e-5)

    old, theirs_ref = per_token(policy, out), per_token(reference, out)
    mask = out["completion_mask"].float()
    mask[0, 3:] = mask[5, 2:] = 0  # responses of different lengths
    policy.load_state_dict(moved(policy, by=0.06, seed=4).state_dict())
    policy.train()
    theirs = trainer._compute_loss(policy, {
        **out, "completion_mask": mask.long(), "old_per_token_logps": old,
        "ref_per_token_logps": theirs_ref})
    new = per_token(policy, out)
    found = pr.grpo_loss(new, old, theirs_ref, ours, mask, 0.3, divide_by=divide_by,
                         weigh_kl=weigh)
    assert found.mean().item() == pytest.approx(theirs.item(), **CLOSE)


# ------------------------------------------------------------------------------ fixed points

BETA = 0.5
unscaled = functools.partial(pr.group_advantages, scale=False)
robust = functools.partial(pr.dpo_loss, label_noise=0.2)


@pytest.fixture(scope="module")
def bandit():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(5, generator=generator, dtype=torch.double)
    reference = (0.7 * torch.randn(5, generator=generator, dtype=torch.double)).log_softmax(-1)
    return reference, rewards


CLAIM = {
    "DPO": lambda *b: pr.expected_pairs(*b, pr.dpo_loss),
    "DPO told of flipped labels": lambda *b: pr.expected_pairs(*b, robust, flipped=0.2),
    "RLOO": lambda *b: pr.expected_groups(*b, pr.leave_one_out),
    "GRPO, KL in the reward": lambda *b: pr.expected_groups(*b, pr.group_advantages),
    "GRPO undivided, KL in the reward": lambda *b: pr.expected_groups(*b, unscaled),
    "undivided, KL in the loss, weighed": lambda *b: pr.expected_groups(
        *b, pr.leave_one_out, kl_in="weighed loss"),
}
CLAIM_NOT = {
    "DPO on flipped labels": lambda *b: pr.expected_pairs(*b, pr.dpo_loss, flipped=0.2),
    "IPO": lambda *b: pr.expected_pairs(*b, pr.ipo_loss),
    "GRPO, KL in the loss": lambda *b: pr.expected_groups(*b, pr.group_advantages, kl_in="loss"),
    "undivided, KL in the loss": lambda *b: pr.expected_groups(
        *b, pr.leave_one_out, kl_in="loss"),
}


@pytest.mark.parametrize("name", CLAIM)
def test_who_claims_the_optimum_ends_there(bandit, name):
    end = pr.descend(CLAIM[name](*bandit, BETA), bandit[0])
    best = (bandit[0] + bandit[1] / BETA).exp()
    assert pr.bandit_kl(end, (best / best.sum()).log()) < 1e-3


@pytest.mark.parametrize("name", CLAIM_NOT)
def test_who_does_not_claim_it_does_not(bandit, name):
    end = pr.descend(CLAIM_NOT[name](*bandit, BETA), bandit[0])
    assert pr.bandit_kl(end, pr.optimum(*bandit, BETA)) > 1e-2


def test_ipo_and_the_kl_in_the_loss_end_at_optima_of_their_own(bandit):
    for name, form in (("IPO", pr.ipo_optimum), ("undivided, KL in the loss",
                                                 pr.forward_kl_optimum)):
        target = form(*bandit, BETA)
        assert target.exp().sum().item() == pytest.approx(1)
        assert pr.bandit_kl(pr.descend(CLAIM_NOT[name](*bandit, BETA), bandit[0]), target) < 1e-3


def test_the_forward_kl_optimum_is_the_best_for_its_objective(bandit):
    """Against a search: no policy nearby does better, whichever way it lies."""
    reference, rewards = bandit
    best = pr.forward_kl_optimum(reference, rewards, BETA)

    def worth(logp):
        kl = (reference.exp() * (reference - logp)).sum()
        return float((logp.exp() * rewards).sum() - BETA * kl)

    generator = torch.Generator().manual_seed(1)
    for size in (0.01, 0.1, 1.0):
        for _ in range(50):
            step = size * torch.randn(5, generator=generator, dtype=torch.double)
            assert worth((best + step).log_softmax(-1)) < worth(best)


def test_best_of_n_on_the_bandit_is_what_drawing_gives(bandit):
    reference, rewards = bandit
    rewards = rewards.clone()
    rewards[3] = rewards[1]  # a tie
    rng = np.random.default_rng(0)
    draws = rng.choice(5, size=(400_000, 3), p=reference.exp().numpy())
    value = rewards.numpy()[draws]
    chosen = draws[np.arange(len(draws)), value.argmax(1)]  # the first of equals, by chance
    share = np.bincount(chosen, minlength=5) / len(draws)
    policy = pr.best_of_n_policy(reference, rewards, 3).exp().numpy()
    assert policy == pytest.approx(share, abs=4e-3)


def test_best_of_n_stays_below_its_bound_and_is_no_optimum(bandit):
    from helpers.evaluation import best_of_n_kl

    reference, rewards = bandit
    for n in (2, 4, 16, 64):
        policy = pr.best_of_n_policy(reference, rewards, n)
        policy = policy.clamp(min=-700)
        assert pr.bandit_kl(policy, reference) < best_of_n_kl(n)
    policy = pr.best_of_n_policy(reference, rewards, 4)
    betas = np.geomspace(0.02, 50, 400)
    assert min(pr.bandit_kl(policy, pr.optimum(reference, rewards, b)) for b in betas) > 1e-3


def test_the_bound_of_best_of_n_is_met_by_many_arms_of_different_rewards():
    from helpers.evaluation import best_of_n_kl

    arms = 20_000
    reference = torch.full((arms,), -math.log(arms), dtype=torch.double)
    policy = pr.best_of_n_policy(reference, torch.arange(arms, dtype=torch.double), 8)
    kl = float((policy.exp() * (policy - reference)).nansum())
    assert kl == pytest.approx(best_of_n_kl(8), abs=1e-3)


# ------------------------------------------------------------------------------ on texts


def test_sums_are_those_of_sampling_whatever_stands_beside_a_row(tokenizer):
    policy = byte_policy(tokenizer).eval()
    rollout = sample(policy, tokenizer, ["a good", "it was a"], 8, temperature=0.7, seed=1)
    rows = [(p[m.bool()].tolist(), r[k.bool()].tolist()) for p, m, r, k in zip(
        rollout.prompt_ids, rollout.prompt_mask, rollout.response_ids, rollout.response_mask,
        strict=True)]
    wanted = (rollout.logprobs * rollout.response_mask).sum(1)
    assert torch.allclose(pr.response_sums(policy, rows, 0.7), wanted, atol=1e-4)
    longer = [*rows, (rows[0][0] * 3, rows[1][1] * 2)]
    assert torch.allclose(pr.all_response_sums(policy, longer, 0.7, 2)[:2], wanted, atol=1e-4)


def test_dpo_makes_the_chosen_likelier_than_the_rejected_and_starts_at_log_2(tokenizer):
    reference = byte_policy(tokenizer)
    policy = copy.deepcopy(reference)
    sides = [pr.encode_texts(tokenizer, [p["prompt"] for p in PAIRS], [p[s] for p in PAIRS])
             for s in ("chosen", "rejected")]
    assert sides[0][0][1][-1] == tokenizer.eos_token_id
    losses = pr.fit_dpo(policy, reference, *sides, beta=0.1, epochs=30, batch_size=4,
                        learning_rate=3e-3)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6) and losses[-1] < 0.5
    rewards = [pr.implicit_reward(pr.all_response_sums(policy, side),
                                  pr.all_response_sums(reference, side), 0.1) for side in sides]
    assert (rewards[0] > rewards[1]).all()


def test_a_policy_with_checkpointing_uses_it_and_learns_the_same_without_dropout(tokenizer):
    """Checkpointing works in training mode only, where the model's own dropout would be at work."""
    rows = pr.encode_texts(tokenizer, ["a"] * 4, ["good film", "bad day", "good day", "film"])
    found, modes = [], []
    for checkpointing in (False, True):
        policy = byte_policy(tokenizer)
        if checkpointing:
            policy.gradient_checkpointing_enable({"use_reentrant": False})
        modes.append(set())
        policy.transformer.h[0].register_forward_pre_hook(
            lambda module, _, seen=modes[-1]: seen.add(module.training))
        found.append(pr.fit_imitation(policy, rows, epochs=2, batch_size=2, learning_rate=1e-3))
    assert modes == [{False}, {True}]
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_imitation_at_the_temperature_of_sampling_leaves_its_own_samples_alone(tokenizer):
    """The expected gradient on a policy's own samples is 0 at their temperature, and only there."""
    policy, norms = byte_policy(tokenizer).eval(), []
    policy.transformer.ln_f.weight.data *= 12  # far from uniform
    rollout = sample(policy, tokenizer, ["a good"] * 4096, 1, temperature=0.5, seed=2)
    rows = [(p.tolist(), r.tolist()) for p, r in zip(
        rollout.prompt_ids, rollout.response_ids, strict=True)]
    for temperature in (0.5, 1.0):
        policy.zero_grad()
        (-pr.response_sums(policy, rows, temperature)).mean().backward()
        norms.append(torch.stack([p.grad.norm() for p in policy.parameters()]).norm())
    assert norms[0] < norms[1] / 4
    rows = pr.encode_texts(tokenizer, ["a good", "it was"], ["film", "bad and late"])
    wanted = -pr.all_response_sums(policy, rows, 0.5).sum() / sum(len(r) for _, r in rows)
    losses = pr.fit_imitation(policy, rows, 0.5, epochs=40, learning_rate=3e-3)
    assert losses[0] == pytest.approx(wanted.item(), rel=1e-5) and losses[-1] < losses[0] / 2


def test_groups_are_of_one_prompt_and_their_advantages_sum_to_nothing(tokenizer):
    policy, seen, kept = byte_policy(tokenizer), [], []

    def reward(prompts, responses):
        seen.append(list(prompts))
        return [float(len(r)) for r in responses]

    def advantages(rewards, group):
        kept.append(pr.leave_one_out(rewards, group))
        return kept[-1]

    config = PPOConfig(updates=2, batch_size=8, max_new_tokens=6, normalise_reward=False,
                       value_coef=0.0, whiten_advantages=False)
    trainer = pr.GroupPPO(policy, None, reward, tokenizer, config, group=4, advantages=advantages)
    trainer.train(["a good", "it was", "the end", "no"])
    assert len(seen) == 2
    for prompts, found in zip(seen, kept, strict=True):
        assert prompts[:4] == prompts[:1] * 4 and prompts[4:] == prompts[4:5] * 4
        assert prompts[0] != prompts[4]
        assert found.view(2, 4).sum(1).abs().max() < 1e-4 and found.abs().max() > 0.1


def test_a_group_that_does_not_divide_the_batch_is_refused(tokenizer):
    for group in (1, 3):
        with pytest.raises(UserError, match="groups"):
            pr.GroupPPO(byte_policy(tokenizer), None, len, tokenizer,
                        PPOConfig(batch_size=8), group=group)


# ------------------------------------------------------------------------------ the frontier


def point(method, seed, kl, gain):
    return {"method": method, "seed": seed, "kl": kl, "gain": gain}


def test_methods_are_compared_at_equal_kl_and_within_a_seed_only():
    rows = [point("a", 0, 1.0, 0.5), point("a", 0, 6.0, 9.0), point("a", 1, 1.0, 0.7),
            point("a", 2, 1.0, 0.7),
            point("b", 0, 0.6, 0.1), point("b", 0, 1.4, 0.3), point("b", 0, 2.0, 5.0),
            point("b", 1, 1.5, 0.6), point("b", 2, 3.0, 0.0)]
    assert pr.at_equal_kl(rows, "a", "b") == pytest.approx({0: 0.3, 1: 0.1})
    assert pr.at_equal_kl(rows, "a", "c") == {}


def test_the_interval_over_seeds_is_scipys():
    from scipy.stats import ttest_1samp

    values = [0.2, 0.5, 0.1, 0.4]
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert pr.seed_interval(values) == pytest.approx((0.3, low, high))
    with pytest.raises(UserError, match="two"):
        pr.seed_interval([1.0])
