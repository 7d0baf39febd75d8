"""A config.json that a run cannot go on from: exit 2, one line that names the file and who wrote it, and nothing touched."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.launch.test_old_runs import CONVERT, copy_of
from tests.launching import PROBE, contents, refused

Config = dict[str, Any]


def edit(path: Path, change: Callable[[Config], Any]) -> None:
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def setting(section: str, key: str, value: Any) -> Callable[[Config], Any]:
    return lambda config: config["recipe"][section].update({key: value})


BROKEN: dict[str, tuple[Callable[[Config], Any], str]] = {
    "an unknown kind": (setting("mask", "kind", "blok"), r"mask\.kind 'blok' is unknown"),
    "a kind of another modality": (setting("mask", "kind", "span"), r"mask\.kind 'span' is unknown for its modality, which has token"),
    "a section that there has always been": (lambda config: config["recipe"].pop("loss"), "has no section loss, which every run has"),
    "another type": (setting("optim", "lr", "fast"), r"optim\.lr is 'fast', which is no value of that setting"),
    "no section": (lambda config: config["recipe"].update(model=3), "model is 3, must be a section of keys"),
}


def newer(config: Config) -> None:
    config["release"] = "9.1.0"
    config["recipe"]["model"]["num_wheels"] = 4


@pytest.mark.parametrize("name", BROKEN)
def test_a_probe_says_what_is_wrong_with_the_runs_recipe(name: str, tmp_path: Path) -> None:
    change, complaint = BROKEN[name]
    old = copy_of("text", tmp_path)
    edit(tmp_path / "run" / "config.json", change)
    before = contents(tmp_path)
    refused(old.launch(PROBE, "--from", "run"), rf"config\.json \(written by release at commit f5c6c6f859\w+\): .*{complaint}")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", [name for name in BROKEN if "kind" not in name])
def test_a_resume_says_it_too_and_touches_nothing(name: str, tmp_path: Path) -> None:
    change, complaint = BROKEN[name]
    old = copy_of("text", tmp_path)
    edit(tmp_path / "run" / "config.json", change)
    before = contents(tmp_path)
    refused(old.resume(24), complaint)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", ["blok", "span"])
def test_a_resume_names_a_section_of_another_kind_as_the_difference(kind: str, tmp_path: Path) -> None:
    old = copy_of("text", tmp_path)
    edit(tmp_path / "run" / "config.json", setting("mask", "kind", kind))
    refused(old.resume(24), rf"holds a run with mask\.kind {kind}, now it is token; name another --run-dir")


def test_a_newer_releases_field_names_that_release_everywhere(tmp_path: Path) -> None:
    old = copy_of("text", tmp_path)
    edit(tmp_path / "run" / "config.json", newer)
    complaint = r"written by release 9\.1\.0\): has the key model\.num_wheels, which this release does not know"
    before = contents(tmp_path)
    refused(old.resume(24), complaint)
    refused(old.launch(PROBE, "--from", "run"), complaint)
    assert contents(tmp_path) == before
    assert old.launch(CONVERT, "inspect", "run").returncode == 0, "what is inside can still be seen"


def test_a_section_that_came_later_counts_as_its_default(tmp_path: Path) -> None:
    old = copy_of("text", tmp_path)
    assert "objective" not in json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]
    assert old.resume(21).returncode == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]["objective"] == {"kind": "data2vec"}
