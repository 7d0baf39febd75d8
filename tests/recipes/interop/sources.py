"""Models to import, for tests: copies of the golden Hugging Face directories, checkpoints in the form that fairseq writes, and tokenizers
of 100 symbols."""

import argparse
import json
import random
import shutil
import string
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipes.data.tokenizer import train_tokenizer
from recipes.data_config import TextDataConfig

GOLDEN = Path(__file__).parents[2] / "golden"
FAIRSEQ_CASES = {"text": "text/paper", "audio": "audio/recipe", "vision": "vision/recipe"}
"""Modality in fairseq's words -> the golden case of its published recipe."""
EMA = {"text": "encoder._ema", "audio": "_ema", "vision": "_ema"}
"""Modality in fairseq's words -> key of the teacher in the state dict."""
VOCAB_SIZE = 100
LETTERS = string.ascii_lowercase


def hf_copy(case: str, folder: Path, **changes: Any) -> Path:
    """Copy config.json and the weights of a golden Hugging Face model into a new folder. `changes`: settings of config.json to replace;
    None removes a setting."""
    folder.mkdir(parents=True)
    config = json.loads((GOLDEN / "hf" / case / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    shutil.copyfile(GOLDEN / "hf" / case / "model.safetensors", folder / "model.safetensors")
    return folder


def hf_tensors(case: str) -> dict[str, Tensor]:
    """Return the tensors of a golden Hugging Face model."""
    return load_file(GOLDEN / "hf" / case / "model.safetensors")


def write_weights(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Replace the weights of a Hugging Face directory."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def paragraphs() -> list[str]:
    """Return made-up text of words, some of which are frequent."""
    draw = random.Random(0)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(1, 5))) for _ in range(300)]
    return [" ".join(draw.choices(words, weights=[1 / (1 + rank) for rank in range(300)], k=40)) for _ in range(60)]


def sentencepiece_model() -> bytes:
    """Return a sentencepiece model of VOCAB_SIZE symbols, `<mask>` included."""
    return train_tokenizer(paragraphs(), TextDataConfig(tokenizer_type="unigram"), VOCAB_SIZE)


def tokenizer_json(special: list[str], last: str = "<mask>") -> dict[str, Any]:
    """Return the content of a tokenizer.json of VOCAB_SIZE symbols: `special` first, then letters and made-up symbols, then `last`."""
    fill = [*LETTERS, *(f"w{number}" for number in range(VOCAB_SIZE))]
    names = [*special, *fill[: VOCAB_SIZE - len(special) - 1], last]
    marked = [{"id": names.index(name), "content": name, **_PLAIN} for name in (*special, last)]
    model = {"type": "WordLevel", "vocab": {name: number for number, name in enumerate(names)}, "unk_token": special[-1]}
    pre = {"type": "Whitespace"}
    parts = {"truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": pre, "post_processor": None, "decoder": None}
    return {"version": "1.0", "added_tokens": marked, **parts, "model": model}


_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def fairseq_state(modality: str, which: str = "final") -> dict[str, Any]:
    """Return fairseq's state dict of a golden case, with the teacher in it: the student at the end of the case, or at its beginning
    ("init"), which is then its own teacher."""
    case = GOLDEN / FAIRSEQ_CASES[modality]
    student = load_file(case / f"student_{which}.safetensors")
    teacher = load_file(case / "teacher_final.safetensors")
    if which == "init":
        prefix = "encoder.sentence_encoder." if modality == "text" else "encoder."
        teacher = {name: student[prefix + name] for name in teacher}
    return {**student, EMA[modality]: teacher}


def fairseq_config(modality: str) -> dict[str, Any]:
    """Return the configuration of a golden case's model, as a checkpoint has it: with the model's name and references to other
    sections."""
    config = json.loads((GOLDEN / FAIRSEQ_CASES[modality] / "meta.json").read_text())["config"]
    return config | {"_name": f"data2vec_{modality}", "ema_anneal_end_step": "${optimization.max_update}"}


def write_fairseq(path: Path, modality: str, state: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write a checkpoint as fairseq does. `state`: the model's state dict. `changes`: other parts of the checkpoint."""
    sections = {"common": {"fp16": True}, "task": {"_name": "masked_lm"}, "optimization": {"max_update": 10}}
    content = {
        "args": None,
        "cfg": {**sections, "model": fairseq_config(modality)},
        "model": fairseq_state(modality) if state is None else state,
        "criterion": None,
        "optimizer_history": [{"criterion_name": "ModelCriterion", "num_updates": 3}],
        "task_state": {},
        "extra_state": {"metrics": [], "train_iterator": {"epoch": 1}},
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.ones(3)}}},
    }
    torch.save(content | changes, path)
    return path


def flat(config: dict[str, Any], arch: str) -> argparse.Namespace:
    """Return the arguments of an older command with the settings of `config` in one level, and others of its kind."""
    others = {"arch": arch, "lr": [0.0005], "tokens_per_sample": 512, "fp16": True, "seed": 1}
    return argparse.Namespace(**(others | {key: value for key, value in config.items() if key != "_name"}))
