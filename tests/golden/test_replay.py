"""Results equal the published ones: the golden cases, replayed by the command with the classes that training uses."""

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.distributed import run_command, run_distributed
from tests.golden.standins import STAND_INS, StandIn, fill_in, write

HERE = Path(__file__).parent
REPLAY = HERE / "replay.py"
QUICK = ("audio_padded", "vision_bias_per_layer")
"""The stand-ins that the fast suite replays; make test-slow replays the others."""
TOPOLOGIES = pytest.mark.parametrize(("ranks", "tp"), [(1, 1), (2, 2), (2, 1)], ids=["one_rank", "tp2", "dp2"])


def command(*args: object, ranks: int) -> tuple[int, list[str], str]:
    """Run the command on `ranks` processes. Return exit code, lines of standard output, and standard error."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    done = run_command([*launcher, str(REPLAY), *map(str, args)], cwd=HERE, timeout=120, env={"OMP_NUM_THREADS": "1"})
    return done.returncode, done.stdout.splitlines(), done.stderr


def replay_rank(args: list[str]) -> tuple[int, list[str], str]:
    """Run the command's main on a rank of run_distributed, which starts in a tenth of a second. Returns the same as `command`."""
    sys.path.insert(0, str(HERE))
    sys.argv = ["replay.py", *args]
    from replay import main

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as error:
        code = main()
    return code, out.getvalue().splitlines(), error.getvalue()


def replay(*args: object, ranks: int = 1) -> tuple[int, list[str]]:
    """Return the exit code of all ranks, and rank 0's result lines with the total, without the output of libraries."""
    results = run_distributed(replay_rank, ranks, [str(arg) for arg in args])
    assert len({code for code, *_ in results}) == 1
    code, lines, _ = results[0]
    return code, [line for line in lines if line.endswith((" ok", " FAIL", " failed"))]


def copy_of(case: str, folder: Path) -> Path:
    """Copy a case, so that a test can change it."""
    shutil.copytree(HERE / case, folder)
    return folder


def test_the_command_under_tensor_parallelism_prints_a_line_per_quantity_and_a_total() -> None:
    code, lines, _ = command(HERE / "text" / "paper", "--tp", 2, ranks=2)
    assert (code, lines[-1]) == (0, "231 passed, 0 failed")
    assert sum(line.split()[2:] == ["1e-05", "ok"] for line in lines) == 231


@TOPOLOGIES
@pytest.mark.parametrize(("case", "quantities"), [("text/paper", 231), ("audio/recipe", 303), ("vision/recipe", 219)])
def test_every_quantity_of_the_published_recipes_agrees_within_1e_5_audio_targets_of_later_steps_5e_5(
    case: str, quantities: int, ranks: int, tp: int
) -> None:
    code, lines = replay(HERE / case, "--tp", tp, ranks=ranks)
    assert (code, lines[-1]) == (0, f"{quantities} passed, 0 failed")
    names = {line.split()[0]: line.split()[2] for line in lines[:-1]}
    assert {"step0.pred", "step2.target", "step1.loss_relative", "hidden.4", "ffn.3"} <= names.keys()
    for label, layer in (("grad_step0", "3"), ("student_final", "0"), ("teacher_final", "3")):
        assert any(name.startswith(f"{label}.") and f".{layer}." in name for name in names), label
    wider = {name for name, tolerance in names.items() if tolerance != "1e-05"}
    assert wider == ({"step1.target", "step2.target"} if case == "audio/recipe" else set())


@pytest.mark.parametrize(
    ("ranks", "options"),
    [(1, ()), (2, ("--tp", 2)), (2, ()), (1, ("--micro-batch-size", 1))],
    ids=["one_rank", "tp2", "dp2", "accumulated"],
)
@pytest.mark.parametrize(("case", "quantities"), [("text/paper", 239), ("audio/recipe", 317), ("vision/recipe", 232)])
def test_train_step_gives_every_quantity_of_the_published_recipes_within_the_same_tolerances(
    case: str, quantities: int, ranks: int, options: tuple[object, ...]
) -> None:
    code, lines = replay(HERE / case, "--loop", *options, ranks=ranks)
    assert (code, lines[-1]) == (0, f"{quantities} passed, 0 failed"), [line for line in lines if "FAIL" in line]
    tolerances = {line.split()[0]: line.split()[2] for line in lines[:-1]}
    for name in ("pred", "target", "loss_relative", "grad_norm_relative", "update", "samples", "masked", "lr", "ema_decay"):
        assert {f"step{step}.{name}" for step in range(3)} <= tolerances.keys(), name
    wider = {name for name, tolerance in tolerances.items() if tolerance != "1e-05"}
    assert wider == ({"step1.target", "step2.target"} if case == "audio/recipe" else set())


def test_a_case_without_updates_is_refused_with_loop() -> None:
    ((code, _, error),) = run_distributed(replay_rank, 1, [str(HERE / "hf" / "text"), "--loop"])
    assert code == 2 and "no meta.json, so no updates to replay; --loop is for cases of fairseq" in error


