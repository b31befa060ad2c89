"""What a text says is text: no tokenizer turns what it spells out into an end, a pad or a start."""

import copy
import json

import numpy as np
import pytest
import torch
from families import FAMILIES, family_tokenizer
from support import TEXTS, make_scorer, pieces_tokenizer, word_tokenizer
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers import models as inner_models
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

from helpers import data, evaluation, models, reward, sft
from helpers import trl_adapter as ta
from helpers.engine.class_logits import class_logits
from helpers.engine.tokens import (
    bos_in_front,
    decode,
    encode_prompts,
    encode_response,
    encode_whole,
    read_as_text,
    text_ids,
)
from helpers.generation import sample
from helpers.profiles import load_profile
from helpers.scratch import pack

SPELT = ("<|endoftext|>", "<|pad|>", "<|im_end|>", "<|im_start|>", "</s>", "<s>", "<unk>", "<pad>",
         "<|begin_of_text|>", "<|eot_id|>", "<bos>", "<eos>", "<end_of_turn>", "[SEP]", "[CLS]",
         "[PAD]", "<\uff5cend\u2581of\u2581sentence\uff5c>")
HELD_AS_WORDS = {"<|im_end|>", "<e>", SPELT[-1]}  # control tokens that are not marked as special


def chat_model():
    """Control tokens of a chat model, one of them (as in some folders) not marked as special."""
    tokenizer = family_tokenizer("qwen2", chat=True)
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    tokenizer.add_tokens([*HELD_AS_WORDS, "aspirin"])
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>"]})
    return tokenizer


def unigram():
    """As T5 and XLM-R have them: the special tokens are pieces, and the likeliest of all."""
    letters = sorted({c for c in "".join([*TEXTS, *SPELT, "fine more"]) if c != " "})
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -3.0),
                  *((letter, -5.0) for letter in letters if letter != "\u2581")]
    inner = Tokenizer(inner_models.Unigram(vocabulary, unk_id=3))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>",
                                   pad_token="<pad>", unk_token="<unk>")


