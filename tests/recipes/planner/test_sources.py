"""Each number of a plan has a source."""

from recipes.plan.links import Cluster
from recipes.planner.sources import sources_of
from tests.recipes.planner.test_run_plan import planned


def test_all_numbers_of_the_device_and_all_constants_have_a_source_and_a_kind() -> None:
    found = sources_of(planned())
    assert {"peak_teraflops.bf16", "memory_gib", "efficiency", "watts", "seconds to restart"} < found.keys()
    assert all(number.source and number.kind in ("measured", "tabulated", "assumed", "given") for number in found.values())


def test_a_number_that_the_user_gives_is_given() -> None:
    assert sources_of(planned("nodes=4,gpus=8,device=h100,efficiency=0.5"))["efficiency"].kind == "given"
    assert Cluster.of_text("efficiency=0.5").device.efficiency == 0.5
