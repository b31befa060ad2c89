"""Time of one update of the course's PPO trainer and of TRL's, in turn, on the same work.

    python benchmarks/ppo.py [--rounds 8] [--threads 2]

Needs the stage `sft` of the embedded profile and makes it if it is missing: that model ends its
answers by itself. Same model, prompts, reward model, longest response, batch, epochs, optimiser
steps and precision. Three trainers: TRL's PPOTrainer; ours with a separate value model, as TRL has
one; ours with the value head on the policy's trunk. Two precisions: float32, and bfloat16 by
autocast, in which the course trains where the processor has it. TRL's `bf16=True` casts nothing;
with `ACCELERATE_MIXED_PRECISION` its training passes are in bfloat16 (a hook makes sure that they
are), while it goes on sampling and scoring in float32. Three kinds of responses: of natural length,
with so much room that every answer ends by itself; of at most 48 tokens, as notebook 05 has it,
which cuts some answers off; and always of 48 tokens (the end-of-text token banned). TRL pads to the
longest response, so room costs it time.

Each trainer lives in a process of its own and works only when it is its turn: in every round each
makes one update, so that a busy neighbour disturbs all three alike. The first update is not
counted. A ratio is TRL's seconds over ours in the same round; the median of the rounds stands for
it, with the quartiles beside. About fifteen minutes.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from torch.utils.mkldnn import to_mkldnn

from benchmarks.shared import store
from helpers import course, data, models, ppo_trainer, reward, trl_adapter
from helpers.engine import place
from helpers.engine.tokens import encode_prompts
from helpers.profiles import load_profile

BATCH, EPOCHS, PROMPT_TOKENS = 64, 4, 32
KINDS = {  # of responses: most new tokens, and whether the end-of-text token is banned
    "natural length": (128, False),
    "at most 48 tokens": (48, False),
    "always 48 tokens": (48, True),
}
GOALS = {"ours, separate value model": 2.5, "ours, value head on trunk": 4.0}
TRAINERS = ("TRL", *GOALS)
PARTS = ("generation_seconds", "scoring_seconds", "optimisation_seconds")
LENGTH = "response_length"


def matmul_rates(size: int = 1024) -> dict[str, float]:
    """GFLOP per second that this machine reaches on square products, by number type.

    PyTorch multiplies float32 by MKL and bfloat16 by oneDNN. On some processors oneDNN is much the
    faster in float32 too, so that its rate stands beside.
    """
    layer = to_mkldnn(torch.nn.Linear(size, size, bias=False).eval())
    x = torch.randn(size, size)
    half, packed = x.bfloat16(), x.to_mkldnn()
    with torch.inference_mode():
        return {
            "float32": _rate(lambda: x @ x, size),
            "float32, oneDNN": _rate(lambda: layer(packed), size),
            "bfloat16": _rate(lambda: half @ half, size),
        }


def _rate(multiply, size: int, seconds: float = 0.5) -> float:
    rates = []
    for _ in range(3):
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            multiply()
            count += 1
        rates.append(2 * size**3 * count / (time.perf_counter() - start) / 1e9)
    return max(rates)


def episode_gflop(policy, prompt: float, response: float, value_model: bool) -> float:
    """Products that one episode needs at least: no padding, no pass made twice.

    Sampling and the reference read each token once, each epoch goes forward and backward (three
    times one pass); logits are needed at response tokens only. The reward model reads it once.
    """
    c = policy.config
    blocks = 12 * c.n_layer * c.n_embd**2
    head = c.vocab_size * c.n_embd
    tokens = prompt + response
    trunk_passes = 1 + 1 + 1 + 3 * EPOCHS * (2 if value_model else 1)
    head_passes = 1 + 1 + 3 * EPOCHS
    return 2 * (blocks * tokens * trunk_passes + head * response * head_passes) / 1e9


def ban(model, token: int):
    """Make a model's logit of one token very low; returns the hook."""

    def hook(module, inputs, output):
        output = output.clone()
        output[..., token] = -1e4
        return output

    return model.get_output_embeddings().register_forward_hook(hook)


