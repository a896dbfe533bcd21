"""Answers about recordings: `ask`. Also the closed-ended way: which of several labels a recording has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from voder.audio.io import AudioClip
from voder.checkpoint import Checkpoint
from voder.config import nearest
from voder.data.randomness import generator
from voder.errors import ConfigError, TextError
from voder.nn.causal_lm import CausalLmSession
from voder.roles import Answer, Listener, device_of
from voder.shapes import Embeddings
from voder.systems.pengi.beam import Found, SearchConfig, search
from voder.systems.pengi.formats import DESCRIBING, PROMPTS
from voder.systems.pengi.hearing import hear
from voder.systems.pengi.model import Pengi, answer_loss
from voder.systems.pengi.reading import Reader
from voder.train.base_lm import tokenizer_of


@dataclass(frozen=True)
class Asking:
    """How an answer is looked for."""

    search: SearchConfig = field(default_factory=SearchConfig)
    published: bool = False
    """As the authors' inference: stereo flattened, a random stretch of long audio, the prompt's vector unscaled."""

    def changed(self, **options: Any) -> "Asking":
        """The same with other options: `beam`, `max_new`, `temperature`, `greedy`, `published`.

        Raises:
            ConfigError: an unknown option, or one that has nothing to do.
        """
        known = ["beam", "max_new", "temperature", "greedy", "published"]
        for name in options:
            if name not in known:
                raise ConfigError(f"pengi answers by beams and takes no {name!r}{nearest(name, known)}")
        if options.get("greedy") and options.get("beam", 1) != 1:
            raise ConfigError(f"greedy leaves nothing for beam {options['beam']} to search; give one or the other")
        if options.get("greedy"):
            options = {**options, "beam": 1}
        names = {"beam": "num_beams", "max_new": "max_new", "temperature": "temperature"}
        changes = {ours: options[given] for given, ours in names.items() if given in options}
        return replace(
            self,
            search=replace(self.search, **changes),
            published=bool(options.get("published", self.published)),
        )


class PengiListener(Listener):
    """A recording and a prompt to text."""

    def __init__(self, model: Pengi, reader: Reader) -> None:
        super().__init__()
        self.model, self.reader = model, reader

    @torch.no_grad()
    def answer_batch(
        self, clips: Sequence[AudioClip], questions: Sequence[str], *, seed: int = 0, **sampling: Any
    ) -> list[Answer]:
        """Answer a prompt about each clip; the first seconds are heard (`config.clip_s`), as often as they fit.

        Options: `beam` (3), `max_new` (30), `temperature` (1), `greedy`, and `published` (see `Asking`), under which
        alone `seed` has a part.

        Raises:
            TextError: a prompt is empty or too long.
            ConfigError: an option that is unknown or has nothing to do.
        """
        how = Asking().changed(**sampling)
        room = self.model.config.lm.max_positions - 2 * self.model.config.mapper.prefix
        limited = replace(how.search, max_new=min(how.search.max_new, room))
        answers = []
        for clip, question in zip(clips, questions, strict=True):
            prefix = self._prefix(clip, question, how, seed)
            mask = torch.ones(prefix.shape[:2], dtype=torch.long, device=prefix.device)
            best = search(CausalLmSession(self.model.lm, prefix, mask), limited, self.reader.end_id)[0]
            answers.append(self._answer(clip, best))
        return answers

    def _answer(self, clip: AudioClip, best: Found) -> Answer:
        longest_s = self.model.config.clip_s
        unheard = clip.duration_s > longest_s
        return Answer(
            text=self.reader.answer(best.ids),
            heard_s=min(clip.duration_s, longest_s),
            truncated=unheard or best.stop_reason == "limit",
            stop_reason=f"only the first {longest_s:g} s are heard" if unheard else best.stop_reason,
        )

    def _prefix(self, clip: AudioClip, question: str, how: Asking, seed: int) -> Embeddings:
        device = device_of(self.model)
        samples = hear(
            clip,
            sample_rate_hz=self.model.config.audio.sample_rate_hz,
            num_samples=self.model.num_samples,
            channels="behind" if how.published else "mean",
            rng=generator(seed, "stretch", clip.num_samples) if how.published else None,
        )
        ids, valid = self.reader.prompts([question])
        heard = self.model.hear(torch.from_numpy(np.ascontiguousarray(samples))[None].to(device))
        read = self.model.read(ids.to(device), valid.to(device))
        return self.model.prefix(heard, read, normalise_text=not how.published)

    def describe(self, clip: AudioClip, **sampling: Any) -> Mapping[str, Answer]:
        """What the three describing prompts are answered with, by prompt."""
        prompts = [PROMPTS[name] for name in DESCRIBING]
        return dict(zip(prompts, self.answer_batch([clip] * len(prompts), prompts, **sampling), strict=True))

    @torch.no_grad()
    def rank_labels(
        self, clip: AudioClip, labels: Sequence[str], prompt: str = PROMPTS["sound"]
    ) -> list[tuple[str, float]]:
        """Labels with the mean log-likelihood of their ids after the prefix, the likeliest first.

        Raises:
            TextError: no label, or an empty one.
        """
        if not labels or not all(label.strip() for label in labels):
            raise TextError("labels must be given, and none may be empty")
        prefix = self._prefix(clip, prompt, Asking(), 0)
        scores = []
        for label in labels:
            ids, valid = self.reader.pad([self.reader.answer_ids(label)])
            ids, valid = ids.to(prefix.device), valid.to(prefix.device)
            scores.append(-float(answer_loss(self.model.logits(prefix, ids), ids, valid)[0]))
        return sorted(zip(labels, scores, strict=True), key=lambda pair: -pair[1])


def load_listener(model: Pengi, found: Checkpoint) -> PengiListener:
    """The networks of a checkpoint with their tokenizers."""
    config = model.config
    tokenizer = tokenizer_of(config.tokenizer, found.parts, found.folder)
    prompts = tokenizer
    if config.text is not None:
        prompts = tokenizer_of(config.prompt_tokenizer, found.parts, found.folder, "prompt_tokenizer")
    return PengiListener(model, Reader(config, tokenizer, prompts))
