"""A fairseq checkpoint is read without its classes and without running anything in it; its settings become plain values."""

import argparse
import enum
import os
import re
import subprocess
import sys
import types
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.errors import ConfigError
from recipes.interop.fairseq_file import Inert, plain, read_fairseq_file, resolved

BOTH = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
MODEL = {"model": {"a": torch.ones(2)}}


class Reduced:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[object, ...]:
        return self._call


@pytest.fixture
def foreign() -> Iterator[types.ModuleType]:
    """A module of classes like those of fairseq and OmegaConf, which are gone when a file is read."""
    module: Any = types.ModuleType("foreign_to_recipes")
    sys.modules[module.__name__] = module
    exec(
        "import enum\n"
        "class Dictionary:\n    pass\n"
        "class DictConfig:\n    def __init__(self, content): self._content = content; self._metadata = Dictionary()\n"
        "    def __getstate__(self): return dict(vars(self))\n    def __setstate__(self, state): vars(self).update(state)\n"
        "class AnyNode:\n    def __init__(self, val): self._val = val; self._parent = None\n"
        "class Choice(enum.Enum):\n    gelu = 'gelu'\n",
        module.__dict__,
    )
    for name in ("Dictionary", "DictConfig", "AnyNode", "Choice"):
        getattr(module, name).__module__ = module.__name__
    yield module
    sys.modules.pop(module.__name__, None)


def write(path: Path, content: Any, legacy: bool) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@BOTH
def test_classes_that_are_not_there_become_inert_and_settings_plain(legacy: bool, foreign: Any, tmp_path: Path) -> None:
    model = foreign.DictConfig(
        {"layers": foreign.AnyNode(4), "activation_fn": foreign.AnyNode(foreign.Choice.gelu), "none": foreign.AnyNode(None)}
    )
    dictionary = foreign.Dictionary()
    dictionary.symbols, dictionary.indices = ["<s>", "<pad>"], {"<s>": 0}
    content = {
        **MODEL,
        "cfg": foreign.DictConfig({"model": model}),
        "args": argparse.Namespace(arch="a", lr=[0.1]),
        "task_state": {"d": dictionary},
    }
    path = write(tmp_path / "c.pt", content, legacy)
    del sys.modules["foreign_to_recipes"]
    read = read_fairseq_file(path, "--from c.pt")
    assert torch.equal(read["model"]["a"], torch.ones(2)) and isinstance(read["task_state"]["d"], Inert)
    assert plain(read["cfg"]) == {"model": {"layers": 4, "activation_fn": "gelu", "none": None}}
    assert plain(read["args"]) == {"arch": "a", "lr": [0.1]}
    assert plain(read["task_state"])["d"]["symbols"] == ["<s>", "<pad>"]


@BOTH
def test_containers_and_numbers_of_other_libraries_do_not_prevent_reading(legacy: bool, tmp_path: Path) -> None:
    metrics = defaultdict(list, {"loss": [1.0]})
    path = write(
        tmp_path / "c.pt", {**MODEL, "extra_state": {"metrics": metrics, "best": np.float64(0.5), "lengths": np.arange(3)}}, legacy
    )
    read = read_fairseq_file(path, "--from c.pt")
    assert read["extra_state"]["metrics"] == {"loss": [1.0]} and torch.equal(read["model"]["a"], torch.ones(2))


@BOTH
@pytest.mark.parametrize("function", [os.system, os.mkdir, subprocess.run, eval, print], ids=lambda one: one.__name__)
def test_nothing_in_the_file_is_run(function: Any, legacy: bool, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    made = tmp_path / "made"
    argument = {"eval": f"__import__('os').mkdir({str(made)!r})", "mkdir": str(made)}.get(function.__name__, f"mkdir {made}")
    path = write(tmp_path / "c.pt", {**MODEL, "extra_state": Reduced(function, argument)}, legacy)
    try:
        read = read_fairseq_file(path, "--from c.pt")
        assert isinstance(read["extra_state"], Inert) and plain(read["extra_state"]) == argument
    except ConfigError as error:  # torch loads nothing of some modules
        assert re.search(r"^--from c\.pt: names the function \w+\.\w+, which is never loaded; do not use this file$", str(error))
        assert function in (os.system, os.mkdir)
    assert not made.exists() and capfd.readouterr().out == ""


@pytest.mark.parametrize("content", [torch.ones(2), {"state_dict": {}}, {"model": torch.ones(1)}, [1]])
def test_another_file_of_torch_is_no_fairseq_checkpoint(content: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--from c: is no fairseq checkpoint, which has a dictionary `model`"):
        read_fairseq_file(write(tmp_path / "c.pt", content, legacy=False), "--from c")


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "zip"])
@BOTH
def test_a_damaged_file_is_refused_in_one_line(damage: str, legacy: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "c.pt", MODEL, legacy)
    content = {"text": b"hello\n", "empty": b"", "cut": path.read_bytes()[: path.stat().st_size // 2], "zip": b"PK\5\6" + bytes(18)}[damage]
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^--from c: is damaged or no file of torch \(.*\); copy it again$") as caught:
        read_fairseq_file(path, "--from c")
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_file_that_is_not_there_are_refused(tmp_path: Path) -> None:
    for path, found in ((tmp_path, "is a folder"), (tmp_path / "no.pt", "no such file")):
        with pytest.raises(ConfigError, match=f"^--from c: {found}; name a fairseq checkpoint, which is one .pt file"):
            read_fairseq_file(path, "--from c")


def test_references_are_replaced_by_their_values_also_in_several_steps() -> None:
    root = {"a": {"b": 3, "c": "${a.b}", "d": "${a.c}"}, "x": "${y}", "y": "${x}", "text": "in ${a.b} place"}
    assert resolved(root, root) == {"a": {"b": 3, "c": 3, "d": 3}, "x": "${y}", "y": "${x}", "text": "in ${a.b} place"}
    assert resolved({"q": "${no.where}"}, root) == {"q": "${no.where}"}


def test_what_has_no_plain_value_is_none() -> None:
    class Colour(enum.Enum):
        red = 1

    assert plain(Inert()) is None and plain(Inert(1, 2)) is None and plain(Inert(Inert(5))) == 5
    assert plain({"a": (1, [Inert(2)])}) == {"a": [1, [2]]} and plain(Colour.red) is Colour.red
