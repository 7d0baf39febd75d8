"""Reads what a sentencepiece .model has and its Python interface does not give: the table of its normalizer and how it was trained.

The file is a protocol buffer. The reader generated for it (sentencepiece_model_pb2) refuses a protobuf older than the one that generated
it, so these few fields are read here. The numbers below are field numbers. Source: sentencepiece, src/sentencepiece_model.proto.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

UNIGRAM, BPE = 1, 2
"""Types of a model. Others are words (3) and characters (4)."""
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
"""Types of a piece. Others are user-defined (4) and unused (5)."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Value = int | bytes


class Piece(NamedTuple):
    """One symbol of the vocabulary."""

    text: str
    score: float
    type: int


class SentencePieceModel(NamedTuple):
    """What a .model file contains, as far as it is needed to convert it."""

    pieces: list[Piece]
    type: int
    byte_fallback: bool
    charsmap: bytes
    """The table by which characters are normalised, empty if there is none."""
    unusual: tuple[str, ...]
    """Settings that differ from what sentencepiece has by default, as its trainer names them."""


def read_model(content: bytes) -> SentencePieceModel:
    """Return the content of a .model file, which sentencepiece could load."""
    fields = list(_fields(content))
    parts = {number: dict(_fields(value)) for number, value in fields if number in (2, 3) and isinstance(value, bytes)}
    trainer, normalizer = parts.get(2, {}), parts.get(3, {})
    settings = {
        "treat_whitespace_as_suffix": (trainer.get(24, 0), 0),
        "split_by_whitespace": (trainer.get(22, 1), 1),
        "add_dummy_prefix": (normalizer.get(3, 1), 1),
        "remove_extra_whitespaces": (normalizer.get(4, 1), 1),
        "escape_whitespaces": (normalizer.get(5, 1), 1),
    }
    charsmap, kind = normalizer.get(2, b""), trainer.get(3, UNIGRAM)
    assert isinstance(charsmap, bytes) and isinstance(kind, int)
    return SentencePieceModel(
        pieces=[_piece(value) for number, value in fields if number == 1 and isinstance(value, bytes)],
        type=kind,
        byte_fallback=bool(trainer.get(35, 0)),
        charsmap=charsmap,
        unusual=tuple(name for name, (value, default) in settings.items() if value != default),
    )


def _piece(content: bytes) -> Piece:
    fields = dict(_fields(content))
    text, score, kind = fields.get(1, b""), fields.get(2, bytes(4)), fields.get(3, NORMAL)
    assert isinstance(text, bytes) and isinstance(score, bytes) and isinstance(kind, int)
    return Piece(text.decode(), struct.unpack("<f", score)[0], kind)


def _fields(content: bytes) -> Iterator[tuple[int, Value]]:
    """Yield (number, value) of each field of a message, in the order of the file. Fixed numbers are yielded as their bytes."""
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        kind = tag & 7
        if kind == VARINT:
            value, place = _varint(content, place)
            yield tag >> 3, value
            continue
        size = {FIXED64: 8, FIXED32: 4}.get(kind)
        if size is None:
            assert kind == BYTES, f"wire type {kind} is not in a .model file"
            size, place = _varint(content, place)
        yield tag >> 3, content[place : place + size]
        place += size


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """Return (the number that begins at `place`, the place after it). Seven bits of it stand in each byte, the lowest first."""
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
