"""Text to token ids, once: prompts, responses with their end, padding on either side, positions."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.utils.rnn import pad_sequence

from helpers.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError where padding could not be told from the end of a text."""
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no eos_token, so that no response could ever end; set "
                        "tokenizer.eos_token.")
    if tokenizer.pad_token_id is None:
        raise UserError("the tokenizer has no padding token (pad_token); add one with "
                        "tokenizer.add_special_tokens and resize the model's embeddings.")
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise UserError("the tokenizer pads with its end-of-text token, so the end of a response "
                        "would be masked as padding; give it a pad_token of its own, for example "
                        "'<|pad|>'.")


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> list[list[int]]:
    """Token ids of each prompt as the model is used to see a text begin; none may be empty.

    That is with a BOS in front where the tokenizer puts one (Llama, Gemma), and with no other
    special token than those the prompt spells out.
    """
    if not prompts:
        raise UserError("There are no prompts to sample from: pass at least one string.")
    for row, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not prompt:
            raise UserError(
                f"Prompt {row} is {prompt!r}; each prompt must be a string that is not empty."
            )
    ids = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    return [_begun(tokenizer, prompt) for prompt in ids]


@functools.lru_cache(maxsize=16)
def bos_in_front(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Id of the token that the tokenizer puts in front of a text; None where it puts none."""
    bos = getattr(tokenizer, "bos_token_id", None)
    return bos if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else None


def _begun(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """A text's ids with the tokenizer's BOS in front, once, also where the text spells it out."""
    bos = bos_in_front(tokenizer)
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


def last_tokens(tokenizer: PreTrainedTokenizerBase, ids: list[int], count: int) -> list[int]:
    """The last `count` tokens of a text; a BOS in front stays and counts."""
    if len(ids) <= count:
        return ids
    bos = bos_in_front(tokenizer)
    return ids[len(ids) - count:] if bos is None else [bos, *ids[len(ids) - count + 1:]]


def encode_response(
    tokenizer: PreTrainedTokenizerBase, prompt: str, response: str
) -> tuple[list[int], list[int]]:
    """Token ids of a rendered prompt and of its response, the end-of-text token included.

    The two are tokenised apart, so that a prompt has the same ids whatever follows it, exactly
    as when a policy generates the response token by token. A prompt begins with a BOS where the
    tokenizer puts one in front of a text, a response never does.
    """
    ids = tokenizer([prompt, " " + response.strip()], add_special_tokens=False)["input_ids"]
    return _begun(tokenizer, list(ids[0])), list(ids[1]) + [tokenizer.eos_token_id]


def pad(
    texts: Sequence[Sequence[int]], pad_token_id: int, side: str = "right"
) -> dict[str, torch.Tensor]:
    """Token lists as input_ids and attention_mask, both (len(texts), longest), int64."""
    rows = [torch.as_tensor(text, dtype=torch.long) for text in texts]
    return {
        "input_ids": pad_sequence(rows, True, pad_token_id, side),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], True, 0, side),
    }


def pad_responses(
    texts: Sequence[Sequence[int]], prompt_lengths: Sequence[int], pad_token_id: int
) -> dict[str, torch.Tensor]:
    """`pad` with a response_mask, 1 on the tokens behind the prompt, (len(texts), longest)."""
    batch = pad(texts, pad_token_id)
    after = torch.arange(batch["input_ids"].shape[1]) >= torch.tensor(prompt_lengths).unsqueeze(1)
    return batch | {"response_mask": batch["attention_mask"] * after}


def pad_left(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad token lists on the left: ids and mask, each (n, longest), int64."""
    batch = pad(sequences, pad_id, side="left")
    return batch["input_ids"], batch["attention_mask"]


def position_ids(mask: torch.Tensor) -> torch.Tensor:
    """Positions that count real tokens only: 0 for the first real token of each row. (n, L)"""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def decode(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
) -> list[str]:
    """The text of each response as it follows its prompt, without special tokens.

    A response is decoded together with its prompt, and the prompt's text is cut off: alone, many
    tokenizers (those of SentencePiece) take its first token for the beginning of a text and drop
    the space before it. White space is left as it is.
    """
    def texts(rows: list[list[int]]) -> list[str]:
        return tokenizer.batch_decode(
            rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    before = texts([list(p) for p in prompts])
    whole = texts([[*p, *r] for p, r in zip(prompts, responses, strict=True)])
    # A character may begin in the prompt and end in the response: what both share is the prompt's.
    return [text[len(os.path.commonprefix([text, start])) :]
            for text, start in zip(whole, before, strict=True)]
