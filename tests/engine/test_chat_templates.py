"""Dialogues in a model's own chat template: what is trained on is what the template writes."""

import json

import numpy as np
import pytest
import torch
from families import family_tokenizer, make_family

from helpers import generation, judge, models, reward, sft
from helpers.engine.dialogues import render_prompt
from helpers.engine.tokens import encode_prompts, encode_response, text_ids, use_chat_template
from helpers.errors import UserError
from helpers.profiles import load_profile

ASKS = "{% if add_generation_prompt %}"
CHATML = ("{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n"
          "{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
          "<|im_end|>\n{% endfor %}" + ASKS + "<|im_start|>assistant\n{% endif %}")
TEMPLATES = {  # as public chat models write them, and the token that ends an answer
    "qwen2": (CHATML, "<|im_end|>"),
    "llama": ("{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] "
              "{{ m['content'] }} [/INST]{% elif m['role'] == 'assistant' %} {{ m['content'] }} "
              "{{ eos_token }}{% endif %}{% endfor %}", "</s>"),
    "gemma": ("{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
              "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
              "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
              "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}" + ASKS
              + "<start_of_turn>model\n{% endif %}", "<end_of_turn>"),
}
TURNS = [{"role": "user", "content": "Why is it so?"}, {"role": "assistant", "content": "It is."},
         {"role": "user", "content": "And then?\nSay it."}]
ANSWER = "Then it ends.\nTruly."


def chat_tokenizer(family):
    """A family's tokenizer with its template and the tokens that the template writes."""
    template, end = TEMPLATES[family]
    tokenizer = family_tokenizer(family)
    more = [t for t in ("<|im_start|>", "<start_of_turn>", end)
            if t in template and t not in tokenizer.get_vocab()]
    tokenizer.add_special_tokens({"extra_special_tokens": more})
    tokenizer.chat_template = template
    return tokenizer


def chat_folder(family, folder):
    """A model of a family, its embedding grown by the template's tokens."""
    make_family(family, folder)
    tokenizer = chat_tokenizer(family)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", list(TEMPLATES))
def test_prompt_and_answer_are_what_the_template_writes(family):
    tokenizer = chat_tokenizer(family)
    written = tokenizer.apply_chat_template(
        [*TURNS, {"role": "assistant", "content": ANSWER}], tokenize=False)
    asked = tokenizer.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    use_chat_template(tokenizer)
    end = TEMPLATES[family][1]
    assert tokenizer.eos_token == end
    prompt, answer = encode_response(tokenizer, render_prompt(TURNS), f" {ANSWER}\n")
    assert tokenizer.decode(prompt) == asked
    assert tokenizer.decode(prompt + answer) == written.rstrip("\n")
    assert encode_prompts(tokenizer, [render_prompt(TURNS)]) == [prompt]
    ids, labels = sft.encode_example(tokenizer, render_prompt(TURNS), ANSWER)
    learnt = tokenizer.decode([label for label in labels if label != sft.IGNORED])
    assert learnt.strip() == ANSWER + (" " if family == "llama" else "") + end
    assert ids == prompt + answer and labels[:len(prompt)] == [sft.IGNORED] * len(prompt)


@pytest.mark.parametrize("family", list(TEMPLATES))
def test_what_a_turn_says_is_text_in_a_template_too(family):
    tokenizer, end = chat_tokenizer(family), TEMPLATES[family][1]
    use_chat_template(tokenizer)
    special = tokenizer.convert_tokens_to_ids(end)
    plain = render_prompt("Why? and")
    spelt = render_prompt(f"Why? {end} and")
    counts = [sum(ids.count(special) for ids in encode_response(tokenizer, prompt, answer))
              for prompt, answer in ((plain, "So it is."), (spelt, f"So {end} it is."))]
    assert counts[0] == counts[1] > 0
    assert end in tokenizer.decode(encode_response(tokenizer, spelt, "So.")[0])


def test_a_review_is_no_dialogue_and_stays_as_it_is():
    tokenizer = chat_tokenizer("qwen2")
    before = text_ids(tokenizer, ["A film that", "I saw"])
    use_chat_template(tokenizer)
    assert encode_prompts(tokenizer, ["A film that", "I saw"]) == before
    prompt, answer = encode_response(tokenizer, "A film that", "ends")
    assert prompt == before[0] and tokenizer.decode(answer) == " ends<|im_end|>"


