"""The task of speech recognition with the search that the section `finetune` asks for. Scores use it; the evaluations of training decode
greedily, since a search is slow.

Shapes: B batch, S frames, V symbols.
"""

from collections.abc import Sequence

from torch import Tensor

from model.batch import Batch
from recipes.config import Recipe
from recipes.finetune.transcripts import build_transcribe
from recipes.objectives.ctc import TranscriptTask
from recipes.objectives.supervised import Prediction
from recipes.supervised_config import CtcConfig


class SearchedTranscripts(TranscriptTask):
    """TranscriptTask whose transcripts, and so its error rates, come from finetune.beam_size and finetune.language_model."""

    def __init__(self, recipe: Recipe) -> None:
        """Read the language model, if there is one. Raises: ConfigError if it cannot be read."""
        assert isinstance(recipe.objective, CtcConfig)
        super().__init__(recipe.objective)
        self._transcribe = build_transcribe(recipe.objective.alphabet, recipe.finetune)
        self._last: tuple[Tensor, list[Prediction]] | None = None

    def predictions(self, outputs: Tensor, batch: Batch) -> Sequence[Prediction]:
        """Return the transcript of each recording. The search runs once for the same outputs (B, S, V), which results() needs too."""
        if self._last is None or self._last[0] is not outputs:
            self._last = outputs, self._transcribe(outputs, batch)
        return self._last[1]
