"""JupyterLab in a real browser: open a notebook, rate by mouse and by keyboard, reload, go on.

Runs where Chromium and JupyterLab are installed. A screenshot is kept under tests/artefacts/.
"""

import importlib.util
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from helpers.feedback import DIMENSIONS, RatingStore
from helpers.paths import ROOT

ARTEFACTS = ROOT / "tests" / "artefacts"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("RLHF_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
MISSING = [name for name in ("playwright", "jupyterlab") if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium; "
                                                "elsewhere set RLHF_CHROMIUM to its path)"),
    pytest.mark.skipif(bool(MISSING), reason=f"needs the packages {' and '.join(MISSING)}"),
]

PATIENCE = 600  # seconds: no machine needs them, only what will never come does

NASTY = ('<script>window.hacked = 1</script><img src="x" onerror="window.hacked = 2"> '
         "**not bold** [link](javascript:window.hacked=3) <b>not bold either</b> "
         "$\\frac{1}{2}$ \\(x^2\\) $$\\sum_i$$ &lt;kept&gt;")
CELL = """
import sys
sys.path.insert(0, {root!r})
from IPython.display import display
from helpers.feedback import RatingStore
from helpers.widgets import compare_responses, rate_responses
store = RatingStore("ratings.jsonl")
nasty = {nasty!r}
items = [{{"prompt": f"prompt {{n}}: " + nasty, "response": f"response {{n}}: " + nasty}}
         for n in range(4)]
pairs = [{{"prompt": f"prompt {{n}}: " + nasty, "response_a": f"first {{n}}: " + nasty,
          "response_b": f"second {{n}}: " + nasty, "model_a": "m", "model_b": "n"}}
         for n in range(4)]
panel, pair = rate_responses(items, store), compare_responses(pairs, store)
display(panel, pair)
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab of our own on a loopback port, with one notebook; yields (url, folder)."""
    import nbformat

    folder = tmp_path_factory.mktemp("lab")
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(CELL.format(root=str(ROOT), nasty=NASTY))],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3",
                                 "language": "python"}})
    nbformat.write(book, folder / "rate.ipynb")
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    environment = {**os.environ, "JUPYTER_TOKEN": token, "OMP_NUM_THREADS": "1",
                   "JUPYTER_CONFIG_DIR": str(folder / "config"),
                   "JUPYTER_DATA_DIR": str(folder / "data"),
                   "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
                   "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
                   "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces")}
    log = open(folder / "lab.log", "wb")
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", *root, f"--ServerApp.port={port}",
         "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0",
         f"--ServerApp.root_dir={folder}"],
        env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/api/status?token={token}"),
                 lambda: (folder / "lab.log").read_text()[-2000:])
        yield f"http://127.0.0.1:{port}/lab/tree/rate.ipynb?token={token}", folder
    finally:
        server.terminate()
        server.wait()
        log.close()


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=PATIENCE).status == 200
    except OSError:
        return False


def wait_for(condition, what):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"waited {PATIENCE} s in vain: {what()}")


@pytest.fixture(scope="module")
def page(lab):
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[
            "--no-sandbox", "--disable-background-networking", "--disable-component-update",
            "--disable-sync"])
        page = browser.new_page(viewport={"width": 1200, "height": 1500})
        page.set_default_timeout(1000 * PATIENCE)
        expect.set_options(timeout=1000 * PATIENCE)
        page.on("dialog", lambda dialog: dialog.accept())
        yield page
        ARTEFACTS.mkdir(exist_ok=True)
        page.screenshot(path=ARTEFACTS / "last_page.png")
        browser.close()


def run_all(page):
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    panels = page.locator(".widget-toggle-button").nth(19)
    select = page.locator(".jp-Dialog button", has_text="Select")  # a slow machine's question
    panels.or_(select).first.wait_for()
    if select.is_visible():
        select.click()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    panels.wait_for()


def area(page, description):
    """The text area with this description, newest panel last."""
    return page.locator(".widget-textarea").filter(has_text=description).locator("textarea").last


def toggle(page, dimension, value):
    group = page.locator(".widget-hbox").filter(has_text=dimension)
    return group.get_by_role("button", name=str(value), exact=True)


def shows(page, description, start):
    from playwright.sync_api import expect

    expect(area(page, description)).to_have_value(f"{start}: {NASTY}")


def test_rating_by_mouse_and_keyboard_with_a_reload_between(lab, page):
    """Told a second time, from an empty store, where the browser itself timed out on the first."""
    from playwright.sync_api import TimeoutError as TimedOut

    try:
        story(lab, page)
    except TimedOut:
        for path in lab[1].glob("ratings*"):
            path.unlink()
        story(lab, page)


def story(lab, page):
    """One story from the first click to the last stored row; about half a minute."""
    from playwright.sync_api import expect

    url, folder = lab
    store = RatingStore(folder / "ratings.jsonl")
    page.goto(url)
    run_all(page)

    # Text of a model stands there sign by sign, in a text area, and nothing in it has run.
    shows(page, "Response", "response 0")
    assert page.evaluate("window.hacked") is None
    output = page.locator(".jp-OutputArea-output:has(.widget-textarea)")
    assert output.locator("img[src='x'], strong, script, mjx-container, .MathJax").count() == 0
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / "rating_panels.png")

    # By mouse.
    for dimension, value in zip(DIMENSIONS, (5, 4, 3, 2), strict=True):
        toggle(page, dimension, value).click()
    page.get_by_role("button", name="Save and next").click()
    shows(page, "Response", "response 1")
    assert store.rows()[0]["ratings"] == dict(zip(DIMENSIONS, (5, 4, 3, 2), strict=True))

    # By keyboard alone: Tab walks, Space and Enter press.
    toggle(page, "coherence", 1).focus()
    for place in range(4):
        page.keyboard.press("Space" if place % 2 else "Enter")
        if place == 3:  # the button wakes when the kernel has heard of the last rating
            expect(page.get_by_role("button", name="Save and next")).to_be_enabled()
        for _ in range(5):
            page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    shows(page, "Response", "response 2")
    assert store.rows()[1]["ratings"] == dict.fromkeys(DIMENSIONS, 1)

    # By the keys field, fast.
    page.get_by_placeholder("1-5 for each").focus()
    page.keyboard.type("3333", delay=20)
    shows(page, "Response", "response 3")
    assert store.rows()[2]["ratings"] == dict.fromkeys(DIMENSIONS, 3)
    page.keyboard.type("u")
    shows(page, "Response", "response 2")
    assert len(store.rows()) == 2

    # A reload: the panel goes on where it was.
    page.reload()
    run_all(page)
    shows(page, "Response", "response 2")
    page.get_by_text("Resumed: 2 done earlier.").wait_for()

    # The other panel, by mouse and by keyboard.
    shown = area(page, "A").input_value(), area(page, "B").input_value()
    page.get_by_role("button", name="A is better (a)").click()
    page.locator(".widget-textarea").filter(has_text="Prompt").nth(1).wait_for()
    wait_for(lambda: len(store.rows()) == 3, lambda: "the choice of A is not in the store")
    row = store.rows()[2]
    assert (row["response_a"], row["response_b"], row["preference"]) == (*shown, "a")
    page.get_by_placeholder("a, b, t, s, u").focus()
    page.keyboard.type("t")
    wait_for(lambda: len(store.rows()) == 4, lambda: "the tie is not in the store")
    assert store.rows()[3]["preference"] == "tie"

    assert page.evaluate("window.hacked") is None
    page.screenshot(path=ARTEFACTS / "rating_panels_after.png")
    assert {(row["source"], row["annotator"]) for row in store.rows()} == {("human", "me")}
