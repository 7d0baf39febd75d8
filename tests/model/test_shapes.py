"""Counts of parameters from their shapes. Each module's shapes are compared with the module in its own test."""

from model.shapes import ParameterShape, count_parameters, linear_layers, vectors


def test_a_tensor_parallel_rank_holds_its_part_of_what_is_split_and_all_of_the_rest() -> None:
    split, whole = ParameterShape("weight", (6, 5), 0), ParameterShape("bias", (6,))
    assert (split.numel(), split.numel(2), whole.numel(2)) == (30, 15, 6)


def test_elements_that_are_not_used_are_held_but_are_no_parameters() -> None:
    table = ParameterShape("tokens", (128, 4), 0, num_unused=28 * 4)
    assert (table.numel(), table.num_parameters, count_parameters([table, *vectors(3, "a", "b")])) == (512, 400, 406)


def test_a_name_gets_the_module_in_front() -> None:
    assert ParameterShape("weight", (2, 3), 1).inside("head") == ParameterShape("head.weight", (2, 3), 1)


def test_linear_layers_follow_each_other() -> None:
    assert linear_layers([2, 4, 3]) == [
        ParameterShape("layers.0.weight", (4, 2)),
        ParameterShape("layers.0.bias", (4,)),
        ParameterShape("layers.1.weight", (3, 4)),
        ParameterShape("layers.1.bias", (3,)),
    ]
    assert linear_layers([2]) == []
