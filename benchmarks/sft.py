"""Fine-tuning on the demonstrations: speed of five ways to run it, and what changes the result.

    python benchmarks/sft.py [--only speed rate epochs data lora masks] [--most 1] [--anew]

Needs no stage. A run takes a minute or less and is stored at once; what is stored is not run again
unless `--anew`, and `--most` stops after so many.

`speed`: the loop of notebook 03 as it stands in its cell, `SFTTrainer` as TRL sets it, `SFTTrainer`
with rows grouped by length (the course's `train_sft`), packed by TRL, and a short loop over packed
rows, in turn, at one precision and, but for the last, with one attention, in one pass over the same
rows (the notebook's draws with replacement: its tokens are its own). `leak` is how far any token's
log-probability in a packed batch is from the one in its own document alone, in nats, in float32,
against 0 for exact masks.

The other parts train with `train_sft`, but for `masks`, which takes the notebook's loop. Losses are
means over tokens of responses, in nats: `held_out` on rows that nobody trains on, `on_train` on a
fixed part of the training rows, both in `curve` too, by rows read. `precision` is what the products
of that run were made in, found out by trying as everywhere in the course.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainerCallback

from benchmarks.shared import memory, store
from helpers import course, data, generation, models, sft
from helpers.course import execute
from helpers.engine.packing import Layout, packed_attention
from helpers.engine.place import (
    backbone,
    mixed_precision,
    one_device,
    plain_attention,
    reuse_memory,
    without_wrappers,
)
from helpers.paths import ROOT

NOTEBOOK = ROOT / "notebooks" / "03_supervised_fine_tuning.ipynb"
ROWS = 2000  # of the training rows, half of what the notebook takes
SPEED_ROWS, ROUNDS = 192, 2
PACK = 256  # tokens of one of TRL's packs
HELD_OUT, WATCHED, ANSWERS = 250, 100, 128  # rows of held-out loss, of training loss, answers
MOMENTS = 5
FEW = 200  # rows that are read many times


class Job:
    """Rows, settings and a fresh base model for every run."""

    def __init__(self, threads: int, seed: int = 0, **overrides: Any) -> None:
        self.seed = seed
        self.settings = course.start("embedded", {"threads": threads, **overrides}, seed)
        _, self.tokenizer = self.model()
        self.train, self.held_out = (
            sft.short_rows(self.tokenizer, data.load_demonstrations(self.settings, split),
                           self.settings.sft.max_length) for split in ("train", "validation"))
        self.train, self.held_out = self.train[:ROWS], self.held_out[:HELD_OUT]
        self.bf16 = mixed_precision(self.settings)
        self.precision = "bfloat16" if self.bf16 else "float32"

    def model(self) -> tuple[Any, Any]:
        """The base model with its tokenizer, with adapters where the settings want them."""
        return models.load_base(self.settings, trains=True)

    def autocast(self) -> torch.autocast:
        """The profile's precision, for a whole loop too: with a cache, products would go on using
        the weights as they were when the block began."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bf16, cache_enabled=False)


