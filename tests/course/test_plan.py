"""The memory plan, against transformers' own counts and against memory as it is measured."""

import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest
import step_memory
import torch

from benchmarks.shared.memory import measure_alone
from helpers.course import doctor, execute, plan
from helpers.errors import UserError
from helpers.profiles import load_profile

GB = 2**30
SCRIPT = Path(__file__).with_name("step_memory.py")
WAYS = {"full": plan.Way(), "LoRA": plan.Way(rank=16), "NF4": plan.Way(rank=16, nf4=True)}


def reference_config(shape):
    """The same shape as a configuration of transformers."""
    from transformers import (
        DistilBertConfig,
        GemmaConfig,
        GPT2Config,
        GPTNeoConfig,
        GPTNeoXConfig,
        LlamaConfig,
        Qwen2Config,
    )

    if shape.family == "gpt2":
        return GPT2Config(vocab_size=shape.vocabulary, n_positions=shape.positions,
                          n_embd=shape.width, n_layer=shape.layers, n_head=shape.heads)
    if shape.family == "distilbert":
        return DistilBertConfig(vocab_size=shape.vocabulary, dim=shape.width,
                                hidden_dim=shape.inner, n_layers=shape.layers, n_heads=shape.heads,
                                num_labels=2)
    if shape.family == "gpt_neo":
        return GPTNeoConfig(
            vocab_size=shape.vocabulary, max_position_embeddings=shape.positions,
            hidden_size=shape.width, intermediate_size=shape.inner, num_layers=shape.layers,
            num_heads=shape.heads, attention_types=[[["global"], shape.layers]])
    if shape.family == "gpt_neox":
        return GPTNeoXConfig(
            vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.inner,
            num_hidden_layers=shape.layers, num_attention_heads=shape.heads)
    kind = Qwen2Config if shape.qkv_bias else LlamaConfig
    more = {}
    if shape.head_width:
        kind, more = GemmaConfig, {"head_dim": shape.head_width}
    return kind(**more, vocab_size=shape.vocabulary, hidden_size=shape.width,
                intermediate_size=shape.inner, num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
                tie_word_embeddings=shape.tied)


def on_meta(shape, task):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    config = reference_config(shape)
    if task == "score":
        config.num_labels = 1
    auto = AutoModelForCausalLM if task == "text" else AutoModelForSequenceClassification
    with torch.device("meta"):
        return auto.from_config(config)


@pytest.mark.parametrize("name", sorted(plan.ARCHITECTURES))
def test_parameters_are_those_that_transformers_makes(name):
    shape = plan.ARCHITECTURES[name]
    tasks = ("sentiment",) if shape.family == "distilbert" else ("text", "score")
    for task in tasks:
        assert shape.parameters(task) == sum(p.numel() for p in on_meta(shape, task).parameters())
    read = plan.from_config(reference_config(shape).to_dict())
    assert replace(read, head_width=shape.head_width) == replace(shape, stored=plan.FLOAT)
    assert read.query_width == shape.query_width


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta"])
def test_classifiers_of_the_bert_family_are_counted(kind):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(kind, hidden_size=96, num_hidden_layers=3, intermediate_size=200,
                                  num_attention_heads=4, vocab_size=500, num_labels=2)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    assert plan.from_config(config.to_dict()).parameters("sentiment") == sum(
        p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "tied"), [("google/gemma-2b", True),
                                            ("HuggingFaceTB/SmolLM2-135M", False)])
def test_what_a_file_leaves_out_is_what_transformers_takes_for_it(name, tied):
    config = reference_config(plan.ARCHITECTURES[name]).to_dict()
    del config["tie_word_embeddings"]
    assert plan.from_config(config).tied is tied


@pytest.mark.parametrize("name", [
    "openai-community/gpt2", "Qwen/Qwen2.5-1.5B", "EleutherAI/gpt-neo-125m",
    "EleutherAI/pythia-160m", "google/gemma-7b"])
def test_adapters_are_those_that_peft_makes(name):
    from peft import LoraConfig, get_peft_model

    shape = plan.ARCHITECTURES[name]
    model = get_peft_model(on_meta(shape, "text"), LoraConfig(r=16, target_modules="all-linear"))
    assert shape.adapters(16) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def saved_bytes(shape, way, layers):
    """Bytes that PyTorch saves for the way back through so many layers, beyond the weights."""
    from transformers import AutoModel

    config = reference_config(replace(shape, layers=layers))
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "resid_dropout", "embed_dropout",
                 "attention_dropout"):
        setattr(config, name, 0.0)
    if way.scores:
        config._attn_implementation = "eager"
    model = AutoModel.from_config(config).train()
    if way.nf4:
        model = step_memory.in_nf4(model)
    if way.rank:
        from peft import LoraConfig, get_peft_model

        model = model.to(torch.bfloat16) if way.frozen == plan.HALF else model
        model = get_peft_model(model, LoraConfig(r=way.rank, target_modules="all-linear"))
    weights = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes(), tensor  # held, or its place is used again
        return tensor

    with (torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
          torch.autocast("cpu", torch.bfloat16, enabled=way.autocast)):
        model(input_ids=torch.zeros(ROWS, LENGTH, dtype=torch.long), use_cache=False)
    return sum(size for size, _ in seen.values())


