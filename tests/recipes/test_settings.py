"""--set as the user types it, bounds, and objects named by module:Name. Stored settings are in test_stored_settings.py."""

from dataclasses import replace
from typing import Any

import pytest

from recipes.errors import ConfigError
from recipes.settings import apply_overrides, bounded_names, check_bounds, dotted, import_object, settable
from recipes.speech import speech_base
from recipes.text import text_base, text_tiny
from recipes.vision import vision_base


@pytest.mark.parametrize(
    ("assignment", "section", "key", "value"),
    [
        ("optim.lr=3e-4", "optim", "lr", 3e-4),
        ("optim.lr=1", "optim", "lr", 1.0),
        ("run.max_steps=12", "run", "max_steps", 12),
        ("run.max_steps = 12 ", "run", "max_steps", 12),
        ("run.deterministic=True", "run", "deterministic", True),
        ("run.deterministic=false", "run", "deterministic", False),
        ("run.wandb=offline", "run", "wandb", "offline"),
        ("optim.betas=0.9,0.95", "optim", "betas", (0.9, 0.95)),
        ("optim.betas=(0.9, 0.95)", "optim", "betas", (0.9, 0.95)),
        ("teacher.layer_norms=instance,layer", "teacher", "layer_norms", ("instance", "layer")),
        ("teacher.layer_norms=", "teacher", "layer_norms", ()),
        ("model.init_std=none", "model", "init_std", None),
        ("model.init_std=None", "model", "init_std", None),
        ("model.init_std=0.5", "model", "init_std", 0.5),
        ("data.tokenizer=null", "data", "tokenizer", None),
        ("data.path=/a=b", "data", "path", "/a=b"),
        ("run.accept_changes=optim.lr, data.path", "run", "accept_changes", ("optim.lr", "data.path")),
        ("run.max_minutes=90", "run", "max_minutes", 90.0),
    ],
)
def test_a_value_gets_the_type_of_its_field(assignment: str, section: str, key: str, value: object) -> None:
    found = getattr(getattr(apply_overrides(text_base(), [assignment]), section), key)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("assignment", "complaint"),
    [
        ("optim.lr", r"no '=' in it; write --set optim\.lr=3e-4"),
        ("optim.lr=fast", r"optim\.lr=fast: must be a number"),
        ("optim.lr=nan", r"optim\.lr=nan: must be a finite number"),
        ("loss.beta=inf", "must be a finite number"),
        ("run.max_steps=1e3", r"run\.max_steps=1e3: must be an integer"),
        ("run.max_steps=none", "must be an integer"),
        ("run.deterministic=yes", "must be true or false"),
        ("run.wandb=maybe", "must be one of off, offline, online"),
        ("teacher.layer_norms=layer,group", "group: must be one of batch, instance, layer"),
        ("optim.betas=0.9", "has 1 values, needs 2"),
        ("optim.betas=0.9,x", "must be a number"),
        ("optim.warmup=1", r"text_base has no such key; did you mean optim\.warmup_steps"),
        ("model.num_layer=3", r"did you mean model\.num_layers"),
        ("optimizer.lr=1", r"did you mean optim\.lr"),
        ("modell.num_layers=3", r"did you mean model\.num_layers"),
        ("xyzzy=1", "no such key; --dry-run prints every key"),
        ("name=other", "no such key"),
        ("model=3", "no such key"),
        ("model.=3", "no such key"),
        ("=3", "no such key"),
        ("model.head_widths=3", "no such key"),
        ("run.seed.x=3", "no such key"),
    ],
)
def test_a_wrong_assignment_is_named_with_the_remedy(assignment: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        apply_overrides(text_base(), [assignment])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("model.block.drop_path=0.2", 0.2),
        ("model.block.layer_scale=1e-5", 1e-5),
        ("model.block.layer_scale=none", None),
        ("model.block.normalize_before=false", False),
        ("mask.max_block=64", 64),
        ("data.crop_scale=0.2,1", (0.2, 1.0)),
        ("frontend.relative_bias=per_layer", "per_layer"),
        ("teacher.shares=features", "features"),
    ],
)
def test_sections_of_sections_and_of_other_modalities_can_be_set(assignment: str, value: object) -> None:
    found: Any = apply_overrides(vision_base(), [assignment])
    for name in assignment.partition("=")[0].split("."):
        found = getattr(found, name)
    assert (found, type(found)) == (value, type(value))


