"""Tiny models of every family that people bring, each with the habits of the real ones.

`make_family(name, folder)` leaves a folder as the hub would: weights in the dtype that the family
ships, a tokenizer with its special tokens as they come, sampling settings where it has them.
"""

import functools
from pathlib import Path

import torch
from support import TEXTS
from tokenizers import processors
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from helpers import scratch

POSITIONS = 128
SHARED = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
              max_position_embeddings=POSITIONS)
GROUPED = SHARED | dict(num_key_value_heads=1)
CHAT = ("{% for m in messages %}{{ '<s>' + m['role'] + '\n' + m['content'] + '<e>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}")

# family: configuration, special tokens, whether its tokenizer puts a BOS first, dtype on disk,
# words of the embedding beyond the tokenizer's
FAMILIES = {
    "gpt2": (lambda **ids: GPT2Config(
        n_embd=32, n_layer=2, n_head=2, n_positions=POSITIONS, **ids),
        {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}, False, torch.float32, 0),
    "gpt_neo": (lambda **ids: GPTNeoConfig(
        hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, window_size=16,
        attention_types=[[["global", "local"], 1]], max_position_embeddings=POSITIONS, **ids),
        {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}, False, torch.float32, 0),
    "gpt_neox": (lambda **ids: GPTNeoXConfig(**SHARED, tie_word_embeddings=False, **ids),
                 {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}, False,
                 torch.float16, 48),
    "llama": (lambda **ids: LlamaConfig(**GROUPED, tie_word_embeddings=True, **ids),
              {"eos_token": "</s>", "bos_token": "<s>"}, True, torch.bfloat16, 0),
    "qwen2": (lambda **ids: Qwen2Config(**GROUPED, tie_word_embeddings=True, **ids),
              {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}, False,
              torch.bfloat16, 32),
    "mistral": (lambda **ids: MistralConfig(
        **GROUPED, sliding_window=16, tie_word_embeddings=False, **ids),
        {"eos_token": "</s>", "bos_token": "<s>"}, True, torch.bfloat16, 0),
    "gemma": (lambda **ids: GemmaConfig(**GROUPED, head_dim=16, **ids),
              {"eos_token": "<eos>", "bos_token": "<bos>", "pad_token": "<pad>"}, True,
              torch.bfloat16, 0),
    "gemma2": (lambda **ids: Gemma2Config(
        **GROUPED, head_dim=16, sliding_window=16, query_pre_attn_scalar=16,
        final_logit_softcapping=3.0, **ids),
        {"eos_token": "<eos>", "bos_token": "<bos>", "pad_token": "<pad>"}, True,
        torch.bfloat16, 0),
}


@functools.cache
def _bytes_and_pairs():
    """A byte-level BPE of 300 tokens without special ones, as JSON."""
    inner = scratch.train_tokenizer(TEXTS, 300).backend_tokenizer
    return inner.to_str()


def family_tokenizer(name: str, chat: bool = False) -> PreTrainedTokenizerFast:
    """The tokenizer of a family: its special tokens, and a BOS in front where it puts one."""
    from tokenizers import Tokenizer

    _, special, bos_first, _, _ = FAMILIES[name]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bytes_and_pairs()), **special,
        clean_up_tokenization_spaces=False)
    if bos_first:
        bos = tokenizer.bos_token
        tokenizer.backend_tokenizer.post_processor = processors.Sequence([
            tokenizer.backend_tokenizer.post_processor or processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{bos} $A", pair=f"{bos} $A {bos} $B",
                special_tokens=[(bos, tokenizer.bos_token_id)])])
    if chat:
        tokenizer.chat_template = CHAT
    return tokenizer


def make_family(name: str, folder: Path, seed: int = 0, chat: bool = False) -> Path:
    """Write model, tokenizer and generation settings of a family into `folder`; returns it."""
    make, _, _, dtype, beyond = FAMILIES[name]
    tokenizer = family_tokenizer(name, chat)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(make(
        vocab_size=len(tokenizer) + beyond, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))
    with torch.no_grad():
        for parameter in model.parameters():  # wider than at the start of training: logits differ
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    if name in ("qwen2", "gemma2"):
        model.generation_config.update(
            do_sample=True, temperature=0.6, top_k=20, top_p=0.8, repetition_penalty=1.1)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