ROWS, LENGTH = 4, 96


@pytest.mark.parametrize("shape", [
    plan.Architecture("gpt2", 1, 128, 512, 4, 4, 100, 128),
    plan.Architecture("llama", 1, 128, 512, 4, 4, 100),
    plan.Architecture("llama", 1, 128, 640, 4, 1, 100, qkv_bias=True),
    plan.Architecture("llama", 1, 128, 640, 4, 1, 100, head_width=64),
    plan.Architecture("gpt_neo", 1, 128, 512, 4, 4, 100, 128),
    plan.Architecture("gpt_neox", 1, 128, 512, 4, 4, 100, tied=False),
], ids=["gpt2", "llama", "qwen2", "gemma", "gpt_neo", "gpt_neox"])
@pytest.mark.parametrize("way", [
    plan.Way(), plan.Way(autocast=True), plan.Way(autocast=True, scores=True), plan.Way(rank=8),
    plan.Way(rank=8, autocast=True), plan.Way(rank=8, autocast=True, scores=True),
    plan.Way(rank=8, autocast=True, frozen=plan.HALF), plan.Way(rank=8, nf4=True),
    plan.Way(rank=8, nf4=True, autocast=True),
    plan.Way(rank=8, nf4=True, autocast=True, scores=True)],
    ids=["full", "full16", "full16scores", "lora", "lora16", "lora16scores", "lora16half", "nf4",
         "nf416", "nf416scores"])
def test_a_layer_keeps_what_pytorch_saves(shape, way):
    """Activations, and the 16-bit copies of matrices that the way back needs."""
    two, four = (saved_bytes(shape, way, layers) for layers in (2, 4))
    told = plan.activation_bytes(shape, way, ROWS, LENGTH) + plan.copied(shape, way)
    assert told == pytest.approx((four - two) / 2, rel=0.05)


def planned(name, task, way, rows, length):
    shape = plan.ARCHITECTURES[name]
    logits = 3 * plan.FLOAT * rows * length * shape.vocabulary if task == "text" else 0
    return plan.peak(plan.trained("model", shape, task, way, rows, length, logits))


MEASURED = [
    *(("openai-community/gpt2", task, way) for task in ("text", "score") for way in WAYS.values()),
    ("HuggingFaceTB/SmolLM2-135M", "text", plan.Way()),
    ("HuggingFaceTB/SmolLM2-135M", "score", plan.Way(checkpointing=True)),
    *(("HuggingFaceTB/SmolLM2-135M", "score", replace(way, autocast=True, scores=True))
      for way in WAYS.values()),
]


# With the instructions that PyTorch is told to leave alone taken as not there.
BF16 = torch.backends.cpu.get_cpu_capability().startswith("AVX512") and doctor.cpu_bf16()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["text", "score"])
def test_the_plan_is_what_training_takes(task):
    """Full size (124 M and 135 M), random weights, two steps on a CPU; in turn, each alone.

    A CPU's allocator gives freed memory back (`measure_alone`); CUDA's keeps blocks for later, and
    needs more than this by what it cannot reuse.
    """
    rows, length, found = 4, 128, {}
    for name, kind, way in MEASURED:
        if way.autocast and not BF16:
            continue  # emulated, a step of it takes minutes; the plan is the same on any machine
        if kind == task:
            arguments = name, kind, json.dumps(vars(way)), rows, length
            megabytes = measure_alone(str(SCRIPT), *arguments)["megabytes"]
            told = planned(name, kind, way, rows, length) / 2**20
            found[name, way] = megabytes
            print(f"{name} {kind} {way}: {megabytes:.0f} MB measured, {told:.0f} planned")
            assert told == pytest.approx(megabytes, rel=0.2), (name, way)
    full, lora, nf4 = (found["openai-community/gpt2", way] for way in WAYS.values())
    assert full > lora > nf4


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpo", "rloo"])
def test_the_plan_is_what_trls_trainers_of_notebook_08_take(method):
    """SmolLM2's size, random weights, two steps on a CPU, with the reference."""
    name, rows, prompt, response = "HuggingFaceTB/SmolLM2-135M", 4, 48, 48
    megabytes = measure_alone(str(SCRIPT.with_name("trl_memory.py")), name, method, rows, prompt,
                              response)["megabytes"]
    length = prompt + response
    told = plan.peak(plan.with_trl(
        plan.ARCHITECTURES[name], plan.Way(), rows, length,
        length if method == "dpo" else response)) / 2**20
    print(f"{method}: {megabytes:.0f} MB measured, {told:.0f} planned")
    assert told == pytest.approx(megabytes, rel=0.2)


@pytest.mark.parametrize("name", ["openai-community/gpt2", "Qwen/Qwen2.5-7B"])
@pytest.mark.parametrize("task", ["text", "score"])
def test_full_takes_more_than_lora_and_lora_more_than_four_bits(name, task):
    full, lora, nf4 = (planned(name, task, way, 2, 64) for way in WAYS.values())
    assert full > lora > nf4


