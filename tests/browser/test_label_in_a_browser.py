"""Two raters in two browsers, two hundred answers, a server that is killed and started again."""

import json
import signal
import socket
import subprocess
import sys

import pytest
from test_rating_in_a_browser import (
    ARTEFACTS,
    CHROMIUM,
    NASTY,
    PATIENCE,
    answers,
    pytestmark,  # noqa: F401  (pytest looks for this name)
    wait_for,
)

from helpers.feedback import RatingStore
from helpers.paths import ROOT, child_environment

PAIRS = 100


class Server:
    """`python -m helpers label` on a port of its own."""

    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.source, self.store = folder / "pairs.jsonl", RatingStore(folder / "answers.jsonl")
        self.source.write_text("".join(json.dumps({
            "prompt": f"question {n} {NASTY}", "response_a": f"first {n} {NASTY}",
            "response_b": f"second {n} {NASTY}"}) + "\n" for n in range(PAIRS)))
        self.address = f"http://127.0.0.1:{self.port}/"
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "helpers", "label", str(self.source), "--store",
             str(self.store.path), "--port", str(self.port)], cwd=ROOT,
            env=child_environment(RLHF_NO_VENV="1"), stdout=subprocess.DEVNULL)
        wait_for(lambda: answers(self.address), lambda: "the server does not answer")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def label(tmp_path):
    server = Server(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def pages():
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        made = []

        def new():
            page = browser.new_context(viewport={"width": 1200, "height": 900}).new_page()
            page.set_default_timeout(1000 * PATIENCE)
            expect.set_options(timeout=1000 * PATIENCE)
            made.append(page)
            return page

        yield new
        ARTEFACTS.mkdir(exist_ok=True)
        for number, page in enumerate(made):
            page.screenshot(path=ARTEFACTS / f"label_{number}.png")
        browser.close()


def begin(page, address, name):
    page.goto(address)
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Begin").click()
    page.locator("#pair").wait_for()


def press(page, key, done):
    from playwright.sync_api import expect

    page.keyboard.press(key)
    expect(page.locator("#progress")).to_have_text(f"{done} of {PAIRS}")


def test_two_raters_lose_nothing_and_store_nothing_twice(label, pages):
    from playwright.sync_api import expect

    ann, bob = pages(), pages()
    begin(ann, label.address, "ann")
    begin(bob, label.address, "bob")
    for done in range(1, PAIRS + 1):
        if done == 40:
            label.kill()
            bob.keyboard.press("1")
            expect(bob.locator("#error")).to_contain_text("The server does not answer")
            label.start()
        if done == 70:  # a page that is loaded again goes on where its rater was
            ann.reload()
            ann.locator("#pair").wait_for()
            expect(ann.locator("#progress")).to_have_text(f"{done - 1} of {PAIRS}")
        press(ann, "120"[done % 3], done)
        if done % 10:
            press(bob, ["ArrowLeft", "ArrowRight"][done % 2], done)
        else:
            bob.get_by_role("button", name="equally good").click()
            expect(bob.locator("#progress")).to_have_text(f"{done} of {PAIRS}")
    for page in (ann, bob):
        expect(page.get_by_text("All pairs are compared")).to_be_visible()
        expect(page.locator("#facts")).to_contain_text("agreement of all raters: alpha")
    rows = label.store.rows()
    assert len(rows) == len(label.store.history()) == 2 * PAIRS
    assert len({(row["annotator"], row["prompt"]) for row in rows}) == 2 * PAIRS
    ties = [row["annotator"] for row in rows if row["preference"] == "tie"]
    assert ties.count("bob") == PAIRS // 10 and ties.count("ann") == PAIRS // 3


def test_text_is_shown_as_text_and_the_last_answer_can_be_changed(label, pages):
    from playwright.sync_api import expect

    page = pages()
    begin(page, label.address, "ann")
    number = page.locator("#prompt").inner_text().split()[1]
    assert page.locator("#prompt").inner_text() == f"question {number} {NASTY}"
    assert page.locator("#left").inner_text().split(" ", 2)[2] == NASTY
    assert page.evaluate("window.hacked") is None
    press(page, "1", 1)
    first = label.store.rows()[0]["preference"]
    page.keyboard.press("u")
    expect(page.locator("article.chosen")).to_have_count(1)
    expect(page.locator("#prompt")).to_contain_text(f"question {number} ")
    press(page, "2", 1)
    [row] = label.store.rows()
    assert {first, row["preference"]} == {"a", "b"}


def test_the_page_of_another_origin_can_neither_read_nor_post(label, pages):
    page = pages()
    begin(page, label.address, "ann")
    found = page.request.get(f"{label.address}api/next?annotator=ann").json()
    body = json.dumps({"annotator": "ann", "item": found["item"]["id"], "choice": "left"})
    other = pages()
    foreign = f"http://127.0.0.1:{label.port + 1 if label.port < 65535 else 1024}/"
    other.route(f"{foreign}**", lambda route: route.fulfill(
        body="<p>elsewhere</p>", content_type="text/html"))
    other.goto(foreign)
    assert other.evaluate("location.origin") + "/" == foreign
    for headers in ({"X-Label": "1", "Content-Type": "application/json"},
                    {"Content-Type": "text/plain"}):
        said = other.evaluate(
            """([address, headers, body]) => fetch(address + "api/answer",
                 {method: "POST", headers, body}).then(r => r.status, e => "refused")""",
            [label.address, headers, body])
        assert said in ("refused", 403)
    assert label.store.rows() == []
    assert "refused" == other.evaluate(
        """address => fetch(address + "api/next?annotator=ann").then(r => r.text(),
             e => "refused")""", label.address)
