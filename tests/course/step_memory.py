"""Two steps of training a model of random weights, and the most memory that they took.

    python tests/course/step_memory.py SHAPE TASK WAY ROWS LENGTH

Prints megabytes (2**20 bytes) of resident memory above what the process held once its libraries
were loaded and a tiny model of the same kind had been trained.
"""

import contextlib
import ctypes
import gc
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    GPT2Config,
    LlamaConfig,
)

from benchmarks.shared.memory import out_of_file
from helpers.course import plan
from helpers.course.execute import Memory, tree_memory

TINY = {"gpt2": plan.Architecture("gpt2", 1, 64, 256, 4, 4, 500, 128),
        "llama": plan.Architecture("llama", 1, 64, 256, 4, 4, 500)}


def config(shape, task):
    """The configuration of transformers that has this shape, without dropout."""
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if task == "score":
        ids["num_labels"] = 1
    if shape.family == "gpt2":
        return GPT2Config(
            vocab_size=shape.vocabulary, n_positions=shape.positions, n_embd=shape.width,
            n_layer=shape.layers, n_head=shape.heads, n_inner=shape.inner, resid_pdrop=0,
            embd_pdrop=0, attn_pdrop=0, **ids)
    return LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, tie_word_embeddings=shape.tied,
        max_position_embeddings=512, **ids)


def in_nf4(model):
    """The same model with its matrices in four bits."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        model = out_of_file(type(model).from_pretrained(
            folder, attn_implementation=model.config._attn_implementation,
            quantization_config=BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.float32)))
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # repacking forbids a second step
    return model


def ready(shape, task, way):
    """The model as `helpers/course/plan.py` counts it, ready to train."""
    auto = AutoModelForCausalLM if task == "text" else AutoModelForSequenceClassification
    model = auto.from_config(
        config(shape, task), attn_implementation="eager" if way.scores else None)
    if way.nf4:
        model = in_nf4(model)
    if way.rank:
        from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

        if way.nf4:
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        model = get_peft_model(model, LoraConfig(
            task_type="CAUSAL_LM" if task == "text" else "SEQ_CLS", r=way.rank,
            lora_alpha=2 * way.rank, target_modules="all-linear",
            modules_to_save=["score"] if task == "score" else None))
    if way.checkpointing:
        model.gradient_checkpointing_enable()
    return model.train()


def train(model, shape, task, way, rows, length, steps=2):
    """Steps of AdamW; the second one has the moments that the first one makes."""
    ids = torch.randint(5, shape.vocabulary, (rows, length))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=way.autocast):
            if task == "text":
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            else:
                chosen, rejected = model(input_ids=ids, use_cache=False).logits.chunk(2)
                loss = -torch.nn.functional.logsigmoid(chosen - rejected).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def give_back():
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def main(shape, task, way, rows, length):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tiny = TINY[shape.family]
    train(ready(tiny, task, way), tiny, task, way, 2, 8)
    give_back()
    before = tree_memory(os.getpid())
    model = ready(shape, task, way)
    give_back()
    with Memory(os.getpid(), every=0.003) as memory:
        train(model, shape, task, way, rows, length)
    print(json.dumps({"megabytes": (memory.peak - before) / 2**20}))


if __name__ == "__main__":
    name, task_, way_, rows_, length_ = sys.argv[1:]
    main(plan.ARCHITECTURES[name], task_, plan.Way(**json.loads(way_)), int(rows_), int(length_))
