"""What `test_two_processes` runs in two processes: both save a stage, and one that fails."""

import json
import os
import sys
import time
from pathlib import Path

from helpers.engine import artifacts
from helpers.errors import UserError
from helpers.profiles import load_profile


class Model:
    """Takes its time to be saved, or breaks off."""

    wrote = False

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def save_pretrained(self, folder: str) -> None:
        self.wrote = True
        time.sleep(0.5)
        if self.fault:
            raise UserError(self.fault)
        (Path(folder) / "config.json").write_text("{}")


def main(_: str, out: str) -> None:
    rank = int(os.environ["RANK"])
    settings = load_profile("embedded", {"out": out})
    model, found = Model(), {}
    folder = artifacts.save_stage("sft", settings, model, metrics={"rank": rank})
    found |= {"wrote": model.wrote, "folder": str(folder), "there": folder.is_dir(),
              "info": artifacts.stage_info("sft", settings)}
    try:
        artifacts.save_stage("reward_model", settings, Model("no room left"))
    except UserError as error:
        found["refused"] = str(error)
    (Path(out) / f"found-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
    if "RANK" in os.environ:  # all is on disk; see the docstring of ppo_trainer on gloo's way out
        import torch.distributed as dist

        if dist.is_initialized():
            dist.barrier()
        os._exit(0)
