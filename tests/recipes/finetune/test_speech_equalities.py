"""Fine-tuning on recordings of unequal lengths gives the same numbers on two ranks, with accumulation and alone, masks included; and a
recording has the same loss alone as padded in a batch. In float32, without dropout."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from recipes.ds_config import load_ds_config, resolve
from recipes.modalities.registry import source_of
from recipes.settings import apply_overrides, with_values
from tests.distributed import run_distributed
from tests.recipes.data.labelled_recordings import labelled_recipe, prepare, write_data

ROOT = Path(__file__).parents[3]
STEPS = 5
SETTINGS = (
    *("model.hidden_dropout=0", "model.activation_dropout=0", "model.num_layers=2", "optim.lr=0.001", "optim.warmup_steps=1"),
    *(f"run.max_steps={STEPS}", "run.log_steps=1", "run.eval_steps=2", "run.save_steps=5", "finetune.epochs=0"),
    *("optim.schedule_steps=10", "optim.decay_steps=2"),
)
MASKS = {"time_mask_prob": 0.5, "time_mask_length": 5, "channel_mask_prob": 0.5, "channel_mask_length": 4}
METRICS = {"ctc": ("eval_loss", "wer", "cer"), "classify": ("eval_loss", "accuracy")}


def recipe_of(task: str, path: Path, *settings: str) -> Any:
    masks = MASKS if task == "ctc" else {}
    return apply_overrides(labelled_recipe(path, task, **masks), [*SETTINGS, *settings])


class Topology(NamedTuple):
    """How an update of 8 recordings is divided."""

    world_size: int
    micro_batch_size: int
    tp_size: int = 1


ALONE, TWO_RANKS, TENSOR_PARALLEL = Topology(1, 8), Topology(2, 2), Topology(2, 8, tp_size=2)


def train_on_a_rank(task: str, run_dir: Path, data: Path, topology: Topology, settings: tuple[str, ...]) -> None:
    from recipes.train import loop

    recipe = recipe_of(task, data, *settings)
    content = load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json") | {
        "train_micro_batch_size_per_gpu": topology.micro_batch_size,
        "megatron": {"tensor_model_parallel_size": topology.tp_size},
    }
    code = loop.run(recipe, resolve(recipe, content, "test", topology.world_size), run_dir, {})
    assert code == 0, code


def train(task: str, run_dir: Path, data: Path, topology: Topology, *settings: str) -> Any:
    """Return metrics.jsonl of a run on the ranks of `topology`."""
    run_distributed(train_on_a_rank, topology.world_size, task, run_dir, data, topology, settings, timeout=120)
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 recordings to train on, 6 to choose the best checkpoint on."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("task", ["ctc", pytest.param("classify", marks=pytest.mark.slow)])
def test_two_ranks_with_accumulation_agree_with_one_rank_without_it_to_1e_5_for_5_updates(task: str, data: Path, tmp_path: Path) -> None:
    one = train(task, tmp_path / "one", data, ALONE)
    other = train(task, tmp_path / "two", data, TWO_RANKS)
    assert [row["step"] for row in one] == list(range(1, STEPS + 1)) and one[-1]["eval_loss"] < one[1]["eval_loss"]
    assert_equal(task, other, one)


def assert_equal(task: str, rows: Sequence[dict[str, Any]], alone: Sequence[dict[str, Any]]) -> None:
    """Assert that the metrics of all updates are those of one rank, to 1e-5 in the first 5 updates and to 1e-4 after them."""
    for row, expected in zip(rows, alone, strict=True):
        assert (row["samples"], row["tokens"]) == (expected["samples"], expected["tokens"])
        for key in ("loss", "grad_norm", *(METRICS[task] if "eval_loss" in expected else ())):
            assert row[key] == pytest.approx(expected[key], rel=1e-5 if row["step"] <= 5 else 1e-4), (row["step"], key)


@pytest.mark.slow
@pytest.mark.parametrize("task", METRICS)
def test_tensor_parallel_ranks_and_accumulation_agree_with_one_rank_for_20_updates(task: str, data: Path, tmp_path: Path) -> None:
    # At a rate of 0.001 the rounding of CTC's gradient, whose norm is 478, grows by a factor of ten in four updates.
    longer = ("run.max_steps=20", "optim.schedule_steps=30", "optim.lr=0.0003")
    alone = train(task, tmp_path / "alone", data, ALONE, *longer)
    assert len(alone) == 20
    for name, topology in {"tp2": TENSOR_PARALLEL, "dp2": TWO_RANKS}.items():
        assert_equal(task, train(task, tmp_path / name, data, topology, *longer), alone)


def losses_alone_and_together(task: str, data: Path, prepared: Path, settings: tuple[str, ...]) -> tuple[list[float], list[float]]:
    """Return the loss of each test recording in a batch of its own, and in a batch of all."""
    from model.dropout import DropoutStream
    from model.parallel import init_parallel
    from recipes.objectives.registry import objective_class
    from recipes.objectives.supervised import network_builder

    recipe = recipe_of(task, data, *settings)
    source: Any = source_of(recipe)
    recipe = with_values(recipe, source.values(recipe, prepared))
    network = network_builder(recipe)(parallel=init_parallel(1, "cpu"), stream=DropoutStream()).eval()
    objective: Any = objective_class(recipe.objective.kind)
    dataset, task_losses = source.open_split(recipe, prepared, "test"), objective.make_task(recipe.objective).losses

    def losses(*indices: int) -> list[float]:
        batch = dataset.collate([dataset.example(0, index, ()) for index in indices])
        with torch.no_grad():
            return task_losses(network(batch), batch).tolist()

    return [losses(index)[0] for index in range(len(dataset))], losses(*range(len(dataset)))


def compare_losses(task: str, data: Path, prepared: Path, settings: tuple[str, ...]) -> list[tuple[list[float], list[float]]]:
    """Return the losses alone and together, with the settings and then with padding as it was published."""
    published = (*settings, "frontend.exact_padding=false", "frontend.exact_statistics=false")
    return [losses_alone_and_together(task, data, prepared, chosen) for chosen in (settings, published)]


@pytest.mark.parametrize("norm", ["group", pytest.param("layer", marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", METRICS)
def test_a_recording_has_the_same_loss_alone_and_padded_to_1e_5(task: str, norm: str, data: Path, tmp_path: Path) -> None:
    prepared = prepare(recipe_of(task, data), tmp_path / "prepared")
    (exact, published) = run_distributed(compare_losses, 1, task, data, prepared, (f"frontend.extractor_norm={norm}",))[0]
    alone, together = exact
    assert together == pytest.approx(alone, rel=1e-5) and len(set(alone)) == 6
    alone, together = published
    assert together != pytest.approx(alone, rel=1e-5), "as published, padding changes the loss"
