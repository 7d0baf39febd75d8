"""Checks that run commands in their own processes: a launch with one visible device per task, golden cases, tests marked gpu."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from accelerator.result import CANNOT, FAIL, OK, Row
from accelerator.training import finite_row, same_bits_row, settings_of
from accelerator.worker import Context
from recipes.cluster.checkout import ROOT

LOCAL_RANK = 3
GOLDEN = ("text/paper", "audio/recipe", "vision/recipe")
TINY_GOLDEN = ("text/paper",)
TOLERANCE = 1e-4
"""Largest allowed difference of any quantity of a golden case. On a CPU it is 1e-5."""
ERROR = re.compile(r"^(\[rank\d+\]: )?(error|[\w.]*(Error|Exception)): ")


@dataclass(frozen=True)
class Done:
    """A command that has ended: its exit code, and its stdout and stderr as one text."""

    code: int
    printed: str

    @property
    def last_line(self) -> str:
        """The last line that it printed; if it failed, the last line with an error."""
        lines = self.printed.strip().splitlines() or ["it printed nothing"]
        errors = [line for line in lines if self.code and ERROR.search(line)]
        return (errors or lines)[-1][-300:]

    @property
    def problem(self) -> str:
        """Exit code and last line, for the row of a failure."""
        return f"exit code {self.code}: {self.last_line}"


def run(context: Context, name: str, words: list[str], **env: str) -> Done:
    """Run Python with the arguments `words` in the checkout, and return its exit code and output. `env` is added to the environment. The
    output goes to NAME.log in the check's folder while the command runs."""
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH")]))
    log = context.folder / f"{name}.log"
    with log.open("wb") as file:
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path} | env, stdout=file, stderr=file, check=False)
    return Done(done.returncode, log.read_text(errors="replace"))


def check_launch(context: Context) -> Iterator[Row]:
    """Check the launch script with deterministic kernels: as the fourth task of a node, with one visible device, and then by deepspeed.
    Yield a row for each run, and one that compares their results bit for bit."""
    values = settings_of(context, "text") | {"run.deterministic": "true"}
    deepspeed = ["-m", "deepspeed.launcher.runner"]
    if context.device == "cuda":
        # without a number, deepspeed uses the visible devices
        one_device = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}
    else:
        one_device, deepspeed = {}, [*deepspeed, "--num_accelerators", "1"]
    launches: dict[str, tuple[list[str], dict[str, str]]] = {
        f"LOCAL_RANK={LOCAL_RANK}, one visible device": ([], {"LOCAL_RANK": str(LOCAL_RANK), "RANK": "0", "WORLD_SIZE": "1"} | one_device),
        "by deepspeed": (deepspeed, one_device),
    }
    folders = [context.folder / name for name in ("by_hand", "by_deepspeed")]
    for (name, (launcher, env)), folder in zip(launches.items(), folders, strict=True):
        what, data = f"launch/pretrain_text.py, {name}", folders[0] / "prepared"
        if launcher and not one_device.get("CUDA_VISIBLE_DEVICES", "0").isdigit():
            yield Row(what, CANNOT, f"deepspeed takes numbers of devices, CUDA_VISIBLE_DEVICES is {one_device['CUDA_VISIBLE_DEVICES']}")
            return
        settings = [f"{key}={value}" for key, value in (values | ({"data.path": data} if data.exists() else {})).items()]
        config = ROOT / "ds_configs" / "zero3_bf16.json"
        words = ["launch/pretrain_text.py", "--run-dir", str(folder), "--deepspeed_config", str(config)]
        done = run(context, folder.name, [*launcher, *words, *(word for setting in settings for word in ("--set", setting))], **env)
        if done.code:
            yield Row(what, FAIL, done.problem)
            return
        yield finite_row(folder, what)
    first, second = folders
    yield same_bits_row(first, second, "both launches, run.deterministic=true")


def check_golden(context: Context) -> Iterator[Row]:
    """Run published models in float32 on the device, and yield for each a row that compares the results with stored reference tensors."""
    for case in TINY_GOLDEN if context.is_tiny else GOLDEN:
        words = ["tests/golden/replay.py", f"tests/golden/{case}", "--tolerance", str(TOLERANCE)]
        done = run(context, case.replace("/", "_"), words)
        failed = [line.split()[0] for line in done.printed.splitlines() if line.endswith(" FAIL")]
        shown = f"; {', '.join(failed[:3])}" if failed else ""
        yield Row(case, FAIL if done.code else OK, f"{done.last_line}{shown}")


def check_tests(context: Context) -> Iterator[Row]:
    """Run the tests marked gpu. Yield one row: ok if all pass and none is skipped."""
    if context.device == "cpu":
        yield Row("tests marked gpu", CANNOT, "they need a CUDA device")
        return
    done = run(context, "pytest", ["-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *files_with_gpu_tests()])
    is_good = not done.code and " passed" in done.last_line and " skipped" not in done.last_line
    yield Row("tests marked gpu", OK if is_good else FAIL, done.last_line)


def files_with_gpu_tests() -> list[str]:
    """Return the test files that have tests marked gpu. The others may import libraries that a GPU machine without network does not
    have."""
    files = (path for folder in ("model", "recipes") for path in (ROOT / "tests" / folder).rglob("test_*.py"))
    return sorted(str(path.relative_to(ROOT)) for path in files if "mark.gpu" in path.read_text())
