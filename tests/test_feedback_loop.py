"""The loop: who rates what, the update and what holds it back, and what is measured."""

import numpy as np
import pytest
import torch
from support import word_tokenizer
from transformers import AutoModelForSequenceClassification, GPT2Config

from helpers import feedback, feedback_loop, reward
from helpers.errors import UserError

WORDS = ["human", "assistant", ":", "what", "is", "a", "good", "bad", "because", "so", "fine",
         "no", "yes", "maybe", "."]


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(WORDS, unk="<unk>", eos="<eos>", pad="<pad>")


def make_model(tokenizer, seed=0):
    torch.manual_seed(seed)
    return AutoModelForSequenceClassification.from_config(GPT2Config(
        n_embd=16, n_layer=1, n_head=2, n_positions=64, vocab_size=len(tokenizer), num_labels=1,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)).eval()


def make_pairs(n, better, worse, seed=0):
    """Pairs of random words in which the chosen side has the word `better`."""
    rng = np.random.default_rng(seed)
    words = [[" ".join(rng.choice(WORDS[9:14], 4)) for _ in range(3)] for _ in range(n)]
    return [{"prompt": f"human : what is {a} assistant :", "chosen": f"{b} {better}",
             "rejected": f"{c} {worse}"} for a, b, c in words]


class Flat:
    """A rater to whom everything is a 3."""

    def __init__(self, name):
        self.name = name

    def rate(self, prompt, response, rng):
        return dict.fromkeys(feedback.DIMENSIONS, 3)


# ---------------------------------------------------------------------------------- properties


@pytest.mark.parametrize(("name", "yes", "no"), [
    ("reason", "Rest, because sleep heals.", "Rest. The cause is known."),
    ("example", "For instance, a cook rests.", "A cook rests for an hour."),
    ("place", "A cook in Cork rests in May.", "Rest. A cook says I may."),
    ("number", "Rest for twelve hours or 3 days.", "Rest for an often needed hour."),
    ("question", "Rest. How long did you sleep? ", "How long? Rest."),
])
def test_a_property_is_found_in_the_text_and_only_there(name, yes, no):
    assert feedback_loop.has_property(name, yes)
    assert not feedback_loop.has_property(name, no)
    assert feedback_loop.property_marks(name, [[yes, no]]).tolist() == [[True, False]]


def test_an_unknown_property_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'rhyme'; it must be one of reason, example"):
        feedback_loop.has_property("rhyme", "text")


# ------------------------------------------------------------------------------------- ratings


def test_a_property_that_no_question_differs_in_gives_way_to_one_that_most_do(capsys):
    answers = [["It is late.", "In Oslo it is late.", "Ask two friends."],
               ["It is late.", "Ask me in May.", "Sleep."]]
    assert feedback_loop.choose_property("number", answers) == "number"
    assert capsys.readouterr().out == ""
    assert feedback_loop.choose_property("reason", answers) == "place"
    assert "the property 'reason'; 'place' takes its place" in capsys.readouterr().out
    with pytest.raises(UserError, match="alike in every property"):
        feedback_loop.choose_property("reason", [["Yes.", "No."]])
    with pytest.raises(UserError, match="must be one of"):
        feedback_loop.choose_property("rhyme", answers)


def test_only_questions_whose_answers_differ_are_asked_and_half_of_the_answers_have_it():
    prompts = ["all", "none", "mixed", "one", "mixed too", "not reached"]
    answers = [["because a", "because b", "because c", "because d"], ["a", "b", "c", "d"],
               ["because a", "b", "because c", "d"], ["because a", "b", "c", "d"],
               ["because a", "because b", "c", "d"], ["because a", "because b", "c", "d"]]
    marks = feedback_loop.property_marks("reason", answers)
    items = feedback_loop.items_to_rate(prompts, answers, marks, 8, 4, model="sft")
    assert [item["prompt"] for item in items] == ["mixed"] * 4 + ["mixed too"] * 4
    assert sum("because" in item["response"] for item in items) == 4
    assert {item["model"] for item in items} == {"sft"}
    again = feedback_loop.items_to_rate(prompts, answers, marks, 8, 4, model="sft", seed=1)
    assert [i["response"] for i in again] != [i["response"] for i in items]


def test_equal_or_empty_answers_are_not_rated_against_each_other():
    answers = [["because a", "because a", "b", ""]]
    marks = feedback_loop.property_marks("reason", answers)
    assert feedback_loop.items_to_rate(["q"], answers, marks, 4, 4) == []
    assert len(feedback_loop.items_to_rate(["q"], answers, marks, 2, 2)) == 2


