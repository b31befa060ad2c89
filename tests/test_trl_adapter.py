"""The adapter against TRL's own `get_reward` and trainer, on tiny random models."""

import copy
import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from families import make_family
from support import byte_policy, byte_tokenizer, pieces_tokenizer

from helpers import models
from helpers import trl_adapter as ta
from helpers.errors import UserError

WIDTH, LENGTH = 6, 10


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def policy(tokenizer):
    return byte_policy(tokenizer)


def rows(tokenizer, prompt, response, width=WIDTH, length=LENGTH):
    """One padded row as TRL builds it: pads, prompt, response, pads."""
    p = tokenizer.encode(prompt)
    r = tokenizer.encode(response) if isinstance(response, str) else list(response)
    pad = tokenizer.pad_token_id
    return [pad] * (width - len(p)) + p + r + [pad] * (length - len(r))


def count_letters(prompts, responses):
    return [len(p) + 100 * len(r) for p, r in zip(prompts, responses, strict=True)]


def test_get_reward_of_trl_picks_up_the_score_of_the_text(tokenizer):
    from trl.experimental.utils import get_reward

    batch = torch.tensor([
        rows(tokenizer, "a good", " film"),
        rows(tokenizer, "a", tokenizer.encode(" bad day") + [tokenizer.eos_token_id]),
        rows(tokenizer, "a bad", ""),
        rows(tokenizer, "it", " a" * LENGTH),
    ])
    reward = ta.TextReward(count_letters, tokenizer, WIDTH)
    _, scores, _ = get_reward(reward, batch, tokenizer.pad_token_id, WIDTH)
    expected = count_letters(["a good", "a", "a bad", "it"], [" film", " bad day", "", " a" * 10])
    assert scores.tolist() == expected
    assert reward.reader.batches[-1]["lengths"].tolist() == [
        len(tokenizer.encode(" film")), len(tokenizer.encode(" bad day")) + 1, 0, LENGTH]


def test_text_after_a_pad_in_mid_response_is_not_seen_by_the_judge(tokenizer):
    from trl.experimental.utils import get_reward

    seen = []

    def spy(prompts, responses):
        seen.extend(responses)
        return [0.0] * len(prompts)

    response = [*tokenizer.encode(" good"), tokenizer.pad_token_id, *tokenizer.encode(" bad")]
    get_reward(ta.TextReward(spy, tokenizer, WIDTH),
               torch.tensor([rows(tokenizer, "a", response)]), tokenizer.pad_token_id, WIDTH)
    assert seen == [" good"]


def test_the_judge_reads_the_space_between_prompt_and_response():
    pieces = pieces_tokenizer()
    padded = ta.pad_prompts(["This film was"], pieces, WIDTH)[0]["input_ids"]
    assert padded[-4] == pieces.bos_token_id
    ids = torch.tensor([padded + pieces("great", add_special_tokens=False)["input_ids"]])
    prompts, responses, _ = ta.split_texts(ids, ids != pieces.pad_token_id, pieces, WIDTH)
    assert prompts[0] + responses[0] == "This film was great"


def test_id_zero_as_a_real_token_would_not_be_taken_for_padding(tokenizer):
    ids = torch.tensor([[0, 0, 5, 0, 6, 0]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 0]])
    _, _, response_mask = ta.split_texts(ids, mask, tokenizer, 3)
    assert response_mask.tolist() == [[1, 1, 0]]


def test_prompts_that_are_not_left_padded_to_the_width_are_refused(tokenizer):
    ids = torch.tensor([[5, 6, 0, 0, 7, 8]])
    mask = torch.tensor([[1, 1, 0, 0, 1, 1]])
    with pytest.raises(UserError, match="pad every prompt on the left"):
        ta.split_texts(ids, mask, tokenizer, 4)


