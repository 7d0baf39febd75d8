"""Saving from a live run: every value once and in float32, from a host copy, completely or not at all, with the same outcome on every
rank."""

import json
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from recipes.checkpoint.layout import FORMAT, Counters, newest, read_manifest, step_folder
from recipes.checkpoint.tensor_file import HASHED_ELEMENTS
from recipes.errors import ConfigError
from tests.distributed import run_distributed
from tests.recipes.checkpoint.topology import KINDS, Topology, small_recipe


def is_exact(folder: Path, whole: dict[str, Any]) -> bool:
    """True if a checkpoint holds these whole tensors and no others."""
    import torch

    from recipes.checkpoint.load import CheckpointReader

    reader = CheckpointReader(folder)
    names = {f"{kind}/{name}" for kind in KINDS for name in reader.names(kind)}
    return names == whole.keys() and all(torch.equal(reader.whole(*key.split("/", 1)), tensor) for key, tensor in whole.items())


def count_elements(tensors: dict[str, Any]) -> dict[str, int]:
    """Return the number of elements by kind."""
    return {kind: sum(t.numel() for key, t in tensors.items() if key.startswith(f"{kind}/")) for kind in KINDS}


def save_while_training(run: Any) -> dict[str, Any]:
    """Save steps 1 and 2. The weights change after the host copy was made and before it is written."""
    from safetensors.torch import load_file

    from recipes.checkpoint import save

    changed, hashes_of = threading.Event(), save.hashes_of
    save.hashes_of = lambda tensor: hashes_of(tensor) if changed.wait(60) else ()
    saver, folder = run.saver, step_folder(run.run_dir, 1)
    run.train(1)
    first = run.whole()
    saver.begin(run.state.counters, {"loss_scaler": {}, "key": "from the caller"})
    busy = saver.is_busy
    run.train(1)
    for shard in run.local().values():
        shard.add_(1.0)
    changed.set()
    outcome = saver.finish()
    files = [load_file(path) for path in sorted(folder.glob("rank_*"))]
    elements = [count_elements(file) for file in files]
    found: dict[str, Any] = {
        "first": outcome,
        "busy": (busy, saver.is_busy),
        "first_exact": is_exact(folder, first),
        "elements": {kind: sum(count[kind] for count in elements) for kind in KINDS},
        "expected": count_elements(first),
        "dtypes": {str(t.dtype) for file in files for t in file.values()},
    }
    buffers = [tensor.data_ptr() for tensor in saver._host.values()]
    second = run.whole()
    found["second_exact"] = is_exact(run.save(), second)
    return found | {"same_buffers": buffers == [tensor.data_ptr() for tensor in saver._host.values()]}


def fail_and_repeat(run: Any) -> dict[str, Any]:
    """Save step 3: at first rank 1 cannot write; then it can; then the checkpoint is damaged and saved again."""
    import torch.distributed as dist

    from recipes.checkpoint import save

    run.train(1)
    whole, write = run.whole(), save.write_tensors

    def refuse(*args: Any) -> str:
        write(*args)
        raise OSError(28, "No space left on device", str(args[0]))

    if run.world.rank == 1:
        save.write_tensors = refuse
    run.saver.begin(run.state.counters, {})
    found: dict[str, Any] = {"failed": run.saver.finish()}
    save.write_tensors = write
    found["after_failure"] = sorted(path.name for path in (run.run_dir / "checkpoints").iterdir()), newest(run.run_dir)
    dist.barrier(group=run.world.control)  # before the next save of the other rank begins
    folder = run.save()
    found["retried_exact"] = is_exact(folder, whole)
    dist.barrier(group=run.world.control)
    if run.world.rank == 0:
        (folder / "rank_00001.safetensors").write_bytes(b"damaged")
    dist.barrier(group=run.world.control)
    found["replaced_exact"] = is_exact(run.save(), whole)
    return found


def save_after_takeover(run: Any) -> dict[str, Any]:
    """Save step 4 after another launch has taken over the run dir."""
    from recipes.checkpoint.save import CheckpointSaver
    from tests.recipes.checkpoint.live_run import KEEP

    def taken_over() -> None:
        raise ConfigError("the run dir belongs to another launch now")

    run.train(1)
    guarded = CheckpointSaver(run.run_dir, run.objective, run.world, KEEP, taken_over)
    guarded.begin(run.state.counters, {})
    with pytest.raises(ConfigError) as caught:
        guarded.finish()
    return {"taken_over": str(caught.value), "after_takeover": (newest(run.run_dir), step_folder(run.run_dir, 4).exists())}