def test_setting_inside_a_section_keeps_the_rest_of_it() -> None:
    base = vision_base()
    changed = apply_overrides(base, ["model.block.drop_path=0.2", "model.num_layers=13", "model.block.layerdrop=0.1"])
    block = replace(base.model.block, drop_path=0.2, layerdrop=0.1)
    assert changed == replace(base, model=replace(base.model, num_layers=13, block=block))


@pytest.mark.parametrize(
    ("assignment", "complaint"),
    [
        ("model.block=3", "no such key"),
        ("model.block.=3", "no such key"),
        ("model.drop_path=0.1", r"did you mean model\.block\.drop_path"),
        ("model.normalize_before=true", r"did you mean model\.block\.normalize_before"),
        ("block.drop_path=0.1", r"did you mean model\.block\.drop_path"),
        ("model.block.drop_path.x=1", "no such key"),
        ("model.block.drop_path=a", "must be a number"),
        ("frontend.vocab_size=9", "vision_base has no such key"),
        ("mask.prob=0.5", "vision_base has no such key"),
        ("frontend.num_prefix_tokens=2", "no such key"),
        ("data.group_size=2", "no such key"),
        ("teacher.shares=all", "must be one of nothing, features, frontend"),
        ("data.crop_scale=0.2", "has 1 values, needs 2"),
    ],
)
def test_a_wrong_assignment_in_another_modality_is_named_too(assignment: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        apply_overrides(vision_base(), [assignment])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "value"), [("3,2", (3, 2)), ("(3, 2, 1)", (3, 2, 1)), ("10", (10,))])
def test_a_list_of_any_length_is_set_with_commas(text: str, value: tuple[int, ...]) -> None:
    assert apply_overrides(speech_base(), [f"frontend.conv_kernels={text}"]).frontend.conv_kernels == value  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="must be an integer"):
        apply_overrides(speech_base(), ["frontend.conv_kernels=3,x"])


def test_overrides_apply_in_order_and_change_nothing_else() -> None:
    base = text_base()
    changed = apply_overrides(base, ["optim.lr=1", "run.seed=7", "optim.lr=2"])
    assert changed == replace(base, optim=replace(base.optim, lr=2.0), run=replace(base.run, seed=7))
    assert base == text_base()


def test_a_value_out_of_bounds_is_reported_with_its_field_and_value() -> None:
    check_bounds(text_base())
    check_bounds(apply_overrides(text_base(), ["model.init_std=none", "mask.prob=1"]))
    for change, said in (
        ("mask.prob=0", "mask.prob is 0.0; it must be above 0 and at most 1"),
        ("model.block.drop_path=2", "model.block.drop_path is 2.0; it must lie between 0 and 1"),
        ("run.max_steps=0", "run.max_steps is 0; it must be at least 1"),
        (f"run.max_steps={10**400}", f"run.max_steps is {10**400}; it must be at most 9223372036854775807"),
    ):
        with pytest.raises(ConfigError) as caught:
            check_bounds(apply_overrides(text_base(), [change]))
        assert str(caught.value) == said


def test_bounded_settings_are_named_as_set_names_them() -> None:
    names = [name for name in bounded_names(vision_base()) if name in settable(vision_base())]
    assert {"model.block.drop_path", "mask.num_patches", "optim.lr", "checkpoint.keep_last"} <= set(names)
    assert not {"run.wandb", "model.block", "frontend.vocab_size"} & set(names)
    for name in names:
        with pytest.raises(ConfigError, match=r"must be (an integer|a number)|has 1 values"):
            apply_overrides(vision_base(), [f"{name}=x"])


def test_nested_settings_are_flattened_to_dotted_names() -> None:
    assert dotted({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {"a.b.c": 1, "a.d": [2], "e": None}


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("nothing", "where 'nothing' is unknown; it is one of x, or module:Name of one that Python can import"),
        ("nowhere.at_all:Name", r"where 'nowhere\.at_all:Name' cannot be imported \(No module named 'nowhere'\); .* on PYTHONPATH"),
        ("recipes.text:Name", r"where 'recipes\.text:Name' cannot be imported \(.* no attribute 'Name'\); .* on PYTHONPATH"),
        (":Name", "is unknown"),
        ("recipes.text:", "is unknown"),
    ],
)
def test_an_object_that_python_cannot_import_is_a_one_line_error(name: str, complaint: str) -> None:
    assert import_object("recipes.text:text_tiny", "where", "one of x") is text_tiny
    with pytest.raises(ConfigError, match=f"^where .*{complaint.removeprefix('where ')}") as caught:
        import_object(name, "where", "one of x")
    assert "\n" not in str(caught.value)
