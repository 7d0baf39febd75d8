"""The controls for data2vec: their losses against other implementations, their metrics, and the same run on any topology."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.batch import Batch, Masks
from model.frontends.config import IMAGENET_MEAN, IMAGENET_STD
from model.shapes import count_parameters
from recipes.check import check_recipe
from recipes.errors import ConfigError
from recipes.masked_config import InputConfig, MlmConfig, PixelsConfig
from recipes.objectives.masked_input import patches
from recipes.plan.size import student_parameters
from tests.distributed import run_distributed
from tests.launching import PRETRAIN_TEXT, ROOT, overrides, read_jsonl, start_ranks, tiny_recipe

CONTROLS: dict[str, InputConfig] = {"text": MlmConfig(), "vision": PixelsConfig()}
TIMINGS = {"step_seconds", "data_wait_seconds", "tokens_per_second", "mfu", "peak_memory_bytes", "world_size", "tp_size"}


def control(modality: str, objective: InputConfig | None = None) -> Any:
    """The modality's tiny recipe with its control, and one linear layer as head."""
    return replace(tiny_recipe(modality, model__head_layers=1), objective=objective or CONTROLS[modality])


def build(recipe: Any) -> Any:
    """The recipe's objective on an engine of one rank."""
    from model.parallel import init_parallel
    from recipes.ds_config import load_ds_config, resolve
    from recipes.objectives.registry import build_objective

    content = load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json") | {"train_micro_batch_size_per_gpu": 2}
    return build_objective(recipe, resolve(recipe, content, "test", 1), init_parallel(1, "cpu"))


def batch_of(recipe: Any, rows: int = 4) -> Batch:
    """Random inputs, of which about a third is masked."""
    generator = torch.Generator().manual_seed(5)
    if recipe.modality == "text":
        V, S = recipe.frontend.vocab_size, 16
        clean = torch.randint(4, V - 1, (rows, S), generator=generator)
        mask_BS = torch.rand(rows, S, generator=generator) < 0.3
        return Batch(clean.masked_fill(mask_BS, V - 1), clean, Masks.of(mask_BS), None, None, rows * S)
    size = recipe.frontend.image_size
    pixels = torch.randint(0, 256, (rows, 3, size, size), generator=generator).to(torch.uint8)
    mask_BS = torch.rand(rows, recipe.frontend.grid**2, generator=generator) < 0.3
    mask_BS[:, 0] = True
    return Batch(pixels, pixels, Masks.of(mask_BS), None, None, mask_BS.numel())


def maes_loss(pixels_BCHW: Tensor, prediction_MP: Tensor, mask_BN: Tensor, size: int, *, norm_pix_loss: bool) -> float:
    """The sum over masked patches of MAE's loss, as in its models_mae.py (patchify, forward_loss), whose patches have their colours last;
    so the prediction, colours first, is reordered."""
    p, h = size, pixels_BCHW.shape[2] // size
    x = pixels_BCHW.reshape(len(pixels_BCHW), 3, h, p, h, p)
    target = torch.einsum("nchpwq->nhwpqc", x).reshape(len(pixels_BCHW), h * h, p * p * 3)
    if norm_pix_loss:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    prediction = prediction_MP.reshape(-1, 3, p, p).permute(0, 2, 3, 1).reshape(-1, p * p * 3)
    return float(((prediction - target[mask_BN]) ** 2).mean(-1).sum())


def text_losses() -> dict[str, float]:
    recipe = control("text")
    objective, batch = build(recipe), batch_of(recipe)
    prediction = objective.student(batch).prediction_MD
    expected = F.nll_loss(prediction.log_softmax(1), batch.clean_inputs[batch.masks.mask_BS], reduction="sum")
    evaluated = objective.evaluate([batch, replace(batch, is_counted=False)])
    objective.student.eval()
    hits = (objective.student(batch).prediction_MD.argmax(1) == batch.clean_inputs[batch.masks.mask_BS]).double().mean()
    found = {"ours": objective.forward(batch, 1).loss, "expected": expected, "hits": hits, "count": objective.count(batch)}
    return {name: float(value) for name, value in found.items()} | evaluated


def test_the_loss_of_masked_language_modelling_is_cross_entropy_at_the_masked_tokens() -> None:
    (found,) = run_distributed(text_losses, 1)
    assert found["ours"] == pytest.approx(found["expected"], rel=1e-6)
    assert found["eval_loss"] == pytest.approx(found["expected"] / found["count"], rel=1e-5)
    assert found["accuracy"] == pytest.approx(found["hits"])


def vision_losses(normalize: bool) -> dict[str, float]:
    recipe = control("vision", PixelsConfig(normalize=normalize))
    objective, batch = build(recipe), batch_of(recipe)
    shape = (1, 3, 1, 1)
    pixels = (batch.inputs.float() / 255 - torch.tensor(IMAGENET_MEAN).view(shape)) / torch.tensor(IMAGENET_STD).view(shape)
    prediction = objective.student(batch).prediction_MD.detach()
    expected = maes_loss(pixels, prediction, batch.masks.mask_BS, recipe.frontend.patch_size, norm_pix_loss=normalize)
    zero = maes_loss(pixels, prediction * 0, batch.masks.mask_BS, recipe.frontend.patch_size, norm_pix_loss=normalize)
    return {"ours": float(objective.forward(batch, 1).loss), "expected": expected, "zero": zero} | objective.evaluate([batch])


