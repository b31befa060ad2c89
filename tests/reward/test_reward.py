"""Reward models: pooling, losses, batches, training, measures."""

import math

import numpy as np
import pytest
import torch
from support import CONFIGS, answer_tokenizer, make_pairs, make_scorer, train_scorer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from helpers import reward
from helpers.errors import UserError


@pytest.fixture(scope="module")
def tokenizer():
    return answer_tokenizer()


def tied(model):
    """Llama and Qwen share their embeddings only when told so; a reward model has one anyway."""
    model.config.tie_word_embeddings = True
    return model


# ------------------------------------------------------------------------------------- pooling


def test_last_token_index_finds_the_end_on_either_side():
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]])
    assert reward.last_token_index(mask).tolist() == [1, 3, 3, 0]
    assert reward.last_token_index(mask.bool()).tolist() == [1, 3, 3, 0]


def test_pooling_takes_the_vector_of_the_last_real_token():
    values = torch.arange(24.0).reshape(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    assert torch.equal(reward.pool_last_token(values, mask), values[[0, 1], [1, 3]])


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_reward(tokenizer, kind, side):
    model = make_scorer(tokenizer, kind)
    rng = np.random.default_rng(1)
    texts = [rng.integers(3, len(tokenizer), n).tolist() for n in (3, 9, 14, 20)]
    alone = [reward.reward_logits(model, **reward.pad([text], 2)) for text in texts]
    together = reward.reward_logits(model, **reward.pad(texts, 2, side=side))
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 1.5])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_shared_prompt_changes_neither_rewards_nor_gradients(tokenizer, kind, weight):
    model = reward.use_likelihood(tied(make_scorer(tokenizer, kind)), weight)
    assert reward.can_share_prompts(model) == (kind != "gpt_neo")  # its windows count columns
    if kind == "gpt_neo":
        return
    rows = reward.encode_pairs(tokenizer, make_pairs(8), 64)
    results = []
    for collate in (reward.collate_pairs, reward.collate_shared):
        model.zero_grad()
        chosen, rejected = reward.pair_rewards(model, collate(rows, tokenizer.pad_token_id))
        reward.bradley_terry_loss(chosen, rejected).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        results.append((chosen.detach(), rejected.detach(), gradient))
    for apart, shared in zip(*results, strict=True):
        torch.testing.assert_close(shared, apart, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 1.5])
@pytest.mark.parametrize("kind", CONFIGS)
def test_pairs_scored_together_have_the_rewards_of_texts_scored_alone(tokenizer, kind, weight):
    model, pairs = tied(make_scorer(tokenizer, kind)).train(), make_pairs(30)
    reward.use_likelihood(model, weight)
    pairs[4] = {**pairs[4], "prompt": pairs[4]["prompt"] * 12}  # does not fit: cut from the left
    pairs[7] = {**pairs[7], "prompt": ""}
    found = reward.score_pairs(model, tokenizer, pairs, batch_size=4, max_length=40)
    assert model.training
    for side, rewards in zip(("chosen", "rejected"), found, strict=True):
        alone = [reward.score(model, tokenizer, [p["prompt"]], [p[side]], max_length=40)[0]
                 for p in pairs]
        np.testing.assert_allclose(rewards, alone, rtol=1e-4, atol=1e-5)


def test_pairs_scored_in_bfloat16_are_nearly_the_same(tokenizer):
    model, pairs = reward.use_likelihood(tied(make_scorer(tokenizer, "gpt2")), 1.5), make_pairs(30)
    exact = np.array(reward.score_pairs(model, tokenizer, pairs))
    rough = np.array(reward.score_pairs(model, tokenizer, pairs, bf16=True))
    assert 0 < np.abs(exact - rough).max() < 0.05 * exact.std() + 0.05


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_likelihood_is_the_language_models_mean_log_probability(tokenizer, kind):
    model = tied(make_scorer(tokenizer, kind))
    pairs = make_pairs(5)
    plain = reward.score_pairs(model, tokenizer, pairs)
    both = reward.score_pairs(reward.use_likelihood(model, 2.0), tokenizer, pairs)
    config = type(CONFIGS[kind])(**model.config.to_dict())
    config.tie_word_embeddings = True
    language_model = AutoModelForCausalLM.from_config(config).eval()
    getattr(language_model, language_model.base_model_prefix).load_state_dict(
        getattr(model, model.base_model_prefix).state_dict())
    means = []
    for side in ("chosen", "rejected"):
        for pair in pairs:
            before, after = reward.encode_response(tokenizer, pair["prompt"], pair[side])
            logits = language_model(torch.tensor([before + after])).logits[0].double()
            told = [torch.log_softmax(logits[len(before) + i - 1], 0)[token].item()
                    for i, token in enumerate(after)]
            means.append(sum(told) / len(told))
    means = np.reshape(means, (2, -1))
    np.testing.assert_allclose(np.array(both) - plain, 2 * means, atol=1e-4)
    np.testing.assert_allclose(
        reward.likelihood_margins(model, tokenizer, pairs), means[0] - means[1], atol=1e-4)
    assert reward.likelihood_weight(model) == 2.0


