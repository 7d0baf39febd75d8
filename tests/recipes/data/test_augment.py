"""RandAugment and random erasing: functions of the caller's generator alone, without traces in torch's generators."""

import sys
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from PIL import Image

from model.frontends.config import IMAGENET_MEAN, IMAGENET_STD
from model.frontends.pixels import normalise
from recipes.data.augment import FILL, check_augmentation, rand_augment, random_erase
from recipes.data.images import pixels_of
from recipes.errors import ConfigError
from recipes.labelled_config import LabelledVisionDataConfig

OFF = LabelledVisionDataConfig()
PUBLISHED = LabelledVisionDataConfig(rand_augment_ops=2, rand_augment_magnitude=9, erase_prob=0.25)
ERASED = LabelledVisionDataConfig(erase_prob=1.0)
needs_torchvision = pytest.mark.skipif(find_spec("torchvision") is None, reason="needs the extra `vision`")


def generator(seed: int = 0) -> np.random.Generator:
    """A new generator."""
    return np.random.Generator(np.random.Philox(seed))


def picture() -> Image.Image:
    """Random colours, smooth enough that every change of RandAugment shows."""
    small = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((48, 48), Image.Resampling.BILINEAR)


def view_of(image: Image.Image) -> np.ndarray:
    """The normalised picture (C, H, W)."""
    return normalise(torch.from_numpy(pixels_of(image))).numpy()


def both(seed: int) -> tuple[bytes, bytes]:
    """The bytes of a picture after RandAugment, and after erasing too."""
    rng = generator(seed)
    image = rand_augment(picture(), PUBLISHED, rng)
    return image.tobytes(), random_erase(view_of(image), PUBLISHED, rng).tobytes()


@needs_torchvision
def test_changes_depend_on_the_callers_generator_and_not_on_torchs() -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        results.append([both(number) for number in range(20)])
    assert results[0] == results[1]
    assert len(set(results[0])) > 15


@needs_torchvision
def test_changes_leave_the_generators_of_torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout of the training process draws from them, on the CPU and on devices."""
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    before = torch.get_rng_state()
    both(0)
    random_erase(view_of(picture()), ERASED, generator())
    assert torch.equal(torch.get_rng_state(), before) and seeded == []


@pytest.mark.slow
@needs_torchvision
def test_a_worker_process_makes_the_same_picture() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(both, 3).result(timeout=120) == both(3)


@needs_torchvision
def test_rand_augment_makes_the_requested_number_of_changes_of_the_requested_strength() -> None:
    def changed(ops: int, magnitude: int) -> list[float]:
        data = LabelledVisionDataConfig(rand_augment_ops=ops, rand_augment_magnitude=magnitude)
        differences = [np.asarray(rand_augment(picture(), data, generator(seed)), float) - np.asarray(picture()) for seed in range(60)]
        return [abs(difference).mean() for difference in differences]

    assert np.mean(changed(1, 2)) < np.mean(changed(1, 9)) < np.mean(changed(1, 30))
    assert np.mean(changed(1, 9)) < np.mean(changed(4, 9))


@needs_torchvision
def test_what_a_shifted_picture_leaves_empty_is_0_after_normalisation_within_half_a_level() -> None:
    levels = (np.array(FILL) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    assert (abs(levels) < 0.5 / 255 / np.array(IMAGENET_STD) + 1e-9).all()
    strong = LabelledVisionDataConfig(rand_augment_ops=1, rand_augment_magnitude=30)
    corners = [rand_augment(Image.new("RGB", (48, 48), "white"), strong, generator(seed)).getpixel((0, 47)) for seed in range(60)]
    assert tuple(FILL) in corners and (0, 0, 0) in corners, "empty, and solarised"


@needs_torchvision
@pytest.mark.parametrize("seed", range(10))
def test_erasing_replaces_one_rectangle_by_noise_and_nothing_else(seed: int) -> None:
    view_CHW = np.full((3, 64, 64), 7, np.float32)
    erased_CHW = random_erase(view_CHW, ERASED, generator(seed))
    assert (view_CHW == 7).all() and erased_CHW.dtype == np.float32
    is_erased_HW = (erased_CHW != 7).all(0)
    rows, columns = np.flatnonzero(is_erased_HW.any(1)), np.flatnonzero(is_erased_HW.any(0))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert is_erased_HW.sum() == height * width == (erased_CHW != 7).any(0).sum()
    assert 0.015 < height * width / 64**2 < 0.34 and 0.28 < height / width < 3.5
    noise = erased_CHW[:, is_erased_HW]
    assert abs(noise.mean()) < 5 / noise.size**0.5 and abs(noise.std() - 1) < 5 / noise.size**0.5


@needs_torchvision
def test_erasing_has_the_requested_probability_within_5_standard_errors() -> None:
    view_CHW = np.zeros((3, 16, 16), np.float32)
    erased = [random_erase(view_CHW, PUBLISHED, generator(seed)).any() for seed in range(800)]
    assert abs(np.mean(erased) - 0.25) < 5 * (0.25 * 0.75 / 800) ** 0.5


@needs_torchvision
def test_the_random_numbers_that_follow_do_not_depend_on_what_is_switched_on() -> None:
    following = []
    for data in (OFF, PUBLISHED, ERASED):
        rng = generator(5)
        random_erase(view_of(rand_augment(picture(), data, rng)), data, rng)
        following.append(rng.random())
    assert len(set(following)) == 1


def test_without_augmentation_nothing_changes_and_torchvision_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    break_torchvision(monkeypatch, ImportError("No module named 'torchvision'"))
    image, view_CHW = picture(), view_of(picture())
    check_augmentation(OFF)
    assert rand_augment(image, OFF, generator()) is image and random_erase(view_CHW, OFF, generator()) is view_CHW


@needs_torchvision
def test_a_torchvision_that_can_be_imported_is_accepted() -> None:
    check_augmentation(PUBLISHED)


@pytest.mark.parametrize(
    ("error", "data", "expected"),
    [
        (
            ModuleNotFoundError("No module named 'torchvision'"),
            PUBLISHED,
            "data.rand_augment_ops 2 and data.erase_prob 0.25: torchvision cannot be imported (No module named 'torchvision'); "
            "install the extra `vision` from the index that torch came from, or --set data.rand_augment_ops=0 --set data.erase_prob=0",
        ),
        (
            RuntimeError("operator torchvision::nms does not exist\nmore"),
            ERASED,
            "data.erase_prob 1: torchvision cannot be imported (operator torchvision::nms does not exist); "
            "install the extra `vision` from the index that torch came from, or --set data.erase_prob=0",
        ),
    ],
)
def test_a_torchvision_that_is_missing_or_of_another_build_is_one_line_with_the_settings_and_the_remedy(
    error: Exception, data: LabelledVisionDataConfig, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_torchvision(monkeypatch, error)
    with pytest.raises(ConfigError) as caught:
        check_augmentation(data)
    assert str(caught.value) == expected


def break_torchvision(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let every import of torchvision raise `error`."""

    class Broken:
        def find_spec(self, name: str, *args: object) -> None:
            if name.partition(".")[0] == "torchvision":
                raise error

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