def test_a_template_that_thinks_first_gets_the_answers_own_ids():
    tokenizer = chat_tokenizer("qwen2")
    tokenizer.chat_template = CHATML.replace(
        "assistant\n{% endif %}", "assistant\n<think>\n\n</think>\n{% endif %}")
    use_chat_template(tokenizer)
    prompt, answer = encode_response(tokenizer, render_prompt("Why?"), "So.")
    assert tokenizer.decode(prompt).endswith("</think>\n")
    assert tokenizer.decode(answer) == "So.<|im_end|>"


@pytest.mark.parametrize("template, reason", [
    (None, "has no chat template"),
    ("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", "no special token behind"),
])
def test_a_template_that_cannot_be_used_is_refused_at_once(template, reason, tmp_path):
    make_family("qwen2", tmp_path)
    if template:
        file = tmp_path / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template}))
    settings = load_profile("embedded", {"models.base": str(tmp_path),
                                         "models.chat_template": True})
    with pytest.raises(UserError, match=f"{reason}(?s:.)*models.chat_template=false"):
        models.load_base(settings)


def test_a_dialogue_that_the_template_refuses_is_named():
    tokenizer = chat_tokenizer("gemma")
    use_chat_template(tokenizer)
    turns = [{"role": "system", "content": "Be brief."}, *TURNS]
    with pytest.raises(UserError, match="turns system, user, assistant, user: System role not"):
        encode_prompts(tokenizer, [render_prompt(turns)])


@pytest.mark.parametrize("family", list(TEMPLATES))
def test_a_chat_model_is_tuned_scored_and_sampled_in_its_template(family, tmp_path):
    settings = load_profile("embedded", {
        "models.base": str(chat_folder(family, tmp_path / "base")), "models.chat_template": True,
        "sft.epochs": 3, "sft.batch_size": 4, "sft.max_length": 96, "threads": 1})
    model, tokenizer = models.load_base(settings, trains=True)
    end = tokenizer.convert_tokens_to_ids(TEMPLATES[family][1])
    assert tokenizer.eos_token_id == end != tokenizer.pad_token_id
    rows = [{"prompt": render_prompt(f"Why {word}?"), "response": f"So {word}."}
            for word in "one two three four five six seven eight".split()]
    before = sft.response_loss(model, tokenizer, rows)
    sft.train_sft(model, tokenizer, rows, settings)
    assert sft.response_loss(model, tokenizer, rows) < before
    models.save(model, tokenizer, tmp_path / "tuned")
    again, kept = models.load_causal(tmp_path / "tuned", settings)
    assert encode_prompts(kept, [rows[0]["prompt"]]) == encode_prompts(
        tokenizer, [rows[0]["prompt"]])
    with torch.no_grad():
        again.get_output_embeddings().weight.zero_()  # every token is as likely as every other
    rollout = generation.sample(again, kept, [rows[0]["prompt"]] * 64, 40, 1.0, seed=0)
    sampled = [ids[mask.bool()].tolist() for ids, mask in
               zip(rollout.response_ids, rollout.response_mask, strict=True)]
    ended = [ids for ids in sampled if end in ids]
    assert ended and all(ids.index(end) == len(ids) - 1 for ids in ended)
    scorer = models.new_reward_model(tmp_path / "tuned", kept, settings)
    scores = reward.score(scorer, kept, [r["prompt"] for r in rows], ["So.", *["No."] * 7])
    pairs = [{"prompt": r["prompt"], "chosen": "So.", "rejected": "No."} for r in rows]
    assert len(reward.encode_pairs(kept, pairs, 96)) == 8 and np.isfinite(scores).all()


@pytest.mark.parametrize("family", list(TEMPLATES))
def test_the_judge_of_the_settings_is_asked_in_its_own_template(family, tmp_path):
    """Whatever form the policy's dialogues have, and without changing it."""
    folder = str(chat_folder(family, tmp_path))
    settings = load_profile("embedded", {"models.judge": folder})
    model, tokenizer = judge.load(settings)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert not settings.models.chat_template
    asked = judge.pairwise_prompt("\n\nHuman: Why?\n\nAssistant:", "one", "two")
    turns = [{"role": "user", "content": judge.QUESTION.format(question="Why?", a="one", b="two")}]
    written = chat_tokenizer(family).apply_chat_template(turns, add_generation_prompt=True)
    assert encode_prompts(tokenizer, [asked]) == [written["input_ids"]]
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
