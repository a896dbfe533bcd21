"""Thin loops over a generator's parts: noise to latents by a UNet and a scheduler, latents to pictures or sound.

The parts are diffusers' (`UNet2DConditionModel`, `AutoencoderKL`, a scheduler) and transformers' HiFi-GAN, or anything
that is called like them. Guidance is `unconditioned + scale * (conditioned - unconditioned)` (2207.12598), off up to a
scale of 1. Stable Diffusion reads the condition by cross-attention; AudioLDM (2301.12503) as a class vector beside the
time.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from voder.audio.io import AudioClip
from voder.data.randomness import torch_generator
from voder.errors import CheckpointError, ConfigError

Latents = Float[Tensor, "batch channel row column"]
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Latents, time and condition to predicted noise."""


@dataclass(frozen=True)
class Denoised:
    """What a loop ends with."""

    latents: Latents
    timesteps: Int[Tensor, " step"]
    """Times, in the order in which they were visited."""
    first: Tensor
    """Noise predicted in the first step: unconditioned rows before conditioned ones."""


@torch.no_grad()
def denoise(
    predict: Predict,
    scheduler: Any,
    noise: Latents,
    condition: Tensor,
    unconditioned: Tensor | None,
    *,
    steps: int,
    guidance: float,
) -> Denoised:
    """Run the scheduler's times from noise to latents.

    Raises:
        ValueError: guidance above 1 without an unconditioned vector to guide away from.
    """
    guided = guidance > 1
    if guided and unconditioned is None:
        raise ValueError(f"guidance {guidance} needs an unconditioned vector")
    asked = torch.cat((unconditioned, condition)) if guided and unconditioned is not None else condition
    scheduler.set_timesteps(steps, device=noise.device)
    latents, first = noise * scheduler.init_noise_sigma, None
    for time in scheduler.timesteps:
        inputs = scheduler.scale_model_input(torch.cat((latents, latents)) if guided else latents, time)
        predicted = predict(inputs, time, asked)
        first = predicted if first is None else first
        if guided:
            away, towards = predicted.chunk(2)
            predicted = away + guidance * (towards - away)
        latents = scheduler.step(predicted, time, latents).prev_sample
    if first is None:
        raise ValueError(f"a generator needs at least one step, not {steps}")
    return Denoised(latents, scheduler.timesteps, first)


def by_attention(unet: Any) -> Predict:
    """Stable Diffusion's way: `[batch, vector, channel]` is attended to."""
    return lambda latents, time, condition: unet(latents, time, encoder_hidden_states=condition).sample


def by_class(unet: Any) -> Predict:
    """AudioLDM's way: `[batch, channel]` stands beside the time."""
    return lambda latents, time, condition: (
        unet(latents, time, encoder_hidden_states=None, class_labels=condition).sample
    )


