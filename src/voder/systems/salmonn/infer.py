"""SALMONN as a listener: a recording and a question to an answer, by beams of 4 unless asked otherwise."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from voder.audio.io import AudioClip
from voder.checkpoint import Checkpoint
from voder.data.randomness import torch_generator
from voder.errors import ConfigError, InputError, TextError
from voder.generate.lm import GenerateConfig, generate_ids
from voder.nn.causal_lm import CausalLmSession
from voder.roles import Answer, Listener, device_of, fit_clip
from voder.systems.salmonn.config import SAMPLE_RATE_HZ, WINDOW_S
from voder.systems.salmonn.data import MAX_SAMPLES, prepare
from voder.systems.salmonn.listening import Ears, through_bridge
from voder.systems.salmonn.model import Salmonn
from voder.systems.salmonn.parts import Parts, refuse_others
from voder.systems.salmonn.prompt import Prompts, pack
from voder.text.subwords import turn_end
from voder.train.base_lm import find_base_lm


class SalmonnListener(Listener):
    """A trained bridge and LoRA with the encoders and the tokenizer that they were trained on."""

    def __init__(self, model: Salmonn, ears: Ears, tokenizer: Any, how: GenerateConfig | None = None) -> None:
        super().__init__()
        self.model, self.ears, self.tokenizer = model, ears, tokenizer
        self.prompts = Prompts(model.config, tokenizer)
        self.how = how or GenerateConfig(num_beams=model.config.num_beams, max_new=model.config.max_answer_ids)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        found = (self.model.config.lm.eos_id, self.tokenizer.eos_token_id, turn_end(self.tokenizer))
        return tuple(dict.fromkeys(id_ for id_ in found if id_ is not None))

    @torch.no_grad()
    def answer_batch(
        self, clips: Sequence[AudioClip], questions: Sequence[str], *, seed: int = 0, **sampling: Any
    ) -> list[Answer]:
        """Answer a question about each clip; options: those of `GenerateConfig`, `beam` (how many) and `lora_factor`.

        Of clips longer than 30 s the beginning is heard, and the answer says so. `lora_factor` is the strength of the
        trained changes: 1 as trained; the paper lowers it to about a half for stories; 0 is the language model alone.

        Raises:
            InputError: not as many questions as clips, or a question that is empty.
            TextError: a question is longer than the language model's positions leave room for.
            ConfigError: an option that is unknown, out of range, or has nothing to do.
        """
        if len(clips) != len(questions):
            raise InputError(f"{len(questions)} questions came for {len(clips)} clips; each clip needs one")
        if not all(question.strip() for question in questions):
            raise InputError("a question is empty; say what to answer about the recording")
        factor = sampling.pop("lora_factor", 1.0)
        if not 0 <= factor < math.inf:
            raise ConfigError(f"lora_factor is {factor}; a number from 0 on is wanted (1: as trained)")
        if "beam" in sampling:
            sampling["num_beams"] = sampling.pop("beam")
        how = self.how.changed(**sampling)
        if not clips:
            return []
        self.model.set_lora_factor(factor)
        try:
            return self._answers(clips, questions, how, seed)
        finally:
            self.model.set_lora_factor(1.0)

    def _answers(
        self, clips: Sequence[AudioClip], questions: Sequence[str], how: GenerateConfig, seed: int
    ) -> list[Answer]:
        device = device_of(self.model)
        fitted = [fit_clip(clip, sample_rate_hz=SAMPLE_RATE_HZ, channels=1) for clip in clips]
        # one at a time: an encoder's sums depend on who shares the batch in their last bits, and beams on those
        heard = [
            vectors
            for clip in fitted
            for vectors in through_bridge(self.model.bridge, self.ears.listen([prepare([clip.samples.T])], device))
        ]
        asked = [self.prompts.question(question.strip()) for question in questions]
        read = pack(self.model, heard, asked)
        room = [self.model.config.lm.max_positions - int(length) for length in read.mask.sum(1)]
        if min(room) < 1:
            raise TextError(
                f"a question and its recording take {-min(room) + self.model.config.lm.max_positions} of the language "
                f"model's {self.model.config.lm.max_positions} positions; ask a shorter question"
            )
        session = CausalLmSession(self.model.llama, read.embeddings, read.mask)
        noise = [torch_generator(seed, "answer", question) for question in questions]
        said = generate_ids(session, how, end_ids=self.end_ids, generators=noise, room=room)
        return [self._answer(clip, row) for clip, row in zip(fitted, said, strict=True)]

    def _answer(self, clip: AudioClip, row: Any) -> Answer:
        unheard = clip.num_samples > MAX_SAMPLES
        return Answer(
            text=self.tokenizer.decode(row.ids, skip_special_tokens=True).strip(),
            heard_s=min(clip.num_samples, MAX_SAMPLES) / SAMPLE_RATE_HZ,
            truncated=unheard or row.truncated,
            stop_reason=f"only the first {WINDOW_S} s are heard" if unheard else row.stop_reason,
        )


def load_listener(model: Salmonn, found: Checkpoint) -> SalmonnListener:
    """A checkpoint with its parts.

    Raises:
        CheckpointError: a part is missing.
        FittedPartMismatch: a part is another one than was trained on.
    """
    parts = Parts.of_checkpoint(found)
    names = {name: str(folder) for name, folder in parts.folders.items()}
    refuse_others(model.config.fitted, parts.fingerprints, names)
    speech, audio = parts.encoders(torch.device("cpu"))
    return SalmonnListener(model, Ears(speech, audio, model.config.hears), find_base_lm(str(parts.lm)).tokenizer)
