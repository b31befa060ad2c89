"""A stage as a folder of its own: what transformers reads from it, and what its card says."""

import json

import pytest
import torch
import yaml
from support import byte_policy, byte_tokenizer, make_scorer, numbered_words
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)

from helpers import profiles
from helpers.course import cli, export
from helpers.engine import artifacts
from helpers.engine.dialogues import render_prompt
from helpers.engine.tokens import encode_prompts
from helpers.errors import UserError

TALK = [{"role": "user", "content": " How do I sleep? "}, {"role": "assistant", "content": "Well."},
        {"role": "user", "content": "And then?"}]


@pytest.fixture
def settings(tmp_path):
    return profiles.load_profile("embedded", {"out": str(tmp_path)})


@pytest.fixture
def policy(settings):
    tokenizer = byte_tokenizer()
    model = byte_policy(tokenizer)
    artifacts.save_stage("sft", settings, model, tokenizer, {"val_loss": 1.23456})
    artifacts.save_stage("ppo", settings, model, tokenizer, {"kl": 6.25}, parents=["sft"])
    return model, tokenizer


def test_the_folder_is_the_stage_and_is_asked_as_it_was_trained(settings, policy, tmp_path):
    model, tokenizer = policy
    folder = export.export(settings, "ppo", tmp_path / "mine")
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name]), name
    own = AutoTokenizer.from_pretrained(folder)
    asked = own.apply_chat_template(TALK, add_generation_prompt=True, tokenize=False)
    assert asked == render_prompt(TALK)
    ids = own(asked, add_special_tokens=False)["input_ids"]
    assert ids == encode_prompts(tokenizer, [asked])[0]
    drawn = GenerationConfig.from_pretrained(folder)
    assert drawn.do_sample and drawn.temperature == settings.ppo.temperature
    assert drawn.max_new_tokens == settings.ppo.max_new_tokens


def test_the_card_says_what_the_stage_says(settings, policy, tmp_path):
    folder = export.export(settings, "ppo", tmp_path / "mine")
    text = (folder / "README.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head) == {"library_name": "transformers", "tags": ["rlhf"],
                                    "pipeline_tag": "text-generation"}
    info = artifacts.stage_info("ppo", settings)
    assert info["hash"] in body and info["parents"]["sft"] in body and "| kl | 6.25 |" in body
    for key, value in info["settings"].items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        assert f"| {key} | {shown} |" in body
    assert str(tmp_path) not in text


def test_a_policy_in_memory_is_exported_whole_with_its_adapters_merged(settings, policy, tmp_path):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = policy
    plain = {name: weight.clone() for name, weight in model.state_dict().items()}
    config = LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False,
                        fan_in_fan_out=True, task_type="CAUSAL_LM")
    folder = export.export_model(settings, get_peft_model(model, config), tokenizer,
                                 tmp_path / "mine", "session", {"labels": 90}, ["sft"])
    assert not (folder / "adapter_config.json").exists()
    loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    moved = {name for name, weight in plain.items() if not torch.equal(weight, loaded[name])}
    assert moved and all("c_attn" in name for name in moved)
    drawn = GenerationConfig.from_pretrained(folder)
    assert drawn.temperature == settings.ppo.temperature
    assert AutoTokenizer.from_pretrained(folder).chat_template == export.TEMPLATE
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "DPO on the labels of one session" in text and "| labels | 90 |" in text
    assert artifacts.stage_hash("sft", settings) in text
    with pytest.raises(UserError, match="is there already"):
        export.export_model(settings, model, tokenizer, folder, "session", {})


def test_a_base_from_the_hub_is_named_in_the_cards_head():
    info = {"stage": "sft", "profile": "gpt2", "seed": 0, "made_at": "today", "hash": "abc",
            "settings": {"models.base": "openai-community/gpt2@607a30d"}}
    head = yaml.safe_load(export.card(info).split("---\n", 2)[1])
    assert head["base_model"] == "openai-community/gpt2"


def test_a_reward_model_keeps_its_head_and_gets_no_template(settings, tmp_path):
    tokenizer = numbered_words(30)
    model = make_scorer(tokenizer)
    artifacts.save_stage("reward_model", settings, model, tokenizer)
    folder = export.export(settings, "reward_model", tmp_path / "judge")
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert torch.equal(loaded.score.weight, model.score.weight)
    assert not (folder / "chat_template.jinja").exists()
    assert "pipeline_tag: text-classification" in (folder / "README.md").read_text()


def test_a_template_of_its_own_stays(settings, policy, tmp_path):
    stage = settings.artifacts / "ppo"
    model, tokenizer = policy
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    artifacts.save_stage("ppo", settings, model, tokenizer)
    assert (stage / "chat_template.jinja").exists()
    folder = export.export(settings, "ppo", tmp_path / "mine")
    assert (folder / "chat_template.jinja").read_text() == "{{ messages[0]['content'] }}"


def test_nothing_is_overwritten_and_nothing_half_is_left(settings, policy, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="is there already"):
        export.export(settings, "ppo", taken)
    assert [path.name for path in taken.iterdir()] == ["mine.txt"]
    (settings.artifacts / "ppo" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="damaged.*not exported"):
        export.export(settings, "ppo", tmp_path / "new")
    with pytest.raises(UserError, match="stage ppo_trl is not there.*--notebooks 06"):
        export.export(settings, "ppo_trl", tmp_path / "new")
    with pytest.raises(UserError, match="no stage is called"):
        export.export(settings, "pp", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written_is_one_sentence(settings, policy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="folder of its path is a file"):
        export.export(settings, "sft", tmp_path / "file" / "new")


def test_the_command_prints_where_it_is(settings, policy, tmp_path, capsys):
    target = tmp_path / "mine"
    assert cli.run(cli.parse(["export", "sft", str(target), "--out", str(tmp_path)])) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert json.loads((target / "config.json").read_text())["model_type"]
