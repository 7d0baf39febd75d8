"""The benchmark times the engines that training builds and prints the keys that product.md requires."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from recipes.ds_config import SHIPPED
from recipes.errors import ConfigError
from step_time import asked, changed_flags
from tests.distributed import run_command

ROOT = Path(__file__).parents[2]
KEYS = {
    *("step_milliseconds", "matmul_peak_tflops", "percent_of_matmul_peak", "mfu", "split_milliseconds", "peak_memory_bytes", "device"),
    *("versions", "foreign_load_cores", "notes", "metrics_milliseconds"),
}
PARTS = {"teacher_forward", "student_forward", "backward", "guard", "optimizer", "after_step"}


def flags(**changes: object) -> Namespace:
    """Return the flags of the command for text_tiny, with changes."""
    content = {"modality": "text", "size": "tiny", "task": None, "batch": 2, "length": 32, "dropout": "published", "precision": None}
    return Namespace(**content | {"deepspeed_config": SHIPPED / "zero3_cpu.json", "set": [], "against": []} | changes)


def test_the_other_engines_differ_by_settings_of_the_recipe_and_by_flags() -> None:
    given = flags(set=["model.hidden_dropout=0.2"], against=["precision=bf16", "batch=4", "model.hidden_dropout=0.1", "loss.beta=1"])
    (recipe, config), (other, other_config) = asked(given), asked(changed_flags(given))
    assert recipe.model.hidden_dropout == 0.2 and other.model.hidden_dropout == 0.1 and other.loss.beta == 1.0 != recipe.loss.beta
    assert (config.precision, other_config.precision) == ("fp32", "bf16")
    assert (config.batch.micro_batch_size, other_config.batch.micro_batch_size) == (2, 4)
    assert asked(flags(deepspeed_config=Path("zero3_bf16"), precision="fp32"))[1].precision == "fp32"


@pytest.mark.parametrize(
    ("against", "complaint"),
    [
        ("dropout", "--against dropout: neither a setting of the recipe"),
        ("speed=9", "--against speed=9: neither a setting of the recipe, .* nor one of batch, length, dropout"),
        ("batch=many", "--against batch=many: batch must be a number"),
        ("precision=fp8", "--against precision=fp8: must be one of fp32, bf16, fp16"),
        ("model.hidden=3", "--set model.hidden: recipe text_tiny has no such key"),
    ],
)
def test_a_wrong_change_is_refused(against: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        asked(changed_flags(flags(against=[against])))


@pytest.mark.parametrize(("script", "flag"), [("step_time.py", "--steps"), ("data_wait.py", "--updates")])
def test_a_benchmark_without_an_update_is_refused_in_one_line(script: str, flag: str) -> None:
    done = run_command([sys.executable, ROOT / "benchmarks" / script, flag, "0"], ROOT, timeout=60)
    assert (done.returncode, done.stderr.splitlines()) == (2, [f"error: {flag} 0: at least one update must be measured"])


@pytest.mark.slow
def test_the_json_has_every_promised_key_and_the_ratios_to_other_engines_and_to_plain_torch() -> None:
    arguments = ["--size", "tiny", "--batch", "2", "--length", "32", "--dropout", "0", "--steps", "2"]
    arguments += ["--plain", "--peer", "--profile", "--against", "precision=bf16", "--json"]
    done = run_command([sys.executable, "benchmarks/step_time.py", *arguments], cwd=ROOT, timeout=120, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen.keys() >= KEYS
    assert 0 < seen["percent_of_matmul_peak"] < 100 and seen["mfu"] is None and seen["notes"][-1] in done.stderr
    assert seen["split_milliseconds"].keys() >= PARTS <= seen["against_split_milliseconds"].keys()
    assert seen["engine_over_plain"] > 0.5 and seen["update_over_peer"] > 0.5 and seen["update_over_against"] > 0.1
    assert seen["profile"]["operators"] and seen["profile"]["host_milliseconds"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["speech", "vision"])
def test_the_other_modalities_have_the_same_keys(modality: str) -> None:
    arguments = ["--modality", modality, "--size", "tiny", "--batch", "2", "--steps", "1", "--peer", "--precision", "bf16", "--json"]
    arguments += ["--length", "1"] if modality == "speech" else []
    done = run_command([sys.executable, "benchmarks/step_time.py", *arguments], cwd=ROOT, timeout=120, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen.keys() >= KEYS and seen["precision"] == "bf16" and seen["update_over_peer"] > 0.1
