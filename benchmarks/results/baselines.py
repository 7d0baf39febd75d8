"""Simple baselines without a network, by scikit-learn: bags of words for texts, ridge regression on pixels, on patches and on spectra. They
read the samples that the networks are trained, chosen and tested on, from the prepared folder of a fine-tuned run.

Shapes: N samples, C features, H, W pixels of a side.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.naive_bayes import MultinomialNB
from sklearn.preprocessing import StandardScaler
from torchaudio.functional import melscale_fbanks

from model.frontends.config import VisionFrontendConfig
from recipes.data.audio import decode_audio
from recipes.data.examples import ImageMaker
from recipes.data.images import decode_image
from recipes.data.labelled_folder import TRAIN, VALID, load_arrays_of, load_info, load_rows_of
from recipes.data.labelled_speech_reader import open_recordings
from recipes.data.labelled_vision_reader import open_pictures

STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""Values from which each baseline takes the one with the best validation accuracy: C, or an inverse penalty."""
SEED, NUM_PATCHES, NUM_CENTRES, PATCH = 0, 50_000, 400, 6
SAMPLE_RATE, WINDOW, HOP, MELS, TIMES = 16_000, 400, 160, 40, 16


@dataclass(frozen=True)
class Features:
    """Numbers of the samples of one split, and their labels."""

    x_NC: Any
    labels: Sequence[Any]


Splits = dict[str, Features]
Make = Callable[[Path, Sequence[str]], Splits]
"""Makes the features of a prepared folder's splits; whatever is fitted is fitted to the training split."""


def labels_of(folder: Path, split: str) -> list[str]:
    """Return the label of each sample of a split."""
    return [str(row.label) for row in load_rows_of(folder, split)]


def texts_of(folder: Path, split: str) -> list[str]:
    """Return the texts of a split. Those of a pair are joined by " | "."""
    return [row.shown for row in load_rows_of(folder, split)]


def counts(folder: Path, splits: Sequence[str]) -> Splits:
    """Return which words and pairs of words each text has."""
    vectors = CountVectorizer(ngram_range=(1, 2), binary=True).fit(texts_of(folder, TRAIN))
    return {split: Features(vectors.transform(texts_of(folder, split)), labels_of(folder, split)) for split in splits}


def tfidf(folder: Path, splits: Sequence[str]) -> Splits:
    """Return the TF-IDF weights of words and pairs of words."""
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(texts_of(folder, TRAIN))
    return {split: Features(vectors.transform(texts_of(folder, split)), labels_of(folder, split)) for split in splits}


def tfidf_of_pairs(folder: Path, splits: Sequence[str]) -> Splits:
    """Return the TF-IDF weights of both texts of a pair, their differences and their products."""
    pairs = {split: [text.split(" | ", 1) for text in texts_of(folder, split)] for split in {TRAIN, *splits}}
    vectors = TfidfVectorizer(sublinear_tf=True).fit([text for pair in pairs[TRAIN] for text in pair])

    def of(split: str) -> Features:
        first, second = (vectors.transform([pair[number] for pair in pairs[split]]) for number in (0, 1))
        return Features(sp.hstack([first, second, abs(first - second), first.multiply(second)]).tocsr(), labels_of(folder, split))

    return {split: of(split) for split in splits}


def images_of(folder: Path, split: str, size: int) -> np.ndarray:
    """Return the central views of a split's images. Shapes: uint8 (N, 3, H, W)."""
    arrays, maker = load_arrays_of(folder, split), ImageMaker(VisionFrontendConfig(image_size=size, patch_size=size))
    media = open_pictures(folder, int(arrays["media"][0]))
    return np.stack([maker.of_image(decode_image(media.read(int(item)))).image for item in arrays["items"]])


def pixels(folder: Path, splits: Sequence[str]) -> Splits:
    """Return the pixels of 16 x 16 views."""
    return {s: Features(images_of(folder, s, 16).reshape(-1, 768) / 255.0, labels_of(folder, s)) for s in splits}


