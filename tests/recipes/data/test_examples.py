"""Examples of single values: the same as those that the pieces of training make, and what cannot be used."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import soundfile
from PIL import Image

from recipes.data.audio import decode_audio, normalize
from recipes.data.examples import ExampleMaker, ImageMaker, SpeechMaker, TextMaker
from recipes.data.images import center_view, decode_image
from recipes.data.media import UndecodableError
from recipes.data.tokenizer import BOS, EOS
from recipes.errors import ConfigError
from recipes.modalities.registry import MODALITIES
from tests.launching import tiny_recipe


def test_a_text_is_bos_its_tokens_and_eos_and_a_long_one_is_cut_and_said_so(tiny_prepared: Path) -> None:
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tiny_prepared / "tokenizer.model"))
    ids = [BOS, *tokenizer.encode("ba do ki lu"), EOS]
    for max_tokens, expected, is_cut in ((len(ids) + 1, ids, False), (len(ids), ids, False), (len(ids) - 1, ids[:-1], True)):
        made = TextMaker(max_tokens, tiny_prepared / "tokenizer.model").make("ba do ki lu")
        assert made.example.clean.tolist() == made.example.inputs.tolist() == expected and made.is_cut == is_cut
        assert not made.example.mask.any()


def test_texts_always_have_a_padding_mask(tiny_prepared: Path) -> None:
    maker = TextMaker(30, tiny_prepared / "tokenizer.model")
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
    maker: ExampleMaker = MODALITIES[modality].build_maker(recipe, tiny_prepared)
    value, rate = {"text": ("ba", None), "speech": (np.ones(2000), 8000), "vision": (np.zeros((9, 9), np.uint8), None)}[modality]
    example = maker.make(value, rate).example
    assert maker.collate([example, example]).masks.num_masked == 0 and maker.pads == (modality != "speech")
    assert maker.length(example) == {"text": 3, "speech": 4000, "vision": 0}[modality]


def test_what_cannot_be_used_is_refused(tiny_prepared: Path) -> None:
    text = TextMaker(30, tiny_prepared / "tokenizer.model")
    for value, complaint in ((b"ba", "bytes, not text"), ("", "no tokens in it"), ("\u200b", "no tokens in it")):
        with pytest.raises(UndecodableError, match=complaint):
            text.make(value)
    with pytest.raises(
        ConfigError, match=r"nowhere/tokenizer\.model: the run's tokenizer is not there; put the run's prepared folder back"
    ):
        TextMaker(30, Path("nowhere", "tokenizer.model"))
    with pytest.raises(ConfigError, match=r"^sample_rate 0: a waveform needs its rate"):
        SpeechMaker(tiny_recipe("speech").frontend, 16_000).make(np.ones(99), 0)  # type: ignore[arg-type]