def test_simulated_raters_take_turns_and_reward_the_property_and_say_that_they_are_simulated():
    items = [{"prompt": p, "response": r, "model": "sft"} for p in ("p", "q")
             for r in ("because x", "x")]
    rows = feedback_loop.simulated_rows(items, [Flat("one"), Flat("two")], "reason", 1.5, "loop")
    assert [row["annotator"].split(",")[0] for row in rows] == ["one", "one", "two", "two"]
    assert {row["source"] for row in rows} == {"simulated"}
    assert [row["ratings"]["relevance"] for row in rows] == [4, 3, 4, 3]  # 4.5 rounds to even
    pairs = feedback.ratings_to_pairs(rows)
    assert [(p["chosen"], p["rejected"]) for p in pairs] == [("because x", "x")] * 2
    assert {p["source"] for p in pairs} == {"simulated"}


def test_ratings_already_stored_are_not_stored_again(tmp_path):
    store = feedback.RatingStore(tmp_path / "rows.jsonl")
    items = [{"prompt": "p", "response": r} for r in ("because x", "x")]

    def rows():
        return feedback_loop.simulated_rows(items, [Flat("one")], "reason", 1.5, "loop")

    assert feedback_loop.add_missing(store, rows()) == 2
    assert feedback_loop.add_missing(store, rows()) == 0
    assert len(store.rows()) == 2


# -------------------------------------------------------------------------------------- update


def accuracy(model, tokenizer, pairs):
    return reward.pair_accuracy(np.subtract(*reward.score_pairs(model, tokenizer, pairs))).mean()


@pytest.fixture(scope="module")
def trained(tokenizer):
    """A tiny reward model that prefers "good" to "bad", as its state."""
    model = make_model(tokenizer)
    feedback_loop.update_reward_model(
        model, tokenizer, make_pairs(64, "good", "bad"), make_pairs(8, "good", "bad", 5),
        steps=60, learning_rate=1e-2, keep=0.0)
    return model.state_dict()


def updated(tokenizer, trained, keep, **options):
    model = make_model(tokenizer)
    model.load_state_dict(trained)
    # What the new raters like contradicts nothing old, but the shortest way to it does.
    new = make_pairs(24, "bad because", "good", seed=1)
    history = feedback_loop.update_reward_model(
        model, tokenizer, new, make_pairs(64, "good", "bad", seed=2), steps=60,
        learning_rate=1e-2, keep=keep, **options)
    return model, history


def test_the_update_learns_the_new_and_the_anchor_keeps_the_old(tokenizer, trained):
    model = make_model(tokenizer)
    model.load_state_dict(trained)
    old_test = make_pairs(64, "good", "bad", seed=3)
    new_test = make_pairs(64, "bad because", "good", seed=4)
    assert accuracy(model, tokenizer, old_test) > 0.95
    assert accuracy(model, tokenizer, new_test) < 0.2
    free, _ = updated(tokenizer, trained, keep=0.0)
    held, history = updated(tokenizer, trained, keep=4.0)
    assert accuracy(free, tokenizer, new_test) > 0.9 < accuracy(held, tokenizer, new_test)
    assert accuracy(free, tokenizer, old_test) < 0.6
    assert accuracy(held, tokenizer, old_test) > 0.9
    assert [row["step"] for row in history] == list(range(1, 61))
    assert history[-1]["new_loss"] < history[0]["new_loss"]


def test_the_update_repeats_exactly_and_starts_from_the_old_margins(tokenizer, trained):
    one, history = updated(tokenizer, trained, keep=1.0)
    two, again = updated(tokenizer, trained, keep=1.0)
    assert history == again
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_the_old_margins_are_those_of_the_same_pairs(tokenizer, trained):
    seen = []

    def spy(margins, old_margins):
        seen.append((margins - old_margins).abs().max().item())
        return feedback_loop.keep_loss(margins, old_margins)

    updated(tokenizer, trained, keep=1.0, keep_loss_fn=spy)
    assert seen[0] < 1e-5 < seen[-1]


def test_keep_loss_is_least_where_nothing_changed():
    old = torch.tensor([2.0, -1.0, 0.3])
    least = feedback_loop.keep_loss(old, old)
    for shift in (-0.5, 0.5):
        assert feedback_loop.keep_loss(old + shift, old) > least
    p = torch.sigmoid(old)
    torch.testing.assert_close(least, -(p * p.log() + (1 - p) * (1 - p).log()).mean())


def test_nothing_to_learn_from_or_nothing_to_train_is_said_plainly(tokenizer):
    old = make_pairs(4, "good", "bad")
    with pytest.raises(UserError, match="no pairs to learn from"):
        feedback_loop.update_reward_model(make_model(tokenizer), tokenizer, [], old)
    with pytest.raises(UserError, match="frozen"):
        feedback_loop.update_reward_model(
            make_model(tokenizer).requires_grad_(False), tokenizer, old, old)


