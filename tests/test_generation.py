"""Sampling: padding, randomness, the reported log-probabilities, and early removal of rows."""

import copy
import math

import pytest
import torch
from families import FAMILIES, family_tokenizer
from support import gpt2, numbered_words, pieces_tokenizer
from torch.profiler import profile

from helpers import generation
from helpers.engine.tokens import decode, encode_prompts
from helpers.errors import UserError


@pytest.fixture(scope="module")
def tokenizer():
    return numbered_words(20)


@pytest.fixture(scope="module")
def policy(tokenizer):
    return gpt2(tokenizer, n_positions=32, initializer_range=0.3)


PROMPTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10", "w11 w12", "w1 w2 w3"]


def rebuilt_logprobs(policy, rollout, row, temperature=1.0):
    """Log-probabilities of one response from one unpadded forward pass in float64."""
    prompt = rollout.prompt_ids[row][rollout.prompt_mask[row].bool()]
    response = rollout.response_ids[row][rollout.response_mask[row].bool()]
    double = type(policy)(policy.config).double().eval()
    double.load_state_dict(policy.state_dict())
    with torch.no_grad():
        logits = double(torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(1, response[:, None]).squeeze(1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_reported_logprobs_are_those_of_an_unpadded_pass(policy, tokenizer, temperature):
    rollout = generation.sample(policy, tokenizer, PROMPTS, 12, temperature, seed=1)
    for row in range(len(PROMPTS)):
        real = rollout.response_mask[row].bool()
        expected = rebuilt_logprobs(policy, rollout, row, temperature)
        assert torch.allclose(rollout.logprobs[row][real].double(), expected, atol=1e-5)
        assert (rollout.logprobs[row][~real] == 0).all()


def test_the_same_seed_gives_the_same_responses_and_another_seed_others(policy, tokenizer):
    one = generation.sample(policy, tokenizer, PROMPTS, 12, seed=1)
    again = generation.sample(policy, tokenizer, PROMPTS, 12, seed=1)
    other = generation.sample(policy, tokenizer, PROMPTS, 12, seed=2)
    assert one.texts == again.texts
    assert one.texts != other.texts


def test_a_model_that_has_sampled_under_autocast_can_be_trained_there(policy, tokenizer):
    """Sampling must leave nothing behind that refuses gradients: no tensor of inference mode, no
    weight that was cast without a graph."""
    model = copy.deepcopy(policy)
    with torch.autocast("cpu", torch.bfloat16):
        rollout = generation.sample(model, tokenizer, PROMPTS, 6, seed=0)
        logits = model(input_ids=rollout.response_ids).logits
        (logits.float().logsumexp(-1) * rollout.logprobs).sum().backward()
    assert all(p.grad is not None for p in model.transformer.h.parameters())


def test_under_autocast_weights_are_cast_once_and_not_for_every_token(policy, tokenizer):
    head = list(policy.get_output_embeddings().weight.shape)

    def casts(tokens):
        with torch.autocast("cpu", torch.bfloat16), profile(record_shapes=True) as record:
            rollout = generation.sample(policy, tokenizer, PROMPTS, tokens, seed=1)
        assert rollout.response_ids.shape[1] == tokens
        return sum(event.count for event in record.key_averages(group_by_input_shape=True)
                   if event.key == "aten::_to_copy" and event.input_shapes[:1] == [head])

    assert casts(8) == casts(1) == 1


def test_a_response_does_not_depend_on_its_neighbours(policy, tokenizer):
    together = generation.sample(policy, tokenizer, PROMPTS, 12, seed=1)
    apart = generation.sample(policy, tokenizer, PROMPTS, 12, seed=1, batch_size=1)
    noise = generation.uniform_noise(len(PROMPTS), 12, seed=1)
    half = generation.sample(policy, tokenizer, PROMPTS[3:], 12, noise=noise[3:])
    assert together.texts == apart.texts
    assert together.texts[3:] == half.texts
    assert torch.allclose(together.logprobs, apart.logprobs, atol=1e-5)


def test_end_of_text_is_inside_the_mask_and_nothing_follows_it(policy, tokenizer):
    rollout = generation.sample(policy, tokenizer, PROMPTS * 20, 12, seed=3)
    assert 0 < rollout.finished.sum() < len(rollout)
    for row in range(len(rollout)):
        length = int(rollout.lengths[row])
        ids = rollout.response_ids[row]
        assert (ids[length:] == tokenizer.pad_token_id).all()
        assert (ids[: length - 1] != tokenizer.eos_token_id).all()
        assert bool(rollout.finished[row]) == bool(ids[length - 1] == tokenizer.eos_token_id)
        if not rollout.finished[row]:
            assert length == 12


def test_texts_hold_no_special_tokens(policy, tokenizer):
    rollout = generation.sample(policy, tokenizer, PROMPTS * 5, 12, seed=3)
    assert not any("<|end|>" in text or "<|pad|>" in text for text in rollout.texts)


def test_prompts_are_padded_on_the_left(policy, tokenizer):
    rollout = generation.sample(policy, tokenizer, PROMPTS, 2, seed=1)
    assert rollout.prompt_mask[:, -1].all()
    assert rollout.prompt_mask.sum(1).tolist() == [3, 1, 6, 2, 3]
    assert generation.position_ids(rollout.prompt_mask)[1].tolist() == [0, 0, 0, 0, 0, 0]
    assert generation.position_ids(rollout.prompt_mask)[0].tolist() == [0, 0, 0, 0, 1, 2]


def test_the_full_distribution_is_sampled():
    """Frequencies of 200,000 draws lie within four standard errors of the softmax."""
    logits = torch.tensor([2.0, 0.0, -1.0, -6.0])
    n = 200_000
    tokens, logprobs = generation.draw(logits.expand(n, 4), generation.uniform_noise(1, n, 5)[0])
    p = logits.softmax(-1)
    for token in range(4):
        share = (tokens == token).float().mean().item()
        error = math.sqrt(p[token] * (1 - p[token]) / n)
        assert abs(share - p[token].item()) < 4 * error
    assert torch.allclose(logprobs, p.log()[tokens])


def test_an_impossible_token_is_never_drawn():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]])
    for uniform in (0.0, 0.5, 1 - 2**-24):
        assert generation.draw(logits, torch.tensor([uniform]))[0].item() == 1


