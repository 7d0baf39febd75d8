"""What is learned: the Recipe and its sections. Torch-free. Reading, storing and comparing settings: recipes/settings.py. How a run
executes (ds_configs): recipes/ds_config.py.

A field's docstring is its documentation: docs/settings.md and `--help-set` are made from it. Its bounds stand beside its type
(model/bounds.py). A later field needs a default under which older runs are unchanged, or an `Absent` value for them.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from model.bounds import LARGEST_INTEGER, PART, POSITIVE, SHARE, Bounds, at_least, between
from model.config import EncoderConfig, LossConfig, MaskConfig, TeacherConfig, TokenMaskConfig
from model.frontends.config import FrontendConfig, TextFrontendConfig
from recipes.data_config import DataConfig, TextDataConfig
from recipes.errors import ConfigError
from recipes.eval_config import EvalConfig
from recipes.finetune_config import FinetuneConfig
from recipes.masked_config import Data2VecConfig
from recipes.objective_config import ObjectiveConfig
from recipes.start_config import StartConfig


@dataclass(frozen=True)
class OptimConfig:
    """Numbers of AdamW and of the learning rate's schedule. The ds_config's `optimizer.type` chooses the implementation."""

    lr: Annotated[float, POSITIVE] = 2e-4
    """Learning rate after warm-up."""
    betas: Annotated[tuple[float, float], PART] = (0.9, 0.98)
    """AdamW's decay rates of the moment estimates."""
    eps: Annotated[float, at_least(0)] = 1e-6
    """AdamW's epsilon."""
    weight_decay: Annotated[float, at_least(0)] = 0.01
    """Decoupled weight decay (as fairseq's adam)."""
    decay_norms_and_biases: bool = True
    """True, as fairseq for text and speech: weight decay covers all parameters. False: it leaves out every 1-D parameter."""
    clip_norm: Annotated[float, at_least(0)] = 5.0
    """Largest global gradient norm; larger gradients are scaled down to it. 0: no clipping."""
    layer_decay: Annotated[float, Bounds(above=0, most=1)] = 1.0
    """Layer-wise decay of the learning rate: block i of L, counted from 1, learns with layer_decay^(L + 1 - i) times the rate, what embeds
    the input with layer_decay^(L + 1) times. A table of relative positions learns with its block, or with the full rate if all blocks
    share it (as BEiT). 1: one rate for all."""
    head_lr_scale: Annotated[float, POSITIVE] = 1.0
    """Factor on the learning rate of the head."""
    schedule: Literal["cosine", "tri_stage", "linear"] = "cosine"
    """cosine: linear warm-up from 0, then half a cosine. tri_stage: linear warm-up, constant, exponential decay. linear: linear warm-up
    from 0, then linear decay."""
    schedule_steps: Annotated[int, at_least(1)] = 1_000_000
    """Updates over which the schedule runs. Stopping earlier or later does not change the rates before."""
    warmup_steps: Annotated[int, at_least(0)] = 10_000
    """Updates of linear warm-up."""
    decay_steps: Annotated[int, at_least(0)] = 0
    """Updates of tri_stage's last stage."""
    final_lr_scale: Annotated[float, SHARE] = 0.0
    """Last learning rate as a fraction of lr. tri_stage also starts there."""

    @property
    def last_lr(self) -> float:
        """The constant learning rate that applies after schedule_steps updates."""
        return self.lr if self.schedule == "tri_stage" and self.decay_steps == 0 else self.final_lr_scale * self.lr