def test_the_head_learns_and_the_likelihood_stands_aside(tokenizer, trained):
    alone, history = updated(tokenizer, trained, keep=1.0)
    model = make_model(tokenizer)
    model.load_state_dict(trained)
    reward.use_likelihood(model, 2.0)
    again = feedback_loop.update_reward_model(
        model, tokenizer, make_pairs(24, "bad because", "good", seed=1),
        make_pairs(64, "good", "bad", seed=2), steps=60, learning_rate=1e-2, keep=1.0)
    assert again == history
    assert reward.likelihood_weight(model) == 2.0
    pair = make_pairs(1, "good", "bad")
    with reward.likelihood_aside(model):
        head = reward.score_pairs(model, tokenizer, pair)
    assert head == reward.score_pairs(alone, tokenizer, pair) != reward.score_pairs(
        model, tokenizer, pair)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_in_several_passes_is_the_same_step(tokenizer, checkpointing):
    """What memory holds decides how many pairs are read at once, and not what is learned."""
    new, old = make_pairs(8, "because so", "no"), make_pairs(20, "good", "bad")

    def updated(**changes):
        model, seen = make_model(tokenizer), []
        if changes and checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.transformer.h[0].mlp.register_forward_pre_hook(
            lambda _, args: seen.append((len(args[0]), torch.is_grad_enabled())))
        log = feedback_loop.update_reward_model(
            model, tokenizer, new, old, steps=3, batch_size=8, old_batch_size=20,
            learning_rate=1e-2, **changes)
        assert not model.training
        return torch.cat([p.detach().flatten() for p in model.parameters()]), log, seen

    weights, log, seen = updated()
    again, other, passes = updated(pairs_at_once=6)
    torch.testing.assert_close(again, weights, rtol=0, atol=2e-4)
    for row, same in zip(log, other, strict=True):
        assert same == pytest.approx(row, abs=1e-4)
    learned = [rows for rows, gradients in passes if gradients]
    assert max(learned) == 6 and max(rows for rows, gradients in seen if gradients) == 20
    # 8 and 20 pairs by six are two and four passes; checkpointing computes a layer twice
    assert len(learned) == 3 * (2 + 4) * (2 if checkpointing else 1)
    assert max(rows for rows, gradients in passes if not gradients) <= 12


def test_a_loss_that_is_not_finite_stops_the_update(tokenizer):
    old = make_pairs(4, "good", "bad")
    with pytest.raises(UserError, match="step 1 of the update"):
        feedback_loop.update_reward_model(
            make_model(tokenizer), tokenizer, old, old,
            keep_loss_fn=lambda new, before: new.sum() * float("nan"))


# ------------------------------------------------------------------------------------- measures


def test_matched_pairs_are_alike_in_quality_and_one_per_question():
    marks = np.array([[True, False, False], [True, True, True], [False, True, True]])
    quality = np.array([[1.0, 5.0, 1.2], [0, 0, 0], [3.0, 9.0, 3.5]])
    assert feedback_loop.matched_pairs(marks, quality).tolist() == [[0, 0, 2], [2, 2, 0]]
    for question, first, second in feedback_loop.matched_pairs(marks, seed=3):
        assert marks[question, first] and not marks[question, second]
    assert feedback_loop.matched_pairs(marks[1:2]).shape == (0, 3)


def test_preference_and_best_of_n_look_at_the_right_answers():
    scores = np.array([[1.0, 2.0, 0.0], [3.0, 3.0, 4.0]])
    pairs = np.array([[0, 1, 0], [0, 2, 0], [1, 0, 1]])
    assert feedback_loop.preferred(scores, pairs).tolist() == [1.0, 0.0, 0.5]
    values = np.array([[10.0, 20.0, 30.0], [1.0, 2.0, 3.0]])
    assert feedback_loop.of_best(scores, values).tolist() == [20.0, 3.0]


def test_scores_keep_their_place():
    answers = [["a", "bb"], ["ccc", "d"]]
    scores = feedback_loop.score_answers(
        lambda p, r: [100 * len(x) + len(y) for x, y in zip(p, r, strict=True)], ["p", "qq"],
        answers)
    assert scores.tolist() == [[101, 102], [203, 201]]


def test_change_is_paired():
    estimate, low, high = feedback_loop.change([0.0, 10.0, 20.0], [1.0, 11.0, 21.0])
    assert (estimate, low, high) == (1.0, 1.0, 1.0)
