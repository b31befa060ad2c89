"""PPO on small Gymnasium environments: the same losses, with an environment in place of a text.

Here a step is one action, an episode lasts until the environment ends it, and there is no
reference policy. CartPole and Acrobot have observations of 4 and 6 numbers and 2 or 3 actions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from helpers import ppo
from helpers.errors import UserError

if TYPE_CHECKING:
    from gymnasium.spaces import Discrete
    from gymnasium.vector import SyncVectorEnv


@dataclass
class ControlConfig:
    """Settings for one environment; `for_environment` knows good ones for two."""

    total_steps: int = 100_000  # environment steps, all copies together
    environments: int = 8  # copies that run side by side
    rollout_steps: int = 32  # steps of each copy between two updates
    epochs: int = 8
    mini_batches: int = 2
    learning_rate: float = 1e-3
    gamma: float = 0.98
    lam: float = 0.8
    clip_range: float = 0.2
    value_coef: float = 0.5
    entropy_coef: float = 0.0
    max_grad_norm: float = 0.5
    hidden: int = 64

    @classmethod
    def for_environment(cls, name: str, **changes: Any) -> ControlConfig:
        """Settings under which ten of ten seeds solve CartPole-v1 or Acrobot-v1.

        `benchmarks/control.py` measures it. What counts is the number of updates: CartPole with
        rollouts four times as long, so a quarter as many updates, left seven of ten seeds
        unsolved; Acrobot with two mini-batches in place of four left three.
        """
        known = {
            "CartPole-v1": {},
            "Acrobot-v1": {
                "total_steps": 150_000, "environments": 16, "mini_batches": 4, "gamma": 0.99,
                "lam": 0.95, "entropy_coef": 0.01,
            },
        }
        if name not in known:
            raise UserError(
                f"No settings for environment {name!r}: give a ControlConfig, or use one of "
                f"{', '.join(known)}."
            )
        return cls(**{**known[name], **changes})


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Layers of 64 units are too small to share between threads: waiting would cost more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def mlp(inputs: int, outputs: int, hidden: int, scale: float) -> nn.Sequential:
    """Two tanh layers, orthogonal weights; a small `scale` makes the first policy near uniform."""
    layers = [nn.Linear(inputs, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, outputs)]
    for layer, gain in zip(layers, (2**0.5, 2**0.5, scale), strict=True):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def make_environments(name: str, count: int) -> SyncVectorEnv:
    """`count` copies of an environment that are stepped together and start over by themselves."""
    import gymnasium as gym

    # After an episode's end the next step only resets: with SAME_STEP the reset comes at once and
    # the last observation of the episode stands in infos["final_obs"].
    mode = gym.vector.AutoresetMode.SAME_STEP
    makers = [lambda: gym.make(name, disable_env_checker=True)] * count
    return gym.vector.SyncVectorEnv(makers, autoreset_mode=mode)


@one_thread()
def train_control(
    name: str, config: ControlConfig | None = None, seed: int = 0,
    progress: Callable[[int, float], None] | None = None, share: float = 1.0,
) -> tuple[nn.Module, list[tuple[int, float]]]:
    """PPO on one environment; `share` of the config's steps, for a look that teaches it little.

    Returns the policy, a module from observations to action logits, and the learning curve: pairs
    of (environment steps, mean return of the episodes that ended in the last rollout).
    """
    c = config or ControlConfig.for_environment(name)
    torch.manual_seed(seed)
    environments = make_environments(name, c.environments)
    observation, _ = environments.reset(seed=seed)
    size = observation.shape[1]
    actions = cast("Discrete", environments.single_action_space)
    policy = mlp(size, int(actions.n), c.hidden, 0.01)
    critic = mlp(size, 1, c.hidden, 1.0)
    parameters = [*policy.parameters(), *critic.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=c.learning_rate, eps=1e-5, fused=True)
    updates = max(1, int(c.total_steps * share) // (c.environments * c.rollout_steps))
    running, curve = np.zeros(c.environments), []
    for update in range(updates):
        for group in optimiser.param_groups:
            group["lr"] = c.learning_rate * (1 - update / updates)
        data, observation, ended = collect(environments, policy, critic, observation, running, c)
        improve(policy, critic, optimiser, parameters, data, c)
        if ended:
            curve.append(((update + 1) * c.environments * c.rollout_steps, float(np.mean(ended))))
            if progress:
                progress(*curve[-1])
    environments.close()
    return policy, curve


@torch.no_grad()
def collect(
    environments: SyncVectorEnv, policy: nn.Module, critic: nn.Module, observation: np.ndarray,
    running: np.ndarray, c: ControlConfig,
) -> tuple[tuple[torch.Tensor, ...], np.ndarray, list[float]]:
    """One rollout: tensors of shape (environments, steps), and the returns of ended episodes.

    An episode that its time limit cut short did not fail: its reward gets the value of the state
    where it was cut, as if it had gone on.
    """
    shape = (c.environments, c.rollout_steps)
    observations = torch.zeros(*shape, observation.shape[1])
    actions = torch.zeros(shape, dtype=torch.long)
    logprobs, rewards, dones = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape)
    ended = []
    for t in range(c.rollout_steps):
        observations[:, t] = torch.as_tensor(observation, dtype=torch.float32)
        distribution = policy(observations[:, t]).log_softmax(-1)
        actions[:, t] = torch.multinomial(distribution.exp(), 1).squeeze(1)
        logprobs[:, t] = distribution.gather(1, actions[:, t : t + 1]).squeeze(1)
        observation, reward, terminated, truncated, infos = environments.step(
            actions[:, t].numpy()
        )
        running += reward
        rewards[:, t] = torch.as_tensor(reward, dtype=torch.float32)
        for i in np.nonzero(truncated & ~terminated)[0]:
            final = torch.as_tensor(infos["final_obs"][i], dtype=torch.float32)
            rewards[i, t] += c.gamma * critic(final).item()
        over = terminated | truncated
        dones[:, t] = torch.as_tensor(over, dtype=torch.float32)
        ended.extend(running[over])
        running[over] = 0
    values = critic(observations).squeeze(-1)
    after = critic(torch.as_tensor(observation, dtype=torch.float32)).squeeze(-1)
    advantages, returns = ppo.gae(
        rewards, values, torch.ones(shape), c.gamma, c.lam, dones, after
    )
    data = (observations.flatten(0, 1), actions.flatten(), logprobs.flatten(),
            advantages.flatten(), returns.flatten(), values.flatten())
    return data, observation, ended


def improve(
    policy: nn.Module, critic: nn.Module, optimiser: torch.optim.Optimizer,
    parameters: list[nn.Parameter], data: tuple[torch.Tensor, ...], c: ControlConfig,
) -> None:
    """Several epochs of clipped updates on one rollout."""
    observations, actions, old_logprobs, advantages, returns, _ = data
    for _ in range(c.epochs):
        for rows in torch.randperm(len(actions)).chunk(c.mini_batches):
            ones = torch.ones(len(rows))
            logits = policy(observations[rows])
            logprobs = ppo.logprobs_from_logits(logits, actions[rows])
            advantage = ppo.whiten(advantages[rows], ones)
            loss = ppo.policy_loss(logprobs, old_logprobs[rows], advantage, ones, c.clip_range)
            values = critic(observations[rows]).squeeze(-1)
            loss = loss + c.value_coef * 0.5 * ((values - returns[rows]) ** 2).mean()
            if c.entropy_coef:
                loss = loss - c.entropy_coef * ppo.entropy_from_logits(logits).mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, c.max_grad_norm)
            optimiser.step()


@one_thread()
@torch.no_grad()
def evaluate_control(
    name: str, policy: nn.Module, episodes: int = 100, seed: int = 10_000
) -> np.ndarray:
    """Returns of `episodes` episodes in which the likeliest action is always taken, (episodes,)."""
    environments = make_environments(name, episodes)
    observation, _ = environments.reset(seed=seed)
    returns, active = np.zeros(episodes), np.ones(episodes, dtype=bool)
    while active.any():
        logits = policy(torch.as_tensor(observation, dtype=torch.float32))
        observation, reward, terminated, truncated, _ = environments.step(
            logits.argmax(-1).numpy()
        )
        returns += reward * active
        active &= ~(terminated | truncated)
    environments.close()
    return returns
