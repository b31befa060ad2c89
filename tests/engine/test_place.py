"""Where and in which precision a computation runs."""

import platform
import subprocess
import sys

import pytest
import torch
from support import from_scratch

from helpers.engine import place
from helpers.errors import UserError
from helpers.paths import ROOT, child_environment
from helpers.profiles import load_profile


@pytest.mark.parametrize("fast", [True, False])
def test_mixed_precision_asks_the_profile_and_the_machine(monkeypatch, fast):
    monkeypatch.setattr(place, "fast_bfloat16", lambda kind: fast)
    assert place.mixed_precision(load_profile()) is fast
    assert not place.mixed_precision(load_profile("embedded", {"mixed_precision": "none"}))


@pytest.mark.parametrize("faster", [True, False])
def test_other_work_does_not_decide_whether_bfloat16_is_fast(monkeypatch, faster):
    """A clock in which every third product waits a tenth of a second for the processor."""
    now, count = [0.0], [0]

    class Product:
        def __init__(self, rows, columns, dtype):
            self.seconds = 0.004 if dtype is torch.float32 else 0.001 if faster else 0.009

        def __matmul__(self, other):
            count[0] += 1
            now[0] += self.seconds + (0.1 if count[0] % 3 == 0 else 0.0)

    monkeypatch.setattr(torch, "ones", lambda rows, columns, dtype: Product(rows, columns, dtype))
    monkeypatch.setattr(place.time, "perf_counter", lambda: now[0])
    assert place.fast_bfloat16.__wrapped__("cpu") is faster


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_plain_attention_predicts_the_same(architecture):
    model, tokenizer, _ = from_scratch(architecture=architecture, tokens=3000)
    batch = tokenizer(["The old cat sat on", "The"], return_tensors="pt", padding=True)
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        before = model(**batch).logits[:, -1]
        after = place.plain_attention(model)(**batch).logits[:, -1]
    assert model.config._attn_implementation == "eager"
    assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_emulates_bfloat16_is_not_asked_for_it(monkeypatch, native):
    """A T4: PyTorch says yes to bfloat16 unless it is told to leave emulation out."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported",
                        lambda including_emulation=True: native or including_emulation)
    place.fast_bfloat16.cache_clear()
    settings = load_profile("gpt2")
    assert place.mixed_precision(settings) is native
    assert place.dtype(settings) is (torch.bfloat16 if native else torch.float32)


def test_an_earlier_trainer_leaves_no_precision_behind():
    from accelerate import Accelerator

    place.forget_precision()
    Accelerator(cpu=True, mixed_precision="bf16")
    place.forget_precision()
    assert Accelerator(cpu=True).mixed_precision == "no"


def test_a_batch_is_shared_between_processes_or_refused(monkeypatch):
    assert place.share_of_batch(6, "sft.batch_size") == 6
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert place.share_of_batch(8, "sft.batch_size") == 2
    with pytest.raises(UserError, match="sft.batch_size is 6, and 4 processes cannot share"):
        place.share_of_batch(6, "sft.batch_size")


HELD = """
import psutil
import torch
from helpers.engine import place

kept, process = place.reuse_memory(), psutil.Process()
before = process.memory_info().rss
torch.ones(2**26)  # 256 MB, and gone
print(int(kept), (process.memory_info().rss - before) / 2**28)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc, whose business it is")
@pytest.mark.parametrize("variables, kept", [({}, 1), ({"MALLOC_MMAP_THRESHOLD_": "65536"}, 0)],
                         ids=["by itself", "as the reader has set it"])
def test_freed_memory_is_kept_unless_the_reader_has_said_how_it_goes_back(variables, kept):
    done = subprocess.run([sys.executable, "-c", HELD], cwd=ROOT, check=True, text=True,
                          env=child_environment(**variables), stdout=subprocess.PIPE)
    said, share = done.stdout.split()
    assert int(said) == kept
    assert float(share) == pytest.approx(kept, abs=0.1)
