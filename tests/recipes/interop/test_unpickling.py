"""What a user reads about a pickled file that is not loaded."""

import os
import re
from collections import UserDict
from pathlib import Path

import pytest
import torch

from recipes.interop.unpickling import UNREADABLE, complaint


class Command:
    """An object whose pickle runs a command."""

    def __reduce__(self) -> object:
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (Command(), r"^names the function \w+\.system, which is never loaded; do not use this file$"),
        (UserDict(a=1), r"^holds an object of the class collections\.UserDict, which is not loaded; save its tensors alone$"),
    ],
)
def test_what_is_not_loaded_is_named_without_torchs_advice_to_load_it_unsafely(content: object, expected: str, tmp_path: Path) -> None:
    torch.save({"a": content}, tmp_path / "a.pt")
    with pytest.raises(UNREADABLE) as caught:
        torch.load(tmp_path / "a.pt", weights_only=True)
    assert re.search(expected, complaint(caught.value))


@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"\x80\x02}q\x00."])
def test_a_damaged_file_is_to_be_copied_again(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(UNREADABLE) as caught:
        torch.load(tmp_path / "a.pt", weights_only=True)
    found = complaint(caught.value)
    assert found.startswith("is damaged or no file of torch (") and found.endswith("; copy it again") and "\n" not in found
