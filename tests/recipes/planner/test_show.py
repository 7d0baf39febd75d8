"""The plan as JSON and as lines."""

import json
from dataclasses import replace

import pytest

from recipes.plan.links import Cluster
from recipes.planner.choices import choices
from recipes.planner.show import as_json, choice_lines, in_days, in_words, lines, memory_lines
from recipes.text import text_base
from tests.recipes.planner.test_choices import CONTENT
from tests.recipes.planner.test_run_plan import PATH, planned

KEYS = {
    *("parameters", "parameters_per_rank", "flops_per_sample", "memory_bytes_per_rank", "fits", "step_seconds", "tokens_per_second", "mfu"),
    *("days", "gpu_hours", "binds", "sources", "choices"),
}


def test_the_json_has_the_keys_of_the_product_and_sums_that_hold() -> None:
    plan = planned()
    found = json.loads(json.dumps(as_json(plan, choices(text_base(), CONTENT, str(PATH), plan.cluster), 2.5)))
    assert found.keys() >= KEYS
    for phase in ("build", "train", "save"):
        parts = dict(found["memory_bytes_per_rank"][phase])
        parts.pop("host", None)
        assert parts.pop("total") == pytest.approx(sum(parts.values()), abs=len(parts))
    assert found["price"] == pytest.approx(2.5 * found["gpu_hours"])
    assert found["fits"] is True and found["binds"] in ("compute", "memory", "host", "network", "loader")
    assert found["choices"][0]["step_seconds"] <= 1.02 * min(choice["step_seconds"] for choice in found["choices"])
    assert found["sources"]["watts"]["kind"] == "tabulated"
    assert as_json(plan, [], None)["price"] is None


def test_the_lines_name_the_asked_layout_among_the_fastest() -> None:
    plan = planned()
    text = "\n".join(lines(plan, choices(text_base(), CONTENT, str(PATH), plan.cluster), None))
    assert text.startswith(f"text_base, {PATH}, bf16, on 4 x 8 h100\nparameters: ")
    assert "<- as asked" in text and "price" not in text
    none, asked = choice_lines(plan, [])
    assert none == "no layout of this recipe fits this cluster with the usual margin of 15 %" and asked == f"  as asked: {in_words(plan)}"


def test_a_plan_that_is_not_among_the_fastest_is_shown_behind_them() -> None:
    plan = planned()
    slow = replace(plan, config=replace(plan.config, recomputes_activations=True))
    *_, last = choice_lines(slow, choices(text_base(), CONTENT, str(PATH), plan.cluster)[:2])
    assert last == f"  as asked: {in_words(slow)}"


def test_memory_that_is_short_is_said() -> None:
    plan = planned()
    need = plan.memory.worst.total / 2**30
    said = [
        list(memory_lines(replace(plan, cluster=Cluster.of_text(f"nodes=4,gpus=8,device=h100,memory_gib={size}"))))[-1]
        for size in (2 * need, 1.05 * need)
    ]
    assert said[0].startswith("it fits: ") and said[1].startswith("it fits barely: ")


@pytest.mark.parametrize(("days", "text"), [(3.0, "3.0 days"), (0.5, "12.0 hours"), (0.01, "14.4 minutes")])
def test_short_times_are_in_hours_or_minutes(days: float, text: str) -> None:
    assert in_days(days) == text
