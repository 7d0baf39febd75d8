"""Out of memory is a one-line error with remedies, on one rank or several, on the device or the host."""

import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.ds_config import EngineConfig, load_ds_config, plan_batch, resolve
from recipes.train.memory import format_bytes, peak_memory_bytes, remedies, smaller_micro_batch
from tests.launching import PRETRAIN_TEXT, ROOT, overrides, read_jsonl, refused, start, start_ranks, tiny_recipe

CUDA = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.21 GiB is free. Process 7 has"
STEPS = ("run__max_steps", 4), ("run__save_steps", 2)


def run_out_of_memory() -> None:
    """For a new rank: the second forward of the third update runs out of device memory."""
    from recipes.objectives.data2vec import Data2Vec

    forward = Data2Vec.forward

    def watched(self: Any, batch: Any, total: int) -> Any:
        if self.stream.update == 2 and self.stream.micro_batch == 1:
            raise torch.OutOfMemoryError(CUDA)
        return forward(self, batch, total)

    Data2Vec.forward = watched  # type: ignore[method-assign]


def arguments(run_dir: Path, data: Path) -> list[object]:
    """Return the flags of a run of four updates, each of two micro-batches or more, saved after the second update."""
    return ["--run-dir", run_dir, "--data", data, *overrides(**dict(STEPS)), "--deepspeed_config", run_dir.parent / "ds.json"]


def write_config(folder: Path, micro: int) -> None:
    text = (ROOT / "ds_configs" / "zero3_cpu.json").read_text()
    (folder / "ds.json").write_text(text.replace('"train_micro_batch_size_per_gpu": "auto"', f'"train_micro_batch_size_per_gpu": {micro}'))


def test_it_is_one_line_with_the_place_the_micro_batch_to_try_and_what_is_saved(tmp_path: Path, tiny_prepared: Path) -> None:
    write_config(tmp_path, 4)
    done = start(PRETRAIN_TEXT, arguments(tmp_path / "run", tiny_prepared), tmp_path, before=run_out_of_memory).wait()
    refused(
        done,
        r"^error: out of memory at step 3, forward of micro-batch 1 \(Tried to allocate 2\.50 GiB.* 1\.21 GiB is free\): "
        rf'write "train_micro_batch_size_per_gpu": 2 into {tmp_path}/ds\.json \(4 now.*the same command continues from step 2$',
    )
    (error_event,) = (event for event in read_jsonl(tmp_path / "run" / "events.jsonl") if event["event"] == "error")
    assert error_event["step"] == 2 and error_event["message"].startswith("out of memory at step 3, forward of micro-batch 1")
    write_config(tmp_path, 2)
    again = start(PRETRAIN_TEXT, arguments(tmp_path / "run", tiny_prepared), tmp_path).wait()
    assert again.returncode == 0 and "resumed at step 2 to 4" in again.stdout, again.stderr


def test_with_several_ranks_every_rank_ends_with_the_error_of_the_rank_without_memory(tmp_path: Path, tiny_prepared: Path) -> None:
    write_config(tmp_path, 2)
    ranks = start_ranks(PRETRAIN_TEXT, arguments(tmp_path / "run", tiny_prepared), tmp_path, 2, before={1: run_out_of_memory})
    for done in ranks.wait():
        refused(done, r'^error: out of memory on rank 1 \(.*"train_micro_batch_size_per_gpu": 1 into .* continues from step 2$')


ADDRESS_SPACE = 1 << 30


