"""A notebook as a script: the same cells, the parameters given, and several processes."""

import subprocess
import sys

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

from helpers.course import cli, execute
from helpers.course.script import script
from helpers.errors import UserError
from helpers.paths import ROOT, child_environment

LAUNCH = ROOT / "launch"


def run(path, text, command=(sys.executable,), **variables):
    file = path.with_suffix(".py")
    file.write_text(text, encoding="utf-8")
    return subprocess.run([*command, str(file)], cwd=ROOT, capture_output=True, text=True,
                          env=child_environment(**variables))


@pytest.mark.parametrize("path", list(execute.notebooks().values()), ids=lambda p: p.stem)
def test_every_notebook_becomes_a_script_without_its_exercises(path):
    text = script(path, {"seed": 3})
    compile(text, path.name, "exec")
    for cell in execute.read_notebook(path)["cells"]:
        source = "".join(cell["source"]).rstrip()
        if cell["cell_type"] == "code" and source:
            left_out = {"exercise", "solution"} & {*cell["metadata"].get("tags", [])}
            assert (source not in text) == bool(left_out)


def test_a_script_does_what_the_notebook_does_with_the_parameters_given(notebook_tree):
    path = notebook_tree("01_x", "x = 6", "print(x * seed, profile, overrides)")
    done = run(path, script(path, {"seed": 7, "overrides": {"threads": 1}}))
    assert done.stdout == "42 embedded {'threads': 1}\n", done.stderr
    assert run(path, script(path, {}), RANK="1").stdout == ""
    with pytest.raises(UserError, match="no parameter 'sed'"):
        script(path, {"sed": 1})


def test_the_command_prints_it_with_settings_as_run_takes_them(notebook_tree, capsys, tmp_path):
    notebook_tree("02_x", "print(overrides['sft.epochs'], overrides['out'])")
    status = cli.run(cli.parse(["script", "02", "--set", "sft.epochs=2", "--out", str(tmp_path)]))
    text = capsys.readouterr().out
    assert status == 0 and f"overrides = {{'sft.epochs': 2, 'out': {str(tmp_path)!r}}}" in text
    with pytest.raises(UserError, match="no notebook has the number '9'"):
        cli.run(cli.parse(["script", "9"]))


@pytest.mark.parametrize(("name", "kind"), [
    ("ddp", DistributedType.MULTI_GPU), ("fsdp", DistributedType.FSDP),
    ("zero3", DistributedType.DEEPSPEED)])
def test_accelerate_reads_the_configurations(name, kind):
    path = LAUNCH / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert config.distributed_type == kind and config.num_processes == 2
    assert "ntested" in path.read_text(encoding="utf-8")  # until a machine with GPUs has run it


def test_the_first_of_two_processes_speaks_and_both_share_the_work(notebook_tree):
    path = notebook_tree(
        "03_x", "import torch", "from accelerate import Accelerator",
        "shared = Accelerator(cpu=True)",
        "here = torch.tensor(float(shared.process_index + 1))",
        "print(shared.num_processes, shared.reduce(here).item())")
    done = run(path, script(path, {}), (
        sys.executable, "-m", "accelerate.commands.launch", "--config_file",
        str(LAUNCH / "ddp.yaml")), CUDA_VISIBLE_DEVICES="", ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "2 3.0\n"