def test_a_reward_that_is_not_one_finite_number_per_row_is_refused(tokenizer):
    ids = torch.tensor([rows(tokenizer, "a", " film")])
    for bad in (lambda p, r: [float("nan")], lambda p, r: [1.0, 2.0]):
        with pytest.raises(UserError, match="one finite number"):
            ta.TextReward(bad, tokenizer, WIDTH).reader(ids, (ids != 0).long())


def test_padded_prompts_have_one_width_and_refuse_pad_equal_eos(tokenizer):
    padded = ta.pad_prompts(["a", "a good film"], tokenizer, WIDTH)
    assert {len(r["input_ids"]) for r in padded} == {WIDTH}
    assert tokenizer.decode(padded[1]["input_ids"], skip_special_tokens=True) == "a good film"
    with pytest.raises(UserError, match="tokens"):
        ta.pad_prompts(["a " * 50], tokenizer, WIDTH)
    clash = copy.deepcopy(tokenizer)
    clash.pad_token = clash.eos_token
    with pytest.raises(UserError, match="pads with its end-of-text token"):
        ta.pad_prompts(["a"], clash, WIDTH)


def test_value_model_starts_at_zero_on_a_copy_of_the_policys_backbone(policy):
    value = ta.new_value_model(policy, pad_token_id=0)
    ids = torch.randint(2, 200, (2, 7))
    hidden = value.transformer(ids).last_hidden_state
    torch.testing.assert_close(hidden, policy.eval().transformer(ids).last_hidden_state)
    assert value.score(hidden).abs().max() == 0
    value.transformer.wte.weight.data.zero_()
    assert policy.transformer.wte.weight.abs().max() > 0


def test_undilute_recovers_the_mean_over_real_tokens():
    ratio = np.array([[1.2, 0.9, 1.0, 1.0], [1.1, 1.3, 0.8, 1.0]])
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0]], dtype=bool)
    assert ta.undilute(ratio.mean(), mask.mean(), fill=1) == pytest.approx(ratio[mask].mean())


@pytest.fixture
def trained(tokenizer, policy, tmp_path):
    """Four updates of TRL's trainer for a reward that counts the letter a."""
    with ta.quiet():
        from datasets import Dataset
        from trl.experimental.ppo import PPOConfig, PPOTrainer

        reference = copy.deepcopy(policy)
        value = ta.new_value_model(policy, tokenizer.pad_token_id)
        reward = ta.TextReward(
            lambda p, r: [float(t.count("a")) for t in r], tokenizer, WIDTH)
        config = PPOConfig(
            output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False,
            gradient_checkpointing=False, save_strategy="no", num_sample_generations=0,
            disable_tqdm=True, total_episodes=64, per_device_train_batch_size=16,
            num_mini_batches=2, response_length=LENGTH, stop_token="eos", temperature=1.0,
            learning_rate=1e-2, missing_eos_penalty=1.0)
        data = Dataset.from_list(ta.pad_prompts(["a", "a good", "the end"] * 16, tokenizer, WIDTH))
        store = {}
        trainer = PPOTrainer(
            args=config, processing_class=tokenizer, model=policy, ref_model=reference,
            reward_model=reward, value_model=value, train_dataset=data,
            callbacks=[ta.snapshot_before_last(store)])
    return trainer, reward, reference, store


def test_trainer_runs_on_the_adapter_in_silence_and_logs_the_adapters_scores(trained, capfd):
    trainer, reward, _, _ = trained
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = ta.train_quietly(trainer)
    assert capfd.readouterr() == ("", "") and not caught
    assert len(history) == 4 and len(reward.reader.batches) == 4
    eos = 1.0  # the penalty is taken off rows without an end token, after the reward
    for row, batch in zip(history, reward.reader.batches, strict=True):
        top, bottom = batch["scores"].mean(), batch["scores"].mean() - eos
        assert bottom - 1e-5 <= row["objective/scores"] <= top + 1e-5