@pytest.mark.parametrize(("profile", "memory", "half"), [
    ("gpt2", 15, False), ("gpt2", 15, True), ("a100", 39, True)])
@pytest.mark.parametrize("stage", plan.STAGES)
def test_a_profile_fits_the_gpu_it_is_meant_for(profile, memory, half, stage):
    """Of a T4's 16 GB and an A100's 40 a program sees 15 and 39."""
    settings = load_profile(profile)
    assert plan.peak(plan.plan(settings, stage, half=half)) < plan.USABLE * memory * GB


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("stage", plan.STAGES)
def test_smollm2_fits_a_laptop_of_8_gb(stage, autocast):
    components = plan.plan(load_profile("smollm2"), stage, autocast=autocast, on_cpu=True)
    assert plan.peak(components) < 6 * GB  # the system, Python and its libraries have the rest


def test_what_the_large_profile_asks_for_is_what_makes_it_fit():
    """Without four bits, or without checkpointing, the reward model does not fit 40 GB."""
    for change in ({"models.quantise": "none"}, {"models.gradient_checkpointing": False}):
        settings = load_profile("a100", change)
        stages = [plan.peak(plan.plan(settings, stage, half=True)) for stage in plan.STAGES]
        if "models.gradient_checkpointing" in change:
            assert max(stages) > 39 * GB
        else:
            assert max(stages) > 1.3 * max(
                plan.peak(plan.plan(load_profile("a100"), stage, half=True))
                for stage in plan.STAGES)


@pytest.mark.parametrize("stage", ["ppo", "beyond_ppo"])
def test_with_adapters_no_second_policy_is_held(stage):
    full, lora = (plan.plan(load_profile("gpt2", {"models.lora": lora}), stage)
                  for lora in (False, True))
    assert "reference" in {c.model for c in full}
    assert "reference" not in {c.model for c in lora}


def test_with_twice_the_pairs_notebook_08_would_not_fit():
    """Nor with a larger judge notebook 10: the sizes in the profiles are what makes them fit."""
    def needs(profile, stage, changes, **how):
        return plan.peak(plan.plan(load_profile(profile, changes), stage, **how))

    laptop = {"autocast": False, "on_cpu": True}
    assert needs("gpt2", "beyond_ppo", {"preference.rows": 16}) > plan.USABLE * 15 * GB
    assert needs("smollm2", "beyond_ppo", {"preference.rows": 8}, **laptop) > 6 * GB
    assert needs("smollm2", "own_feedback", {"models.judge": "Qwen/Qwen2.5-1.5B-Instruct"},
                 **laptop) > 6 * GB


def test_the_judge_is_held_beside_the_model_that_is_judged():
    alone, two = (plan.plan(load_profile("a100", {
        "models.judge": judge, "reward.max_length": 3072}), "own_feedback", half=True)
        for judge in ("sft", "Qwen/Qwen2.5-7B-Instruct"))
    # without a judge, asking all policies is the fullest: two at a time, and that of the labels
    assert {"policy", "other policy", "next policy"} <= {c.model for c in alone}
    assert ("AI judge", "weights") not in {(c.model, c.what) for c in alone}
    [weights] = [c for c in two if (c.model, c.what) == ("AI judge", "weights")]
    assert weights.bytes == pytest.approx(15.2e9, rel=0.01)  # bfloat16, at every moment
    assert weights.when == plan.MOMENTS


def test_what_is_read_at_once_is_what_the_code_reads():
    from helpers import evaluation
    from helpers.reward import active, model

    assert plan.LOGITS_AT_ONCE == evaluation.LOGITS == active.LOGITS
    assert plan.FEATURES_LENGTH == model.UNTRAINED
    assert plan.FEATURES_AT_ONCE == inspect.signature(
        active.features).parameters["batch_size"].default
    for number, said in (("09", f"batch_size={plan.ASKED_AT_ONCE}"),
                         ("10", f"longest={plan.JUDGED_TEXTS} * settings.reward.max_length")):
        path = execute.notebooks()[number]
        assert said in path.read_text(encoding="utf-8"), number


def test_a_model_of_unknown_shape_is_one_sentence(tmp_path):
    settings = load_profile("embedded", {"models.base": "someone/something"})
    with pytest.raises(UserError, match="someone/something cannot be planned"):
        plan.plan(settings, "sft")
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(UserError, match="model_type is 'mamba'"):
        plan.architecture(str(tmp_path), settings)
    with pytest.raises(UserError, match="choose one of sft"):
        plan.plan(settings, "rlhf")


def test_the_embedded_profile_has_a_plan_too():
    for stage in plan.STAGES:
        assert 0 < plan.peak(plan.plan(load_profile(), stage)) < 4 * GB


def test_weights_on_disk_are_counted_in_their_own_precision():
    assert plan.model_bytes_on_disk("HuggingFaceTB/SmolLM2-135M") == pytest.approx(269e6, rel=0.01)
    assert plan.model_bytes_on_disk("Qwen/Qwen2.5-7B") == pytest.approx(15.2e9, rel=0.01)
    assert plan.model_bytes_on_disk("someone/something") is None