@TOPOLOGIES
@pytest.mark.parametrize(("case", "quantities"), [("text", 6), ("audio", 21), ("vision_shared", 6)])
def test_hidden_states_of_the_hugging_face_ports_agree_within_1e_5(case: str, quantities: int, ranks: int, tp: int) -> None:
    """Text is compared at real tokens. Audio (unpadded, padded, masked) and vision (masked) are compared at every position."""
    assert replay(HERE / "hf" / case, "--tp", tp, ranks=ranks)[1][-1] == f"{quantities} passed, 0 failed"


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in STAND_INS])
def test_other_settings_are_translated_and_give_the_same_numbers_on_every_topology(name: str, tmp_path: Path) -> None:
    case, dump = tmp_path / "case", tmp_path / "dump.safetensors"
    write(STAND_INS[name], HERE, case)
    code, lines = replay(case, "--dump", dump)
    original = json.loads((HERE / STAND_INS[name].case / "meta.json").read_text())
    assert code == 1 and lines[-1].endswith(" failed") and len(lines) > 0.8 * len(original["shapes"])
    assert all(tensor.isfinite().all() for tensor in load_file(dump).values())
    fill_in(case, dump)
    for ranks, tp in ((2, 2), (2, 1)):
        code, again = replay(case, "--tp", tp, ranks=ranks)
        assert (code, again[-1]) == (0, f"{len(lines) - 1} passed, 0 failed"), [line for line in again if "FAIL" in line]


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("text/paper", "encoder.sentence_encoder.layers.1.fc1.bias"),
        ("audio/recipe", "encoder.pos_conv.2.0.bias"),
        ("vision/recipe", "encoder.rel_pos_bias.relative_position_bias_table"),
    ],
)
def test_a_changed_weight_fails_the_replay_and_the_dump_has_the_computed_values(case: str, name: str, tmp_path: Path) -> None:
    folder = copy_of(case, tmp_path / "case")
    state = load_file(folder / "student_init.safetensors")
    state[name][3] += 0.01
    save_file(state, folder / "student_init.safetensors")
    code, lines = replay(folder, "--dump", tmp_path / "dump.safetensors")
    assert code == 1 and not lines[-1].endswith(" 0 failed")
    assert any(line.startswith("step0.pred ") and line.endswith("FAIL") for line in lines)
    dump, golden = load_file(tmp_path / "dump.safetensors"), load_file(folder / "steps.safetensors")
    assert dump["step0.pred"].shape == golden["step0.pred"].shape and len(dump) == len(lines) - 1
    assert any(key.startswith("teacher_final.") for key in dump)


def test_a_folder_that_is_no_case_is_exit_2(tmp_path: Path) -> None:
    ((code, lines, error),) = run_distributed(replay_rank, 1, [str(tmp_path)])
    assert code == 2 and f"error: {tmp_path}: holds neither meta.json nor config.json" in error
    assert not any(line.endswith((" ok", " failed")) for line in lines)


@pytest.mark.parametrize(("key", "value"), [("layer_type", "conformer"), ("conv_feature_layers", "[(32, 10, 5), (64, 3, 2)]")])
def test_a_setting_that_this_model_cannot_express_is_exit_2(key: str, value: str, tmp_path: Path) -> None:
    write(StandIn("audio/recipe", {key: value}), HERE, tmp_path / "case")
    assert replay(tmp_path / "case") == (2, [])


@pytest.mark.parametrize(("case", "weights"), [("vision/recipe", "student_init"), ("hf/audio", "model")])
def test_weights_that_lack_a_tensor_are_exit_2(case: str, weights: str, tmp_path: Path) -> None:
    folder = copy_of(case, tmp_path / "case")
    state = load_file(folder / f"{weights}.safetensors")
    state.pop(next(name for name in state if "norm" in name))
    save_file(state, folder / f"{weights}.safetensors")
    assert replay(folder) == (2, [])


def test_golden_features_that_no_layer_has_are_exit_2_and_not_ignored(tmp_path: Path) -> None:
    folder = copy_of("vision/recipe", tmp_path / "case")
    features = load_file(folder / "eval_features.safetensors")
    save_file(features | {"hidden.9": features["hidden.4"].clone()}, folder / "eval_features.safetensors")
    assert replay(folder)[0] == 2


@pytest.mark.parametrize("case", ["hf/text", "hf/audio", "hf/vision_shared"])
def test_a_case_of_hugging_face_can_be_dumped(case: str, tmp_path: Path) -> None:
    """Also quantities that share memory: the last hidden state is also in the list of hidden states. Dumps of fairseq's cases: above."""
    code, lines = replay(HERE / case, "--dump", tmp_path / "dump.safetensors")
    assert code == 0 and len(load_file(tmp_path / "dump.safetensors")) == len(lines) - 1


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_features_of_padded_audio_are_replayed_and_their_padding_is_an_input(ranks: int, tmp_path: Path) -> None:
    """The expected features come from a replay with padding in the steps. Padding in the features must have the same effect."""
    folder = copy_of("audio/recipe", tmp_path / "case")
    steps, features = load_file(folder / "steps.safetensors"), load_file(folder / "eval_features.safetensors")
    padding_BT = torch.zeros(steps["step0.source"].shape, dtype=torch.bool)
    padding_BT[1, 9000:] = True
    save_file(steps | {"step0.padding_mask": padding_BT}, folder / "steps.safetensors")
    code, unpadded = replay(folder, "--dump", tmp_path / "padded.safetensors")
    assert code == 1 and any(line.startswith("hidden.2 ") and line.endswith("FAIL") for line in unpadded), "padding changes the features"
    own = {name: tensor for name, tensor in load_file(tmp_path / "padded.safetensors").items() if name in features}
    frames_BS = torch.arange(own["out"].shape[1]) >= torch.tensor([[49], [27]])
    inputs = {"source": features["source"], "padding_mask_samples": padding_BT, "padding_mask_frames": frames_BS}
    save_file(steps, folder / "steps.safetensors")
    save_file(own | inputs, folder / "eval_features.safetensors")
    _, lines = replay(folder, "--tp", ranks, ranks=ranks)
    results = {line.split()[0]: line.split()[-1] for line in lines}
    assert {results[name] for name in own} == {"ok"} and results["padding_mask_frames"] == "ok"
