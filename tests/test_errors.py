"""What the file system refuses, and what a text would do to a terminal, in words."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.errors import UserError, error_number, no_saving, printable, saving
from helpers.paths import ROOT


def test_what_would_steer_a_terminal_is_spelt_out():
    assert printable("a\x1b[31mred\x07\x9b1m\r\u202eb\x7f") == (
        r"a\x1b[31mred\x07\x9b1m\r\u202eb\x7f")
    plain = "two lines\n\tand a tab, ünï ﷽ 語"
    assert printable(plain) == plain


def test_the_systems_number_is_found_behind_a_librarys_error():
    assert error_number(OSError(errno.ENOSPC, "x")) == errno.ENOSPC
    assert error_number(RuntimeError("I/O error: No space left on device (os error 28)")) == 28
    wrapped = RuntimeError("cannot write")
    wrapped.__cause__ = OSError(errno.EROFS, "x")
    assert error_number(wrapped) == errno.EROFS
    assert error_number(RuntimeError("os")) is None


@pytest.mark.parametrize(("number", "words"), [
    (errno.ENOSPC, "the disk is full; free some space"), (errno.EDQUOT, "used up; free some"),
    (errno.EROFS, "read-only; elsewhere"), (errno.EACCES, "you may not write there; elsewhere")])
def test_what_cannot_be_saved_says_why_and_what_to_do(tmp_path, number, words):
    with pytest.raises(UserError, match=f"^{tmp_path} cannot be saved, as .*{words}"), \
            saving(tmp_path, "elsewhere"):
        raise OSError(number, os.strerror(number))
    assert words.split(";")[0] in no_saving(tmp_path, OSError(number, "x"))


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (KeyError("x"), FileNotFoundError(errno.ENOENT, "x"), UserError("mine")):
        with pytest.raises(type(error)) as caught, saving(tmp_path, "elsewhere"):
            raise error
        assert caught.value is error


SAVE = """
import resource, signal, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from helpers import profiles
from helpers.engine import artifacts, checkpoints

class Weights:
    size = 10
    def save_pretrained(self, folder):
        save_file({"w": torch.zeros(self.size)}, Path(folder) / "model.safetensors")

settings = profiles.load_profile("embedded", {"out": sys.argv[1]})
save = {
    "stage": lambda w: artifacts.save_stage("base", settings, w),
    "checkpoint": lambda w: checkpoints.write(
        Path(sys.argv[1]) / "c", 1, {"w": torch.zeros(w.size)}, {}, {"config": {}}),
}[sys.argv[2]]
save(Weights())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
Weights.size = 10**6
try:
    save(Weights())
except ValueError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on the size of files (POSIX)")
@pytest.mark.parametrize("what", ["stage", "checkpoint"])
def test_a_save_that_the_file_system_refuses_leaves_the_old_one(tmp_path, what):
    done = subprocess.run([sys.executable, "-c", SAVE, str(tmp_path), what], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.stdout.startswith("UserError"), done.stderr[-500:]
    assert "cannot be saved, as the file would be larger than files may be there" in done.stdout
    left = [p for p in tmp_path.rglob("*.safetensors") if p.stat().st_size < 1000]
    assert len(left) == 1 and Path(left[0]).parent.name in ("base", "update-000001")
