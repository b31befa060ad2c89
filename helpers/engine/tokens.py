"""Text to token ids, once: prompts, responses with their end, padding on either side, positions."""

from __future__ import annotations

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


def first_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What a tokenizer puts in front of a text by itself: a begin-of-text token, or nothing."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    return whole[: next(i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)]


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> list[list[int]]:
    """Token ids of each prompt, begun as the tokenizer begins a text; an empty one is an error.

    A prompt that has those first tokens in its text, from a chat template for one, gets no second
    ones, and nothing is put behind it: there the response follows.
    """
    if not prompts:
        raise UserError("There are no prompts to sample from: pass at least one string.")
    for row, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not prompt:
            raise UserError(
                f"Prompt {row} is {prompt!r}; each prompt must be a string that is not empty."
            )
    first = first_tokens(tokenizer)
    encoded = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    return [ids if ids[: len(first)] == first else first + ids for ids in encoded]


def encode_response(
    tokenizer: PreTrainedTokenizerBase, prompt: str, response: str
) -> tuple[list[int], list[int]]:
    """Token ids of a rendered prompt and of its response, the end-of-text token included.

    The two are tokenised apart, so that a prompt has the same ids whatever follows it, exactly
    as when a policy generates the response token by token.
    """
    ids = tokenizer([prompt, " " + response.strip()], add_special_tokens=False)["input_ids"]
    return list(ids[0]), list(ids[1]) + [tokenizer.eos_token_id]


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
