"""Checks made when a run resumes: which differences are refused, accepted or reported, and which runs are not compared at all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.run_dir.run_dir import FREE_TO_CHANGE, RunDir
from recipes.settings import apply_overrides, recipe_to_dict
from recipes.text import text_base, text_tiny
from recipes.train.resume import DataIdentity, check_same_data, check_same_recipe, execution_changes, read_started_run


def run_dir_after_an_update(path: Path, recipe: Recipe, **facts: Any) -> RunDir:
    """Return a run dir whose run has made an update. `facts`: further content of its config.json."""
    run_dir = RunDir(path)
    run_dir.save_config({"recipe": recipe_to_dict(recipe), "versions": {}, "data_fingerprint": "a" * 64, **facts})
    (path / "metrics.jsonl").write_text('{"step": 1}\n')
    return run_dir


def test_the_same_recipe_may_come_back_with_other_limits(tmp_path: Path) -> None:
    recipe = text_tiny()
    run_dir = run_dir_after_an_update(tmp_path / "run", recipe)
    check_same_recipe(run_dir.path, recipe)
    run = replace(recipe.run, max_steps=9, log_steps=1, save_steps=2, eval_steps=3, eval_samples=4, wandb="offline", max_minutes=5)
    run = replace(run, accept_changes=("optim.lr",), hang_seconds=7, products="mm", profile_steps="2-3", device_tflops=1.0)
    assert len([1 for key in FREE_TO_CHANGE if key.startswith("run.")]) == 12 and FREE_TO_CHANGE - {
        "data.path",
        "data.num_workers",
        "data.max_bad_fraction",
        "data.tokenizer",
        "eval.probe_steps",
    } == {key for key in FREE_TO_CHANGE if key.startswith("run.")}
    probed = replace(recipe.eval, probe_steps=7)
    checkpoint, data = (
        replace(recipe.checkpoint, keep_last=9, keep_every_steps=8),
        replace(recipe.data, path="/elsewhere", tokenizer="/another/spelling"),
    )
    assert check_same_recipe(run_dir.path, replace(recipe, run=run, checkpoint=checkpoint, data=data, eval=probed)) == {}


@pytest.mark.parametrize(("facts", "weights"), [({}, "random"), ({"imported": {"from": "a/b"}}, "imported")])
def test_a_start_with_other_weights_is_refused_and_the_weights_the_run_began_with_are_named(
    facts: dict[str, Any], weights: str, tmp_path: Path
) -> None:
    run_dir = run_dir_after_an_update(tmp_path / "run", text_tiny(), **facts)
    with pytest.raises(ConfigError, match=rf"run holds a run that began with {weights} weights, not with start\.start_from other; leave"):
        check_same_recipe(run_dir.path, apply_overrides(text_tiny(), ["start.start_from=other"]))


def test_a_fresh_directory_takes_any_recipe(tmp_path: Path) -> None:
    check_same_recipe(tmp_path / "run", text_base())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (["optim.lr=1e-3"], r"\(1 differ: optim\.lr 0\.002 -> 0\.001\)"),
        (["run.seed=2"], r"run\.seed 1 -> 2"),
        (["run.global_batch_size=8"], r"run\.global_batch_size 16 -> 8"),
        (["optim.betas=0.9,0.99"], r"optim\.betas \[0\.9, 0\.98\] -> \[0\.9, 0\.99\]"),
        (
            ["optim.lr=1", "mask.prob=0.1", "loss.beta=0", "optim.eps=1"],
            r"\(4 differ: loss\.beta 4\.0 -> 0\.0, mask\.prob 0\.3 -> 0\.1, optim\.eps",
        ),
    ],
)
def test_another_setting_is_refused_by_name_and_value(tmp_path: Path, changes: list[str], complaint: str) -> None:
    run_dir = run_dir_after_an_update(tmp_path / "run", text_tiny())
    with pytest.raises(ConfigError, match=complaint):
        check_same_recipe(run_dir.path, apply_overrides(text_tiny(), changes))


def test_the_remedy_names_every_change_and_works(tmp_path: Path) -> None:
    run_dir = run_dir_after_an_update(tmp_path / "run", text_tiny())
    changes = ["optim.lr=1e-3", "run.seed=2", "run.accept_changes=optim.lr"]
    with pytest.raises(ConfigError, match=r"\(1 differ: run\.seed 1 -> 2\); undo them, accept them with --set \S+, or name") as refused:
        check_same_recipe(run_dir.path, apply_overrides(text_tiny(), changes))
    remedy = str(refused.value).partition("--set ")[2].partition(", or")[0]
    assert remedy == "run.accept_changes=optim.lr,run.seed"
    accepted = check_same_recipe(run_dir.path, apply_overrides(text_tiny(), [*changes, remedy]))
    assert accepted == {"optim.lr": [0.002, 0.001], "run.seed": [1, 2]}


def test_an_accepted_name_that_did_not_change_is_harmless(tmp_path: Path) -> None:
    run_dir = run_dir_after_an_update(tmp_path / "run", text_tiny())
    assert check_same_recipe(run_dir.path, apply_overrides(text_tiny(), ["run.accept_changes=optim.lr, loss.beta"])) == {}


def test_data_are_compared_by_their_contents_not_their_path(tmp_path: Path) -> None:
    recipe = text_tiny()
    assert check_same_data(tmp_path / "run", recipe, DataIdentity("b" * 64)) == {}, "a fresh directory takes any"
    run_dir = run_dir_after_an_update(tmp_path / "run", recipe).path
    assert check_same_data(run_dir, apply_overrides(recipe, ["data.path=/elsewhere"]), DataIdentity("a" * 64)) == {}
    complaint = r"not those of the run \(fingerprint aaaaaaaaaaaa -> bbbbbbbbbbbb\); .* run\.accept_changes=data\.path"
    for accepted in ("", "optim.lr"):
        with pytest.raises(ConfigError, match=complaint):
            check_same_data(run_dir, apply_overrides(recipe, [f"run.accept_changes={accepted}"]), DataIdentity("b" * 64))
    accepting = apply_overrides(recipe, ["data.path=/new", "run.accept_changes=data.path"])
    changes = {"data.path": [None, "/new"], "data_fingerprint": ["a" * 64, "b" * 64]}
    assert check_same_data(run_dir, accepting, DataIdentity("b" * 64)) == changes
    accepting = apply_overrides(recipe, ["run.accept_changes=data.path"])
    del changes["data.path"]
    assert check_same_data(run_dir, accepting, DataIdentity("b" * 64)) == changes, "a path that is the same is no change"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"recipe": 3}', '{"recipe": {}}', "\0\0\0"])
def test_a_damaged_config_is_one_line(tmp_path: Path, content: str) -> None:
    run_dir = run_dir_after_an_update(tmp_path / "run", text_tiny()).path
    (run_dir / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json is damaged, so what the run was made for is unknown; restore it, remove it \(a"):
        check_same_recipe(run_dir, text_tiny())


def test_another_recipe_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds a run of recipe text_tiny, not text_base; name another"):
        check_same_recipe(run_dir_after_an_update(tmp_path / "run", text_tiny()).path, text_base())


def test_settings_of_another_architecture_are_refused_without_advice_to_accept_them(tmp_path: Path) -> None:
    run_dir = run_dir_after_an_update(tmp_path / "run", text_tiny()).path
    changes = ["model.num_layers=4", "optim.lr=1e-3", "run.accept_changes=model.num_layers,optim.lr"]
    expected = (
        r"\(2 differ: model\.num_layers 3 -> 4, optim\.lr .*\), its model has [\d,]+ parameters and this one [\d,]+; undo them or name"
    )
    with pytest.raises(ConfigError, match=expected) as refused:
        check_same_recipe(run_dir, apply_overrides(text_tiny(), changes))
    assert "accept" not in str(refused.value)


@pytest.mark.parametrize("trace", ["metrics.jsonl", "checkpoints/step_00000003/rank_00000.safetensors"])
def test_a_run_without_an_update_is_not_compared_and_any_trace_of_an_update_is(tmp_path: Path, trace: str) -> None:
    run_dir = run_dir_after_an_update(tmp_path / "run", text_tiny()).path
    (run_dir / "metrics.jsonl").write_text("")
    assert read_started_run(run_dir) is None and check_same_recipe(run_dir, text_base()) == {}
    assert check_same_data(run_dir, text_tiny(), DataIdentity("b" * 64)) == {}
    (run_dir / trace).parent.mkdir(parents=True, exist_ok=True)
    (run_dir / trace).write_text('{"st')
    with pytest.raises(ConfigError, match="holds a run of recipe text_tiny"):
        check_same_recipe(run_dir, text_base())


def test_contents_are_compared_if_both_recorded_them(tmp_path: Path) -> None:
    recipe, run_dir = text_tiny(), run_dir_after_an_update(tmp_path / "run", text_tiny())
    assert check_same_data(run_dir.path, recipe, DataIdentity("a" * 64, "c" * 64)) == {}, "an older run recorded none"
    run_dir.save_config({"recipe": recipe_to_dict(recipe), "data_fingerprint": "a" * 64, "data_contents": "d" * 64})
    assert check_same_data(run_dir.path, recipe, DataIdentity("a" * 64, None)) == {}, "an older folder recorded none"
    with pytest.raises(ConfigError, match=r"\(contents dddddddddddd -> cccccccccccc\)"):
        check_same_data(run_dir.path, recipe, DataIdentity("a" * 64, "c" * 64))


BEFORE: dict[str, Any] = {
    "world_size": 2,
    "tp_size": 1,
    "versions": {"torch": "2.0"},
    "deepspeed": {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2, "zero_optimization": {"stage": 3}},
}


@pytest.mark.parametrize(
    ("now", "changes"),
    [
        ({}, {}),
        ({"world_size": 4, "deepspeed": BEFORE["deepspeed"] | {"gradient_accumulation_steps": 1}}, {"world_size": [2, 4]}),
        ({"release": "0.5.0", "versions": {"torch": "2.1", "numpy": "2"}}, {"versions.torch": ["2.0", "2.1"]}),
        ({"deepspeed": BEFORE["deepspeed"] | {"bf16": {"enabled": True}}}, {"precision": ["fp32", "bf16"]}),
        (
            {"deepspeed": {"train_micro_batch_size_per_gpu": 8, "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}}},
            {"deepspeed.train_micro_batch_size_per_gpu": [4, 8], "deepspeed.zero_optimization.offload_optimizer.device": [None, "cpu"]},
        ),
    ],
)
def test_changes_of_execution_are_named_and_derived_numbers_are_not(now: dict[str, Any], changes: dict[str, Any]) -> None:
    assert execution_changes(BEFORE, BEFORE | now) == changes
    assert execution_changes({}, BEFORE | now) == {}, "nothing was recorded"
