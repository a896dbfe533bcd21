"""Recordings of any length (2212.04356, section 4.5): a window of 30 s at a time, moved on by whole segments.

A `Dictation` is one recording: it says which window it wants to hear and takes the answer. So any number of recordings
are listened to side by side, a batch of their present windows at a time, each as if it were alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from voder.shapes import Mel
from voder.systems.whisper.config import FRAMES_PER_POSITION, FRAMES_PER_S, HOP, SAMPLE_RATE_HZ, ListenConfig
from voder.systems.whisper.decoding import Answer, Question, answer_soundly, language_chances
from voder.systems.whisper.features import fit_window
from voder.systems.whisper.model import AudioMemory, WhisperModel
from voder.systems.whisper.timing import TimedWords, Word, cut_at_pause, time_words
from voder.systems.whisper.tokenizer import SECONDS_PER_TIMESTAMP, WhisperTokenizer

_FRAME_S = HOP / SAMPLE_RATE_HZ
_FORGET_ABOVE = 0.5
"""Text drawn above this temperature is not shown to the next window."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of a recording and what is said in it. Figures take no part in comparisons: they depend on rounding."""

    window_frame: int
    """First frame of the window it was heard in."""
    start_s: float
    end_s: float
    text: str
    ids: tuple[int, ...]
    temperature: float
    mean_log_probability: float = field(compare=False)
    compression_ratio: float = field(compare=False)
    no_speech: float = field(compare=False)
    words: tuple[Word, ...] | None = field(default=None, compare=False)
    """When each word is said, if asked for."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """What a dictation wants to hear next."""

    mel: Mel
    question: Question
    num_frames: int
    """Frames that are not padding."""


class Dictation:
    """One recording on its way to text."""

    def __init__(
        self, mel: Mel, listen: ListenConfig, vocabulary_size: int, window_frames: int, num_positions: int
    ) -> None:
        """`mel` is that of the whole recording and of one window of silence after it."""
        self.mel, self.listen, self.window_frames = mel, listen, window_frames
        self.vocabulary_size = vocabulary_size
        self.half = num_positions // 2
        self.content_frames = mel.shape[2] - window_frames
        multilingual = WhisperTokenizer(vocabulary_size).multilingual
        self.tokenizer: WhisperTokenizer | None = None
        if listen.language or not multilingual:
            self.set_language(listen.language or "en")
        self.initial = self._initial_ids()
        self.ids = list(self.initial)
        self.segments: list[Segment] = []
        self.cut = False
        """True when the length limit took something away."""
        self._reset_at = 0
        self._spoken_until_s = 0.0
        self._clips = list(self._stretches())
        self._seek = self._clips[0][0] if self._clips else 0

    def _initial_ids(self) -> list[int]:
        if self.listen.initial_prompt is None:
            return []
        return WhisperTokenizer(self.vocabulary_size).encode(" " + self.listen.initial_prompt.strip())

    def _stretches(self) -> Iterator[tuple[int, int]]:
        points = [round(t * FRAMES_PER_S) for t in self.listen.clip_timestamps_s] or [0]
        if len(points) % 2:
            points.append(self.content_frames)
        yield from zip(points[::2], points[1::2], strict=True)

    def set_language(self, language: str) -> None:
        """Say what is spoken."""
        self.tokenizer = WhisperTokenizer(self.vocabulary_size, language=language, task=self.listen.task)

    def beginning(self) -> Mel:
        """The window that the language is told from."""
        return fit_window(self.mel, self.window_frames)

    def next_window(self) -> Window | None:
        """What to hear next; None at the end."""
        while self._clips:
            start, end = self._clips[0]
            self._seek = max(self._seek, start)
            end = min(end, self.content_frames)
            if self._seek < end:
                break
            self._clips.pop(0)
            if self._clips:
                self._seek = self._clips[0][0]
        if not self._clips:
            return None
        assert self.tokenizer is not None
        count = min(self.window_frames, end - self._seek)
        mel = fit_window(self.mel[..., self._seek : self._seek + count], self.window_frames)
        question = Question(tokenizer=self.tokenizer, previous=tuple(self._previous()), number=self._seek)
        return Window(mel=mel, question=question, num_frames=count)

    def _previous(self) -> list[int]:
        if not self.listen.carry_initial_prompt:
            return self.ids[self._reset_at :]
        room = max(self.half - 1 - len(self.initial), 0)
        recent = self.ids[max(len(self.initial), self._reset_at) :]
        return [*self.initial, *(recent[-room:] if room else [])]

    def hear(self, window: Window, found: Answer, timed: TimedWords | None = None) -> None:
        """Take the answer to a window and move on."""
        listen = self.listen
        if listen.no_speech_threshold is not None and found.no_speech > listen.no_speech_threshold:
            probable = listen.logprob_threshold is not None and found.mean_log_probability > listen.logprob_threshold
            if not probable:
                self._seek += window.num_frames
                return
        pieces, advance = self._cut_at_timestamps(window, found)
        if found.stop_reason == "limit" and advance == window.num_frames:
            self.cut = True
        if timed is not None and timed.words:
            pieces = self._with_words(pieces, timed)
            if not self._is_closed(found):  # nothing after the last word has been heard yet
                advance = max(round(timed.words[-1].end_s * FRAMES_PER_S) - self._seek, 1)
        self._seek += advance
        pieces = [
            _emptied(piece) if piece.start_s == piece.end_s or not piece.text.strip() else piece for piece in pieces
        ]
        self.segments += pieces
        self.ids += [i for piece in pieces for i in piece.ids]
        if not listen.condition_on_previous_text or found.temperature > _FORGET_ABOVE:
            self._reset_at = len(self.ids)

    def _cut_at_timestamps(self, window: Window, found: Answer) -> tuple[list[Segment], int]:
        """Segments between pairs of timestamps, and how many frames to move on."""
        assert self.tokenizer is not None
        first = self.tokenizer.timestamp_begin
        ids = list(found.ids)
        marks = [i >= first for i in ids]
        begins = [i + 1 for i in range(len(ids) - 1) if marks[i] and marks[i + 1]]
        closed = self._is_closed(found)
        offset_s = self._seek * _FRAME_S
        if begins:
            ends = [*begins, len(ids)] if closed else begins
            runs = [ids[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
            pieces = [
                self._segment(
                    found,
                    offset_s + (run[0] - first) * SECONDS_PER_TIMESTAMP,
                    offset_s + (run[-1] - first) * SECONDS_PER_TIMESTAMP,
                    run,
                )
                for run in runs
            ]
            last = (ids[ends[-1] - 1] - first) * FRAMES_PER_POSITION
            return pieces, window.num_frames if closed else last
        said = [i for i in ids if i >= first]
        duration_s = window.num_frames * _FRAME_S
        if said and said[-1] != first:
            duration_s = (said[-1] - first) * SECONDS_PER_TIMESTAMP
        return [self._segment(found, offset_s, offset_s + duration_s, ids)], window.num_frames

    def _is_closed(self, found: Answer) -> bool:
        """Whether the answer ends with a single timestamp: nothing more is said in the window."""
        assert self.tokenizer is not None
        return [i >= self.tokenizer.timestamp_begin for i in found.ids[-2:]] == [False, True]

    def _segment(self, found: Answer, start_s: float, end_s: float, ids: Sequence[int]) -> Segment:
        assert self.tokenizer is not None
        return Segment(
            window_frame=self._seek,
            start_s=start_s,
            end_s=end_s,
            text=self.tokenizer.decode([i for i in ids if i < self.tokenizer.eot]),
            ids=tuple(ids),
            temperature=found.temperature,
            mean_log_probability=found.mean_log_probability,
            compression_ratio=found.compression_ratio,
            no_speech=found.no_speech,
        )

    def _with_words(self, pieces: list[Segment], timed: TimedWords) -> list[Segment]:
        """Share a window's words out to its segments, whose times they sharpen."""
        rest, fitted = list(timed.words), []
        for piece in pieces:
            own: list[Word] = []
            while rest and sum(len(w.text) for w in own) < len(piece.text):
                own.append(rest.pop(0))
            if own:
                piece = _fitted(piece, cut_at_pause(own, timed.usual_s, self._spoken_until_s), timed.usual_s)
                self._spoken_until_s = piece.end_s
            else:
                piece = replace(piece, words=())
            fitted.append(piece)
        return fitted

    @property
    def text(self) -> str:
        """All that was written, as one text."""
        return WhisperTokenizer(self.vocabulary_size).decode(self.ids[len(self.initial) :])