def test_the_likelihoods_weight_is_that_of_a_logistic_regression():
    rng = np.random.default_rng(0)
    gaps = rng.normal(size=4000)
    agreed = rng.random(4000) < 1 / (1 + np.exp(-1.7 * np.abs(gaps)))
    gaps = np.where(agreed, 1, -1) * np.abs(gaps)
    weight = reward.fit_weight(gaps)
    assert weight == pytest.approx(1.7, abs=0.15)

    def loss(w):
        return np.logaddexp(0, -w * gaps).mean()

    assert loss(weight) < min(loss(weight - 0.01), loss(weight + 0.01))
    assert reward.fit_weight(-gaps) == 0.0  # against the choices: no weight


def test_a_backbone_with_an_output_embedding_of_its_own_has_no_likelihood(tokenizer):
    model = make_scorer(tokenizer, "llama")
    model.config.tie_word_embeddings = False
    with pytest.raises(UserError, match="reward.likelihood=0"):
        reward.use_likelihood(model, 1.0)
    assert reward.likelihood_weight(reward.use_likelihood(model, 0.0)) == 0.0


def test_reward_equals_the_library_on_right_padding(tokenizer):
    model = make_scorer(tokenizer)
    batch = reward.pad([[3, 4, 5], [6, 7, 8, 9, 10]], tokenizer.pad_token_id)
    torch.testing.assert_close(
        reward.reward_logits(model, **batch), model(**batch).logits.squeeze(-1).float()
    )


# -------------------------------------------------------------------------------------- losses


def test_loss_equals_the_closed_form_in_float64():
    rng = np.random.default_rng(0)
    chosen, rejected = rng.normal(size=50), rng.normal(size=50)
    for margin in (0.0, 0.5, rng.random(50)):
        expected = np.mean(np.log1p(np.exp(-(chosen - rejected - margin))))
        given = reward.bradley_terry_loss(
            torch.tensor(chosen), torch.tensor(rejected), torch.as_tensor(margin)
        )
        assert given.item() == pytest.approx(expected, rel=1e-12)


def test_loss_ignores_a_constant_and_survives_large_gaps():
    chosen, rejected = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    plain = reward.bradley_terry_loss(chosen, rejected)
    torch.testing.assert_close(plain, reward.bradley_terry_loss(chosen + 7, rejected + 7))
    far = reward.bradley_terry_loss(torch.tensor([-500.0]), torch.tensor([500.0]))
    assert far.item() == 1000.0


def test_loss_of_an_untrained_model_is_log_two():
    assert reward.bradley_terry_loss(torch.zeros(4), torch.zeros(4)).item() == pytest.approx(
        math.log(2)
    )


# --------------------------------------------------------------------------------------- batches


def test_encoding_keeps_the_prompt_and_ends_with_the_end_token(tokenizer):
    pair = make_pairs(1)[0]
    row = reward.encode_pairs(tokenizer, [pair], 64)[0]
    prompt = tokenizer(pair["prompt"])["input_ids"]
    for side in ("chosen", "rejected"):
        ids = row[f"{side}_ids"]
        assert ids[: len(prompt)] == prompt and ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[len(prompt) : -1]) == pair[side]
    assert row["length"] == max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def test_pairs_that_cannot_teach_are_named(tokenizer):
    pairs = make_pairs(3)
    with pytest.raises(UserError, match="pair 1: its rejected response is empty"):
        reward.encode_pairs(tokenizer, [pairs[0], pairs[1] | {"rejected": " "}], 64)
    with pytest.raises(UserError, match="pair 2: both responses are the same"):
        same = pairs[2] | {"rejected": pairs[2]["chosen"] + " "}
        reward.encode_pairs(tokenizer, [*pairs[:2], same], 64)
    with pytest.raises(UserError, match="none of the 3 pairs has responses that fit into 2 tokens"):
        reward.encode_pairs(tokenizer, pairs, 2)


