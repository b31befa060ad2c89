"""Reward models of real families: windows, soft caps, how a text begins, and how much is read."""

import numpy as np
import pytest
import torch
from families import family_tokenizer, make_family
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    Qwen2Config,
    Starcoder2Config,
)

from helpers import models, reward
from helpers.engine.heads import next_logits
from helpers.engine.place import backbone, inner_model
from helpers.engine.scale import read_as, scale_of
from helpers.engine.tokens import last_tokens
from helpers.profiles import load_profile
from helpers.reward import model as reward_model
from helpers.reward.pairs import collate_pairs, collate_shared

PAIRS = [{"prompt": f"\n\nHuman: Where is the {a} cat, and where is the owl?\n\nAssistant:",
          "chosen": f"The {a} cat sat on the mat, and the owl on the wall of the {b}.",
          "rejected": f"The {b} cat sat on the roof, and nobody has seen the owl since."}
         for a, b in (("old", "young"), ("grey", "quiet"), ("young", "grey"))]
TINY = dict(vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, intermediate_size=16, pad_token_id=0)


def judge(family, folder, **overrides):
    make_family(family, folder)
    tokenizer = models.load_tokenizer(folder)
    torch.manual_seed(0)
    model = models.new_reward_model(folder, tokenizer, load_profile("embedded", overrides))
    return model.eval(), tokenizer


@pytest.mark.parametrize(("config", "shares"), [
    (LlamaConfig(**TINY), True),
    (MistralConfig(**TINY, sliding_window=None), True),
    (MistralConfig(**TINY, sliding_window=8), False),
    (MixtralConfig(**TINY, sliding_window=8, num_local_experts=2), False),
    (Phi3Config(**TINY, sliding_window=8), False),
    (Starcoder2Config(**TINY, sliding_window=8), False),
    (Qwen2Config(**TINY, sliding_window=8), True),  # which does not use it
    (Qwen2Config(**TINY, sliding_window=8, use_sliding_window=True, max_window_layers=0), False),
], ids=lambda value: type(value).__name__ if not isinstance(value, bool) else str(value))
def test_a_window_is_seen_before_prompts_are_shared(config, shares):
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config).eval()
    assert reward.can_share_prompts(model) is shares
    rng = np.random.default_rng(0)
    rows = [{"chosen_ids": list(ids[:20]), "rejected_ids": [*ids[:12], *ids[20:]],
             "prompt_length": 12, "margin": 0.0, "row": i}
            for i, ids in enumerate(rng.integers(1, 64, (3, 30)).tolist())]
    with torch.no_grad():
        apart = reward.pair_rewards(model, collate_pairs(rows, 0))
        together = reward.pair_rewards(model, collate_shared(rows, 0))
    gap = max((a - b).abs().max().item() for a, b in zip(apart, together, strict=True))
    assert (gap < 1e-5) is shares  # what is not allowed would have been wrong


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma", "gemma2", "mistral"])
def test_the_likelihood_is_that_of_the_model_itself(family, tmp_path):
    model, tokenizer = judge(family, tmp_path)
    model.config.tie_word_embeddings = True
    language_model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    language_model.resize_token_embeddings(
        model.get_input_embeddings().num_embeddings, mean_resizing=False)
    language_model.set_output_embeddings(torch.nn.Linear(32, 1, bias=False))
    language_model.get_output_embeddings().weight = model.get_input_embeddings().weight
    backbone(language_model).load_state_dict(backbone(model).state_dict())
    with read_as(model, head_weight=0.0, likelihood_weight=1.0):
        found = np.stack(reward.score_pairs(model, tokenizer, PAIRS))
    for row, pair in enumerate(PAIRS):
        for side, name in enumerate(("chosen", "rejected")):
            prompt, answer = reward.encode_response(tokenizer, pair["prompt"], pair[name])
            with torch.no_grad():
                logits = language_model(torch.tensor([prompt + answer])).logits[0]
            told = logits.log_softmax(-1)[torch.arange(len(prompt) - 1, len(prompt + answer) - 1),
                                          torch.tensor(answer)].mean()
            assert found[side, row] == pytest.approx(told.item(), rel=1e-4)


