"""An option acts or is refused: every setting of every system is moved, and something must change.

A setting is moved to several other values, one at a time. A value may be refused; one that is taken must show in
the network's shapes, in a batch, in a loss, or in what the loaded system does. Settings that are read from the data
are left out where the data has the last word, and so are those that decide costs alone.
"""

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from voder import checkpoint, hub, roles
from voder.audio.io import AudioClip
from voder.config import from_dict, resolve, to_dict
from voder.errors import VoderError
from voder.evaluate.bench import Bench
from voder.nn.causal_lm import LanguageModel
from voder.systems import SYSTEMS

COSTS_ALONE = {"cache_mb", "evaluate_items", "evaluate_batches", "evaluate_clips", "workers"}
"""How much memory or time is spent; no result depends on them beyond how many are judged."""


CONTEXTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "encodec": (
        (),
        ("fsq_tiny",),
        ("model.normalize=true", "model.segment_s=0.2"),
    ),
    "ctc": ((), ("task.augment.join_max=3",)),
    "hubert": ((), ("model.num_units=8",)),
    "valle": ((), ("task.joins.join_max=4",)),
    "pengi": ((), ("model.lm.family=llama",), ("model.clip_s=0.2",)),
    "nextgpt": ((), ("model.line=new", "model.lm.max_positions=320", "task.max_ids=300")),
    "speechgpt": ((), ("task.stage=chain",)),
    "llmtts": ((), ("vocabulary_tiny",), ("model.lm.family=llama",)),
    "lm": ((), ("task.batch_items=64", "task.max_ids=8", "task.batch_ids=16")),
    "audiolm": ((), ("model.max_coarse_s=0.3", "model.max_semantic_s=0.3")),
}
"""Presets and settings that give others something to do: a setting must act in one of these."""

TRAINING_STEPS = {
    "salmonn": (0, 1),
    "encodec": (0, 400, 401),
    "pengi": (0, 400),
    "nextgpt": (0, 1, 2),
    "speechtokenizer": (0, 1),
    "soundstorm": (0, 1),
    "speechgpt": (0, 1),
    "anygpt": (0, 1),
    "audiolm": (0,),
    "llmtts": (0, 1),
}
"""Steps looked at where the default (early, late, and one after another) costs too much."""

SEEN_ELSEWHERE = {
    "anygpt": {"model.codes.music_levels", "model.codes.audio_levels"},
    "beats": {"task.separator"},
    "hubert": {"model.layer"},
    "llmtts": {"model.lm.eos_id"},
    "ge2e": {"task.min_recordings"},
    "salmonn": {"task.stage"},
    "nextgpt": {"model.encoder.vision.num_heads"},
}
"""What needs data of another kind, or fitted units, to act, and is tested beside the system."""


