"""The first lines of a run on the terminal."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recipes.ds_config import EngineConfig, load_ds_config, resolve
from recipes.eval_config import EvalConfig
from recipes.objective_config import ObjectiveConfig
from recipes.plan.size import num_parameters
from recipes.start_config import StartConfig
from recipes.supervised_config import ClassifyConfig
from recipes.train.origin import Origin
from recipes.train.start_block import model_lines, origin_line, run_dir_lines, shortest
from tests.launching import ROOT, tiny_recipe

RECIPE = tiny_recipe(run__max_steps=10, run__save_steps=5)


def config_for(world_size: int, tp_size: int = 1) -> EngineConfig:
    path = ROOT / "ds_configs" / "zero3_cpu.json"
    return resolve(RECIPE, load_ds_config(path) | {"megatron": {"tensor_model_parallel_size": tp_size}}, str(path), world_size)


def test_the_lines_name_model_device_and_the_parts_of_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert model_lines(RECIPE, config_for(1), torch.device("cpu")) == [
        f"text_tiny: {num_parameters(RECIPE):,} parameters, fp32 on the CPU, ds_configs/zero3_cpu.json",
        "1 rank = data-parallel 1 x tensor-parallel 1",
        "update of 8 samples = data-parallel 1 x micro-batch 8 x accumulation 1",
    ]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    first, *rest = model_lines(RECIPE, config_for(4, 2), torch.device("cuda", 0))
    assert "fp32 on NVIDIA H100, " in first
    assert rest[0] == "4 ranks = data-parallel 2 x tensor-parallel 2" and "data-parallel 2 x micro-batch 4 x" in rest[1]
    nodes = resolve(RECIPE, {"megatron": {"shard_size": 2}}, "x.json", 4)
    assert model_lines(RECIPE, nodes, torch.device("cpu"))[1] == "4 ranks = data-parallel 4 x tensor-parallel 1, 2 copies of the model"


def test_the_lines_name_run_dir_steps_takeover_and_changes(tmp_path: Path) -> None:
    run_dir: Any = SimpleNamespace(path=tmp_path, taken_from=None, accepted={})
    lines = run_dir_lines(RECIPE, run_dir, 0, 7.96)
    assert lines == [
        f"run dir {tmp_path}: from step 0 to 10, a checkpoint every 5",
        "ready in 8.0 s; Ctrl-C saves and stops, the same command continues",
    ]
    run_dir.taken_from, run_dir.accepted = "host:7", {"optim.lr": (1, 2), "data_fingerprint": ("a" * 64, "b" * 64)}
    first, _, *others = run_dir_lines(RECIPE, run_dir, 4, 1.0)
    assert "resumed at step 4 to 10" in first
    assert others == [
        "taken over from host:7, which ended without releasing the run dir",
        f"changed: optim.lr 1 -> 2, data_fingerprint {'a' * 12} -> {'b' * 12}",
    ]


def test_a_path_is_shown_as_it_is_shortest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").touch()
    monkeypatch.chdir(tmp_path)
    assert shortest(str(tmp_path / "a.json")) == "a.json" and shortest("/bin") == "/bin" and shortest("no such file") == "no such file"


@pytest.mark.parametrize(
    ("config", "start", "own"),
    [
        (RECIPE.objective, StartConfig("x"), "; the teacher begins as the student"),
        (RECIPE.objective, StartConfig("x", teacher="stored"), "; the teacher begins as the one stored there"),
        (ClassifyConfig(), StartConfig("x"), "; the head begins with random weights"),
        (ObjectiveConfig(), StartConfig("x"), ""),
    ],
)
def test_the_line_on_the_first_weights_says_what_else_this_objective_begins_with(
    config: ObjectiveConfig, start: StartConfig, own: str
) -> None:
    origin = Origin("/no/such/checkpoint", 7, "text_tiny", "", {})
    line = origin_line(origin, replace(RECIPE, objective=config, start=start))
    assert line == f"begins with the weights of /no/such/checkpoint, step 7 of text_tiny{own}"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (EvalConfig(), "a checkpoint every 5"),
        (EvalConfig(metric="accuracy"), "a checkpoint every 5 and of the best accuracy"),
        (
            EvalConfig(metric="wer", goal="min", patience=3),
            "a checkpoint every 5 and of the best wer, the run ends after 3 evaluations without a better one",
        ),
    ],
)
def test_the_lines_say_which_checkpoints_are_kept_and_when_the_run_ends_early(config: EvalConfig, said: str, tmp_path: Path) -> None:
    run_dir: Any = SimpleNamespace(path=tmp_path, taken_from=None, accepted={})
    assert run_dir_lines(replace(RECIPE, eval=config), run_dir, 0, 1.0)[0] == f"run dir {tmp_path}: from step 0 to 10, {said}"