@pytest.mark.parametrize("normalize", [True, False], ids=["normalised", "plain"])
def test_the_loss_of_pixels_is_maes(normalize: bool) -> None:
    (found,) = run_distributed(vision_losses, 1, normalize)
    assert found["ours"] == pytest.approx(found["expected"], rel=1e-5)
    assert found["explained_variance"] == pytest.approx(1 - found["expected"] / found["zero"], abs=1e-5)


def test_patches_are_in_the_order_of_the_front_end() -> None:
    """Patch embedding is a convolution: the product of the patches with its flattened kernel."""
    pixels_BCHW, kernel = torch.randn(2, 3, 8, 12), torch.randn(5, 3, 4, 4)
    by_convolution = F.conv2d(pixels_BCHW, kernel, stride=4).flatten(2).transpose(1, 2)
    assert torch.allclose(patches(pixels_BCHW, 4) @ kernel.flatten(1).T, by_convolution, atol=1e-4)


def built_and_planned(modality: str) -> tuple[int, int]:
    from recipes.engine import shards

    recipe = control(modality)
    objective = build(recipe)
    return sum(
        shards.gather_full(p, shards.master_shard(p), objective.parallel).numel() for _, p in shards.named_parameters(objective.student)
    ), count_parameters(student_parameters(recipe))


@pytest.mark.parametrize("modality", CONTROLS)
def test_the_planned_head_is_the_built_one(modality: str) -> None:
    ((built, planned),) = run_distributed(built_and_planned, 1, modality)
    recipe = control(modality)
    rows = getattr(recipe.frontend, "padded_vocab_size", 0) - getattr(recipe.frontend, "vocab_size", 0)
    assert built == planned + rows * recipe.model.hidden_size


@pytest.mark.parametrize(
    ("recipe", "complaint"),
    [
        (
            replace(tiny_recipe("vision"), objective=MlmConfig()),
            "objective.kind mlm is for text, and recipe vision_tiny is of modality vision",
        ),
        (replace(tiny_recipe("text"), objective=PixelsConfig()), "objective.kind pixels is for vision, and recipe text_tiny"),
        (replace(tiny_recipe("text", model__head_layers=0), objective=MlmConfig()), "model.head_layers 0 with objective.kind mlm"),
    ],
)
def test_a_control_of_another_modality_or_without_head_is_refused(recipe: Any, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_recipe(recipe)
    assert str(caught.value).startswith(complaint) and "\n" not in str(caught.value)


def train(data: Path, run_dir: Path, ranks: int = 1, tp_size: int = 1, steps: int = 20, **changes: object) -> list[dict[str, Any]]:
    """Pre-train with masked language modelling by the launch script. Return the metrics that depend on no machine or topology."""
    content = json.loads((ROOT / "ds_configs" / "zero3_cpu.json").read_text()) | {"train_micro_batch_size_per_gpu": 2}
    ds_config = run_dir.parent / f"tp{tp_size}.json"
    ds_config.write_text(json.dumps(content | {"megatron": {"tensor_model_parallel_size": tp_size}}))
    settings = overrides("text", run__max_steps=steps, run__eval_steps=10, run__save_steps=10, **changes)
    flags = ["--recipe", "text_small_mlm", "--data", data, "--run-dir", run_dir, "--deepspeed_config", ds_config, *settings]
    for done in start_ranks(PRETRAIN_TEXT, flags, run_dir.parent, ranks).wait(90):
        assert done.returncode == 0, done.stderr
    return [{key: value for key, value in row.items() if key not in TIMINGS} for row in read_jsonl(run_dir / "metrics.jsonl")]


def test_every_topology_gives_the_same_run(tiny_prepared: Path, tmp_path: Path) -> None:
    alone = train(tiny_prepared, tmp_path / "alone")
    assert {"loss", "masked_fraction", "accuracy"} <= alone[-1].keys() and "ema_decay" not in alone[-1]
    for ranks, tp_size in ((2, 2), (2, 1)):
        split = train(tiny_prepared, tmp_path / f"tp{tp_size}", ranks, tp_size)
        for one, other in zip(alone, split, strict=True):
            assert other == pytest.approx(one, rel=1e-5 if one["step"] <= 5 else 1e-4, abs=1e-6)


def test_it_resumes_bit_for_bit(tiny_prepared: Path, tmp_path: Path) -> None:
    whole = train(tiny_prepared, tmp_path / "whole", model__hidden_dropout=0.1)
    train(tiny_prepared, tmp_path / "cut", steps=7, model__hidden_dropout=0.1)
    assert train(tiny_prepared, tmp_path / "cut", model__hidden_dropout=0.1)[7:] == whole[7:]
