"""From windows to answers: prompts, one session for sampling and beams, ranking, retreat to higher temperatures.

The original runs the encoder again for every temperature and cannot batch beams; here a window is encoded once,
whatever is tried on it, and any number of windows with prompts of any lengths are decoded together.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from voder.data.randomness import torch_generator
from voder.generate.beam import BeamConfig, beam_search
from voder.generate.decode import Limits, StopReason, decode
from voder.generate.sampling import SamplingConfig
from voder.nn.cache import StaticCache
from voder.systems.whisper.config import ListenConfig
from voder.systems.whisper.model import AudioMemory, AudioStates, TextDecoder, WhisperModel, causal
from voder.systems.whisper.rules import Rules
from voder.systems.whisper.tokenizer import WhisperTokenizer


@dataclass(frozen=True, kw_only=True)
class Question:
    """What stands before an answer."""

    tokenizer: WhisperTokenizer
    """Of the window's language and task."""
    previous: tuple[int, ...] = ()
    """Ids that came before the window."""
    prefix: tuple[int, ...] = ()
    """Ids that the answer begins with."""
    number: int = 0
    """Tells the draws of one window from those of another: its first frame."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a window says."""

    ids: tuple[int, ...]
    text: str
    language: str
    temperature: float
    mean_log_probability: float
    """Per id, the end counted."""
    no_speech: float
    """Chance that nobody speaks."""
    stop_reason: StopReason
    """`limit` when the answer was cut."""

    @property
    def compression_ratio(self) -> float:
        """How far the text can be compressed; high for loops."""
        return compression_ratio(self.text)


def compression_ratio(text: str) -> float:
    """Bytes of a text over bytes of its zlib stream."""
    raw = text.encode("utf-8")
    return len(raw) / len(zlib.compress(raw))


def initial_ids(question: Question, listen: ListenConfig, num_positions: int) -> list[int]:
    """Previous text (at most half the positions), start, language, task, timestamps or not, prefix."""
    tokenizer, half = question.tokenizer, num_positions // 2
    ids = [*tokenizer.prompt, *(() if listen.timestamps else (tokenizer.no_timestamps,))]
    if question.prefix:
        room = half - (listen.sample_len or half)
        ids += question.prefix[-room:]
    if question.previous:
        ids = [tokenizer.sot_prev, *question.previous[-(half - 1) :], *ids]
    return ids


class WhisperSession:
    """A batch of prompts over their windows, as the decoding engine wants it: rules are applied here."""

    def __init__(
        self,
        decoder: TextDecoder,
        memory: AudioMemory,
        prompts: Sequence[Sequence[int]],
        rules: Rules,
        *,
        longest: int,
        copies: int = 1,
    ) -> None:
        """Prompts of different lengths are padded on the left; every row is decoded `copies` times."""
        self.decoder, self.memory, self.rules, self.copies = decoder, memory, rules, copies
        device = memory.items.device
        width = max(map(len, prompts))
        self.valid = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts], device=device)
        self.ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
        self.padded = not bool(self.valid.all())
        self.margins = self.start_at = (~self.valid).sum(dim=1)
        self.cache = StaticCache(len(decoder.blocks), width + longest)
        self.hidden: Tensor | None = None

    def start(self) -> Tensor:
        """Read the prompts."""
        positions = (torch.arange(self.ids.shape[1], device=self.ids.device) - self.start_at[:, None]).clamp(min=0)
        self.hidden = self.decoder.hidden(
            self.ids,
            self.memory,
            positions=positions if self.padded else None,
            mask=causal(self.ids, self.valid),
            cache=self.cache,
        )
        logits = self.decoder.logits(self.hidden[:, -1:])[:, 0]
        if self.copies > 1:
            rows = torch.arange(len(logits), device=logits.device).repeat_interleave(self.copies)
            logits = logits[rows]
            self.select(rows)
        return self.rules.apply(logits)

    def step(self, ids: Tensor) -> Tensor:
        """Append one id per row."""
        self.rules.observe(ids)
        positions = mask = None
        if self.padded:
            self.valid = torch.cat((self.valid, torch.ones_like(self.valid[:, :1])), dim=1)
            positions, mask = (self.cache.length - self.start_at)[:, None], self.valid[:, None]
        hidden = self.decoder.hidden(ids[:, None], self.memory, positions=positions, mask=mask, cache=self.cache)
        return self.rules.apply(self.decoder.logits(hidden)[:, 0])

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        if len(rows) == len(self.valid) and torch.equal(rows, torch.arange(len(rows), device=rows.device)):
            return
        self.memory.select(rows)
        self.cache.select(rows)
        self.rules.select(rows)
        self.valid, self.start_at = self.valid[rows], self.start_at[rows]

    def chance_at(self, id_: int, positions: Sequence[int]) -> list[float]:
        """Probability of an id after the prompt's id at each row's position (counted without padding)."""
        assert self.hidden is not None
        rows = torch.arange(len(self.hidden), device=self.hidden.device)
        at = self.margins + torch.tensor(list(positions), device=self.hidden.device)
        logits = self.decoder.logits(self.hidden[rows, at][:, None])[:, 0]
        chances: list[float] = logits.softmax(dim=-1)[:, id_].tolist()
        return chances


_Said = tuple[tuple[int, ...], float, StopReason]
"""Ids, log probability, and how it ended."""


