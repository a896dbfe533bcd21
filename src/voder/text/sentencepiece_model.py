"""A SentencePiece `tokenizer.model` of the byte-pair kind (Llama's), read without the package.

The file is a protocol buffer of pieces with scores. What comes out is a transformers tokenizer with the same ids for
any text: blanks are written as `▁`, one is put in front, and characters without a piece become bytes.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from voder.errors import CheckpointError

_UNKNOWN, _CONTROL, _BYTE_PAIRS = 2, 3, 2
_BLANK = "▁"


def read_sentencepiece(file: Path) -> Any:
    """Read it as a transformers tokenizer with `<s>`, `</s>` and `<unk>`.

    Raises:
        CheckpointError: missing, damaged, or of another kind than byte pairs.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    pieces = _pieces(file)
    ids = {piece: number for number, (piece, _) in enumerate(pieces)}
    special = [piece for piece, kind in pieces if kind in (_UNKNOWN, _CONTROL)]
    unknown = next((piece for piece, kind in pieces if kind == _UNKNOWN), None)
    tokenizer = Tokenizer(BPE(vocab=ids, merges=_merges(ids), unk_token=unknown, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_BLANK), normalizers.Replace(" ", _BLANK)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in special])
    kind: Any = PreTrainedTokenizerFast
    named = {f"{name}_token": piece for name, piece in (("bos", "<s>"), ("eos", "</s>")) if piece in ids}
    return kind(tokenizer_object=tokenizer, unk_token=unknown, clean_up_tokenization_spaces=False, **named)


def _pieces(file: Path) -> list[tuple[str, int]]:
    """Pieces in the order of their ids, each with its type."""
    try:
        content = file.read_bytes()
        pieces, kind = [], 1
        for number, value in _fields(content):
            if number == 1:
                entry = dict(_fields(value))
                pieces.append((entry[1].decode("utf-8"), int(entry.get(3, 1))))
            elif number == 2:
                kind = int(dict(_fields(value)).get(3, 1))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
    except (IndexError, KeyError, ValueError, TypeError, AttributeError, struct.error) as error:
        raise CheckpointError(f"{file} is damaged or no SentencePiece model ({type(error).__name__})") from error
    if not pieces or kind != _BYTE_PAIRS:
        raise CheckpointError(
            f"{file} is no SentencePiece model of byte pairs, which alone is read without its package"
        )
    return pieces


def _merges(ids: dict[str, int]) -> list[tuple[str, str]]:
    """Which two pieces make a third: earlier pieces first, as their scores say."""
    found = []
    for piece, number in ids.items():
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [(ids[left], ids[right], left, right) for left, right in pairs if left in ids and right in ids]
        found += [(number, *each) for each in sorted(known)]
    return [(left, right) for *_, left, right in sorted(found, key=lambda each: each[0])]


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a protocol buffer's fields."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value: Any
            value, at = _varint(content, at)
        elif wire == 2:
            length, at = _varint(content, at)
            value, at = content[at : at + length], at + length
            if at > len(content):
                raise ValueError("cut short")
        elif wire in (1, 5):
            width = 8 if wire == 1 else 4
            value, at = content[at : at + width], at + width
        else:
            raise ValueError(f"wire type {wire}")
        yield number, value


def _varint(content: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = content[at]
        result |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return result, at