def test_temperature_zero_is_greedy(policy, tokenizer):
    one = generation.sample(policy, tokenizer, PROMPTS, 8, temperature=0, seed=1)
    two = generation.sample(policy, tokenizer, PROMPTS, 8, temperature=0, seed=2)
    assert one.texts == two.texts


def test_dropout_is_off_while_sampling_and_the_mode_is_restored(policy, tokenizer):
    policy.train()
    rollout = generation.sample(policy, tokenizer, PROMPTS, 12, seed=1)
    assert policy.training
    policy.eval()
    assert generation.sample(policy, tokenizer, PROMPTS, 12, seed=1).texts == rollout.texts


def test_pad_equal_to_eos_is_refused(policy, tokenizer):
    import copy

    broken = copy.deepcopy(tokenizer)
    broken.pad_token = broken.eos_token
    with pytest.raises(UserError, match="pad_token"):
        generation.sample(policy, broken, PROMPTS, 4)


@pytest.mark.parametrize("prompts", [[], ["w1", ""], ["w1", None]])
def test_prompts_that_are_missing_or_empty_are_refused(policy, tokenizer, prompts):
    with pytest.raises(UserError, match="rompt"):
        generation.sample(policy, tokenizer, prompts, 4)


def test_a_prompt_beyond_the_models_positions_is_refused_with_its_row(policy, tokenizer):
    with pytest.raises(UserError, match="Prompt 1 has 30 tokens"):
        generation.sample(policy, tokenizer, ["w1", " ".join(["w2"] * 30)], 4)


# ---------------------------------------------------------------------------- tokenizers of others


def split_at(tokenizer, text, cut):
    """Ids of a text, as a prompt of `cut` tokens and the response that follows it."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids[:cut], ids[cut:]


def test_a_response_keeps_the_space_that_it_begins_with():
    tokenizer = pieces_tokenizer()
    prompt, response = split_at(tokenizer, "This film was great", 3)
    assert tokenizer.decode(response) == "great"  # what decoding alone makes of it
    assert decode(tokenizer, [prompt], [response]) == [" great"]
    assert decode(tokenizer, [prompt, prompt], [[], [*response, tokenizer.eos_token_id]]) == [
        "", " great"]


@pytest.mark.parametrize("cut", range(1, 8))
@pytest.mark.parametrize("make", [pieces_tokenizer, lambda: family_tokenizer("gpt2")])
def test_prompt_and_response_together_are_the_text_wherever_it_is_cut(make, cut):
    """Also in the middle of a character that is spelt in several bytes."""
    tokenizer, text = make(), "Ths \u20ac \U0001f600 \u00e9"
    prompt, response = split_at(tokenizer, text, cut)
    (after,) = decode(tokenizer, [prompt], [response])
    (before,) = tokenizer.batch_decode([prompt])
    assert before.replace("\ufffd", "") + after == text
    assert decode(tokenizer, [[]], [prompt + response]) == [text]


def test_bytes_that_make_no_character_are_those_of_decoding_alone():
    """GPT-2's texts are what they were: an untrained model writes pieces of characters."""
    tokenizer = family_tokenizer("gpt2")
    prompts = tokenizer(["The old cat", "A"], add_special_tokens=False)["input_ids"] * 100
    ids = torch.randint(0, len(tokenizer), (200, 9), generator=torch.Generator().manual_seed(0))
    alone = tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert any("\ufffd" in text for text in alone)
    assert decode(tokenizer, prompts, ids.tolist()) == alone


def test_an_id_that_the_embedding_has_and_no_token_leaves_nothing_in_the_text():
    tokenizer = family_tokenizer("qwen2")
    prompt, response = split_at(tokenizer, "The old cat", 2)
    beyond = len(tokenizer) + 3
    assert decode(tokenizer, [prompt], [[beyond, *response, beyond]]) == decode(
        tokenizer, [prompt], [response])


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_begin_as_the_tokenizer_begins_a_text(name):
    tokenizer = family_tokenizer(name)
    texts = ["The old cat", "A fox"]
    assert encode_prompts(tokenizer, texts) == tokenizer(texts)["input_ids"]
    starts = encode_prompts(tokenizer, texts)[0][0] == tokenizer.bos_token_id
    assert starts == (name in ("llama", "mistral", "gemma", "gemma2"))


def test_a_prompt_that_spells_out_the_first_token_has_one_all_the_same_and_no_end_behind_it():
    from tokenizers import processors

    tokenizer = family_tokenizer("llama")
    plain = tokenizer("The cat", add_special_tokens=False)["input_ids"]
    (spelt,) = encode_prompts(tokenizer, ["<s>The cat"])
    assert spelt[0] == tokenizer.bos_token_id and tokenizer.bos_token_id not in spelt[1:]
    assert tokenizer.decode(spelt, skip_special_tokens=True) == "<s>The cat"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[
            ("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)])
    assert encode_prompts(tokenizer, ["The cat"]) == [[tokenizer.bos_token_id, *plain]]
