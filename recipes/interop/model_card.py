"""The README.md of an exported model: where its weights come from, how to load it, and what differs from this project. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.checkpoint.layout import Manifest
from recipes.interop.processors import Processor
from recipes.interop.stored_run import StoredRun
from recipes.interop.task_facts import task_facts
from recipes.supervised_config import SupervisedConfig

NAME = "README.md"
PAPER = "(Baevski et al. 2022, arXiv 2202.03555)"
FRONT_MATTER = """\
---
library_name: transformers
license: other
license_name: to-be-chosen
pipeline_tag: {task}
tags:
- data2vec
---
"""
LEFT_OUT = {
    "head.": "the regression head, which is used in pre-training only",
    "trunk.encoder.final_norm.": "the LayerNorm after the last block: with use_mean_pooling, transformers' class has none, so "
    "`last_hidden_state` is the output of the last block",
    "trunk.frontend.mask_vector": "the mask vector: the source's configuration has no place for it",
}
"""Beginning of parameter names -> what is said about them if the export has none."""
UNTRAINED = {
    "pooler.": "The pooler (`pooler_output`) is not trained: data2vec has none, transformers' class requires one. Its weights are random.",
    "embeddings.token_type_embeddings.": "Token types are zero: data2vec has none.",
}
"""Part of tensor names -> sentence about tensors that neither the run nor its source has."""


@dataclass(frozen=True)
class Exported:
    """What the card is about."""

    run: StoredRun
    manifest: Manifest
    weights: str
    """student or teacher."""
    processor: Processor
    left_out: Sequence[str]
    """Parameters of the run that the export does not have."""
    untrained: Sequence[str]
    """Tensors of the export that neither the run nor its source has."""
    is_imported: bool
    """True if the run was imported from a Hugging Face directory."""


def model_card(exported: Exported, folder: Path) -> str:
    """Return the text of README.md. `folder`: the place of the export."""
    notes = [*differences(exported), *exported.processor.notes]
    lines = [
        f"# data2vec, {exported.run.recipe.modality}: {exported.run.recipe.name}",
        "",
        f"{_subject(exported)} in the format of transformers.",
        "",
        "**Licence:** to be chosen by the owner of the weights. Replace `license: other` above and this line.",
        "",
        "## Load it",
        "",
        *_usage(exported.processor, folder.name),
        "",
        "## Where it comes from",
        "",
        *(f"- {name}: {value}" for name, value in facts(exported).items()),
        "",
        "## What differs from the run",
        "",
        *(f"- {note}" for note in notes or ["Nothing."]),
    ]
    return front_matter(exported.processor) + "\n" + "\n".join(lines) + "\n"


def front_matter(processor: Processor) -> str:
    """Return the first lines, which the hub reads."""
    return FRONT_MATTER.format(task=processor.task or "feature-extraction")


def _subject(exported: Exported) -> str:
    """Return what the export is, as the beginning of a sentence."""
    if isinstance(exported.run.recipe.objective, SupervisedConfig):
        return f"A data2vec network {PAPER} that has learned a task from labels, with its head,"
    return f"The {exported.weights} of a data2vec run {PAPER}"


def _usage(processor: Processor, folder: str) -> list[str]:
    """Return the lines of code, and what is to be said about them."""
    code = [f"    {line.format(folder=folder)}" for line in processor.usage]
    if processor.task:
        return code
    return ["    import torch", *code, "", "Wrap the last line in `with torch.no_grad():` if nothing is trained."]


def facts(exported: Exported) -> dict[str, Any]:
    """Return name -> value of what is on record about the run and the checkpoint."""
    counters, metadata, content = exported.manifest.counters, exported.manifest.metadata, exported.run.content
    model = exported.run.recipe.model
    command = content.get("command")
    versions = ", ".join(f"{name} {version}" for name, version in metadata.get("versions", {}).items())
    return {
        **task_facts(exported.run, exported.manifest),
        "recipe": exported.run.recipe.name,
        "size": f"{model.num_layers} blocks, {model.hidden_size} channels, {model.num_attention_heads} heads",
        "weights": exported.weights,
        "steps": f"{counters.step:,}",
        "samples": f"{counters.samples:,}",
        "tokens": f"{counters.tokens:,}",
        "data fingerprint": metadata.get("data_fingerprint") or "unknown",
        "command": f"`{' '.join(map(str, command))}`" if command else "unknown",
        "release": content.get("release", "unknown"),
        "commit": metadata.get("git_commit", "unknown"),
        "versions": versions or "unknown",
        **_origin(content),
    } | ({"config.json": "that of the imported directory, with what the run decides"} if exported.is_imported else {})


def _origin(content: dict[str, Any]) -> dict[str, str]:
    """Return what is on record about the weights with which the run began; {} if they were random."""
    found = {"imported from": str(content["imported"].get("from", "unknown"))} if "imported" in content else {}
    if start := content.get("start_from"):
        found["began with"] = f"{start['path']}, step {start['step']:,} of {start['recipe']}"
    return found


def differences(exported: Exported) -> list[str]:
    """Return a sentence for each group of parameters that was left out or is not trained."""
    found = [f"Left out: {text}." for prefix, text in LEFT_OUT.items() if any(name.startswith(prefix) for name in exported.left_out)]
    others = [name for name in exported.left_out if not name.startswith(tuple(LEFT_OUT))]
    found += [f"Left out: {', '.join(others)}."] if others else []
    return found + [text for prefix, text in UNTRAINED.items() if any(prefix in name for name in exported.untrained)]
