"""Speaking from converted checkpoints of lifeiteng/vall-e and VALL-E-X.

They read phoneme ids. `ids: 5 12 7` says ids as they are, of the text and of the prompt's text, and needs nothing.
Plain text needs the checkpoint's table of symbols and the package phonemizer with espeak; what is missing is named. The
voice is a recording: these networks know no speaker by name.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch

from voder.config import nearest
from voder.data.randomness import torch_generator
from voder.errors import ConfigError, InputError, TextError
from voder.generate.sampling import SamplingConfig, sampling_config
from voder.generate.sound import decode_codes
from voder.roles import Codec, SayRequest, Speaker, Speech, device_of
from voder.systems.valle.original import OriginalValle
from voder.systems.valle.original_infer import CODES_PER_PHONEME, say
from voder.text.normalize import spell

DEFAULT_SAMPLING = {"temperature": 1.0, "top_k": 0}
"""The original's."""
AS_IDS = "ids:"
BEGIN, END = "<bos>", "<eos>"
_SYMBOLS = re.compile(r"\w+|[^\w\s]")
LANGUAGES = ("zh", "ja", "en")
"""VALL-E-X's, in the order of their numbers."""


class OriginalSpeaker(Speaker):
    """A network of the original and the codec whose codes it speaks."""

    def __init__(
        self, model: OriginalValle, codec: Codec, *, symbols: tuple[str, ...] = (), espeak_language: str = "en-us"
    ) -> None:
        super().__init__()
        self.model, self.codec = model, codec
        self.numbers = {symbol: number for number, symbol in enumerate(symbols)}
        self.espeak_language = espeak_language

    @property
    def speakers(self) -> tuple[str, ...]:
        """None: a voice is a recording."""
        return ()

    @property
    def languages(self) -> tuple[str, ...]:
        """VALL-E-X's, by their numbers."""
        return LANGUAGES[: self.model.config.num_languages]

    @torch.no_grad()
    def say_batch(self, requests: Sequence[SayRequest], *, seed: int = 0, **sampling: Any) -> list[Speech]:
        """Say several things, one after another; the same seed gives the same speech.

        Args:
            sampling: for VALL-E-X `language` of the text (zh, ja or en, the default) and `voice_language` of what is
                said in the recording (that of the text if not given); fields of `SamplingConfig`, the original's when
                nothing is said.

        Raises:
            TextError: a text that is empty, has ids or symbols that the checkpoint does not know, or needs a package.
            InputError: no recording to speak like, or a speaker's name.
            ConfigError: an option that does not exist or is out of range.
        """
        numbers = self._language_numbers(sampling.pop("language", None), sampling.pop("voice_language", None))
        config = sampling_config(sampling, DEFAULT_SAMPLING)
        return [self._say(request, config, seed, numbers) for request in requests]

    def _say(self, request: SayRequest, sampling: SamplingConfig, seed: int, numbers: tuple[int, int] | None) -> Speech:
        if request.prompt is None or request.speaker is not None:
            raise InputError("this network speaks like a recording and knows no speaker by name: give a recording")
        config, device = self.model.config, device_of(self.model)
        before = self.ids(request.prompt_text or "", begin=True)
        behind = self._ids_of_text(request.text)
        ids = torch.tensor([[*before, *behind]], device=device)
        languages = None
        if numbers is not None:
            languages = torch.tensor([[numbers[0]] * len(before) + [numbers[1]] * len(behind)], device=device)
        prompt = torch.from_numpy(self.codec.encode(request.prompt)[: config.num_codebooks])[None].to(device)
        said = say(
            self.model,
            ids,
            prompt,
            # as the original counts, which ends the prompt's text with a mark of its own
            enrolled=len(before) + 1 if before else 0,
            languages=languages,
            sampling=sampling,
            generator=torch_generator(seed, "say", request.text),
        )
        codes = said[0].cpu().numpy()
        if not codes.shape[1]:
            raise TextError(f"the network ended at once and said nothing of {request.text[:60]!r}; try another seed")
        reached = codes.shape[1] > CODES_PER_PHONEME * ids.shape[1] - config.prepend_bos
        (clip,) = decode_codes(self.codec, [codes])
        return Speech(clip=clip, codes=codes, stop_reason="limit" if reached else "end", truncated=reached)

    def _ids_of_text(self, text: str) -> list[int]:
        if not text.strip() or text.strip() == AS_IDS:
            raise TextError("the text is empty; give something to say")
        return self.ids(text, end=True)

    def ids(self, text: str, *, begin: bool = False, end: bool = False) -> list[int]:
        """Ids of a text, `ids: …` as they are; else phonemes, with the marks that the table has for begin and end.

        Raises:
            TextError: an id or a phoneme that the checkpoint does not know, or a package that is missing.
        """
        if text.strip().startswith(AS_IDS):
            return self._given(text.strip().removeprefix(AS_IDS).split())
        marks = [self.numbers[mark] for mark, wanted in ((BEGIN, begin), (END, end)) if wanted and mark in self.numbers]
        spoken = self._known(phonemes(text, self.espeak_language, self._why_not())) if text.strip() else []
        return [*marks, *spoken] if begin else [*spoken, *marks]

    def _given(self, words: list[str]) -> list[int]:
        count = self.model.config.num_text_ids
        for word in words:
            if not word.isdecimal() or int(word) >= count:
                raise TextError(f"{word!r} is no id of this checkpoint; allowed are 0 to {count - 1}")
        return [int(word) for word in words]

    def _why_not(self) -> str:
        return "" if self.numbers else "this checkpoint has no table of symbols (convert it with symbols=FILE)"

    def _known(self, symbols: Sequence[str]) -> list[int]:
        unknown = sorted({symbol for symbol in symbols if symbol not in self.numbers})
        if unknown:
            raise TextError(
                f"the checkpoint's table has no symbol {', '.join(unknown)}; it was made for another language"
            )
        return [self.numbers[symbol] for symbol in symbols]

    def _language_numbers(self, text: str | None, voice: str | None) -> tuple[int, int] | None:
        """Numbers of the languages of the recording's text and of the text to say; None where there are none."""
        if not self.languages:
            if text or voice:
                raise ConfigError(f"language is {text or voice}, but this network was not told apart by languages")
            return None
        for language in (text, voice):
            if language is not None and language not in self.languages:
                raise ConfigError(f"language is {language!r}{nearest(language, self.languages)}")
        own = LANGUAGES.index(text or "en")
        return own if voice is None else LANGUAGES.index(voice), own


