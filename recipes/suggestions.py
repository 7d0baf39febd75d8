"""Suggestions for a wrong name: what other programs call a setting, and names with similar spelling. Torch-free."""

import difflib
from collections.abc import Iterable, Sequence

FLAGS = ("--recipe", "--deepspeed_config", "--data", "--run-dir", "--set", "--dry-run", "--help-set")
"""Flags of the pre-training commands."""
CLOSE = 0.83
"""Minimum of difflib's ratio. It accepts a typing error, or a name that lacks its end."""

NAMES_ELSEWHERE = {
    "optim.lr": ("learning_rate", "base_lr", "peak_lr", "max_lr"),
    "optim.weight_decay": ("wd", "decay"),
    "optim.betas": ("adam_betas", "beta1", "beta2", "adam_beta1", "adam_beta2"),
    "optim.eps": ("adam_eps", "adam_epsilon", "epsilon"),
    "optim.clip_norm": ("grad_clip", "clip_grad", "clip", "max_grad_norm", "gradient_clip_val", "gradient_clipping"),
    "optim.warmup_steps": ("warmup", "warmup_updates", "num_warmup_steps"),
    "optim.schedule": ("scheduler", "lr_scheduler", "lr_scheduler_type"),
    "optim.schedule_steps": ("lr_decay_iters", "total_steps"),
    "run.max_steps": ("steps", "num_steps", "iters", "train_iters", "updates", "max_update", "max_train_steps", "num_train_steps"),
    "run.global_batch_size": ("batch_size", "bs", "train_batch_size", "batch"),
    "run.log_steps": ("log_interval", "logging_steps", "log_every", "print_freq"),
    "run.save_steps": ("save_interval", "save_every", "checkpoint_interval", "save_freq"),
    "run.eval_steps": ("eval_interval", "eval_every", "validate_interval"),
    "checkpoint.keep_last": ("save_total_limit", "keep_last_n"),
    "model.hidden_dropout": ("dropout",),
    "model.num_layers": ("layers", "num_hidden_layers", "encoder_layers", "depth", "n_layers"),
    "model.hidden_size": ("dim", "embed_dim", "d_model", "hidden"),
    "model.num_attention_heads": ("heads", "num_heads", "n_heads"),
    "teacher.ema_decay": ("ema", "momentum"),
    "teacher.average_top_k_layers": ("top_k", "k"),
    "mask.prob": ("mask_prob", "mask_ratio", "masking_ratio"),
    "data.num_workers": ("workers", "dataloader_num_workers"),
    "data.sequence_length": ("seq_len", "seq_length", "max_seq_length", "block_size", "max_length"),
    "data.sample_rate": ("sr", "sampling_rate"),
    "frontend.image_size": ("img_size", "input_size", "resolution"),
}
"""A setting -> what other programs call it, in lower case with underscores."""

NOT_SETTINGS = {
    "--set run.max_steps=N, in updates of run.global_batch_size samples": ("epochs", "num_epochs", "max_epochs", "num_train_epochs"),
    "--set optim.warmup_steps=N, in updates": ("warmup_ratio", "warmup_epochs"),
    "train_micro_batch_size_per_gpu in a ds_config": ("per_device_train_batch_size", "micro_batch_size", "micro_batch"),
    "run.global_batch_size, from which it is derived": ("gradient_accumulation_steps", "accumulation_steps", "accum", "update_freq"),
    "--deepspeed_config, which decides precision and devices": ("fp16", "bf16", "precision", "amp", "tp_size", "deepspeed", "config"),
    "--run-dir": ("output_dir", "out_dir", "save_dir", "output", "out", "logdir", "checkpoint_dir"),
    "the same --run-dir again, which resumes": ("resume", "resume_from_checkpoint", "restore_file", "ckpt"),
    "--data": ("data_dir", "data_path", "dataset", "dataset_name", "train_file", "input", "train_data"),
    "a launcher (deepspeed --num_gpus N launch/..., torchrun)": ("gpus", "num_gpus", "nproc_per_node", "devices", "num_nodes", "nnodes"),
}
"""What to use here -> what other programs call it, for names that are not settings of a recipe."""


def similar_names(name: str, settings: Iterable[str]) -> list[str]:
    """Return at most three of `settings` (or advice such as "--data") that the user may have meant by `name`, an unknown setting or
    flag. The likeliest is first."""
    known, plain = list(settings), name.strip("-").replace("-", "_").lower()
    last = plain.rpartition(".")[2]
    same = [one for one in known if one.rpartition(".")[2] == last]
    same += [one for one, words in (NAMES_ELSEWHERE | NOT_SETTINGS).items() if last in words and (one in known or one in NOT_SETTINGS)]
    return same[:3] or close_matches(plain, known, cutoff=0.5)


def close_matches(name: str, known: Iterable[str], cutoff: float = CLOSE) -> list[str]:
    """Return at most three of the `known` names whose spelling is similar to `name`, most similar first. `cutoff`: how similar they must
    be at least, from 0 (any name) to 1 (the same name)."""
    return difflib.get_close_matches(name, list(known), n=3, cutoff=cutoff)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean NAME? " with the one of `known` whose spelling is closest to `name`, as the beginning of a message; "" if
    none is similar."""
    near = close_matches(name.lower(), known, cutoff=0.75)
    return f"did you mean {near[0]}? " if near and near[0] != name.lower() else ""


def unknown_flag(words: Sequence[str], settings: Iterable[str], flags: Iterable[str] = FLAGS, assignments: Iterable[str] = ()) -> str:
    """Return the error message for `words` of a command line that belong to no flag, with a similar flag or setting. `assignments`: the
    values of --set, which show if a user wrote `--set name value` without the equals sign."""
    known, (first, *rest) = list(settings), words
    name, _, value = first.partition("=")
    if not first.startswith("-"):
        if unassigned := next((text for text in assignments if text in known), None):
            return f"--set {unassigned}: no '=' in it; write --set {unassigned}={first}"
        return f"{first}: no flag stands before it" + (f"; write --set {first}" if name in known else "; --help has the flags")
    plain = name.replace("_", "-")
    near = [flag for flag in flags if flag.startswith(plain)] or close_matches(plain, flags)
    if near:
        return f"{name}: there is no such flag; did you mean {near[0]}?"
    value = value or (rest[0] if rest and not rest[0].startswith("--") else "VALUE")
    advice = [f"--set {one}={value}" if one in known else one for one in similar_names(name, known)]
    return f"{name}: there is no such flag; " + (
        f"use {' or '.join(advice)}" if advice else "--help has the flags, --set changes a setting"
    )
