"""benchmarks/sft.py: its packed rows, its measure of a leak, and the loop that it takes from 03."""

import torch
from support import byte_policy, byte_tokenizer

from benchmarks import sft as bench
from helpers import models, sft

ROWS = [([5, 6, 7, 8], [-100, -100, 7, 8]), ([9, 10], [-100, 10]), ([11, 12, 13], [-100, 12, 13])]


def test_a_packed_place_has_the_label_of_the_next_token_and_none_at_the_end_of_a_row():
    ids, layout, labels = bench.packed(ROWS)
    assert ids.tolist() == [[5, 6, 7, 8, 9, 10, 11, 12, 13]]
    assert layout.positions.tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2]]
    assert labels.tolist() == [-100, 7, 8, -100, 10, -100, 12, 13, -100]


def test_a_leak_is_found_where_rows_see_each_other_and_nowhere_else():
    model, documents = byte_policy(byte_tokenizer()).eval(), [ids for ids, _ in ROWS]
    row = torch.tensor([sum(documents, [])])
    places = torch.cat([torch.arange(len(d)) for d in documents])[None]

    def seen(mask):
        return lambda _: model(input_ids=row, position_ids=places, attention_mask=mask,
                               use_cache=False).logits[0]

    def apart(some):
        return torch.cat([model(input_ids=torch.tensor([d])).logits[0] for d in some])

    assert bench.leak(model, documents, apart) == 0
    assert bench.leak(model, documents, seen(torch.ones_like(row))) > 1e-3
    assert bench.leak(model, documents, seen(None)) < 1e-4  # positions alone tell the rows apart


def test_the_loop_is_the_notebooks_own_and_takes_another_mask():
    """Without a mask the first step differs, with the usual one it is the cross-entropy of it."""
    tokenizer = byte_tokenizer()
    rows = [{"prompt": "a good", "response": "film"}]
    losses = {}
    for name, (encode, stop) in bench.MASKS.items():
        model = models.disable_dropout(byte_policy(tokenizer))
        before = sft.response_loss(model, tokenizer, rows)
        [losses[name]] = bench.notebook_loop(tokenizer, 0, encode)(model, rows, 1, 2, 1e-3, stop)
        if name == "answer":
            assert abs(losses[name] - before) < 1e-4
    assert len({round(loss, 6) for loss in losses.values()}) == 3
