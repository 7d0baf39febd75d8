"""The probe command: its flags, errors before anything heavy is imported, and that its flags reach the probe."""

import io
import json
import os
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from recipes.data.prepare import prepare_text
from recipes.errors import ConfigError
from recipes.finetune.classify import classify_probe
from recipes.finetune.cloze import cloze_probe
from recipes.finetune.probe import LABEL_COLUMN, build_parser, run_probe
from recipes.interop import trunk
from recipes.settings import recipe_to_dict
from recipes.speech import speech_tiny
from tests.distributed import run_distributed
from tests.launching import contents, tiny_recipe
from tests.made_up import write_tones
from tests.recipes.finetune.sentences import TEST, write_sentences

FLAGS = {"--help", "--from", "--task", "--data", "--label-column", "--weights", "--out", "--local_rank"}


def test_the_flags_are_frozen() -> None:
    actions = build_parser("")._actions
    assert {flag for action in actions for flag in action.option_strings if flag.startswith("--")} == FLAGS


def test_no_flag_but_from_is_needed_and_the_launchers_flag_is_accepted(tmp_path: Path) -> None:
    args = build_parser("").parse_args(["--from", str(tmp_path), "--local_rank=0"])
    assert (args.from_path, args.task, args.data, args.label_column) == (tmp_path, None, None, None) and LABEL_COLUMN == "label"


def test_from_is_required(capsys: pytest.CaptureFixture) -> None:
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