class Losses(TrainerCallback):
    """Losses on rows held out and rows trained on, a few times in a run."""

    def __init__(self, job: Job, rows: Sequence[dict], every: int = 0) -> None:
        self.job, self.rows, self.total = job, rows[:WATCHED], len(rows)
        self.every, self.curve = every, []
        self.seconds = 0.0  # of the measuring itself

    def measure(self, model: Any, rows_read: int) -> None:
        start, training = time.process_time(), model.training
        losses = [sft.response_loss(model, self.job.tokenizer, some)
                  for some in (self.job.held_out, self.rows)]
        model.train(training)
        self.curve = [point for point in self.curve if point[0] != rows_read]
        self.curve.append([rows_read, *(round(x, 4) for x in losses)])
        self.seconds += time.process_time() - start

    def on_step_end(self, args, state, control, model=None, **_):
        every = self.every or max(1, state.max_steps // MOMENTS)
        if state.global_step % every == 0:
            self.measure(model, round(state.epoch * self.total))  # the last batch may be short


def notebook_loop(tokenizer: Any, seed: int, encode: Callable = sft.encode_example) -> Callable:
    """`fine_tune` of notebook 03, out of its cell; `encode` stands in for `encode_example`."""
    [source] = [text for text in execute.sources(execute.read_notebook(NOTEBOOK))
                if "def fine_tune(" in text]
    names: dict[str, Any] = {
        "torch": torch, "F": F, "pad_sequence": pad_sequence, "LambdaLR": LambdaLR,
        "tokenizer": tokenizer, "seed": seed, "device": torch.device("cpu"),
        "IGNORED": sft.IGNORED, "encode_example": encode}
    exec(compile(source, NOTEBOOK.name, "exec"), names)  # noqa: S102
    return names["fine_tune"]


def by_notebook(job: Job, model: Any, rows: list[dict]) -> int:
    """The loop of the notebook; the tokens it read."""
    counted = []

    def encode(*parts):
        ids, labels = sft.encode_example(*parts)
        counted.append(len(ids))
        return ids, labels

    size = job.settings.sft.batch_size
    with job.autocast():
        notebook_loop(job.tokenizer, job.seed, encode)(
            model, rows, len(rows) // size, size, job.settings.sft.learning_rate)
    return sum(counted)


def by_trl(job: Job, model: Any, rows: list[dict], packed: bool = False) -> Any:
    """`SFTTrainer` with TRL's defaults beside rate, batch and precision; or with its packing."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

    task = job.settings.sft
    table = Dataset.from_list([sft._tokens(job.tokenizer, row) for row in rows])
    tokens = sum(map(len, table["input_ids"]))
    # so many packs that a step reads about the tokens of `batch_size` rows
    more = {"packing": True, "max_length": PACK, "activation_checkpointing": False,
            "gradient_checkpointing": False} if packed else {}
    batch = task.batch_size
    if packed:
        batch = max(1, round(batch * tokens / len(rows) / PACK))
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, seed=job.seed, num_train_epochs=1, learning_rate=task.learning_rate,
            per_device_train_batch_size=batch, bf16=job.bf16, completion_only_loss=True,
            use_cpu=True, eos_token=cast(str, job.tokenizer.eos_token), report_to="none",
            save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False, **more)
        trainer = SFTTrainer(model=model, args=one_device(config), train_dataset=table,
                             processing_class=job.tokenizer)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    without_wrappers(model).eval()
    return trainer


def by_packed_loop(job: Job, model: Any, rows: list[dict]) -> int:
    """The course's packing: rows of one step in one row, and logits where a label counts."""
    size, task = job.settings.sft.batch_size, job.settings.sft
    encoded = [sft.encode_example(job.tokenizer, r["prompt"], r["response"]) for r in rows]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(job.seed)).tolist()
    steps = [order[start : start + size] for start in range(0, len(order), size)]
    optimiser = torch.optim.AdamW(model.parameters(), lr=task.learning_rate)
    rate = LambdaLR(optimiser, lambda i: min((i + 1) / (0.1 * len(steps)), 1 - i / len(steps)))
    model.train()
    with packed_attention(model):
        for step in steps:
            some = sorted((encoded[i] for i in step), key=lambda row: len(row[0]))
            ids, layout, labels = packed(some)
            with job.autocast():
                hidden = backbone(model)(input_ids=ids, position_ids=layout.positions,
                                         use_cache=False, layout=layout).last_hidden_state[0]
                counts = labels != sft.IGNORED
                logits = model.get_output_embeddings()(hidden[counts])
            F.cross_entropy(logits.float(), labels[counts]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            rate.step()
            optimiser.zero_grad()
    model.eval()
    return sum(len(ids) for ids, _ in encoded)


def packed(
    some: Sequence[tuple[list[int], list[int]]]
) -> tuple[torch.Tensor, Layout, torch.Tensor]:
    """ids (1, N), their layout, and for each place the label of the next token (N,)."""
    ids = torch.tensor([list(itertools.chain.from_iterable(ids for ids, _ in some))])
    labels = [y for _, row in some for y in [*row[1:], sft.IGNORED]]
    return ids, Layout([len(ids) for ids, _ in some], groups=4), torch.tensor(labels)


@torch.no_grad()
def leak(model: Any, documents: Sequence[Sequence[int]], together: Callable) -> float:
    """Largest difference of a document's logits, packed and alone, in nats of log-probability."""
    found = together([*documents]).log_softmax(-1).split([len(d) for d in documents])
    alone = [model(input_ids=torch.tensor([list(d)])).logits[0].log_softmax(-1) for d in documents]
    return max(float((a - b).abs().max()) for a, b in zip(alone, found, strict=True))


def leaks(job: Job) -> dict[str, float]:
    """How exact the document masks of both packings are, and of a row without any."""
    model, _ = job.model()
    model.eval()
    documents = [sft.encode_example(job.tokenizer, r["prompt"], r["response"])[0]
                 for r in job.train[:8]]
    row = torch.tensor([list(itertools.chain.from_iterable(documents))])
    places = torch.cat([torch.arange(len(d)) for d in documents])[None]

    def ours(some):
        with packed_attention(model):
            hidden = backbone(model)(input_ids=row, position_ids=places, use_cache=False,
                                     layout=Layout([len(d) for d in some])).last_hidden_state
        return model.get_output_embeddings()(hidden)[0]

    plain_attention(model)  # as train_sft sets it; TRL hands over positions and no mask
    return {
        "packed loop": leak(model, documents, ours),
        "SFTTrainer, packed": leak(model, documents, lambda _: model(
            input_ids=row, position_ids=places, use_cache=False).logits[0]),
        "one row, no document masks": leak(model, documents, lambda _: model(
            input_ids=row, attention_mask=torch.ones_like(row), position_ids=places,
            use_cache=False).logits[0])}


def speed(threads: int) -> list[dict]:
    """Five ways in turn, `ROUNDS` times over the same rows; processor time."""
    job = Job(threads, **{"sft.epochs": 1})
    rows, held = job.train[:SPEED_ROWS], job.held_out
    tokens = sum(len(sft.encode_example(job.tokenizer, r["prompt"], r["response"])[0])
                 for r in rows)

    def grouped(_, model, some):
        sft.train_sft(model, job.tokenizer, some, job.settings, seed=job.seed)

    ways: dict[str, Callable] = {
        "notebook's loop": by_notebook, "SFTTrainer, defaults": by_trl,
        "SFTTrainer, grouped": grouped,
        "SFTTrainer, packed": functools.partial(by_trl, packed=True),
        "packed loop": by_packed_loop}
    reuse_memory()
    found: dict[str, dict] = {}
    for turn in range(ROUNDS + 1):  # the first round warms up, on a part of the rows
        for name, way in ways.items():
            model, _ = job.model()
            if job.bf16 and name != "packed loop":  # which brings its own attention
                plain_attention(model)
            wall, start = time.perf_counter(), time.process_time()
            read = way(job, model, rows if turn else rows[:64])
            if not turn:
                continue
            row = found.setdefault(name, {"part": "speed", "way": name, "cpu": [], "seconds": [],
                                          "precision": job.precision})
            row["cpu"].append(round(time.process_time() - start, 2))
            row["seconds"].append(round(time.perf_counter() - wall, 2))
            row["rows"], row["tokens"] = len(rows), read if isinstance(read, int) else tokens
            row["held_out"] = round(sft.response_loss(model, job.tokenizer, held), 4)
    exact = leaks(job)
    return [{**row, "leak": exact.get(name),
             "tokens_per_second": round(row["tokens"] / float(np.median(row["cpu"])))}
            for name, row in found.items()] + [
        {"part": "speed", "way": "one row, no document masks",
         "leak": exact["one row, no document masks"]}]


def trained(job: Job, part: str, name: str, rows: list[dict], epochs: int, every: int = 0) -> dict:
    """One run of `train_sft` from the base model."""
    model, tokenizer = job.model()
    watch = Losses(job, rows, every)
    watch.measure(model, 0)
    watch.seconds, start = 0.0, time.process_time()
    sft.train_sft(model, tokenizer, rows, job.settings, seed=job.seed, callbacks=[watch])
    used = time.process_time() - start - watch.seconds
    watch.measure(model, len(rows) * epochs)
    return {"part": part, "name": name, "seed": job.seed, "rows": len(rows), "epochs": epochs,
            "learning_rate": job.settings.sft.learning_rate, "held_out": watch.curve[-1][1],
            "on_train": watch.curve[-1][2], "cpu_seconds": round(used, 1), "curve": watch.curve,
            "precision": job.precision}


def rate(threads: int, value: float, seed: int) -> dict:
    """One epoch at one learning rate."""
    job = Job(threads, seed, **{"sft.learning_rate": value, "sft.epochs": 1})
    return trained(job, "rate", f"{value:g}", job.train, 1)


def epochs(threads: int, times: int) -> dict:
    """Many times over few rows, measured after each."""
    job = Job(threads, **{"sft.epochs": times})
    rows = job.train[:FEW]
    return trained(job, "epochs", f"{times} epochs", rows, times,
                   every=-(-len(rows) // job.settings.sft.batch_size))


def part_of_rows(threads: int, times: int) -> dict:
    """A part of the rows, with as many steps as all of them take."""
    job = Job(threads, **{"sft.epochs": times})
    return trained(job, "data", f"1/{times} of the rows", job.train[: len(job.train) // times],
                   times)


def alone(kind: str, learning_rate: float, seed: int, threads: int) -> dict:
    """A run of all weights or of adapters in this process: losses, sizes, peak of the memory."""
    job = Job(threads, seed, **{"models.lora": kind == "LoRA", "sft.epochs": 1,
                                "sft.learning_rate": learning_rate})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    row = trained(job, "lora", kind, job.train, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    model, _ = job.model()
    counted = models.count_parameters(model)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        size = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
    return {**row, "trainable": counted["trainable"], "parameters": counted["total"],
            "saved_bytes": size, "peak_bytes_more": peak * (1024 if sys.platform == "linux" else 1),
            "optimiser_bytes": 3 * 4 * counted["trainable"]}  # gradient, two averages, float32


def lora(threads: int, kind: str, learning_rate: float, seed: int = 0) -> dict:
    """The same in a process of its own."""
    return memory.measure_alone(
        __file__, "--alone", kind, learning_rate, seed, "--threads", threads)


def everything(*parts: Any) -> tuple[list[int], list[int]]:
    """`encode_example` without the mask of the prompt."""
    ids, _ = sft.encode_example(*parts)
    return ids, ids


MASKS: dict[str, tuple[Callable, bool]] = {
    "answer": (sft.encode_example, True), "everything": (everything, True),
    "answer without its end": (sft.encode_example, False)}


def masks(threads: int, name: str) -> dict:
    """One mask in the notebook's loop: the answer, everything, the answer without its end."""
    job, (encode, stop) = Job(threads), MASKS[name]
    model, tokenizer = job.model()
    size, steps = job.settings.sft.batch_size, len(job.train) // job.settings.sft.batch_size
    with job.autocast():
        notebook_loop(tokenizer, job.seed, encode)(
            model, job.train, steps, size, job.settings.sft.learning_rate, stop)
    answers = generation.sample(model, tokenizer, [r["prompt"] for r in job.held_out[:ANSWERS]],
                                job.settings.ppo.max_new_tokens, seed=job.seed)
    return {"part": "masks", "name": name, "seed": job.seed, "rows": steps * size,
            "precision": job.precision,
            "held_out": round(sft.response_loss(model, tokenizer, job.held_out), 4),
            "finished": round(float(answers.finished.float().mean()), 4), "answers": ANSWERS}


RUNS: dict[str, tuple[Callable[..., Any], list[tuple]]] = {
    "speed": (speed, [()]), "epochs": (epochs, [(10,)]),
    "lora": (lora, [("full", 1e-3), ("LoRA", 1e-3), ("LoRA", 5e-3), ("full", 1e-3, 1),
                    ("LoRA", 1e-3, 1), ("full", 1e-3, 2), ("LoRA", 1e-3, 2)]),
    "masks": (masks, [(name,) for name in MASKS]),
    "rate": (rate, [(3e-4, 0), (3e-3, 0)]),  # 1e-3 is lora's "full"
    "data": (part_of_rows, [(2,), (4,)])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--most", type=int, default=100, help="runs in this call")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--anew", action="store_true", help="forget what is stored of these parts")
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)  # kind, rate, seed
    arguments = parser.parse_args()
    if arguments.alone:
        kind, value, seed = arguments.alone
        print(json.dumps(alone(kind, float(value), int(seed), arguments.threads)))
        return 0
    rows = (store.load("sft") or {"rows": []})["rows"]
    if arguments.anew:
        rows = [row for row in rows if row["part"] not in arguments.only]
    waiting = [(part, run) for part in arguments.only for run in RUNS[part][1]
               if not any((row["part"], row["run"]) == (part, [*run]) for row in rows)]
    for part, run in waiting[: arguments.most]:
        found = RUNS[part][0](arguments.threads, *run)
        new = [{**row, "run": [*run], "commit": store.commit()}
               for row in (found if isinstance(found, list) else [found])]
        rows += new
        for row in new:
            print({k: v for k, v in row.items() if k not in ("curve", "commit")}, flush=True)
        store.save("sft", rows, threads=torch.get_num_threads())
    return 0


if __name__ == "__main__":
    sys.exit(main())
