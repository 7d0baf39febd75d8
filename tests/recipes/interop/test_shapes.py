"""Names and shapes of modules."""

from recipes.interop.shapes import affine, weights_first


def test_the_bias_has_the_first_dimension_of_the_weight() -> None:
    assert affine("a", 3, 4, 5) == {"a.weight": (3, 4, 5), "a.bias": (3,)} and affine("n", 3) == {"n.weight": (3,), "n.bias": (3,)}


def test_weights_stand_before_biases_and_keep_their_order() -> None:
    assert list(weights_first(affine("b", 2, 2) | affine("a", 2, 2))) == ["b.weight", "a.weight", "b.bias", "a.bias"]
