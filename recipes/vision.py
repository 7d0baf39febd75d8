"""Vision recipes: what data2vec learns from images, each number with its source. Torch-free."""

from collections.abc import Callable
from dataclasses import replace

from model.config import BlockConfig, BlockMaskConfig, EncoderConfig, LossConfig, TeacherConfig
from model.frontends.config import VisionFrontendConfig
from recipes.config import OptimConfig, Recipe, RunConfig
from recipes.data_config import VisionDataConfig
from recipes.masked_config import PixelsConfig
from recipes.start_config import StartConfig

UPDATES_PER_EPOCH = 1_281_167 // 2048  # ImageNet-1K's training images in the published batch


def vision_base() -> Recipe:
    """data2vec vision, ViT-B: Baevski et al. 2022 (arXiv 2202.03555v3) section 4.1, as released in data2vec_vision (a BEiT fork,
    beit/README.md: run_cyclical.py). Paper: ImageNet-1K top-1 84.2 after fine-tuning (table 1). Not yet run here. If paper and
    README disagree (drop path .2 / .25, warm-up 40 / 10 epochs), the README's value is used, since it is the command that was run.

    deepspeed launch/pretrain_vision.py --recipe vision_base --data imagenet-1k
    """
    return Recipe(
        name="vision_base",
        modality="vision",
        model=EncoderConfig(
            num_layers=12,  # paper section 4, Base
            hidden_size=768,
            ffn_hidden_size=3072,
            num_attention_heads=12,
            hidden_dropout=0.0,
            attention_dropout=0.05,  # beit/README.md
            block=BlockConfig(
                normalize_before=True,
                layernorm_epsilon=1e-6,  # beit/modeling_cyclical.py
                key_bias=False,
                layer_scale=1e-4,
                drop_path=0.25,  # beit/README.md; the paper says 0.2
                truncated_init=True,
                depth_scaled_init=True,
            ),
            head_layers=1,  # modeling_cyclical.py: lm_head after the final norm
        ),
        frontend=VisionFrontendConfig(),  # 224 pixels, patches of 16, one shared relative position bias
        mask=BlockMaskConfig(num_patches=120, min_block=16, max_block=196),  # beit/README.md
        teacher=TeacherConfig(
            ema_decay=0.9998,
            ema_end_decay=0.9998,  # constant: --ema_start_at 0
            ema_anneal_end_step=1,
            average_top_k_layers=6,  # --target_layers [6..11]
            target="block",  # --layer_results end
            layer_norms=("layer",),  # target_layer_norm_last
            average_norms=("layer",),  # --post_target_layer_norm
            shares="nothing",  # ModelEmaV2 over the whole state
        ),
        loss=LossConfig(beta=2.0, channels="mean"),
        data=VisionDataConfig(heldout_fraction=0.002),  # held-out share not published
        optim=OptimConfig(
            lr=2e-3,
            betas=(0.9, 0.999),  # AdamW's default
            eps=1e-8,
            weight_decay=0.05,
            decay_norms_and_biases=False,
            clip_norm=3.0,
            schedule="cosine",
            schedule_steps=800 * UPDATES_PER_EPOCH,  # 800 epochs
            warmup_steps=10 * UPDATES_PER_EPOCH,  # beit/README.md; the paper says 40 epochs
            final_lr_scale=5e-3,  # to 1e-5
        ),
        run=RunConfig(max_steps=800 * UPDATES_PER_EPOCH, global_batch_size=2048),
    )


def vision_large() -> Recipe:
    """ViT-L, the first 800 of the published 1,600 epochs (beit/README.md; paper: 86.6 top-1 after 1,600). vision_large_second
    is the second 800. Batch: README 4096, paper 8192. Not yet run here.

    deepspeed launch/pretrain_vision.py --recipe vision_large --data imagenet-1k --deepspeed_config ds_configs/zero3_tp2_bf16.json
    """
    base, updates = vision_base(), 1_281_167 // 4096
    return replace(
        base,
        name="vision_large",
        model=replace(
            base.model,
            num_layers=24,
            hidden_size=1024,
            ffn_hidden_size=4096,
            num_attention_heads=16,
            attention_dropout=0.15,
            block=replace(base.model.block, layer_scale=1e-5, drop_path=0.2),
        ),
        optim=replace(base.optim, lr=1e-3, schedule_steps=800 * updates, warmup_steps=80 * updates, final_lr_scale=1e-2),
        run=replace(base.run, max_steps=800 * updates, global_batch_size=4096),
    )


