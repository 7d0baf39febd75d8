"""The facts of a launch are complete and can be written as JSON."""

import json
import re

import pytest

from recipes.cluster.launch_info import launch_info, release


def test_launch_facts_name_versions_commit_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x.py", "--data", "y"])
    facts = launch_info()
    assert facts["command"] == ["x.py", "--data", "y"]
    assert {"torch", "deepspeed", "megatron-core"} <= set(facts["versions"]) and all(facts["versions"].values())
    assert facts["git_commit"] is None or re.fullmatch(r"[0-9a-f]{40}", facts["git_commit"])
    assert json.dumps(facts)


def test_the_release_is_that_of_the_checkout() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", release()) and launch_info()["release"] == release()
