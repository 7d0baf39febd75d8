"""The CPU optimizer of offloaded runs: AdamW that depends on no earlier step, and its build."""

import fcntl
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from recipes.errors import LocalError
from tests.compiled import NUMBERS, build_cpu_adam_once
from tests.distributed import run_distributed

SIZE, STEPS = 1000, 40
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile the op, which takes a minute on a fresh machine, outside of the time limit of a test."""
    run_distributed(build_cpu_adam_once, 1, timeout=800)


def resume_every_step(with_hook: bool) -> float:
    """Return the largest difference of the weights after STEPS between one optimizer, and a new one per step that gets the state of the
    last."""
    from recipes.engine import cpu_adam

    if not with_hook:
        cpu_adam._step_far_away = lambda *args: None  # type: ignore[assignment]

    def build(weight: torch.Tensor) -> torch.optim.Optimizer:
        return cpu_adam.build_cpu_adam([{"params": [weight], "weight_decay": 0.1}], **NUMBERS)

    whole, resumed = (torch.linspace(-1, 1, SIZE, requires_grad=True) for _ in range(2))
    optimizer, other = build(whole), build(resumed)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        gradient = torch.randn(SIZE, generator=generator)
        whole.grad, resumed.grad = gradient, gradient.clone()
        optimizer.step()
        other.step()
        state, other = other.state[resumed], build(resumed)
        other.state[resumed] = state
    return float((whole - resumed).abs().max())


def test_a_resumed_optimizer_takes_bitwise_the_same_steps_and_deepspeeds_own_does_not() -> None:
    assert run_distributed(resume_every_step, 1, True)[0] == 0.0
    assert run_distributed(resume_every_step, 1, False)[0] > 0.0, "if this fails, build_cpu_adam is no longer needed"


def compare_with_torch() -> float:
    """Return the largest difference of the weights from torch's AdamW in float64 after STEPS. Two groups have different decay and rates."""
    from recipes.engine.cpu_adam import build_cpu_adam

    dtypes = (torch.float32, torch.float64)
    ours, theirs = ([torch.linspace(-1, 1, SIZE, dtype=dtype, requires_grad=True) for _ in range(2)] for dtype in dtypes)
    optimizers = [
        build([{"params": [weights[0]], "weight_decay": 0.1}, {"params": [weights[1]], "weight_decay": 0.0, "lr": 2e-3}], **NUMBERS)
        for build, weights in ((build_cpu_adam, ours), (torch.optim.AdamW, theirs))
    ]
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(SIZE, generator=generator)
            other.grad = mine.grad.double()
        for optimizer in optimizers:
            optimizer.step()
    return max(float((mine - other).abs().max()) for mine, other in zip(ours, theirs, strict=True))


def test_it_is_adamw_to_1e_5() -> None:
    assert run_distributed(compare_with_torch, 1)[0] == pytest.approx(0.0, abs=1e-5)


def processes_started() -> list[str]:
    """Return the processes and imports that building one optimizer starts, if torch's build tool has to look whether the op is
    compiled."""
    from recipes.engine.cpu_adam import _complete_library, build_cpu_adam

    _complete_library().unlink()
    started: list[str] = []
    names = {"subprocess.Popen", "os.fork", "os.posix_spawn", "os.system", "import"}
    sys.addaudithook(lambda event, args: started.append(f"{event} {args[:2]}") if event in names else None)
    build_cpu_adam([{"params": [torch.zeros(4, requires_grad=True)]}], **NUMBERS)
    assert "cpuinfo" not in sys.modules, "the replacement of cpuinfo is still there"
    return started


def test_py_cpuinfo_is_neither_imported_nor_started() -> None:
    """py-cpuinfo starts itself as a process, which takes every rank a second and sometimes never returns."""
    started = run_distributed(processes_started, 1)[0]
    assert [event for event in started if "subprocess" in event], "torch runs the compiler for its version"
    assert not [event for event in started if "cpuinfo" in event]


