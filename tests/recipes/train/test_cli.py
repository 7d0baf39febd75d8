"""The pre-training command without its processes: frozen flags, exit codes, and a dry run of everything that is shipped."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.catalog import RECIPES
from recipes.check import resolve_recipe
from recipes.cluster.environment import is_simulated_world
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.plan.size import num_parameters
from recipes.settings import recipe_to_dict
from recipes.text import text_tiny
from recipes.train.cli import build_parser, default_ds_config, pretrain_main
from recipes.train.probe import Probe, ProbePlace
from tests.launching import ROOT

DS_CONFIGS = sorted((ROOT / "ds_configs").glob("*.json"))
FLAGS = {"--help", "--recipe", "--deepspeed_config", "--data", "--run-dir", "--set", "--dry-run", "--help-set", "--local_rank"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def run(monkeypatch: pytest.MonkeyPatch, *args: object, modality: str = "text") -> int:
    monkeypatch.setattr("sys.argv", [f"pretrain_{modality}.py", *map(str, args)])
    return pretrain_main("Pre-train.", RECIPES[modality], default=f"{modality}_tiny")


def test_the_flags_are_frozen() -> None:
    """Numbers of the recipe are changed with --set, settings of execution in the ds_config. Neither gets a flag of its own."""
    actions = build_parser("", RECIPES["text"], "text_tiny")._actions
    assert {flag for action in actions for flag in action.option_strings if flag.startswith("--")} == FLAGS


def test_set_repeats_and_the_launchers_flag_is_taken() -> None:
    args = build_parser("", RECIPES["text"], "text_tiny").parse_args(["--local_rank=3", "--set", "a.b=1", "--set", "c.d=2"])
    assert (args.set, args.recipe, args.local_rank) == (["a.b=1", "c.d=2"], "text_tiny", 3)


def test_a_rank_variable_that_is_no_number_is_printed_as_an_error(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "first")
    assert run(monkeypatch, "--dry-run") == 2
    assert capsys.readouterr().err.startswith("error: RANK='first'")


def test_help_set_shows_a_section_and_runs_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert run(monkeypatch, "--recipe", "text_base", "--data", "lost", "--help-set", "run") == 0
    assert f"run.max_steps={RECIPES['text']['text_base']().run.max_steps}  (an integer, at least 1)" in capsys.readouterr().out
    assert run(monkeypatch, "--help-set") == 0
    assert capsys.readouterr().out.startswith("model: ")
    assert run(monkeypatch, "--help-set", "lr") == 2
    assert "did you mean optim.lr?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


class RecordedProbes:
    """Stands for a ProbeSource, and records the recipes that it checks."""

    def __init__(self) -> None:
        self.checked: list[int] = []

    def check(self, recipe: Recipe) -> str:
        self.checked.append(recipe.eval.probe_steps)
        return "of my own"

    def open(self, recipe: Recipe, place: ProbePlace) -> Probe:
        raise AssertionError("a dry run opens nothing")


def test_a_dry_run_checks_the_probe_and_prints_it_and_a_command_without_probes_refuses_the_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    probes = RecordedProbes()
    monkeypatch.setattr("sys.argv", ["pretrain_text.py", "--dry-run", "--set", "eval.probe_steps=3"])
    assert pretrain_main("Pre-train.", RECIPES["text"], "text_tiny", probes) == 0
    assert "probe: of my own\n" in capsys.readouterr().out and probes.checked == [3]
    assert pretrain_main("Pre-train.", RECIPES["text"], "text_tiny") == 2
    assert capsys.readouterr().err == "error: eval.probe_steps 3: this command has no probe; leave it out\n"


def test_data_and_overrides_make_the_recipe() -> None:
    recipe = resolve_recipe("text_tiny", RECIPES["text"], ["run.seed=4", "data.path=/lost"], "/found")
    base = text_tiny()
    assert recipe == replace(base, run=replace(base.run, seed=4), data=replace(base.data, path="/found"))


def test_a_function_that_returns_no_recipe_is_a_one_line_error_even_with_an_unknown_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "no_recipes.py").write_text("def mine():\n    return {}\n")
    assert run(monkeypatch, "--recipe", f"{tmp_path / 'no_recipes.py'}:mine", "--dry-run", "--lr", "1") == 2
    assert capsys.readouterr().err.endswith("no_recipes.py:mine: returned dict, not a Recipe\n")


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="--recipe text_huge: unknown; there are text_tiny, text_small, "):
        resolve_recipe("text_huge", RECIPES["text"], [], None)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--max-steps", "10"], "--max-steps: there is no such flag; use --set run.max_steps=10"),
        (["--dry-run", "--lr=1e-3"], "--lr: there is no such flag; use --set optim.lr=1e-3"),
        (["--dat", "books"], "--dat: there is no such flag; did you mean --data?"),
        (["--set", "optim.lr", "3"], "--set optim.lr: no '=' in it; write --set optim.lr=3"),
        (["--recipe", "vision_tiny"], "--recipe vision_tiny: a recipe of modality vision, for launch/*_vision.py; here there are"),
        (["--set", "lr=1"], "--set lr: recipe text_tiny has no such key; did you mean optim.lr?"),
        (["--set", "data.path="], "--set data.path=: the value is empty; write one behind"),
        (["--dry-run", "--set", "run.max_steps=4000"], "from there on the learning rate is 0; use --set optim.schedule_steps=4000"),
        (["--dry-run", "--deepspeed_config", "zero3_bf15"], "ds_configs/: zero3_bf16, zero3_cpu, "),
        (["--dry-run", "--deepspeed_config", "zero3_tp2_bf16"], "start 2 ranks (deepspeed --num_gpus 2 launch/...), or name another"),
    ],
)
def test_what_a_new_user_types_is_answered_in_one_line(
    args: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert run(monkeypatch, *args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line


@pytest.mark.parametrize("flag", ["--data", "--run-dir", "--deepspeed_config"])
def test_a_flag_that_names_nothing_is_refused(flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "--dry-run", flag, "")
    assert caught.value.code == 2 and f"argument {flag}: is empty" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["zero3_cpu_bf16", "zero3_cpu_bf16.json", "ds_configs/zero3_cpu_bf16.json"])
def test_a_shipped_ds_config_is_found_by_its_name_from_anywhere(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    assert run(monkeypatch, "--dry-run", "--deepspeed_config", name) == 0
    assert f"\nds_config: {ROOT}/ds_configs/zero3_cpu_bf16.json, bf16\n" in capsys.readouterr().out
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    assert run(monkeypatch, "--dry-run", "--deepspeed_config", name) == 0
    assert f"\nds_config: {name}, fp32\n" in capsys.readouterr().out, "one's own comes first"


def test_imagined_ranks_have_a_gpu_each_and_a_cpu_has_no_fp16(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("recipes.train.cli.may_compute_fp16", is_simulated_world)
    assert run(monkeypatch, "--dry-run", "--deepspeed_config", "zero3_fp16") == 2
    assert "DeepSpeed has no fp16 on this machine; use a ds_config with bf16 or fp32" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "16")
    assert run(monkeypatch, "--dry-run", "--deepspeed_config", "zero3_fp16") == 0
    assert "zero3_fp16.json, fp16\n" in capsys.readouterr().out
    assert run(monkeypatch, "--dry-run") == 0
    assert "zero3_bf16.json, bf16; imagined ranks have a GPU each, --deepspeed_config zero3_cpu is for CPUs\n" in capsys.readouterr().out


def test_notes_are_printed_between_the_plan_and_the_settings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert run(monkeypatch, "--dry-run", "--set", "run.global_batch_size=17", "--set", "model.hidden_size=64") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[8:12]] == ["run dir", "note", "note", "{"]


def test_overrides_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"run\.max_steps is 0"):
        resolve_recipe("text_tiny", RECIPES["text"], ["run.max_steps=0"], None)


@pytest.mark.parametrize(
    ("has_gpu", "visible", "name"),
    [
        (True, None, "zero3_bf16.json"),
        (True, "0,1", "zero3_bf16.json"),
        (True, "", "zero3_cpu.json"),
        (True, "-1", "zero3_cpu.json"),
        (False, None, "zero3_cpu.json"),
        (False, "0", "zero3_cpu.json"),
    ],
)
def test_the_default_ds_config_suits_the_visible_devices(
    has_gpu: bool, visible: str | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(Path, "exists", lambda path: has_gpu)
    assert default_ds_config() == ROOT / "ds_configs" / name


@pytest.mark.parametrize("world_size", [2, 64])
@pytest.mark.parametrize("path", DS_CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", [name for recipes in RECIPES.values() for name in recipes])
def test_every_recipe_with_every_ds_config_passes_a_dry_run(
    name: str, path: Path, world_size: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    modality = name.partition("_")[0]
    recipe = RECIPES[modality][name]()
    batch = max(recipe.run.global_batch_size, world_size)
    args = ["--recipe", name, "--deepspeed_config", path, "--dry-run", "--set", f"run.global_batch_size={batch}"]
    args += ["--set", "start.required=false"]  # the weights that a recipe continues are not at hand
    assert run(monkeypatch, *args, modality=modality) == 0
    out, err = capsys.readouterr()
    lines_before, brace, content = out.partition("{\n")
    shown = json.loads(brace + content)
    assert [re.sub(r"\d+ (x h100|cpu ranks)$", "N", line.partition(":")[0]) for line in lines_before.splitlines()[:9]] == [
        "parameters",
        "batch",
        "states per rank, MB",
        "memory per rank, estimated",
        "FLOPs",
        "checkpoint",
        "time, estimated for N",
        "ds_config",
        "run dir",
    ]
    assert f"ds_config: {path}, " in lines_before
    assert (shown["recipe"]["name"], shown["deepspeed"]["train_batch_size"]) == (name, batch)
    assert f"parameters: {num_parameters(recipe):,} (" in lines_before
    dp_size, micro, accumulation = map(int, re.findall(r"data-parallel (\d+) x micro (\d+) x accumulation (\d+)", out)[0])
    assert dp_size * micro * accumulation == batch
    assert f"run dir: runs/{name}\n" in lines_before
    assert err == "" and list(tmp_path.iterdir()) == []


def test_a_tensor_parallel_group_is_held_to_the_ranks_of_a_node(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    args = ["--dry-run", "--deepspeed_config", ROOT / "ds_configs" / "zero3_tp2_bf16.json"]
    for local_size, code in (("1", 2), ("2", 0)):
        monkeypatch.setenv("WORLD_SIZE", "4")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local_size)
        assert run(monkeypatch, *args) == code
    assert "tensor_model_parallel_size 2 does not fit into a node of 1 ranks" in capsys.readouterr().err


def test_a_dry_run_refuses_data_and_run_dirs_that_training_would_refuse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    recipe = recipe_to_dict(RECIPES["text"]["text_base"]())
    (tmp_path / "config.json").write_text(json.dumps({"recipe": recipe}))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert run(monkeypatch, "--dry-run", "--run-dir", tmp_path) == 2
    assert "holds a run of recipe text_base, not text_tiny" in capsys.readouterr().err
    assert run(monkeypatch, "--dry-run", "--data", tmp_path / "nothing.txt") == 2
    assert f"{tmp_path / 'nothing.txt'}" in capsys.readouterr().err


def test_a_dry_run_says_when_the_run_dir_exists(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert run(monkeypatch, "--dry-run", "--run-dir", tmp_path) == 0
    assert f"run dir: {tmp_path} (exists)" in capsys.readouterr().out


def test_a_dry_run_says_what_is_read_of_the_data_and_what_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    for name in ("train.txt", "test.txt"):
        (tmp_path / name).write_text("one\n")
    assert run(monkeypatch, "--dry-run", "--data", tmp_path) == 0
    assert "\ndata: train: 1 file (1 .txt) of train; left out: 1 of test\n" in capsys.readouterr().out
    assert run(monkeypatch, "--dry-run", "--data", tmp_path, "--set", "data.split=all") == 0
    assert "\ndata: all: 2 files (2 .txt)\n" in capsys.readouterr().out
