"""What the notebooks share: at the door what a notebook names, in folders what stands behind it.

| module | what it holds | notebooks |
|---|---|---|
| `errors` | the error that is one sentence for the reader | 01, 06, 07, 09, 10 |
| `paths` | where the course's own files are | |
| `profiles` | validated settings, read from `settings/` | 04, 06 |
| `data` | loaders of reviews, pairs, demonstrations | 02, 03, 04, 05, 06, 07, 08, 09, 10 |
| `models` | load, save, place and shape any model | 02, 03, 04, 05, 06, 07, 08, 09, 10 |
| `scratch` | tokenizer, language model and classifier from random weights | 02 |
| `generation` | sampling, with PPO's log-probabilities | 02, 03, 04, 05, 06, 07, 08, 09, 10 |
| `sft` | supervised fine-tuning and its loss | 03 |
| `evaluation` | win rate, KL, diversity, intervals | 01, 02, 03, 04, 05, 06, 07, 08, 09, 10 |
| `judge` | a language model asked which of two answers is better | 07, 10 |
| `quality/` | what is broken in a text, and how often | 07 |
| `reward/` | model, training, measures, how far it can be pushed | 04, 05, 06, 07, 08, 09, 10 |
| `ppo` | the mathematics of PPO | 05, 08 |
| `ppo_loop` | PPO as plain as it can be written | |
| `ppo_trainer` | PPO as it is really done | 05, 06, 07, 08, 10 |
| `ppo_diagnostics` | what to look at while it runs | 05 |
| `preference` | beside PPO: losses of pairs and groups, best-of-n, their optima | 08, 10 |
| `control` | PPO on small environments | 05 |
| `trl_adapter` | what stands between the course and TRL | 04, 06, 08 |
| `gridworld` | the map of notebook 01 | 01 |
| `feedback` | the store of ratings, and what is made of it | 01, 07, 10 |
| `feedback_loop` | ratings change the reward model and what follows it | 07 |
| `widgets` | panels in which a person rates | 01, 07, 10 |
| `plots` | every figure | 01, 02, 03, 04, 05, 06, 07, 08, 09, 10 |
| `exercises` | checkers for your own code | 01, 02, 03, 04, 05, 06, 07, 08, 09, 10 |
| `world/` | what writes the embedded world, and its truth | 03, 04, 05, 06, 07, 08, 09, 10 |
| `course/` | a notebook's session and report, the runner, the command line | all |
| `engine/` | rows, tokens, stages on disk, packing, numerics | |

Imports run downwards only; the floors stand in `tests/test_house.py`, which also holds this table
against the notebooks. `import helpers` loads none of it: a module comes in when it is first named,
so that neither torch nor transformers is read before something needs them.
"""

import importlib
import importlib.abc
import importlib.util
import pkgutil
import sys

# Modules that became part of a folder, by the name they had.
MOVED = {"sentiment": "helpers.world.judge_reviews", "comparison": "helpers.reward.ties"}


def __getattr__(name):
    if name in _modules() or name in MOVED:
        return importlib.import_module(f"helpers.{name}")
    raise AttributeError(f"module 'helpers' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_modules()])


def _modules():
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return [name for name in found if not name.startswith("_")]


class _OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module that has moved under the name it had: one module, two names."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.rpartition(".")
        if package == "helpers" and name in MOVED:
            return importlib.util.spec_from_loader(fullname, self)
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        name = module.__name__.rpartition(".")[2]
        sys.modules[module.__name__] = importlib.import_module(MOVED[name])


sys.meta_path.insert(0, _OldNames())
