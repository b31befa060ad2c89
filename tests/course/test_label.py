"""The page on which raters compare pairs: its order, its blindness, its store, who may ask."""

import json

import pytest
from tornado.testing import AsyncHTTPTestCase

from helpers.course import cli
from helpers.course.label import queue, server
from helpers.engine.dialogues import render_prompt
from helpers.errors import UserError
from helpers.feedback import RatingStore, preferences_to_pairs

ITEMS = [queue.Item(f"question {n}", f"good {n}", f"bad {n}", "ours", "theirs") for n in range(20)]
GOLD = [queue.Item(f"test {n}", f"right {n}", f"wrong {n}", gold="ab"[n % 2]) for n in range(4)]


@pytest.fixture
def store(tmp_path):
    return RatingStore(tmp_path / "labels.jsonl")


def choose(waiting, name, better, count=None):
    """Answer all that is asked: `better` of the two texts as they are shown."""
    seen = []
    while (item := waiting.next(name)["item"]) and len(seen) != count:
        sides = {item["left"]: "left", item["right"]: "right"}
        picked = better(*sides)
        waiting.answer(name, item["id"], sides.get(picked, "tie"))
        seen.append(item)
    return seen


def good(a, b):
    return a if a.startswith(("good", "right")) else b


def test_every_answer_is_stored_as_the_file_had_the_pair_whatever_side_it_stood_on(store):
    seen = choose(queue.Queue(ITEMS, store), "ann", good)
    assert len(seen) == len({item["id"] for item in seen}) == 20
    rows = store.rows()
    assert {(r["preference"], r["annotator"], r["model_a"], r["model_b"]) for r in rows} == {
        ("a", "ann", "ours", "theirs")}
    assert {r["prompt"] for r in rows} == {item.prompt for item in ITEMS}
    assert all(pair["chosen"].startswith("good") for pair in preferences_to_pairs(rows))


def test_order_and_sides_are_chances_of_each_rater_and_stay_after_a_restart(store, tmp_path):
    first = queue.Queue(ITEMS, store)
    ann, bob = (choose(first, name, good) for name in ("ann", "bob"))
    ids = [[item["id"] for item in seen] for seen in (ann, bob)]
    assert ids[0] != ids[1] and ids[0] != [item.id for item in ITEMS]
    for seen in (ann, bob):
        left = sum(item["left"].startswith("good") for item in seen)
        assert 3 <= left <= 17
    again = queue.Queue(ITEMS, RatingStore(tmp_path / "other.jsonl"))
    assert choose(again, "ann", good) == ann
    assert {*ann[0]} == {"id", "prompt", "left", "right"}  # no model is told


def test_a_restart_goes_on_and_the_same_answer_twice_is_one(store):
    waiting = queue.Queue(ITEMS, store)
    choose(waiting, "ann", good, count=8)
    again = queue.Queue(ITEMS, RatingStore(store.path))
    assert again.next("ann")["done"] == 8 and again.next("bob")["done"] == 0
    key = again.next("ann")["item"]["id"]
    for _ in range(3):  # sent again by a page that heard no reply
        again.answer("ann", key, "tie")
    assert len(store.rows()) == 9 and len(store.history()) == 9


def test_an_answer_is_put_right_by_another_one(store):
    waiting = queue.Queue(ITEMS, store)
    choose(waiting, "ann", good, count=3)
    last = waiting.last("ann")
    assert last[last["choice"]].startswith("good")
    waiting.answer("ann", last["id"], "tie")
    assert waiting.last("ann")["choice"] == "tie"
    assert sorted(r["preference"] for r in store.rows()) == ["a", "a", "tie"]
    assert len(store.history()) == 4
    assert waiting.last("bob") is None


def test_test_questions_are_mixed_in_judged_and_kept_apart(store):
    waiting = queue.Queue(ITEMS, store, GOLD)
    seen = choose(waiting, "ann", good)
    places = [n for n, item in enumerate(seen) if item["prompt"].startswith("test")]
    assert len(seen) == 24 and places != [20, 21, 22, 23]
    assert waiting.next("ann")["gold"] == {"right": 2, "of": 4}  # of two the known answer is b
    assert len(store.rows()) == 20 and not [r for r in store.rows() if "test" in r["prompt"]]
    assert len(waiting.gold_store.rows()) == 4
    assert queue.Queue(ITEMS, store, GOLD).next("ann")["gold"] == {"right": 2, "of": 4}


