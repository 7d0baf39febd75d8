"""Ranks from the launcher's variables, and log lines of libraries that are suppressed."""

import json
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recipes.cluster import environment, slurm
from recipes.cluster.environment import (
    export_world,
    is_first_on_node,
    is_first_rank,
    is_simulated_world,
    may_compute_fp16,
    num_devices,
    requested_accelerator,
    require_one_process,
    stray_variables,
    world_from_environment,
)
from recipes.errors import ConfigError
from tests.distributed import run_command

NAMES = ("RANK", "WORLD_SIZE")
OTHERS = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")
TASK = {
    **{
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": "3",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "1",
    },
    **{"SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_STEP_NODELIST": "a,b"},
}


IN_JOB = {"WORLD_SIZE": "8", "SLURM_JOB_ID": "7"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*NAMES, *OTHERS, *TASK]:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("env", "world"),
    [({}, (0, 1)), (TASK | {"WORLD_SIZE": "2"}, (0, 2)), ({"WORLD_SIZE": "64"}, (0, 64)), ({"RANK": "3", "WORLD_SIZE": "4"}, (3, 4))],
)
def test_the_world_is_read_from_the_launchers_variables(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], world: tuple[int, int]
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert world_from_environment()[:2] == world
    assert is_first_rank() == (world[0] == 0)


@pytest.mark.parametrize(
    ("env", "imagined"),
    [
        ({}, False),
        ({"WORLD_SIZE": "64"}, True),
        ({"RANK": "0", "WORLD_SIZE": "2"}, False),
        ({"WORLD_SIZE": "8", "SLURM_JOB_ID": "7"}, False),
    ],
)
def test_ranks_are_imagined_if_only_their_number_is_set(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], imagined: bool) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert is_simulated_world() == imagined


@pytest.mark.parametrize(
    ("visible", "number"), [(None, 3), ("0,2", 2), ("GPU-a", 1), ("", 0), ("-1", 0)], ids=lambda value: str(value) or "empty"
)
def test_only_visible_devices_are_counted(monkeypatch: pytest.MonkeyPatch, visible: str | None, number: int, tmp_path: Path) -> None:
    for name in ("nvidiactl", "nvidia0", "nvidia1", "nvidia10", "nvidia-uvm", "nvidia-caps"):
        (tmp_path / name).touch()
    monkeypatch.setattr(environment, "DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert num_devices() == number
    (tmp_path / "nvidiactl").unlink()
    assert num_devices() == 0


def test_in_a_slurm_job_all_devices_of_the_job_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("nvidiactl", "nvidia0", "nvidia1"):
        (tmp_path / name).touch()
    monkeypatch.setattr(environment, "DEVICES", tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delenv("SLURM_GPUS_ON_NODE", raising=False)
    assert num_devices() == 2, "the launcher hides the other device"
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "1")
    assert num_devices() == 1


def test_fp16_needs_a_device_or_an_imagined_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "DEVICES", tmp_path)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    on_the_cpu = may_compute_fp16()
    (tmp_path / "nvidiactl").touch()
    assert may_compute_fp16()
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert may_compute_fp16() == on_the_cpu
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert may_compute_fp16()


def test_local_rank_and_local_size_are_read_from_deepspeed_and_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert world_from_environment().local_size is None, "not set"
    for name, value in {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert world_from_environment() == (3, 8, 1, 2) and not is_first_on_node()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert is_first_on_node() and not is_first_rank()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert world_from_environment().local_size == 4, "torchrun's variable wins"


def test_a_slurm_step_with_one_task_per_process_is_a_world_and_a_launchers_variables_win(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    assert world_from_environment() == (3, 4, 1, 2)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # export_world writes
    export_world()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    assert [os.environ[name] for name in names] == ["3", "4", "1", "2", "a"] and int(os.environ["MASTER_PORT"]) > 0
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert world_from_environment()[:2] == (0, 1), "deepspeed started inside a step"


@pytest.mark.parametrize(
    "given", [{}, {"MASTER_ADDR": "my.host"}, {"MASTER_PORT": "777"}, {"MASTER_ADDR": "my.host", "MASTER_PORT": "777"}]
)
def test_an_address_that_the_user_has_set_is_kept(monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    for name, value in {**TASK, **given}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # export_world writes
    address, port = slurm.rendezvous_point()
    export_world()
    slurms = {"MASTER_ADDR": address} | ({} if "MASTER_ADDR" in given else {"MASTER_PORT": str(port)})
    assert {name: os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in os.environ} == slurms | given


def test_outside_of_a_step_no_address_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    export_world()
    assert {name: os.environ.get(name) for name in [*NAMES, *OTHERS]} == {
        **{"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
        **dict.fromkeys(("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")),
    }


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "two"}, "two"),
        ({"SLURM_NODEID": "2"}, "SLURM_NODEID 2, but SLURM_STEP_TASKS_PER_NODE has 2 nodes"),
        ({"SLURM_NODEID": "-1"}, "SLURM_NODEID -1, but SLURM_STEP_TASKS_PER_NODE has 2 nodes"),
    ],
)
def test_invalid_variables_of_slurm_are_refused(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], fact: str) -> None:
    for name, value in {**TASK, **changes}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=rf"make no sense .*{fact}.*set RANK, WORLD_SIZE"):
        world_from_environment()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("WORLD_SIZE", value) for value in ("many", "0", "-1", "")),
        *(("RANK", value) for value in ("x", "-1", "1.0")),
        *(("LOCAL_RANK", "abc"), ("LOCAL_WORLD_SIZE", "0"), ("LOCAL_SIZE", "2 GPUs")),
        *(("MASTER_PORT", value) for value in ("any", "0", "65536")),
    ],
)
def test_an_invalid_number_is_named_in_the_error_which_rank_0_prints_and_unsetting_it_fixes_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=rf"^{name}='{value}': must be a whole number from .*; unset {name} or use a launcher$"):
        world_from_environment()
    assert is_first_rank(), "otherwise no rank prints the error"
    monkeypatch.delenv(name)
    assert world_from_environment().rank == 0


