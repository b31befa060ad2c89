"""Makers of tiny tokenizers, models and texts that several test files share."""

import dataclasses

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from helpers import reward, scratch
from helpers.profiles import load_profile

TEXTS = [f"The {a} {b} sat on the {c}." for a in ("old", "young", "grey", "quiet")
         for b in ("cat", "dog", "owl", "fox") for c in ("mat", "wall", "roof", "step")] * 8


def small(**changes):
    """The section `models.scratch` of a model that trains in a second."""
    size = {"vocab_size": 300, "n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 32,
            "tokens": 40_000, "batch_tokens": 256}
    return load_profile("embedded", {
        f"models.scratch.{k}": v for k, v in {**size, **changes}.items()}).models.scratch


def from_scratch(texts=TEXTS, seed=0, validation=(), **changes):
    """A tiny language model, its tokenizer and its metrics."""
    return scratch.train_from_scratch(
        texts, small(**changes), seed, validation=validation, progress=False)


def word_tokenizer(words, **special):
    """A tokenizer of whole words; `special` tokens (eos, pad, unk) have the first ids, as given."""
    names = {f"{role}_token": text for role, text in special.items()}
    vocabulary = {word: i for i, word in enumerate([*special.values(), *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk"]))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def numbered_words(count):
    """A tokenizer of the words w0, w1, …"""
    inner = [f"w{i}" for i in range(count)]
    tokenizer = word_tokenizer(inner, eos="<|end|>", pad="<|pad|>", unk="<|unk|>")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def pieces_tokenizer():
    """A tokenizer as SentencePiece makes them (Llama 2): words begin with ▁, letters that it lacks
    are spelt in bytes, and a text that is decoded loses the space it begins with."""
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    words = ("▁This", "▁film", "▁was", "▁great")
    letters = sorted(set("".join(words)))
    vocabulary = {t: i for i, t in enumerate(["<unk>", "<s>", "</s>", "<pad>", *bytes_, *letters])}
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            vocabulary.setdefault(word[:end], len(vocabulary))
            if (word[: end - 1], word[end - 1]) not in merges:
                merges.append((word[: end - 1], word[end - 1]))
    inner = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0)])
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        pad_token="<pad>")


def gpt2(tokenizer, seed=0, **changes):
    """A GPT-2 of random weights: width 16, two layers, two heads, 48 positions."""
    torch.manual_seed(seed)
    size = {"n_positions": 48, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=len(tokenizer), bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        **{**size, **changes}))


# --- reward models --------------------------------------------------------------------------

ANSWER_WORDS = ["human", "assistant", ":", "what", "is", "a", "good", "answer", "bad", "thanks",
                "fine", "no", "yes", "maybe", "please", ".", "?"]
CONFIGS = {
    "gpt2": GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64),
    "gpt_neo": GPTNeoConfig(
        hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32,
        max_position_embeddings=64, attention_types=[[["global", "local"], 1]], window_size=8,
    ),
    "llama": LlamaConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    ),
    "qwen": Qwen2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=32, max_position_embeddings=64,
    ),
}


def answer_tokenizer():
    """A tokenizer of `ANSWER_WORDS`."""
    return word_tokenizer(ANSWER_WORDS, unk="<unk>", eos="<eos>", pad="<pad>")


def make_scorer(tokenizer, kind="gpt2", seed=0, num_labels=1):
    """A sequence classifier of random weights: one number per text, or more."""
    torch.manual_seed(seed)
    config = type(CONFIGS[kind])(**CONFIGS[kind].to_dict())
    config.num_labels, config.vocab_size = num_labels, len(tokenizer)
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    config.bos_token_id = tokenizer.eos_token_id
    return AutoModelForSequenceClassification.from_config(config).eval()


def make_pairs(n, seed=0):
    """Pairs in which the answer with the word "good" is always the better one."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(n):
        said = ANSWER_WORDS[8:]
        filler = [" ".join(rng.choice(said, rng.integers(1, 9))) for _ in range(2)]
        pairs.append({
            "prompt": "human : what is " + " ".join(rng.choice(said, 3)) + " assistant :",
            "chosen": f"good {filler[0]}", "rejected": f"bad {filler[1]}",
        })
    return pairs


def train_scorer(tokenizer, folder, model=None, pairs=None, **options):
    """A reward model trained on `make_pairs`, and its history; options of config or training."""
    model = model or make_scorer(tokenizer)
    options = {"epochs": 3, "batch_size": 16, "learning_rate": 1e-2, "max_length": 64} | options
    own = {f.name for f in dataclasses.fields(reward.RewardConfig)}
    config = reward.RewardConfig(**{k: v for k, v in options.items() if k in own})
    history = reward.train_reward_model(
        model, tokenizer, pairs or make_pairs(160), make_pairs(60, seed=1), folder, config,
        **{k: v for k, v in options.items() if k not in own},
    )
    return model, history


def byte_tokenizer():
    """A byte-level BPE of few words, with its special tokens first, as `trl_adapter` wants one."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        ["a good film about a bad day and the end of it all"] * 5,
        trainers.BpeTrainer(vocab_size=300, special_tokens=["<|pad|>", "<|eos|>"],
                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|eos|>", padding_side="left")


def byte_policy(tokenizer):
    """A small GPT-2 for `byte_tokenizer`."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=len(tokenizer), n_layer=2, n_head=2, n_embd=32, n_positions=64,
        bos_token_id=1, eos_token_id=1, pad_token_id=0))


def tiny_classifier():
    """A DistilBERT of random weights with word pieces of its own: (model, tokenizer)."""
    piece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    piece.train_from_iterator(
        ["a good film about a bad day and the end of it all"],
        trainers.WordPieceTrainer(
            vocab_size=120, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"]))
    piece.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    torch.manual_seed(1)
    model = DistilBertForSequenceClassification(DistilBertConfig(
        vocab_size=120, dim=32, hidden_dim=64, n_layers=1, n_heads=2, max_position_embeddings=64))
    return model.eval(), PreTrainedTokenizerFast(
        tokenizer_object=piece, pad_token="[PAD]", unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]")
