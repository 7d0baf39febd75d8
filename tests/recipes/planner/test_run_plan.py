"""What follows from memory and time: days, price, energy, interruptions."""

from dataclasses import replace

import pytest

from recipes.ds_config import SHIPPED, load_ds_config
from recipes.errors import ConfigError
from recipes.ledger.save_interval import daly_interval
from recipes.plan.links import Cluster
from recipes.planner import run_plan
from recipes.planner.choices import resolved
from recipes.planner.run_plan import DEVICE_MTBF_HOURS, RunPlan, device_memory
from recipes.settings import apply_overrides
from recipes.text import text_base

PATH = SHIPPED / "zero3_bf16.json"


def planned(text: str = "nodes=4,gpus=8,device=h100") -> RunPlan:
    cluster, recipe = Cluster.of_text(text), text_base()
    return RunPlan(recipe, resolved(recipe, load_ds_config(PATH), str(PATH), cluster), cluster)


def test_days_hours_and_energy_follow_from_the_time_of_an_update() -> None:
    plan = planned()
    assert plan.training_seconds == 1_000_000 * plan.step.total
    assert plan.days == pytest.approx((plan.training_seconds + plan.lost_seconds) / 86400)
    assert plan.gpu_hours == pytest.approx(24 * plan.days * 32)
    assert plan.kilowatt_hours == pytest.approx(0.7 * plan.gpu_hours), "700 W each"
    assert plan.tokens_per_second == pytest.approx(256 * 512 / plan.step.total)
    assert replace(plan, tokens_share=0.5).tokens_per_second == plan.tokens_per_second / 2


def test_more_devices_are_interrupted_more_often_and_save_more_often() -> None:
    few, many = planned("nodes=1,gpus=8,device=h100"), planned("nodes=16,gpus=8,device=h100")
    assert few.mtbf_seconds == DEVICE_MTBF_HOURS * 3600 / 8 == 16 * many.mtbf_seconds
    assert many.save_interval_seconds < few.save_interval_seconds
    assert few.save_interval_seconds == daly_interval(few.save_seconds, few.mtbf_seconds)
    short = replace(few, recipe=apply_overrides(few.recipe, ["run.max_steps=3", "optim.warmup_steps=1"]))
    assert short.save_interval_seconds == short.training_seconds, "a short run saves at its end"
    assert many.lost_seconds / many.training_seconds > few.lost_seconds / few.training_seconds


def test_the_ranks_of_a_node_share_its_cpu() -> None:
    plan = replace(planned(), cluster=Cluster.of_text("nodes=2,gpus=2,device=cpu"))
    assert plan.num_devices == 2 and planned().num_devices == 32
    assert plan.gpu_hours == pytest.approx(24 * plan.days * 2)


def test_mfu_is_the_share_of_all_devices_peak() -> None:
    plan = planned()
    assert plan.mfu == pytest.approx(plan.step.model_flops / plan.step.total / (32 * 989e12))


def test_the_memory_of_a_cpu_rank_is_its_part_of_this_machine_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_plan, "host_memory", lambda: 32 * 2**30)
    memory = device_memory(Cluster.of_text("gpus=4,device=cpu"))
    assert (memory.size, memory.on_gpu) == (8 * 2**30, False)
    assert device_memory(Cluster.of_text("gpus=4,device=cpu,memory_gib=3")).size == 3 * 2**30
    monkeypatch.setattr(run_plan, "host_memory", lambda: None)
    with pytest.raises(ConfigError, match="does not say how much memory"):
        device_memory(Cluster.of_text("device=cpu"))


def test_it_fits_well_with_a_margin_for_the_libraries() -> None:
    plan = planned("nodes=1,gpus=8,device=h100")
    assert plan.fits and plan.fits_well
    need = plan.memory.worst.total / 2**30
    tight = replace(plan, cluster=Cluster.of_text(f"nodes=1,gpus=8,device=h100,memory_gib={1.05 * need}"))
    assert tight.fits and not tight.fits_well
    assert not replace(plan, cluster=Cluster.of_text(f"nodes=1,gpus=8,device=h100,memory_gib={0.9 * need}")).fits


def test_host_memory_is_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned("nodes=1,gpus=8,device=h100")
    assert plan.host_bytes == plan.memory.save.host_total > 0
    monkeypatch.setattr(run_plan, "HOST_GIB", plan.host_bytes / 2**30 / 2)
    assert not plan.fits