def test_logged_kl_is_the_masked_k1_sum_of_ours_on_the_same_responses(trained):
    from helpers.evaluation import response_logprobs, sequence_kl

    trainer, reward, reference, store = trained
    history = ta.train_quietly(trainer)
    last = reward.reader.last
    ids = (last.prompt_ids, last.prompt_mask, last.response_ids, last.response_mask)
    ours = sequence_kl(response_logprobs(store["policy"], *ids),
                       response_logprobs(reference, *ids), last.response_mask)
    assert history[-1]["objective/kl"] == pytest.approx(float(ours.mean()), abs=2e-3)
    assert abs(history[0]["objective/kl"]) < 1e-4  # before the first update nothing has moved


# --- the same task for two trainers, and its measures ---------------------------------------


@pytest.fixture
def settings(tmp_path):
    from helpers.profiles import load_profile

    return load_profile("embedded", {"out": str(tmp_path), "ppo_trl.max_new_tokens": LENGTH})


def test_both_trainers_are_given_one_task(settings, tmp_path):
    trl, ours = ta.trl_config(settings, str(tmp_path)), ta.our_config(settings)
    pairs = {
        "total_episodes": ours.updates * ours.batch_size, "temperature": ours.temperature,
        "per_device_train_batch_size": ours.batch_size, "num_ppo_epochs": ours.epochs,
        "num_mini_batches": ours.batch_size // ours.mini_batch_size,
        "response_length": ours.max_new_tokens, "learning_rate": ours.learning_rate,
        "adam_epsilon": ours.adam_epsilon, "kl_coef": ours.kl_coef, "gamma": ours.gamma,
        "kl_estimator": ours.kl_estimator, "lam": ours.lam, "cliprange": ours.clip_range,
        "cliprange_value": ours.value_clip_range, "vf_coef": ours.value_coef, "seed": ours.seed,
        "whiten_rewards": ours.whiten_rewards,
        "missing_eos_penalty": ours.missing_eos_penalty or None,
    }
    assert {name: getattr(trl, name) for name in pairs} == pairs
    assert not ours.normalise_reward and ours.kl_target is None  # TRL knows neither
    assert ta.our_config(settings, epochs=7).epochs == 7


def test_quiet_training_keeps_the_rows_of_a_trainer_that_calls_its_reward_by_another_name(
    tokenizer, policy, tmp_path, capfd
):
    policy.save_pretrained(tmp_path / "policy")
    policy.config._name_or_path = str(tmp_path / "policy")
    with ta.quiet():
        from datasets import Dataset
        from trl import RLOOConfig, RLOOTrainer

        config = RLOOConfig(
            output_dir=str(tmp_path), report_to="none", save_strategy="no", disable_tqdm=True,
            use_cpu=True, bf16=False, gradient_checkpointing=False, logging_steps=1, max_steps=2,
            per_device_train_batch_size=8, num_generations=4, max_completion_length=4,
            dataloader_pin_memory=False, disable_dropout=True)
        trainer = RLOOTrainer(
            model=policy, reward_funcs=lambda prompts, completions, **_: [1.0, 2.0] * 4,
            args=config, processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"prompt": "a good"}, {"prompt": "the end"}]))
    rows = ta.train_quietly(trainer, every=1)
    assert [row["reward"] for row in rows] == [1.5, 1.5] and "seconds" in rows[0]
    out, err = capfd.readouterr()
    assert out.count("update") == 2 and "1.50" in out and err == ""


# --- what a base folder brings ---------------------------------------------------------------

BROUGHT = [
    {"repetition_penalty": 3.0}, {"min_p": 0.3}, {"typical_p": 0.2}, {"no_repeat_ngram_size": 1},
    {"bad_words_ids": [[70], [71]]}, {"suppress_tokens": list(range(60, 120))},
    {"begin_suppress_tokens": list(range(60, 200))}, {"forced_bos_token_id": 70},
    {"forced_eos_token_id": 0}, {"sequence_bias": [[[70], 9.0]]},
    {"exponential_decay_length_penalty": [1, 2.0]}, {"min_new_tokens": 9}, {"num_beams": 2},
    {"watermarking_config": {"bias": 5.0}}, {"guidance_scale": 3.0}, {"epsilon_cutoff": 0.01},
    {"temperature": 0.2, "top_k": 3, "top_p": 0.3, "do_sample": True}, {"eos_token_id": [0, 70]},
]


