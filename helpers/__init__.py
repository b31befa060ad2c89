"""What the notebooks share, one concept per file.

`import helpers` loads none of it: a module comes in when it is first named, so that neither torch
nor transformers is read before something needs them.
"""

import importlib

_MODULES = (
    "course",
    "data",
    "errors",
    "evaluation",
    "exercises",
    "feedback",
    "generation",
    "gridworld",
    "models",
    "plots",
    "ppo",
    "ppo_trainer",
    "profiles",
    "reward",
    "sentiment",
    "trl_adapter",
    "widgets",
    "world",
)


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"helpers.{name}")
    raise AttributeError(f"module 'helpers' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_MODULES])