def test_long_prompts_lose_their_beginning_and_long_responses_their_pair(tokenizer):
    pairs = make_pairs(60)
    rows = reward.encode_pairs(tokenizer, pairs, 12)
    assert 0 < len(rows) < 60 and any(row["cut"] for row in rows)
    for row in rows:
        whole = reward.encode_pairs(tokenizer, [pairs[row["row"]]], 64)[0]
        assert row["length"] <= 12 and max(map(len, (row["chosen_ids"], row["rejected_ids"]))) <= 12
        for side in ("chosen_ids", "rejected_ids"):
            assert row[side] == whole[side][row["cut"] :]
    left_out = set(range(60)) - {row["row"] for row in rows}
    assert all(
        max(len(pairs[i][side].split()) for side in ("chosen", "rejected")) + 1 > 9
        for i in left_out
    )


def test_validation_starts_with_the_longest_pair(tokenizer):
    rows = reward.encode_pairs(tokenizer, make_pairs(60), 64, longest_first=True)
    lengths = [row["length"] for row in rows]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > lengths[-1]


def test_collated_batch_holds_chosen_then_rejected(tokenizer):
    rows = reward.encode_pairs(tokenizer, make_pairs(5), 64)
    batch = reward.collate_pairs(rows, tokenizer.pad_token_id)
    assert batch["input_ids"].shape[0] == 10
    for i, row in enumerate(rows):
        for place, side in ((i, "chosen_ids"), (i + 5, "rejected_ids")):
            kept = batch["input_ids"][place][batch["attention_mask"][place].bool()]
            assert kept.tolist() == row[side]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()


def test_grouped_order_is_a_permutation_with_little_padding_and_the_longest_first():
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 100, 1003)
    order = reward.length_grouped_order(lengths, 16, seed=3, epoch=1)
    assert sorted(order) == list(range(1003))
    assert lengths[order[:16]].max() == lengths.max()
    assert order == reward.length_grouped_order(lengths, 16, seed=3, epoch=1)
    assert order != reward.length_grouped_order(lengths, 16, seed=3, epoch=2)
    assert reward.padding_share(lengths[order], 16) < 0.05
    assert reward.padding_share(lengths, 16) > 0.3
    means = [lengths[order[i : i + 16]].mean() for i in range(0, 1003, 16)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3  # batches are not sorted


def test_padding_share_counts_both_rows_of_a_pair():
    assert reward.padding_share([(4, 2), (3, 3)], 2) == pytest.approx(1 - 12 / 16)
    assert reward.padding_share([5, 5, 2], 2) == pytest.approx(0.0)


# --------------------------------------------------------------------------------------- scoring


def test_scores_come_back_in_order_and_match_single_texts(tokenizer):
    model, pairs = make_scorer(tokenizer), make_pairs(9)
    prompts = [pair["prompt"] for pair in pairs]
    responses = [pair["chosen"] for pair in pairs]
    many = reward.score(model, tokenizer, prompts, responses, batch_size=4)
    one = [
        reward.score(model, tokenizer, [p], [r])[0] for p, r in zip(prompts, responses, strict=True)
    ]
    np.testing.assert_allclose(many, one, atol=1e-5)
    assert reward.score(model, tokenizer, prompts[:1], [""]).shape == (1,)


def test_long_texts_are_cut_from_the_left(tokenizer):
    model = make_scorer(tokenizer)
    long = "human : " + "what is " * 60 + "assistant :"
    before, after = reward.encode_response(tokenizer, long, "yes")
    ids = (before + after)[-64:]
    assert len(before + after) > 64 and ids[-1] == tokenizer.eos_token_id
    kept = reward.reward_logits(model, **reward.pad([ids], tokenizer.pad_token_id)).item()
    assert reward.score(model, tokenizer, [long], ["yes"])[0] == pytest.approx(kept, abs=1e-5)


def test_normalised_rewards_have_mean_zero_and_variance_one(tokenizer):
    model, pairs = make_scorer(tokenizer), make_pairs(40)
    prompts, texts = [p["prompt"] for p in pairs], [p["chosen"] for p in pairs]
    with pytest.raises(UserError, match="no scale yet"):
        reward.reward_function(model, tokenizer)
    reward.set_normalisation(model, reward.score(model, tokenizer, prompts, texts))
    values = reward.reward_function(model, tokenizer)(prompts, texts)
    assert values.mean() == pytest.approx(0, abs=1e-5)
    assert values.std() == pytest.approx(1, abs=1e-5)
    with pytest.raises(UserError, match="no spread"):
        reward.set_normalisation(model, [1.0, 1.0])


# -------------------------------------------------------------------------------------- measures


def test_expected_accuracy_and_ceiling():
    margins, probabilities = [2.0, -1.0, 0.0], [0.9, 0.3, 0.8]
    np.testing.assert_allclose(
        reward.expected_accuracy(margins, probabilities), [0.9, 0.7, 0.5]
    )
    np.testing.assert_allclose(reward.bayes_ceiling(probabilities), [0.9, 0.7, 0.8])


def test_calibration_error_equals_a_slow_count():
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 2, 500)
    right = (rng.random(500) < 0.7).astype(float)
    total = 0.0
    for i in range(10):
        low, high = 0.5 + i * 0.05, 0.55 + i * 0.05
        inside = [
            (1 / (1 + math.exp(-abs(m))), r) for m, r in zip(margins, right, strict=True)
            if low <= 1 / (1 + math.exp(-abs(m))) < high
        ]
        if inside:
            gap = abs(sum(c for c, _ in inside) - sum(r for _, r in inside)) / len(inside)
            total += gap * len(inside) / 500
    assert reward.calibration_error(margins, right) == pytest.approx(total, rel=1e-9)


