"""The start of a run: its first lines, its config.json, and that each part gets the run's own settings and state."""

import json
import shutil
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from recipes.checkpoint.layout import newest, read_manifest, write_manifest
from recipes.data.order import Position
from recipes.ds_config import BatchPlan, load_ds_config, resolve
from recipes.errors import ConfigError
from recipes.system.processes import Workers
from recipes.train import startup
from recipes.train.loading import heldout_batches
from recipes.train.startup import build_loader
from tests.distributed import run_distributed
from tests.launching import PRETRAIN_TEXT, ROOT, launch, overrides, tiny_recipe
from tests.recipes.data.numbers_data import Numbers
from tests.recipes.train.faulty import DP2, STEPS, Fault, prepare_pictures, recipe_of, run_rank


def test_start_says_what_where_and_how_big_and_config_json_keeps_it(tiny_run: Path) -> None:
    config = json.loads((tiny_run / "config.json").read_text())
    assert config["recipe"]["model"]["hidden_size"] == 16 and config["deepspeed"]["train_batch_size"] == 8
    assert config["versions"]["deepspeed"] == metadata.version("deepspeed") and len(config["data_fingerprint"]) >= 16 and config["command"]
    events = [json.loads(line) for line in (tiny_run / "events.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events] == ["start", "save", "stop"] and events[-1]["reason"] == "done"


def test_a_prepared_folder_elsewhere_is_used_and_not_copied(tiny_prepared: Path, tmp_path: Path) -> None:
    done = launch(PRETRAIN_TEXT, ["--data", tiny_prepared, "--run-dir", tmp_path / "run", *overrides()], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "data-parallel 1 x tensor-parallel 1" in done.stdout and "parameters, fp32 on the CPU, " in done.stdout
    assert not (tmp_path / "run" / "prepared").exists()


@pytest.mark.parametrize(
    ("name", "compiled", "step", "rank", "announced"),
    [
        ("zero3_cpu", False, 0, 0, ["fp32; bf16 is faster"]),
        ("zero3_offload_cpu", True, 0, 0, []),
        ("zero3_offload_cpu", False, 0, 0, ["compiling"]),
        ("zero3_cpu", False, 7, 0, ["loading the checkpoint of step 7"]),
        ("zero3_offload_cpu", False, 7, 1, None),
    ],
)
def test_what_may_take_minutes_and_a_faster_precision_are_announced_by_rank_0(
    name: str,
    compiled: bool,
    step: int,
    rank: int,
    announced: list[str] | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(startup, "is_compiled", lambda: compiled)
    monkeypatch.setattr(startup, "precision_line", lambda config, device: {"fp32": "fp32; bf16 is faster"}.get(config.precision))
    path, world = ROOT / "ds_configs" / f"{name}.json", SimpleNamespace(rank=rank, device=torch.device("cpu"))
    config = resolve(tiny_recipe(), load_ds_config(path), str(path), 1)
    start_up: Any = SimpleNamespace(recipe=tiny_recipe(), config=config, world=world, origin=None)
    startup.StartUp._print_start_lines(start_up, step)
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith(text) for line, text in zip(lines[3:], announced or [], strict=True)] == [True] * len(announced or [])
    assert bool(lines) == (announced is not None)


def look_at_start(run_dir: Path, prepared: Path, settings: dict[str, object], launch_info: dict[str, Any]) -> dict[str, Any]:
    """Start one rank of a launch in `run_dir` and return the state that start-up has built, without training."""
    import torch

    from recipes.data.media import BadItem
    from recipes.data.vision import VisionDataset
    from recipes.objectives.data2vec import Data2Vec
    from recipes.train import loop

    recipe, seen, read = recipe_of(prepared, settings), {}, []
    example = VisionDataset.example

    def noted_example(self: Any, epoch: int, index: int, group: tuple[int, ...]) -> Any:
        read.append((epoch, index))
        return example(self, epoch, index, group)

    def look(state: Any) -> int:
        update, loader = state.counters.update, state.data.loader
        loaded = loader.batches(update)
        loader.close()
        seen["sizes"] = [len(one.batch.inputs) for one in loaded]
        seen["expected"] = [place[:2] for number in (update, update + 1) for place in loader.positions(number)]
        seen.update(read=list(read), counters=asdict(state.counters), spikes=state.spikes.state(), stream=state.objective.stream.seed)
        seen["deterministic"] = torch.are_deterministic_algorithms_enabled()
        state.saving.finish(state.counters, state.small_states)
        bad_items = state.data.bad_items
        for number in range(10):
            bad_items.note([BadItem(f"{number}.png", "no picture")] if state.world.rank == 0 else [])
            try:
                bad_items.agree(state.world.control, lambda item: None)
            except ConfigError:
                break
            seen["allowed_bad"] = number + 1
        return 0

    VisionDataset.example, loop.train = noted_example, look
    Data2Vec.load_state = lambda self, values: seen.update(values=values)  # type: ignore[method-assign]
    content = load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json") | DP2.config
    loop.run(recipe, resolve(recipe, content, "test", 2), run_dir, launch_info)
    return seen


VALUES = {"centre": [0.5, 2.0]}


def run_that_keeps_values(*args: Any) -> dict[str, Any]:
    """Call run_rank with an objective that has small values."""
    from recipes.objectives.data2vec import Data2Vec

    Data2Vec.state = lambda self: VALUES  # type: ignore[method-assign]
    return run_rank(*args)


AGAIN: dict[str, object] = {"run__max_steps": 9, "guard__spike_window": 8, "run__deterministic": "true", "data__max_bad_fraction": 0.1}
LAUNCH_INFO = {"versions": {"torch": "made up"}, "command": ["pretrain_vision.py"]}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], list[dict[str, Any]]]:
    """Run dir; results of a run of four applied updates and one skipped update; states of the next launch before it trains."""
    folder = tmp_path_factory.mktemp("resumed")
    prepared, run_dir = prepare_pictures(folder), folder / "run"
    first = AGAIN | {"run__max_steps": STEPS}
    ended = run_distributed(run_that_keeps_values, 2, run_dir, prepared, DP2, Fault("input", 1), {}, first, timeout=120)
    return run_dir, ended, run_distributed(look_at_start, 2, run_dir, prepared, AGAIN, LAUNCH_INFO, timeout=120)


def test_a_resumed_run_has_the_counters_the_spike_window_the_seed_and_the_objectives_values_of_the_run(resumed: Any) -> None:
    _, ended, ranks = resumed
    rows = ended[0]["metrics"]
    for seen in ranks:
        assert seen["counters"] == {"step": STEPS, "update": STEPS + 1, "samples": 8 * (STEPS + 1), "tokens": rows[-1]["tokens"]}
        assert seen["spikes"]["loss"] == pytest.approx([row["loss"] for row in rows], rel=1e-6)
        assert seen["spikes"]["grad_norm"] == pytest.approx([row["grad_norm"] for row in rows], rel=1e-5)
        assert (seen["stream"], seen["deterministic"], seen["values"]) == (1, True, VALUES)


def test_it_reads_each_ranks_share_of_the_next_updates_and_nothing_before(resumed: Any) -> None:
    """An update has eight samples: two micro-batches of two on each rank. The loader may read samples of the following update ahead."""
    for rank, seen in enumerate(resumed[2]):
        assert seen["sizes"] == [2, 2]
        own = [tuple(place) for start in (0, 8) for place in seen["expected"][start + 4 * rank : start + 4 * rank + 4]]
        assert seen["read"][:4] == own[:4] and seen["read"] == own[: len(seen["read"])]


@pytest.mark.parametrize("release", ["this one", "an older one"])
def test_with_another_global_batch_it_goes_on_where_it_stopped_in_the_epoch(resumed: Any, tmp_path: Path, release: str) -> None:
    """Two updates of four samples read what one update of eight reads. An older release did not store the place in the data, and drew
    the order of all 38 pictures."""
    run_dir, _, ranks = resumed
    copy, expected, shuffling = shutil.copytree(run_dir, tmp_path / "run"), ranks[0]["expected"][:8], "counted"
    if release == "an older one":
        folder = newest(copy) or copy
        manifest = read_manifest(folder)
        assert manifest.metadata.pop("place") == {"epoch": 1, "offset": 8}, "38 pictures are four updates of eight, and this is the sixth"
        assert manifest.metadata.pop("shuffling") == shuffling
        write_manifest(folder, manifest)
        drawn = np.random.Generator(np.random.Philox(np.random.SeedSequence((1, 1)))).permutation(38)
        expected, shuffling = [(1, index) for index in drawn[8:16].tolist()], "drawn"
    other = AGAIN | {"run__global_batch_size": 4, "run__accept_changes": "run.global_batch_size"}
    again = run_distributed(look_at_start, 2, copy, run_dir.parent / "prepared", other, LAUNCH_INFO, timeout=120)
    assert again[0]["expected"] == expected and again[0]["counters"] == ranks[0]["counters"]
    assert json.loads((copy / "config.json").read_text())["shuffling"] == shuffling


def test_it_does_not_save_again_what_it_came_from_and_allows_its_share_of_bad_items(resumed: Any) -> None:
    run_dir, ended, ranks = resumed
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    last = [event["event"] for event in events[len(ended[0]["events"]) :]]
    assert last == ["resume"]
    assert all(seen["allowed_bad"] == 3 for seen in ranks), "a tenth of 38 pictures"


def test_manifest_and_config_json_say_what_was_run_on_what(resumed: Any) -> None:
    run_dir, _, _ = resumed
    config = json.loads((run_dir / "config.json").read_text())
    manifest = read_manifest(newest(run_dir) or run_dir)
    assert config["versions"] == LAUNCH_INFO["versions"] and config["command"] == LAUNCH_INFO["command"]
    assert (config["world_size"], config["tp_size"], config["deepspeed_config"]) == (2, 1, "test")
    assert manifest.metadata["data_fingerprint"] == config["data_fingerprint"] and len(config["data_fingerprint"]) >= 16
    assert manifest.metadata["deepspeed"] == config["deepspeed"] and config["deepspeed"]["train_micro_batch_size_per_gpu"] == 2
    assert manifest.metadata["recipe"] == config["recipe"] | {"run": config["recipe"]["run"] | {"max_steps": STEPS}}
    assert manifest.metadata["loss_scaler"] == {} and abs(manifest.metadata["time"] - time.time()) < 3600


@pytest.mark.parametrize("size", [8, 4])
def test_the_order_of_the_data_follows_seed_global_batch_and_groups(size: int) -> None:
    data = Numbers(64)

    def order(**changes: object) -> list[Position]:
        recipe = tiny_recipe("speech", **{"run__global_batch_size": size, "data__group_size": 4} | changes)
        loader = build_loader(recipe, data, BatchPlan(1, 1, 1, 4, size // 4), 0)
        loader.close()
        return loader.positions(3)

    positions = order()
    assert len(positions) == size and {len(position.group) for position in positions} == {4}
    assert order() == positions != order(run__seed=2)
    assert {len(position.group) for position in order(data__group_size=2)} == {2}


def test_the_loader_decodes_in_as_many_processes_as_asked_and_counts_the_ranks_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, ...]] = []

    class RecordedWorkers(Workers[Any, Any]):
        """Record the number of processes, but start none."""

        def __init__(self, work: Any, num_processes: int, **options: Any) -> None:
            made.append((num_processes,))
            super().__init__(work, num_processes, **options)

        def put(self, task: Any) -> None:
            """Start no process."""

    monkeypatch.setattr("recipes.data.loader.Workers", RecordedWorkers)
    monkeypatch.setattr("recipes.data.loader.SharedMemory", lambda *numbers: made.append(numbers))
    build_loader(tiny_recipe("vision", data__num_workers=3), Numbers(16), BatchPlan(1, 1, 1, 8, 1), 0, ranks_on_node=4).close()
    assert sorted(made) == [(3,), (3, 4)]


def test_each_rank_evaluates_its_own_share_in_the_recipes_groups() -> None:
    recipe, data = tiny_recipe("speech", data__group_size=4, run__eval_samples=16), Numbers(20)
    plan = BatchPlan(micro_batch_size=4, accumulation_steps=1, world_size=2, tp_size=1, dp_size=2)
    groups: list[list[tuple[int, int]]] = []
    for dp_rank in range(2):
        parallel: Any = SimpleNamespace(dp_rank=dp_rank, dp_size=2)
        rows = [row for batch in heldout_batches(recipe, data, plan, parallel) for row in batch.inputs.tolist()]
        groups.append([(row[2], row[3]) for row in rows])
    spread = [20 * number // 16 for number in range(16)]
    rows_of_groups = [(min(part), sum(part)) for part in (spread[first : first + 4] for first in (0, 4, 8, 12)) for _ in part]
    assert groups == [rows_of_groups[:8], rows_of_groups[8:]]