def limit_memory() -> None:
    """For a new process: limit its memory to ADDRESS_SPACE more than its libraries use, so that building a large model fails."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ADDRESS_SPACE, taken + ADDRESS_SPACE))


def test_a_host_without_memory_while_the_networks_are_built(tmp_path: Path, tiny_prepared: Path) -> None:
    large = {"model__hidden_size": 1024, "model__ffn_hidden_size": 1 << 20}  # 4 GiB a matrix
    done = start(
        PRETRAIN_TEXT, ["--run-dir", tmp_path / "run", "--data", tiny_prepared, *overrides(**large)], tmp_path, before=limit_memory
    ).wait()
    refused(done, r"^error: out of memory while starting, engines \(.*\): take a machine with more memory .*; nothing is saved yet$")


def config_of(name: str, micro: int, world_size: int = 1) -> EngineConfig:
    content = load_ds_config(ROOT / "ds_configs" / f"{name}.json") | {"train_micro_batch_size_per_gpu": micro}
    return resolve(tiny_recipe(run__global_batch_size=12), content, f"{name}.json", world_size)


@pytest.mark.parametrize(("micro", "smaller"), [(12, 6), (6, 3), (4, 2), (3, 1), (2, 1), (1, None)])
def test_the_micro_batch_to_try_divides_the_same_update(micro: int, smaller: int | None) -> None:
    recipe, batch = tiny_recipe(run__global_batch_size=12), config_of("zero3_cpu", micro).batch
    assert smaller_micro_batch(recipe, batch) == smaller


def test_speech_keeps_its_groups_whole() -> None:
    recipe = tiny_recipe("speech", run__global_batch_size=24, data__group_size=12)
    batch = plan_batch(recipe, 12, 1, 1)
    assert smaller_micro_batch(recipe, batch) == 6 and smaller_micro_batch(recipe, plan_batch(recipe, 4, 1, 1)) == 2


@pytest.mark.parametrize(
    ("name", "phase", "device", "said"),
    [
        ("zero3_bf16", "backward", "cuda", ["write", "keep the optimizer on the host", "take more GPUs"]),
        ("zero3_cpu", "forward", "cuda", ["write", "compute in bf16", "keep the optimizer on the host", "take more GPUs"]),
        ("zero3_offload_cpu", "engines", "cuda", ["take more GPUs"]),
        ("zero3_cpu", "step", "cpu", ["write", "take a machine with more memory"]),
        ("zero3_cpu", "prepare", "cpu", ["prepare the data before"]),
    ],
)
def test_what_helps_depends_on_the_phase_and_on_what_is_done_already(name: str, phase: str, device: str, said: list[str]) -> None:
    found = list(remedies(phase, tiny_recipe(run__global_batch_size=12), config_of(name, 4), torch.device(device)))
    assert [part[: len(beginning)] for part, beginning in zip(found, said, strict=True)] == said


def test_while_reading_data_the_first_remedy_is_fewer_processes() -> None:
    for workers, first in (
        (4, "read with fewer processes (--set data.num_workers=2)"),
        (None, "read with fewer processes (--set data.num_workers=1)"),
        (1, 'write "train_micro'),
    ):
        recipe = tiny_recipe("speech", run__global_batch_size=12, data__num_workers=workers)
        assert next(remedies("data", recipe, config_of("zero3_cpu", 4), torch.device("cpu"))).startswith(first)


def test_the_smallest_micro_batch_is_said_to_be_that() -> None:
    first, *_ = remedies("forward", tiny_recipe(run__global_batch_size=12), config_of("zero3_cpu", 1), torch.device("cpu"))
    assert first == "train_micro_batch_size_per_gpu is 1 already: take shorter samples or a smaller model"


def test_the_peak_is_the_devices_on_a_gpu_and_the_process_s_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7 << 30)
    assert peak_memory_bytes(torch.device("cuda", 0)) == 7 << 30
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    assert abs(peak_memory_bytes(torch.device("cpu")) - 1024 * int(status["VmHWM"].split()[0])) < 64 << 20


@pytest.mark.parametrize(("size", "text"), [(340 << 20, "340 MiB"), (1 << 30, "1.0 GiB"), (79 << 30, "79.0 GiB")])
def test_sizes_read_well(size: int, text: str) -> None:
    assert format_bytes(size) == text
