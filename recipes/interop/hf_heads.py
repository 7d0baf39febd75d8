"""The heads of tasks in transformers' data2vec classes: a class or a number for texts, a transcript or a class for recordings, a class for
images. No files and no tensors.

A head that no class of transformers has is refused. transformers averages recordings after the projector, this project before it: without
an activation between them this is the same.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from recipes.errors import ConfigError
from recipes.interop import hf_vision
from recipes.interop.expressible import Expressible
from recipes.interop.hf_files import PREPROCESSOR, as_json
from recipes.interop.hf_head import SECTION, HfHead, class_fields, head_rules, label_fields, piped, refusal
from recipes.interop.letter_tokenizer import PROCESSOR_CLASS, letter_files
from recipes.interop.processors import Processor
from recipes.interop.shapes import Shapes, affine
from recipes.interop.tokenizer_export import CONFIG_FILE, FILE

TEXT, CTC = "Data2VecTextForSequenceClassification", "Data2VecAudioForCTC"
UTTERANCE, IMAGE = "Data2VecAudioForSequenceClassification", "Data2VecVisionForImageClassification"
SENTENCE = "The sea was calm that evening."
CUT = (
    "A text or a pair with more tokens than the model takes must be cut: `pipe(text, truncation=True)`. Of a pair the longer text is cut "
    "first, as in the run."
)
SYMBOLS = (
    "The pipeline takes the best symbol of each frame. It writes `<s>`, `</s>` and `<unk>` as they are and keeps two spaces in a row; this "
    "project drops these symbols and leaves one space."
)
SEARCHED = "The run's predictions come from a search over prefixes (finetune.beam_size), so they may differ from the pipeline's."


def _expressible(architecture: str, stored: tuple[str, ...], dropped: tuple[str, ...], **rules: Any) -> Expressible:
    drops = frozenset(SECTION + name for name in (*dropped, "init_std"))
    return Expressible(frozenset(SECTION + name for name in stored), drops, head_rules(architecture, **rules))


def _num_labels(config: dict[str, Any]) -> int:
    return len(config["id2label"])


def _text_fields(recipe: Any) -> dict[str, Any]:
    head, channels = recipe.objective.head, recipe.model.hidden_size
    if head.hidden_size not in (0, channels):
        why = f"{TEXT} of transformers has the trunk's {channels} channels there"
        raise ConfigError(refusal("hidden_size", head.hidden_size, why, f"train with --set {SECTION}hidden_size=0"))
    return {"classifier_dropout": head.dropout}


def _text_class_fields(recipe: Any) -> dict[str, Any]:
    return _text_fields(recipe) | class_fields(recipe)


def _text_number_fields(recipe: Any) -> dict[str, Any]:
    return _text_fields(recipe) | label_fields((recipe.data.label_column,)) | {"problem_type": "regression"}


def _text_head_shapes(config: dict[str, Any]) -> Shapes:
    hidden = config["hidden_size"]
    return affine("classifier.dense", hidden, hidden) | affine("classifier.out_proj", _num_labels(config), hidden)


def _text_head_processor(recipe: Any, found: Processor) -> Processor:
    """Return the tokenizer's files with the run's length. Without files that transformers reads there is no pipeline."""
    if FILE not in found.files:
        lines = [line.replace("AutoModel", "AutoModelForSequenceClassification") for line in found.usage]
        last = lines.pop().partition("  #")[0].replace("features", "outputs").replace("last_hidden_state", "logits")
        return replace(found, usage=(*lines, last), auto_class="AutoModelForSequenceClassification")
    values = json.loads(found.files[CONFIG_FILE]) | {"model_max_length": min(recipe.data.sequence_length, recipe.frontend.max_positions)}
    call = f'pipe("{SENTENCE}")'
    if len(recipe.data.text_columns) == 2:
        call = f'pipe({{{{"text": "{SENTENCE}", "text_pair": "No wind blew."}}}})'
    return piped(replace(found, files=found.files | {CONFIG_FILE: as_json(values)}), "text-classification", call, CUT)


def _ctc_fields(recipe: Any) -> dict[str, Any]:
    return {
        "vocab_size": recipe.objective.num_outputs,
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        "final_dropout": recipe.objective.head.dropout,
        "ctc_loss_reduction": "sum",
        "ctc_zero_infinity": True,
    }


def _ctc_processor(recipe: Any, found: Processor) -> Processor:
    extractor = json.loads(found.files[PREPROCESSOR]) | {"processor_class": PROCESSOR_CLASS}
    files = {**found.files, **letter_files(recipe.objective.alphabet), PREPROCESSOR: as_json(extractor)}
    is_searched = recipe.finetune.beam_size > 1 or recipe.finetune.language_model is not None
    notes = (SYMBOLS, *([SEARCHED] if is_searched else []))
    return piped(replace(found, files=files), "automatic-speech-recognition", _recording(recipe), *notes)


def _recording(recipe: Any) -> str:
    return f'pipe({{{{"raw": waveform, "sampling_rate": {recipe.data.sample_rate}}}}})'


def _utterance_fields(recipe: Any) -> dict[str, Any]:
    width = recipe.objective.head.hidden_size or recipe.model.hidden_size
    return class_fields(recipe) | {"classifier_proj_size": width, "use_weighted_layer_sum": False}


def _utterance_shapes(config: dict[str, Any]) -> Shapes:
    width = config["classifier_proj_size"]
    return affine("projector", width, config["hidden_size"]) | affine("classifier", _num_labels(config), width)


def _image_shapes(config: dict[str, Any]) -> Shapes:
    hidden = config["hidden_size"]
    return affine(hf_vision.PREFIX + "pooler.layernorm", hidden) | affine("classifier", _num_labels(config), hidden)


_text = {
    "architecture": TEXT,
    "modules": {"classifier.dense": "layers.0", "classifier.out_proj": "layers.1"},
    "expressible": _expressible(TEXT, ("dropout",), ("hidden_size",), reads="cls", norm=False, hidden="tanh"),
    "shapes": _text_head_shapes,
    "processor": _text_head_processor,
    "lacks": ("pooler.",),
}
TEXT_HEADS: Mapping[str, HfHead] = {
    "classify": HfHead(fields=_text_class_fields, **_text),  # type: ignore[arg-type]
    "regress": HfHead(fields=_text_number_fields, **_text),  # type: ignore[arg-type]
}
"""By the kind of the objective. So are the others."""
SPEECH_HEADS: Mapping[str, HfHead] = {
    "ctc": HfHead(
        architecture=CTC,
        modules={"lm_head": "layers.0"},
        expressible=_expressible(CTC, ("dropout",), ("hidden_size",), reads="positions", norm=False, hidden="none"),
        fields=_ctc_fields,
        shapes=lambda config: affine("lm_head", config["vocab_size"], config["hidden_size"]),
        processor=_ctc_processor,
    ),
    "classify": HfHead(
        architecture=UTTERANCE,
        modules={"projector": "layers.0", "classifier": "layers.1"},
        expressible=_expressible(UTTERANCE, ("hidden_size",), ("dropout",), reads="mean", norm=False, hidden="linear"),
        fields=_utterance_fields,
        shapes=_utterance_shapes,
        processor=lambda recipe, found: piped(found, "audio-classification", _recording(recipe)),
    ),
}
VISION_HEADS: Mapping[str, HfHead] = {
    "classify": HfHead(
        architecture=IMAGE,
        modules={hf_vision.PREFIX + "pooler.layernorm": "norm", "classifier": "layers.0"},
        expressible=_expressible(IMAGE, (), ("dropout", "hidden_size"), reads="mean", norm=True, hidden="none"),
        fields=class_fields,
        shapes=_image_shapes,
        processor=lambda recipe, found: piped(found, "image-classification", "pipe(image)"),
    ),
}
