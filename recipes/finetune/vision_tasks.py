"""The vision task of the fine-tuning command: classes of images. Torch-free.

Source of the numbers: data2vec's vision release, beit/README.md and run_class_finetuning.py; paper section 5.1 (data2vec.md section 10.4).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from model.config import HeadConfig
from recipes.config import OptimConfig, Recipe, RunConfig
from recipes.eval_config import EvalConfig
from recipes.finetune_config import FinetuneConfig
from recipes.labelled_config import LabelledVisionDataConfig
from recipes.supervised_config import ClassifyConfig

LAST_LR = 1e-6
"""Learning rate at the end of the cosine (run_class_finetuning.py --min_lr)."""
HEAD_SCALE = 0.001
"""Factor on the usual initial values of the head (run_class_finetuning.py --init_scale)."""


@dataclass(frozen=True)
class VisionTask:
    """The settings of a classification for networks from a certain width on."""

    min_hidden_size: int
    epochs: float
    warmup_share: float
    lr: float
    batch_size: int
    layer_decay: float
    drop_path: float
    data: LabelledVisionDataConfig
    label_smoothing: float = 0.1
    weight_decay: float = 0.05
    head_scale: float = HEAD_SCALE


PUBLISHED = LabelledVisionDataConfig(
    crop_scale=(0.08, 1.0),  # timm's create_transform
    rand_augment_ops=2,  # rand-m9-mstd0.5-inc1
    rand_augment_magnitude=27,  # of 30; timm's m9 is 9 of 10 (auto_augment.py _LEVEL_DENOM)
    erase_prob=0.25,
    mixup_alpha=0.8,
    cutmix_alpha=1.0,
)
CLASSIFY: tuple[VisionTask, ...] = (
    # ViT-L: paper. Its README leaves the warm-up open and has the rate 5e-3.
    VisionTask(1024, epochs=50, warmup_share=0.1, lr=4e-3, batch_size=1024, layer_decay=0.65, drop_path=0.25, data=PUBLISHED),
    # ViT-B: README, but for its weight decay 0, with which the release fails (fairseq issue 4333); 0.05 is BEiT's.
    VisionTask(512, epochs=100, warmup_share=0.1, lr=4e-3, batch_size=1024, layer_decay=0.65, drop_path=0.2, data=PUBLISHED),
    # Not published. Chosen by validation accuracy on 960 flowers, 5 epochs, one seed (standard error 0.018), from vision_tiny after 180
    # updates: lr 1e-3 with layer_decay 1: 0.583; with 0.75: 0.560; lr 2e-3 with 0.75: 0.562. Epochs, drop path, smoothing: not varied.
    VisionTask(
        0,
        epochs=30,
        warmup_share=0.1,
        lr=1e-3,
        batch_size=32,
        layer_decay=1.0,
        drop_path=0.1,
        data=LabelledVisionDataConfig(crop_scale=(0.2, 1.0)),
        head_scale=1.0,
    ),
)
"""Settings by the width of the network, the widest first."""
VISION_TASKS: Mapping[str, tuple[VisionTask, ...]] = {"classify": CLASSIFY}


def vision_recipe(name: str, by_width: tuple[VisionTask, ...], network: Recipe) -> Recipe:
    """Return the recipe that fine-tunes the network of the recipe `network` on a task. `name`: of the task. `by_width`: its settings, for
    the widest networks first. The tables of relative position bias stay as they were pre-trained, shared or one for each block."""
    task = next(task for task in by_width if network.model.hidden_size >= task.min_hidden_size)
    block = replace(network.model.block, drop_path=task.drop_path)
    return Recipe(
        name=f"vision_{name}",
        modality="vision",
        model=replace(network.model, hidden_dropout=0.0, attention_dropout=0.0, block=block),
        frontend=network.frontend,
        mask=network.mask,
        data=task.data,
        optim=OptimConfig(
            lr=task.lr,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=task.weight_decay,
            decay_norms_and_biases=False,
            clip_norm=0.0,
            schedule="cosine",
            final_lr_scale=LAST_LR / task.lr,
            layer_decay=task.layer_decay,
        ),
        run=RunConfig(global_batch_size=task.batch_size),
        objective=ClassifyConfig(
            head=HeadConfig(reads="mean", norm=True, hidden="none", init_std=0.02 * task.head_scale), label_smoothing=task.label_smoothing
        ),
        eval=EvalConfig(metric="accuracy"),
        finetune=FinetuneConfig(task=name, epochs=task.epochs, warmup_share=task.warmup_share),
    )
