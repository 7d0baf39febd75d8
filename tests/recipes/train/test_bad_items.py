"""Undecodable items: shared by all ranks, reported once each, and the end of the run if they are too many."""

from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from model.batch import Batch, Masks
from recipes.data.loader import LoadedBatch
from recipes.data.media import BadItem
from recipes.errors import ConfigError
from recipes.train.bad_items import BadItems
from tests.distributed import run_distributed
from tests.model.reference import bools
from tests.recipes.train.faulty import ONE, UNDISTURBED, prepare_pictures, run_rank

MASK_BS = bools("10")
BATCH = Batch(MASK_BS, MASK_BS, Masks.of(MASK_BS), None, None, 2)


class Rounds:
    """A loader whose update i contains the bad items rounds[i], one per micro-batch. An empty name raises ConfigError."""

    def __init__(self, rounds: list[list[str]]) -> None:
        self.rounds = rounds

    def batches(self, update: int) -> list[LoadedBatch]:
        """Return one micro-batch per bad item, and one without."""
        if "" in self.rounds[update]:
            raise ConfigError("none of 3 items can be decoded")
        return [LoadedBatch(BATCH, [BadItem(name, "not audio")]) for name in self.rounds[update]] + [LoadedBatch(BATCH, [])]


def agree_on(rounds: list[list[list[str]]], num_items: int, max_fraction: float, removed: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what this rank reports and raises. rounds[i][rank]: names of the bad items in update i."""
    bad = BadItems(num_items, max_fraction, removed)
    seen: dict[str, Any] = {"reported": [], "new": [], "batches": [], "error": None}
    loader: Any = Rounds([names[dist.get_rank()] for names in rounds])
    for update in range(len(rounds)):
        seen["batches"].append(len(bad.load(loader, update)))
        seen["new"].append(bad.num_new)
        try:
            bad.agree(dist.group.WORLD, lambda item: seen["reported"].append(item.where))  # type: ignore[arg-type]
        except ConfigError as error:
            seen["error"] = str(error)
            break
    seen["summary"] = bad.summary()
    return seen


def test_two_ranks_agree_on_every_item_and_report_each_once_in_the_same_order() -> None:
    rounds = [[["c", "a"], ["b", "a"]], [[], ["a", "b", "d"]], [["d"], ["c"]]]
    first, second = run_distributed(agree_on, 2, rounds, 100, 0.1)
    assert first["reported"] == second["reported"] == ["a", "b", "c", "d"]
    assert first["new"] == [2, 0, 0], "items of another rank are not pending here"
    assert second["new"] == [2, 1, 0] and second["batches"] == [3, 4, 2], "batches are returned even if they contain bad items"
    assert first["error"] is None and second["error"] is None


def test_an_item_that_is_found_twice_in_an_update_counts_once() -> None:
    (seen,) = run_distributed(agree_on, 1, [[["a", "a"]]], 100, 0.01)
    assert (seen["reported"], seen["error"]) == (["a"], None)
    assert seen["summary"] == "1 item could not be decoded and was replaced, such as a: not audio; events.jsonl names each"


def test_the_summary_counts_the_items_of_all_ranks_and_is_empty_if_there_are_none() -> None:
    first, second = run_distributed(agree_on, 2, [[["c"], ["a", "b"]]], 100, 0.03)
    assert first["summary"] == "3 items could not be decoded and were replaced, such as a: not audio; events.jsonl names each"
    assert second["summary"] == first["summary"] and run_distributed(agree_on, 1, [[[]]], 100, 0.03)[0]["summary"] == ""


@pytest.mark.parametrize(("num_bad", "stops"), [(10, False), (11, True)])
def test_more_than_the_allowed_share_stops_every_rank_after_all_were_reported(num_bad: int, stops: bool) -> None:
    names = [f"{number:02}.wav" for number in range(num_bad)]
    first, second = run_distributed(agree_on, 2, [[names[:6], names[6:]]], 1000, 0.01)
    assert first["reported"] == second["reported"] == names
    assert first["error"] == second["error"] and (first["error"] is not None) == stops


def test_the_error_names_the_first_ten_and_the_setting() -> None:
    names = [f"{number:02}.wav" for number in range(12)]
    (seen,) = run_distributed(agree_on, 1, [[names]], 100, 0.1)
    text = seen["error"]
    assert text.startswith("12 of 100 items cannot be decoded, more than data.max_bad_fraction 0.1 allows (10): 00.wav (not audio), ")
    assert "09.wav" in text and "10.wav" not in text and "\n" not in text
    assert text.endswith(" and 2 more; fix or remove them and give the same command again, or --set data.max_bad_fraction=0.12")


def test_items_that_the_user_has_removed_are_neither_reported_nor_counted() -> None:
    first, second = run_distributed(agree_on, 2, [[["a", "b"], ["c"]]], 100, 0.0, ("a", "c"))
    assert first["reported"] == second["reported"] == ["b"] and first["error"].startswith("1 of 100 items")


@pytest.mark.parametrize(("num_bad", "stops"), [(3, False), (4, True)])
def test_a_few_items_do_not_end_a_run_on_a_small_set(num_bad: int, stops: bool) -> None:
    (seen,) = run_distributed(agree_on, 1, [[[str(number) for number in range(num_bad)]]], 57, 0.01)
    assert (seen["error"] is not None) == stops


def test_with_a_share_of_0_the_first_one_ends_the_run() -> None:
    assert run_distributed(agree_on, 1, [[["a"]]], 10**6, 0.0)[0]["error"].startswith("1 of 1000000 items cannot be decoded")
    assert run_distributed(agree_on, 1, [[["a"]]], 1, 1.0)[0]["error"] is None


def test_a_rank_without_batches_ends_all_of_them_with_its_reason() -> None:
    """It still takes part in the exchange; otherwise the other ranks would hang."""
    ranks = run_distributed(agree_on, 2, [[["a"], []], [[""], ["b"]]], 100, 1.0)
    assert ranks[0]["new"] == [1, 1], "the error counts as pending, or no exchange would start"
    for seen in ranks:
        assert seen["error"] == "none of 3 items can be decoded"
        assert seen["reported"] == ["a", "b"], "items of the other rank are not lost"


def note_and_agree() -> list[str]:
    bad, reported = BadItems(10, 0.5), []
    for name in ("held-out", "held-out too"):
        bad.note([BadItem(name, "not audio")] if dist.get_rank() else [])
    assert bad.num_new == 2 * dist.get_rank()
    bad.agree(dist.group.WORLD, lambda item: reported.append(item.where))  # type: ignore[arg-type]
    return reported


def test_items_found_in_an_evaluation_are_reported_with_the_next_update() -> None:
    assert run_distributed(note_and_agree, 2) == [["held-out", "held-out too"]] * 2


def run_with_a_bad_held_out_item(run_dir: Path, prepared: Path) -> list[tuple[str, str]]:
    """Return the bad items that a run of four updates reports; its held-out data contain one, read in the evaluation after the second."""
    from recipes.train import loop

    train = loop.train

    def train_on(state: Any) -> int:
        state.data.heldout.take_bad = lambda: [BadItem("held-out.png", "no picture", "/held-out.png")]
        return train(state)

    loop.train = train_on
    settings = {"run__eval_steps": 2, "data__max_bad_fraction": 0.1}
    outcome = run_rank(run_dir, prepared, ONE, UNDISTURBED, {}, settings)
    return [(event["where"], event["file"]) for event in outcome["events"] if event["event"] == "bad_item"]


def test_a_run_reports_a_held_out_item_that_it_could_not_decode(tmp_path: Path) -> None:
    prepared = prepare_pictures(tmp_path)
    assert run_distributed(run_with_a_bad_held_out_item, 1, tmp_path / "run", prepared) == [[("held-out.png", "/held-out.png")]]
