"""The checks find faults that are planted into the software: a NaN kernel, a wrong dtype, a shard on the host, a missing device."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import run_distributed

ROOT = Path(__file__).parents[3]
NO_SUCH_DEVICE = """
import torch
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 4
"""
"""sitecustomize.py of every process: torch reports devices that do not exist."""


def found(name: str, plant: str, folder: Path) -> list[tuple[str, str, str]]:
    """Return the rows of a check under a planted fault. Runs on a rank."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from accelerator.checks import all_checks
    from accelerator.worker import Context

    with pytest.MonkeyPatch.context() as patch:
        PLANTS[plant](patch)
        check = all_checks()[name]
        rows = getattr(importlib.import_module(check.module), check.function)(Context("cpu", folder), *check.arguments)
        return [(row.what, row.status, row.seen) for row in rows]


def nan_kernel(patch: pytest.MonkeyPatch) -> None:
    """Attention with a key mask gives NaN gradients, like cuDNN's fault."""
    import torch.nn.functional as F

    original = F.scaled_dot_product_attention

    def attention(query: Any, *args: Any, attn_mask: Any = None, **options: Any) -> Any:
        out = original(query, *args, attn_mask=attn_mask, **options)
        return out if attn_mask is None or not out.requires_grad else out + (query.sum() * 0).log() * 0

    patch.setattr(F, "scaled_dot_product_attention", attention)


def wrong_dtype(patch: pytest.MonkeyPatch) -> None:
    """The student's compute shards stay float32."""
    from recipes.engine import shards

    original = shards.compute_shard
    patch.setattr(
        shards, "compute_shard", lambda parameter: original(parameter).float() if parameter.requires_grad else original(parameter)
    )


def shard_elsewhere(patch: pytest.MonkeyPatch) -> None:
    """One moment is on another device than the weights: `meta`, the only other device of a machine without a GPU."""
    from recipes.engine import shards

    original = shards.moment_shard

    def moment_shard(parameter: Any, moment: str) -> Any:
        shard = original(parameter, moment)
        return shard.to("meta") if moment == "exp_avg_sq" and parameter.ds_numel > 1000 else shard

    patch.setattr(shards, "moment_shard", moment_shard)


def nothing(patch: pytest.MonkeyPatch) -> None:
    """No fault."""


PLANTS = {one.__name__: one for one in (nan_kernel, wrong_dtype, shard_elsewhere, nothing)}


def rows(name: str, plant: str, folder: Path) -> list[tuple[str, str, str]]:
    return run_distributed(found, 1, name, plant, folder, timeout=120)[0]


@pytest.mark.slow
def test_without_a_fault_attention_and_shards_are_right(tmp_path: Path) -> None:
    for name in ("attention", "shards"):
        assert {status for _, status, _ in rows(name, "nothing", tmp_path)} <= {"ok", "cannot run here"}


@pytest.mark.slow
def test_a_nan_kernel_is_named_with_its_case(tmp_path: Path) -> None:
    seen = rows("attention", "nan_kernel", tmp_path)
    failed = {what for what, status, _ in seen if status == "fail"}
    # On a CPU torch's kernel computes only what has neither dropout nor a learned bias.
    assert failed == {what for what, _, _ in seen if "student" in what and "padded" in what and what.endswith("dropout 0")} != set()
    assert all("not finite: input" in text for _, status, text in seen if status == "fail")


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        ("wrong_dtype", r"first: student .* is torch.float32, should be torch.bfloat16"),
        ("shard_elsewhere", r"first: exp_avg_sq .* is on meta, should be on cpu"),
    ],
)
def test_a_wrong_dtype_and_a_shard_elsewhere_are_named(plant: str, words: str, tmp_path: Path) -> None:
    for what, status, text in rows("shards", plant, tmp_path):
        assert (status == "fail" and re.search(words, text)) or "fp16" in what, (what, status, text)


def test_a_device_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerator.checks import all_checks
    from accelerator.commands import check_launch
    from accelerator.worker import Context

    (tmp_path / "sitecustomize.py").write_text(NO_SUCH_DEVICE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (row,) = check_launch(Context("cpu", tmp_path))
    assert "launch" in all_checks() and row.status == "fail" and "LOCAL_RANK=3" in row.what
    assert "exit code 1: AttributeError" in row.seen and "setDevice" in row.seen, row.seen
