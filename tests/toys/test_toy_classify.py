"""The objective interface works for an objective without teacher and mask, in one file outside of the repository: it trains on any
topology, parts are frozen, and it is killed and resumed bit for bit, by the commands that users run."""

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.checkpoint.layout import newest
from tests.launching import PRETRAIN_TEXT, ROOT, Ranks, launch, overrides, read_jsonl, start_ranks

TOY = Path(__file__).parent / "toy_classify.py"
STEPS, STOPPED_AT = 14, 8
TIMINGS = {"step_seconds", "data_wait_seconds", "tokens_per_second", "mfu", "peak_memory_bytes", "world_size", "tp_size"}
SETTINGS: dict[str, object] = {"model__num_layers": 2, "optim__lr": 0.01, "run__save_steps": 4, "run__eval_steps": 7, "run__seed": 3}
FROZEN, FROZEN_AT_FIRST, TRAINED = (
    "trunk.frontend.tokens.weight",
    "trunk.encoder.layers.0.ffn.fc1.weight",
    "head.weight",
)


def config(folder: Path, tp_size: int = 1, **changes: Any) -> Path:
    """Write a ds_config for the CPU."""
    content = json.loads((ROOT / "ds_configs" / "zero3_cpu.json").read_text()) | {"train_micro_batch_size_per_gpu": 2} | changes
    path = folder / f"tp{tp_size}_{len(changes)}.json"
    path.write_text(json.dumps(content | {"megatron": {"tensor_model_parallel_size": tp_size}}))
    return path


def flags(data: Path, run_dir: Path, ds_config: Path, steps: int = STEPS, **changes: object) -> list[object]:
    settings = overrides("text", **(SETTINGS | {"run__max_steps": steps} | changes))
    return ["--recipe", f"{TOY}:text_classify", "--data", data, "--run-dir", run_dir, "--deepspeed_config", ds_config, *settings]


def train(data: Path, run_dir: Path, ds_config: Path, ranks: int = 1, steps: int = STEPS, **changes: object) -> list[dict[str, Any]]:
    """Run the launch script. Return its metrics without the fields that depend on machine or topology."""
    for done in start_ranks(PRETRAIN_TEXT, flags(data, run_dir, ds_config, steps, **changes), run_dir.parent, ranks).wait(90):
        assert done.returncode == 0, done.stderr
    return rows(run_dir)


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMINGS} for row in read_jsonl(run_dir / "metrics.jsonl")]


def hashes(run_dir: Path) -> list[str]:
    """Return the hashes of the files of the last checkpoint."""
    folder = newest(run_dir)
    assert folder is not None
    return [file["header_sha256"] for file in json.loads((folder / "manifest.json").read_text())["files"]]


