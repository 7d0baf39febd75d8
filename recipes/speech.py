"""Speech recipes: what data2vec learns from recordings, each number with its source. Torch-free."""

from collections.abc import Callable
from dataclasses import replace

from model.config import BlockConfig, EncoderConfig, LossConfig, SpanMaskConfig, TeacherConfig
from model.frontends.speech_config import SpeechFrontendConfig
from recipes.config import OptimConfig, Recipe, RunConfig
from recipes.data_config import SpeechDataConfig


def speech_base() -> Recipe:
    """data2vec speech, Base: Baevski et al. 2022 (arXiv 2202.03555v3) section 4.2, as released in fairseq
    examples/data2vec/config/audio/pretraining/base_librispeech.yaml. Paper: 4-gram WER on test-other 6.8 after fine-tuning on
    100 h (table 2). Not yet run here.

    deepspeed launch/pretrain_speech.py --recipe speech_base --data LibriSpeech/
    """
    return Recipe(
        name="speech_base",
        modality="speech",
        model=EncoderConfig(
            num_layers=12,  # paper section 4, Base
            hidden_size=768,
            ffn_hidden_size=3072,
            num_attention_heads=12,
            hidden_dropout=0.1,  # base_librispeech.yaml
            attention_dropout=0.1,
            activation_dropout=0.0,
            block=BlockConfig(layerdrop=0.05),  # base_librispeech.yaml
            head_layers=1,  # data2vec_audio.py: final_proj
            head_init="torch",
        ),
        frontend=SpeechFrontendConfig(),  # base_librispeech.yaml: layer_norm extractor, 5 positional convolutions
        mask=SpanMaskConfig(prob=0.65, length=10),
        teacher=TeacherConfig(
            ema_decay=0.999,
            ema_end_decay=0.9999,
            ema_anneal_end_step=30_000,
            average_top_k_layers=8,
            target="ffn",
            layer_norms=("instance",),
            shares="frontend",  # base_librispeech.yaml: ema_transformer_only, ema_layers_only
        ),
        loss=LossConfig(beta=0.0, scale=None),  # squared error over sqrt(d)
        data=SpeechDataConfig(
            min_seconds=2.0,  # base_librispeech.yaml: min_sample_size 32000
            max_seconds=20.0,  # max_sample_size 320000
            group_size=8,  # not published: fairseq crops and equalises per GPU, about 12 to 16 recordings
            heldout_fraction=0.001,  # not published
        ),
        optim=OptimConfig(
            lr=5e-4,
            betas=(0.9, 0.98),
            eps=1e-6,
            weight_decay=0.01,
            clip_norm=0.0,  # base_librispeech.yaml
            schedule="tri_stage",
            schedule_steps=400_000,
            warmup_steps=12_000,  # 3 %
            decay_steps=28_000,  # 7 %
            final_lr_scale=0.01,
        ),
        run=RunConfig(max_steps=400_000, global_batch_size=320),  # paper: 63 min; 320 recordings of LibriSpeech's mean 12.3 s are 66
    )


def speech_large() -> Recipe:
    """Large = Base with 24 layers of width 1024 (paper section 4; the published checkpoint has the same 313,276,416 parameters). Its
    optimisation was never published: rate, warm-up, clipping and dropouts are those of data2vec 2.0's large_audio_only_task.yaml. The
    teacher averages the same share of its layers as in Base. Not yet run here.

    deepspeed launch/pretrain_speech.py --recipe speech_large --data libri-light/ --deepspeed_config ds_configs/zero3_tp2_bf16.json
    """
    base = speech_base()
    return replace(
        base,
        name="speech_large",
        model=replace(
            base.model,
            num_layers=24,
            hidden_size=1024,
            ffn_hidden_size=4096,
            num_attention_heads=16,
            block=replace(base.model.block, layerdrop=0.0),  # data2vec 2.0 Large
        ),
        teacher=replace(base.teacher, average_top_k_layers=16),
        optim=replace(
            base.optim,
            lr=4e-4,
            clip_norm=1.0,
            schedule="cosine",
            schedule_steps=600_000,
            warmup_steps=10_000,
            decay_steps=0,
            final_lr_scale=0.0,
        ),
        run=replace(base.run, max_steps=600_000),
    )


def speech_tiny() -> Recipe:
    """A model that learns in minutes on two CPU cores. No number here is published: two-second crops, a narrow extractor with one norm
    over time (with a norm in every layer, short crops become so flat that the targets encode positions only), a constant teacher
    decay. The published schedule learns next to nothing at this size. docs/speech.md has the measured probe.

    deepspeed launch/pretrain_speech.py
    """
    return Recipe(
        name="speech_tiny",
        modality="speech",
        model=EncoderConfig(
            num_layers=4,
            hidden_size=192,
            ffn_hidden_size=768,
            num_attention_heads=4,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            init_std=None,  # 1/sqrt(fan_in): 0.02 is too small at this width
            head_layers=1,
            head_init="torch",
        ),
        frontend=SpeechFrontendConfig(conv_dim=64, extractor_norm="group"),
        mask=SpanMaskConfig(prob=0.65, length=10),
        teacher=TeacherConfig(
            ema_decay=0.9995,
            ema_end_decay=0.9995,
            ema_anneal_end_step=1,
            average_top_k_layers=3,
            layer_norms=("instance",),
            shares="frontend",
        ),
        loss=LossConfig(beta=0.0, scale=None),
        data=SpeechDataConfig(max_seconds=2.0, group_size=16, heldout_fraction=0.05),
        optim=OptimConfig(lr=1e-3, weight_decay=0.01, clip_norm=1.0, schedule_steps=600, warmup_steps=60),
        run=RunConfig(max_steps=600, global_batch_size=16, log_steps=25, save_steps=200, eval_steps=150, eval_samples=128),
    )


def speech_small() -> Recipe:
    """An encoder for an afternoon: about an hour on two CPU cores. No number here is published; docs/results.md has what it is worth, and
    docs/your-data.md how its numbers were found.

    deepspeed launch/pretrain_speech.py --recipe speech_small --data speech-ocean762/ --deepspeed_config ds_configs/zero3_cpu_bf16.json
    """
    tiny, updates = speech_tiny(), 8_000
    return replace(
        tiny,
        name="speech_small",
        optim=replace(tiny.optim, schedule_steps=updates, warmup_steps=300),
        run=replace(tiny.run, max_steps=updates, save_steps=500, eval_steps=1_000),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "speech_tiny": speech_tiny,
    "speech_small": speech_small,
    "speech_base": speech_base,
    "speech_large": speech_large,
}
