"""Commands as users give them, in processes of their own: a launch with one visible device per task, golden cases, tests marked gpu."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

from accelerator.result import CANNOT, FAIL, OK, Row
from accelerator.training import STEPS, TINY, finite, same_bits
from accelerator.worker import Context
from recipes.train.cli import ROOT

LOCAL_RANK = 3
GOLDEN = ("text/paper", "audio/recipe", "vision/recipe")
TINY_GOLDEN = ("text/paper",)
TOLERANCE = 1e-4
"""Largest difference of any quantity; on a CPU it is 1e-5."""
ERROR = re.compile(r"^(\[rank\d+\]: )?(error|[\w.]*(Error|Exception)): ")


def run(words: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    """A command in the checkout, by this Python."""
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path} | env
    return subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def check_launch(context: Context) -> Iterator[Row]:
    """The launch script with deterministic kernels: as the fourth task of a node that sees one device of its own, then by deepspeed."""
    values = {"run.max_steps": STEPS, "run.log_steps": 1, "run.eval_samples": 16, "run.deterministic": "true", "run.global_batch_size": 16}
    values |= TINY if context.is_tiny else {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    one_device = {"CUDA_VISIBLE_DEVICES": visible} if context.device == "cuda" else {}
    launches: dict[str, tuple[list[str], dict[str, str]]] = {
        f"LOCAL_RANK={LOCAL_RANK}, one visible device": ([], {"LOCAL_RANK": str(LOCAL_RANK), "RANK": "0", "WORLD_SIZE": "1"} | one_device),
        "by deepspeed": (["-m", "deepspeed.launcher.runner", "--num_accelerators", "1"], {}),
    }
    folders = [context.folder / name.split()[0] for name in launches]
    for (name, (launcher, env)), folder in zip(launches.items(), folders, strict=True):
        what = f"launch/pretrain_text.py, {name}"
        data = folders[0] / "prepared"
        settings = [f"{key}={value}" for key, value in (values | ({"data.path": data} if data.exists() else {})).items()]
        config = ROOT / "ds_configs" / "zero3_bf16.json"
        words = ["launch/pretrain_text.py", "--run-dir", str(folder), "--deepspeed_config", str(config)]
        done = run([*launcher, *words, *(word for setting in settings for word in ("--set", setting))], **env)
        if done.returncode:
            yield Row(what, FAIL, f"exit code {done.returncode}: {last_line(done)}", {"printed": (done.stdout + done.stderr)[-20_000:]})
            return
        yield finite(folder, what)
    yield same_bits(*folders, "both launches, run.deterministic=true")


def check_golden(context: Context) -> Iterator[Row]:
    """Replays of published models against their oracle vectors, in float32 on the device."""
    for case in TINY_GOLDEN if context.is_tiny else GOLDEN:
        done = run(["tests/golden/replay.py", f"tests/golden/{case}", "--tolerance", str(TOLERANCE)])
        failed = [line.split()[0] for line in done.stdout.splitlines() if line.endswith(" FAIL")]
        shown = f"; {', '.join(failed[:3])}" if failed else ""
        yield Row(
            f"golden {case}",
            FAIL if done.returncode else OK,
            f"{last_line(done)}{shown}",
            {"printed": done.stdout[-20_000:] + done.stderr[-5_000:]},
        )


def check_tests(context: Context) -> Iterator[Row]:
    """The tests that need a device."""
    if context.device == "cpu":
        yield Row("tests marked gpu", CANNOT, "they need a CUDA device")
        return
    done = run(["-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "tests/recipes", "tests/model"])
    yield Row("tests marked gpu", FAIL if done.returncode else OK, last_line(done), {"printed": done.stdout[-20_000:]})


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a command said last; where it failed, the last error that it names."""
    lines = (done.stdout + ("\n" + done.stderr if done.returncode else "")).strip().splitlines() or ["it said nothing"]
    errors = [line for line in lines if done.returncode and ERROR.search(line)]
    return (errors or lines)[-1][-300:]
