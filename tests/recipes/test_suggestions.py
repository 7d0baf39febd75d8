"""Names that a user of other programs types, and the suggestions for them. A suggestion always exists."""

import pytest

from recipes.catalog import RECIPES
from recipes.settings import settable
from recipes.speech import speech_tiny
from recipes.suggestions import FLAGS, NAMES_ELSEWHERE, NOT_SETTINGS, close_matches, did_you_mean, similar_names, unknown_flag
from recipes.text import text_tiny
from recipes.train.cli import build_parser
from recipes.vision import vision_tiny

TEXT = settable(text_tiny())


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("lr", "optim.lr"),
        ("learning_rate", "optim.lr"),
        ("learning-rate", "optim.lr"),
        ("train.lr", "optim.lr"),
        ("batch_size", "run.global_batch_size"),
        ("max_steps", "run.max_steps"),
        ("seed", "run.seed"),
        ("warmup", "optim.warmup_steps"),
        ("optim.warmupsteps", "optim.warmup_steps"),
        ("grad_clip", "optim.clip_norm"),
    ],
)
def test_names_in_other_programs_are_found(name: str, setting: str) -> None:
    assert similar_names(name, TEXT)[0] == setting


def test_a_setting_of_another_modality_is_not_suggested() -> None:
    assert similar_names("seq_len", TEXT) == ["data.sequence_length"]
    assert "data.sequence_length" not in similar_names("seq_len", settable(speech_tiny()))
    assert similar_names("qqqqqq", TEXT) == []


def test_every_suggestion_is_a_setting_and_no_name_has_two_meanings() -> None:
    there = {name for tiny in (text_tiny(), speech_tiny(), vision_tiny()) for name in settable(tiny)}
    words = [word for words in (NAMES_ELSEWHERE | NOT_SETTINGS).values() for word in words]
    assert set(NAMES_ELSEWHERE) <= there and len(words) == len(set(words))
    assert all(word == word.lower() and "-" not in word for word in words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-steps", "10"], "--max-steps: there is no such flag; use --set run.max_steps=10"),
        (["--max_steps=10"], "--max_steps: there is no such flag; use --set run.max_steps=10"),
        (["--lr", "1e-3", "--seed", "2"], "--lr: there is no such flag; use --set optim.lr=1e-3"),
        (["--lr", "--seed"], "--lr: there is no such flag; use --set optim.lr=VALUE"),
        (["--epochs", "3"], "--epochs: there is no such flag; use --set run.max_steps=N, in updates of run.global_batch_size samples"),
        (["--run_dir", "x"], "--run_dir: there is no such flag; did you mean --run-dir?"),
        (["--output_dir", "x"], "--output_dir: there is no such flag; use --run-dir"),
        (["--dat", "x"], "--dat: there is no such flag; did you mean --data?"),
        (["--dry"], "--dry: there is no such flag; did you mean --dry-run?"),
        (["--qqqqqq"], "--qqqqqq: there is no such flag; --help has the flags, --set changes a setting"),
        (["optim.lr=3"], "optim.lr=3: no flag stands before it; write --set optim.lr=3"),
        (["books/"], "books/: no flag stands before it; --help has the flags"),
    ],
)
def test_the_error_of_an_unknown_flag_names_the_existing_one(words: list[str], said: str) -> None:
    assert unknown_flag(words, TEXT) == said


def test_the_suggested_flags_are_those_of_the_command() -> None:
    actions = build_parser("", RECIPES["text"], "text_tiny")._actions
    shown = {flag for action in actions for flag in action.option_strings if flag.startswith("--")} - {"--help", "--local_rank"}
    assert set(FLAGS) == shown


def test_only_close_spellings_are_suggested() -> None:
    assert close_matches("overlap_com", ["overlap_comm", "stage"]) == ["overlap_comm"]
    assert close_matches("pipeline_model_parallel_size", ["tensor_model_parallel_size"]) == []


def test_a_setting_that_is_given_without_an_equals_sign_is_written_as_it_should_be() -> None:
    assert unknown_flag(["3"], TEXT, assignments=["run.seed=1", "optim.lr"]) == "--set optim.lr: no '=' in it; write --set optim.lr=3"
    assert unknown_flag(["3"], TEXT, assignments=["run.seed=1"]).startswith("3: no flag stands before it")


def test_a_name_that_is_nearly_right_is_asked_about() -> None:
    assert did_you_mean("trian", ["train", "test"]) == "did you mean train? "
    assert did_you_mean("fox", ["train", "test"]) == did_you_mean("Test", ["train", "test"]) == ""