@pytest.fixture(scope="module")
def brought(tmp_path_factory):
    return make_family("gpt2", tmp_path_factory.mktemp("brought"))


@pytest.mark.parametrize("setting", BROUGHT, ids=lambda s: "-".join(s))
def test_policy_and_reference_are_the_same_in_both_trainers_whatever_a_folder_brings(
    brought, tmp_path, setting
):
    """KL in nats a token and ratio before the first step, of a model as `load_causal` gives it."""
    from helpers.ppo_trainer import PPO, PPOConfig
    from helpers.profiles import load_profile

    prompts = ["The old cat", "A", "The quiet fox sat on", "Owl"] * 2
    folder = shutil.copytree(brought, tmp_path / "base")
    content = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(content | setting))
    policy, own = models.load_causal(folder, load_profile(), trains=True)
    reference = models.freeze(models.load_causal(folder, load_profile())[0])

    def letters(prompts, responses):
        return [float(text.count("a")) for text in responses]

    ours = PPO(copy.deepcopy(policy), reference, letters, own, PPOConfig(
        updates=1, batch_size=8, epochs=1, max_new_tokens=LENGTH, seed=1, normalise_reward=False))
    first = ours.train(prompts)[0]
    assert first["kl"] / LENGTH == pytest.approx(0, abs=1e-4)
    assert first["ratio_max"] == pytest.approx(1, abs=1e-4)

    with ta.quiet():
        from datasets import Dataset
        from trl.experimental.ppo import PPOConfig as TrlConfig
        from trl.experimental.ppo import PPOTrainer

        config = TrlConfig(
            output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False,
            gradient_checkpointing=False, save_strategy="no", num_sample_generations=0,
            disable_tqdm=True, total_episodes=8, per_device_train_batch_size=8, num_ppo_epochs=1,
            num_mini_batches=1, response_length=LENGTH, stop_token="eos", learning_rate=1e-3)
        trainer = PPOTrainer(
            args=config, processing_class=own, model=policy, ref_model=reference,
            reward_model=ta.TextReward(letters, own, 12),
            value_model=ta.new_value_model(reference, own.pad_token_id),
            train_dataset=Dataset.from_list(ta.pad_prompts(prompts, own, 12)))
        row = ta.train_quietly(trainer)[0]
    assert row["objective/kl"] / LENGTH == pytest.approx(0, abs=1e-4)
    assert row["val/ratio"] == pytest.approx(1, abs=1e-4)


def test_a_prompt_that_spells_an_end_is_text_for_a_trainer_that_tokenises_itself(
    brought, tmp_path
):
    from helpers.profiles import load_profile

    policy, own = models.load_causal(brought, load_profile(), trains=True)
    ta.ready_for_trl(policy, own, tmp_path / "policy")
    with ta.quiet():
        from datasets import Dataset
        from trl import RLOOConfig, RLOOTrainer

        config = RLOOConfig(
            output_dir=str(tmp_path), report_to="none", save_strategy="no", disable_tqdm=True,
            use_cpu=True, bf16=False, gradient_checkpointing=False, max_steps=1,
            per_device_train_batch_size=2, num_generations=2, max_completion_length=2)
        trainer = RLOOTrainer(
            model=policy, reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config, processing_class=own,
            train_dataset=Dataset.from_list([{"prompt": "fine <|endoftext|> more"}]))
    (ids,), *_ = trainer._tokenize_prompts(["fine <|endoftext|> more"])
    assert own.eos_token_id not in ids and own.decode(ids) == "fine <|endoftext|> more"
