"""load_encoder: features equal those of transformers, without a launcher or process groups, and mistakes are one line."""

import json
import os
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file

from model.frontends.pixels import normalise
from recipes.data.text import TextExample
from recipes.errors import ConfigError
from recipes.interop import load_encoder
from tests.distributed import run_command, run_distributed
from tests.launching import ROOT
from tests.recipes.interop.hf_copies import CASES, GOLDEN, copy_golden, text_model_with, word_level

OLD_RUNS = ROOT / "tests" / "old_runs"
TEXTS = ["ba do ki", "lu me no pa ri su te", "ba"]
PROGRAM = f"""
from recipes.interop import load_encoder
import torch.distributed as dist
encoder = load_encoder({str(OLD_RUNS / "text" / "run")!r})
before = encoder.embed(["ba do", "ki"])
assert not dist.is_initialized()
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
assert before.equal(encoder.embed(["ba do", "ki"])), "also in a world of the caller's"
dist.destroy_process_group()
assert before.equal(encoder.embed(["ba do", "ki"])) and not dist.is_initialized()
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Modality -> Hugging Face directory."""
    torch.set_num_threads(1)  # as in tests of model/: several threads for tiny tensors wait for each other on a busy machine
    place = tmp_path_factory.mktemp("hf")
    return {modality: copy_golden(modality, place / modality) for modality in CASES}


def values(modality: str) -> tuple[list[Any], dict[str, Any]]:
    """Return three values of different lengths, and the keyword arguments that they need."""
    rng = np.random.default_rng(0)
    waveforms = [rng.standard_normal(length, dtype=np.float32) for length in (4000, 2500, 4000)]
    images = [rng.integers(0, 256, (40, width, 3), dtype=np.uint8) for width in (40, 70, 30)]
    return {"text": (TEXTS, {}), "speech": (waveforms, {"sample_rate": 16_000}), "vision": (images, {})}[modality]


def test_every_layer_and_pooling_of_text_equals_the_golden_hidden_states_within_1e_5(folders: dict[str, Path]) -> None:
    encoder, io = load_encoder(folders["text"]), load_file(GOLDEN / "text" / "io.safetensors")
    keep_BS = io["in.attention_mask"].bool()
    ids = [ids_S[keep_S].numpy() for ids_S, keep_S in zip(io["in.input_ids"], keep_BS, strict=True)]
    features = encoder.features([TextExample(one, one, np.zeros(len(one), bool)) for one in ids])
    assert encoder.num_layers == 4 and features.num_layers == 4
    blocks = [io[f"out.hidden_states.{number}"] for number in range(5)]
    for layer, expected_BSD in [*enumerate(blocks), ("last", blocks[-1]), ("mean", torch.stack(blocks[1:]).mean(0))]:
        mean_BD = (expected_BSD * keep_BS[..., None]).sum(1) / keep_BS.sum(1, keepdim=True)
        torch.testing.assert_close(features.pooled(layer, "mean"), mean_BD, atol=1e-5, rtol=0)
        torch.testing.assert_close(features.pooled(layer, "cls"), expected_BSD[:, 0], atol=1e-5, rtol=0)
        for own, whole, keep in zip(features.pooled(layer, "none"), expected_BSD, keep_BS, strict=True):
            torch.testing.assert_close(own, whole[keep], atol=1e-5, rtol=0)