def save_in_many_ways(prepared: Path, run_dir: Path) -> dict[str, Any]:
    """On one rank of two (TP 2): make several saves, and return their results."""
    from tests.recipes.checkpoint.live_run import LiveRun

    run = LiveRun(small_recipe("text"), Topology(tp_size=2), prepared, run_dir)
    return save_while_training(run) | fail_and_repeat(run) | save_after_takeover(run)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run dir of the saves."""
    return tmp_path_factory.mktemp("save") / "run"


@pytest.fixture(scope="module")
def ranks(small_prepared: Path, run_dir: Path) -> list[dict[str, Any]]:
    """The results of both ranks."""
    return run_distributed(save_in_many_ways, 2, small_prepared, run_dir, timeout=200)


def test_every_value_is_written_once_in_float32_and_the_safetensors_library_reads_it(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["elements"] == found["expected"] and found["dtypes"] == {"torch.float32"}
        assert found["expected"]["master"] > found["expected"]["shadow"] > 0, "the teacher has no head"


def test_a_save_holds_the_state_of_its_step_although_training_continues(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["first_exact"] and found["busy"] == (True, False)
        assert (found["first"].step, found["first"].problem, found["first"].leftover) == (1, None, None)


def test_the_next_save_copies_into_the_same_host_memory(ranks: list[dict[str, Any]]) -> None:
    assert all(found["same_buffers"] and found["second_exact"] for found in ranks)


def test_no_checkpoint_is_published_if_one_rank_cannot_write(ranks: list[dict[str, Any]], run_dir: Path) -> None:
    for found in ranks:
        assert found["failed"].step == 3 and "No space left on device" in found["failed"].problem
        assert found["after_failure"] == (["latest", "step_00000001", "step_00000002"], step_folder(run_dir, 2)), (
            "no partly written checkpoint"
        )
        assert found["retried_exact"]


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(ranks: list[dict[str, Any]]) -> None:
    assert all(found["replaced_exact"] for found in ranks)


def test_a_launch_that_lost_its_run_dir_publishes_nothing(ranks: list[dict[str, Any]], run_dir: Path) -> None:
    for found in ranks:
        assert found["taken_over"] == "the run dir belongs to another launch now", "on every rank"
        assert found["after_takeover"] == (step_folder(run_dir, 3), False)


def test_the_manifest_describes_the_content_of_the_folder(ranks: list[dict[str, Any]], run_dir: Path) -> None:
    folder = step_folder(run_dir, 1)
    manifest = read_manifest(folder)
    assert json.loads((folder / "manifest.json").read_text())["format"] == FORMAT
    assert (manifest.tp_size, manifest.dp_size, manifest.metadata["key"]) == (2, 1, "from the caller")
    assert manifest.counters.step == manifest.counters.update == 1 and manifest.counters.samples == 8 and manifest.counters.tokens > 0
    assert [(f.name, f.tp_rank, f.dp_rank) for f in manifest.files] == [(f"rank_{i:05d}.safetensors", i, 0) for i in range(2)]
    assert ranks[0]["first"].bytes == manifest.num_bytes() == sum(p.stat().st_size for p in folder.glob("rank_*"))
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "rank_00000.safetensors", "rank_00001.safetensors"]


def refuse_the_folder(prepared: Path, run_dir: Path) -> list[tuple[str | None, bool]]:
    """A file has the name of the folder. Return the problem of two saves, and whether the saver is still busy afterwards."""
    from tests.recipes.checkpoint.live_run import LiveRun

    run, found = LiveRun(small_recipe("text"), Topology(), prepared, run_dir), []
    for step in (1, 2):
        run.saver.begin(Counters(step=step), {})
        found.append((run.saver.finish().problem, run.saver.is_busy))
    return found


def test_a_run_dir_in_which_no_folder_can_be_created_is_a_problem_and_no_error(small_prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    ((first, second),) = run_distributed(refuse_the_folder, 1, small_prepared, tmp_path)
    for problem, busy in (first, second):
        assert problem and str(tmp_path / "checkpoints") in problem and not busy
    assert (tmp_path / "checkpoints").read_text() == "in the way"


def base_file_bytes() -> tuple[int, int, int]:
    """Return (bytes of the rank file, bytes of the manifest's parameters, number of parameters) of text_base on one rank. They are computed
    from the names and shapes of the model on the meta device, and the header that its ranges would get."""
    import torch

    from model.dropout import DropoutStream
    from model.init import Init
    from model.parallel import init_parallel
    from model.student import Student
    from recipes.checkpoint import tensor_file
    from recipes.checkpoint.layout import ParameterEntry, Range, range_to_json
    from recipes.modalities.registry import MODALITIES
    from recipes.text import text_base

    recipe, parallel = text_base(), init_parallel(1, "cpu")
    with torch.device("meta"):
        student = Student(recipe.model, MODALITIES["text"].build_frontend(recipe), Init(1), parallel, DropoutStream())
    metadata, shapes, manifest = {}, {}, 0
    for name, parameter in student.named_parameters():
        count = parameter.numel()
        hashes = ("0" * 64,) * -(-count // HASHED_ELEMENTS)
        text = range_to_json(Range(name, tuple(parameter.shape), 0, 0, 1, 0, count, hashes))
        keys = [f"{kind}/{name}" for kind in KINDS if kind != "shadow" or name.startswith("trunk.")]
        metadata |= dict.fromkeys(keys, text)
        shapes |= dict.fromkeys(keys, (count,))
        manifest += len(json.dumps({name: vars(ParameterEntry(tuple(parameter.shape), 0, count))}, indent=4))
    data = 4 * sum(count for (count,) in shapes.values())
    return len(tensor_file._header(shapes, metadata)) + data, manifest, sum(p.numel() for p in student.parameters())


def test_is_written_raises_a_defect_of_the_writing_thread_but_not_an_error_of_all_ranks() -> None:
    """The threads of the other ranks wait for this rank, so without it the defect would not be seen before the next save."""
    from recipes.checkpoint.save import CheckpointSaver

    saver: Any = object.__new__(CheckpointSaver)
    saver._running = running = Future[Any]()
    assert not saver.is_written()
    running.set_exception(ValueError("a defect"))
    with pytest.raises(ValueError, match="a defect"):
        saver.is_written()
    saver._running = of_all_ranks = Future[Any]()
    of_all_ranks.set_exception(ConfigError("taken over"))
    assert saver.is_written()


def test_at_base_size_a_checkpoint_has_16_bytes_a_parameter_plus_less_than_a_percent() -> None:
    ((file, manifest, parameters),) = run_distributed(base_file_bytes, 1)
    assert parameters > 100_000_000
    assert file + manifest < 16 * 1.01 * parameters
    assert file > 15 * parameters, "three kinds of each parameter, and the teacher's shadow of the trunk"
