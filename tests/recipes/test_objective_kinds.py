"""The table of objectives."""

from recipes.objective_kinds import OBJECTIVES


def test_the_kinds_are_the_names_in_config_json() -> None:
    assert list(OBJECTIVES) == ["data2vec", "mlm", "pixels", "classify", "regress", "ctc"]
    assert all(kind == section.kind for kind, section in OBJECTIVES.items())
