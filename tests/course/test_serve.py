"""An exported policy behind transformers' own server, asked by OpenAI's own client."""

import importlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from support import byte_policy, byte_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import profiles
from helpers.course import export
from helpers.engine import artifacts

NEEDED = ("openai", "fastapi", "uvicorn")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
SERVE = "from transformers.cli.transformers import main; main()"
TALK = [{"role": "user", "content": "How do I sleep?"}]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_until_it_answers(process, port, log):
    for _ in range(600):
        assert process.poll() is None, log.read_text(encoding="utf-8")[-2000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server did not answer")


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"needs the group `serve`: no {', '.join(MISSING)} here")
def test_the_server_answers_a_client_as_the_exported_policy_does(tmp_path):
    openai = importlib.import_module("openai")
    settings = profiles.load_profile("embedded", {"out": str(tmp_path)})
    tokenizer = byte_tokenizer()
    artifacts.save_stage("ppo", settings, byte_policy(tokenizer), tokenizer, {"kl": 1.0})
    folder = export.export(settings, "ppo", tmp_path / "my-model")
    model, own = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = own.apply_chat_template(TALK, add_generation_prompt=True, return_tensors="pt")
    alone = model.generate(**ids, max_new_tokens=8, do_sample=False)
    said = own.decode(alone[0, ids["input_ids"].shape[1]:], skip_special_tokens=True)

    port, log = free_port(), tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "serve", str(folder), "--port", str(port),
             "--device", "cpu"], stdout=out, stderr=out,
            env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        wait_until_it_answers(process, port, log)
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        answer = client.chat.completions.create(
            model=str(folder), messages=TALK, max_tokens=8, temperature=0.0)
        assert answer.choices[0].message.content == said
    finally:
        process.terminate()
        process.wait(30)
