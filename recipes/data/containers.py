"""Makes two kinds of audio files readable that libsndfile does not handle: the second and later streams of a chained .ogg, and a .flac
whose header does not contain its length because it was written into a pipe. Decodes nothing.

Sources: RFC 3533 (Ogg pages), RFC 9639 (FLAC: STREAMINFO 8.2, frames 9.1 and 9.3).
"""

import io
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO

from recipes.data.media import UndecodableError

OGG_PAGE_HEADER = 27
OGG_BEGINNING, OGG_END = 2, 4
FLAC_LENGTH = slice(18, 26)
FLAC_LENGTH_BITS = (1 << 36) - 1
FLAC_LAST_FRAME_BYTES = 1 << 18
FLAC_HEADER_BYTES = 16
FLAC_BLOCKS = {1: 192, **{code: 576 << code - 2 for code in range(2, 6)}, **{code: 256 << code - 8 for code in range(8, 16)}}


def streams_of(file: BinaryIO) -> list[BinaryIO]:
    """Return the audio file as a list of streams that libsndfile can read to their end, each positioned at its start.

    In most cases this is [file]. A chained .ogg gives one stream per part. A .flac without a length in its header gives a copy with the
    length filled in.
    Raises: UndecodableError if the end of the file is missing.
    """
    head = file.read(FLAC_LENGTH.stop)
    file.seek(0)
    if head.startswith(b"OggS"):
        return _ogg_links(file)
    if head.startswith(b"fLaC") and head[4] & 127 == 0 and not int.from_bytes(head[FLAC_LENGTH]) & FLAC_LENGTH_BITS:
        return [_with_length(bytearray(file.read()))]
    return [file]


def _ogg_links(file: BinaryIO) -> list[BinaryIO]:
    """Split a chained .ogg (complete Ogg files one after another) into its parts, in order, each as a file in memory. Return [file] if it
    has one part. A part begins at each page that has the beginning-of-stream flag and follows a page without this flag. Raises:
    UndecodableError if the last page is cut off or missing."""
    starts, flags = [0], OGG_BEGINNING
    for start, page_flags in _ogg_pages(file):
        if page_flags & OGG_BEGINNING and not flags & OGG_BEGINNING:
            starts.append(start)
        flags = page_flags
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if not flags & OGG_END:
        raise UndecodableError("truncated: its last page is missing")
    return [file] if len(starts) == 1 else [io.BytesIO(file.read(end - start)) for start, end in pairwise([*starts, size])]


def _ogg_pages(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield (offset in bytes, header flags) of each Ogg page, up to the first bytes that are not a page. If a page is cut off, its flags
    are 0."""
    size, start = file.seek(0, io.SEEK_END), 0
    while start < size:
        file.seek(start)
        header = file.read(OGG_PAGE_HEADER)
        segments = file.read(header[-1]) if len(header) == OGG_PAGE_HEADER else b""
        if not header.startswith(b"OggS"):
            return
        end = start + len(header) + len(segments) + sum(segments)
        is_whole = len(header) == OGG_PAGE_HEADER and len(segments) == header[-1] and end <= size
        yield start, header[5] if is_whole else 0
        start = end


def _with_length(content: bytearray) -> BinaryIO:
    length = _flac_length(content)
    if not length:
        raise UndecodableError("its header does not contain its length, and its last frame is damaged or cut off")
    content[FLAC_LENGTH] = (int.from_bytes(content[FLAC_LENGTH]) | length).to_bytes(8)
    return io.BytesIO(content)


def _flac_length(content: bytearray) -> int:
    """Return the number of samples of a .flac, computed from the header of its last frame, or 0 if no intact frame ends at the end of the
    file."""
    fixed_block = int.from_bytes(content[10:12])
    at, first = len(content), max(42, len(content) - FLAC_LAST_FRAME_BYTES)
    while (at := content.rfind(b"\xff", first, at)) >= 0:
        found = _flac_frame(bytes(content[at : at + FLAC_HEADER_BYTES].ljust(FLAC_HEADER_BYTES, b"\0")))
        if found is not None and _checksum(content[at:], 0x8005, 16) == 0:
            number, block, is_variable = found
            return min(number + block if is_variable else number * fixed_block + block, FLAC_LENGTH_BITS)
    return 0


def _flac_frame(header: bytes) -> tuple[int, int, bool] | None:
    """Parse the header of a FLAC frame. Return (position, number of samples in the frame, True if the file's frames may vary in size), or
    None if the bytes do not begin with a frame header. The position is the index of the frame's first sample if frames may vary in size,
    else the index of the frame."""
    if header[1] & 0xFE != 0xF8:
        return None
    num_bytes = max(1, 8 - (header[4] ^ 0xFF).bit_length())  # leading ones, as in UTF-8
    number = header[4] if header[4] < 0x80 else header[4] & (0x7F >> num_bytes)
    for byte in header[5 : 4 + num_bytes]:
        number = number << 6 | byte & 0x3F
    code, at = header[2] >> 4, 4 + num_bytes
    extra = {6: 1, 7: 2}.get(code, 0)
    end = at + extra + {12: 1, 13: 2, 14: 2}.get(header[2] & 15, 0)
    if code == 0 or end >= len(header) or _checksum(header[: end + 1], 0x07, 8):
        return None
    block = 1 + int.from_bytes(header[at : at + extra]) if extra else FLAC_BLOCKS[code]
    return number, block, bool(header[1] & 1)


def _checksum(content: bytes | bytearray, polynomial: int, bits: int) -> int:
    """Return the CRC of the content with this polynomial and number of bits. It is 0 for undamaged content that ends with its own CRC."""
    table = [_divide(byte << bits - 8, polynomial, bits) for byte in range(256)]
    value, mask = 0, (1 << bits) - 1
    for byte in content:
        value = (value << 8 & mask) ^ table[value >> bits - 8 ^ byte]
    return value


def _divide(value: int, polynomial: int, bits: int) -> int:
    for _ in range(8):
        value = value << 1 ^ (polynomial if value >> bits - 1 & 1 else 0)
    return value & (1 << bits) - 1
