"""The choice of kernels at the start: precisions that a device lacks, deterministic kernels, the library of a run's products."""

import os

import pytest
import torch

from recipes.ds_config import load_ds_config, resolve
from recipes.errors import ConfigError
from recipes.train import kernels
from recipes.train.kernels import check_precision, choose_kernels, precision_line
from tests.launching import ROOT, tiny_recipe


def test_a_precision_that_the_device_lacks_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe()
    for name, precision, others in (("zero3_fp16", "fp16", "bf16 or fp32"), ("zero3_bf16", "bf16", "fp16 or fp32")):
        path = ROOT / "ds_configs" / f"{name}.json"
        config = resolve(recipe, load_ds_config(path), str(path), 1)
        monkeypatch.setattr(kernels, "is_supported", lambda asked, precision=precision: asked != precision)
        with pytest.raises(
            ConfigError, match=rf"{name}\.json: DeepSpeed has no {precision} on this device; use a ds_config with {others}$"
        ):
            check_precision(config)
        monkeypatch.setattr(kernels, "is_supported", lambda asked: True)
        check_precision(config)


def test_deterministic_kernels_come_with_what_cublas_needs_unless_the_user_has_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(kernels.torch, "use_deterministic_algorithms", asked.append)
    for before, deterministic, after in ((None, False, None), (None, True, ":4096:8"), (":16:8", True, ":16:8")):
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        if before:
            monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", before)
        choose_kernels(deterministic)
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == after
    assert asked == [False, True, True]


def test_a_run_in_fp32_on_a_cpu_with_instructions_for_bf16_prints_one_line_about_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def line(*flags: str, config: str = "zero3_cpu", device: str = "cpu") -> str | None:
        monkeypatch.setattr(kernels, "cpu_info", lambda: {"flags": list(flags)})
        path = ROOT / "ds_configs" / f"{config}.json"
        return precision_line(resolve(tiny_recipe(), load_ds_config(path), str(path), 1), torch.device(device))

    expected = "fp32; this processor has avx512_bf16: --deepspeed_config zero3_cpu_bf16 may take half the time (docs/performance.md)"
    assert line("sse2", "avx512_bf16") == expected
    assert line("avx512_bf16", "amx_bf16") == expected.replace("avx512_bf16", "amx_bf16")
    assert line("avx512f") is line("avx512_bf16", config="zero3_cpu_bf16") is line("avx512_bf16", device="cuda") is None
