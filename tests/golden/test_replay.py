"""Ours = published: the golden cases through the classes that training uses, as the command that users run."""

import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.distributed import run_command

HERE = Path(__file__).parent
REPLAY = HERE / "replay.py"


def replay(*args: object, ranks: int = 1) -> tuple[int, list[str]]:
    """Exit code and standard output of a replay on `ranks` processes."""
    launcher = (
        [sys.executable] if ranks == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    )
    done = run_command([*launcher, str(REPLAY), *map(str, args)], cwd=HERE, timeout=120, env={"OMP_NUM_THREADS": "1"})
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(("ranks", "tp"), [(1, 1), (2, 2), (2, 1)], ids=["one_rank", "tp2", "dp2"])
def test_every_quantity_of_the_published_text_recipe_agrees_within_1e_5(ranks: int, tp: int) -> None:
    code, lines = replay(HERE / "text" / "paper", "--tp", tp, ranks=ranks)
    assert (code, lines[-1]) == (0, "231 passed, 0 failed")
    names = {line.split()[0] for line in lines[:-1]}
    assert {"step0.pred", "step2.target", "step1.loss_relative", "hidden.4", "ffn.3"} <= names
    assert any(n.startswith("grad_step0.") for n in names) and any(n.startswith("teacher_final.layers.3") for n in names)


@pytest.mark.parametrize(("ranks", "tp"), [(1, 1), (2, 2)], ids=["one_rank", "tp2"])
def test_hidden_states_of_the_hugging_face_port_agree_within_1e_5(ranks: int, tp: int) -> None:
    assert replay(HERE / "hf" / "text", "--tp", tp, ranks=ranks)[1][-1] == "6 passed, 0 failed"


def test_a_changed_weight_fails_the_replay_and_the_dump_holds_what_was_computed(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    case = tmp_path / "case"
    case.mkdir()
    for path in (HERE / "text" / "paper").iterdir():
        (case / path.name).write_bytes(path.read_bytes())
    state = load_file(case / "student_init.safetensors")
    state["encoder.sentence_encoder.layers.1.fc1.bias"][3] += 0.01
    save_file(state, case / "student_init.safetensors")
    code, lines = replay(case, "--dump", tmp_path / "dump.safetensors")
    assert code == 1 and not lines[-1].endswith(" 0 failed")
    dump = load_file(tmp_path / "dump.safetensors")
    assert dump["step0.pred"].shape == (21, 64) and "teacher_final.layers.0.fc1.weight" in dump


def test_a_folder_that_is_no_case_is_the_users_mistake(tmp_path: Path) -> None:
    assert replay(tmp_path)[0] == 2
