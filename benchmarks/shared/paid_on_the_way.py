"""A reward that is paid on the way: what `first_nats.py` tried, and no notebook takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from helpers import ppo
from helpers.engine.tokens import decode
from helpers.errors import UserError
from helpers.ppo_trainer import PPO


def pay_on_the_way(
    scores: torch.Tensor, so_far: torch.Tensor, start: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """What each token changed of the judge's opinion, (batch, steps); the last gets the rest.

    scores, start: (batch,), the reward of the whole response and of the prompt alone; so_far:
    (batch, steps), of the response up to each token. A row sums to score - start: a potential,
    which changes no policy's rank (Ng, Harada and Russell 1999).
    """
    last = mask.sum(1, keepdim=True).long() - 1
    opinion = so_far.scatter(1, last, scores.unsqueeze(1))
    before = torch.cat([start.unsqueeze(1), opinion[:, :-1]], dim=1)
    return (opinion - before) * mask


class PaidOnTheWay(PPO):
    """The course's trainer with `pay_on_the_way`: the judge also reads unfinished responses.

    Every ``every`` tokens the reward function is asked for prompt and response so far. The sum over
    a response is the reward less a number per prompt, so the optimum is the same, and credit goes
    to the token that earned it before any critic has learned to see which one that was. It needs a
    judge whose opinion of half a text says something. Every process asks for all rows.
    """

    def __init__(self, *arguments: Any, every: int = 3, **more: Any) -> None:
        super().__init__(*arguments, reward_tokens_fn=self._token_rewards, **more)
        if every < 1:
            raise UserError(f"every is {every}; the judge is asked after 1 token or more.")
        self.every = every

    def _score(self, batch: Any) -> torch.Tensor:
        raw = super()._score(batch)
        rows, steps = batch.mask.shape
        lengths = batch.mask.sum(1).long().tolist()
        places = [(i, t) for i in range(rows)
                  for t in range(self.every - 1, lengths[i] - 1, self.every)]
        prompt_ids = [batch.ids[i, : batch.starts[i]].tolist() for i, _ in places]
        texts = decode(self.tokenizer, prompt_ids,
                       [batch.tokens[i, : t + 1].tolist() for i, t in places]) if places else []
        asked = list(batch.prompts) + [batch.prompts[i] for i, _ in places]
        found = torch.as_tensor(np.asarray(self.reward_fn(asked, [""] * rows + texts))).float()
        self._start, changes = found[:rows], torch.zeros(rows, steps)
        held = self._start.clone()
        for (i, t), value in zip(places, found[rows:], strict=True):
            changes[i, t], held[i] = value - held[i], value
        self._so_far = self._start.unsqueeze(1) + changes.cumsum(1)
        return raw

    def _token_rewards(
        self, scores: torch.Tensor, logprobs: torch.Tensor, reference_logprobs: torch.Tensor,
        mask: torch.Tensor, kl_coef: float, estimator: str = "k1",
    ) -> torch.Tensor:
        cost = ppo.token_rewards(
            torch.zeros_like(scores), logprobs, reference_logprobs, mask, kl_coef, estimator)
        so_far, start = ((values - self.reward_mean) / self.reward_sd
                         for values in (self._so_far, self._start))
        paid = pay_on_the_way(scores, so_far.to(scores), start.to(scores), mask.to(scores))
        return cost + paid.to(cost)
