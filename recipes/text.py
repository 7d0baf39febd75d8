"""Text recipes: what data2vec learns from text, each number with its source. Torch-free."""

from collections.abc import Callable
from dataclasses import replace

from model.config import EncoderConfig, LossConfig, TeacherConfig, TokenMaskConfig
from model.frontends.config import TextFrontendConfig
from recipes.config import OptimConfig, Recipe, RunConfig
from recipes.data_config import TextDataConfig
from recipes.masked_config import MlmConfig
from recipes.settings import with_values


def text_base() -> Recipe:
    """data2vec text, Base: Baevski et al. 2022 (arXiv 2202.03555v3) sections 4.3 and 5.3, row "+ wav2vec 2.0 masking", as released
    in fairseq examples/data2vec/config/text/pretraining/base.yaml. Paper: GLUE dev average 82.9. Not yet run here.

    deepspeed launch/pretrain_text.py --recipe text_base --data wikimedia/wikipedia:20231101.en
    """
    return Recipe(
        name="text_base",
        modality="text",
        model=EncoderConfig(
            num_layers=12,  # paper section 4, Base
            hidden_size=768,  # paper section 4, Base
            ffn_hidden_size=3072,  # 4 x hidden
            num_attention_heads=12,
            hidden_dropout=0.1,  # base.yaml
            attention_dropout=0.1,  # base.yaml
            head_layers=2,  # base.yaml
        ),
        frontend=TextFrontendConfig(
            vocab_size=50265,  # RoBERTa's dictionary size; our tokenizer is sentencepiece, not GPT-2's BPE
            max_positions=512,
        ),
        mask=TokenMaskConfig(prob=0.35, length=4),  # base.yaml; the paper's main row is text_base_bert_mask
        teacher=TeacherConfig(
            ema_decay=0.999,
            ema_end_decay=0.9999,
            ema_anneal_end_step=300_000,  # base.yaml; the paper says 100k
            average_top_k_layers=10,  # paper section 4.3
            layer_norms=("layer",),  # base.yaml: layer_norm_target_layer
        ),
        loss=LossConfig(beta=4.0, scale=1.0),  # base.yaml
        data=TextDataConfig(
            tokenizer_type="bpe",
            sequence_length=512,
            break_mode="complete_doc",  # base.yaml
            heldout_fraction=0.001,  # not published
        ),
        optim=OptimConfig(
            lr=2e-4,
            betas=(0.9, 0.98),
            eps=1e-6,
            weight_decay=0.01,
            clip_norm=5.0,
            schedule="cosine",  # base.yaml; the paper's main row is tri-stage 5/80/15 %
            schedule_steps=1_000_000,
            warmup_steps=10_000,
        ),
        run=RunConfig(max_steps=1_000_000, global_batch_size=256),  # 8192 tokens x 16 GPUs = 256 x 512
    )


def text_base_bert_mask() -> Recipe:
    """Base with BERT's masks: the paper's main row (section 4.3, table 4: 82.7): 15 % of single tokens, 80/10/10, tri-stage 5/80/15 %."""
    base = text_base()
    return replace(
        base,
        name="text_base_bert_mask",
        mask=TokenMaskConfig(prob=0.15, length=1, leave_unmasked_prob=0.1, random_token_prob=0.1),
        teacher=replace(base.teacher, ema_anneal_end_step=100_000),  # paper section 4.3
        optim=replace(base.optim, schedule="tri_stage", warmup_steps=50_000, decay_steps=150_000, final_lr_scale=0.01),
    )


def text_large() -> Recipe:
    """Large = Base with RoBERTa-large's encoder. v1 text Large was never published: sizes and rate are those of data2vec 2.0's
    large_text_only_task.yaml (24/1024/16, lr 1e-4), K in Base's proportion (not published). Not yet run here."""
    base = text_base()
    return replace(
        base,
        name="text_large",
        model=replace(base.model, num_layers=24, hidden_size=1024, ffn_hidden_size=4096, num_attention_heads=16),
        teacher=replace(base.teacher, average_top_k_layers=20),
        optim=replace(base.optim, lr=1e-4),
    )


def text_tiny() -> Recipe:
    """A model that learns in minutes on two CPU cores. No number here is published: they come from small runs, of which these settings
    learn (relative positions, targets normalised over time, EMA over the embeddings too). Published settings learn nothing at
    this size. docs/text.md has the measured cloze accuracy.

    deepspeed launch/pretrain_text.py
    """
    return Recipe(
        name="text_tiny",
        modality="text",
        model=EncoderConfig(
            num_layers=3,
            hidden_size=128,
            ffn_hidden_size=512,
            num_attention_heads=4,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            init_std=None,  # 1/sqrt(fan_in): 0.02 is too small at this width
        ),
        frontend=TextFrontendConfig(vocab_size=2000, max_positions=512, positions="relative", embedding_init_std=0.1),
        mask=TokenMaskConfig(prob=0.3, length=1),
        teacher=TeacherConfig(
            ema_anneal_end_step=2_000,  # tau_n about the run's length
            average_top_k_layers=3,
            layer_norms=("instance",),
            average_norms=("layer",),
            shares="nothing",
        ),
        loss=LossConfig(beta=4.0, scale=1.0),
        data=TextDataConfig(
            tokenizer_type="unigram",
            lowercase=True,
            tokenizer_sample_megabytes=8,
            sequence_length=128,
            break_mode="none",
            heldout_fraction=0.02,
        ),
        optim=OptimConfig(lr=2e-3, weight_decay=0.01, clip_norm=5.0, schedule_steps=2_000, warmup_steps=100),
        run=RunConfig(max_steps=2_000, global_batch_size=16, log_steps=50, save_steps=500, eval_steps=250, eval_samples=256),
    )


def text_small() -> Recipe:
    """An encoder for an afternoon: about an hour on two CPU cores. No number here is published; docs/results.md has what it is worth, and
    docs/your-data.md how its numbers were found.

    deepspeed launch/pretrain_text.py --recipe text_small --data text-novels/ --deepspeed_config ds_configs/zero3_cpu_bf16.json
    """
    tiny, updates = text_tiny(), 22_000
    return replace(
        with_values(tiny, {"frontend.vocab_size": 8_000}),
        name="text_small",
        # post-LN fills in words as well, but is worse where it is fine-tuned
        model=replace(tiny.model, block=replace(tiny.model.block, normalize_before=True)),
        teacher=replace(tiny.teacher, target="block", ema_anneal_end_step=updates),
        optim=replace(tiny.optim, weight_decay=0.02, schedule_steps=updates, warmup_steps=600),
        run=replace(tiny.run, max_steps=updates, save_steps=1_000, eval_steps=2_000),
    )


def text_small_mlm() -> Recipe:
    """The control of text_small: masked language modelling in the same network, on the same data, with as many updates."""
    small = text_small()
    return replace(small, name="text_small_mlm", objective=MlmConfig(), model=replace(small.model, head_layers=1))


RECIPES: dict[str, Callable[[], Recipe]] = {
    "text_tiny": text_tiny,
    "text_small": text_small,
    "text_small_mlm": text_small_mlm,
    "text_base": text_base,
    "text_base_bert_mask": text_base_bert_mask,
    "text_large": text_large,
}
