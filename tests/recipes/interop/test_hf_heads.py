"""Exports of runs with the head of a task: transformers loads them completely, computes the same logits, and its pipelines give this
project's predictions. transformers is imported in tests only."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from model.batch import Batch
from model.frontends.pixels import normalise
from recipes.data.examples import ImageMaker, SpeechMaker
from recipes.data.labelled_text_reader import joined
from recipes.data.text import TextExample, collate_text
from recipes.data.tokenizer_json import FILE
from recipes.errors import ConfigError
from recipes.interop.export import export
from recipes.interop.hf_format import FORMATS, format_of_recipe
from recipes.interop.hf_head import SECTION
from recipes.interop.hf_heads import SYMBOLS
from recipes.interop.stored_run import find_stored_run
from recipes.objectives.registry import objective_class
from recipes.settings import apply_overrides, walk_settings
from recipes.supervised_config import SPECIAL_LETTERS, RegressConfig
from tests.distributed import run_distributed
from tests.recipes.interop.task_runs import METRICS, OBJECTIVES, load_network, outputs_of, task_recipe, write_task_run

TOLERANCE = 1e-5
PAIRS = [("ba do ki", "lu"), ("me", "no pa ba do"), ("w1 w2 w3 w4 w5 w6 w7 w8 w9", "ba ki lu me"), ("w7 w8", "w9")]
AUTO = {
    "pairs": "AutoModelForSequenceClassification",
    "numbers": "AutoModelForSequenceClassification",
    "letters": "AutoModelForCTC",
    "utterances": "AutoModelForAudioClassification",
    "images": "AutoModelForImageClassification",
}
PIPELINES = {
    "pairs": "text-classification",
    "numbers": "text-classification",
    "letters": "automatic-speech-recognition",
    "utterances": "audio-classification",
    "images": "image-classification",
}


@dataclass(frozen=True)
class Compared:
    """What a network and its export give for some samples."""

    architecture: str
    loading: dict[str, Any]
    difference: float
    """Largest difference of a logit."""
    ours: list[tuple[str, Any]]
    """Prediction of each sample: text and score."""
    theirs: list[Any]
    """What the pipeline returned for each sample."""
    probabilities: list[list[float]]
    """This project's probabilities of the classes, if there are classes."""


def samples(name: str) -> list[Any]:
    """Return values that the pipeline of this task takes."""
    rng = np.random.default_rng(3)
    if name == "pairs":
        return [{"text": first, "text_pair": second} for first, second in PAIRS]
    if name == "numbers":
        return [first for first, _ in PAIRS]
    if name == "images":
        small = rng.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
        return [Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC) for one in small]
    return [{"raw": rng.standard_normal(length).astype(np.float32), "sampling_rate": 16_000} for length in (9000, 6111, 4000)]


