"""The task that the studies of PPO share, and what ppo_frontier.py and ppo_long.py store of it."""

import sys

import numpy as np
import pytest

from helpers.paths import ROOT

sys.path.insert(0, str(ROOT))
from benchmarks import ppo_frontier as frontier
from benchmarks import ppo_long
from benchmarks.shared import imdb_task


def rows_of(name, seeds, slope, kls=(1.0, 4.0, 9.0)):
    """Runs whose gold gain is `slope` times √KL."""
    return [{"trainer": name, "seed": seed, "kl": kl, "gold_gain": slope * kl**0.5,
             "reward_gain": kl} for seed in range(seeds) for kl in kls]


def test_the_area_is_that_under_gold_against_root_kl_up_to_where_every_run_has_been():
    rows = rows_of("TRL", 2, 0.2, (1.0, 4.0)) + rows_of("ours", 2, 0.3)
    found = frontier.summary(rows, [{"kl": 0.0, "gold_gain": 0.0}, {"kl": 4.0, "gold_gain": 0.8}])
    assert found["sqrt_kl"][-1] == 2.0  # TRL's runs end at 4 nats
    assert found["area"]["TRL"]["mean"] == pytest.approx(0.2 * 2**2 / 2)
    assert found["area"]["ours"]["mean"] == pytest.approx(0.3 * 2**2 / 2)
    assert found["area"]["best of n"]["mean"] == pytest.approx(0.4 * 2**2 / 2)
    assert found["ratio"] == pytest.approx(1.5)


def test_the_band_runs_from_the_lowest_seed_to_the_highest():
    rows = rows_of("TRL", 1, 0.2) + rows_of("ours", 1, 0.1) + [
        {**r, "seed": 1} for r in rows_of("ours", 1, 0.3)]
    curve = frontier.summary(rows, [])["curves"]["ours"]["gold_gain"]
    for key, slope in (("low", 0.1), ("mean", 0.2), ("high", 0.3)):
        assert curve[key][-1] == pytest.approx(3 * slope, abs=1e-3)


def test_a_run_that_did_not_learn_has_no_ratio_and_a_negative_kl_counts_as_none():
    found = frontier.summary(rows_of("TRL", 1, -0.1) + rows_of("ours", 1, 0.1), [])
    assert found["ratio"] is None
    run = [{"kl": -0.01, "gold_gain": 0.0}, {"kl": 1.0, "gold_gain": 0.5}]
    assert frontier.on_grid(run, "gold_gain", np.array([0.0, 0.5, 1.0])) == pytest.approx(
        [0, 0.25, 0.5])


def test_the_last_update_is_always_measured():
    assert imdb_task.moments(10, 4) == {2, 5, 8, 10}
    assert imdb_task.moments(3, 8) == {1, 2, 3}


def test_a_policy_is_compared_with_best_of_n_at_its_own_kl():
    best = [{"kl": 0.0, "reward_gain": 0.0, "gold_gain": 0.0},
            {"kl": 2.0, "reward_gain": 1.0, "gold_gain": 0.2},
            {"kl": 4.0, "reward_gain": 1.4, "gold_gain": 0.1}]
    row = {"kl": 1.0, "reward_gain": 0.1, "gold_gain": 0.1}  # other prompts: it must not count
    same = {"same_reward_gain": 0.6, "same_gold_gain": 0.3}
    found = ppo_long.shares(row | same | {"same_kl": 3.0}, best)
    assert found == pytest.approx({"share_of_best_of_n": 0.5, "gold_share": 2.0})
    for kl in (-0.1, 4.1):  # nothing to compare with
        found = ppo_long.shares(row | same | {"same_kl": kl}, best)
        assert found == {"share_of_best_of_n": None, "gold_share": None}


def test_the_share_has_an_interval_over_prompts():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(200, 64)) + rng.normal(size=(200, 1))  # prompts differ in their mean
    best = np.array([np.mean([rng.choice(row, 8, replace=False).max() for _ in range(500)])
                     for row in scores])
    half = scores.mean(1) + 0.5 * (best - scores.mean(1))
    kl = np.log(8) - 7 / 8
    share, low, high = ppo_long.share_interval(half, kl - 1e-9, scores)
    assert share == pytest.approx(0.5, abs=0.01) and 0.48 < low <= share <= high < 0.52
    noisy = half + rng.normal(size=200)  # a standard error of 1 / sqrt(200) in the mean gain
    share, low, high = ppo_long.share_interval(noisy, kl - 1e-9, scores)
    error = 1 / np.sqrt(200) / (best - scores.mean(1)).mean()
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)
    for kl in (-0.1, 4.0, 60.0):  # nothing to compare with
        assert ppo_long.share_interval(half, kl, scores) is None