@pytest.mark.parametrize(
    "change",
    [{"SLURM_STEP_NODELIST": None}, {"SLURM_JOB_ID": "seven"}, {"SLURM_STEP_NODELIST": "a[1-2]"}],
    ids=["none", "number", "no scontrol"],
)
def test_a_step_without_a_known_first_node_needs_master_addr(monkeypatch: pytest.MonkeyPatch, change: dict[str, str | None]) -> None:
    monkeypatch.setattr(os, "environ", {**TASK, **{name: value for name, value in change.items() if value}, "PATH": "/nowhere"})
    for name in [name for name, value in change.items() if value is None]:
        del os.environ[name]
    with pytest.raises(ConfigError, match=r"do not give the node of this step's first task .*; set MASTER_ADDR, MASTER_PORT"):
        export_world()
    os.environ["MASTER_ADDR"] = "a"
    assert export_world() == (3, 4, 1, 2)


def test_a_rank_that_is_not_below_the_world_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "4")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=r"^RANK=4 WORLD_SIZE=4: ranks count from 0 to WORLD_SIZE - 1; unset both"):
        world_from_environment()


def test_stray_launcher_variables_are_named_unless_a_launcher_set_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stray_variables() is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "there")
    assert stray_variables() == "WORLD_SIZE MASTER_ADDR"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert stray_variables() is None


@pytest.mark.parametrize(("requested", "found"), [(None, None), ("", None), ("cpu", "cpu"), ("cuda", "cuda")])
def test_the_requested_accelerator_must_be_supported(monkeypatch: pytest.MonkeyPatch, requested: str, found: str) -> None:
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    if requested is not None:
        monkeypatch.setenv("DS_ACCELERATOR", requested)
    assert requested_accelerator() == found
    monkeypatch.setenv("DS_ACCELERATOR", "xpu")
    with pytest.raises(ConfigError, match="DS_ACCELERATOR='xpu': must be cpu or cuda; unset DS_ACCELERATOR"):
        requested_accelerator()


def imported_with(verbose: str, tmp_path: Path) -> str:
    """The output of: quiet_libraries(), import DeepSpeed, one warning of Python, one warning and one error of DeepSpeed's logger."""
    lines = [
        "from recipes.cluster.environment import quiet_libraries; quiet_libraries()",
        "import logging, warnings, deepspeed",
        "warnings.warn('a warning of a library')",
        "[getattr(logging.getLogger('DeepSpeed'), level)(f'logged as {level}') for level in ('warning', 'error')]",
    ]
    env = {"DATA2VEC_VERBOSE": verbose, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = run_command([sys.executable, "-c", "\n".join(lines)], tmp_path, 60, env)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_libraries_log_only_errors_unless_verbose(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as both:  # DeepSpeed is imported twice, 2 s each
        quiet, loud = both.map(imported_with, ("", "1"), (tmp_path, tmp_path))
    assert len(quiet.splitlines()) == 1 and "logged as error" in quiet, quiet
    assert "logged as warning" in loud and "a warning of a library" in loud, loud


QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR", "KINETO_LOG_LEVEL": "99", "WANDB_SILENT": "true"}
QUIET |= dict.fromkeys(("HF_HUB_VERBOSITY", "DATASETS_VERBOSITY"), "error")


@pytest.mark.parametrize("given", [{}, {"TORCH_CPP_LOG_LEVEL": "INFO", "WANDB_SILENT": "false"}])
def test_logging_variables_are_set_to_quiet_unless_the_user_has_set_them(tmp_path: Path, given: dict[str, str]) -> None:
    lines = [
        "import os, json; before = set(os.environ) - set(json.loads(os.environ['GIVEN']))",
        "from recipes.cluster.environment import quiet_libraries; quiet_libraries()",
        "print(json.dumps({name: value for name, value in os.environ.items() if name not in before}))",
        "import logging; print([logging.getLogger(name).level for name in ('DeepSpeed', 'megatron', 'torch.distributed')])",
    ]
    unset = [part for name in QUIET for part in ("-u", name)]
    set_by_user = [f"{name}={value}" for name, value in given.items()]
    done = run_command(["env", *unset, *set_by_user, sys.executable, "-c", "\n".join(lines)], tmp_path, 30, {"GIVEN": json.dumps(given)})
    environment, levels = done.stdout.splitlines()
    assert (json.loads(environment), levels) == (QUIET | given, "[40, 40, 40]"), done.stderr


def test_nothing_is_changed_if_verbose(monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.cluster.environment import quiet_libraries

    monkeypatch.setenv("DATA2VEC_VERBOSE", "1")
    before = dict(os.environ), logging.getLogger("megatron").level, list(logging.getLogger("DeepSpeed").filters)
    quiet_libraries()
    assert before == (dict(os.environ), logging.getLogger("megatron").level, logging.getLogger("DeepSpeed").filters)


def test_a_command_of_one_process_is_refused_on_several(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    require_one_process("export", "launch/convert.py")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"^export runs on one process, 2 were started; use python launch/convert\.py$"):
        require_one_process("export", "launch/convert.py")