class Job:
    """What all trainers share: models made anew for each run from the same weights."""

    def __init__(self, settings, kind: str, precision: str = "float32"):
        self.policy, self.tokenizer = models.load_stage(settings, "sft")
        models.disable_dropout(self.policy)
        (self.new_tokens, self.never_ends), self.precision = KINDS[kind], precision
        rows = data.load_demonstrations(settings, "train")
        encoded = encode_prompts(self.tokenizer, [r["prompt"] for r in rows])
        kept = [r["prompt"] for r, ids in zip(rows, encoded, strict=True)
                if len(ids) <= PROMPT_TOKENS]
        self.prompts = list(dict.fromkeys(kept))[:512]
        torch.manual_seed(1)
        self.reward_model = models.new_reward_model(self.policy, self.tokenizer, settings)
        reward.set_normalisation(self.reward_model, [-1.0, 1.0])  # as it is: mean 0, spread 1

    def models(self):
        policy, reference = copy.deepcopy(self.policy), copy.deepcopy(self.policy)
        if self.never_ends:
            for model in (policy, reference):
                ban(model, self.tokenizer.eos_token_id)
        return policy, reference


class Turn:
    """A process's end of the line to the main one: tells what an update took, waits for its turn.

    Called after each update, with what the trainer itself has measured of it.
    """

    def __init__(self, line):
        self.line, self.started = line, None

    def __call__(self, measures: dict) -> None:
        now = time.perf_counter(), time.process_time()
        if self.started is None:  # the first update: caches are warm now
            self.line.send({})
        else:
            wall, cpu = (end - start for end, start in zip(now, self.started, strict=True))
            self.line.send({"seconds": wall, "cpu_seconds": cpu, **measures})
        self.line.recv()
        self.started = time.perf_counter(), time.process_time()


def work(line, trainer: str, precision: str, kind: str, rounds: int, threads: int) -> None:
    """What the process of one trainer does: `rounds` updates after the first, each when told."""
    torch.set_num_threads(threads)
    job, turn = Job(load_profile("embedded"), kind, precision), Turn(line)
    if trainer == "TRL":
        run_trl(job, rounds + 1, turn)
    else:
        run_ours(job, rounds + 1, turn, separate="separate" in trainer)


def run_ours(job: Job, updates: int, turn: Turn, separate: bool) -> None:
    """Our trainer, with a value model of its own or with the head on the policy's trunk."""
    policy, reference = job.models()
    value_model = None
    if separate:
        value_model = trl_adapter.new_value_model(job.policy, job.tokenizer.pad_token_id)
    config = ppo_trainer.PPOConfig(
        updates=updates, batch_size=BATCH, epochs=EPOCHS, max_new_tokens=job.new_tokens,
        learning_rate=1e-6, normalise_reward=False, missing_eos_penalty=0.0,
        precision=job.precision,
    )
    ppo_trainer.PPO(
        policy, reference, reward.reward_function(job.reward_model, job.tokenizer), job.tokenizer,
        config, value_model=value_model,
        callbacks=[lambda trainer, row: turn({key: row[key] for key in (*PARTS, LENGTH)})],
    ).train(job.prompts)


def run_trl(job: Job, updates: int, turn: Turn) -> None:
    """TRL's trainer."""
    if job.precision == "bfloat16":
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy, reference = job.models()
    value_model = trl_adapter.new_value_model(job.policy, job.tokenizer.pad_token_id)
    if job.precision == "bfloat16":  # fused attention is slow in it, and ours has none there
        for model in (policy, value_model):
            place.plain_attention(model)
    trained_in = set()

    def note(module, inputs, output):
        if torch.is_grad_enabled():
            trained_in.add(str(output.dtype).removeprefix("torch."))

    policy.transformer.h[0].mlp.c_fc.register_forward_hook(note)

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if trained_in != {job.precision}:
                raise RuntimeError(f"TRL trained in {trained_in}, not in {job.precision}.")
            turn({})

    rows = trl_adapter.pad_prompts(job.prompts, job.tokenizer, PROMPT_TOKENS)
    folder = tempfile.TemporaryDirectory()  # removed when this function has ended
    config = PPOConfig(
        output_dir=folder.name, report_to="none", save_strategy="no",
        bf16=job.precision == "bfloat16",
        num_sample_generations=0, disable_tqdm=True, use_cpu=True, gradient_checkpointing=False,
        total_episodes=BATCH * updates, per_device_train_batch_size=BATCH,
        num_mini_batches=1, num_ppo_epochs=EPOCHS, local_rollout_forward_batch_size=BATCH,
        response_length=job.new_tokens, temperature=1.0, stop_token="eos", learning_rate=1e-6,
        kl_coef=0.05, gamma=1.0, lam=0.95, adam_epsilon=1e-5,
    )
    with trl_adapter.quiet():
        trainer = PPOTrainer(
            args=config, processing_class=job.tokenizer, model=policy, ref_model=reference,
            reward_model=copy.deepcopy(job.reward_model), train_dataset=Dataset.from_list(rows),
            value_model=value_model, callbacks=[Watch()],
        )
        trl_adapter.train_quietly(trainer)


