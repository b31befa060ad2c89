"""PPO on small environments: short runs, and the details that long runs depend on."""

import numpy as np
import pytest
import torch

from helpers import control
from helpers.errors import UserError

gym = pytest.importorskip("gymnasium")


@pytest.mark.slow
def test_short_runs_learn_to_balance_far_better_than_chance():
    """The median of three seeds: one short run ends high or low by the last bits of its numbers."""
    config = control.ControlConfig.for_environment("CartPole-v1", total_steps=40_960)
    generator = torch.Generator().manual_seed(0)
    chance = control.evaluate_control(
        "CartPole-v1", lambda observation: torch.randn(len(observation), 2, generator=generator), 20
    )
    returns = []
    for seed in range(3):
        policy, _ = control.train_control("CartPole-v1", config, seed=seed)
        returns.append(control.evaluate_control("CartPole-v1", policy, 20).mean())
    assert np.median(returns) > 10 * chance.mean()


def test_training_uses_every_step_it_was_given():
    """A beginner drops the pole in every rollout, so each has its point in the curve."""
    config = control.ControlConfig.for_environment("CartPole-v1", total_steps=2_048)
    size = config.environments * config.rollout_steps
    _, curve = control.train_control("CartPole-v1", config, seed=0)
    assert [steps for steps, _ in curve] == list(range(size, 2_048 + 1, size))


def test_the_same_seed_gives_the_same_policy():
    config = control.ControlConfig.for_environment("CartPole-v1", total_steps=2_048)
    observation = torch.randn(5, 4)
    one, two, other = (
        control.train_control("CartPole-v1", config, seed=seed)[0](observation)
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_evaluation_counts_the_first_episode_of_each_copy_and_nothing_after_it():
    class AlwaysLeft(torch.nn.Module):
        def forward(self, observation):
            return torch.tensor([1.0, 0.0]).expand(len(observation), 2)

    returns = control.evaluate_control("CartPole-v1", AlwaysLeft(), 30, seed=0)
    for i in (0, 7, 29):
        environment = gym.make("CartPole-v1")
        environment.reset(seed=i)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = environment.step(0)
            total, over = total + reward, terminated or truncated
        assert returns[i] == total


def test_an_episode_cut_by_its_time_limit_is_valued_as_if_it_went_on():
    """The reward of the last step gets gamma times the value of the observation at the cut."""

    class Cut:
        single_observation_space = gym.spaces.Box(-1, 1, (1,))

        def step(self, actions):
            observation = np.zeros((2, 1), np.float32)
            truncated = np.array([True, False])
            infos = {"final_obs": np.array([np.array([3.0], np.float32), None], dtype=object)}
            return observation, np.ones(2), np.array([False, True]), truncated, infos

    config = control.ControlConfig(environments=2, rollout_steps=1, gamma=0.9, lam=0.5)
    policy, critic = torch.nn.Linear(1, 2), torch.nn.Linear(1, 1)
    data, _, ended = control.collect(
        Cut(), policy, critic, np.zeros((2, 1), np.float32), np.zeros(2), config
    )
    returns = data[4]
    with torch.no_grad():
        bonus = 0.9 * critic(torch.tensor([3.0])).item()
    assert returns.tolist() == pytest.approx([1 + bonus, 1.0], abs=1e-6)
    assert ended == [1.0, 1.0]


def test_an_unknown_environment_names_the_known_ones():
    with pytest.raises(UserError, match="CartPole-v1"):
        control.ControlConfig.for_environment("Pong-v5")


def test_the_number_of_threads_is_as_before():
    before = torch.get_num_threads()
    control.evaluate_control("CartPole-v1", control.mlp(4, 2, 8, 0.01), 2)
    assert torch.get_num_threads() == before


def test_a_share_of_the_steps_is_taken_and_a_tiny_one_is_one_update():
    config = control.ControlConfig(environments=2, rollout_steps=8, total_steps=160, epochs=1)
    seen = []
    for share in (1.0, 0.5, 1e-6):
        rollouts = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(control, "improve", lambda *_, rollouts=rollouts: rollouts.append(1))
            control.train_control("CartPole-v1", config, share=share)
        seen.append(len(rollouts))
    assert seen == [10, 5, 1]