def test_agreement_is_that_of_pairs_which_two_have_answered(store):
    waiting = queue.Queue(ITEMS, store)
    choose(waiting, "ann", good, count=15)
    assert waiting.agreement() is None
    choose(waiting, "bob", good)
    assert waiting.agreement() == {"alpha": 1.0, "pairs": 15}
    choose(waiting, "eve", lambda a, b: b if good(a, b) == a else a)  # the other one, always
    found = waiting.agreement()
    assert found["pairs"] == 20 and found["alpha"] < 0.2


@pytest.mark.parametrize(("annotator", "key", "choice", "words"), [
    ("", ITEMS[0].id, "left", "give a name"), ("a\x1bb", ITEMS[0].id, "left", "give a name"),
    ("x" * 61, ITEMS[0].id, "left", "give a name"), (7, ITEMS[0].id, "left", "give a name"),
    ("ann", "nothing", "left", "no such pair"), ("ann", ITEMS[0].id, "a", "left, right or tie")])
def test_what_cannot_be_meant_is_refused_and_nothing_stored(store, annotator, key, choice, words):
    with pytest.raises(UserError, match=words):
        queue.Queue(ITEMS, store).answer(annotator, key, choice)
    assert store.rows() == []


# --- files


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_pairs_are_read_in_the_forms_the_course_reads(tmp_path):
    plain = {"prompt": "Why?", "response_a": "one", "response_b": "two"}
    asked = render_prompt("Why?")
    forms = {"plain": plain, "judged": {**plain, "winner": "b"},
             "pairs": {"prompt": "Why?", "chosen": "two", "rejected": "one"},
             "hh": {"chosen": f"{asked} two", "rejected": f"{asked} one"}}
    for name, row in forms.items():
        [item] = queue.read_items(write(tmp_path / f"{name}.jsonl", [row]))
        assert {item.response_a, item.response_b} == {"one", "two"} and item.gold is None, name
        if name != "plain":
            [known] = queue.read_items(tmp_path / f"{name}.jsonl", gold=True)
            assert {"a": known.response_a, "b": known.response_b}[known.gold] == "two", name


@pytest.mark.parametrize(("rows", "words"), [
    ([], "row 1: there is no pair"), ([{"prompt": "p", "response_a": "a"}], "row 1"),
    ([{"prompt": "p", "response_a": "a", "response_b": " "}], "row 1: .* not empty"),
    ([{"text": "a review", "label": 1}], "row 1"),
    ([{"prompt": "p", "chosen": "c", "rejected": "d"}, {"prompt": "p", "chosen": 3}], "row 2")])
def test_a_file_without_pairs_is_one_sentence(tmp_path, rows, words):
    with pytest.raises(UserError, match=words):
        queue.read_items(write(tmp_path / "rows.jsonl", rows))


def test_a_question_is_shown_without_markers_and_a_dialogue_whole(store):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"},
             {"role": "user", "content": "Why?"}]
    items = [queue.Item(render_prompt(asked), "x", "y") for asked in ("Why?", turns)]
    waiting = queue.Queue(items, store)
    assert [waiting.shown("ann", item.id)["prompt"] for item in items] == [
        "Why?", "Human: Hi\n\nAssistant: Hello\n\nHuman: Why?"]


# --- the server


class Asked(AsyncHTTPTestCase):
    token = None  # with one, the server may be asked under any name

    def get_app(self):
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.store = RatingStore(f"{self.folder.name}/labels.jsonl")
        self.waiting = queue.Queue(ITEMS, self.store)
        hosts = None if self.token else {f"127.0.0.1:{self.get_http_port()}"}
        return server.application(self.waiting, self.token, hosts)

    def tearDown(self):
        super().tearDown()
        self.folder.cleanup()

    def post(self, body=None, **headers):
        item = self.waiting.next("ann")["item"]["id"]
        body = body or json.dumps({"annotator": "ann", "item": item, "choice": "left"})
        headers = {"X-Label": "1", **{k.replace("_", "-"): v for k, v in headers.items()}}
        return self.fetch("/api/answer", method="POST", body=body, headers={
            k: v for k, v in headers.items() if v is not None})