def test_calibration_error_is_small_for_a_judge_who_states_true_chances():
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 1.5, 100_000)
    right = rng.random(100_000) < 1 / (1 + np.exp(-np.abs(margins)))
    assert reward.calibration_error(margins, right) < 0.01
    assert reward.calibration_error(5 * margins, right) > 0.1


def test_rank_correlation_is_that_of_the_ranks_and_ties_share_theirs():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, 200), rng.normal(size=200)
    ranks = [[np.mean([np.sum(v < one) + 1, np.sum(v <= one)]) for one in v] for v in (x, y)]
    assert reward.rank_correlation(x, y) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert reward.rank_correlation(x, np.exp(x)) == pytest.approx(1)


def test_bag_of_words_learns_a_word_that_decides():
    train, test = make_pairs(300), make_pairs(100, seed=1)
    margins = reward.bag_of_words_margins(train, test)
    assert reward.pair_accuracy(margins).mean() > 0.99
    swapped = [pair | {"chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in test]
    assert reward.bag_of_words_margins(train, swapped) == pytest.approx(-margins)


def test_bag_of_words_without_a_frequent_word_says_nothing():
    assert reward.bag_of_words_margins(make_pairs(1), make_pairs(4)).tolist() == [0, 0, 0, 0]


def test_bag_of_words_minimises_the_penalised_loss_of_bradley_terry():
    """Two words decide with noise: the fit is where the gradient of the loss is 0."""
    rng = np.random.default_rng(0)
    train = [{"prompt": "", "chosen": a, "rejected": b} for a, b in
             ([("good", "bad"), ("bad", "good")][int(rng.random() < 0.3)] for _ in range(400))]
    penalty = 1e-2
    margin = reward.bag_of_words_margins(train, train[:1], penalty)[0]
    won = np.mean([pair["chosen"] == train[0]["chosen"] for pair in train])
    weight = margin / 2  # of either word, with opposite signs
    slope = -2 * won / (1 + np.exp(margin)) + 2 * (1 - won) / (1 + np.exp(-margin))
    assert slope + 2 * penalty * 2 * weight == pytest.approx(0, abs=1e-4)


# -------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("bf16", [True, False])
def test_mixed_precision_multiplies_in_bfloat16_and_keeps_weights_in_float32(
    tokenizer, tmp_path, bf16
):
    model, seen = make_scorer(tokenizer), set()
    for block in model.transformer.h:
        block.mlp.c_fc.register_forward_hook(lambda m, i, output: seen.add(output.dtype))
    train_scorer(tokenizer, tmp_path, model, epochs=1, evaluations=2, bf16=bf16)
    assert seen == {torch.bfloat16 if bf16 else torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_training_learns_and_records_the_start(tokenizer, tmp_path):
    model, history = train_scorer(tokenizer, tmp_path)
    assert history[0]["step"] == 0 and history[0]["loss"] == pytest.approx(math.log(2), abs=0.1)
    assert history[-1]["accuracy"] > 0.95 and history[-1]["pairs"] == 480
    chosen, rejected = reward.score_pairs(model, tokenizer, make_pairs(60, seed=1))
    best = min(history, key=lambda row: row["loss"])
    assert (chosen > rejected).mean() == pytest.approx(best["accuracy"])


def test_the_readers_own_loss_trains_the_model(tokenizer, tmp_path):
    calls = []

    def hinge(chosen, rejected, margin):
        calls.append(1)
        return (1 - chosen + rejected).clamp(min=0).mean()

    _, history = train_scorer(tokenizer, tmp_path, loss_fn=hinge)
    assert calls and history[-1]["accuracy"] > 0.9


def test_a_killed_run_resumes_to_the_same_weights(tokenizer, tmp_path):
    from transformers import TrainerCallback

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 13:
                raise KeyboardInterrupt

    whole, _ = train_scorer(tokenizer, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_scorer(tokenizer, tmp_path / "killed", callbacks=[Kill()])
    (tmp_path / "killed" / "checkpoint-99").mkdir()  # killed while it was being written
    resumed, _ = train_scorer(tokenizer, tmp_path / "killed", model=make_scorer(tokenizer, seed=5),
                       resume=True)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_lora_keeps_its_head_when_saved_and_loaded_again(tokenizer, tmp_path):
    from peft import AutoPeftModelForSequenceClassification

    from helpers import models
    from helpers.profiles import load_profile

    make_scorer(tokenizer).save_pretrained(tmp_path / "base")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    model = models.add_lora(base, load_profile("embedded"), task="SEQ_CLS")
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    head = model.score.weight.clone()
    train_scorer(tokenizer, tmp_path / "run", model=model, pairs=make_pairs(32), epochs=1)
    assert all(torch.equal(p, dict(model.named_parameters())[n]) for n, p in frozen.items())
    assert not torch.equal(model.score.weight, head)
    model.save_pretrained(tmp_path / "adapter")
    again = AutoPeftModelForSequenceClassification.from_pretrained(
        tmp_path / "adapter", num_labels=1
    )
    pairs = make_pairs(6, seed=2)
    for before, after in zip(
        reward.score_pairs(model, tokenizer, pairs), reward.score_pairs(again, tokenizer, pairs),
        strict=True,
    ):
        np.testing.assert_allclose(after, before, atol=1e-5)


def test_a_loss_that_is_not_finite_stops_training_and_names_the_rows(tokenizer, tmp_path):
    steps = []

    def breaks(chosen, rejected, margin):
        steps.append(1)
        loss = reward.bradley_terry_loss(chosen, rejected, margin)
        return loss * float("nan") if chosen.requires_grad and len(steps) > 12 else loss

    with pytest.raises(UserError, match=r"loss became nan at step \d+, on the pairs in rows \d+"):
        train_scorer(tokenizer, tmp_path, loss_fn=breaks)
    assert list(tmp_path.glob("checkpoint-*/model.safetensors"))


def test_bad_tokenizer_and_length_are_refused(tokenizer, tmp_path):
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>")
    with pytest.raises(UserError, match="no padding"):
        train_scorer(bare, tmp_path, model=make_scorer(tokenizer))
    bare.pad_token = bare.eos_token
    with pytest.raises(UserError, match="pads with its end-of-text token"):
        train_scorer(bare, tmp_path, model=make_scorer(tokenizer))
    with pytest.raises(UserError, match="max_length is 65, but the model has only 64 positions"):
        train_scorer(tokenizer, tmp_path, max_length=65)
