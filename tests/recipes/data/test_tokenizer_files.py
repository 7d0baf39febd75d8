"""One table has the names of a tokenizer's files, and reading it imports no tokenizer library."""

import sys
from pathlib import Path

from recipes.data import shards, tokenizer, tokenizer_json
from recipes.data.tokenizer_files import FILES, JSON, MODEL, tokenizer_in
from recipes.interop.imported_tokenizer import TOKENIZER_FILES
from tests.distributed import run_command


def test_every_list_of_these_names_is_this_one() -> None:
    assert FILES == ("tokenizer.json", "tokenizer.model") == (tokenizer_json.FILE, tokenizer.MODEL) == (JSON, MODEL)
    assert tuple(shards.KEPT) == tokenizer.FILES == FILES == TOKENIZER_FILES[:2] and shards.Prepared.tokenizer == MODEL


def test_the_tokenizer_of_a_folder_is_its_first_file_of_these_names(tmp_path: Path) -> None:
    assert tokenizer_in(tmp_path) is None
    for name in (MODEL, JSON):
        (tmp_path / name).touch()
        assert tokenizer_in(tmp_path) == tmp_path / name


def test_the_module_of_the_prepared_folder_imports_no_tokenizer_library(tmp_path: Path) -> None:
    """`launch/prepare.py --help` imports it."""
    program = "import sys, recipes.data.shards; print({'sentencepiece', 'tokenizers', 'torch'} & set(sys.modules))"
    done = run_command([sys.executable, "-c", program], tmp_path, 60)
    assert (done.returncode, done.stdout.strip()) == (0, "set()"), done.stderr