def vision_large_second() -> Recipe:
    """ViT-L, the second 800 of the published 1,600 epochs, from the weights of a finished run of vision_large. The teacher begins as the
    student, the rate's schedule begins again, and the EMA decay is 0.9999 (paper section 4.1; beit/README.md). Expected: 86.6 top-1 after
    fine-tuning (paper table 1). Not yet run here.

    deepspeed launch/pretrain_vision.py --recipe vision_large_second --set start.start_from=runs/vision_large --data imagenet-1k \\
        --deepspeed_config ds_configs/zero3_tp2_bf16.json
    """
    first = vision_large()
    return replace(
        first,
        name="vision_large_second",
        teacher=replace(first.teacher, ema_decay=0.9999, ema_end_decay=0.9999),  # paper section 4.1: constant
        optim=replace(first.optim, warmup_steps=40 * first.optim.schedule_steps // 800),  # beit/README.md: 40 of 800 epochs
        start=StartConfig(required=True),
    )


def vision_tiny() -> Recipe:
    """A model that learns in minutes on two CPU cores. No number here is published: 64 pixels, patches of 8, layer scale 1 and a
    small EMA decay. The published schedule learns next to nothing at this size. docs/vision.md has the measured probe.

    deepspeed launch/pretrain_vision.py
    """
    return Recipe(
        name="vision_tiny",
        modality="vision",
        model=EncoderConfig(
            num_layers=4,
            hidden_size=192,
            ffn_hidden_size=768,
            num_attention_heads=4,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            block=BlockConfig(normalize_before=True, layernorm_epsilon=1e-6, key_bias=False, layer_scale=1.0),
            init_std=None,  # 1/sqrt(fan_in): 0.02 is too small at this width
            head_layers=1,
        ),
        frontend=VisionFrontendConfig(image_size=64, patch_size=8),
        mask=BlockMaskConfig(num_patches=38, min_block=5, max_block=64),  # 60 %, as published
        teacher=TeacherConfig(
            ema_decay=0.99,
            ema_end_decay=0.999,
            ema_anneal_end_step=1_000,  # about half the run
            average_top_k_layers=3,
            target="block",
            layer_norms=("layer",),
            average_norms=("layer",),
            shares="nothing",
        ),
        loss=LossConfig(beta=2.0, channels="mean"),
        data=VisionDataConfig(crop_scale=(0.2, 1.0), heldout_fraction=0.05),
        optim=OptimConfig(
            lr=1e-3,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.05,
            decay_norms_and_biases=False,
            clip_norm=3.0,
            schedule_steps=1_800,
            warmup_steps=180,
        ),
        run=RunConfig(max_steps=1_800, global_batch_size=32, log_steps=50, save_steps=450, eval_steps=300, eval_samples=128),
    )


def vision_small() -> Recipe:
    """An encoder for an afternoon: about an hour on two CPU cores. No number here is published; docs/results.md has what it is worth, and
    docs/your-data.md how its numbers were found.

    deepspeed launch/pretrain_vision.py --recipe vision_small --data image-flowers/ --deepspeed_config ds_configs/zero3_cpu_bf16.json
    """
    tiny, updates = vision_tiny(), 10_000
    return replace(
        tiny,
        name="vision_small",
        model=replace(tiny.model, num_layers=3, hidden_size=128, ffn_hidden_size=512),
        teacher=replace(tiny.teacher, ema_anneal_end_step=updates // 2, layer_norms=("instance",)),
        optim=replace(tiny.optim, schedule_steps=updates, warmup_steps=updates // 10),
        run=replace(tiny.run, max_steps=updates, global_batch_size=64, save_steps=1_000, eval_steps=2_000, eval_samples=128),
    )


def vision_small_pixels() -> Recipe:
    """The control of vision_small: regression of masked pixels in the same network, on the same data, with as many updates."""
    small = vision_small()
    return replace(small, name="vision_small_pixels", objective=PixelsConfig())


RECIPES: dict[str, Callable[[], Recipe]] = {
    "vision_tiny": vision_tiny,
    "vision_small": vision_small,
    "vision_small_pixels": vision_small_pixels,
    "vision_base": vision_base,
    "vision_large": vision_large,
    "vision_large_second": vision_large_second,
}
