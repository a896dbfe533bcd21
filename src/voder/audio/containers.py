"""What a sound file's own bookkeeping says, read by hand where libsndfile believes it or keeps silent.

libsndfile shortens a WAV that was cut off without a word, reads an Ogg stream up to the cut, and stops a FLAC where its
header says, whatever follows. Each function here reads a few kilobytes at most.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO

from voder.errors import AudioError

_UNKNOWN_WAV_LENGTHS = {0xFFFFFFFF, 0x7FFFF000}  # what ffmpeg and sox write into a pipe, where they cannot go back
_MAX_CHUNKS = 1024  # a file of nothing but tiny chunks must not keep us
_MAX_OGG_PAGE = 65_307


def require_complete(path: Path) -> None:
    """Refuse a WAV or Ogg file that was cut short. Raises AudioError."""
    try:
        with open(path, "rb") as file:
            head = file.read(12)
            size = os.fstat(file.fileno()).st_size
            if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
                claimed, present = _wav_data_bytes(file, size)
                if claimed > present:
                    raise AudioError(
                        f"{path} is truncated: its header claims {claimed} bytes of samples, {present} are there"
                    )
            elif head[:4] == b"OggS" and _last_ogg_page_is_cut(file, size):
                raise AudioError(f"{path} is truncated: its last Ogg page is incomplete")
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {error.strerror}") from error


def flac_audio_bytes(path: Path) -> int:
    """Return how many bytes of a FLAC file lie behind its metadata."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        position = 4
        for _ in range(_MAX_CHUNKS):
            file.seek(position)
            header = file.read(4)
            if len(header) < 4:
                break
            position += 4 + int.from_bytes(header[1:], "big")
            if header[0] & 0x80:
                break
    return max(0, size - position)


def _wav_data_bytes(file: BinaryIO, size: int) -> tuple[int, int]:
    """Return (claimed, present) bytes of the first data chunk; (0, 0) where there is none or its length is unknown."""
    position, long_length = 12, None
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            break
        name, length = header[:4], struct.unpack("<I", header[4:])[0]
        if name == b"ds64":
            body = file.read(16)
            long_length = struct.unpack("<Q", body[8:])[0] if len(body) == 16 else None
        if name == b"data":
            if length == 0xFFFFFFFF and long_length is not None:
                length = long_length
            elif length in _UNKNOWN_WAV_LENGTHS:
                break
            return length, size - position - 8
        position += 8 + length + length % 2
    return 0, 0


def _last_ogg_page_is_cut(file: BinaryIO, size: int) -> bool:
    """Say whether the last page that begins in the file does not end in it."""
    file.seek(max(0, size - 2 * _MAX_OGG_PAGE))
    tail = file.read(2 * _MAX_OGG_PAGE)
    page = tail.rfind(b"OggS")
    if page < 0:
        return True
    segments = tail[page + 26] if len(tail) > page + 26 else 255
    table = tail[page + 27 : page + 27 + segments]
    return len(table) < segments or page + 27 + segments + sum(table) > len(tail)
