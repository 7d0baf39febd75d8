"""What all heads in transformers' format have in common."""

import torch

from recipes.interop.expressible import Expressible
from recipes.interop.hf_head import HfHead, head_rules, label_fields, piped, refusal
from recipes.interop.names import NameTable, same
from recipes.interop.processors import Processor

HEAD = HfHead(
    architecture="TaskModel",
    modules={"classifier": "layers.0"},
    expressible=Expressible(frozenset(), frozenset(), {}),
    fields=lambda recipe: {"a": 1},
    shapes=lambda config: {"classifier.weight": (config["n"], 2)},
    processor=lambda recipe, found: found,
    lacks=("pooler.",),
)


def test_names_are_those_of_the_trunk_with_a_prefix_and_those_of_the_head() -> None:
    names = HEAD.names(NameTable([same("norm.{leaf}", "trunk.norm.{leaf}")]), "data2vec_text.")
    assert names.our_name("data2vec_text.norm.bias") == "trunk.norm.bias" and names.our_name("classifier.weight") == "head.layers.0.weight"
    ours = {"trunk.norm.bias": torch.ones(2), "head.layers.0.weight": torch.zeros(3, 2)}
    theirs = names.to_theirs(ours, ["classifier.weight", "data2vec_text.norm.bias"])
    assert theirs["classifier.weight"].shape == (3, 2) and names.to_ours(theirs).keys() == ours.keys()


def test_shapes_are_those_of_the_trunk_without_what_the_class_lacks_and_those_of_the_head() -> None:
    found = HEAD.all_shapes({"norm.bias": (2,), "pooler.dense.bias": (2,)}, "x.", {"n": 3})
    assert found == {"x.norm.bias": (2,), "classifier.weight": (3, 2)}


def test_a_head_that_lacks_nothing_keeps_all_tensors_of_the_trunk() -> None:
    assert HfHead(**{**vars(HEAD), "lacks": ()}).all_shapes({"pooler.a": (1,)}, "x.", {"n": 3}).keys() == {
        "x.pooler.a",
        "classifier.weight",
    }


def test_labels_are_numbered_both_ways() -> None:
    assert label_fields(("no", "yes")) == {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}}


def test_a_rule_and_a_refusal_name_setting_class_and_remedy() -> None:
    rule = head_rules("TaskModel", norm=False)["objective.head.norm"]
    assert not rule.allows(True) and "TaskModel of transformers" in rule.why and rule.remedy.endswith("--set objective.head.norm=false")
    assert refusal("norm", True, "why", "do this").startswith("objective.head.norm True: why; do this, or use ")


def test_a_pipeline_is_loaded_by_its_task() -> None:
    found = piped(Processor({"f": b""}, ("a",), ("old",)), "some-task", "pipe(x)", "b")
    assert found.task == "some-task" and found.notes == ("a", "b") and found.files == {"f": b""}
    assert found.load_line == 'from transformers import pipeline; pipe = pipeline("some-task", model="{folder}")'
    assert found.usage[-1] == "print(pipe(x))" and "old" not in found.usage
