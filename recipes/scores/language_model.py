"""Language models of words for the search for a transcript: the interface, and a model of the library kenlm. kenlm is optional (the extra
`kenlm`) and is imported only when a model is loaded."""

from pathlib import Path
from typing import Any, Protocol

from recipes.errors import ConfigError, first_line


class LanguageModel(Protocol):
    """Probabilities of the next word after the words so far. Logarithms are finite and to the base 10, as in ARPA files and as
    published weights expect. A history is a value that only the model reads."""

    def start(self) -> Any:
        """Return the history before the first word."""

    def extend(self, history: Any, word: str) -> tuple[float, Any]:
        """Return the log probability of `word` after the history, and the history that includes it."""

    def finish(self, history: Any) -> float:
        """Return the log probability that the sentence ends after the history."""


class KenlmModel:
    """An n-gram model in kenlm's binary format or as ARPA text. A word that it does not contain has the model's probability of `<unk>`."""

    def __init__(self, model: Any, new_state: Any) -> None:
        self._model = model
        self._new_state = new_state

    def start(self) -> Any:
        """Return the history before the first word."""
        history = self._new_state()
        self._model.BeginSentenceWrite(history)
        return history

    def extend(self, history: Any, word: str) -> tuple[float, Any]:
        """Return the log10 probability of `word` after the history, and the history that includes it."""
        longer = self._new_state()
        return self._model.BaseScore(history, word, longer), longer

    def finish(self, history: Any) -> float:
        """Return the log10 probability of the end of the sentence."""
        return self._model.BaseScore(history, "</s>", self._new_state())


def load_language_model(path: str | Path) -> KenlmModel:
    """Read a file of kenlm: a binary one, or ARPA text, which takes longer.

    Raises: ConfigError if kenlm is not installed, if there is no such file, or if kenlm cannot read it.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ConfigError(f"{path} is no file; finetune.language_model names an ARPA file or a binary file of kenlm")
    try:
        import kenlm
    except ImportError as error:
        raise ConfigError(f"a language model needs kenlm ({first_line(error)}); install it: pip install kenlm") from error
    config = kenlm.Config()
    config.show_progress = False  # otherwise a bar on stderr for each rank
    try:
        return KenlmModel(kenlm.Model(str(path), config), kenlm.State)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"kenlm cannot read {path}: {first_line(error)}; give an ARPA file or a binary file of kenlm") from error
