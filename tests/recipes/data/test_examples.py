"""Examples of single values: the same as those that the pieces of training make, and what cannot be used."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import soundfile
import torch
from PIL import Image

from recipes.data.audio import decode_audio, normalize
from recipes.data.examples import ExampleMaker, ImageMaker, SpeechMaker, TextMaker
from recipes.data.images import center_view, decode_image
from recipes.data.media import UndecodableError
from recipes.data.tokenizer import BOS, ENCODING, EOS, StoredTokenizer, encode, stored_tokenizer
from recipes.errors import ConfigError
from recipes.modalities.registry import MODALITIES
from tests.launching import tiny_recipe


def test_a_text_is_bos_its_tokens_and_eos_and_a_long_one_is_cut_and_said_so(tiny_prepared: Path) -> None:
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tiny_prepared / "tokenizer.model"))
    ids = [BOS, *tokenizer.encode("ba do ki lu"), EOS]
    for max_tokens, expected, is_cut in ((len(ids) + 1, ids, False), (len(ids), ids, False), (len(ids) - 1, ids[:-1], True)):
        made = TextMaker(max_tokens, stored_tokenizer(tiny_prepared)).make("ba do ki lu")
        assert made.example.clean.tolist() == made.example.inputs.tolist() == expected and made.is_cut == is_cut
        assert not made.example.mask.any()


def test_texts_always_have_a_padding_mask(tiny_prepared: Path) -> None:
    maker = TextMaker(30, stored_tokenizer(tiny_prepared))
    batch = maker.collate([maker.make("ba do").example] * 2)
    assert batch.padding_mask_BS is not None and not batch.padding_mask_BS.any()


def test_a_recording_is_whole_normalised_resampled_and_padded_to_a_frame(tmp_path: Path) -> None:
    recipe: Any = tiny_recipe("speech")
    maker = SpeechMaker(recipe.frontend, 16_000)
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).standard_normal(800) * 0.1, 8000)
    example = maker.make(tmp_path / "a.wav").example
    assert (
        np.array_equal(example.waveform, normalize(decode_audio((tmp_path / "a.wav").read_bytes(), 16_000)))
        and len(example.waveform) == 1600
    )
    assert len(maker.make(np.ones(3), 16_000).example.waveform) == recipe.frontend.receptive_field


def test_an_image_is_its_central_view(tmp_path: Path) -> None:
    recipe: Any = tiny_recipe("vision")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8), "RGBA").save(tmp_path / "a.png")
    expected = center_view(decode_image((tmp_path / "a.png").read_bytes()), recipe.frontend.image_size)
    maker = ImageMaker(recipe.frontend)
    with Image.open(tmp_path / "a.png") as picture:
        for value in (tmp_path / "a.png", str(tmp_path / "a.png"), picture):
            assert np.array_equal(maker.make(value).example.image, expected)
    grey = np.full((40, 50), 7, np.uint8)
    assert np.array_equal(maker.make(grey).example.image, maker.make(np.stack([grey] * 3, -1)).example.image)


def test_every_modality_has_a_maker_whose_examples_make_a_batch(modality: str, tiny_prepared: Path) -> None:
    recipe = tiny_recipe(modality)
    maker: ExampleMaker = MODALITIES[modality].build_maker(recipe, partial(stored_tokenizer, tiny_prepared))
    value, rate = {"text": ("ba", None), "speech": (np.ones(2000), 8000), "vision": (np.zeros((9, 9), np.uint8), None)}[modality]
    example = maker.make(value, rate).example
    assert maker.collate([example, example]).masks.num_masked == 0 and maker.pads == (modality != "speech")
    assert maker.length(example) == {"text": 3, "speech": 4000, "vision": 0}[modality]


def test_what_cannot_be_used_is_refused(tiny_prepared: Path) -> None:
    text = TextMaker(30, stored_tokenizer(tiny_prepared))
    for value, complaint in ((b"ba", "bytes, not text"), ("", "no tokens in it"), ("\u200b", "no tokens in it")):
        with pytest.raises(UndecodableError, match=complaint):
            text.make(value)
    with pytest.raises(ConfigError, match=r"^sample_rate 0: a waveform needs its rate"):
        SpeechMaker(tiny_recipe("speech").frontend, 16_000).make(np.ones(99), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [1, 2])
def test_a_text_is_encoded_by_the_rules_by_which_its_network_was_trained(version: int, tiny_prepared: Path) -> None:
    text = "badokilu" * 400  # more than 2,000 characters without a space, which version 1 cuts in their middle
    one, two = (encode(str(tiny_prepared / "tokenizer.model"), [text], number)[0].tolist() for number in (1, 2))
    maker = TextMaker(10_000, StoredTokenizer(stored_tokenizer(tiny_prepared).file, version))
    assert one != two and maker.of_text(text).example.clean.tolist() == [BOS, *(one if version == 1 else two)]


def test_the_tokenizer_of_a_prepared_folder_has_the_folders_version(tiny_prepared: Path, tmp_path: Path) -> None:
    assert stored_tokenizer(tiny_prepared).encoding == ENCODING
    shutil.copytree(tiny_prepared, tmp_path / "old")
    content = json.loads((tmp_path / "old" / "prepared.json").read_text())
    del content["encoding"]
    (tmp_path / "old" / "prepared.json").write_text(json.dumps(content))
    assert stored_tokenizer(tmp_path / "old").encoding == 1
    (tmp_path / "old" / "prepared.json").unlink()
    assert stored_tokenizer(tmp_path / "old").encoding == ENCODING, "an imported run, of which no text is prepared yet"


def test_a_picture_is_turned_as_its_exif_orientation_says_by_path_and_as_an_object(tmp_path: Path) -> None:
    recipe: Any = tiny_recipe("vision")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright: turn it by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=turned)
    maker = ImageMaker(recipe.frontend)
    expected = maker.make(np.rot90(pixels, -1)).example.image
    with Image.open(tmp_path / "a.png") as picture:
        assert np.array_equal(maker.make(picture).example.image, expected)
        assert picture.size == (60, 40), "the caller's picture stays as it is"
    assert np.array_equal(maker.make(tmp_path / "a.png").example.image, expected)


def test_a_picture_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with Image.open(tmp_path / "cut.png") as picture, pytest.raises(UndecodableError, match="truncated"):
        ImageMaker(tiny_recipe("vision").frontend).make(picture)  # type: ignore[arg-type]


def test_a_tensor_of_any_kind_is_taken_and_what_is_no_array_is_refused() -> None:
    speech: Any = tiny_recipe("speech")
    maker, waveform_T = SpeechMaker(speech.frontend, 16_000), torch.linspace(-1, 1, 2000)
    expected = maker.make(waveform_T.numpy(), 16_000).example.waveform
    assert np.array_equal(maker.make(waveform_T.requires_grad_(), 16_000).example.waveform, expected)
    half = maker.make(waveform_T.detach().bfloat16(), 16_000).example.waveform
    assert half.dtype == np.float32 and np.abs(half - expected).max() < 0.02
    with pytest.raises(UndecodableError, match="an array of int64"):
        maker.make(torch.ones(9, dtype=torch.int64), 16_000)
    images = ImageMaker(tiny_recipe("vision").frontend)  # type: ignore[arg-type]
    pixels = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8)
    assert np.array_equal(images.make(pixels).example.image, images.make(pixels.numpy()).example.image)
    for value in ([[1, 2], [3]], torch.eye(3).to_sparse()):
        for one, rate in ((maker, 16_000), (images, None)):
            with pytest.raises(UndecodableError, match=r"^(list|Tensor), not an array \("):
                one.make(value, rate)
