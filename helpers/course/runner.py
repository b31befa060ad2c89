"""`python -m helpers run` and `course`: notebooks in order, a table of results, `summary.json`."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers import profiles
from helpers.course import execute, expected, provenance, stages
from helpers.course.progress import Bar, clock
from helpers.errors import UserError, no_saving, printable, saving
from helpers.paths import sweep
from helpers.profiles import SOURCES, WORDS

PHASES = {
    "sft": ("03",),
    "reward": ("04",),
    "ppo": ("05", "06"),
    "eval": ("07",),
    "beyond": ("08", "09", "10"),
    "full": (),  # all there are
}
OWN = ("profile", "overrides", "seed")
PLACES = (*SOURCES, "data.root", "out")  # settings that name a file, a folder or a hub id


def parse_assignments(pairs: list[str], what: str = "--set") -> dict[str, Any]:
    """Turn `key=value` texts into a dictionary, the values read as YAML.

    What names a file, a folder or a hub id is the text itself, and so is a text with a "#" in it.
    """
    import yaml

    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UserError(f"{what} {pair!r} is not of the form key=value.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            value = error
        plain = text.strip()
        if plain and not plain.startswith(("'", '"')) and (key in PLACES or (
                "#" in plain and isinstance(value, str | None))):
            value = plain  # YAML would read a comment, a list or a number into a file's name
        if isinstance(value, yaml.YAMLError):
            raise UserError(f"{what} {pair!r}: the value is not valid YAML; put a text in quotes "
                            "inside the shell's own.") from value
        values[key] = value
    return values


def absolute_paths(overrides: dict[str, Any]) -> dict[str, Any]:
    """Make paths given on the command line independent of the folder they were typed in."""
    fixed = dict(overrides)
    for key, value in overrides.items():
        if key == "models.candidates":
            fixed[key] = absolute_files(value)
        if not isinstance(value, str) or key not in PLACES:
            continue
        path = Path(value).expanduser()
        there = value not in WORDS and os.path.exists(path)
        if key == "out" or value.startswith((".", "~")) or there:
            fixed[key] = str(path.resolve())
    return fixed


def absolute_files(value: Any) -> Any:
    """The same for a notebook's own parameter, a text or a list of them, where a file is there.

    Notebooks run in their own folder, and which of their parameters are paths only they know: one
    that begins with "." or "~", or has a slash or an ending, and is there.
    """
    if isinstance(value, list):
        return [absolute_files(one) for one in value]
    if not isinstance(value, str) or not value.strip():
        return value
    path = Path(value).expanduser()
    like_a_path = value.startswith((".", "~")) or "/" in value or os.sep in value or path.suffix
    return str(path.resolve()) if like_a_path and os.path.exists(path) else value


def choose(phase: str | None, numbers: str | None) -> list[Path]:
    """The notebooks that a phase or a list of numbers means, in the course's order."""
    known = execute.notebooks()
    if not known:
        raise UserError(f"there are no notebooks in {execute.notebook_folder().name}/.")
    if phase and numbers:
        raise UserError("give either --phase or --notebooks, not both.")
    if numbers is not None:
        wanted = [n for n in numbers.replace(" ", ",").split(",") if n]
        if not wanted:
            raise UserError("--notebooks is empty; give numbers such as 04,05.")
        return sorted({execute.find_notebook(n) for n in wanted})
    if phase and phase not in PHASES:
        raise UserError(f"no phase is called {phase!r}; choose one of {', '.join(PHASES)}.")
    chosen = PHASES[phase or "full"]
    return [execute.find_notebook(n) for n in chosen] if chosen else list(known.values())


def run(
    paths: list[Path],
    profile: str = "embedded",
    overrides: dict[str, Any] | None = None,
    seed: int = 0,
    parameters: dict[str, Any] | None = None,
    enforce: bool = False,
) -> int:
    """Run notebooks one after the other and tell what came of it.

    Args:
        paths: notebooks, in order.
        parameters: values for a notebook's own parameters; each goes to those that declare it.
        enforce: fail when a bound of `expected.yaml` does not hold. Bounds belong to the embedded
            profile without overrides and are judged there only.

    Returns:
        The exit status: 0 when all went well, 1 when a notebook failed or a bound does not hold,
        2 when a notebook met bad input.

    Raises:
        UserError: before anything is written, when profile, key or parameter is unknown, or the
            folder cannot be written.
    """
    overrides = absolute_paths(overrides or {})
    if profile.endswith((".yaml", ".yml")):
        profile = str(Path(profile).expanduser().resolve())
    settings = profiles.load_profile(profile, overrides, seed)
    given = _parameters(paths, profile, overrides, seed, parameters or {})
    judged = settings.name == "embedded" and not set(overrides) - {"out"}
    summary = _Summary(settings)
    _prepare(settings.runs)
    made = {"machine": provenance.machine(), "code": provenance.code()}
    rows: list[dict[str, Any]] = []
    begun = time.monotonic()
    for path in paths:
        before = None if settings.overrides else stages.expected_seconds(path.stem, settings)
        with Bar(path.stem, before) as bar:
            result = execute.execute(path, Path(settings.runs) / path.name, given[path], bar)
        row = {
            "status": "failed" if result.error else "ok",
            "seconds": result.seconds,
            "peak_memory_mb": result.peak_memory_mb,
            "metrics": result.metrics,
            **made,
        }
        if result.error:
            row["error"] = result.error
        elif judged:
            row["bounds"] = expected.judge(path.stem, result.metrics)
        rows.append({"notebook": path.stem, **row})
        summary.add(path.stem, row)
        _say(f"{path.stem:<36} {row['status']:<7} {clock(result.seconds):>6}"
             f" {result.peak_memory_mb:>7.0f} MB")
        if result.error:
            break
    _table(rows, judged, time.monotonic() - begun)
    _say(f"\nExecuted notebooks and summary.json are in {_short(settings.runs)}.")
    last = rows[-1]
    if last["status"] == "failed":
        _say("\n" + failure(last["notebook"], last["error"]), sys.stderr)
        return 2 if last["error"]["kind"] == "UserError" else 1
    broken = [(r["notebook"], b) for r in rows for b in r.get("bounds", [])
              if not b["ok"] and not b["goal"]]
    if broken and enforce:
        for stem, bound in broken:
            _say(f"{stem}: {bound['bound']} does not hold: {bound['detail']}.", sys.stderr)
        return 1
    return 0