class TestOnThisComputer(Asked):
    def test_the_page_brings_rules_that_allow_nothing_from_elsewhere(self):
        for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"),
                           ("/page.css", "text/css")):
            reply = self.fetch(path)
            assert reply.code == 200 and reply.headers["Content-Type"].startswith(kind)
            assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        assert self.fetch("/../server.py").code == self.fetch("/queue.py").code == 404

    def test_an_answer_is_on_the_disk_when_the_reply_comes(self):
        reply = self.post(Origin=f"http://127.0.0.1:{self.get_http_port()}")
        assert reply.code == 200 and json.loads(reply.body)["done"] == 1
        assert len(RatingStore(self.store.path).rows()) == 1

    def test_another_page_cannot_post(self):
        for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"X_Label": None},
                        {"Origin": f"http://localhost:{self.get_http_port()}"},
                        {"Host": "evil.example"}):
            reply = self.post(**headers)
            assert reply.code == 403 and "error" in json.loads(reply.body), headers
        assert self.store.rows() == []

    def test_a_name_that_points_here_cannot_read(self):
        reply = self.fetch("/api/next?annotator=ann", headers={"Host": "evil.example"})
        assert reply.code == 403 and b"question" not in reply.body

    def test_what_is_wrong_is_a_sentence(self):
        for body, words in (("{", "names annotator, item"), ("[]", "names annotator, item"),
                            ('{"annotator": "ann", "item": "x", "choice": "left"}', "no such pair"),
                            ('{"annotator": "", "item": "x", "choice": "left"}', "give a name"),
                            ('{"annotator": "ann", "item": [], "choice": "left"}', "no such pair")):
            reply = self.post(body)
            assert reply.code == 400 and words in json.loads(reply.body)["error"], body
        assert self.post("x" * (server.LONGEST_POST + 1)).code in (400, 413, 599)
        assert self.store.rows() == []

    def test_a_store_that_cannot_be_written_is_told_and_the_pair_stays(self):
        self.store.path.mkdir()
        before = self.waiting.next("ann")
        reply = self.post()
        assert reply.code == 400 and "it is a folder" in json.loads(reply.body)["error"]
        assert self.waiting.next("ann") == before

    def test_answers_come_out_as_a_table(self):
        self.post()
        reply = self.fetch("/api/export")
        assert reply.headers["Content-Disposition"].endswith('filename="answers.csv"')
        assert b"question" in reply.body and b"ann" in reply.body


class TestForOthers(Asked):
    token = "secret"

    def test_data_asks_for_the_token_and_the_page_does_not(self):
        assert self.fetch("/").code == 200
        for token in (None, "", "secre", "secrets"):
            headers = {} if token is None else {"X-Token": token}
            assert self.fetch("/api/next?annotator=ann", headers=headers).code == 403
            assert self.fetch("/api/export", headers=headers).code == 403
        assert self.fetch("/api/next?annotator=ann", headers={"X-Token": "secret"}).code == 200
        assert self.post().code == 403 and self.post(X_Token="secret").code == 200


def test_the_command_says_what_is_wrong_before_it_listens(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(server, "serve", lambda waiting, host, port: len(waiting.items))
    rows = [{"prompt": "p", "response_a": "a", "response_b": "b"}]
    source = str(write(tmp_path / "rows.jsonl", rows))
    store = str(tmp_path / "answers.jsonl")
    assert cli.run(cli.parse(["label", source, "--store", store])) == 1
    assert f"1 pairs; answers go to {store}" in capsys.readouterr().out
    with pytest.raises(UserError, match="does not exist"):
        cli.run(cli.parse(["label", str(tmp_path / "none.jsonl"), "--store", store]))


def test_a_port_that_is_taken_is_one_sentence(store):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="cannot be used .*--port"):
            server.serve(queue.Queue(ITEMS, store), port=taken.getsockname()[1])


def test_answers_of_simulated_raters_are_stored_as_simulated(store):
    waiting = queue.Queue([queue.Item("Q", "one", "two")], store)
    waiting.answer("simulated-01", waiting.next("simulated-01")["item"]["id"], "left", "simulated")
    waiting.answer("me", waiting.next("me")["item"]["id"], "left")
    assert {row["annotator"]: row["source"] for row in store.rows()} == {
        "simulated-01": "simulated", "me": "human"}
