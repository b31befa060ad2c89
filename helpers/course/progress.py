"""The bar that shows one notebook at work, and the clock beside it."""

from __future__ import annotations

import os
import sys
import threading
import time


def clock(seconds: float) -> str:
    """Seconds as `m:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


class Bar:
    """One notebook's progress: its name, the cell at work, the time so far.

    A terminal or a notebook sees a bar, a log file a line every half minute, and a run inside
    another run (RLHF_NO_PROGRESS) nothing.
    """

    def __init__(self, stem: str, expected: float | None = None) -> None:
        from tqdm import tqdm

        ipython = sys.modules.get("IPython")  # loaded beside a kernel's client too
        screen = sys.stderr.isatty() or (ipython is not None and ipython.get_ipython() is not None)
        self.every = 1.0 if screen else 30.0
        about = f" of about {clock(expected)}" if expected else ""
        self.bar = tqdm(
            total=0, desc=stem, leave=False, file=sys.stderr,
            disable=bool(os.environ.get("RLHF_NO_PROGRESS")) or not screen,
            bar_format="{desc} {bar:12} cell {n_fmt}/{total_fmt} [{elapsed}" + about + "]{postfix}",
        )
        self.log = not screen and not os.environ.get("RLHF_NO_PROGRESS")
        self.stem, self.about, self.now = stem, about, (0, 0, "starting")
        self.begun = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)
        self._thread.start()

    def __call__(self, done: int, total: int, line: str) -> None:
        self.now = (done, total, line[:40])
        self.bar.total, self.bar.n = total, done
        self.bar.set_postfix_str(line[:40], refresh=True)

    def _tick(self) -> None:
        while not self._stop.wait(self.every):
            self.bar.refresh()
            if self.log:
                done, total, line = self.now
                spent = clock(time.monotonic() - self.begun)
                print(f"{self.stem}  cell {done}/{total} [{spent}{self.about}], {line}",
                      file=sys.stderr, flush=True)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.bar.close()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