def leaves(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Every setting: path, type and value."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, (*path, field.name))
        else:
            yield (*path, field.name), hints[field.name], value


def moved(hint: Any, value: Any) -> list[Any]:
    """Other values of a setting."""
    if isinstance(value, bool):
        return [not value]
    if typing.get_origin(hint) is typing.Literal:
        return [other for other in typing.get_args(hint) if other != value]
    if isinstance(value, int):
        return [value * 2, value + 1, value + 2, max(1, value // 2), 1, 0, value * 4, value // 8]
    if isinstance(value, float):
        return [value * 2, value / 2, 0.0, 1.0, value + 0.5, value * 20]
    if isinstance(value, tuple) and value and isinstance(value[0], int | float):
        return [tuple(type(v)(v * 2) for v in value), value[:-1], (*value, value[-1])]
    if value is None:
        parts = [part() for part in typing.get_args(hint) if dataclasses.is_dataclass(part)]
        return parts or [1, 1.0, 100.0, 0.5]
    if isinstance(value, str):
        return [f"{value}x"]
    return []


def replaced(config: Any, path: tuple[str, ...], value: Any) -> Any:
    """The configuration with one setting changed, as strictly as from a file."""
    values = inner = to_dict(config)
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return from_dict(type(config), values)


def shown(value: Any) -> Any:
    """A comparable form of batches and losses."""
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.detach().double().flatten().tolist())
    if dataclasses.is_dataclass(value) or hasattr(value, "__dict__"):
        return {name: shown(each) for name, each in vars(value).items()}
    if isinstance(value, list | tuple):
        return [shown(each) for each in value]
    return repr(value)


def gradient_size(module: torch.nn.Module) -> float:
    """Sum of the absolute gradients, which it clears."""
    total = sum(float(p.grad.double().abs().sum()) for p in module.parameters() if p.grad is not None)
    module.zero_grad()
    return total


class Subject:
    """One system under test."""

    def __init__(self, name: str, bench: Bench) -> None:
        self.system, self.data, self.bench = hub.find(name), bench.data(name), bench
        self.task_class = self.system.task()
        self.default = bench.request(name, Path("nowhere")).config
        self.trained = checkpoint.read(bench.trained(name))

    def in_context(self, context: tuple[str, ...]) -> Any:
        """The tiny preset, or another one, with some settings."""
        presets = [each for each in context if "=" not in each]
        base = self.system.preset(presets[0]) if presets else self.default
        return resolve(base, overrides=[each for each in context if "=" in each])

    def fitted(self, config: Any) -> Any:
        """The model's settings after the data had its say."""
        return self.task_class.fit_config(config.model, config.task, self.data)

    def shapes(self, config: Any) -> Any:
        """Names and shapes of the weights."""
        return [(n, tuple(p.shape)) for n, p in self.system.build(self.fitted(config)).state_dict().items()]

    def training(self, config: Any) -> Any:
        """Batches, losses and gradients."""
        torch.manual_seed(0)
        model = self.system.build(self.fitted(config)).train()
        task = self.task_class(model, config.task, self.data, seed=0)
        signature: list[Any] = [
            (name, [p.requires_grad for p in module.parameters()]) for name, module in task.optimised.items()
        ]
        signature += [module.training for module in task.companions.values()]
        signature += [[tuple(p.shape) for p in module.parameters()] for module in task.companions.values()]
        for step in TRAINING_STEPS.get(self.system.name, (0, 1, 2, 400, 401)):
            torch.manual_seed(1)
            batch = task.batch(step, 0, 1)
            signature.append(shown(batch))
            for name, loss in task.losses(batch, step):
                loss.value.backward()
                signature.append((name, float(loss.value.detach()), gradient_size(task.optimised[name])))
        return [*signature, [shown(buffer) for buffer in model.buffers()]]

    @torch.no_grad()
    def using(self, config: Any) -> Any:
        """What the loaded system does, on easy and on awkward requests."""
        torch.manual_seed(0)
        model = self.system.build(self.fitted(config)).eval()
        role = self.system.verbs(model, self.trained).eval()
        signature = []
        for call in self.calls(role):
            try:
                signature.append(shown(call()))
            except VoderError as error:
                signature.append(str(error))
        return signature

    def calls(self, role: Any) -> Iterator[Any]:
        """Requests to a role."""
        clips = self.bench.test_clips()
        lengths = [AudioClip(clips[0].samples[:, :n], clips[0].sample_rate_hz) for n in (900, 1700, 2500)]
        times = 12 if isinstance(role, roles.Speaker) else 1
        whole = AudioClip(torch.cat([torch.from_numpy(c.samples) for c in clips] * times, 1).numpy(), 8000)
        for clip in (*lengths[: 3 if times > 1 else 1], whole):
            if isinstance(role, roles.Codec):
                fitted = roles.fit_clip(clip, sample_rate_hz=role.sample_rate_hz, channels=role.channels)
                encoded = role.encode_batch(*roles.collate_clips([fitted], torch.device("cpu")))
                yield lambda encoded=encoded: encoded
                yield lambda encoded=encoded: role.decode_batch(encoded)
                yield lambda encoded=encoded: role.decode(encoded.codes[0].numpy()).samples.tolist()
            if isinstance(role, roles.Transcriber):
                yield lambda clip=clip: role.transcribe(clip)
            if isinstance(role, roles.Speaker):
                yield lambda clip=clip: role.say("abc", voice=clip, temperature=1.0).codes.tolist()
            if isinstance(role, roles.Listener):
                yield lambda clip=clip: role.answer(clip, "what is it?")
        if isinstance(role, roles.Continuer):
            for clip in (*lengths, whole):
                yield lambda clip=clip: role.continue_clip(clip, duration_s=0.3, temperature=1.0).codes.tolist()
        if isinstance(role, roles.Chatter):
            parts = (whole, "what is it?") if "audio" in role.takes else ("what is it?",)
            yield lambda: role.reply([roles.Turn(role="user", parts=parts)])
        if isinstance(role, LanguageModel):
            yield lambda: role.logits(torch.tensor([[5, 6, 7]]))
            yield lambda: role.generate_batch([[5, 6, 7]], max_new=4)[0].ids
            yield lambda: role.generate_batch([[5, 6, 7] * 20], max_new=8)[0].ids
        if isinstance(role, roles.SpeakerEncoder):
            for clip in (*lengths, AudioClip(whole.samples / 100, whole.sample_rate_hz)):
                yield lambda clip=clip: role.embed(clip).tolist()
        if isinstance(role, roles.Encoder):  # a padded batch: how padding is treated shows only there
            fitted = [clip.at_rate(role.sample_rate_hz) for clip in (*lengths, whole)]
            batch = roles.collate_clips(fitted, torch.device("cpu"))
            yield lambda: role.encode_batch(*batch)
        if isinstance(role, roles.UnitTokenizer):
            yield lambda: role.encode(whole.at_rate(role.sample_rate_hz))
        if isinstance(role, roles.Generator):
            yield lambda: role.generate(torch.arange(role.num_units)).samples.tolist()
        if isinstance(role, roles.Speaker):
            for text in ("abc", "ABC", "abcdef" * 6, "abcdef" * 40):
                yield lambda text=text: role.say(text, voice="ann", temperature=1.0).codes.tolist()


def verdict(subject: Subject, path: tuple[str, ...], values: list[Any], base: tuple[Any, Any, Any]) -> str:
    """What moving one setting did: acts, refused, data (which has the last word), still or the error it broke with."""
    found = {"refused"}
    for value in values:
        try:
            config = replaced(subject.base, path, value)
            if path[0] == "model" and subject.fitted(config) == subject.fitted(subject.base):
                found.add("data")
                continue
            checks = (subject.shapes, subject.training, subject.using)[: 2 if path[0] == "task" else 3]
            if any(check(config) != before for check, before in zip(checks, base, strict=False)):
                return "acts"
            found.add("still")
        except (ValueError, VoderError):
            continue
        except Exception as error:  # neither acting nor refused by name
            found.add(f"{value!r} breaks it: {type(error).__name__} {str(error).splitlines()[0][:200]}")
    for outcome in ("still", "data"):
        if outcome in found:
            return outcome
    return "; ".join(sorted(found - {"refused"})) or "refused"


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_every_setting_acts_or_is_refused(name: str, bench: Bench) -> None:
    subject = Subject(name, bench)
    idle: dict[str, str] = {}
    for number, context in enumerate(CONTEXTS.get(name, ((),))):
        subject.base = subject.in_context(context)
        base = (subject.shapes(subject.base), subject.training(subject.base), subject.using(subject.base))
        assert number or base == (base[0], subject.training(subject.base), subject.using(subject.base))
        outcomes = {}
        for part in ("model", "task"):
            for path, hint, value in leaves(getattr(subject.base, part), (part,)):
                setting = ".".join(path)
                if path[-1] not in COSTS_ALONE and (number == 0 or setting in idle):
                    outcomes[setting] = verdict(subject, path, moved(hint, value), base)
        idle = {path: outcome for path, outcome in outcomes.items() if outcome not in ("acts", "refused", "data")}
    idle = {path: outcome for path, outcome in idle.items() if path not in SEEN_ELSEWHERE.get(name, ())}
    assert not idle, "\n" + "\n".join(f"{path}: {outcome}" for path, outcome in idle.items())
