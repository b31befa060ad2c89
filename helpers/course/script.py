"""A notebook as a script, so that `accelerate launch` can start it in several processes.

A kernel is one process. The trainers behind 03 to 06 share their batches among as many processes
as were started, and the first of them writes the stage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.course import execute

LEFT_OUT = {"exercise", "solution"}
HEAD = '''\
"""{title}: the cells of {name}.

Start it inside the course's folder, by Python or by `accelerate launch`.
"""
import os
import sys

import matplotlib
from IPython.display import display

matplotlib.use("Agg")
if os.environ.get("RANK", "0") != "0":  # of several processes the first one speaks
    sys.stdout = open(os.devnull, "w")
'''
TAIL = '''
if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # gloo may hang while an interpreter shuts down
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)
'''


def script(path: Path, parameters: dict[str, Any]) -> str:
    """The source of a notebook's code cells in their order, exercises left out.

    Args:
        path: the notebook.
        parameters: values for names that its parameters cell declares, set after that cell.

    Raises:
        UserError: a name that the notebook does not declare.
    """
    execute.check_parameters(path, list(parameters))
    content = execute.read_notebook(path)
    title = "".join(content["cells"][0]["source"]).splitlines()[0].lstrip("# ")
    parts = [HEAD.format(title=title, name=path.name)]
    for number, cell in enumerate(execute.own_cells(content), 1):
        tags = set(cell["metadata"].get("tags", []))
        if cell["cell_type"] != "code" or tags & LEFT_OUT:
            continue
        parts.append(f"\n# cell {number}\n{''.join(cell['source']).rstrip()}\n")
        if "parameters" in tags:
            parts.append("".join(f"{name} = {value!r}\n" for name, value in parameters.items()))
    return "".join([*parts, TAIL])
