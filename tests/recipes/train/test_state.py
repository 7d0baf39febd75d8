"""How a run starts, as its first lines and its config.json say it."""

import json
from pathlib import Path

from tests.launching import PRETRAIN_TEXT, launch, overrides


def test_start_says_what_where_and_how_big_and_config_json_keeps_it(tiny_run: Path) -> None:
    config = json.loads((tiny_run / "config.json").read_text())
    assert config["recipe"]["model"]["hidden_size"] == 16 and config["deepspeed"]["train_batch_size"] == 8
    assert config["versions"]["deepspeed"] == "0.19.8" and len(config["data_fingerprint"]) >= 16 and config["command"]
    events = [json.loads(line) for line in (tiny_run / "events.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events] == ["start", "save", "stop"] and events[-1]["reason"] == "done"


def test_a_prepared_folder_elsewhere_is_used_and_not_copied(tiny_prepared: Path, tmp_path: Path) -> None:
    done = launch(PRETRAIN_TEXT, ["--data", tiny_prepared, "--run-dir", tmp_path / "run", *overrides()], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "data-parallel 1 x tensor-parallel 1" in done.stdout and "parameters, fp32" in done.stdout
    assert not (tmp_path / "run" / "prepared").exists()
