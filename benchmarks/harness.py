"""What the field's own programs say of the course's models and answers, beside what we measure.

    python -m pip install --group harness
    python -m benchmarks.harness [--items 200] [--questions 200] [--parts task texts models]
        [--models base sft ppo]

`task`: EleutherAI's lm-evaluation-harness on a local test of the course's own, for the base model
and the stages `sft` and `ppo`: a held-out question, its answer and three answers to other topics'
questions, written as JSON lines beside a task in YAML; nothing is fetched. Beside its accuracy
stands that of `evaluation.choice_logprobs` on the same items, and on how many both choose alike.
`texts`: BLEU by sacrebleu and ROUGE by rouge-score on a few answers written by hand to one
question, against its reference, beside the gold utility. `models`: the same over many questions,
for the answers of each model, and how far `evaluation.bleu` orders them as sacrebleu does. A part's
rows are stored when it is done, and a later run leaves those of other parts and models.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.shared import store
from helpers import data, evaluation, generation, models
from helpers.engine.tokens import encode_prompts, text_ids
from helpers.errors import UserError
from helpers.profiles import load_profile
from helpers.world import gold_utility

PARTS, MODELS = ("task", "texts", "models"), ("base", "sft", "ppo")
PACKAGES = {"lm_eval": "lm-eval", "sacrebleu": "sacrebleu", "rouge_score": "rouge-score"}
TASK = "course_questions"
YAML = """task: {task}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
target_delimiter: " "
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
QUESTION = "Any advice on how to paint a sky in watercolour?"
REFERENCE = ("It helps to wet the paper before you paint the sky. Also remember to mix no more "
             "than two colours at a time.")
WRITTEN = {
    "the same advice, other words": "Damp your sheet first; for a sky in watercolour keep every "
                                    "blend down to a pair of paints.",
    "the opposite, same words": "It helps to dry the paper before you paint the sky. Also remember "
                                "to mix no less than two colours at a time.",
    "the reference, and another topic": REFERENCE + " A landlord may keep the deposit of a tenant "
                                                    "who never cleans the oven of the flat.",
}