def batch_of(recipe: Any, value: Any, run_dir: Path) -> Batch:
    """Return the batch of one sample, made as this project makes it."""
    if recipe.modality == "speech":
        maker = SpeechMaker(recipe.frontend, recipe.data.sample_rate)
        return maker.collate([maker.of_waveform(value["raw"])])
    if recipe.modality == "vision":
        images = ImageMaker(recipe.frontend)
        return images.collate([images.of_image(value)])
    texts = [value] if isinstance(value, str) else [value["text"], value["text_pair"]]
    tokenizer = Tokenizer.from_file(str(run_dir / FILE))
    parts = [np.array(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]
    ids = joined(parts, recipe.data.sequence_length)
    return collate_text([TextExample(ids, ids, np.zeros(len(ids), dtype=bool))], always_padded=True)


def compare(name: str, folder: Path) -> Compared:
    """Write a run, export it, and compute with both."""
    import transformers

    run_dir, out = write_task_run(folder / name, task_recipe(name)), folder / f"{name}-out"
    export(find_stored_run(run_dir), "student", out)
    recipe, network = load_network(run_dir)
    model, loading = getattr(transformers, AUTO[name]).from_pretrained(out, output_loading_info=True)
    pipe = transformers.pipeline(PIPELINES[name], model=str(out))
    cut = {"truncation": True} if recipe.modality == "text" else {}
    everything = {} if name == "letters" else {"top_k": None} if name != "images" else {"top_k": 9}
    task: Any = objective_class(recipe.objective.kind).make_task(recipe.objective)  # type: ignore[attr-defined]
    ours, theirs, differences, probabilities = list[Any](), list[Any](), list[float](), list[list[float]]()
    for value in samples(name):
        batch = batch_of(recipe, value, run_dir)
        outputs = outputs_of(network, batch)
        key = {"text": "input_ids", "speech": "input_values", "vision": "pixel_values"}[recipe.modality]
        inputs = normalise(batch.inputs) if recipe.modality == "vision" else batch.inputs  # transformers reads normalised pixels
        with torch.no_grad():
            logits = model.eval()(**{key: inputs}).logits
        assert logits.shape == outputs.shape, (logits.shape, outputs.shape)
        differences.append(float((logits - outputs).abs().max()))
        ours += [tuple(one) for one in task.predictions(outputs, batch)]
        probabilities.append(outputs.softmax(-1)[0].tolist() if outputs.dim() == 2 else [])
        theirs.append(pipe(dict(value) if isinstance(value, dict) else value, **everything, **cut))
    return Compared(type(model).__name__, dict(loading), max(differences), ours, theirs, probabilities)


def compare_all(folder: Path) -> dict[str, Compared]:
    return {name: compare(name, folder) for name in OBJECTIVES}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture(scope="module")
def compared(place: Path) -> dict[str, Compared]:
    """All tasks in one process, because the import of transformers takes a second."""
    (found,) = run_distributed(compare_all, 1, place, timeout=280)
    return found


@pytest.mark.parametrize("name", OBJECTIVES)
def test_transformers_loads_every_tensor_and_computes_the_same_logits_within_1e_5(name: str, compared: dict[str, Compared]) -> None:
    found = compared[name]
    assert not any(found.loading.values()), found.loading
    assert found.difference <= TOLERANCE
    modality, objective = OBJECTIVES[name]
    (form,) = (one for one in FORMATS.values() if one.modality == modality)
    assert found.architecture == form.heads[objective.kind].architecture


@pytest.mark.parametrize("name", ["pairs", "utterances", "images"])
def test_a_pipeline_gives_this_projects_class_and_its_probabilities_within_1e_4(name: str, compared: dict[str, Compared]) -> None:
    labels: Any = OBJECTIVES[name][1]
    found = compared[name]
    for (text, _), scores, expected in zip(found.ours, found.theirs, found.probabilities, strict=True):
        by_label = {one["label"]: one["score"] for one in scores}
        assert max(by_label, key=by_label.__getitem__) == text
        assert [by_label[label] for label in labels.labels] == pytest.approx(expected, abs=1e-4)
    assert np.ptp([one[0] for one in found.probabilities]) > 1e-2, "the samples must differ"


def test_a_pipeline_gives_the_number_of_a_regression_within_1e_5(compared: dict[str, Compared]) -> None:
    found = compared["numbers"]
    for (_, number), answers in zip(found.ours, found.theirs, strict=True):
        assert [one["label"] for one in answers] == ["score"] and answers[0]["score"] == pytest.approx(number, abs=TOLERANCE)


def test_a_pipeline_gives_the_transcript_but_for_special_symbols_and_spaces_in_a_row(compared: dict[str, Compared], place: Path) -> None:
    found = compared["letters"]
    for (text, _), answer in zip(found.ours, found.theirs, strict=True):
        said = answer["text"]
        for symbol in SPECIAL_LETTERS[:4]:
            said = said.replace(symbol, "")
        assert " ".join(said.split()) == text and text
    assert f"- {SYMBOLS}" in (place / "letters-out" / "README.md").read_text()


@pytest.mark.usefixtures("compared")
def test_labels_length_and_the_kind_of_problem_are_stored(place: Path) -> None:
    def read(name: str, file: str = "config.json") -> dict[str, Any]:
        return json.loads((place / f"{name}-out" / file).read_text())

    assert read("pairs")["id2label"] == {"0": "no", "1": "yes", "2": "it's open"} and read("pairs")["label2id"]["it's open"] == 2
    assert read("pairs")["problem_type"] == "single_label_classification" and read("pairs")["classifier_dropout"] == 0.1
    assert read("pairs", "tokenizer_config.json")["model_max_length"] == 16
    assert read("numbers")["problem_type"] == "regression" and read("numbers")["id2label"] == {"0": "score"}
    assert (read("letters")["vocab_size"], read("letters")["pad_token_id"], read("letters")["final_dropout"]) == (9, 0, 0.2)
    assert read("utterances")["classifier_proj_size"] == 20 and read("images")["use_mean_pooling"] is True


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_setting_of_the_head_is_stored_dropped_or_bound_by_a_rule(name: str) -> None:
    modality, objective = OBJECTIVES[name]
    (form,) = (one for one in FORMATS.values() if one.modality == modality)
    table = form.heads[objective.kind].expressible
    settings = {setting for setting, *_ in walk_settings(task_recipe(name)) if setting.startswith(SECTION)}
    assert table.stored | table.dropped | table.rules.keys() == settings
    assert not table.dropped & (table.stored | table.rules.keys())


@pytest.mark.parametrize(
    ("name", "assignment", "complaint"),
    [
        ("pairs", "reads=mean", r"Data2VecTextForSequenceClassification of transformers has no such head; train with --set \S+reads=cls"),
        ("pairs", "hidden_size=8", "has the trunk's 32 channels there; train with --set objective.head.hidden_size=0"),
        ("numbers", "hidden=none", "no such head"),
        ("letters", "hidden=tanh", r"Data2VecAudioForCTC of transformers has no such head; train with --set objective\.head\.hidden=none"),
        ("utterances", "hidden=none", "no such head"),
        ("images", "norm=false", r"no such head; train with --set objective\.head\.norm=true, or use launch/convert\.py consolidate"),
    ],
)
def test_a_head_that_transformers_has_not_is_refused_with_the_setting_and_a_remedy(name: str, assignment: str, complaint: str) -> None:
    recipe = apply_overrides(task_recipe(name), [f"objective.head.{assignment}"])
    setting, _, value = assignment.partition("=")
    with pytest.raises(ConfigError, match=rf"(?i)^objective\.head\.{setting} {value}: .*{complaint}") as caught:
        format_of_recipe(recipe).config_of(recipe)
    assert "\n" not in str(caught.value)


def test_an_objective_for_which_the_modality_has_no_class_is_refused() -> None:
    recipe = replace(task_recipe("utterances"), objective=RegressConfig())
    with pytest.raises(ConfigError, match=r"^objective regress: transformers has no class for it on speech, only for ctc, classify; use"):
        format_of_recipe(recipe)


def test_all_metrics_of_the_runs_are_named() -> None:
    assert METRICS.keys() == OBJECTIVES.keys() == AUTO.keys() == PIPELINES.keys()