@dataclass(frozen=True)
class RunConfig:
    """How long a run is, how large a batch, and how often it logs, saves and evaluates."""

    seed: Annotated[int, between(0, LARGEST_INTEGER)] = 1
    """Seed of initial weights, data order, masks, augmentation and dropout."""
    max_steps: Annotated[int, at_least(1)] = 1_000_000
    """Updates after which the run is finished."""
    global_batch_size: Annotated[int, between(1, 2**20)] = 256
    """Samples of one update, over all ranks and micro-batches."""
    log_steps: Annotated[int, at_least(1)] = 100
    """Updates from one line of metrics.jsonl to the next."""
    save_steps: Annotated[int, at_least(1)] = 5_000
    """Updates from one checkpoint to the next."""
    eval_steps: Annotated[int, at_least(1)] = 5_000
    """Updates from one evaluation on held-out data to the next."""
    eval_samples: Annotated[int, at_least(0)] = 1_024
    """Most held-out samples of an evaluation. One that measures labels (fine-tuning) reads all of them."""
    deterministic: bool = False
    """True: torch uses deterministic kernels on CUDA. Runs on a CPU repeat bit for bit anyway."""
    products: Literal["auto", "mm", "onednn", "mixed"] = "auto"
    """Library of float32 matrix products on a CPU. mm: torch.mm (MKL). onednn: oneDNN, faster on AMD's processors. mixed: oneDNN, but MKL
    for the gradients of weights. auto: onednn if all ranks have AMD processors of family 26 (Zen 5) or later, mixed if older ones, else mm.
    A run keeps its library when it continues, unless another one is named."""
    wandb: Literal["off", "offline", "online"] = "off"
    """offline or online: metrics also go to wandb."""
    max_minutes: Annotated[float, at_least(0)] = 0.0
    """The run saves and exits with code 75 at the first update after this many minutes. 0: no limit."""
    hang_seconds: Annotated[float, at_least(0)] = 540.0
    """Seconds without an update or other progress that count as a hang. Stacks are written, the straggling rank is named, the run
    ends. 0: never. Keep it below the 600 s after which NCCL ends a rank without naming one."""
    accept_changes: tuple[str, ...] = ()
    """Settings in which a resumed run may differ from the run so far, such as optim.lr,data.path."""
    profile_steps: str = ""
    """Updates whose operators each rank records, such as 10-12 or 10, counted from 1. They are written to profile/ in the run dir, for
    ui.perfetto.dev. "": none. A profiled update is slower; its numbers are the same."""
    device_tflops: Annotated[float, at_least(0)] = 0.0
    """Peak dense TFLOP/s of one device in the run's precision, by its vendor; mfu is a share of it. 0: the table of known GPUs (A100,
    H100, H200, B200, L40S and MI300X in bf16). Without either, mfu is null."""

    @property
    def profiled(self) -> range:
        """The numbers of the updates that are profiled, from 1; empty if there are none. Raises: ConfigError if profile_steps cannot be
        read."""
        if not self.profile_steps:
            return range(0)
        first, dash, last = self.profile_steps.partition("-")
        texts = (first, last) if dash else (first, first)
        if not all(text.isascii() and text.isdigit() for text in texts):
            raise ConfigError(f"run.profile_steps {self.profile_steps!r} is no span of updates; write run.profile_steps=10-12 or 10")
        start, end = (int(text) for text in texts)
        if not 1 <= start <= end:
            raise ConfigError(f"run.profile_steps {self.profile_steps}: updates count from 1, and the first comes first; write 10-12 or 10")
        return range(start, end + 1)


@dataclass(frozen=True)
class GuardConfig:
    """When a run ends because training is broken, and which updates are not applied. The collapse thresholds are fairseq's
    (data2vec_audio.py `min_target_var` and `min_pred_var`, which are standard deviations)."""

    min_target_std: Annotated[float, at_least(0)] = 0.1
    """Standard deviation of the targets below which the run has collapsed."""
    min_pred_std: Annotated[float, at_least(0)] = 0.01
    """Standard deviation of the predictions below which the run has collapsed."""
    after_steps: Annotated[int, at_least(0)] = 5_000
    """Updates before collapse is looked for."""
    max_skipped_in_a_row: Annotated[int, at_least(1)] = 50
    """Consecutive skipped updates that end the run (not published; the loss scale of fp16 may need a dozen to settle)."""
    spike: Literal["off", "report", "skip"] = "report"
    """What happens to an update whose loss or gradient norm is a spike. off: nothing. report: an event is written. skip: an event is
    written and the update is not applied."""
    spike_deviations: Annotated[float, at_least(1)] = 10.0
    """Robust standard deviations (1.4826 x median absolute deviation) above the median that make a spike (not published; gradient
    norms are heavy-tailed, so 3 to 6 would give false alarms)."""
    spike_window: Annotated[int, at_least(8)] = 128
    """Applied updates over which median and deviation are taken. No spike is found before there are that many."""


@dataclass(frozen=True)
class CheckpointConfig:
    """Which checkpoints stay on the disk. These settings may change each time a run is resumed."""

    keep_last: Annotated[int, at_least(1)] = 3
    """Newest checkpoints that are kept. With 2 or more, a run can fall back to an older one if the newest is damaged."""
    keep_every_steps: Annotated[int, at_least(0)] = 0
    """Checkpoints at multiples of this step are never removed. 0: none."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run learns. No number of it may stand in the ds_config."""

    name: str
    modality: str
    model: EncoderConfig = field(default_factory=EncoderConfig)
    frontend: FrontendConfig = field(default_factory=TextFrontendConfig)
    mask: MaskConfig = field(default_factory=TokenMaskConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=TextDataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    objective: ObjectiveConfig = field(default_factory=Data2VecConfig)
    start: StartConfig = field(default_factory=StartConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
