"""Text that is prepared for a probe: with the run's tokenizer, in a folder of its own. test_probe.py tests it through the command."""

from pathlib import Path

from recipes.data.shards import load_prepared
from recipes.finetune.probe_text import prepare_given_text
from tests.launching import tiny_recipe
from tests.made_up import write_book


def test_a_text_has_a_folder_of_its_own_with_the_tokenizer_of_the_run_and_is_prepared_once(tiny_prepared: Path, tmp_path: Path) -> None:
    texts = [tmp_path / name / "book.txt" for name in "ab"]
    for number, text in enumerate(texts, start=1):
        text.parent.mkdir()
        write_book(text, 100 * number)
    recipe, lines = tiny_recipe(), list[str]()
    folders = [prepare_given_text(recipe, tiny_prepared, str(text), tmp_path / "run", lines.append) for text in (*texts, texts[0])]
    assert folders[0] == folders[2] != folders[1] and {folder.parent for folder in folders} == {tmp_path / "run" / "probe"}
    assert len([line for line in lines if line.startswith("prepared ")]) == 2
    tokenizers = {(folder / "tokenizer.model").read_bytes() for folder in (*folders, tiny_prepared)}
    assert len(tokenizers) == 1
    assert load_prepared(folders[1]).fingerprint != load_prepared(folders[0]).fingerprint
