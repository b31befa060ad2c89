"""The course itself: what a notebook calls, and the command line around the notebooks.

A notebook says `from helpers import course` and then uses `course.start`, `course.versions`,
`course.pipeline`, `course.record`, `course.verdict`, `course.benchmark`, `course.require` and
`course.save_stage`. They are read on first use, because the command line has to start on a Python
that has nothing installed.
"""

import importlib

_API = {
    "start": "notebook",
    "versions": "notebook",
    "pipeline": "notebook",
    "record": "notebook",
    "verdict": "notebook",
    "benchmark": "notebook",
    "require": "stages",
    "save_stage": "stages",
    "stage_info": "stages",
}


def __getattr__(name):
    if name in _API:
        return getattr(importlib.import_module(f"helpers.course.{_API[name]}"), name)
    raise AttributeError(f"module 'helpers.course' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_API])
