"""The parts that SALMONN is made of: found by name, told apart by fingerprints, loaded by role.

`fresh:SYSTEM/PRESET` is a random part, the same on every call: what tests and first trials train on without a download.
"""

import atexit
import functools
import hashlib
import json
import shutil
import struct
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from voder import checkpoint, hub
from voder.data.randomness import fold
from voder.errors import CheckpointError, ConfigError, FittedPartMismatch
from voder.systems.salmonn.config import FittedParts, SalmonnConfig, SalmonnTaskConfig
from voder.train.base_lm import find_base_lm

_FRESH = "fresh:"
_LOOKED_AT = 4096
"""Bytes of every tensor that a fingerprint is made of."""
ROLES = {"speech": "Encoder", "audio": "Encoder", "lm": "LanguageModel"}


def find_part(name: str, role: str) -> Path:
    """The checkpoint folder that a setting names.

    Raises:
        CheckpointError: nothing is there, or something without the role.
    """
    if name.startswith(_FRESH):
        return _fresh(name.removeprefix(_FRESH))
    folder = checkpoint.resolve(hub.locate(name))
    system = checkpoint.read(folder).system
    roles = hub.find(system).roles
    if role not in roles:
        raise CheckpointError(f"{name} is a {system} ({', '.join(roles)}); a {role} is wanted here")
    return folder


@functools.cache
def _fresh(preset: str) -> Path:
    system, _, name = preset.partition("/")
    folder = Path(tempfile.mkdtemp(prefix="voder-fresh-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold(0, "fresh", preset))
        config = hub.find(system).preset(name).model
        model = hub.find(system).build(config)
    checkpoint.save(folder / "part", system=system, config=config, state=model.state_dict())
    return folder / "part"


def fingerprint(folder: Path) -> str:
    """A name for a part: its configuration and the beginning of every tensor, so that large ones need not be read."""
    found = checkpoint.read(folder)
    digest = hashlib.sha256(json.dumps([found.system, found.config], sort_keys=True).encode())
    file = found.folder / checkpoint.WEIGHTS_FILE
    try:
        with open(file, "rb") as weights:
            (length,) = struct.unpack("<Q", weights.read(8))
            head = json.loads(weights.read(length))
            for name in sorted(head):
                if name == "__metadata__":
                    continue
                begin, end = head[name]["data_offsets"]
                weights.seek(8 + length + begin)
                digest.update(json.dumps([name, head[name]["dtype"], head[name]["shape"]]).encode())
                digest.update(weights.read(min(_LOOKED_AT, end - begin)))
    except (OSError, ValueError, KeyError, TypeError, struct.error, MemoryError, OverflowError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); copy the checkpoint again") from error
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Parts:
    """Where the parts of a model lie."""

    speech: Path
    audio: Path | None
    lm: Path

    @classmethod
    def of_task(cls, task: SalmonnTaskConfig) -> "Parts":
        """Those that the settings name.

        Raises:
            CheckpointError: one is missing, or of another role.
        """
        return cls(
            speech=find_part(task.speech, ROLES["speech"]),
            audio=find_part(task.audio, ROLES["audio"]) if task.audio else None,
            lm=find_part(task.lm, ROLES["lm"]),
        )

    @classmethod
    def of_checkpoint(cls, found: checkpoint.Checkpoint) -> "Parts":
        """Those inside a checkpoint.

        Raises:
            CheckpointError: one is missing.
        """
        missing = [name for name in ("speech", "lm") if name not in found.parts]
        if missing:
            raise CheckpointError(
                f"{found.folder} lacks parts/{' and parts/'.join(missing)}; copy the checkpoint again"
            )
        return cls(found.parts["speech"], found.parts.get("audio"), found.parts["lm"])

    @property
    def folders(self) -> dict[str, Path]:
        """By name, those there are."""
        found = {"speech": self.speech, "audio": self.audio, "lm": self.lm}
        return {name: folder for name, folder in found.items() if folder is not None}

    @property
    def fingerprints(self) -> FittedParts:
        """Names for exactly these parts."""
        return FittedParts(**{name: fingerprint(folder) for name, folder in self.folders.items()})

    def encoders(self, device: torch.device) -> tuple[Any, Any | None]:
        """Speech and audio encoder, frozen."""
        audio = None if self.audio is None else hub.load_role(self.audio, ROLES["audio"], device=device)
        return hub.load_role(self.speech, ROLES["speech"], device=device), audio


def refuse_others(wanted: FittedParts, found: FittedParts, names: dict[str, str]) -> None:
    """Compare parts with those that a model was trained on; what a model does not say is not compared.

    Raises:
        FittedPartMismatch: names the part, and both fingerprints.
    """
    long = {"speech": "speech encoder", "audio": "audio encoder", "lm": "language model"}
    for name, words in long.items():
        before, now = getattr(wanted, name), getattr(found, name)
        if before != now:
            raise FittedPartMismatch(
                f"this SALMONN was trained on the {words} {before or '(none)'}, and {names.get(name) or 'nothing'} is "
                f"{now or '(none)'}; give the one it was trained on (same shapes prove nothing)"
            )


def fitted_config(base: SalmonnConfig, parts: Parts) -> SalmonnConfig:
    """A configuration for these parts: widths, network and fingerprints.

    Raises:
        CheckpointError: the language model has LoRA of its own, or is no checkpoint of the system lm.
        ConfigError: LoRA is to change layers that the language model does not have.
    """
    fitted = parts.fingerprints
    speech = _width(parts.speech, fitted.speech)
    audio = 0 if parts.audio is None else _width(parts.audio, fitted.audio)
    lm = find_base_lm(str(parts.lm)).config
    known = _linear_layers(lm.family)
    unknown = [name for name in base.lora_targets if name not in known]
    if unknown or not base.lora_targets:
        raise ConfigError(f"lora_targets {', '.join(unknown) or '()'}: a {lm.family} has {', '.join(known)}")
    bridge = replace(base.bridge, speech_width=speech, audio_width=audio)
    return replace(base, bridge=bridge, lm=lm, fitted=fitted)


@functools.cache
def _width(folder: Path, fitted: str) -> int:
    """Channels of an encoder; `fitted`, its fingerprint, keeps what is remembered true."""
    width: int = hub.load_role(folder, "Encoder").width
    return width


def _linear_layers(family: str) -> Iterable[str]:
    attention = ("q_proj", "k_proj", "v_proj")
    return {
        "gpt2": ("c_attn", "c_proj", "c_fc"),
        "opt": (*attention, "out_proj", "fc1", "fc2"),
    }.get(family, (*attention, "o_proj", "gate_proj", "up_proj", "down_proj"))