def phonemes(text: str, language: str, why_not: str = "") -> list[str]:
    """Phonemes of a text with `_` between words, as espeak has them.

    Raises:
        TextError: `why_not`, or phonemizer or espeak is not installed; says how to speak without.
    """
    without = f"give phoneme ids instead, such as '{AS_IDS} 5 12 7'"
    if why_not:
        raise TextError(f"{why_not}: {without}")
    try:
        from phonemizer.backend import EspeakBackend
        from phonemizer.separator import Separator
    except ImportError as error:
        raise TextError(f"phonemes of a text need the package phonemizer, which is not installed: {without}") from error
    try:
        backend = EspeakBackend(language, preserve_punctuation=True, with_stress=False)
    except RuntimeError as error:
        raise TextError(
            f"phonemes of a text need espeak-ng, which phonemizer does not find ({error}): {without}"
        ) from error
    (made,) = backend.phonemize([spell(text)], separator=Separator(word="_", syllable="-", phone="|"), strip=True)
    words = [[symbol for symbol in _SYMBOLS.findall(word) if symbol != "|"] for word in made.split("_")]
    return [symbol for word in words for symbol in (*word, "_")][:-1]


def read_symbols(lines: Sequence[str]) -> tuple[str, ...]:
    """A table of `symbol number` lines (lifeiteng's unique_text_tokens.k2symbols), in the order of the numbers.

    Raises:
        TextError: a line that is no such pair, or numbers with gaps.
    """
    table: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        symbol, _, place = line.rstrip("\r\n").rpartition(" ")
        if not line.strip():
            continue
        if not symbol or not place.isdecimal() or int(place) in table:
            raise TextError(f"line {number} of the table of symbols must be a symbol and its own number: {line[:40]!r}")
        table[int(place)] = symbol
    if sorted(table) != list(range(len(table))):
        raise TextError("the numbers of the table of symbols must run from 0 without gaps")
    return tuple(table[i] for i in range(len(table)))