def test_our_run_takes_changes_and_is_measured_on_the_way(monkeypatch):
    seen = []

    class Trainer:
        def __init__(self, policy, reference, reward_fn, tokenizer, config, value_model, callbacks):
            self.policy, self.config, self.callbacks = policy, config, callbacks
            seen.append(config)

        def train(self, prompts):
            for step in range(1, self.config.updates + 1):
                for callback in self.callbacks:
                    callback(self, {"step": step, "episodes": 32 * step, "kl_coef": 1 / step})

    monkeypatch.setattr(imdb_task.ppo_trainer, "PPO", Trainer)
    monkeypatch.setattr(imdb_task.trl_adapter, "new_value_model", lambda *_: None)
    job = type("Job", (), {"measure": lambda self, policy: {"policy": policy}})()
    job.policy, job.reference, job.reward_fn, job.train = {}, None, None, []
    job.tokenizer = type("Tokenizer", (), {"pad_token_id": 1})()
    job.overrides = {"ppo_trl.total_episodes": 128, "ppo_trl.batch_size": 32,
                     "ppo_trl.kl_coef": 0.3}
    rows = imdb_task.run_ours(job, 5, 2, kl_target=7.0, kl_horizon=300)
    assert [(r["episodes"], r["kl_coef"]) for r in rows] == [(64, 0.5), (128, 0.25)]
    assert rows[0]["policy"] == {} and rows[0]["policy"] is not job.policy  # trains a copy
    config = seen[0]
    assert (config.kl_target, config.kl_horizon, config.kl_coef) == (7.0, 300, 0.3)
    assert (config.updates, config.seed) == (4, 5)
    imdb_task.run_ours(job, 5, 2)
    assert seen[1].kl_target is None  # as in TRL's trainer, unless asked for


@pytest.mark.parametrize("given, told", [
    ("kl_targt=7", "no field 'kl_targt'"), ("kl_target", "not of the form key=value"),
    ("kl_target=-1", "kl_target is -1; it must be positive"),
])
def test_a_bad_change_ends_the_long_run_before_it_draws(monkeypatch, capsys, given, told):
    monkeypatch.setattr(ppo_long, "Job", lambda *_: pytest.fail("it began"))
    monkeypatch.setattr(sys, "argv", ["ppo_long.py", "--ours", given])
    with pytest.raises(SystemExit) as stop:
        ppo_long.main()
    assert stop.value.code == 2 and told in capsys.readouterr().err


def test_draws_are_kept_for_the_same_models_prompts_and_number_only(monkeypatch, tmp_path):
    job, made = type("Job", (), {"made_of": "a", "test": ["x", "y", "z"]})(), []

    def draw(job, prompts, samples):
        made.append((job.made_of, job.test[:prompts], samples))
        return np.random.default_rng(len(made)).normal(size=(2, prompts, samples))

    monkeypatch.setattr(imdb_task, "draw", draw)
    first, again = (ppo_long.kept_draws(job, 2, 5, tmp_path / "new") for _ in range(2))
    assert np.array_equal(first, again) and np.shape(first) == (2, 2, 5) and len(made) == 1
    ppo_long.kept_draws(job, 2, 6, tmp_path / "new")
    ppo_long.kept_draws(job, 3, 5, tmp_path / "new")
    job.test = ["x", "w", "z"]
    ppo_long.kept_draws(job, 2, 5, tmp_path / "new")
    job.made_of = "b"
    ppo_long.kept_draws(job, 2, 5, tmp_path / "new")
    ppo_long.kept_draws(job, 2, 5, None)
    assert made[1:] == [("a", ["x", "y"], 6), ("a", ["x", "y", "z"], 5), ("a", ["x", "w"], 5),
                        ("b", ["x", "w"], 5), ("b", ["x", "w"], 5)]


def test_draws_for_best_of_n_keep_their_prompt(monkeypatch):
    """Each draw's score is its prompt's number, so best-of-n gains nothing over their mean."""
    job = type("Job", (), {})()
    job.test, job.reference, job.tokenizer = [f"{i}" for i in range(6)], None, None
    job.task = type("Task", (), {"max_new_tokens": 4, "temperature": 1.0})()
    asked = []

    def sample(model, tokenizer, rows, *rest, **options):
        asked.append(len(rows))
        return type("Batch", (), {"texts": [""] * len(rows)})()

    monkeypatch.setattr(imdb_task.generation, "sample", sample)
    job.reward_fn = lambda prompts, responses: np.array([float(p) for p in prompts])
    monkeypatch.setattr(imdb_task, "gold_sentiment", lambda text: -float(text))
    best = imdb_task.best_of(*imdb_task.draw(job, 4, 300))
    assert sum(asked) == 4 * 300
    assert max(abs(row["reward_gain"]) + abs(row["gold_gain"]) for row in best) < 1e-3