@pytest.fixture(scope="module")
def whole(tiny_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run on one rank, with dropout."""
    folder = tmp_path_factory.mktemp("whole")
    train(tiny_prepared, folder / "run", config(folder), model__hidden_dropout=0.1)
    return folder / "run"


def test_it_learns_its_labels_and_prints_its_own_metrics(tiny_prepared: Path, tmp_path: Path) -> None:
    done = launch(PRETRAIN_TEXT, flags(tiny_prepared, tmp_path / "run", config(tmp_path), 60), tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = rows(tmp_path / "run")
    first, last = (sum(row["loss"] for row in part) for part in (metrics[:10], metrics[-10:]))  # a single update's is noisy
    assert last < 0.7 * first and metrics[-1]["eval_accuracy"] > 0.5
    assert not {"ema_decay", "target_std", "masked_fraction"} & metrics[-1].keys()
    assert "accuracy" in done.stdout and (tmp_path / "run" / "curves.png").exists()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]["objective"] == {
        **{"kind": "toy_classify:Classify", "num_classes": 3, "frozen_steps": 5}
    }


def test_frozen_parts_do_not_change(tiny_prepared: Path, tmp_path: Path) -> None:
    """With weight decay, which must not change frozen parts either. The encoder's first update is the sixth."""
    from recipes.checkpoint.load import CheckpointReader

    decay = {"optim__weight_decay": 0.5, "run__save_steps": 1, "checkpoint__keep_last": 9}
    train(tiny_prepared, tmp_path / "run", config(tmp_path), steps=7, **decay)
    states = {step: CheckpointReader(tmp_path / "run" / "checkpoints" / f"step_{step:08d}") for step in (1, 5, 6, 7)}

    def moved(name: str, first: int, last: int) -> bool:
        return not states[first].whole("master", name).equal(states[last].whole("master", name))

    assert not moved(FROZEN, 1, 7)
    assert not moved(FROZEN_AT_FIRST, 1, 5) and moved(FROZEN_AT_FIRST, 5, 6)
    assert moved(TRAINED, 1, 5)
    assert not states[5].whole("exp_avg", FROZEN_AT_FIRST).any() and states[6].whole("exp_avg", FROZEN_AT_FIRST).any()
    assert FROZEN in states[7].names("master") and FROZEN not in states[7].names("exp_avg"), "without moments"


def test_the_first_step_of_a_part_that_was_frozen_is_adams_first(tiny_prepared: Path, tmp_path: Path) -> None:
    """|step| = lr for every element and any gradient: the bias correction starts with the part's first update, not with the run's."""
    from recipes.checkpoint.load import CheckpointReader

    settings = {"optim__weight_decay": 0, "optim__eps": 1e-12, "run__save_steps": 1, "optim__warmup_steps": 0, "checkpoint__keep_last": 9}
    metrics = train(tiny_prepared, tmp_path / "run", config(tmp_path), steps=6, **settings)
    before, after = (CheckpointReader(tmp_path / "run" / "checkpoints" / f"step_{step:08d}") for step in (5, 6))
    step = (after.whole("master", FROZEN_AT_FIRST) - before.whole("master", FROZEN_AT_FIRST)).abs()
    assert float(step.max()) == pytest.approx(metrics[-1]["lr"], rel=1e-3)


@pytest.mark.parametrize("stopped_at", [3, STOPPED_AT], ids=["while_frozen", "later"])
def test_it_resumes_bit_for_bit(whole: Path, tiny_prepared: Path, tmp_path: Path, stopped_at: int) -> None:
    train(tiny_prepared, tmp_path / "run", config(tmp_path), steps=stopped_at, model__hidden_dropout=0.1)
    again = train(tiny_prepared, tmp_path / "run", config(tmp_path), model__hidden_dropout=0.1)
    assert again[stopped_at:] == rows(whole)[stopped_at:] and hashes(tmp_path / "run") == hashes(whole)


def test_it_is_killed_and_continued_bit_for_bit(whole: Path, tiny_prepared: Path, tmp_path: Path) -> None:
    running: Ranks = start_ranks(
        PRETRAIN_TEXT, flags(tiny_prepared, tmp_path / "run", config(tmp_path), model__hidden_dropout=0.1), tmp_path, 1
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    running.running[0].wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") >= STOPPED_AT + 2)
    running.kill()
    running.stop()
    again = train(tiny_prepared, tmp_path / "run", config(tmp_path), model__hidden_dropout=0.1)
    assert again == rows(whole) and hashes(tmp_path / "run") == hashes(whole)


@pytest.mark.parametrize(("ranks", "tp_size"), [(2, 2), pytest.param(2, 1, marks=pytest.mark.slow)], ids=["tp2", "dp2"])
def test_every_topology_gives_the_same_run(tiny_prepared: Path, tmp_path: Path, ranks: int, tp_size: int) -> None:
    alone = train(tiny_prepared, tmp_path / "alone", config(tmp_path))
    split = train(tiny_prepared, tmp_path / "split", config(tmp_path, tp_size), ranks)
    for one, other in zip(alone, split, strict=True):
        assert other == pytest.approx(one, rel=1e-5, abs=1e-6)


@pytest.mark.slow
def test_the_offloaded_optimizer_freezes_parts_too(tiny_prepared: Path, tmp_path: Path) -> None:
    zero = json.loads((ROOT / "ds_configs" / "zero3_cpu.json").read_text())["zero_optimization"]
    offloaded = config(tmp_path, zero_optimization=zero | {"offload_optimizer": {"device": "cpu"}})
    alone = train(tiny_prepared, tmp_path / "alone", config(tmp_path), steps=8)
    for one, other in zip(alone, train(tiny_prepared, tmp_path / "offloaded", offloaded, steps=8), strict=True):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-5)