def in_turn(precision: str, kind: str, rounds: int, threads: int) -> list[dict]:
    """One row per round and trainer; the order within a round moves on by one each time."""
    spawn = multiprocessing.get_context("spawn")
    lines, processes = {}, []
    for name in TRAINERS:  # one after the other: each makes its first update alone
        lines[name], theirs = spawn.Pipe()
        processes.append(spawn.Process(target=work, daemon=True, args=(
            theirs, name, precision, kind, rounds, threads)))
        processes[-1].start()
        theirs.close()
        answer(lines[name], name)
    rows = []
    for round_ in range(rounds):
        for i in range(len(TRAINERS)):
            name = TRAINERS[(round_ + i) % len(TRAINERS)]
            lines[name].send("your turn")
            rows.append({"trainer": name, "round": round_, **answer(lines[name], name)})
    for line, process in zip(lines.values(), processes, strict=True):
        line.send("the end")
        process.join()
    return rows


def answer(line, name: str) -> dict:
    """What a trainer reports; ends the benchmark if its process has ended."""
    try:
        return line.recv()
    except EOFError:
        raise SystemExit(f"The process of {name!r} has stopped; its error stands above.") from None


def summary(rows: list[dict]) -> dict[str, dict]:
    """Per trainer: medians of its updates and, for ours, TRL's seconds over its own by round."""
    found = {}
    trl = {row["round"]: row for row in rows if row["trainer"] == "TRL"}
    for name in TRAINERS:
        mine = [row for row in rows if row["trainer"] == name]
        found[name] = {key: float(np.median([row[key] for row in mine]))
                       for key in mine[0] if key not in ("trainer", "round")}
        if name != "TRL":
            ratios, cpu = ([trl[row["round"]][key] / row[key] for row in mine]
                           for key in ("seconds", "cpu_seconds"))
            low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
            found[name] |= {"ratio": middle, "ratio_low": low, "ratio_high": high,
                            "cpu_ratio": np.median(cpu)}
    return found


def report(job: Job, title: str, found: dict[str, dict], rate: float) -> None:
    """Print a table of the medians, and where our trainers' time goes."""
    print(f"\n{title}\n{'trainer':<28}{'episodes/s':>11}{'against TRL':>13}{'quartiles':>14}"
          f"{'CPU ratio':>11}{'of peak':>9}")
    prompt = np.mean([*map(len, encode_prompts(job.tokenizer, job.prompts))])
    for name, row in found.items():
        line = f"{name:<28}{BATCH / row['seconds']:>11.1f}"
        if name != "TRL":
            gflop = episode_gflop(job.policy, prompt, row[LENGTH], "separate" in name)
            quartiles = f"{row['ratio_low']:.2f} to {row['ratio_high']:.2f}"
            line += (f"{row['ratio']:>13.2f}{quartiles:>14}{row['cpu_ratio']:>11.2f}"
                     f"{gflop * BATCH / row['seconds'] / rate:>9.0%}")
        print(line, flush=True)
    for name, row in found.items():
        if name != "TRL":
            print(f"{name}: " + ", ".join(f"{part.removesuffix('_seconds')} "
                                          f"{row[part] / row['seconds']:.0%}" for part in PARTS))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = load_profile("embedded")
    course.require("sft", settings)
    job = Job(settings, "natural length")  # its prompts and policy are those of all kinds
    rows, ratios, quartiles, missed = [], {}, {}, 0
    rates = matmul_rates()
    print(f"matrix products with {arguments.threads} threads, GFLOP/s: "
          + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items()))
    for precision in ("float32", "bfloat16"):
        for kind in KINDS:
            new = in_turn(precision, kind, arguments.rounds, arguments.threads)
            found = summary(new)
            report(job, f"responses: {kind}; {precision}", found, rates[precision])
            rows += [{"precision": precision, "responses": kind, **row} for row in new]
            for name, goal in GOALS.items():
                key, row = f"{name}, {kind}, {precision}", found[name]
                ratios[key] = round(row["ratio"], 3)
                quartiles[key] = [round(row["ratio_low"], 3), round(row["ratio_high"], 3)]
                missed += kind == "natural length" and row["ratio"] < goal
    print("stored:", store.save(
        "ppo", rows, ratio=ratios, quartiles=quartiles, goals=GOALS, batch=BATCH, epochs=EPOCHS,
        kinds=KINDS, matmul_gflops={k: round(v, 1) for k, v in rates.items()},
    ).name)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
