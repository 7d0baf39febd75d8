"""A kenlm file is read as it is written, and everything else is refused with one line. Where kenlm is not installed, a module that
stands for it shows how it is called."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recipes.errors import ConfigError
from recipes.scores.beam_search import WordScoring, beam_search
from recipes.scores.ctc import text_of
from recipes.scores.language_model import LanguageModel, load_language_model

ARPA = """\\data\\
ngram 1=5
ngram 2=2

\\1-grams:
-1.0\t<unk>
0\t<s>\t-0.3
-1.0\t</s>
-0.7\tbad\t-0.2
-0.9\tcab\t-0.1

\\2-grams:
-0.1\t<s> bad
-0.2\tbad cab

\\end\\
"""


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    path = tmp_path / "words.arpa"
    path.write_text(ARPA)
    return path


def test_a_kenlm_model_gives_the_log10_probabilities_of_its_file(arpa: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("kenlm")
    model: LanguageModel = load_language_model(arpa)
    first, after_bad = model.extend(model.start(), "bad")
    second, after_cab = model.extend(after_bad, "cab")
    assert (first, second) == pytest.approx((-0.1, -0.2)), "the two pairs of words"
    assert model.finish(after_cab) == pytest.approx(-0.1 - 1.0), "back-off weight of cab, then </s>"
    assert model.extend(after_bad, "dab")[0] == pytest.approx(-0.2 - 1.0), "back-off weight of bad, then <unk>"
    assert model.extend(after_bad, "cab")[0] == second, "a history stays as it is"
    assert "100" not in capfd.readouterr().err, "no progress bar"


def test_a_search_with_a_kenlm_model_finds_the_words_of_its_file(arpa: Path) -> None:
    pytest.importorskip("kenlm")
    alphabet = ("<pad>", "|", "a", "b", "c", "d")
    frames = ["b", "a", "db", "|", "cd", "a", "b"]  # two letters: equally probable
    probs_SV = np.array([[(symbol in frame) / len(frame) for symbol in alphabet] for frame in frames]) + 1e-9
    best = beam_search(np.log(probs_SV), alphabet, blank=0, beam_size=8, words=WordScoring(load_language_model(arpa), 2.0, 0.0))[0]
    assert text_of(best.ids, alphabet) == "bad cab"
    assert best.score == pytest.approx(np.log(0.25) + 2.0 * (-0.1 - 0.2 - 1.1), abs=1e-4)


@pytest.mark.parametrize("content", [b"", b"no model\n", b"\\data\\\nngram 1=x\n", bytes(range(256))])
def test_kenlm_refuses_a_file_that_is_no_model_with_one_line(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("kenlm")
    path = tmp_path / "words.arpa"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^kenlm cannot read .*words\.arpa: [^\n]*; give an ARPA file[^\n]*$"):
        load_language_model(path)


@pytest.mark.parametrize("name", [".", "absent.arpa"])
def test_a_missing_file_or_a_folder_is_refused_with_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"is no file; [^\n]*ARPA file or a binary file of kenlm$"):
        load_language_model(tmp_path / name)


def test_without_kenlm_the_line_says_what_to_install(arpa: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kenlm", None)
    with pytest.raises(ConfigError, match=r"^a language model needs kenlm \([^\n]*\); install it: pip install kenlm$"):
        load_language_model(arpa)


class StandIn:
    """Stands for kenlm.Model: a state is a list of words, and a word has minus its place in the sentence as its probability."""

    def __init__(self, path: str, config: SimpleNamespace) -> None:
        assert config.show_progress is False
        if "not a model" in Path(path).read_text():
            raise OSError(f"Cannot read model '{path}'\nmore")

    def BeginSentenceWrite(self, state: list[str]) -> None:  # noqa: N802
        state[:] = ["<s>"]

    def BaseScore(self, state: list[str], word: str, longer: list[str]) -> float:  # noqa: N802
        longer[:] = [*state, word]
        return -float(len(state))


def test_a_model_is_read_and_asked_by_the_interface_of_kenlm(arpa: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kenlm", SimpleNamespace(Model=StandIn, Config=SimpleNamespace, State=list))
    model = load_language_model(str(arpa))
    score, history = model.extend(model.start(), "bad")
    assert (score, history, model.finish(history), history) == (-1, ["<s>", "bad"], -2, ["<s>", "bad"])
    arpa.write_text("not a model")
    with pytest.raises(ConfigError, match=r"^kenlm cannot read .*: Cannot read model '[^\n]*'; give"):
        load_language_model(arpa)