def _prepare(folder: Path) -> None:
    """Make the folder of a run, and remove what killed runs left in it unfinished."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder, "*.part")
    except OSError as error:
        raise UserError(no_saving(folder, error)) from error


def failure(stem: str, error: dict[str, Any]) -> str:
    """What to print about a failed notebook; a UserError is its own sentence."""
    if error["kind"] == "UserError":
        return error["message"]
    message = f": {error['message']}" if error["message"] else ""
    said = (f"{stem} failed in code cell {error['cell']}\n"
            f"    {error['line']}\n{error['kind']}{message}")
    advice = execute.hint(error)
    return f"{said}\n{advice}" if advice else said


def _parameters(paths, profile, overrides, seed, own) -> dict[Path, dict[str, Any]]:
    """Parameters per notebook; an unknown name is an error before anything runs."""
    declared = {path: execute.declared_parameters(path) for path in paths}
    for name in own:
        if name in OWN:
            option = "--set" if name == "overrides" else f"--{name}"
            raise UserError(f"--parameter {name}: use the option {option}.")
        if not any(name in names for names in declared.values()):
            there = sorted({n for names in declared.values() for n in names} - set(OWN))
            raise UserError(
                f"no chosen notebook has a parameter {name!r}; "
                f"their own parameters are {', '.join(there) or 'none'}."
            )
    given = {}
    for path in paths:
        execute.check_parameters(path, list(OWN))
        given[path] = {"profile": profile, "overrides": overrides, "seed": seed}
        given[path] |= {name: absolute_files(value) for name, value in own.items()
                        if name in declared[path]}
    return given


class _Summary:
    """`summary.json`, replaced as a whole after every notebook.

    Results of earlier runs under the same settings stay, and so do those that another run in the
    same folder adds meanwhile; under other settings they would be mistaken for results of this run,
    so the file begins anew.
    """

    def __init__(self, settings) -> None:
        self.path = Path(settings.runs) / "summary.json"
        self.about = {
            "profile": settings.name,
            "seed": settings.seed,
            "overrides": {k: v for k, v in settings.overrides.items() if k != "out"},
        }
        self.rows: dict[str, Any] = {}

    def add(self, stem: str, row: dict[str, Any]) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.rows[stem] = {**row, "finished": now}
        with saving(self.path, execute.ELSEWHERE), self._alone():
            notebooks = {**self.rows, **self._there(), stem: self.rows[stem]}
            content = {**self.about, "notebooks": dict(sorted(notebooks.items()))}
            aside = self.path.with_suffix(f".{os.getpid()}.part")
            try:
                aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
                aside.replace(self.path)
            except OSError:
                aside.unlink(missing_ok=True)
                raise

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(self.path):
            yield

    def _there(self) -> dict[str, Any]:
        """The rows that stand in the file, if they are of the same settings."""
        try:
            old = json.loads(self.path.read_text(encoding="utf-8"))
            same = all(old.get(key) == value for key, value in self.about.items())
            return dict(old["notebooks"]) if same else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the lock beside a file; on a file system without locks go on without."""
    import portalocker

    with open(path.with_name(f".{path.name}.lock"), "ab") as lock:
        with contextlib.suppress(portalocker.exceptions.BaseLockException, OSError):
            portalocker.lock(lock, portalocker.LOCK_EX)
        yield


def _table(rows: list[dict[str, Any]], judged: bool, seconds: float) -> None:
    _say(f"\n{len(rows)} notebook{'s' if len(rows) > 1 else ''} in {clock(seconds)}\n")
    lines = [(r["notebook"][:2], name, value) for r in rows for name, value in r["metrics"].items()]
    width = max((len(name) for _, name, _ in lines), default=6)
    if lines:
        _say(f"no.  {'metric':<{width}}  value")
    for number, name, value in lines:
        _say(f"{number}   {name:<{width}}  {'none' if value is None else f'{value:.4g}'}")
    checks = [(r["notebook"][:2], b) for r in rows for b in r.get("bounds", [])]
    wide = max((len(b["bound"]) for _, b in checks), default=0)
    if checks:
        _say(f"\nno.  {'bound':<{wide}}  verdict")
    for number, bound in checks:
        verdict = "ok" if bound["ok"] else "goal, NOT REACHED" if bound["goal"] else "MISSED"
        _say(f"{number}   {bound['bound']:<{wide}}  {verdict} ({bound['detail']})")
    if not judged:
        _say("\nNo bounds apply: they belong to the embedded profile without overrides.")


def _short(path: Path) -> str:
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _say(text: str, file=None) -> None:
    print(printable(text), file=file or sys.stdout, flush=True)
