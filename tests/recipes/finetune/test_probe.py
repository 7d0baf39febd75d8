"""The probe command's flags and its refusals before anything heavy is imported."""

from pathlib import Path

import pytest

from recipes.errors import ConfigError
from recipes.finetune import trunk
from recipes.finetune.probe import build_parser, run_probe
from recipes.speech import speech_tiny

FLAGS = {"--help", "--from", "--task", "--data", "--label-column", "--local_rank"}


def test_the_flags_are_frozen() -> None:
    actions = build_parser("")._actions
    assert {flag for action in actions for flag in action.option_strings if flag.startswith("--")} == FLAGS


def test_the_task_is_left_to_the_modality_and_the_launchers_flag_is_taken(tmp_path: Path) -> None:
    args = build_parser("").parse_args(["--from", str(tmp_path), "--local_rank=0"])
    assert (args.source, args.task, args.data) == (tmp_path, None, None)


def test_a_source_is_required(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as left:
        build_parser("").parse_args([])
    assert left.value.code == 2 and "--from" in capsys.readouterr().err


def test_an_unknown_task_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--task taste: unknown; there are cloze, classify"):
        run_probe(build_parser("").parse_args(["--from", str(tmp_path), "--task", "taste"]))


def test_more_than_one_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="runs on one process, 2 were started; use python launch/probe"):
        run_probe(build_parser("").parse_args(["--from", str(tmp_path)]))


def test_cloze_is_refused_where_there_are_no_words(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def speech_source(path: Path) -> object:
        found = trunk.Source(path, path, speech_tiny())
        return found

    monkeypatch.setattr(trunk, "find_source", speech_source)
    with pytest.raises(ConfigError, match="--task cloze is for text, speech_tiny is speech; use --task classify"):
        run_probe(build_parser("").parse_args(["--from", str(tiny_run), "--task", "cloze"]))
