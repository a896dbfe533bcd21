"""Tokenizers of language models: read from a folder in Hugging Face's layout, or bytes, which need no file.

Text that somebody wrote never becomes a special token, whatever it looks like: `encode` takes it as it is, and
`encode_chat` knows what the template wrote from what people wrote.
"""

import contextlib
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from voder.errors import CheckpointError, TextError
from voder.text.sentencepiece_model import read_sentencepiece

BYTES = "bytes"
"""Names the tokenizer that needs no file."""
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
"""Ids 0 to 4 of the bytes' tokenizer."""
NUM_BYTE_IDS = len(SPECIAL_TOKENS) + 256
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""What a tokenizer may consist of in a folder."""


def byte_tokenizer() -> Any:
    """A transformers tokenizer of UTF-8 bytes (ids from 5), with begin, end and chat markers."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    kind: Any = PreTrainedTokenizerFast
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: number for number, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    tokenizer = Tokenizer(BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    pad, bos, eos, *markers = SPECIAL_TOKENS
    return kind(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        additional_special_tokens=markers,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def read_tokenizer(folder: Path) -> Any:
    """Read a tokenizer's files; nothing is downloaded and no code of theirs runs.

    Raises:
        CheckpointError: missing, damaged, or of a kind that is not read here.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in FILES):
        raise CheckpointError(f"{folder} holds no tokenizer; it needs {' or '.join(FILES[:3])}")
    if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
        return _read_sentencepiece_folder(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever damaged JSON leads to
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"the tokenizer in {folder} cannot be read ({reason})") from error
    return tokenizer


def _read_sentencepiece_folder(folder: Path) -> Any:
    """A `tokenizer.model` with what the files beside it add: tokens, and a chat template."""
    tokenizer = read_sentencepiece(folder / "tokenizer.model")
    added, settings = (_json(folder / name) for name in ("added_tokens.json", "tokenizer_config.json"))
    tokenizer.add_tokens(
        sorted((token for token in added if token not in tokenizer.get_vocab()), key=added.__getitem__)
    )
    wrong = [token for token, id_ in added.items() if tokenizer.convert_tokens_to_ids(token) != id_]
    if wrong:
        raise CheckpointError(f"{folder / 'added_tokens.json'} leaves gaps before {wrong[0]!r}; copy it again")
    tokenizer.chat_template = settings.get("chat_template")
    return tokenizer


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not readable ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} must hold a table")
    return content


def without_added(tokenizer: Any, size: int) -> Any:
    """A tokenizer without the tokens that were added from id `size` on, whose names are then text like any other."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    kind: Any = PreTrainedTokenizerFast
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < size]
    kept = {token["content"]: token["special"] for token in content["added_tokens"]}
    named = {name: token for name, token in tokenizer.special_tokens_map.items() if token in kept}
    plain = kind(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[token for token in kept if kept[token] and token not in named.values()],
        **named,
    )
    plain.chat_template = tokenizer.chat_template
    return plain


def read_unchanged(folder: Path, size: int) -> Any:
    """The tokenizer of a folder as it was with `size` ids, before others added tokens that text may now turn into.

    Raises:
        CheckpointError: missing or damaged.
    """
    model = folder / "tokenizer.model"
    return read_sentencepiece(model) if model.is_file() else without_added(read_tokenizer(folder), size)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text, without begin or end; what looks like a special token stays text.

    Raises:
        TextError: it holds half a character (a lone surrogate).
    """
    if re.search("[\ud800-\udfff]", text):
        raise TextError(f"the text {text[:40]!r} holds half a character (a lone surrogate)")
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def encode_marked(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text that a program wrote: special tokens in it are themselves."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def encode_chat(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, answer: bool = True) -> list[int]:
    """Ids of a conversation (`role`, `content`) by the tokenizer's own template, up to the assistant's turn.

    Raises:
        TextError: the tokenizer has no template, or it refuses the conversation.
    """
    if not tokenizer.chat_template:
        raise TextError("this tokenizer has no chat template; it continues text and knows no conversations")
    contents = [message["content"] for message in messages]
    marked = [{**message, "content": f"\ue000{number}\ue001"} for number, message in enumerate(messages)]
    try:
        text = tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=answer)
    except Exception as error:  # templates raise errors of their own
        raise TextError(f"the chat template refuses this conversation ({error})") from error
    ids: list[int] = []
    for number, piece in enumerate(re.split("\ue000(\\d+)\ue001", text)):
        ids += encode(tokenizer, contents[int(piece)]) if number % 2 else encode_marked(tokenizer, piece)
    return ids


def turn_end(tokenizer: Any) -> int | None:
    """The special id that ends an assistant's turn in the tokenizer's template; None if there is no template."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "\ue000"}, {"role": "assistant", "content": "\ue001"}]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False)
    behind = encode_marked(tokenizer, text.rpartition("\ue001")[2])
    return next((id_ for id_ in behind if id_ in tokenizer.all_special_ids), None)


def fingerprint(tokenizer: Any) -> str:
    """A name for exactly this tokenizer: its vocabulary, rules, special tokens and chat template."""
    backend = tokenizer.backend_tokenizer
    content = json.loads(backend.to_str())
    for passing in ("truncation", "padding"):  # settings of a call, which tokenizers keep
        content.pop(passing, None)
    text = json.dumps([content, tokenizer.special_tokens_map, tokenizer.chat_template], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@contextlib.contextmanager
def tokenizer_files(tokenizer: Any) -> Iterator[tuple[Path, str]]:
    """A folder with the files of a tokenizer, there as long as needed, and the fingerprint of what they hold."""
    with tempfile.TemporaryDirectory(prefix="voder-tokenizer-") as place:
        tokenizer.save_pretrained(place)
        yield Path(place), fingerprint(read_tokenizer(Path(place)))
