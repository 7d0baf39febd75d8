"""The learning rate as a function of the number of updates done. Pure arithmetic, torch-free."""

import math

from recipes.config import OptimConfig


def learning_rate(config: OptimConfig, updates_done: int) -> float:
    """Return the learning rate of the next update, after `updates_done` updates.

    cosine: linear warm-up from 0, half a cosine to final_lr_scale * lr at schedule_steps. tri_stage: linear from
    final_lr_scale * lr to lr, hold, exponential to final_lr_scale * lr. After the last step of the schedule the final value stays.
    Source: fairseq cosine_lr_scheduler.py and tri_stage_lr_scheduler.py (the paper calls the last stage linear).
    """
    floor = config.final_lr_scale * config.lr
    if updates_done < config.warmup_steps:
        start = floor if config.schedule == "tri_stage" else 0.0
        return start + (config.lr - start) * updates_done / config.warmup_steps
    if config.schedule == "cosine":
        length = max(1, config.schedule_steps - config.warmup_steps)
        progress = min(1.0, (updates_done - config.warmup_steps) / length)
        return floor + (config.lr - floor) * 0.5 * (1 + math.cos(math.pi * progress))
    decay_start = config.schedule_steps - config.decay_steps
    if updates_done < decay_start or config.decay_steps == 0:
        return config.lr
    progress = min(1.0, (updates_done - decay_start) / config.decay_steps)
    return config.lr * math.exp(math.log(config.final_lr_scale) * progress)
