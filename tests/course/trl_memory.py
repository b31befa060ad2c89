"""Two steps of TRL's DPO or RLOO on a model of random weights, and the most memory that they took.

    python tests/course/trl_memory.py SHAPE METHOD ROWS PROMPT RESPONSE

ROWS texts at once of so many tokens, as notebook 08 trains them. Prints megabytes (2**20 bytes) of
resident memory above what the process held once a tiny model had been trained in the same way.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from datasets import Dataset
from step_memory import TINY, config, give_back
from support import numbered_words
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer, RLOOConfig, RLOOTrainer

from helpers import trl_adapter
from helpers.course import plan
from helpers.course.execute import Memory, tree_memory

WORDS = 400


def made(shape, folder):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(shape, "text"))
    tokenizer = numbered_words(WORDS)
    model.config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    return trl_adapter.ready_for_trl(model, tokenizer, folder=folder), tokenizer


def train(shape, method, rows, prompt, response, steps=2):
    with tempfile.TemporaryDirectory() as folder:
        model, words = made(shape, folder)
        asked = " ".join(f"w{i}" for i in range(prompt))
        common = dict(
            output_dir=folder, report_to="none", save_strategy="no", disable_tqdm=True,
            use_cpu=True, bf16=False, gradient_checkpointing=False, dataloader_pin_memory=False,
            disable_dropout=True, max_steps=steps, learning_rate=1e-4)
        with trl_adapter.quiet():
            if method == "dpo":
                said = [f"w{i}" for i in range(response - 1)]  # and the end
                pair = {"prompt": asked, "chosen": " " + " ".join(said),
                        "rejected": " " + " ".join(said[::-1])}
                reference = made(shape, folder)[0]
                trainer = DPOTrainer(
                    model=model, ref_model=reference, processing_class=numbered_words(WORDS),
                    train_dataset=Dataset.from_list([pair] * rows),
                    args=DPOConfig(**common, per_device_train_batch_size=rows // 2,
                                   logging_steps=1, max_length=prompt + response))
            else:
                trainer = RLOOTrainer(
                    model=model, processing_class=words,
                    reward_funcs=lambda completions, **_: [float(len(c)) for c in completions],
                    train_dataset=Dataset.from_list([{"prompt": asked}] * rows),
                    args=RLOOConfig(**common, per_device_train_batch_size=rows, num_generations=2,
                                    max_completion_length=response, beta=0.1, logging_steps=1))
        trl_adapter.train_quietly(trainer)


def main(shape, method, rows, prompt, response):
    torch.set_num_threads(1)
    train(TINY[shape.family], method, 4, 8, 8)
    give_back()
    before = tree_memory(os.getpid())
    with Memory(os.getpid(), every=0.003) as memory:
        train(shape, method, rows, prompt, response)
    print(json.dumps({"megabytes": (memory.peak - before) / 2**20}))


if __name__ == "__main__":
    name, method_, *sizes = sys.argv[1:]
    main(plan.ARCHITECTURES[name], method_, *map(int, sizes))
