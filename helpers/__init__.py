"""What the notebooks share, one concept per file.

`import helpers` loads none of it: a module comes in when it is first named, so that neither torch
nor transformers is read before something needs them.
"""

import importlib
import pkgutil


def __getattr__(name):
    if name in _modules():
        return importlib.import_module(f"helpers.{name}")
    raise AttributeError(f"module 'helpers' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_modules()])


def _modules():
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return [name for name in found if not name.startswith("_")]