@pytest.mark.parametrize("modality", CASES)
def test_features_equal_those_of_transformers_on_the_same_weights_within_1e_5(modality: str, folders: dict[str, Path]) -> None:
    import transformers

    name = {"text": "Data2VecTextModel", "speech": "Data2VecAudioModel", "vision": "Data2VecVisionModel"}[modality]
    model = getattr(transformers, name).from_pretrained(folders[modality]).eval()
    encoder, (given, options) = load_encoder(folders[modality]), values(modality)
    for value in given:
        example = encoder.maker.make(value, **options).example
        inputs = encoder.maker.collate([example]).inputs
        inputs = normalise(inputs) if modality == "vision" else inputs  # transformers reads normalised pixels
        with torch.no_grad():
            hidden = model(inputs, output_hidden_states=True).hidden_states
        features, prefix = encoder([value], **options), int(modality == "vision")
        for layer, whole_BSD in [*enumerate(hidden), ("last", hidden[-1]), ("mean", torch.stack(hidden[1:]).mean(0))]:
            torch.testing.assert_close(features.pooled(layer, "mean"), whole_BSD[:, prefix:].mean(1), atol=1e-5, rtol=0)
            torch.testing.assert_close(features.pooled(layer, "none")[0], whole_BSD[0, prefix:], atol=1e-5, rtol=0)
            if modality != "speech":
                torch.testing.assert_close(features.pooled(layer, "cls"), whole_BSD[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("modality", CASES)
def test_one_by_one_in_batches_and_by_embed_give_the_same_within_1e_5(modality: str, folders: dict[str, Path]) -> None:
    encoder, (given, options) = load_encoder(folders[modality]), values(modality)
    whole = encoder(given, **options)
    assert whole.last.shape[0] == 3 and not whole.last.requires_grad
    for pool in ("mean", "none"):
        alone = [encoder([value], **options).pooled(2, pool)[0] for value in given]
        for found in (whole.pooled(2, pool), *(encoder.embed(given, layer=2, pool=pool, batch_size=size, **options) for size in (1, 2))):
            for one, other in zip(found, alone, strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_paths_arrays_and_pictures_of_one_item_are_the_same(folders: dict[str, Path], tmp_path: Path) -> None:
    waveform_T = np.random.default_rng(1).standard_normal(3000).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "a.wav", waveform_T, 8000, subtype="FLOAT")
    speech = load_encoder(folders["speech"])
    by_path, by_array = speech.embed([tmp_path / "a.wav"]), speech.embed([waveform_T], sample_rate=8000)
    assert torch.equal(by_path, by_array) and not torch.equal(by_path, speech.embed([waveform_T], sample_rate=16_000))
    pixels = np.random.default_rng(1).integers(0, 256, (50, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    one, two, three = load_encoder(folders["vision"]).embed([str(tmp_path / "a.png"), pixels, Image.fromarray(pixels)], pool="cls")
    assert torch.equal(one, two) and torch.equal(two, three)


@pytest.mark.slow
def test_a_plain_program_needs_no_process_group_and_may_make_its_own(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = run_command([sys.executable, "program.py"], tmp_path, 60, {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_the_package_imports_no_torch(tmp_path: Path) -> None:
    code = "import recipes.interop, sys; assert not {'torch', 'numpy', 'transformers', 'tokenizers'} & set(sys.modules)"
    assert run_command([sys.executable, "-c", code], tmp_path, 30, {"PYTHONPATH": str(ROOT)}).returncode == 0


def with_and_without_a_world() -> list[torch.Tensor]:
    """Call an encoder without a world, in a world of the caller's, and again without one."""
    dist.destroy_process_group()
    encoder = load_encoder(OLD_RUNS / "text" / "run")
    found = [encoder.embed(TEXTS)]
    assert not dist.is_initialized(), "nothing is left behind"
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    found.append(encoder.embed(TEXTS))
    assert dist.is_initialized(), "the caller's world stays"
    dist.destroy_process_group()
    return [*found, encoder.embed(TEXTS)]


def test_the_caller_may_make_and_destroy_a_world_between_calls() -> None:
    ((first, second, third),) = run_distributed(with_and_without_a_world, 1)
    assert torch.equal(first, second) and torch.equal(first, third)


def embedded_on_one_rank() -> torch.Tensor | None:
    """On rank 1 only, of a world of two ranks: load and call an encoder."""
    return load_encoder(OLD_RUNS / "text" / "run", weights="teacher").embed(TEXTS) if dist.get_rank() == 1 else None


def test_one_rank_of_a_world_may_load_and_call_an_encoder_alone() -> None:
    none, found = run_distributed(embedded_on_one_rank, 2)
    teacher, student = (load_encoder(OLD_RUNS / "text" / "run", weights=weights).embed(TEXTS) for weights in ("teacher", "student"))
    assert none is None
    torch.testing.assert_close(found, teacher, atol=1e-6, rtol=0)
    assert not torch.allclose(teacher, student)


def test_threads_may_share_an_encoder(folders: dict[str, Path]) -> None:
    encoder, found = load_encoder(folders["text"]), dict[int, torch.Tensor]()
    expected = encoder.embed(TEXTS)
    threads = [threading.Thread(target=lambda number=number: found.update({number: encoder.embed(TEXTS)})) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(torch.equal(one, expected) for one in found.values())


def test_loading_changes_neither_random_numbers_nor_warnings(folders: dict[str, Path]) -> None:
    torch.manual_seed(5)
    filters, expected = list(warnings.filters), torch.rand(3)
    torch.manual_seed(5)
    load_encoder(folders["text"])
    assert torch.equal(torch.rand(3), expected) and warnings.filters == filters


@pytest.mark.parametrize(
    ("modality", "given", "options", "complaint"),
    [
        ("text", "ba do", {}, r"^inputs are 'ba do': give a list of one item or more$"),
        ("text", [], {}, r"^inputs are \[\]: give a list"),
        ("text", None, {}, r"^inputs are of the class NoneType: give a list of one item or more$"),
        ("text", ["a\ud800b"], {}, r"^item 0 .*: holds half a character \(a lone surrogate\); fix it or leave it out$"),
        ("text", ["ba", 5], {}, r"^item 1: int, not text; fix it or leave it out$"),
        ("text", ["ba", " "], {}, r"^item 1 \( \): no tokens in it; fix"),
        ("text", ["ba"], {"sample_rate": 8000}, r"^sample_rate 8000: text has none to give; leave it out$"),
        ("speech", [np.zeros(9, np.float32)], {}, r"^sample_rate None: a waveform needs its rate, an integer; give sample_rate=16000"),
        ("speech", [np.zeros((2, 9), np.float32)], {"sample_rate": 8000}, r"^item 0: an array of float32 and shape \(2, 9\), not floating"),
        ("speech", [np.zeros(9, np.int16)], {"sample_rate": 8000}, r"^item 0: an array of int16 and shape \(9,\), not floating-point"),
        ("speech", [np.full(9, np.nan)], {"sample_rate": 8000}, r"^item 0: holds NaN or infinite samples"),
        ("speech", [np.full(9, 1e300)], {"sample_rate": 8000}, r"^item 0: holds NaN or infinite samples, or larger ones than float32"),
        ("speech", [np.zeros(9, np.float32)], {"sample_rate": 8000.5}, r"^sample_rate 8000\.5: a waveform needs its rate, an integer"),
        ("speech", ["a\0b.wav"], {}, r"^item 0 .*: .*; fix it or leave it out$"),
        ("speech", ["nowhere.wav"], {}, r"^item 0 \(nowhere.wav\): No such file or directory; fix it or leave it out$"),
        ("vision", [np.zeros((9, 9, 3))], {}, r"^item 0: an array of float64 and shape \(9, 9, 3\), not a path, a PIL image or uint8"),
        ("vision", np.zeros((9, 9, 3), np.uint8), {}, r"^inputs are of the class ndarray: give a list of one item or more$"),
        ("vision", [__file__], {}, r"^item 0 \(.*test_encoder.py\): not an image of a known kind"),
    ],
)
def test_a_wrong_value_is_one_line(modality: str, given: Any, options: Any, complaint: str, folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=complaint) as error:
        load_encoder(folders[modality])(given, **options)
    assert "\n" not in str(error.value)


def test_a_network_that_is_not_there_is_one_line(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^weights 'mean': must be one of student, teacher$"):
        load_encoder(folders["text"], weights="mean")
    for device in ("foo", "meta:x"):
        with pytest.raises(ConfigError, match=rf'^device {device}: .*; give device="cpu", or one that torch has$'):
            load_encoder(folders["text"], device=device)
    with pytest.raises(ConfigError, match=r"^batch_size 0: must be 1 or more$"):
        load_encoder(folders["text"]).embed(["ba"], batch_size=0)
    with pytest.raises(ConfigError, match=r"^\S*text: a Hugging Face directory has one network and no teacher; ask for the student$"):
        load_encoder(folders["text"], weights="teacher")
    with pytest.raises(ConfigError, match=r"^\S*: neither a run dir nor a checkpoint folder"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError, match=r"^\S*: has neither model.safetensors nor pytorch_model.bin"):
        load_encoder(tmp_path)


def test_a_note_about_the_model_is_a_warning_at_the_callers_line(tmp_path: Path) -> None:
    folder = copy_golden("vision", tmp_path / "hf")
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True, "image_mean": [0.5] * 3}))
    with pytest.warns(UserWarning, match=r"hf: .*image_mean \[0\.5, 0\.5, 0\.5\] \(here \[0\.485") as caught:
        load_encoder(folder)
    assert [one.filename for one in caught] == [__file__]


def test_reading_a_text_leaves_the_environment_of_the_users_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    load_encoder(text_model_with(word_level(), tmp_path / "hf")).embed(TEXTS)
    assert "TOKENIZERS_PARALLELISM" not in os.environ
