"""Scores with a search: the transcripts are the search's, the error rates are computed from them, and each batch is searched once."""

from dataclasses import replace

import pytest
import torch

from model.batch import Batch, Masks, Targets
from recipes.config import Recipe
from recipes.finetune import searched
from recipes.finetune.scoring import scoring_task
from recipes.finetune.searched import SearchedTranscripts
from recipes.finetune.speech_tasks import SPEECH_TASKS, speech_recipe
from recipes.finetune_config import FinetuneConfig
from recipes.objectives.ctc import TranscriptTask
from recipes.supervised_config import SPECIAL_LETTERS, CtcConfig
from tests.launching import tiny_recipe

ALPHABET = (*SPECIAL_LETTERS, "a", "b")
PROBABILITIES = torch.tensor([[0.6, 0, 0, 0, 0, 0.4, 0], [0.6, 0, 0, 0, 0, 0.4, 0]])
"""Two frames. Greedily both are blank; `a` is more probable, since three paths give it: .4 x .4 + 2 x .4 x .6 = .64."""


def recipe(beam_size: int) -> Recipe:
    recipe = speech_recipe("ctc", SPEECH_TASKS["ctc"], tiny_recipe("speech"))
    assert isinstance(recipe.objective, CtcConfig)
    objective = replace(recipe.objective, alphabet=ALPHABET)
    return replace(recipe, objective=objective, finetune=FinetuneConfig(beam_size=beam_size))


def one_recording() -> tuple[torch.Tensor, Batch]:
    outputs = (PROBABILITIES + 1e-9).log()[None]
    targets = Targets(torch.tensor([[ALPHABET.index("a")]]), torch.tensor([0]), torch.tensor([1]))
    inputs = torch.zeros(1, 10)
    return outputs, Batch(inputs, inputs, Masks.of(torch.zeros(1, 2, dtype=torch.bool)), None, None, 2, targets)


def test_error_rates_are_those_of_the_searched_transcripts() -> None:
    outputs, batch = one_recording()
    for beam_size, text, wer in ((1, "", 1.0), (4, "a", 0.0)):
        task = scoring_task(recipe(beam_size))
        assert isinstance(task, SearchedTranscripts)
        assert [said.text for said in task.predictions(outputs, batch)] == [text]
        assert task.metrics(task.results(outputs, batch)) == {"wer": wer, "cer": wer}


def test_a_batch_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[int]()
    monkeypatch.setattr(searched, "build_transcribe", lambda *args: lambda outputs, batch: calls.append(1) or [])
    task, (outputs, batch) = SearchedTranscripts(recipe(4)), one_recording()
    task.predictions(outputs, batch)
    assert task.predictions(outputs, batch) == [] and calls == [1]
    task.predictions(outputs.clone(), batch)
    assert calls == [1, 1]


def test_greedy_scores_equal_those_of_training() -> None:
    (outputs, batch), one = one_recording(), recipe(1)
    assert isinstance(one.objective, CtcConfig)
    assert scoring_task(one).predictions(outputs, batch) == TranscriptTask(one.objective).predictions(outputs, batch)