def patches(folder: Path, splits: Sequence[str]) -> Splits:
    """Return, for each quarter of a 32 x 32 view, how near its patches are to NUM_CENTRES centres of whitened patches. Source: Coates, Ng
    and Lee 2011, "An analysis of single-layer networks in unsupervised feature learning", k-means (triangle)."""
    views = {split: torch.from_numpy(images_of(folder, split, 32)).float() for split in {TRAIN, *splits}}

    def patches_of(view_N3HW: torch.Tensor) -> np.ndarray:
        x_NPC = torch.nn.functional.unfold(view_N3HW, PATCH).transpose(1, 2)
        return ((x_NPC - x_NPC.mean(2, keepdim=True)) / (x_NPC.var(2, keepdim=True) + 10).sqrt()).numpy()

    rng = np.random.default_rng(SEED)
    chosen = views[TRAIN][torch.from_numpy(rng.integers(0, len(views[TRAIN]), 1000))]
    flat = patches_of(chosen).reshape(-1, 3 * PATCH**2)
    whitening = PCA(whiten=True, n_components=0.99, random_state=SEED).fit(flat[rng.integers(0, len(flat), NUM_PATCHES)])
    sample = whitening.transform(flat[rng.integers(0, len(flat), NUM_PATCHES)])
    centres = MiniBatchKMeans(NUM_CENTRES, random_state=SEED, n_init=1).fit(sample)

    def near(view_3HW: torch.Tensor) -> np.ndarray:
        x_PC = patches_of(view_3HW[None])[0]
        distance_PK = centres.transform(whitening.transform(x_PC))
        near_PK = np.maximum(0, distance_PK.mean(1, keepdims=True) - distance_PK)
        side = int(len(x_PC) ** 0.5)
        near_YXK, half = near_PK.reshape(side, side, -1), side // 2
        return np.concatenate([near_YXK[y : y + half, x : x + half].sum((0, 1)) for y in (0, half) for x in (0, half)])

    return {split: Features(np.stack([near(view) for view in views[split]]), labels_of(folder, split)) for split in splits}


def spectra(folder: Path, splits: Sequence[str]) -> Splits:
    """Return the logarithms of MELS mel bands, averaged over TIMES equal parts of the recording."""
    banks = melscale_fbanks(WINDOW // 2 + 1, 0.0, SAMPLE_RATE / 2, MELS, SAMPLE_RATE)

    def of(waveform_T: np.ndarray) -> np.ndarray:
        padded = torch.nn.functional.pad(torch.from_numpy(waveform_T), (0, max(0, WINDOW - len(waveform_T))))
        power_FT = torch.stft(padded, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True).abs().square()
        log_MT = (power_FT.T @ banks + 1e-6).log().T
        return torch.nn.functional.adaptive_avg_pool1d(log_MT, TIMES).flatten().numpy()

    source = load_info(folder).source

    def features(split: str) -> Features:
        arrays = load_arrays_of(folder, split)
        media = open_recordings(source, str(arrays["split"]), "audio")
        rows = [of(decode_audio(media.read(int(item)), SAMPLE_RATE)) for item in arrays["item"]]
        return Features(np.stack(rows), labels_of(folder, split))

    return {split: features(split) for split in splits}


def scored(make: Make, classifier: Callable[[float], Any], folder: Path, test: str) -> dict[str, Any]:
    """Return the accuracy on the split `test` of the classifier whose strength has the best validation accuracy, and that strength."""
    splits = make(folder, (TRAIN, VALID, test))
    found = []
    for strength in STRENGTHS:
        model = classifier(strength).fit(splits[TRAIN].x_NC, splits[TRAIN].labels)
        found.append((float(model.score(splits[VALID].x_NC, splits[VALID].labels)), -strength, model))
    best = max(found, key=lambda one: one[:2])
    mean = float(best[2].score(splits[test].x_NC, splits[test].labels))
    return {"metric": "accuracy", "mean": mean, "strength": -best[1], "validation": best[0]}


def logistic(strength: float) -> Any:
    """Return a logistic regression."""
    return LogisticRegression(C=strength, max_iter=1000)


def bayes(strength: float) -> Any:
    """Return a multinomial naive Bayes."""
    return MultinomialNB(alpha=1 / strength)


def ridge(strength: float) -> Any:
    """Return a ridge regression of the classes on standardised features."""
    from sklearn.pipeline import make_pipeline

    return make_pipeline(StandardScaler(), RidgeClassifier(alpha=1000 / strength))


BASELINES: Mapping[tuple[str, str], Mapping[str, tuple[Make, Callable[[float], Any]]]] = {
    ("text", "classify"): {"naive Bayes": (counts, bayes), "TF-IDF + logistic regression": (tfidf, logistic)},
    ("text", "pair"): {"TF-IDF + logistic regression": (tfidf, logistic), "TF-IDF of pairs": (tfidf_of_pairs, logistic)},
    ("vision", "classify"): {"ridge on pixels": (pixels, ridge), "ridge on patches": (patches, ridge)},
    ("speech", "classify"): {"ridge on log-spectra": (spectra, ridge)},
}
"""(modality, task) -> name of a baseline -> its features and classifier."""