def build_with_a_stale_lock() -> str | None:
    """Build one optimizer although a killed build left its lock. Return the environment's build root afterwards."""
    from recipes.engine import cpu_adam

    stale_lock = cpu_adam.build_folder() / "cpu_adam" / "lock"
    if dist.get_rank() == 0:
        stale_lock.touch()
        cpu_adam._complete_library().unlink()
    dist.barrier()
    build_cpu_adam_once()
    dist.barrier()
    assert not stale_lock.exists()
    return os.environ.get(cpu_adam.BUILD_ROOT)


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_lock_of_a_killed_build_does_not_block_later_builds(world_size: int) -> None:
    """torch itself would wait forever."""
    roots = run_distributed(build_with_a_stale_lock, world_size)
    assert roots == [os.environ.get("TORCH_EXTENSIONS_DIR")] * world_size, "the variable is restored"


def build_beside_a_held_lock() -> list[str]:
    """Build one optimizer while another process holds the lock of the build folder. Return the processes that this starts."""
    from recipes.engine import cpu_adam

    with (cpu_adam.build_folder() / "in_use").open() as file:  # a lock of another open file blocks like that of another process
        fcntl.flock(file, fcntl.LOCK_EX)
        started: list[str] = []
        sys.addaudithook(lambda event, args: started.append(str(args[:2])) if event == "subprocess.Popen" else None)
        build_cpu_adam_once()
    return started


def test_ranks_that_find_the_op_compiled_wait_for_no_lock_and_run_no_build_tool() -> None:
    assert run_distributed(build_beside_a_held_lock, 1, timeout=60) == [[]]


def test_ranks_that_waited_for_the_build_do_not_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.engine import cpu_adam

    builds, flock = list[str](), fcntl.flock

    class Builder:
        def load(self) -> None:
            builds.append(os.environ[cpu_adam.BUILD_ROOT])
            (Path(builds[-1]) / "cpu_adam").mkdir()
            (Path(builds[-1]) / "cpu_adam" / "cpu_adam.so").write_text(f"build {len(builds)}")

    def wait(file: Any, kind: int) -> None:
        """Return as if another process had held the lock and compiled."""
        flock(file, kind)
        cpu_adam._complete_library().write_text("of another process")

    monkeypatch.setenv(cpu_adam.BUILD_ROOT, str(tmp_path))
    monkeypatch.setattr(cpu_adam.cpu_adam, "CPUAdamBuilder", Builder)
    folder = cpu_adam.build_folder()
    assert cpu_adam._compile().read_text() == "build 1" and builds == [str(folder)]
    (folder / "cpu_adam" / "cpu_adam.so").unlink()
    assert cpu_adam._compile().read_text() == "build 1", "a build of another checkout does not matter"
    cpu_adam._complete_library().unlink()
    monkeypatch.setattr(fcntl, "flock", wait)
    assert cpu_adam._compile().read_text() == "of another process" and len(builds) == 1


def test_processors_with_different_instruction_sets_have_separate_build_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.engine import cpu_adam

    folders = set()
    for flags in (["avx2"], ["avx2", "avx512f"], ["avx2"]):
        monkeypatch.setattr(cpu_adam, "cpu_info", lambda flags=flags: {"flags": flags})
        folders.add(cpu_adam.build_folder())
    assert len(folders) == 2


def test_is_compiled_is_true_if_the_op_is_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.engine import cpu_adam

    monkeypatch.setenv(cpu_adam.BUILD_ROOT, str(tmp_path))
    assert not cpu_adam.is_compiled()
    (cpu_adam.build_folder() / "cpu_adam").mkdir(parents=True)
    (cpu_adam.build_folder() / "cpu_adam" / "cpu_adam.so").touch()
    assert cpu_adam.is_compiled()


def compile_flags(by_lscpu: bool) -> list[str]:
    """Return the compile flags of DeepSpeed's op, from cpu_info or from lscpu, which DeepSpeed uses if py-cpuinfo fails."""
    from deepspeed.ops.op_builder import CPUAdamBuilder

    from recipes.engine import cpu_adam

    if by_lscpu:
        cpu_adam.cpu_info = lambda: {}["failed"]
    with cpu_adam._reading_proc_cpuinfo():
        return CPUAdamBuilder().cxx_args()