@pytest.mark.parametrize("frozen", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_likelihood_keeps_its_digits_under_autocast(family, frozen, tmp_path):
    """Logits near -100, where GPT-2's are: neighbours of bfloat16 are half a nat apart there."""
    model, _ = judge(family, tmp_path, dtype=frozen, **{"models.lora": frozen == "bfloat16"})
    weight = inner_model(model).get_input_embeddings().weight
    assert weight.dtype == getattr(torch, frozen)
    torch.manual_seed(1)
    hidden = torch.randn(6, 32).bfloat16().float()  # as a backbone under autocast makes them
    hidden[:, 0], weight.data[:, 0] = 10, -10
    hidden.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        told = reward.next_token_logprobs(model, hidden, torch.arange(6))
    exact = (hidden.double() @ weight.double().T).log_softmax(-1).diagonal()
    assert told.dtype == torch.float32
    torch.testing.assert_close(told.double(), exact, rtol=0, atol=1e-4)
    gradients = [torch.autograd.grad(values.sum(), hidden)[0] for values in (told, exact)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-3)


@pytest.mark.parametrize("family", ["gpt_neox", "qwen2", "gemma2"])
@pytest.mark.parametrize("lora", [False, True])
def test_logits_of_given_states_are_the_models_own(family, lora, tmp_path):
    make_family(family, tmp_path)
    settings = load_profile("embedded", {"models.base": str(tmp_path), "models.lora": lora})
    model, _ = models.load_base(settings, trains=True)
    ids = torch.arange(5, 17)[None]
    with torch.no_grad():
        hidden = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state[0]
        torch.testing.assert_close(next_logits(model, hidden), model(input_ids=ids).logits[0])


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma"])
def test_a_cut_prompt_still_begins_as_the_tokenizer_begins_it(family):
    tokenizer = family_tokenizer(family)
    [whole] = reward.encode_pairs(tokenizer, PAIRS[:1], 200)
    size = whole["length"] - 9
    [cut] = reward.encode_pairs(tokenizer, PAIRS[:1], size)
    assert cut["cut"] == 9 and cut["length"] == size
    if family == "gpt2":
        assert cut["chosen_ids"] == whole["chosen_ids"][9:]
    else:
        assert cut["chosen_ids"] == [tokenizer.bos_token_id, *whole["chosen_ids"][10:]]
        assert cut["rejected_ids"].count(tokenizer.bos_token_id) == 1
    end = last_tokens(tokenizer, whole["chosen_ids"], 20)
    assert len(end) == 20 and (end[0] == tokenizer.bos_token_id) == (family != "gpt2")
    assert end[1:] == whole["chosen_ids"][-19:]


@pytest.mark.parametrize("known", [True, False])
def test_no_text_is_read_beyond_the_limit_of_training(known, tmp_path, monkeypatch):
    """A Llama has room for 131,072 tokens; a batch of such texts has not."""
    model, tokenizer = judge("llama", tmp_path, **{"reward.max_length": 40})
    model.config.max_position_embeddings = 131_072
    monkeypatch.setattr(reward_model, "AT_LEAST", 30)
    monkeypatch.setattr(reward_model, "UNTRAINED", 60)
    assert scale_of(model).max_length == 40
    scale_of(model).max_length = 40 if known else None
    seen = []
    backbone(model).register_forward_pre_hook(
        lambda module, args, given: seen.append(given["input_ids"].shape[1]), with_kwargs=True)
    long = [{**pair, "prompt": pair["prompt"] * 9} for pair in PAIRS]
    reward.score_pairs(model, tokenizer, long)
    reward.score(model, tokenizer, [p["prompt"] for p in long], [p["chosen"] for p in long])
    assert set(seen) == {40 if known else 60}
    seen.clear()
    reward.score(model, tokenizer, [long[0]["prompt"]], [long[0]["chosen"]], max_length=50)
    assert seen == [50]
