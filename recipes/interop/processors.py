"""The files beside an exported model from which transformers prepares its inputs as this project does, and how its inputs differ from
those of this project. Torch-free."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.frontends.config import IMAGENET_MEAN, IMAGENET_STD
from recipes.data.images import EVAL_CROP_RATIO
from recipes.data.tokenizer import find_tokenizer
from recipes.interop.hf_files import PREPROCESSOR, as_json
from recipes.interop.stored_run import tokenizer_folder
from recipes.interop.tokenizer_export import PLAIN, export_tokenizer

BICUBIC = 3
"""Number of the bicubic filter in Pillow and in preprocessor_config.json."""


@dataclass(frozen=True)
class Processor:
    """What stands beside an exported model."""

    files: dict[str, bytes]
    """File name -> content."""
    notes: tuple[str, ...]
    """Sentences for the model card: how inputs from these files differ from those of this project."""
    usage: tuple[str, ...]
    """Lines of Python that load the model and compute features. {folder} is the place of the export."""
    missing: str = ""
    """What transformers cannot read, and what to do; "" if it can read all."""
    auto_class: str = "AutoModel"
    """Class of transformers that loads the model."""
    task: str = ""
    """Task of transformers' pipeline() that loads model and files; "" if there is none."""

    @property
    def load_line(self) -> str:
        """Python that loads the model, or a pipeline with it. {folder} is the place of the export."""
        if self.task:
            return f'from transformers import pipeline; pipe = pipeline("{self.task}", model="{{folder}}")'
        return f'from transformers import {self.auto_class}; model = {self.auto_class}.from_pretrained("{{folder}}")'


PLAIN_USAGE = (
    "from sentencepiece import SentencePieceProcessor",
    "from transformers import AutoModel",
    f'tokenizer, model = SentencePieceProcessor(model_file="{{folder}}/{PLAIN}"), AutoModel.from_pretrained("{{folder}}").eval()',
    'ids = torch.tensor([[0, *tokenizer.encode("The sea was calm that evening."), 2]])  # <s>, tokens, </s>',
    "features = model(input_ids=ids).last_hidden_state  # (batch, tokens, channels)",
)


def text_processor(recipe: Any, run_dir: Path) -> Processor:
    """Return the tokenizer's files, which give `<s>`, the tokens of this project and `</s>`."""
    usage = (
        "from transformers import AutoModel, AutoTokenizer",
        'tokenizer, model = AutoTokenizer.from_pretrained("{folder}"), AutoModel.from_pretrained("{folder}").eval()',
        'inputs = tokenizer(["The sea was calm that evening."], return_tensors="pt")',
        "features = model(**inputs).last_hidden_state  # (batch, tokens, channels)",
    )
    folder = tokenizer_folder(run_dir, recipe)
    if folder is None:
        return Processor({}, ("The run has no tokenizer, so none is here.",), usage)
    exported = export_tokenizer(find_tokenizer(folder), recipe.frontend.max_positions)
    if PLAIN in exported.files:
        return Processor(exported.files, exported.notes, PLAIN_USAGE, missing=exported.notes[0])
    return Processor(exported.files, exported.notes, usage)


PADDED = (
    "Give transformers one recording at a time: next to padding it computes other frames than the run did, which had "
    "frontend.exact_padding=true."
)


def speech_preprocessor(recipe: Any) -> dict[str, Any]:
    """Return preprocessor_config.json of a feature extractor that normalises each waveform to zero mean and unit variance."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "do_normalize": True,
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": recipe.data.sample_rate,
    }


def speech_processor(recipe: Any, run_dir: Path) -> Processor:
    """Return the file of the feature extractor."""
    notes: tuple[str, ...] = (
        "The feature extractor of transformers adds 1e-7 to the variance of a waveform, this project adds 1e-5. So a recording with "
        "variance v becomes sqrt((v + 1e-5) / (v + 1e-7)) times as large: 1.0005 for v = 1e-2, 3.2 for v = 1e-6.",
        f"Recordings must have {recipe.data.sample_rate} samples per second and one channel; transformers does not resample them.",
    )
    notes += (PADDED,) if recipe.frontend.exact_padding else ()
    usage = (
        "from transformers import AutoFeatureExtractor, AutoModel",
        'extractor, model = AutoFeatureExtractor.from_pretrained("{folder}"), AutoModel.from_pretrained("{folder}").eval()',
        f'inputs = extractor([waveform], sampling_rate={recipe.data.sample_rate}, padding=True, return_tensors="pt")  # 1-D float arrays',
        "features = model(**inputs).last_hidden_state  # (batch, frames, channels)",
    )
    return Processor({PREPROCESSOR: as_json(speech_preprocessor(recipe))}, notes, usage)


def vision_preprocessor(recipe: Any) -> dict[str, Any]:
    """Return preprocessor_config.json of an image processor that makes the view of evaluation: the shorter side is resized, the centre is
    cut out."""
    size = recipe.frontend.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": round(size / EVAL_CROP_RATIO)},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }


def vision_processor(recipe: Any, run_dir: Path) -> Processor:
    """Return the file of the image processor."""
    content = vision_preprocessor(recipe)
    usage = (
        "from transformers import AutoImageProcessor, AutoModel",
        'processor, model = AutoImageProcessor.from_pretrained("{folder}"), AutoModel.from_pretrained("{folder}").eval()',
        'inputs = processor([image], return_tensors="pt")  # images of Pillow',
        "features = model(**inputs).last_hidden_state  # (batch, CLS and patches, channels)",
    )
    notes = (*IMAGE_NOTES, *_odd_margin(recipe.frontend.image_size, content["size"]["shortest_edge"]))
    return Processor({PREPROCESSOR: as_json(content)}, notes, usage)


IMAGE_NOTES = (
    "The image processor of transformers resizes the whole image to a whole number of pixels and then cuts; this project cuts and resizes "
    "in one step. A square image of the processor's size gives the same pixels. Others differ by less than a pixel of position: for "
    "500 x 375 pixels of coarse noise at size 224, normalised values differ by 0.06 on average and by 0.33 at most.",
    "Images are to be given upright and with 8 bits per channel; this project also turns them by their EXIF tag and reads 16 bits.",
)


def _odd_margin(size: int, resized: int) -> tuple[str, ...]:
    if (resized - size) % 2 == 0:
        return ()
    return (f"The margin of {resized - size} pixels is odd, so transformers cuts half a pixel beside this project.",)