@pytest.mark.skipif(not shutil.which("lscpu") or not Path("/proc/cpuinfo").exists(), reason="compares lscpu with /proc/cpuinfo")
def test_the_op_is_compiled_for_the_instruction_sets_that_lscpu_names() -> None:
    (flags,), (theirs,) = (run_distributed(compile_flags, 1, by_lscpu) for by_lscpu in (False, True))
    assert flags == theirs and any(flag.startswith("-D__") for flag in flags)


@pytest.mark.parametrize(
    ("text", "machine", "expected"),
    [
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512f\n\nprocessor\t: 1\n", "x86_64", ("AuthenticAMD", "X86_64", "avx512f")),
        ("processor\t: 0\nFeatures\t: fp asimd sve\nCPU implementer\t: 0x41\n", "aarch64", ("", "ARM_8", "sve")),
        ("processor\t: 0\ncpu\t\t: POWER9\n", "ppc64le", ("", "PPC_64", None)),
        ("hart\t: 0\nisa\t: rv64imafdc\n", "riscv64", ("", "RISCV_64", None)),
    ],
)
def test_proc_cpuinfo_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, machine: str, expected: tuple[str, str, str | None]
) -> None:
    from recipes.engine import cpu_adam

    path = tmp_path / "cpuinfo"
    path.write_text(text)
    monkeypatch.setattr(cpu_adam, "PROC_CPUINFO", path)
    monkeypatch.setattr("platform.machine", lambda: machine)
    info = cpu_adam.cpu_info()
    vendor, arch, flag = expected
    assert (info["vendor_id_raw"], info["arch"]) == (vendor, arch)
    assert flag in info["flags"] if flag else info["flags"] == []


def test_the_error_of_a_home_that_cannot_be_written_names_the_variable_that_fixes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.engine import cpu_adam

    monkeypatch.setenv("HOME", "/proc/nowhere")
    for root in ("", "/proc/nowhere", "~/built"):
        monkeypatch.setenv(cpu_adam.BUILD_ROOT, root)
        with pytest.raises(LocalError, match=r"compiled into /.*cannot be written .*; set TORCH_EXTENSIONS_DIR"):
            cpu_adam._compile()


def build_from_a_folder_that_cannot_be_written(root: Path, installed: bool) -> tuple[float, list[str]]:
    """Return a weight after one step of an optimizer whose op is compiled already, and the files of the build root."""
    from recipes.engine import cpu_adam

    library = cpu_adam._complete_library()
    os.environ[cpu_adam.BUILD_ROOT] = str(root)
    target = cpu_adam.build_folder() / "cpu_adam" / "cpu_adam.so"
    target.parent.mkdir(parents=True)
    if installed:
        cpu_adam._is_installed = lambda: True
        with cpu_adam._compiled_op():
            assert not (cpu_adam.build_folder() / "in_use").exists(), "nothing is compiled, so there is no lock"
        return 0.0, []
    shutil.copyfile(library, target)
    (cpu_adam.build_folder() / "in_use").mkdir()  # as root is allowed to write everywhere
    weight = torch.ones(4, requires_grad=True)
    for _ in range(2):
        optimizer = cpu_adam.build_cpu_adam([{"params": [weight]}], **NUMBERS)
    weight.grad = torch.ones(4)
    optimizer.step()
    return float(weight.detach().mean()), sorted(path.name for path in target.parent.iterdir())


def test_a_compiled_op_is_used_from_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (weight, files), *_ = run_distributed(build_from_a_folder_that_cannot_be_written, 1, tmp_path, False)
    assert weight == pytest.approx(1 - NUMBERS["lr"], abs=2e-4) and files == ["cpu_adam.so"]


def test_an_op_that_was_installed_with_deepspeed_needs_no_folder(tmp_path: Path) -> None:
    run_distributed(build_from_a_folder_that_cannot_be_written, 1, tmp_path, True)


def test_an_op_that_was_installed_for_another_accelerator_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.engine import cpu_adam

    monkeypatch.setattr(cpu_adam, "installed_ops", {"cpu_adam": True})
    for accelerator, is_installed in ((cpu_adam.get_accelerator().device_name(), True), ("other", False)):
        monkeypatch.setattr(cpu_adam, "accelerator_name", accelerator)
        assert cpu_adam._is_installed() == is_installed
