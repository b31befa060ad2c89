"""What `test_two_processes` runs in one process and in two: fine-tuning, then a reward model."""

import json
import os
import sys
from pathlib import Path

import torch
from test_families_training import PAIRS, ROWS

from helpers import models, reward, sft
from helpers.profiles import load_profile


def main(base: str, out: str) -> None:
    torch.set_num_threads(1)
    rank = os.environ.get("RANK", "0")
    settings = load_profile("embedded", {
        "models.base": base, "sft.batch_size": 8, "sft.epochs": 2, "device": "cpu",
        "mixed_precision": "none", "reward.batch_size": 8, "reward.max_length": 128})
    torch.manual_seed(0)
    model, tokenizer = models.load_base(settings, trains=True)
    models.disable_dropout(model)
    log = sft.train_sft(model, tokenizer, ROWS, settings)
    torch.manual_seed(0)
    judge = models.new_reward_model(base, tokenizer, settings)
    history = reward.train_reward_model(
        judge, tokenizer, PAIRS, PAIRS[:16], Path(out) / "run",
        reward.RewardConfig.from_settings(settings, evaluations=2, patience=None, epochs=2))
    import torch.distributed as dist

    found = {
        "processes": dist.get_world_size() if dist.is_initialized() else 1,
        "sft": [row["loss"] for row in log], "sft_after": sft.response_loss(model, tokenizer, ROWS),
        "reward": [row["loss"] for row in history],
        "scores": reward.score_pairs(judge, tokenizer, PAIRS)[0].tolist()}
    (Path(out) / f"found-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
    if "RANK" in os.environ:  # all is on disk; see the docstring of ppo_trainer on gloo's way out
        import torch.distributed as dist

        if dist.is_initialized():
            dist.barrier()
        os._exit(0)