@torch.no_grad()
def decode_image(vae: Any, latents: Latents) -> Float[Tensor, "batch 3 y x"]:
    """Pictures with values from 0 to 1."""
    image: Tensor = vae.decode(latents / vae.config.scaling_factor).sample
    return (image / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def decode_mel(vae: Any, latents: Latents) -> Float[Tensor, "batch 1 frame band"]:
    """Mel frames."""
    mel: Tensor = vae.decode(latents / vae.config.scaling_factor).sample
    return mel


@torch.no_grad()
def vocode(vocoder: Any, mel: Float[Tensor, "batch 1 frame band"], num_samples: int) -> Float[Tensor, "batch sample"]:
    """Sound of mel frames, cut to what was asked for."""
    audio: Tensor = vocoder(mel[:, 0])
    return audio.float().reshape(len(mel), -1)[:, :num_samples]


def audio_latent_shape(unet: Any, vae: Any, vocoder: Any, duration_s: float) -> tuple[int, int, int]:
    """Channels, frames and bands of the latents of so many seconds, rounded up to what the VAE halves evenly."""
    config = vocoder.config
    frames = int(duration_s * config.sampling_rate / math.prod(config.upsample_rates))
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    return unet.config.in_channels, -(-frames // factor), config.model_in_dim // factor


@runtime_checkable
class Generator(Protocol):
    """What a chatter needs of a generator."""

    def make(self, condition: Float[Tensor, "vector channel"], seed: int) -> AudioClip | np.ndarray:
        """Sound, or a picture `[row, column, colour]` of bytes."""


@dataclass(frozen=True, kw_only=True)
class AudioLdm:
    """AudioLDM's parts: one vector to sound."""

    unet: Any
    vae: Any
    scheduler: Any
    vocoder: Any
    unconditioned: Float[Tensor, "1 channel"]
    """What the generator's own text encoder makes of no text."""
    duration_s: float = 5.0
    """Seconds that are made."""
    steps: int = 40
    """Times that are visited."""
    guidance: float = 2.5
    """Above 1: away from no text."""

    def make(self, condition: Float[Tensor, "vector channel"], seed: int) -> AudioClip:
        """Sound of one vector."""
        shape = (1, *audio_latent_shape(self.unet, self.vae, self.vocoder, self.duration_s))
        done = denoise(
            by_class(self.unet),
            self.scheduler,
            torch.randn(shape, generator=torch_generator(seed, "noise")).to(condition),
            condition,
            self.unconditioned.to(condition),
            steps=self.steps,
            guidance=self.guidance,
        )
        rate_hz = int(self.vocoder.config.sampling_rate)
        audio = vocode(self.vocoder, decode_mel(self.vae, done.latents), int(self.duration_s * rate_hz))
        return AudioClip(audio.clamp(-1, 1).cpu().numpy(), rate_hz)


@dataclass(frozen=True, kw_only=True)
class StableDiffusion:
    """Stable Diffusion's parts: 77 vectors to a picture."""

    unet: Any
    vae: Any
    scheduler: Any
    unconditioned: Float[Tensor, "1 vector channel"]
    """What the generator's own text encoder makes of no text."""
    steps: int = 50
    """Times that are visited."""
    guidance: float = 7.5
    """Above 1: away from no text."""

    def make(self, condition: Float[Tensor, "vector channel"], seed: int) -> np.ndarray:
        """A picture of one caption's vectors."""
        size = self.unet.config.sample_size
        shape = (1, self.unet.config.in_channels, size, size)
        done = denoise(
            by_attention(self.unet),
            self.scheduler,
            torch.randn(shape, generator=torch_generator(seed, "noise")).to(condition),
            condition[None],
            self.unconditioned.to(condition),
            steps=self.steps,
            guidance=self.guidance,
        )
        image = decode_image(self.vae, done.latents)[0].permute(1, 2, 0)
        return (image * 255).round().byte().cpu().numpy()


def load_generator(kind: str, folder: Path) -> Generator:
    """A generator from a folder as diffusers writes it (unet, vae, scheduler, vocoder), with its `unconditioned.npy`.

    That file holds what the generator's own text encoder makes of an empty text; the encoder itself is not needed.

    Raises:
        CheckpointError: the folder lacks something, or it is damaged.
        ConfigError: the package diffusers is missing.
    """
    try:
        import diffusers
    except ModuleNotFoundError as error:
        raise ConfigError("the package diffusers is missing: pip install diffusers") from error
    try:
        settings = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        shared = {
            "unet": diffusers.UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True).eval(),
            "vae": diffusers.AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True).eval(),
            "scheduler": getattr(diffusers, str(settings["_class_name"])).from_config(settings),
            "unconditioned": torch.from_numpy(np.load(folder / "unconditioned.npy")).float(),
        }
        if kind == "image":
            return StableDiffusion(**shared)
        from transformers import SpeechT5HifiGan

        vocoder: Any = SpeechT5HifiGan.from_pretrained(folder / "vocoder", local_files_only=True)
        return AudioLdm(**shared, vocoder=vocoder.eval())
    except Exception as error:  # whatever damaged or missing files lead to in three packages
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{folder} is no generator of {kind} as diffusers writes them ({reason})") from error