@torch.no_grad()
def answer(
    model: WhisperModel,
    memory: AudioMemory,
    questions: Sequence[Question],
    listen: ListenConfig,
    temperature: float,
) -> list[Answer]:
    """Answer one question per item of `memory` at one temperature."""
    copies = listen.best_of if temperature > 0 else 1
    positions = model.config.num_text_positions
    prompts = [initial_ids(question, listen, positions) for question in questions]
    wanted = listen.sample_len or positions // 2
    lengths = [max(1, min(wanted, positions + 1 - len(prompt))) for prompt in prompts]
    tokenizer = questions[0].tokenizer
    rules = Rules(tokenizer, listen, len(prompts), memory.items.device)
    longest = max(lengths)
    session = WhisperSession(model.decoder, memory.copy(), prompts, rules, longest=longest, copies=copies)
    if temperature == 0 and listen.beam_size > 1:
        config = BeamConfig(num_beams=listen.beam_size, length_penalty=0.0, patience=listen.patience)
        found = beam_search(session, config, Limits(end_ids=(tokenizer.eot,), max_lengths=lengths))
        groups = [[(h.ids, h.log_probability, h.stop_reason) for h in row] for row in found]
    else:
        limits = Limits(end_ids=(tokenizer.eot,), max_lengths=[n for n in lengths for _ in range(copies)])
        groups = _draw(session, limits, questions, listen, temperature, copies)
    silence = session.chance_at(tokenizer.no_speech, [prompt.index(tokenizer.sot) for prompt in prompts])
    return [
        _best(group, question, listen, temperature, chance)
        for group, question, chance in zip(groups, questions, silence, strict=True)
    ]


def _draw(
    session: WhisperSession,
    limits: Limits,
    questions: Sequence[Question],
    listen: ListenConfig,
    temperature: float,
    copies: int,
) -> list[list[_Said]]:
    """Greedy, or several draws per question, each with a generator of its own."""
    sampling = SamplingConfig(greedy=temperature == 0, temperature=temperature or 1.0)
    generators = [
        torch_generator(listen.seed, "listen", question.number, round(temperature * 1000), copy)
        for question in questions
        for copy in range(copies)
    ]
    said = decode(session, sampling, limits, generators, with_log_probabilities=True)
    rows: list[_Said] = [(tuple(d.ids), d.log_probability, d.stop_reason) for d in said]
    return [rows[i : i + copies] for i in range(0, len(rows), copies)]


def _best(
    group: Sequence[_Said],
    question: Question,
    listen: ListenConfig,
    temperature: float,
    no_speech: float,
) -> Answer:
    """The likeliest of several answers, by length."""

    def score(ids: tuple[int, ...], log_probability: float) -> float:
        if listen.length_penalty is None:
            return log_probability / max(len(ids), 1)
        return log_probability / ((5 + len(ids)) / 6) ** listen.length_penalty

    ids, log_probability, reason = max(group, key=lambda g: score(g[0], g[1]))
    return Answer(
        ids=ids,
        text=question.tokenizer.decode(ids).strip(),
        language=question.tokenizer.language or "en",
        temperature=temperature,
        mean_log_probability=log_probability / (len(ids) + 1),
        no_speech=no_speech,
        stop_reason=reason,
    )


def loops(found: Answer, listen: ListenConfig) -> bool:
    """Whether a text repeats itself."""
    threshold = listen.compression_ratio_threshold
    return threshold is not None and found.compression_ratio > threshold


def is_sound(found: Answer, listen: ListenConfig) -> bool:
    """Whether an answer is taken: it is no loop and not improbable, or it is silence."""
    improbable = listen.logprob_threshold is not None and found.mean_log_probability < listen.logprob_threshold
    silent = listen.no_speech_threshold is not None and found.no_speech > listen.no_speech_threshold
    return not (improbable or loops(found, listen)) or (silent and improbable)


def answer_soundly(
    model: WhisperModel, memory: AudioMemory, questions: Sequence[Question], listen: ListenConfig
) -> list[Answer]:
    """Answer at the first temperature; what does not look sound is answered again at the next.

    Where no temperature gives a sound answer, the best of all tries is kept under the last temperature, which says
    that it is not to be trusted. (The original keeps the last try, whatever it is: often noise, sometimes a loop.)
    """
    tries: list[list[Answer]] = [[] for _ in questions]
    open_ = list(range(len(questions)))
    for temperature in listen.temperatures:
        rows = torch.tensor(open_, device=memory.items.device)
        found = answer(model, memory.copy(rows), [questions[i] for i in open_], listen, temperature)
        for i, each in zip(open_, found, strict=True):
            tries[i].append(each)
        open_ = [i for i in open_ if not is_sound(tries[i][-1], listen)]
        if not open_:
            break
    return [_least_bad(tries[i], listen) if i in open_ else tries[i][-1] for i in range(len(questions))]


def _least_bad(tries: Sequence[Answer], listen: ListenConfig) -> Answer:
    """The likeliest answer that is no loop, or the one that loops least."""
    straight = [found for found in tries if not loops(found, listen)]
    if straight:
        best = max(straight, key=lambda found: found.mean_log_probability)
    else:
        best = min(tries, key=lambda found: found.compression_ratio)
    return replace(best, temperature=tries[-1].temperature)


@torch.no_grad()
def language_chances(
    model: WhisperModel, states: AudioStates, tokenizer: WhisperTokenizer
) -> Float[Tensor, "batch language"]:
    """Chance of each language of the vocabulary, from the id that follows the start."""
    ids = torch.full((len(states), 1), tokenizer.sot, device=states.device)
    logits = model.decoder.logits(model.decoder.hidden(ids, model.decoder.remember(states)))[:, 0]
    return logits[:, list(tokenizer.language_ids)].softmax(dim=-1)
