"""DeepSpeed's CPU Adam, made a function of the step number alone. Which optimizer a run has: recipes/engine/build.py."""

import contextlib
import fcntl
import hashlib
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import torch
from deepspeed.git_version_info import installed_ops
from deepspeed.ops.adam import DeepSpeedCPUAdam
from torch.utils import cpp_extension

from recipes.errors import LocalError

FAR_STEP = 2**40
"""No step that a run reaches is this one or next to it."""
BUILD_ROOT = "TORCH_EXTENSIONS_DIR"
PROC_CPUINFO = Path("/proc/cpuinfo")
ARCHITECTURES = {"x86_64": "X86_64", "aarch64": "ARM_8", "ppc64le": "PPC_64", "riscv64": "RISCV_64"}
"""py-cpuinfo's words for those of uname. Source: py-cpuinfo 9.0.0, _parse_arch."""


def build_cpu_adam(groups: list[dict[str, Any]], **numbers: Any) -> DeepSpeedCPUAdam:
    """DeepSpeedCPUAdam whose bias correction is a power of beta at every step.

    Its C++ keeps beta^t as a running product while steps are consecutive and takes the power after a jump, so a resumed run
    would differ from an uninterrupted one in the last bit. Here every step is a jump.
    Source: deepspeed 0.19.8, ops/csrc/includes/cpu_adam.h, IncrementStep.
    """
    with _reading_proc_cpuinfo(), _compiling_alone():
        optimizer = DeepSpeedCPUAdam(groups, adamw_mode=True, **numbers)
    optimizer.register_step_pre_hook(_jump)  # not a subclass: ZeRO asks for the exact type
    return optimizer


def _jump(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Update one element that belongs to nobody at a far step."""
    assert isinstance(optimizer, DeepSpeedCPUAdam)
    group, nobody = optimizer.param_groups[0], [torch.zeros(1) for _ in range(4)]
    numbers = [group[key] for key in ("eps", "weight_decay", "bias_correction")]
    optimizer.ds_opt_adam.adam_update(optimizer.opt_id, FAR_STEP, group["lr"], *group["betas"], *numbers, *nobody)


def cpu_info() -> dict[str, Any]:
    """What DeepSpeed asks of py-cpuinfo: vendor, architecture, instruction sets, of the first processor in /proc/cpuinfo."""
    first, _, _ = PROC_CPUINFO.read_text(errors="replace").partition("\n\n")
    pairs = (line.partition(":") for line in first.splitlines())
    found = {name.strip(): value.strip() for name, _, value in pairs}
    flags = found.get("flags") or found.get("Features") or ""  # x86, Arm
    arch = platform.machine()
    return {"vendor_id_raw": found.get("vendor_id", ""), "arch": ARCHITECTURES.get(arch, arch), "flags": flags.split()}


@contextlib.contextmanager
def _reading_proc_cpuinfo() -> Iterator[None]:
    """In this block `from cpuinfo import get_cpu_info` is cpu_info. Does nothing where there is no /proc/cpuinfo.

    py-cpuinfo starts itself in a second process, which probes the cpuid register by machine code in a third one: a second on
    every rank, and now and then it never returns. DeepSpeed asks it for a warning and for the op's compile flags.
    Source: deepspeed 0.19.8, ops/adam/cpu_adam.py, ops/op_builder/builder.py (cpu_arch, simd_width).
    """
    if not PROC_CPUINFO.exists():
        yield
        return
    known, ours = sys.modules.get("cpuinfo"), ModuleType("cpuinfo")
    ours.get_cpu_info = cpu_info  # type: ignore[attr-defined]
    sys.modules["cpuinfo"] = ours
    try:
        yield
    finally:
        del sys.modules["cpuinfo"]
        if known is not None:
            sys.modules["cpuinfo"] = known


def build_folder() -> Path:
    """Where the op of this torch on this kind of processor lies: what is compiled for one is an illegal instruction on another that
    shares the home folder."""
    processor = cpu_info() if PROC_CPUINFO.exists() else platform.machine()
    kind = repr((torch.__version__, sys.version_info[:2], processor))
    root = os.environ.get(BUILD_ROOT) or cpp_extension.get_default_build_root()
    return Path(root).expanduser() / f"data2vec_{hashlib.sha256(kind.encode()).hexdigest()[:12]}"


def is_compiled() -> bool:
    """Whether build_cpu_adam() finds the op here; else it compiles for a minute."""
    return bool(installed_ops.get("cpu_adam")) or (build_folder() / "cpu_adam" / "cpu_adam.so").exists()


@contextlib.contextmanager
def _compiling_alone() -> Iterator[None]:
    """In this block torch compiles into build_folder(), one process at a time, whatever a killed one has left there.

    torch marks a build with a file that outlives a process which is killed: all later ones wait for it in silence, for ever. Nobody
    else compiles in this folder, and the kernel takes a dead process's flock back, so that file is nobody's here.
    Source: torch 2.13, utils/file_baton.py.
    """
    known, folder = os.environ.get(BUILD_ROOT), build_folder()
    with _opened(folder / "in_use") as file:
        with contextlib.suppress(OSError):  # a file system without locks: then torch's file has to do
            fcntl.flock(file, fcntl.LOCK_EX)
            (folder / "cpu_adam" / "lock").unlink(missing_ok=True)
        os.environ[BUILD_ROOT] = str(folder)
        try:
            yield
        finally:
            del os.environ[BUILD_ROOT]
            if known is not None:
                os.environ[BUILD_ROOT] = known


def _opened(path: Path) -> IO[str]:
    """A file to append to, in a folder that is made for it. Raises: LocalError where that cannot be, as without a home."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a")
    except OSError as error:
        raise LocalError(
            f"the CPU optimizer is compiled into {path.parent}, which cannot be written ({error.strerror}); set {BUILD_ROOT} to a folder "
            "that you may write to"
        ) from None
