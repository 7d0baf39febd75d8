"""Text other than that of the run, prepared for the cloze probe with the run's own tokenizer."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.data.contents import ResumedRun
from recipes.data.prepare import prepare_text
from recipes.data.shards import encoding_of
from recipes.data.tokenizer import find_tokenizer
from recipes.finetune.results import canonical_name


def prepare_given_text(recipe: Any, prepared: Path, path: str, folder: Path, log: Callable[[str], None] = print) -> Path:
    """Prepare the text at `path`, of all splits, in a folder below `folder`/probe, and return that folder. A text that is prepared already
    is not prepared again. `recipe`, `prepared`: of the run. Raises: ConfigError."""
    data = replace(recipe.data, path=path, split="all", tokenizer=str(find_tokenizer(prepared)))
    name = f"{Path(path).name}-{hashlib.sha256(canonical_name(path).encode()).hexdigest()[:8]}"
    run = ResumedRun(encoding=encoding_of(prepared))
    return prepare_text(data, recipe.frontend, folder / "probe" / name, progress=True, log=log, run=run)
