"""The model card of an export."""

from dataclasses import replace
from pathlib import Path

from recipes.checkpoint.layout import read_manifest
from recipes.interop.export import export
from recipes.interop.model_card import FRONT_MATTER, Exported, facts
from recipes.interop.processors import Processor
from recipes.interop.stored_run import find_stored_run
from tests.distributed import run_distributed
from tests.recipes.interop.task_runs import task_recipe, write_task_run


def card(run_dir: Path, out: Path, weights: str = "student") -> str:
    export(find_stored_run(run_dir), weights, out)
    return (out / "README.md").read_text()


def test_it_has_the_facts_of_the_run_and_of_the_checkpoint(runs: Path, tmp_path: Path) -> None:
    text = card(runs / "speech", tmp_path / "out", "teacher")
    assert (
        text.startswith(FRONT_MATTER.format(task="feature-extraction"))
        and "\nlicense: other\n" in text
        and "to be chosen by the owner of the weights" in text
    )
    for line in (
        *("- recipe: speech_base", "- size: 2 blocks, 32 channels, 4 heads", "- weights: teacher", "- steps: 7", "- samples: 72"),
        *(
            "- data fingerprint: feed",
            "- command: `launch/pretrain.py --recipe speech_base`",
            "- release: 0.7.0",
            "- versions: torch 2.13.0",
        ),
    ):
        assert line + "\n" in text, line
    assert "imported" not in text


def test_the_code_loads_the_export_in_five_lines(runs: Path, tmp_path: Path) -> None:
    lines = [line[4:] for line in card(runs / "vision", tmp_path / "out").splitlines() if line.startswith("    ")]
    assert len(lines) == 5 and sum('from_pretrained("out")' in line for line in lines) == 1
    compile("\n".join(lines), "card", "exec")


def test_every_group_of_parameters_that_is_lost_is_named(runs: Path, tmp_path: Path) -> None:
    vision, text = card(runs / "vision", tmp_path / "vision"), card(runs / "text", tmp_path / "text")
    assert "Left out: the regression head" in vision and "Left out: the LayerNorm after the last block" in vision
    assert "Left out: the mask vector" not in vision
    assert "The pooler (`pooler_output`) is not trained" in text and "Token types are zero" in text


def test_an_imported_model_says_so_and_its_pooler_is_its_own(runs: Path, tmp_path: Path) -> None:
    text = card(runs / "hf-text", tmp_path / "text")
    assert "- config.json: that of the imported directory" in text and "pooler_output" not in text and "Token types" not in text


def test_the_weights_with_which_a_run_began_are_named(runs: Path, tmp_path: Path) -> None:
    run = find_stored_run(runs / "text")
    start = {"path": "/runs/a/checkpoints/step_00001000", "step": 1000, "recipe": "text_base", "sha256": "", "kept": {}}
    export(replace(run, content=run.content | {"start_from": start, "imported": {"from": "some/model"}}), "student", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "- began with: /runs/a/checkpoints/step_00001000, step 1,000 of text_base\n" in text and "- imported from: some/model\n" in text


def test_what_the_run_has_not_on_record_is_unknown(runs: Path, tmp_path: Path) -> None:
    run = find_stored_run(runs / "text")
    export(replace(run, content={"recipe": {}}), "student", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "- command: unknown\n" in text and "- release: unknown\n" in text


def test_an_imported_run_has_no_data_so_their_fingerprint_is_unknown(runs: Path) -> None:
    run = find_stored_run(runs / "text")
    manifest = replace(read_manifest(run.checkpoint), metadata={"data_fingerprint": None})
    processor = Processor({}, (), ())
    exported = Exported(run=run, manifest=manifest, weights="student", processor=processor, left_out=[], untrained=[], is_imported=True)
    assert facts(exported)["data fingerprint"] == "unknown"


def write_images_run(folder: Path) -> None:
    write_task_run(folder, task_recipe("images"))


def test_the_card_of_a_fine_tuned_run_has_task_labels_and_pipeline(tmp_path: Path) -> None:
    run_distributed(write_images_run, 1, tmp_path / "run")
    text = card(tmp_path / "run", tmp_path / "out")
    assert (
        text.startswith(FRONT_MATTER.format(task="image-classification")) and "that has learned a task from labels, with its head" in text
    )
    assert "- task: images (classify)\n- labels: `a`, `b`, `c`, `d`, `e`, `f`, `g`\n" in text
    assert '    pipe = pipeline("image-classification", model="out")\n' in text and "torch.no_grad" not in text
    assert "Left out: the LayerNorm after the last block" in text and "regression head" not in text