def _emptied(segment: Segment) -> Segment:
    """Nothing was said, or it took no time."""
    return replace(segment, text="", ids=(), words=())


def _fitted(piece: Segment, words: list[Word], usual_s: float) -> Segment:
    """A segment begins and ends with its words; of a word that strays by more than half a second, the segment's own
    time is believed."""
    first, last = words[0], words[-1]
    start_s, end_s = first.start_s, last.end_s
    if first.start_s + 0.5 < piece.start_s < first.end_s:
        start_s = piece.start_s
        words[0] = replace(first, start_s=min(max(0.0, first.end_s - usual_s), start_s))
    if last.start_s < piece.end_s < last.end_s - 0.5:
        end_s = piece.end_s
        words[-1] = replace(words[-1], end_s=max(last.start_s + usual_s, end_s))
    return replace(piece, words=tuple(words), start_s=start_s, end_s=end_s)


@torch.no_grad()
def dictate(model: WhisperModel, dictations: Sequence[Dictation], *, batch_size: int = 8) -> None:
    """Listen to recordings side by side until each is at its end."""
    going = list(dictations)
    while going:
        for dictation in going[:batch_size]:
            if dictation.tokenizer is None:
                _identify(model, dictation)
        present = [(d, window) for d in going[:batch_size] if (window := d.next_window()) is not None]
        ended = {id(d) for d in going[:batch_size]} - {id(d) for d, _ in present}
        going = [d for d in going if id(d) not in ended]
        if present:
            _hear_windows(model, present)


def _identify(model: WhisperModel, dictation: Dictation) -> None:
    tokenizer = WhisperTokenizer(model.config.vocabulary_size)
    chances = language_chances(model, model.encoder(_on(model, dictation.beginning())), tokenizer)
    dictation.set_language(tokenizer.codes[int(chances[0].argmax())])


def _hear_windows(model: WhisperModel, present: Sequence[tuple[Dictation, Window]]) -> None:
    states = model.encoder(_on(model, torch.cat([window.mel for _, window in present])))
    memory: AudioMemory = model.decoder.remember(states)
    questions = [window.question for _, window in present]
    answers = answer_soundly(model, memory, questions, present[0][0].listen)
    for row, ((dictation, window), found) in enumerate(zip(present, answers, strict=True)):
        timed = None
        if dictation.listen.word_timestamps:
            offset_s = window.question.number * _FRAME_S
            timed = time_words(
                model, states[row : row + 1], window.question.tokenizer, found.ids, window.num_frames, offset_s
            )
        dictation.hear(window, found, timed)


def _on(model: WhisperModel, mel: Tensor) -> Tensor:
    """On the model's device, in its number format."""
    return mel.to(model.encoder.conv1.weight)
