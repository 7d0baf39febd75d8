"""Measures whether the host can feed the device: worker processes that decode large photographs, and copies of their pixels."""

import io
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from accelerator.result import CANNOT, OK, Row
from accelerator.worker import Context
from recipes.data.loader import UpdateLoader
from recipes.data.order import UpdateOrder
from recipes.modalities.registry import MODALITIES
from recipes.vision import RECIPES

JPEG_BYTES = 110_000
SIDES = (500, 375)
DIFFERENT, FILES = 8, 512
BATCH, COPIED = 64, 256
WORKERS, TINY_WORKERS = (2, 8, 16), (1,)
SECONDS = 4.0
ROUNDS = 5


def photograph(seed: int) -> bytes:
    """Return a JPEG of about JPEG_BYTES: smooth shapes, with noise added until it has that size."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize(SIDES, Image.Resampling.BICUBIC), dtype=np.float32)
    content, strength = b"", 8.0
    while len(content) < JPEG_BYTES:
        strength *= 1.25
        noisy = np.clip(smooth + strength * rng.standard_normal(smooth.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=90)
        content = buffer.getvalue()
    return content


def write_photographs(folder: Path, number: int) -> float:
    """Write `number` JPEG files into one folder for each of two classes, and return their mean size in bytes."""
    contents = [photograph(seed) for seed in range(DIFFERENT)]
    for index in range(number):
        path = folder / f"class_{index % 2}" / f"{index:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[index % DIFFERENT])
    return sum(map(len, contents)) / DIFFERENT


def check_images(context: Context) -> Iterator[Row]:
    """Yield a row for each of several numbers of worker processes: how many images a second the loader of vision_base delivers."""
    files, batch = (64, 8) if context.is_tiny else (FILES, BATCH)
    size = write_photographs(context.folder / "photographs", files)
    vision = MODALITIES["vision"]
    recipe = RECIPES["vision_base"]()
    recipe = replace(recipe, data=replace(recipe.data, path=str(context.folder / "photographs"), heldout_fraction=0.0))
    prepared = vision.prepare(recipe, context.folder / "prepared", progress=False, log=lambda line: None)
    dataset, _ = vision.open_data(recipe, prepared)
    cores = len(os.sched_getaffinity(0))
    for workers in TINY_WORKERS if context.is_tiny else [number for number in WORKERS if number <= cores] or TINY_WORKERS:
        loader = UpdateLoader(
            dataset,
            UpdateOrder(dataset, seed=0, global_batch_size=batch, group_size=1),
            share=slice(0, batch),
            micro_batch_size=batch,
            num_workers=workers,
        )
        update = 0
        while update < 2 * workers + 1:  # skip batches that were prepared while the workers started
            loader.batches(update)
            update += 1
        first, start = update, time.perf_counter()
        while time.perf_counter() - start < (1.0 if context.is_tiny else SECONDS):
            loader.batches(update)
            update += 1
        rate = (update - first) * batch / (time.perf_counter() - start)
        loader.close()
        seen = f"{rate:.0f} images a second, {rate / min(workers, cores):.0f} per busy core"
        yield Row(f"{size / 1e3:.0f} KB JPEGs of {SIDES[0]} x {SIDES[1]}, workers: {workers}, cores: {cores}", OK, seen, {"rate": rate})


def check_copies(context: Context) -> Iterator[Row]:
    """Measure how fast a batch of pixels is copied to the device from pageable and from pinned memory, in GB/s. Yields one row."""
    what = f"pixels of {COPIED} images to the device"
    if context.device == "cpu":
        yield Row(what, CANNOT, "the host is the device here")
        return
    pageable = torch.randint(0, 256, (COPIED, 3, 224, 224), dtype=torch.uint8)
    start = time.perf_counter()
    pinned = pageable.pin_memory()
    pinning = time.perf_counter() - start
    rates = {}
    for name, pixels in {"pageable": pageable, "pinned": pinned}.items():
        pixels.to("cuda", non_blocking=True)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(ROUNDS):
            pixels.to("cuda", non_blocking=True)
        torch.cuda.synchronize()
        rates[name] = ROUNDS * pixels.nbytes / (time.perf_counter() - start) / 1e9
    megabytes = pageable.nbytes / 1e6
    seen = (
        f"{megabytes:.0f} MB: pageable {rates['pageable']:.1f} GB/s, pinned {rates['pinned']:.1f} GB/s; pinning them {1e3 * pinning:.0f} ms"
    )
    yield Row(what, OK, seen, rates | {"pinning_seconds": pinning})
