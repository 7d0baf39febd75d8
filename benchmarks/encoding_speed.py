"""Measures how fast tokenizers are trained and text is encoded: sentencepiece's unigram and BPE, and the byte-level BPE of the library
tokenizers.

python benchmarks/encoding_speed.py --data corpus/ --vocab-size 20000 --json
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from recipes.cluster.command import exit_code_of
from recipes.data.encoding import TextBatch, batches, encode_in_order
from recipes.data.source import open_source
from recipes.data.tokenizer import MODEL, TextSample, read_tokenizer, train_tokenizer
from recipes.data.tokenizer_json import FILE, NAMES
from recipes.data_config import TextDataConfig

KINDS = ("unigram", "bpe", "byte-level")


def main() -> int:
    """Parse the flags, measure, and print one JSON object or one line per kind of tokenizer. Returns the exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder or file of text (default: the shipped sample)")
    parser.add_argument("--vocab-size", type=int, default=20_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="numbers of processes of a preparation")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    data = TextDataConfig(path=args.data, split="all")
    text = list(batches(open_source(data)))
    with tempfile.TemporaryDirectory() as folder:
        result = {kind: measure(kind, text, args.vocab_size, args.processes, Path(folder)) for kind in args.kinds}
    print(json.dumps(result) if args.json else "\n".join(f"{kind}: {values}" for kind, values in result.items()))
    return 0


def measure(kind: str, text: list[TextBatch], vocab_size: int, processes: list[int], folder: Path) -> dict[str, float]:
    """Train a tokenizer of `kind` on the text, write it to `folder`, and encode the text with it. Returns the seconds of the training, and
    MB/s of the preparation with each number of processes and of the library's own encoder on one thread."""
    sample = TextSample(200_000_000)
    for batch in text:
        for paragraph in batch.paragraphs:
            sample.add(paragraph)
    megabytes = sum(batch.num_bytes for batch in text) / 1e6
    path = folder / (FILE if kind == "byte-level" else MODEL)
    path.unlink(missing_ok=True)
    begin = time.perf_counter()
    if kind == "byte-level":
        train_byte_level(sample, vocab_size).save(str(path))
    else:
        path.write_bytes(train_tokenizer(sample, TextDataConfig(tokenizer_type="unigram" if kind == "unigram" else "bpe"), vocab_size))
    result = {"megabytes": megabytes, "training_seconds": time.perf_counter() - begin}
    path.write_bytes(read_tokenizer(path, None).content)
    result["library_mb_per_second"] = megabytes / seconds_of(lambda: encode_alone(path, text))
    for number in processes:
        seconds = seconds_of(lambda number=number: [None for _ in encode_in_order(text, str(path), number)])
        result[f"mb_per_second_{number}_processes"] = megabytes / seconds
    return {name: round(value, 2) for name, value in result.items()}


def train_byte_level(sample: TextSample, vocab_size: int) -> tokenizers.Tokenizer:
    """Return a byte-level BPE as RoBERTa has it, trained with one thread."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), list(NAMES.values())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(sample, trainer)
    return tokenizer


def encode_alone(path: Path, text: list[TextBatch]) -> None:
    """Encode the text with the library of the tokenizer alone, on one thread."""
    if path.name == FILE:
        encode: Callable[[list[str]], object] = tokenizers.Tokenizer.from_file(str(path)).encode_batch_fast
    else:
        encode = sentencepiece.SentencePieceProcessor(model_file=str(path)).encode
    for batch in text:
        encode(batch.paragraphs, **({"add_special_tokens": False} if path.name == FILE else {"num_threads": 1}))


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    raise SystemExit(exit_code_of(main))