def test_cloze_is_refused_for_speech(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_speech_run(path: Path, weights: str) -> object:
        found = trunk.TrainedRun(path, path, speech_tiny(), weights=weights)
        return found

    monkeypatch.setattr(trunk, "find_run", find_speech_run)
    with pytest.raises(ConfigError, match=r"--task cloze is not for speech, which speech_tiny is; use --task classify$"):
        run_probe(build_parser("").parse_args(["--from", str(tiny_run), "--task", "cloze"]))


def test_a_label_column_is_refused_by_a_probe_without_labels(tiny_run: Path) -> None:
    for task in ([], ["--task", "cloze"]):
        with pytest.raises(ConfigError, match="--label-column kind: the task cloze uses no labels; use --task classify, or leave out"):
            run_probe(build_parser("").parse_args(["--from", str(tiny_run), "--label-column", "kind", *task]))


@pytest.fixture
def run_dir(distinct_run: Path, tmp_path: Path) -> Path:
    """A copy of distinct_run that the test may change."""
    return Path(shutil.copytree(distinct_run, tmp_path / "run"))


def command(*words: str | Path) -> tuple[Any, list[str], bool]:
    """Run the command with these words. Return (exit code or error, printed lines, True if a process group is left)."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        try:
            code: Any = run_probe(build_parser("").parse_args([str(word) for word in words]))
        except ConfigError as error:
            code = str(error)
    return code, printed.getvalue().splitlines(), dist.is_initialized()


def classified(run_dir: Path, folder: Path) -> tuple:
    """Return (result of the probe for the older checkpoint, what the command did for it)."""
    probed = trunk.find_run(run_dir / "checkpoints" / "step_00000001")
    expected = classify_probe(probed, str(folder), "kind", torch.device("cpu"))
    done = command("--from", probed.checkpoint, "--task", "classify", "--data", folder, "--label-column", "kind")
    return (expected.to_json(probed), expected.lines(probed)), done


def test_flags_reach_classify_and_the_result_is_stored_in_the_run_dir(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    before, results = contents(run_dir), run_dir / "results.json"
    (((stored, lines), done),) = run_distributed(classified, 1, run_dir, write_sentences(tmp_path / "data"))
    logged = [f"split test: {TEST['new']} of {sum(TEST.values())} examples are of 1 classes that train lacks (new), left out"]
    assert done == (0, [*logged, *lines, f"written to {results}"], False)
    key = {
        "run": None,
        "task": "classify",
        "data": str(tmp_path / "data"),
        "label_column": "kind",
        "split": "test",
        "weights": "student",
    }
    assert json.loads(results.read_text()) == [key | stored]
    assert {name: content for name, content in contents(run_dir).items() if name != "results.json"} == before


def clozed(run_dir: Path, text: Path) -> tuple:
    """Return (result of the probe for other text, result for the run's own text, what the command did for the other text)."""
    probed = trunk.find_run(run_dir)
    recipe: Any = probed.recipe
    data = replace(recipe.data, path=str(text), tokenizer=str(probed.prepared / "tokenizer.model"))
    prepared = prepare_text(data, recipe.frontend, text.parent / "prepared", num_processes=1)
    other, own = (cloze_probe(probed, folder, torch.device("cpu")).to_json(probed) for folder in (prepared, probed.prepared))
    return other, own, command("--from", run_dir, "--data", text)


def test_cloze_reads_the_text_of_data_with_the_runs_tokenizer(run_dir: Path, tiny_text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("\n".join(tiny_text.read_text().splitlines()[::-2]) + "\n")
    before = contents(run_dir)
    ((expected, own, (code, lines, is_left)),) = run_distributed(clozed, 1, run_dir, other)
    assert (code, is_left, lines[-1]) == (0, False, f"written to {run_dir / 'results.json'}")
    assert lines[0].startswith("tokenized ") and "prepared " in lines[1], "long steps are logged"
    key = {"run": None, "task": "cloze", "data": str(other), "label_column": None, "split": "held-out", "weights": "student"}
    assert json.loads((run_dir / "results.json").read_text()) == [key | expected] != [key | own]
    (prepared,) = (run_dir / "probe").glob("other.txt-????????")
    assert (prepared / "tokenizer.model").read_bytes() == (run_dir / "prepared" / "tokenizer.model").read_bytes()
    assert {name: content for name, content in contents(run_dir).items() if name in before} == before, "nothing of the run is changed"


def test_without_data_the_run_is_classified_on_its_training_data_and_no_process_group_outlives_an_error(tmp_path: Path) -> None:
    checkpoint, tones = tmp_path / "run" / "checkpoints" / "step_00000007", write_tones(tmp_path / "tones", 2)
    checkpoint.mkdir(parents=True)
    recipe = tiny_recipe("speech", data__path=tones)
    (tmp_path / "run" / "config.json").write_text(json.dumps({"recipe": recipe_to_dict(recipe)}))
    ((complaint, lines, is_left),) = run_distributed(command, 1, "--from", checkpoint)
    assert complaint.startswith(f"{tones}: 2 of 2 items of split train have no label") and not lines
    assert not is_left


def not_written(run_dir: Path) -> tuple[Any, list[str], bool]:
    """Return (error, printed lines, True if the libraries are quiet) if the result cannot be written."""
    complaint, lines, _ = command("--from", run_dir)
    return complaint, lines, os.environ.get("DATASETS_VERBOSITY") == "error"


def test_a_result_that_cannot_be_written_is_one_line_before_the_work_and_libraries_print_nothing(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DATASETS_VERBOSITY", "DATA2VEC_VERBOSE"):
        monkeypatch.delenv(name, raising=False)
    (run_dir / "results.json").mkdir()
    ((complaint, lines, is_quiet),) = run_distributed(not_written, 1, run_dir)
    assert "results.json: cannot be read (" in complaint and "--out DIR" in complaint and not lines
    assert is_quiet


def two_texts_of_one_name(run_dir: Path, texts: list[Path]) -> list[Any]:
    """Return the exit codes."""
    return [command("--from", run_dir, "--data", text)[0] for text in texts]


def test_two_texts_of_the_same_file_name_are_two_data_sets_and_lost_prepared_text_is_one_line(
    run_dir: Path, tiny_text: Path, tmp_path: Path
) -> None:
    texts = [tmp_path / folder / "text.txt" for folder in ("a", "b")]
    for text in texts:
        text.parent.mkdir()
        shutil.copy(tiny_text, text)
    assert run_distributed(two_texts_of_one_name, 1, run_dir, texts) == [[0, 0]]
    assert [entry["data"] for entry in json.loads((run_dir / "results.json").read_text())] == [str(text) for text in texts]
    shutil.rmtree(run_dir / "prepared")
    assert command("--from", run_dir)[0].endswith(
        "run/prepared: the run's prepared text and its tokenizer are not there; put the folder back"
    )


def both_probed(run_dir: Path, out: Path) -> list[Any]:
    """Return the exit codes of the probes of student and teacher."""
    return [command("--from", run_dir, "--weights", weights, "--out", out)[0] for weights in ("student", "teacher")]


def test_student_and_teacher_have_an_entry_each_where_out_says_and_the_run_dir_stays_as_it_is(run_dir: Path, tmp_path: Path) -> None:
    before = contents(run_dir)
    assert run_distributed(both_probed, 1, run_dir, tmp_path / "out" / "deep") == [[0, 0]]
    student, teacher = json.loads((tmp_path / "out" / "deep" / "results.json").read_text())
    assert (student["weights"], teacher["weights"], teacher["run"]) == ("student", "teacher", str(run_dir))
    assert student["by_layer"] != teacher["by_layer"] and student["random_init_by_layer"] == teacher["random_init_by_layer"]
    assert len(student["by_layer"]["linear"]) == 3 and student["layer"] in (1, 2, 3)
    assert contents(run_dir) == before
