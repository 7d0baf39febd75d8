"""DeepSpeed's CPU Adam, changed so that its bias correction depends on the step number alone. recipes/engine/build.py decides whether a
run uses it."""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import IO, Any

import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.git_version_info import accelerator_name, installed_ops
from deepspeed.git_version_info import version as deepspeed_version
from deepspeed.ops.adam import DeepSpeedCPUAdam, cpu_adam
from torch.utils import cpp_extension

from recipes.errors import LocalError
from recipes.system.durable import write_bytes_atomically

FAR_STEP = 2**40
"""No run reaches this step or a step next to it."""
BUILD_ROOT = "TORCH_EXTENSIONS_DIR"
PROC_CPUINFO = Path("/proc/cpuinfo")
ARCHITECTURES = {"x86_64": "X86_64", "aarch64": "ARM_8", "ppc64le": "PPC_64", "riscv64": "RISCV_64"}
"""uname's name of an architecture -> py-cpuinfo's. Source: py-cpuinfo 9.0.0, _parse_arch."""


def build_cpu_adam(groups: list[dict[str, Any]], **numbers: Any) -> DeepSpeedCPUAdam:
    """Build DeepSpeed's CPU Adam, changed so that a resumed run computes the same bits as an uninterrupted one. Compiles it if needed.
    `numbers`: lr, betas, eps.

    DeepSpeed's C++ code keeps beta^t as a running product while steps are consecutive, and computes the power if they are not. A resumed
    run would therefore differ in the last bit. Here no step is consecutive to the one before it, so the power is computed at every step.
    Source: deepspeed 0.19.8, ops/csrc/includes/cpu_adam.h, IncrementStep.
    """
    with _reading_proc_cpuinfo(), _compiled_op():
        optimizer = DeepSpeedCPUAdam(groups, adamw_mode=True, **numbers)
    optimizer.register_step_pre_hook(_step_far_away)  # no subclass, because ZeRO checks for the exact type
    return optimizer


