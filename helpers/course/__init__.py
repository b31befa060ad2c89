"""The course itself: what a notebook calls, and the command line around the notebooks.

A notebook says `from helpers import course` and then uses `course.start`, `course.versions`,
`course.pipeline`, `course.record`, `course.verdict`, `course.text_warning`, `course.benchmark`,
`course.stored_runs`, `course.write_report`, `course.require`, `course.unfinished` and
`course.save_stage`. They are read on first use, because the command line has to start on a Python
that has nothing installed.
"""

import importlib

_API = {
    "start": "course.session",
    "versions": "course.session",
    "pipeline": "course.report",
    "record": "course.report",
    "verdict": "course.report",
    "text_warning": "course.report",
    "benchmark": "course.report",
    "stored_runs": "course.report",
    "write_report": "course.report",
    "require": "course.stages",
    "save_stage": "engine.artifacts",
    "stage_info": "engine.artifacts",
    "unfinished": "engine.artifacts",
}


def __getattr__(name):
    if name in _API:
        return getattr(importlib.import_module(f"helpers.{_API[name]}"), name)
    raise AttributeError(f"module 'helpers.course' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_API])
