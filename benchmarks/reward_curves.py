"""What a reward model's accuracy depends on: pairs, noise, loss, order of training, adapters.

    python benchmarks/reward_curves.py [--studies pairs noise …] [--seeds 0 1 2]

Every run starts from the shipped `sampler`, a model fine-tuned as in notebook 03, and is judged on
the same held-out pairs of the embedded world by the true preference probabilities. The reward model
is a head on the last token; the study `likelihood` adds what notebook 04 adds. Runs named here
replace their stored rows; the others stay, as long as model and data are the same. Seconds are
processor seconds over threads in use.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.shared.reward_bench import SOURCE, Bench, Row
from benchmarks.shared.store import load, save
from helpers import comparison, data, models, reward
from helpers.course import session
from helpers.engine import sources

SIZES = (250, 1000, 4000)  # notebook 04 itself adds the point of all pairs
NOISE = (0.0, 0.2, 0.4)
MIDDLE = 1000  # pairs of the studies that vary something else than their number
MARGIN = 0.5
Study = Callable[[Bench, int], Iterator[Row]]


# --- the studies: each yields its rows for one seed -------------------------------------------


def pairs_study(bench: Bench, seed: int) -> Iterator[Row]:
    """The learning curve, beside word counts fitted on the same pairs."""
    for count in [n for n in SIZES if n <= len(bench.train)] or SIZES[:1]:
        pairs = bench.some(count, seed)
        yield {"arm": "reward model"} | bench.run(bench.model(seed), pairs, seed)
        words = reward.bag_of_words_margins(pairs, bench.test)
        yield {"arm": "bag of words", "pairs": len(pairs)} | bench.judge(words)


def noise_study(bench: Bench, seed: int) -> Iterator[Row]:
    """A share of the labels turned round, in training and validation alike."""
    for share in NOISE:
        pairs = flipped(bench.some(MIDDLE, seed), share, seed)
        yield {"arm": f"{share:.0%}", "share": share} | bench.run(bench.model(seed), pairs, seed)


def flipped(pairs: list[Row], share: float, seed: int) -> list[Row]:
    """The pairs with the labels of a random `share` of them turned round."""
    rng = random.Random(seed)
    turned = set(rng.sample(range(len(pairs)), round(share * len(pairs))))
    return [
        row | {"chosen": row["rejected"], "rejected": row["chosen"]} if i in turned else row
        for i, row in enumerate(pairs)
    ]


def losses_study(bench: Bench, seed: int) -> Iterator[Row]:
    """Three losses, one of them with two kinds of margin, on the same comparisons with ties."""
    judged = comparison.simulated_comparisons(bench.some(MIDDLE, seed), seed)
    held_out = comparison.simulated_comparisons(bench.test, seed)
    validation = comparison.simulated_comparisons(bench.validation, seed)
    winners = [row["winner"] for row in held_out]
    decided = comparison.as_pairs(judged)
    share = {w: sum(row["winner"] == w for row in judged) / len(judged)
             for w in comparison.WINNERS}
    guess = np.tile([(share["a"] + share["b"]) / 2] * 2 + [share["tie"]], (len(winners), 1))
    yield {"arm": "knowing only how often ties are", "pairs": len(judged),
           "log_loss": round(comparison.log_loss(guess, winners), 4)}
    for arm, pairs, margin in (
        ("Bradley–Terry", decided, 0.0),
        ("constant margin", decided, MARGIN),
        ("margin from scores", data.with_margins(decided, MARGIN), 0.0),
    ):
        model = bench.model(seed)
        row = bench.run(model, pairs, seed, margin=margin)
        tie = comparison.fit_tie(bench.margins(model, validation),
                                 [r["winner"] for r in validation])
        chances = comparison.davidson(bench.margins(model, held_out), tie)
        yield {"arm": arm} | row | {"log_loss": round(comparison.log_loss(chances, winners), 4)}
    row = classifier_run(bench, judged, validation, held_out, seed)
    yield {"arm": "comparison classifier"} | row


def classifier_run(
    bench: Bench, judged: list[Row], validation: list[Row], held_out: list[Row], seed: int
) -> Row:
    """The comparison classifier on all comparisons, ties included, each in both orders."""
    settings, start = bench.settings.reward, time.process_time()
    torch.manual_seed(seed)
    model = comparison.new_comparison_model(SOURCE, bench.tokenizer, bench.settings)
    with tempfile.TemporaryDirectory() as folder:
        comparison.train_comparison_model(
            model, bench.tokenizer, judged, validation, folder, batch_size=settings.batch_size,
            learning_rate=settings.learning_rate, seed=seed, evaluations=2,
            max_length=model.config.max_position_embeddings, epochs=bench.epochs(len(judged)))
    seconds = (time.process_time() - start) / torch.get_num_threads()
    chances = comparison.compare(model, bench.tokenizer, held_out, 1 << 30)
    winners = [row["winner"] for row in held_out]
    margins = np.log(chances[:, 0] / chances[:, 1])
    return {
        "pairs": len(judged), "seconds": round(seconds, 1),
        **bench.judge(margins * [1 if row["response_a"] == pair["chosen"] else -1
                                 for row, pair in zip(held_out, bench.test, strict=True)]),
        "log_loss": round(comparison.log_loss(chances, winners), 4),
    }


def order_study(bench: Bench, seed: int) -> Iterator[Row]:
    """The same batches of training pairs in three orders, by a plain loop."""
    size = bench.settings.reward.batch_size
    rows = reward.encode_pairs(
        bench.tokenizer, bench.some(MIDDLE, seed), bench.settings.reward.max_length)
    lengths = np.array([reward.shared_length(row) for row in rows])
    orders = {
        "random": np.random.default_rng(seed).permutation(len(rows)),
        "sorted, longest first": np.argsort(-lengths, kind="stable"),
        "grouped": np.array(reward.length_grouped_order(lengths, size, seed)),
    }
    for arm, order in orders.items():
        model, start = bench.model(seed), time.process_time()
        plain_loop(model, [[rows[i] for i in order[k:k + size]]
                           for k in range(0, len(order), size)],
                   bench.tokenizer.pad_token_id, bench.settings.reward)
        seconds = (time.process_time() - start) / torch.get_num_threads()
        yield {"arm": arm, "pairs": len(rows), "seconds": round(seconds, 1),
               "padding": round(reward.padding_share(lengths[order], size), 4),
               **bench.judge(bench.score(model))}


def plain_loop(model, batches: list[list[Row]], pad: int, settings) -> None:
    """One pass of AdamW over batches in the order given: warm-up, then cosine decay."""
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=0.01)
    warm = max(1, settings.warmup_share * len(batches))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(
        (step + 1) / warm, (1 + math.cos(math.pi * step / len(batches))) / 2))
    model.train()
    for batch in batches:
        loss = reward.bradley_terry_loss(
            *reward.pair_rewards(model, reward.collate_shared(batch, pad)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


def adapters_study(bench: Bench, seed: int) -> Iterator[Row]:
    """Full fine-tuning, LoRA of two ranks, and LoRA on a backbone in 4 bits."""
    arms = {"full": {}} | {f"LoRA, r = {r}": {"lora": True, "lora_r": r, "lora_alpha": 2 * r}
                           for r in (4, 16)}
    arms["QLoRA, r = 16"] = {"lora": True, "lora_r": 16, "lora_alpha": 32, "quantise": "nf4"}
    for arm, settings in arms.items():
        model = bench.model(seed, **settings)
        rate = bench.settings.reward.learning_rate * (4 if settings else 1)
        row = bench.run(model, bench.some(MIDDLE, seed), seed, learning_rate=rate)
        yield {"arm": arm, "trainable": models.count_parameters(model)["trainable"]} | row


def likelihood_study(bench: Bench, seed: int) -> Iterator[Row]:
    """The backbone's likelihood alone, and head and likelihood together, as notebook 04 has them.

    The weight is the fitted one, without the profile's cap. The head alone is in the study `pairs`.
    """
    for count in [n for n in SIZES[1:] if n <= len(bench.train)]:
        pairs, model = bench.some(count, seed), bench.model(seed)
        weight = reward.fit_weight(
            reward.likelihood_margins(model, bench.tokenizer, bench.validation))
        if count == SIZES[1]:  # nothing is learned here, so the number of pairs does not matter
            alone = reward.likelihood_margins(model, bench.tokenizer, bench.test)
            yield {"arm": "likelihood alone", "pairs": 0} | bench.judge(weight * alone)
        reward.use_likelihood(model, weight)
        yield {"arm": "head and likelihood", "weight": round(weight, 2)} | bench.run(
            model, pairs, seed)


STUDIES: dict[str, Study] = {
    "pairs": pairs_study, "noise": noise_study, "losses": losses_study, "order": order_study,
    "adapters": adapters_study, "likelihood": likelihood_study,
}


def made_of(bench: Bench) -> str:
    """Hash of the model, the data and the settings that all rows depend on."""
    digest = hashlib.sha256((SOURCE / "model.safetensors").read_bytes())
    digest.update(sources.fingerprint(bench.settings).encode())
    reward_settings = {k: v for k, v in bench.settings.reward.as_dict().items()
                       if k not in ("eval_pairs", "report_to", "likelihood")}
    digest.update(repr((reward_settings, len(bench.test), bench.scale)).encode())
    return digest.hexdigest()[:16]


def store(bench: Bench, rows: list[Row]) -> Path:
    """Put the new rows in the place of old ones of the same study and seed."""
    old, source = load("reward_curves") or {}, made_of(bench)
    done = {(row["study"], row["seed"]) for row in rows}
    kept = [row for row in old.get("rows", []) if (row["study"], row["seed"]) not in done]
    if old.get("made_of") != source:
        kept = []
    p = np.array([row["probability"] for row in bench.test])
    return save(
        "reward_curves", sorted(kept + rows, key=lambda row: (row["study"], row["seed"])),
        made_of=source, test_pairs=len(bench.test), margin=MARGIN,
        bayes_ceiling=round(float(reward.bayes_ceiling(p).mean()), 4))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", nargs="+", default=list(STUDIES), choices=list(STUDIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the pairs, for a trial; "
                        "stores nothing when below 1")
    arguments = parser.parse_args()
    session.quiet()
    torch.set_num_threads(arguments.threads)
    bench = Bench(arguments.threads, arguments.test, arguments.scale)
    for study in arguments.studies:
        for seed in arguments.seeds:
            rows = []
            for row in STUDIES[study](bench, seed):
                rows.append({"study": study, "seed": seed} | row)
                print(rows[-1], flush=True)
            if arguments.scale >= 1:
                store(bench, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