def whole_words():
    """A vocabulary of words in which the end of text is a word like others."""
    tokenizer = word_tokenizer("fine more".split(), eos="</s>", pad="<pad>", unk="<unk>")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def legacy_llama():
    """Llama 2 and Mistral as they were converted: a space mark is put before whatever comes."""
    tokenizer = pieces_tokenizer()
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = None
    backend.normalizer = normalizers.Sequence([
        normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return tokenizer


def stories(real_data):
    tokenizer = AutoTokenizer.from_pretrained(real_data / "models" / "stories260k")
    models.prepare_tokenizer(tokenizer, None)
    return tokenizer


def real_gpt2(real_data):
    tokenizer = GPT2Tokenizer.from_pretrained(real_data / "tokenizers" / "gpt2")
    models.prepare_tokenizer(tokenizer, None)
    return tokenizer


def family(name):
    def make():
        tokenizer = family_tokenizer(name)
        models.prepare_tokenizer(tokenizer, None)
        return tokenizer
    return make


def embedded(name):
    return lambda: AutoTokenizer.from_pretrained(models.EMBEDDED / name)


MAKERS = {name: family(name) for name in FAMILIES} | {
    "chat model": chat_model, "unigram": unigram, "whole words": whole_words,
    "pieces": pieces_tokenizer, "legacy llama": legacy_llama, "embedded": embedded("base"),
    "embedded classifier": embedded("classifier")}
REAL = {"stories260k": stories, "real GPT-2": real_gpt2}
LOSSY = {"whole words", "embedded classifier", "pieces", "legacy llama"}  # unknown, lower case


@pytest.fixture(params=[*MAKERS, *REAL])
def tokenizer(request):
    if request.param in REAL:
        made = REAL[request.param](request.getfixturevalue("real_data"))
    else:
        made = MAKERS[request.param]()
    made.kind = request.param
    return made


def control(tokenizer):
    """Ids that no text may have, by hand: all that is special, but for the unknown."""
    special = {i for i, t in tokenizer.added_tokens_decoder.items()
               if t.special or t.content in HELD_AS_WORDS}
    unknown = {tokenizer.unk_token_id} - {tokenizer.eos_token_id}
    return (special | set(tokenizer.all_special_ids)) - unknown


def test_a_special_token_that_a_text_spells_out_is_text(tokenizer):
    begins = bos_in_front(tokenizer) is not None
    for spelt in SPELT:
        for text in (f"fine {spelt} more", f"fine{spelt}more", spelt, f"{spelt} more"):
            prompt, answer = encode_response(tokenizer, text, text)
            assert not control(tokenizer) & set(prompt[begins:] + answer[:-1]), spelt
            assert answer[-1] == tokenizer.eos_token_id
            if tokenizer.kind in LOSSY or (tokenizer.kind, spelt) == ("unigram", "<unk>"):
                continue
            (again,) = decode(tokenizer, [[]], text_ids(tokenizer, [text]))
            marks = tokenizer.kind in ("unigram", "stories260k")  # which spell a space by a mark
            assert again.strip() == (text.replace("\u2581", " ") if marks else text)


def test_what_is_added_around_a_text_is_real(tokenizer):
    """As the library puts it around an ordinary word, which here shows where the text stands."""
    spelt = "fine </s> <|endoftext|> <s> [SEP] more"
    (plain,), (inner,) = text_ids(tokenizer, [spelt]), text_ids(tokenizer, ["fine"])
    around = tokenizer("fine")["input_ids"]
    start = next(i for i in range(9) if around[i:i + len(inner)] == inner)
    first, last = around[:start], around[start + len(inner):]
    assert encode_whole(tokenizer, [spelt], 512) == [[*first, *plain, *last]]
    room = 6 - len(first) - len(last)
    assert encode_whole(tokenizer, [spelt], 6) == [[*first, *plain[:room], *last]]
    tokenizer.truncation_side = "left"
    assert encode_whole(tokenizer, [spelt], 6) == [[*first, *plain[-room:], *last]]


def test_ordinary_text_has_the_ids_it_had(tokenizer):
    texts = ["Human: Why?\n\nAssistant:", " A good film, isn't it?", "  two  spaces\t",
             "x < y > z |", "caf\u00e9 \U0001f600"]
    assert text_ids(tokenizer, texts) == [
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert encode_whole(tokenizer, texts, 10**6) == tokenizer(texts)["input_ids"]


def test_words_that_somebody_added_stay_words():
    tokenizer = chat_model()
    assert tokenizer.convert_tokens_to_ids("aspirin") in text_ids(tokenizer, ["an aspirin"])[0]


def test_a_token_that_becomes_special_is_no_text_from_then_on():
    tokenizer = family_tokenizer("gpt2")
    before = text_ids(tokenizer, ["a [STOP] b"])[0]
    tokenizer.add_special_tokens({"pad_token": "[STOP]"})
    assert text_ids(tokenizer, ["a [STOP] b"])[0] == before
    tokenizer.add_tokens(["<|later|>"])
    assert tokenizer.convert_tokens_to_ids("<|later|>") not in text_ids(tokenizer, ["<|later|>"])[0]


# ------------------------------------------------------------- prompt and response are one text


def test_prompt_and_response_together_are_the_text(tokenizer):
    """Also for tokenizers that put a space mark before every text: a response gets no second."""
    for prompt, response in (("This film was", "great"), ("A", "1, 2"), ("The cat", "'s mat"),
                             ("Human: Why?\n\nAssistant:", "This was so.")):
        before, after = encode_response(tokenizer, prompt, response)
        whole = tokenizer(f"{prompt} {response}", add_special_tokens=False)["input_ids"]
        assert (before + after[:-1])[bos_in_front(tokenizer) is not None:] == whole
        assert encode_prompts(tokenizer, [prompt])[0] == before


def test_a_legacy_llama_would_have_had_two_space_marks():
    tokenizer = legacy_llama()
    _, after = encode_response(tokenizer, "This film was", "great")
    assert tokenizer.convert_ids_to_tokens(after) == ["\u2581great", "</s>"]
    assert tokenizer.tokenize(" great") != ["\u2581great"]


# --------------------------------------------------------------------- everywhere a text is read


def test_a_reward_does_not_change_by_a_token_that_is_only_spelt(tmp_path):
    """Beside the same characters in ids of ordinary tokens, given to the model by hand."""
    tokenizer = family("gpt2")()
    model = make_scorer(tokenizer, "gpt2")
    for spelt in ("<|pad|>", "<|endoftext|>"):
        letters = [i for part in ("<", "|", spelt[2:-2], "|", ">")
                   for i in tokenizer(part, add_special_tokens=False)["input_ids"]]
        fine = tokenizer(["A", " fine"], add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[*fine[0], *fine[1], *letters, tokenizer.eos_token_id]])
        with torch.no_grad():
            direct = reward.reward_logits(model, ids, torch.ones_like(ids)).item()
        (score,) = reward.score(model, tokenizer, ["A"], [f"fine{spelt}"])
        chosen, rejected = reward.score_pairs(
            model, tokenizer, [{"prompt": "A", "chosen": f"fine{spelt}", "rejected": "fine"}])
        assert score == pytest.approx(direct, abs=1e-5) == chosen[0]
        assert rejected[0] != pytest.approx(score, abs=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_reader_of_texts_takes_it_for_text(name, tmp_path, monkeypatch):
    tokenizer = family(name)()
    special, text = control(tokenizer), "The fine <|endoftext|></s><eos><|pad|><pad> cat"
    begins = int(bos_in_front(tokenizer) is not None)

    def free(ids):
        return not special & set(ids)

    ids, labels = sft.encode_example(tokenizer, text, text)
    assert free(ids[begins:-1]) and labels[-1] == tokenizer.eos_token_id
    (pair,) = reward.encode_pairs(
        tokenizer, [{"prompt": text, "chosen": text, "rejected": "The cat"}], 512)
    assert free(pair["chosen_ids"][begins:-1]) and free(pair["rejected_ids"][begins:-1])
    (row,) = ta.pad_prompts([text], tokenizer, 128)
    real = [i for i in row["input_ids"] if i != tokenizer.pad_token_id]
    assert free(real[begins:]) and len(real) == len(text_ids(tokenizer, [text])[0]) + begins
    ends = pack(tokenizer, [text] * 9, 16).flatten().tolist().count(tokenizer.eos_token_id)
    assert ends <= 9
    monkeypatch.setattr(data, "load_demonstrations", lambda *_: [{"prompt": text}])
    size = len(text_ids(tokenizer, [text])[0]) + begins  # of all letters, as PPO will see it
    for most in (size - 1, size):
        settings = load_profile("embedded", {"ppo.max_prompt_tokens": most})
        _, test = data.policy_prompts(settings, tokenizer)
        assert test == [text] * (most == size)


def test_bits_per_byte_count_every_letter_of_what_is_spelt():
    """A model that finds all tokens alike needs the same for each of the letters' tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = family_tokenizer("gpt2")
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1, n_positions=64))
    for parameter in model.parameters():
        parameter.data.zero_()
    text = "a<|endoftext|>b"
    count = len("a") + len(tokenizer.tokenize("<")) + sum(
        len(tokenizer.tokenize(part)) for part in ("|", "endoftext", "|", ">", "b"))
    bits = evaluation.bits_per_byte(model, tokenizer, [text])
    assert bits == pytest.approx(count * np.log2(len(tokenizer)) / len(text), rel=1e-5)


@pytest.mark.parametrize("spelt", ["[SEP]", "[PAD]", "[CLS]"])
def test_a_classifier_reads_the_letters_and_cuts_as_the_library_does(spelt):
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(models.EMBEDDED / "classifier")
    torch.manual_seed(0)
    model = DistilBertForSequenceClassification(DistilBertConfig(
        vocab_size=len(tokenizer), dim=16, hidden_dim=16, n_layers=1, n_heads=2,
        max_position_embeddings=24)).eval()
    texts = ["a good film", "a bad film " * 20, f"a {spelt} film", ""]
    found = class_logits(model, tokenizer, texts)
    for text, logits in zip(texts, found, strict=True):
        ids = tokenizer(text, truncation=True, max_length=24, split_special_tokens=True,
                        return_tensors="pt")["input_ids"]
        with torch.no_grad():
            assert logits == pytest.approx(model(input_ids=ids).logits[0].numpy(), abs=1e-5)
    real = tokenizer.convert_tokens_to_ids(spelt)
    assert encode_whole(tokenizer, [texts[2]], 24)[0].count(real) == (spelt != "[PAD]")


@pytest.mark.parametrize("name", ["qwen2", "llama"])
def test_a_tokenizer_that_a_library_calls_reads_text_and_writes_chat_templates(name):
    tokenizer = family_tokenizer(name, chat=True)
    chat = [{"role": "user", "content": "Why?"}]
    tokenizer.chat_template = (
        "{% for m in messages %}{{ eos_token }}{{ m['content'] }}{% endfor %}")
    before = tokenizer.apply_chat_template(chat)["input_ids"]
    read_as_text(tokenizer)
    read_as_text(tokenizer)
    for made in (tokenizer, copy.deepcopy(tokenizer)):
        assert made.apply_chat_template(chat)["input_ids"] == before
        assert before[0] == made.eos_token_id
        spelt = made(f"a {made.eos_token} b", add_special_tokens=False)["input_ids"]
        assert made.eos_token_id not in spelt


def test_a_tokenizer_that_reads_text_is_saved_as_it_came(tmp_path):
    tokenizer = family_tokenizer("llama")
    tokenizer.save_pretrained(tmp_path / "before")
    read_as_text(tokenizer)
    tokenizer.save_pretrained(tmp_path / "after")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        first, second = (json.loads((tmp_path / folder / name).read_text())
                         for folder in ("before", "after"))
        assert first == second


def test_a_prompt_with_an_end_in_it_is_answered_as_text(real_data):
    """Sampling from the real tiny model: nothing stops, and the text comes back whole."""
    model, tokenizer = models.load_causal(
        real_data / "models" / "stories260k", load_profile())
    rollout = sample(model, tokenizer, ["Once </s> upon"], 5, seed=0)
    ids = rollout.prompt_ids[0].tolist()
    assert ids.count(tokenizer.eos_token_id) == 0 and ids[0] == tokenizer.bos_token_id
    assert decode(tokenizer, [[]], [ids])[0] == "Once </s> upon"
