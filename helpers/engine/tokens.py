"""Text to token ids, once: prompts, responses with their end, padding on either side, positions.

What a text says is text: `<|endoftext|>` or `</s>` written in a prompt, a response or a review is
spelt out in ordinary tokens, and is never the token that ends a text, pads it or begins it. Those
stand only where the course itself puts them.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from tokenizers import pre_tokenizers
from torch.nn.utils.rnn import pad_sequence

from helpers.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTROL = re.compile(r"<[|\uff5c].+[|\uff5c]>")  # also with the wide bars of DeepSeek


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


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text alone, with nothing in front, behind or inside that is not text.

    `split_special_tokens` keeps the library from finding special tokens in a text. What is found
    all the same is spelt out here: a control token that a tokenizer holds as an ordinary one
    (`<|im_end|>` in some chat models), and one that is a piece of a Unigram or word vocabulary.
    """
    ids = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    control = _control_ids(tokenizer, tuple(tokenizer.all_special_ids), len(tokenizer))
    return [row if control.isdisjoint(row) else _spelt_out(tokenizer, row, control) for row in ids]


@functools.lru_cache(maxsize=16)
def _control_ids(
    tokenizer: PreTrainedTokenizerBase, special: tuple[int, ...], size: int
) -> frozenset[int]:
    """Ids that stand for something else than text; `special` and `size` tell when they change.

    As in transformers' own `sanitize_control_tokens`: tokens marked as special, and added ones that
    the chat template writes; besides, whatever looks like `<|this|>`. Words that somebody added to
    a vocabulary are words.
    """
    template = str(getattr(tokenizer, "chat_template", None) or "")
    found = set(special)
    for index, token in tokenizer.added_tokens_decoder.items():
        written = token.content in template or CONTROL.fullmatch(token.content)
        if token.special or (written and not token.content.isspace()):
            found.add(index)
    if tokenizer.unk_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        found.discard(tokenizer.unk_token_id)  # what a text does not know is unknown
    return frozenset(found)


def _spelt_out(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], control: frozenset[int]
) -> list[int]:
    """The same text with its control tokens written letter by letter."""
    names = {i: str(tokenizer.convert_ids_to_tokens(i)) for i in control.intersection(ids)}
    letters = {i: [part for letter in name for part in _letter(tokenizer, letter)
                   if part not in control] for i, name in names.items()}
    return [part for i in ids for part in letters.get(i, [i])]


def _letter(tokenizer: PreTrainedTokenizerBase, letter: str) -> list[int]:
    """Ids of one character inside a text; not `tokenizer(letter)`, which may put a space first."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [cast(int, tokenizer.convert_tokens_to_ids(letter))]
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = [letter, *(piece for piece, _ in as_bytes.pre_tokenize_str(letter))]
    return next((ids for piece in pieces
                 if (ids := [token.id for token in backend.model.tokenize(piece)])), [])


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> list[list[int]]:
    """Token ids of each prompt as the model is used to see a text begin; none may be empty.

    That is with a BOS in front where the tokenizer puts one (Llama, Gemma), and with no other
    special token, whatever the prompt spells out.
    """
    if not prompts:
        raise UserError("There are no prompts to sample from: pass at least one string.")
    for row, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not prompt:
            raise UserError(
                f"Prompt {row} is {prompt!r}; each prompt must be a string that is not empty."
            )
    return [_begun(tokenizer, prompt) for prompt in text_ids(tokenizer, prompts)]


@functools.lru_cache(maxsize=16)
def bos_in_front(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Id of the token that the tokenizer puts in front of a text; None where it puts none."""
    bos = getattr(tokenizer, "bos_token_id", None)
    return bos if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else None


def _begun(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """A text's ids with the tokenizer's BOS in front, where it puts one."""
    bos = bos_in_front(tokenizer)
    return ids if bos is None else [bos, *ids]


def encode_whole(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], most: int
) -> list[list[int]]:
    """Token ids of texts with what the tokenizer puts around one ([CLS] … [SEP]), at most `most`.

    Longer texts lose their end, or their beginning where the tokenizer truncates on the left.
    """
    first, last = _around(tokenizer)
    room = most - len(first) - len(last)
    left = tokenizer.truncation_side == "left"
    return [[*first, *(row[max(0, len(row) - room):] if left else row[:room]), *last]
            for row in text_ids(tokenizer, texts)]


@functools.lru_cache(maxsize=16)
def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Special tokens before and behind a text, as the tokenizer puts them."""
    inner, whole = text_ids(tokenizer, ["a"])[0], list(tokenizer("a")["input_ids"])
    start = next((i for i in range(len(whole)) if whole[i:i + len(inner)] == inner), 0)
    return whole[:start], whole[start + len(inner):]


def read_as_text(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let `tokenizer(text)` itself spell special tokens out, for libraries that call it; in place.

    What a chat template writes around the turns stays special.
    """
    if not tokenizer.split_special_tokens:
        tokenizer.split_special_tokens = True
        tokenizer.apply_chat_template = functools.partial(
            tokenizer.apply_chat_template, tokenizer_kwargs={"split_special_tokens": False})


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
    as when a policy generates the response token by token. Together they are the ids of
    `prompt + " " + response`. A prompt begins with a BOS where the tokenizer puts one in front of
    a text, a response never does.
    """
    before, after = text_ids(tokenizer, [prompt, _joint(tokenizer) + response.strip()])
    return _begun(tokenizer, before), [*after, cast(int, tokenizer.eos_token_id)]


@functools.lru_cache(maxsize=16)
def _joint(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a response that is tokenised alone begins with, for the space between it and its prompt.

    A space, unless the tokenizer puts one in front of every text (SentencePiece's, as of Llama 2
    and Mistral): there a second one would be a token that the model never saw in that place.
    """
    whole, first, spaced, bare = text_ids(tokenizer, ["a b", "a", " b", "b"])
    return "" if first + bare == whole != first + spaced else " "


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