def _step_far_away(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Update a dummy element at the step number FAR_STEP. The optimizer calls this before each step, so that the real step is not
    consecutive to the one before it. `args` and `kwargs` are those of step() and are not used."""
    assert isinstance(optimizer, DeepSpeedCPUAdam)
    group, dummy = optimizer.param_groups[0], [torch.zeros(1) for _ in range(4)]
    numbers = [group[key] for key in ("eps", "weight_decay", "bias_correction")]
    optimizer.ds_opt_adam.adam_update(optimizer.opt_id, FAR_STEP, group["lr"], *group["betas"], *numbers, *dummy)


def cpu_info() -> dict[str, Any]:
    """Return vendor, family, architecture and instruction sets of the first processor, read from /proc/cpuinfo. They have the names that
    py-cpuinfo gives them, since DeepSpeed reads them instead of py-cpuinfo's."""
    first, _, _ = PROC_CPUINFO.read_text(errors="replace").partition("\n\n")
    pairs = (line.partition(":") for line in first.splitlines())
    found = {name.strip(): value.strip() for name, _, value in pairs}
    flags = found.get("flags") or found.get("Features") or ""  # x86, Arm
    arch = platform.machine()
    return {
        "vendor_id_raw": found.get("vendor_id", ""),
        "family": int(found.get("cpu family") or 0),
        "arch": ARCHITECTURES.get(arch, arch),
        "flags": flags.split(),
    }


@contextlib.contextmanager
def _reading_proc_cpuinfo() -> Iterator[None]:
    """In this block `from cpuinfo import get_cpu_info` imports cpu_info instead. Does nothing if there is no /proc/cpuinfo.

    The package py-cpuinfo starts itself in a second process, which runs cpuid machine code in a third one. This takes a second on every
    rank, and sometimes it never returns. DeepSpeed uses it for a warning and for the compile flags of CPU Adam.
    Source: deepspeed 0.19.8, ops/adam/cpu_adam.py, ops/op_builder/builder.py (cpu_arch, simd_width).
    """
    if not PROC_CPUINFO.exists():
        yield
        return
    previous, replacement = sys.modules.get("cpuinfo"), ModuleType("cpuinfo")
    replacement.get_cpu_info = cpu_info  # type: ignore[attr-defined]
    sys.modules["cpuinfo"] = replacement
    try:
        yield
    finally:
        del sys.modules["cpuinfo"]
        if previous is not None:
            sys.modules["cpuinfo"] = previous


def build_folder() -> Path:
    """Return the folder into which the C++ code of CPU Adam is compiled, one for each version of torch, DeepSpeed and Python and kind of
    processor. Code for one processor can be an illegal instruction on another one that shares the home folder."""
    processor = cpu_info() if PROC_CPUINFO.exists() else platform.machine()
    kind = repr((torch.__version__, deepspeed_version, sys.version_info[:2], processor))
    root = os.environ.get(BUILD_ROOT) or cpp_extension.get_default_build_root()
    return Path(root).expanduser() / f"data2vec_{hashlib.sha256(kind.encode()).hexdigest()[:12]}"


def is_compiled() -> bool:
    """True if CPU Adam's C++ code is already compiled, here or in the installed DeepSpeed. Otherwise build_cpu_adam() compiles it, which
    takes a minute."""
    return _is_installed() or _complete_library().exists() or _built_library().exists()


def _is_installed() -> bool:
    """True if the installed DeepSpeed contains CPU Adam already compiled, for the accelerator that is used. DeepSpeed then compiles
    nothing.
    Source: deepspeed 0.19.8, ops/op_builder/builder.py, OpBuilder.load."""
    return bool(installed_ops.get("cpu_adam")) and accelerator_name == get_accelerator().device_name()


def _built_library() -> Path:
    """Return the path of the shared library into which torch compiles CPU Adam. The file may not exist, and while it is compiled it is
    not complete."""
    return build_folder() / "cpu_adam" / "cpu_adam.so"


def _complete_library() -> Path:
    """Return the path of the copy that is made when torch has compiled CPU Adam. If the file exists, it is complete."""
    return build_folder() / "cpu_adam.so"


def _compiled_op() -> contextlib.AbstractContextManager[None]:
    """Return a context in which DeepSpeed's CPU Adam can be built. Compiles its C++ code first if needed. Raises: LocalError."""
    return contextlib.nullcontext() if _is_installed() else _reading(_compile())


@contextlib.contextmanager
def _reading(library: Path) -> Iterator[None]:
    """In this block DeepSpeed loads CPU Adam from a compiled file, without torch. torch would run its build tool and write to the folder
    even if nothing has to be compiled, and only one rank at a time can do that."""
    spec = importlib.util.spec_from_file_location("cpu_adam", library)
    assert spec is not None and spec.loader is not None
    op = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(op)
    builder = cpu_adam.CPUAdamBuilder
    cpu_adam.CPUAdamBuilder = lambda: SimpleNamespace(load=lambda: op)
    try:
        yield
    finally:
        cpu_adam.CPUAdamBuilder = builder


def _compile() -> Path:
    """Compile CPU Adam if that is not done yet, and return the library. Many ranks may call this at once: one compiles and the others
    wait. Once it is compiled, no rank waits for another one.

    torch marks a running build with a lock file. If the process is killed, the file stays, and all later builds wait for it silently and
    without end. We hold our own flock in this folder, which the kernel releases when a process dies. While we hold it, no other process
    compiles here, so a lock file of torch is stale.
    Source: torch 2.13, utils/file_baton.py.

    Raises: LocalError if the op is not compiled and the folder cannot be written.
    """
    built, complete = _built_library(), _complete_library()
    if complete.exists():
        return complete
    try:
        lock_file = _open_lock_file(complete.with_name("in_use"))
    except LocalError:
        if built.exists():
            return built
        raise
    with lock_file as file:
        with contextlib.suppress(OSError):  # on a file system without flock only torch's lock file is left
            fcntl.flock(file, fcntl.LOCK_EX)
            if complete.exists():
                return complete
            built.with_name("lock").unlink(missing_ok=True)
        with _building_into(complete.parent):
            cpu_adam.CPUAdamBuilder().load()
        write_bytes_atomically(complete, built.read_bytes())  # another checkout may compile again, into the same file
    return complete


@contextlib.contextmanager
def _building_into(folder: Path) -> Iterator[None]:
    """In this block torch compiles into `folder`."""
    previous = os.environ.get(BUILD_ROOT)
    os.environ[BUILD_ROOT] = str(folder)
    try:
        yield
    finally:
        del os.environ[BUILD_ROOT]
        if previous is not None:
            os.environ[BUILD_ROOT] = previous


def _open_lock_file(path: Path) -> IO[str]:
    """Open the file `path` for appending, and create its folder if needed. Raises: LocalError if that fails, for example without a home
    folder; other ranks may not have this error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a")
    except OSError as error:
        raise LocalError(
            f"the CPU optimizer is compiled into {path.parent}, which cannot be written ({error.strerror}); set {BUILD_ROOT} to a folder "
            "that you may write to"
        ) from None
