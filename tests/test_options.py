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
from voder.errors import VoderError
from voder.evaluate.equalities import Bench
from voder.systems import SYSTEMS

COSTS_ALONE = {"cache_mb", "evaluate_items", "evaluate_batches", "evaluate_clips", "workers"}
"""How much memory or time is spent; no result depends on them beyond how many are judged."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A synthetic corpus, and what was trained on it."""
    return Bench(tmp_path_factory.mktemp("bench"))


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
        return [value * 2, value + 1, value + 2, max(1, value // 2), 1, 0, value * 4]
    if isinstance(value, float):
        return [value * 2, value / 2, 0.0, 1.0, value + 0.5, value * 20]
    if isinstance(value, tuple) and value and isinstance(value[0], int | float):
        return [tuple(type(v)(v * 2) for v in value), value[:-1], (*value, value[-1])]
    if value is None:
        return [1, 1.0, 100.0, 0.5]
    if isinstance(value, str):
        return [f"{value}x"]
    return []


def replaced(config: Any, path: tuple[str, ...], value: Any) -> Any:
    """The configuration with one setting changed."""
    name, *rest = path
    inner = replaced(getattr(config, name), tuple(rest), value) if rest else value
    return dataclasses.replace(config, **{name: inner})


def shown(value: Any) -> Any:
    """A comparable form of batches and losses."""
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.detach().double().flatten().tolist())
    if dataclasses.is_dataclass(value) or hasattr(value, "__dict__"):
        return {name: shown(each) for name, each in vars(value).items()}
    if isinstance(value, list | tuple):
        return [shown(each) for each in value]
    return repr(value)


class Subject:
    """One system under test."""

    def __init__(self, name: str, bench: Bench) -> None:
        self.system, self.data, self.bench = hub.find(name), bench.data(name), bench
        self.task_class = self.system.task()
        self.base = bench.request(name, Path("nowhere")).config
        self.trained = checkpoint.read(bench.trained(name))

    def fitted(self, config: Any) -> Any:
        """The model's settings after the data had its say."""
        return self.task_class.fit_config(config.model, config.task, self.data)

    def training(self, config: Any) -> Any:
        """Shapes, batches and losses."""
        torch.manual_seed(0)
        model = self.system.build(self.fitted(config)).train()
        task = self.task_class(model, config.task, self.data, seed=0)
        signature: list[Any] = [[(n, tuple(p.shape)) for n, p in model.state_dict().items()]]
        signature += [module.training for module in task.companions.values()]
        signature += [[tuple(p.shape) for p in module.parameters()] for module in task.companions.values()]
        for step in (0, 1, 400):
            torch.manual_seed(1)
            batch = task.batch(step, 0, 1)
            signature.append(shown(batch))
            signature += [(name, float(loss.value.detach())) for name, loss in task.losses(batch, step)]
        return signature

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
        whole = AudioClip(torch.cat([torch.from_numpy(c.samples) for c in clips] * 12, 1).numpy(), 8000)
        for clip in (clips[0], *lengths, whole):
            if isinstance(role, roles.Codec):
                yield lambda clip=clip: roles.Codec.decode(role, role.encode(clip)).samples.tolist()
                yield lambda clip=clip: shown(role.encode_batch(*roles.collate_clips([clip], torch.device("cpu"))))
            if isinstance(role, roles.Transcriber):
                yield lambda clip=clip: role.transcribe(clip)
            if isinstance(role, roles.Speaker):
                yield lambda clip=clip: role.say("abc", voice=clip, temperature=1.0).codes.tolist()
        if isinstance(role, roles.Speaker):
            for text in ("abc", "ABC", "abcdef" * 6, "abcdef" * 40):
                yield lambda text=text: role.say(text, voice="ann", temperature=1.0).codes.tolist()


def acts(subject: Subject, path: tuple[str, ...], values: list[Any], base: tuple[Any, Any]) -> bool:
    """Whether some other value of a setting changes something, or every one is refused."""
    refused = True
    for value in values:
        try:
            config = replaced(subject.base, path, value)
            if path[0] == "model" and subject.fitted(config) == subject.fitted(subject.base):
                continue  # the data has the last word
            refused = False
            if subject.training(config) != base[0] or subject.using(config) != base[1]:
                return True
        except (ValueError, VoderError):
            continue
    return refused


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_every_setting_acts_or_is_refused(name: str, bench: Bench) -> None:
    subject = Subject(name, bench)
    base = subject.training(subject.base), subject.using(subject.base)
    assert base == (subject.training(subject.base), subject.using(subject.base))
    still = []
    for part in ("model", "task"):
        for path, hint, value in leaves(getattr(subject.base, part), (part,)):
            if path[-1] not in COSTS_ALONE and not acts(subject, path, moved(hint, value), base):
                still.append(".".join(path))
    assert still == []
