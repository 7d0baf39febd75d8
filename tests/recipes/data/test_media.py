"""Items that are files, and the treatment of items that cannot be decoded."""

import errno
from pathlib import Path

import numpy as np
import pytest

from recipes.data.media import BadItem, Files, UndecodableError, allowed_bad, decoding, first_good, format_bad_items
from recipes.errors import ConfigError


def fill(folder: Path, *names: str) -> Path:
    """Create files whose content is their own name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def decode(content: bytes) -> str:
    """Decode text. Content that begins with x is undecodable."""
    if content.startswith(b"x"):
        raise UndecodableError("it begins with x")
    return content.decode()


def test_first_good_skips_bad_items_in_the_given_order(tmp_path: Path) -> None:
    fill(tmp_path, "a.wav", "x.wav")
    media = Files("data", str(tmp_path), ["a.wav", "x.wav", "gone.wav"])
    assert first_good(media, [0, 1], decode) == ("a.wav", 0, [])
    reasons = {str(tmp_path / "gone.wav"): "No such file or directory", str(tmp_path / "x.wav"): "it begins with x"}
    bad = [BadItem(path, reason, path) for path, reason in reasons.items()]
    assert first_good(media, [2, 1, 0], decode) == ("a.wav", 0, bad)
    with pytest.raises(ConfigError, match=r"data: none of 2 items can be decoded: .*gone\.wav \(No such file or directory\), .*x\.wav"):
        first_good(media, [2, 1], decode)


def test_other_errors_of_a_decoder_are_not_swallowed(tmp_path: Path) -> None:
    media = Files("data", str(fill(tmp_path, "a.wav")), ["a.wav"])
    with pytest.raises(ZeroDivisionError):
        first_good(media, [0], lambda content: 1 // 0)


def test_ten_bad_items_are_named_and_the_rest_counted() -> None:
    bad = [BadItem(f"{i}.wav", "empty file") for i in range(12)]
    assert format_bad_items(bad[:2]) == "0.wav (empty file), 1.wav (empty file)"
    assert format_bad_items(bad).endswith("9.wav (empty file) and 2 more") and "10.wav" not in format_bad_items(bad)


def test_a_file_name_that_is_not_utf_8_can_be_printed(tmp_path: Path) -> None:
    media = Files("data", str(tmp_path), ["caf\udce9.wav"])
    with pytest.raises(ConfigError, match=r"caf\\udce9\.wav"):
        first_good(media, [0], decode)


@pytest.mark.parametrize(
    "error", [ValueError("one\ntwo"), MemoryError(), KeyError("x"), OSError("image file is truncated"), RuntimeError("")]
)
def test_any_error_of_a_decoder_becomes_an_undecodable_error_of_one_line(error: Exception) -> None:
    with pytest.raises(UndecodableError) as caught, decoding():
        raise error
    assert str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), ConfigError("x"), UndecodableError("x"), KeyboardInterrupt()])
def test_errors_that_do_not_come_from_a_decoder_are_not_changed(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, decoding():
        raise error
    assert caught.value is error


def test_items_of_one_file_have_one_origin_for_every_path_to_it(tmp_path: Path) -> None:
    fill(tmp_path, "a.wav", "b.wav")
    (tmp_path / "c.wav").symlink_to("a.wav")
    media = Files("data", str(tmp_path), ["a.wav", "./a.wav", "c.wav", str(tmp_path / "a.wav"), "b.wav", "gone.wav"])
    assert [media.origin(i) for i in range(6)] == [
        str(tmp_path / name) for name in ("a.wav", "a.wav", "a.wav", "a.wav", "b.wav", "gone.wav")
    ]


@pytest.mark.parametrize(
    ("num_items", "max_fraction", "allowed"),
    [
        (1000, 0.01, 10),
        (1000, 0.0101, 10),
        (299, 0.01, 3),
        (57, 0.01, 3),
        (12, 0.01, 3),
        (11, 0.01, 2),
        (4, 0.01, 1),
        (3, 0.01, 0),
        (10, 1.0, 10),
        (57, 0.0, 0),
    ],
)
def test_a_share_of_the_items_may_be_bad_and_a_few_of_a_small_data_set(num_items: int, max_fraction: float, allowed: int) -> None:
    assert allowed_bad(num_items, max_fraction) == allowed


def test_a_bad_item_has_its_file_beside_the_name_that_the_user_reads(tmp_path: Path) -> None:
    fill(tmp_path, "x.wav", "a.wav")
    paths, segments_N2 = ["x.wav", "caf\udce9.wav", "a.wav"], np.full((3, 2), np.nan)
    segments_N2[0] = 0.5, 1.0
    _, _, bad = first_good(Files("data", str(tmp_path), paths, segments_N2=segments_N2), range(3), decode)
    assert [(item.where, item.file) for item in bad] == [
        (f"{tmp_path}/x.wav 0.500 to 1.500 s", f"{tmp_path}/x.wav"),
        (f"{tmp_path}/caf\\udce9.wav", f"{tmp_path}/caf\udce9.wav"),
    ]
