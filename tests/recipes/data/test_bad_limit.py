"""How many bad items end the work."""

from recipes.data.bad_limit import FEW, most_bad


def test_a_small_set_may_have_a_few_a_large_one_its_share_and_none_where_none_is_allowed() -> None:
    assert [most_bad(number, 0.01) for number in (4, 100, 10 * 100 * FEW)] == [FEW, FEW, 10 * FEW]
    assert most_bad(1000, 0.0) == 0
