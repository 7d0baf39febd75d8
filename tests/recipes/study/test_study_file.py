"""The study file: every key has its type, every name is known, and a message says the key and the remedy."""

from pathlib import Path
from typing import Any

import pytest

from recipes.errors import ConfigError
from recipes.study.rules import BY_DEFAULT, RULES
from recipes.study.study_file import SHIPPED_STUDIES, find_study, read_study
from tests.made_up_study import made_up_study

HIDDEN, STEPS = "model.hidden_size", "run.max_steps"


def refusal(folder: Path, **keys: Any) -> str:
    path = made_up_study(folder, **keys)
    with pytest.raises(ConfigError) as found:
        read_study(path)
    return str(found.value)


def test_a_whole_study_is_read(tmp_path: Path) -> None:
    study = read_study(made_up_study(tmp_path, set={"optim.lr": 1e-3}, metric="probe.cloze", cluster="gpus=4,device=h100", data="d"))
    assert (study.name, study.base_name, study.base.name, study.seeds) == ("made_up", "text_tiny", "text_tiny", (1, 2))
    assert study.axes == {HIDDEN: (32, 64), STEPS: (20, 40)} and study.settings == {"optim.lr": 1e-3}
    assert (study.metric_key, study.data, study.cluster) == ("probe", "d", "gpus=4,device=h100")
    assert study.cells_folder == tmp_path / "out" / "cells" and study.rules == BY_DEFAULT


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    study = read_study(made_up_study(tmp_path, seeds=..., metric=..., out=...))
    assert (study.seeds, study.metric, study.out) == ((1,), "probe", Path("runs/studies/made_up"))
    assert (study.deepspeed_config, study.data, study.cluster, study.fit) == ("zero3_cpu", None, None, {})


@pytest.mark.parametrize("path", sorted(SHIPPED_STUDIES.glob("*.json")), ids=lambda path: path.stem)
def test_a_shipped_study_is_found_by_its_bare_name(path: Path) -> None:
    assert find_study(Path(path.stem)) == path and read_study(Path(path.stem)).name == path.stem


def test_a_file_of_ones_own_goes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text_isoflop").write_text("{}")
    assert find_study(Path("text_isoflop")) == Path("text_isoflop")


def test_comments_are_left_out(tmp_path: Path) -> None:
    assert read_study(made_up_study(tmp_path, **{"_why": 1, "//": "x"})).name == "made_up"


@pytest.mark.parametrize("key", ["name", "base", "axes"])
def test_a_needed_key_that_is_missing_is_named(key: str, tmp_path: Path) -> None:
    assert f'no "{key}"' in refusal(tmp_path, **{key: ...})


@pytest.mark.parametrize(
    "key", ["name", "base", "axes", "deepspeed_config", "data", "rules", "set", "seeds", "metric", "out", "cluster", "fit"]
)
@pytest.mark.parametrize("value", [3, True])
def test_a_key_of_a_wrong_type_is_named(key: str, value: Any, tmp_path: Path) -> None:
    assert f"study.json: {key} is {value}" in refusal(tmp_path, **{key: value})


@pytest.mark.parametrize("key", ["out", "metric", "data", "deepspeed_config", "cluster"])
def test_an_empty_text_is_refused(key: str, tmp_path: Path) -> None:
    """An empty "out" would be the current folder."""
    assert key.split("_")[0] in refusal(tmp_path, **{key: ""})


def test_an_unknown_key_has_the_nearest_one(tmp_path: Path) -> None:
    assert "did you mean seeds" in refusal(tmp_path, seed=[1])


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "a b", "a\n"])
def test_a_name_that_is_no_folder_is_refused(name: str, tmp_path: Path) -> None:
    assert "name is" in refusal(tmp_path, name=name)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[1, 2]", "holds a list"),
        ('{"name": ', "broken JSON at line 1, column"),
        ("[" * 100_000, "nested"),
        ('{"name": ' + "1" * 5000 + "}", "digits"),
        ('{"name": "a", "base": "text_tiny", "axes": {"run.max_steps": [20], "run.max_steps": [40]}}', "stands twice"),
    ],
    ids=["list", "broken", "deep", "long integer", "key twice"],
)
def test_a_file_that_is_no_object_of_json_is_refused(text: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ConfigError, match=part):
        read_study(tmp_path / "bad.json")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the shipped ones are in recipes/studies/: .*text_isoflop"):
        read_study(tmp_path / "missing.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_study(tmp_path / "binary.json")


@pytest.mark.parametrize(("values", "part"), [([], "model.hidden_size is empty"), (32, 'write "model.hidden_size": [32]'), ({}, "a list")])
def test_an_axis_without_values_is_refused(values: Any, part: str, tmp_path: Path) -> None:
    assert part in refusal(tmp_path, axes={HIDDEN: values})


@pytest.mark.parametrize("seeds", [[], [-1], [1.5], [True], ["1"], "1", 1, None])
def test_seeds_are_whole_numbers(seeds: Any, tmp_path: Path) -> None:
    assert "must be a list of whole numbers from 0" in refusal(tmp_path, seeds=seeds)


@pytest.mark.parametrize(
    ("rules", "part"),
    [
        ("lr_width", "must be a list of names or an object"),
        (["lr_wdth"], "did you mean lr_width"),
        ({"nothing": True}, "there is no rule 'nothing'"),
        ({"lr_width": "0.5"}, "lr_width is '0.5', must be true, false or an exponent"),
        ({"lr_width": None}, "lr_width is None"),
        ({"lr_width": [0.5]}, "must be true, false or an exponent"),
        ({"schedule": 2}, "schedule is 2, must be true or false"),
        ({"lr_width": float("nan")}, "lr_width is nan"),
        ([["lr_width"]], "there is no rule"),
        ([{}], "there is no rule"),
    ],
)
def test_a_wrong_rule_is_refused(rules: Any, part: str, tmp_path: Path) -> None:
    assert part in refusal(tmp_path, rules=rules)


def test_a_list_of_rules_is_all_that_is_on_in_their_order(tmp_path: Path) -> None:
    assert read_study(made_up_study(tmp_path, rules=["schedule", "head_size", "batch"])).rules.keys() == {"head_size", "batch", "schedule"}
    assert list(read_study(made_up_study(tmp_path, rules=["schedule", "batch"])).rules.items()) == [("batch", 0.5), ("schedule", None)]
    assert read_study(made_up_study(tmp_path, rules=[])).rules == {}


def test_an_object_of_rules_changes_the_defaults(tmp_path: Path) -> None:
    rules = read_study(made_up_study(tmp_path, rules={"lr_width": 1, "batch": True, "schedule": False, "lr_batch": 0})).rules
    assert (rules["lr_width"], rules["batch"], rules["lr_batch"]) == (1, RULES["batch"].exponent, 0)
    assert rules.keys() == (BY_DEFAULT.keys() | {"batch"}) - {"schedule"} and list(rules) == [name for name in RULES if name in rules]