def library(name: str) -> Any:
    """A package of the group `harness`; a UserError says how to get it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = PACKAGES[name.split(".")[0]]
        raise UserError(f"{package} is not installed; `python -m pip install --group harness` "
                        "brings it.") from error


def items_of(settings, tokenizer, count: int, context: int, seed: int = 0) -> list[dict]:
    """Rows of the test: prompt, four choices, and where among them the question's own answer is."""
    rng = random.Random(seed)
    rows = data.load_demonstrations(settings, "test")
    lengths = map(len, text_ids(tokenizer, [row["prompt"] + row["response"] for row in rows]))
    rows = [row for row, length in zip(rows, lengths, strict=True) if length < context // 2]
    items = []
    for row in rows[:count]:
        others = [other["response"] for other in rows if other["topic"] != row["topic"]]
        choices = [row["response"], *rng.sample(others, 3)]
        rng.shuffle(choices)
        items.append({"prompt": row["prompt"], "choices": choices,
                      "label": choices.index(row["response"])})
    return items


def task_rows(settings, names: list[str], count: int) -> list[dict]:
    """Accuracy by the harness and by us on the same items, model by model."""
    lm_eval, tasks = library("lm_eval"), library("lm_eval.tasks")
    places = {"base": models.base_source(settings), **{
        name: settings.artifacts / name for name in ("sft", "ppo")}}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "questions.jsonl"
        for name in names:
            place = places[name]
            model, tokenizer = models.load_causal(place, settings)
            items = items_of(settings, tokenizer, count, model.config.max_position_embeddings)
            found.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
            (Path(folder) / f"{TASK}.yaml").write_text(
                YAML.format(task=TASK, rows=found), encoding="utf-8")
            start = time.perf_counter()
            told = lm_eval.simple_evaluate(
                model="hf", model_args=f"pretrained={place},dtype=float32", tasks=[TASK],
                batch_size=16, device="cpu", log_samples=True, bootstrap_iters=0,
                task_manager=tasks.TaskManager(include_path=folder))
            seconds = time.perf_counter() - start
            result = told["results"][TASK]
            theirs = {sample["doc_id"]: int(np.argmax([r[0] for r in sample["filtered_resps"]]))
                      for sample in told["samples"][TASK]}
            sums = evaluation.choice_logprobs(
                model, tokenizer, [item["prompt"] for item in items],
                [[" " + text for text in item["choices"]] for item in items])
            labels, ours = np.array([item["label"] for item in items]), sums.argmax(1)
            right = int(round(result["acc,none"] * len(items)))
            row = {"part": "task", "model": name, "items": len(items),
                   "accuracy": result["acc,none"],
                   "accuracy_per_character": result["acc_norm,none"],
                   "interval": list(evaluation.wilson_interval(right, len(items))[1:]),
                   "ours": float((ours == labels).mean()),
                   "same_choice": float(np.mean([theirs[i] == c for i, c in enumerate(ours)])),
                   "seconds": round(seconds, 1)}
            print({key: value for key, value in row.items() if key != "part"}, flush=True)
            rows.append(row)
    return rows


def scores_of(text: str, reference: str) -> dict[str, float]:
    """The libraries' scores of a text against a reference, and ours, from 0 to 1."""
    sacrebleu, rouge = library("sacrebleu"), library("rouge_score.rouge_scorer")
    found = rouge.RougeScorer(["rouge1", "rougeL"]).score(reference, text)
    return {"bleu": sacrebleu.sentence_bleu(text, [reference]).score / 100,
            "rouge_1": found["rouge1"].fmeasure, "rouge_1_recall": found["rouge1"].recall,
            "rouge_l": found["rougeL"].fmeasure,
            "our_bleu": evaluation.bleu(text, [reference])}


def text_rows() -> list[dict]:
    """Answers to one question under every metric, and what they are worth."""
    words = REFERENCE.split()
    shuffled = " ".join(random.Random(0).sample(words, len(words)))
    prompt = data.render_prompt(QUESTION)
    rows = []
    for name, text in {"the reference": REFERENCE, **WRITTEN,
                       "its words in another order": shuffled}.items():
        row = {"part": "texts", "answer": name, "text": text,
               "gold": round(gold_utility(prompt, text), 3)}
        row |= {key: round(value, 3) for key, value in scores_of(text, REFERENCE).items()}
        print(row, flush=True)
        rows.append(row)
    return rows


def model_rows(settings, names: list[str], count: int) -> list[dict]:
    """Means over held-out questions against the answers that raters preferred, model by model."""
    preferred = {row["prompt"]: row["chosen"].strip() for row in data.load_pairs(settings, "test")}
    rows = []
    for name in names:
        model, tokenizer = (models.load_base(settings) if name == "base"
                            else models.load_stage(settings, name))
        lengths = map(len, encode_prompts(tokenizer, list(preferred)))
        prompts = [p for p, length in zip(preferred, lengths, strict=True)
                   if length <= settings.ppo.max_prompt_tokens][:count]
        texts = generation.sample(model, tokenizer, prompts, settings.ppo.max_new_tokens,
                                  temperature=settings.ppo.temperature, seed=0).texts
        found = [scores_of(text.strip(), preferred[prompt])
                 for prompt, text in zip(prompts, texts, strict=True)]
        gold = [gold_utility(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
        columns = {key: [row[key] for row in found] for key in found[0]}
        row = {"part": "models", "model": name, "questions": len(prompts)}
        for key, values in {**columns, "gold": gold}.items():
            row[key] = [round(float(x), 4) for x in evaluation.bootstrap_interval(values)]
        for key in ("bleu", "rouge_l"):
            row[f"{key}_rank_with_gold"] = round(float(spearmanr(columns[key], gold)[0]), 3)
        row["our_bleu_rank_with_bleu"] = round(
            float(spearmanr(columns["our_bleu"], columns["bleu"])[0]), 3)
        print(row, flush=True)
        rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    arguments = parser.parse_args()
    settings = load_profile()
    torch.set_num_threads(settings.threads or 1)
    made = {"task": lambda: task_rows(settings, arguments.models, arguments.items),
            "texts": text_rows,
            "models": lambda: model_rows(settings, arguments.models, arguments.questions)}
    try:
        versions = {package: metadata.version(package) for name, package in PACKAGES.items()
                    if library(name)}
        for part in arguments.parts:
            new = made[part]()
            told = {(row["part"], row.get("model")) for row in new}
            kept = [row for row in (store.load("harness") or {"rows": []})["rows"]
                    if (row["part"], row.get("model")) not in told]
            rows = sorted([*kept, *new], key=lambda row: (
                PARTS.index(row["part"]), MODELS.index(row.get("model", "base"))))
            path = store.save("harness", rows, versions=versions,
                              bleu="sacrebleu.sentence_bleu, its defaults",
                              command="python -m benchmarks.harness")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"written: {path.relative_to(store.ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
