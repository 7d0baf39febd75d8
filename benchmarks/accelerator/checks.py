"""The table of checks, the time limit of each, and which run at the same time. Torch-free."""

from dataclasses import dataclass

LONGEST_SECONDS = 480.0
"""Time limit of all checks together."""


@dataclass(frozen=True)
class Check:
    """One check of the device: the function `function(context, *arguments)` of the module `module`. It yields one row per result."""

    name: str
    module: str
    function: str
    seconds: float
    """Time limit of the check. The first check of a worker process also needs time for the imports."""
    arguments: tuple[str, ...] = ()
    is_short: bool = False
    """True if launch/preflight.py --full runs it."""


TEXT, SPEECH, VISION = "text", "speech", "vision"

SIDE_BY_SIDE: dict[str, list[Check]] = {
    "shards": [
        Check("shards", "accelerator.placement", "check_shards", 65, is_short=True),
        Check("stream order", "accelerator.order", "check_order", 45),
    ],
    "attention": [
        Check("attention", "accelerator.attention", "check_attention", 75, is_short=True),
        Check("accumulation", "accelerator.accumulation", "check_accumulation", 40),
    ],
    "text": [
        Check("train text bf16", "accelerator.training", "check_training", 70, (TEXT, "bf16"), is_short=True),
        Check("train text fp16", "accelerator.training", "check_training", 50, (TEXT, "fp16")),
    ],
    "speech": [
        Check("train speech bf16", "accelerator.training", "check_training", 70, (SPEECH, "bf16")),
        Check("train speech fp16", "accelerator.training", "check_training", 50, (SPEECH, "fp16")),
    ],
    "vision": [
        Check("train vision bf16", "accelerator.training", "check_training", 70, (VISION, "bf16")),
        Check("train vision fp16", "accelerator.training", "check_training", 50, (VISION, "fp16")),
    ],
    "fine-tuning": [
        Check("fine-tune text bf16", "accelerator.finetuning", "check_finetuning", 70, (TEXT, "bf16")),
        Check("fine-tune text fp16", "accelerator.finetuning", "check_finetuning", 50, (TEXT, "fp16")),
    ],
    "fine-tuning with a front-end": [
        Check("fine-tune speech bf16", "accelerator.finetuning", "check_finetuning", 70, (SPEECH, "bf16")),
        Check("fine-tune vision bf16", "accelerator.finetuning", "check_finetuning", 50, (VISION, "bf16")),
    ],
    "launch": [Check("launch", "accelerator.commands", "check_launch", 100)],
    "golden": [Check("golden", "accelerator.commands", "check_golden", 110)],
    "tests": [Check("gpu tests", "accelerator.commands", "check_tests", 100)],
    "offload": [Check("offload", "accelerator.training", "check_offload", 120)],
}
"""Name of a lane (one worker process) -> the checks that it runs in turn. They measure no time, so lanes can share the device."""

ALONE: dict[str, list[Check]] = {
    "steps": [
        Check("step text_base", "accelerator.steps", "check_step", 65, ("text_base",)),
        Check("step vision_base", "accelerator.steps", "check_step", 45, ("vision_base",)),
        Check("step speech_base", "accelerator.steps", "check_step", 30, ("speech_base",)),
        Check("speech lengths", "accelerator.steps", "check_lengths", 30),
        Check("leaf modules", "accelerator.steps", "check_leaf_modules", 20),
        Check("step fine-tuning", "accelerator.finetuning", "check_step", 20),
        Check("copies", "accelerator.feeding", "check_copies", 10),
        Check("step text_large", "accelerator.steps", "check_step", 40, ("text_large",)),
        Check("step vision_large", "accelerator.steps", "check_step", 35, ("vision_large",)),
        Check("step speech_large", "accelerator.steps", "check_step", 35, ("speech_large",)),
        Check("images", "accelerator.feeding", "check_images", 30),
    ],
}
"""Name of a lane (one worker process) -> the checks that it runs in turn. They measure time, so they run after all others, one at a
time."""


def worst_seconds() -> float:
    """Return how many seconds all checks take together if each of them uses its full time limit."""
    side_by_side = max(sum(check.seconds for check in lane) for lane in SIDE_BY_SIDE.values())
    return side_by_side + sum(check.seconds for lane in ALONE.values() for check in lane)


def all_checks() -> dict[str, Check]:
    """Return all checks by name."""
    lanes = [*SIDE_BY_SIDE.values(), *ALONE.values()]
    return {check.name: check for lane in lanes for check in lane}
