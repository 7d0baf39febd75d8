"""The speech tasks of the fine-tuning command: transcripts and classes of the user's own data, and the published configurations for
LibriSpeech. Torch-free.

Source of the numbers: fairseq examples/wav2vec/config/finetuning (data2vec.md section 10.2). Unlike there, the input is normalised as in
pre-training: fairseq's README and code require task.normalize=true for data2vec, although base_*.yaml have false. In units, time_mask_prob
and channel_mask_prob are the values of these files: share of the positions, if no spans overlapped.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from model.config import EncoderConfig, HeadConfig
from model.frontends.speech_config import SpeechFrontendConfig
from recipes.config import GuardConfig, OptimConfig, Recipe, RunConfig
from recipes.eval_config import EvalConfig
from recipes.finetune.text_tasks import NARROW, NARROW_LR
from recipes.finetune_config import FinetuneConfig
from recipes.labelled_config import LabelledSpeechDataConfig
from recipes.supervised_config import ClassifyConfig, CtcConfig, SupervisedConfig

SAMPLE_RATE = 16_000
MEAN_SECONDS = 12.3
"""Mean length of LibriSpeech's training recordings, as in recipes/speech.py."""


@dataclass(frozen=True)
class SpeechTask:
    """A speech task: its labels, its metric, its length and its published numbers."""

    objective: SupervisedConfig
    label_column: str
    metric: str
    lr: float
    batch_size: int
    name: str = ""
    """Name of the published configuration; "" for the user's own data."""
    epochs: float = 0.0
    max_steps: int = 0
    """Length: passes over the data, or updates."""
    time_mask_prob: float = 0.0
    channel_mask_prob: float = 0.0
    hidden_dropout: float = 0.0
    activation_dropout: float = 0.0
    layerdrop: float = 0.0
    schedule: Literal["tri_stage", "linear"] = "tri_stage"

    @property
    def goal(self) -> Literal["min", "max"]:
        """Whether a larger metric is better."""
        return "min" if self.metric == "wer" else "max"

    def optim(self, encoder: EncoderConfig) -> OptimConfig:
        """Return the recipe's section `optim`: with max_steps warm-up 10 %, constant 40 % and decay 50 %; with epochs their numbers follow
        from the data. A narrow network gets a larger rate than the published ones, which are for 768 channels and more."""
        rate = self.lr if self.name or encoder.hidden_size >= NARROW else NARROW_LR
        is_tri_stage = self.schedule == "tri_stage"
        steps = self.max_steps
        given: dict[str, Any] = {"schedule_steps": steps, "warmup_steps": steps // 10, "decay_steps": steps // 2} if steps else {}
        return OptimConfig(
            lr=rate,
            betas=(0.9, 0.98),
            eps=1e-8,
            weight_decay=0.0,
            clip_norm=0.0,
            schedule=self.schedule,
            final_lr_scale=0.05 if is_tri_stage else 0.0,
            **given,
        )

    def run(self) -> RunConfig:
        """Return the recipe's section `run`. With epochs, lengths and intervals follow from the data."""
        run = RunConfig(global_batch_size=self.batch_size)
        return replace(run, max_steps=self.max_steps, eval_steps=1_000, save_steps=1_000) if self.max_steps else run


def _ctc(frozen_steps: int = 0) -> CtcConfig:
    """Return the published objective: one linear layer over letters, and convolutions that are never trained (feature_grad_mult 0).
    `frozen_steps`: freeze_finetune_updates. The head starts with transformers' 0.02; fairseq's starts with Xavier's uniform values."""
    return CtcConfig(head=HeadConfig(reads="positions", hidden="none"), frozen="features", frozen_steps=frozen_steps)


SPEECH_TASKS: Mapping[str, SpeechTask] = {
    "ctc": SpeechTask(
        _ctc(),
        "text",
        "wer",
        lr=5e-5,
        batch_size=32,
        epochs=20.0,
        time_mask_prob=0.5,  # base_960h.yaml, whose masks are the weakest of the published ones
        channel_mask_prob=0.1,
        activation_dropout=0.1,
    ),
    "classify": SpeechTask(
        # transformers Data2VecAudioForSequenceClassification: projector to classifier_proj_size, mean, classifier; the mean before a linear
        # layer is the mean after it
        ClassifyConfig(head=HeadConfig(reads="mean", hidden="linear", hidden_size=256), frozen="features"),
        "label",
        "accuracy",
        lr=3e-5,  # paper section 5.2 (AudioSet): encoder 3e-5
        batch_size=32,
        epochs=10.0,
        hidden_dropout=0.1,  # transformers' Data2VecAudioConfig
        activation_dropout=0.1,
        schedule="linear",
    ),
}


def published_batch(samples_per_gpu: int, gpus: int, accumulation: int) -> int:
    """Return the global batch, in recordings, of a published one that is counted in samples of audio: `samples_per_gpu` on each of `gpus`
    in each of `accumulation` micro-batches. It is assumed that recordings have LibriSpeech's mean length (MEAN_SECONDS) and that nothing is
    padded; the result is rounded to a multiple of 8. 3.2 million samples x 2 GPUs x 4 are 1,600 s, and so 128 recordings. For other data
    give run.global_batch_size."""
    recordings = samples_per_gpu * gpus * accumulation / SAMPLE_RATE / MEAN_SECONDS
    return 8 * round(recordings / 8)


BASE, LARGE = published_batch(3_200_000, 2, 4), published_batch(1_280_000, 4, 5)
_TABLE = {
    # name: batch, updates, lr, time p, channel p, layerdrop, freeze_finetune_updates
    "base_10m": (BASE, 13_000, 5e-5, 0.65, 0.25, 0.1, 10_000),
    "base_1h": (BASE, 13_000, 5e-5, 0.65, 0.25, 0.1, 10_000),
    "base_10h": (BASE, 20_000, 5e-5, 0.65, 0.5, 0.05, 10_000),
    "base_100h": (BASE, 80_000, 3e-5, 0.65, 0.5, 0.1, 0),
    "base_960h": (published_batch(3_200_000, 8, 1), 320_000, 1e-4, 0.5, 0.1, 0.1, 0),
    "vox_10m": (LARGE, 13_000, 1e-4, 0.65, 0.25, 0.1, 10_000),
    "vox_1h": (LARGE, 13_000, 3e-4, 0.75, 0.25, 0.1, 10_000),
    "vox_10h": (LARGE, 20_000, 1e-4, 0.75, 0.25, 0.1, 10_000),
    "vox_100h": (LARGE, 80_000, 3e-5, 0.5, 0.5, 0.1, 10_000),
    "vox_960h": (published_batch(1_280_000, 24, 1), 320_000, 3e-5, 0.5, 0.25, 0.1, 10_000),
}


def _published(name: str) -> SpeechTask:
    batch, steps, rate, time, channels, layerdrop, freeze = _TABLE[name]
    own = replace(SPEECH_TASKS["ctc"], name=name, epochs=0.0, objective=_ctc(freeze), lr=rate, batch_size=batch, max_steps=steps)
    return replace(own, time_mask_prob=time, channel_mask_prob=channels, layerdrop=layerdrop)


PUBLISHED: Mapping[str, Mapping[str, SpeechTask]] = {"ctc": {name: _published(name) for name in _TABLE}}
"""The published configurations of each task. base_*: for Base, vox_*: for Large, each by the labelled part of LibriSpeech."""


def speech_recipe(name: str, task: SpeechTask, network: Recipe) -> Recipe:
    """Return the recipe that fine-tunes the network of the recipe `network` on a task. `name`: of the task.

    The settings under which a recording gives the same outputs alone and padded are on, although they may be off in pre-training, whose
    groups of equal lengths have no padding. They are accepted as changes, since they alter nothing where there is no padding.
    """
    assert isinstance(network.frontend, SpeechFrontendConfig)
    frontend = replace(network.frontend, exact_padding=True, exact_statistics=True)
    changed = [f"frontend.{one.name}" for one in fields(frontend) if getattr(frontend, one.name) != getattr(network.frontend, one.name)]
    model = replace(
        network.model,
        hidden_dropout=task.hidden_dropout,
        attention_dropout=0.0,
        activation_dropout=task.activation_dropout,
        block=replace(network.model.block, layerdrop=task.layerdrop),
    )
    return Recipe(
        name="_".join(filter(None, ("speech", name, task.name))),
        modality="speech",
        model=model,
        frontend=frontend,
        mask=network.mask,
        data=LabelledSpeechDataConfig(
            label_column=task.label_column,
            sample_rate=network.data.sample_rate,  # type: ignore[attr-defined]
            time_mask_prob=task.time_mask_prob,
            channel_mask_prob=task.channel_mask_prob,
            channel_mask_length=min(LabelledSpeechDataConfig.channel_mask_length, max(1, model.hidden_size // 12)),
        ),
        optim=task.optim(model),
        run=replace(task.run(), accept_changes=tuple(changed)),
        guard=GuardConfig(),
        objective=task.objective,
        eval=EvalConfig(metric=task.metric, goal=task.goal),
        finetune=FinetuneConfig(task=name, epochs=task.epochs, warmup_share=0.1, decay_share=0.5),
    )
