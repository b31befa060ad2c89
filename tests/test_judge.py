"""A model as a judge of two answers: the orders, the letters, and the two habits it is held to."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from families import make_family
from support import byte_policy, byte_tokenizer

from helpers import course, data, evaluation, judge, models
from helpers.course import execute
from helpers.engine.tokens import encode_prompts
from helpers.errors import UserError
from helpers.profiles import load_profile

PROMPTS = ["\n\nHuman: How do I cook rice?\n\nAssistant:"] * 3
GOOD = ["Wash it, then simmer it for twelve minutes.", "Use twice the water.", "Rinse it first."]
BAD = ["No.", "Rice is a word of four letters, and there are many such words.", "Ask."]


def answers_in(prompt):
    found = re.search(r"Answer A: (.*)\n\nAnswer B: (.*)\n\nWhich", prompt)
    return found.group(1), found.group(2)


@pytest.fixture
def reader(monkeypatch):
    """Lets a rule choose in place of a model: `rule(a, b)` is the probability of the letter A."""
    def install(rule):
        def choice_logprobs(model, tokenizer, prompts, choices, batch_size=64):
            p = np.array([rule(*answers_in(prompt)) for prompt in prompts])
            return np.log(np.stack([p, 1 - p], 1) / 3)  # the letters are a third of all
        monkeypatch.setattr(evaluation, "choice_logprobs", choice_logprobs)
    return install


def test_the_verdict_is_about_the_answer_and_not_about_the_letter(reader):
    reader(lambda a, b: 0.9 if a in GOOD else 0.2)
    found = judge.judge(None, None, PROMPTS, GOOD, BAD)
    assert found == pytest.approx(np.array([[0.9, 0.8]] * 3))
    lost = judge.judge(None, None, PROMPTS, BAD, GOOD)
    assert lost == pytest.approx(1 - found[:, ::-1])
    assert judge.same_winner(lost).tolist() == [1, 1, 1]
    assert judge.points(found).tolist() == [1, 1, 1]
    assert judge.same_winner(found).tolist() == [1, 1, 1]


def test_a_judge_that_always_names_the_first_has_no_winner(reader):
    reader(lambda a, b: 0.99)
    found = judge.judge(None, None, PROMPTS, GOOD, BAD)
    assert judge.points(found).tolist() == [0.5] * 3
    assert judge.position_bias(found) == pytest.approx([0.49] * 3)
    assert judge.same_winner(found).tolist() == [0, 0, 0]
    reader(lambda a, b: 0.01)
    assert judge.position_bias(judge.judge(None, None, PROMPTS, GOOD, BAD)) == pytest.approx(
        [-0.49] * 3)


def test_a_taste_for_length_is_found_and_equal_lengths_are_left_out(reader):
    for taste, won in ((0.4, 1), (-0.4, 0)):
        reader(lambda a, b, s=taste: 0.5 + s * np.sign(len(a.split()) - len(b.split())))
        for a, b in ((GOOD, BAD), (BAD, GOOD)):
            found = judge.judge(None, None, PROMPTS, a, b)
            assert judge.prefers_longer(found, a, b).tolist() == [won] * 3
    assert len(judge.prefers_longer(found, ["a b", "c d", "e"], ["f g", "h", "i j"])) == 2  # of 3


def test_a_chat_model_is_asked_in_its_own_form_and_for_the_bare_letter(monkeypatch):
    asked = {}

    def choice_logprobs(model, tokenizer, prompts, choices, batch_size=64):
        asked["prompts"], asked["choices"] = prompts, choices
        return np.zeros((len(prompts), 2))

    monkeypatch.setattr(evaluation, "choice_logprobs", choice_logprobs)
    judge.judge(None, SimpleNamespace(writes_chat_turns=True), PROMPTS[:1], GOOD[:1], BAD[:1])
    assert asked["choices"] == [("A", "B")]
    judge.judge(None, SimpleNamespace(), PROMPTS[:1], GOOD[:1], BAD[:1])
    assert asked["choices"] == [(" A", " B")]
    assert asked["prompts"][0].endswith("one letter.\n\nAssistant:")
    assert "Question: How do I cook rice?\n" in asked["prompts"][0]


def test_rows_that_do_not_belong_together_are_named():
    with pytest.raises(UserError, match="3 prompts, 3 and 2 answers"):
        judge.judge(None, None, PROMPTS, GOOD, BAD[:2])


@pytest.mark.parametrize("chat", [True, False])
def test_without_a_template_that_ends_an_answer_the_judge_is_asked_plainly(tmp_path, chat):
    folder = make_family("llama", tmp_path / "judge", chat=chat)
    model, tokenizer = judge.load(load_profile("embedded", {"models.judge": str(folder)}))
    assert encode_prompts(tokenizer, PROMPTS[:1]) == [tokenizer(PROMPTS[0])["input_ids"]]
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_a_judge_that_is_not_to_be_had_is_one_sentence(tmp_path):
    for source in (str(tmp_path), "someone/nothing", "no/such/folder"):
        with pytest.raises(UserError, match=re.escape(source)) as told:
            judge.load(load_profile("embedded", {"models.judge": source}))
        assert "\n" not in str(told.value)


def judge_cell():
    cells = execute.read_notebook(execute.notebooks()["10"])["cells"]
    [found] = [cell for cell in cells if cell["id"] == "judge-load"]
    return "".join(found["source"])


def test_notebook_10_asks_the_judge_of_the_settings(tmp_path, capsys):
    """`sft` is the model that is loaded already; of another it is not said what it has seen."""
    sft = make_family("gpt2", tmp_path / "sft")
    for source in ("sft", str(make_family("llama", tmp_path / "judge"))):
        settings = load_profile("embedded", {"models.judge": source, "out": str(tmp_path)})
        model, tokenizer = models.load_causal(sft, settings)
        course.save_stage("sft", settings, model, tokenizer)
        pairs = [{"prompt": PROMPTS[0], "chosen": GOOD[0], "rejected": BAD[0]}]
        names = {"sft": model, "tokenizer": tokenizer, "settings": settings, "to_judge": pairs,
                 "data": data, "judge": judge}
        exec(judge_cell(), names)
        told = capsys.readouterr().out
        assert (names["judge_model"] is model) == (source == "sft")
        counted = "of 1 pairs 0 prompts and 0 answers stood word for word" in told
        assert counted == (source == "sft")
        assert (f"the judge is {source}" in told) == (source != "sft")
    again, _ = judge.load(settings.model_copy(update={
        "models": settings.models.model_copy(update={"judge": "sft"})}))
    assert again.config.model_type == "gpt2" and not again.training


def test_what_is_too_long_for_the_model_is_told_beforehand():
    """A short form, since the model reads 64 tokens; and the letters by hand, at the last token."""
    tokenizer = byte_tokenizer()
    model, form = byte_policy(tokenizer).eval(), "{question} {a}|{b}"
    prompts, first, second = ["\n\nHuman: Q\n\nAssistant:"] * 2, ["a b", "a " * 60], ["c", "d"]
    assert judge.fits(model, tokenizer, prompts, first, second, form).tolist() == [True, False]
    asked = [len(ids) for ids in encode_prompts(tokenizer, [
        judge.pairwise_prompt(prompts[0], first[0], second[0], form)])]
    for longest, ok in ((asked[0] + judge.ROOM, True), (asked[0] + judge.ROOM - 1, False)):
        assert judge.fits(model, tokenizer, prompts, first, second, form,
                          longest=longest).tolist() == [ok, False]
    with pytest.raises(UserError, match="tokens, and the model reads"):
        judge.judge(model, tokenizer, prompts, first, second, form)
    [found] = judge.judge(model, tokenizer, prompts[:1], first[:1], second[:1], form)
    slow = []
    for a, b in (("a b", "c"), ("c", "a b")):
        asked = tokenizer(f"\n\nHuman: Q {a}|{b}\n\nAssistant:")["input_ids"]
        logp = []
        for letter in (" A", " B"):
            ids = tokenizer(letter)["input_ids"]
            out = model(input_ids=torch.tensor([asked + ids])).logits[0].log_softmax(-1)
            logp.append(sum(out[len(asked) + i - 1, t].item() for i, t in enumerate(ids)))
        slow.append(math.exp(logp[0]) / (math.exp(logp[0]) + math.exp(logp[1])))
    assert found == pytest.approx([slow[0], 1 - slow[1]], abs=1e-4)


def test_the_constitution_stands_in_the_question_word_for_word():
    form = judge.constitution(("It {rhymes}.", "It is short."))
    asked = judge.pairwise_prompt(PROMPTS[0], "one", "two", form)
    assert "1. It {rhymes}.\n2. It is short.\n" in asked
    assert "How do I cook rice?" in asked and "Answer A: one" in asked and "letter" in asked
    assert "letter" not in judge.constitution(reply="answer")
    with pytest.raises(UserError, match="must be one of letter, answer"):
        judge.constitution(reply="word")


def test_the_answer_said_again_is_weighed_by_its_tokens_and_not_by_its_length():
    tokenizer = byte_tokenizer()
    model, form = byte_policy(tokenizer).eval(), "{question} {a}|{b}"
    prompts, first, second = ["\n\nHuman: Q\n\nAssistant:"], ["a b"], ["cde c"]
    [found] = judge.judge(model, tokenizer, prompts, first, second, form, reply="answer")
    slow = []
    for a, b in (("a b", "cde c"), ("cde c", "a b")):
        asked = tokenizer(f"\n\nHuman: Q {a}|{b}\n\nAssistant:")["input_ids"]
        means = []
        for text in (a, b):
            ids = tokenizer(" " + text)["input_ids"]
            out = model(input_ids=torch.tensor([asked + ids])).logits[0].log_softmax(-1)
            means.append(sum(out[len(asked) + i - 1, t].item() for i, t in enumerate(ids))
                         / len(ids))
        slow.append(1 / (1 + math.exp(means[1] - means[0])))
    assert found == pytest.approx([slow[0], 1 - slow[1]], abs=1e-4)
    texts = ["xq" * k for k in range(1, 20)]
    many = (prompts * len(texts), texts, ["b"] * len(texts), form)
    letter, again = (judge.fits(model, tokenizer, *many, reply) for reply in judge.REPLIES)
    assert again[0] and 0 < again.sum() < letter.sum()  # said once more, a text needs its room
    last = int(again.sum()) - 1
    judge.judge(model, tokenizer, *(column[last : last + 1] for column in many[:3]), form,
                reply="answer")


def test_what_is_read_first_and_named_is_counted_in_both_orders():
    verdicts = np.array([[0.9, 0.2], [0.1, 0.8], [0.9, 0.8], [0.2, 0.3]])
    assert judge.names_first(verdicts).tolist() == [1, 0, 0.5, 0.5]
