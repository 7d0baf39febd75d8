"""A run whose settings differ from every default, so that a test fails if a probe takes a default instead of the run's setting."""

from pathlib import Path

import pytest

from tests.launching import PRETRAIN_TEXT, launch, overrides

SEED = 6
DISTINCT = {
    **{"model__num_layers": 3, "model__hidden_dropout": 0.3, "model__attention_dropout": 0.2, "teacher__average_top_k_layers": 2},
    **{"data__break_mode": "complete_doc", "data__heldout_fraction": 0.2, "data__text_column": "sentence", "frontend__max_positions": 48},
    **{"run__seed": SEED, "run__save_steps": 1, "optim__lr": 0.3, "optim__warmup_steps": 1},
}
"""Settings of a run that no other recipe has: seed, layers, dropout, padding, column and lengths. Two updates change every weight."""


@pytest.fixture(scope="session")
def distinct_run(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run dir with checkpoints of steps 1 and 2 of a run with the settings DISTINCT. Copy it before changing anything."""
    run_dir = tmp_path_factory.mktemp("distinct") / "run"
    done = launch(PRETRAIN_TEXT, ["--data", tiny_text, "--run-dir", run_dir, *overrides(**DISTINCT)], run_dir.parent)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return run_dir
