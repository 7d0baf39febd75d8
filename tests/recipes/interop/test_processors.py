"""The inputs that transformers makes of an export's files, against those of this project."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.frontends.pixels import normalise
from recipes.data.audio import normalize
from recipes.data.images import center_view
from recipes.data.tokenizer import encode, find_tokenizer
from recipes.interop.hf_files import PREPROCESSOR
from recipes.interop.hf_format import FORMATS, format_of_modality
from recipes.interop.processors import PADDED, Processor
from recipes.modalities.registry import MODALITIES
from recipes.speech import speech_base
from recipes.text import text_base
from recipes.vision import vision_base

RATE = 16_000


def write(processor: Processor, folder: Path) -> Path:
    for name, content in processor.files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("loudness", [1.0, 1e-2, 1e-3])
def test_waveforms_are_normalised_as_here_but_for_the_epsilon_within_1e_6(loudness: float, tmp_path: Path) -> None:
    from transformers import AutoFeatureExtractor

    extractor = AutoFeatureExtractor.from_pretrained(write(format_of_modality("speech").processor(speech_base(), tmp_path), tmp_path))
    rng = np.random.default_rng(0)
    waves = [(loudness * (rng.standard_normal(length) + 0.1)).astype(np.float32) for length in (RATE, RATE // 3)]
    found = extractor(waves, sampling_rate=RATE, padding=True, return_tensors="np")
    for wave, values, mask in zip(waves, found["input_values"], found["attention_mask"], strict=True):
        variance = wave.astype(np.float64).var()
        ratio = np.sqrt((variance + 1e-5) / (variance + 1e-7))  # as the model card says
        np.testing.assert_allclose(values[: len(wave)], normalize(wave) * ratio, atol=1e-6 * ratio)
        assert mask.sum() == len(wave) and not values[len(wave) :].any()
        if loudness == 1.0:
            np.testing.assert_allclose(values[: len(wave)], normalize(wave), atol=2.5e-5)


def test_the_sampling_rate_is_the_recipes(tmp_path: Path) -> None:
    from transformers import AutoFeatureExtractor

    recipe = replace(speech_base(), data=replace(speech_base().data, sample_rate=8000))  # type: ignore[call-arg]
    extractor = AutoFeatureExtractor.from_pretrained(write(format_of_modality("speech").processor(recipe, tmp_path), tmp_path))
    assert extractor.sampling_rate == 8000
    with pytest.raises(ValueError, match="sampling rate"):
        extractor([np.zeros(100)], sampling_rate=RATE)


def views(size: int, shape: tuple[int, int], folder: Path) -> tuple[np.ndarray, np.ndarray, Processor]:
    """Return the view of a picture of coarse noise, (width, height) = shape, as transformers and as this project makes it."""
    from transformers import AutoImageProcessor

    recipe: Any = replace(vision_base(), frontend=replace(vision_base().frontend, image_size=size))  # type: ignore[call-arg]
    processor = format_of_modality("vision").processor(recipe, folder)
    loaded = AutoImageProcessor.from_pretrained(write(processor, folder))
    noise = np.random.default_rng(0).integers(0, 256, (shape[1] // 16, shape[0] // 16, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(shape, Image.Resampling.BICUBIC)
    return loaded([image], return_tensors="np")["pixel_values"][0], normalise(torch.from_numpy(center_view(image, size))).numpy(), processor


@pytest.mark.parametrize(("size", "side"), [(224, 256), (112, 128), (96, 110)])
def test_a_square_image_of_the_processors_size_gives_the_same_pixels_within_1e_6(size: int, side: int, tmp_path: Path) -> None:
    theirs, ours, processor = views(size, (side, side), tmp_path)
    np.testing.assert_allclose(theirs, ours, atol=1e-6)
    assert not any("half a pixel" in note for note in processor.notes)


def test_another_image_differs_by_what_the_model_card_says(tmp_path: Path) -> None:
    theirs, ours, processor = views(224, (500, 375), tmp_path)
    difference = np.abs(theirs - ours)
    assert 0.04 < difference.mean() < 0.08 and 0.2 < difference.max() < 0.45
    assert any("0.06 on average and by 0.33 at most" in note for note in processor.notes)


def test_a_size_with_an_odd_margin_is_noted(tmp_path: Path) -> None:
    theirs, ours, processor = views(160, (183, 183), tmp_path)
    assert processor.notes[-1] == "The margin of 23 pixels is odd, so transformers cuts half a pixel beside this project."
    assert 0.01 < np.abs(theirs - ours).mean() < 0.1


def test_without_a_tokenizer_the_card_says_so(tmp_path: Path) -> None:
    processor = format_of_modality("text").processor(text_base(), tmp_path)
    assert processor.files == {} and processor.notes == ("The run has no tokenizer, so none is here.",)


@pytest.mark.parametrize("folder", [".", "prepared"])
def test_the_tokenizer_gives_the_ids_of_this_project_between_bos_and_eos(folder: str, tiny_prepared: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    kept, out, text = tmp_path / "run" / folder, tmp_path / "out", "ba do ki  ramu."
    kept.mkdir(parents=True)
    tokenizer = Path(shutil.copy(find_tokenizer(tiny_prepared), kept))
    out.mkdir()
    processor = format_of_modality("text").processor(text_base(), tmp_path / "run")
    (out / "config.json").write_text('{"model_type": "data2vec-text"}')
    loaded = AutoTokenizer.from_pretrained(write(processor, out))
    tokens = encode(str(tokenizer), [text])[0].tolist()
    assert tokens[-1] == 2 and loaded(text)["input_ids"] == [0, *tokens] and len(tokens) > 3
    assert loaded.model_max_length == 512 and processor.notes


def test_each_modality_has_a_processor_and_its_usage_is_python(tmp_path: Path) -> None:
    assert {one.modality for one in FORMATS.values()} == MODALITIES.keys()
    for modality, recipe in (("text", text_base()), ("speech", speech_base()), ("vision", vision_base())):
        processor = format_of_modality(modality).processor(recipe, tmp_path)
        compile("\n".join(line.format(folder="x") for line in processor.usage), modality, "exec")
        assert len(processor.usage) == 4 and (PREPROCESSOR in processor.files) == (modality != "text")


def test_a_run_with_exact_padding_has_a_note_since_transformers_pads_otherwise(tmp_path: Path) -> None:
    exact: Any = replace(speech_base(), frontend=replace(speech_base().frontend, exact_padding=True))  # type: ignore[call-arg]
    processor = format_of_modality("speech").processor
    assert PADDED in processor(exact, tmp_path).notes and PADDED not in processor(speech_base(), tmp_path).notes


def test_a_model_without_pipeline_is_loaded_by_its_class() -> None:
    line = Processor({}, (), (), auto_class="AutoModelForX").load_line
    assert line == 'from transformers import AutoModelForX; model = AutoModelForX.from_pretrained("{folder}")'
