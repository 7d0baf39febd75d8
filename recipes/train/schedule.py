"""The learning rate as a function of the number of updates done. Pure arithmetic, torch-free."""

import math

from recipes.config import OptimConfig


def learning_rate(config: OptimConfig, updates_done: int) -> float:
    """Return the learning rate of the next update, after `updates_done` updates, by config.schedule.

    cosine: linear warm-up from 0, then half a cosine to final_lr_scale * lr at schedule_steps. linear: the same with a straight line.
    tri_stage: linear from final_lr_scale * lr to lr, hold, then exponential to final_lr_scale * lr. After the last step of the schedule
    the final value stays.
    Source: fairseq cosine_lr_scheduler.py, polynomial_decay_schedule.py with power 1, and tri_stage_lr_scheduler.py (the paper calls the
    last stage linear).
    """
    floor = config.final_lr_scale * config.lr
    if updates_done < config.warmup_steps:
        start = floor if config.schedule == "tri_stage" else 0.0
        return start + (config.lr - start) * updates_done / config.warmup_steps
    if config.schedule != "tri_stage":
        length = max(1, config.schedule_steps - config.warmup_steps)
        progress = min(1.0, (updates_done - config.warmup_steps) / length)
        left = 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        return floor + (config.lr - floor) * left
    decay_start = config.schedule_steps - config.decay_steps
    if updates_done < decay_start or config.decay_steps == 0:
        return config.lr
    progress = min(1.0, (updates_done - decay_start) / config.decay_steps)
    return config.lr * math.exp(math.log(config.final_lr_scale) * progress)
