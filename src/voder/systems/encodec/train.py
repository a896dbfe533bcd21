"""Training of EnCodec: a game against a multi-scale STFT discriminator, balanced by gradient shares.

2210.13438, §3.4 and §4. Per step the model reconstructs random crops with as many codebooks as a drawn bit
rate allows; the discriminator learns first, the codec second. Losses on the waveform pass through the
balancer; the quantizer's commitment stays beside it.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from voder.data.randomness import generator
from voder.nn.balancer import Balancer
from voder.nn.losses import MultiScaleMelLoss
from voder.nn.quantize import ResidualVectorQuantizer
from voder.shapes import Audio, Latents, Scalar
from voder.systems.encodec.config import EncodecTaskConfig
from voder.systems.encodec.model import EncodecCodec
from voder.train.codec import CodecTask, CropBatch
from voder.train.task import Loss

_F_MIN_HZ = 64.0


class EncodecTask(CodecTask):
    """Reconstruction, feature matching, adversary, commitment."""

    model: EncodecCodec
    config: EncodecTaskConfig

    def __init__(self, model: EncodecCodec, config: EncodecTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.mel_energies = MultiScaleMelLoss(sample_rate_hz=self.rate, f_min_hz=_F_MIN_HZ)
        self.balancer = Balancer(
            {
                "waveform": config.waveform_weight,
                "mel": config.mel_weight,
                "adversarial": config.adversarial_weight,
                "features": config.feature_weight,
            }
        )

    def latents(self, audio: Audio) -> Latents:
        """What the quantizer reads of crops."""
        return self.model.latents(audio)

    @property
    def learned_codebooks(self) -> ResidualVectorQuantizer | None:
        """The quantizer, unless it is a fixed grid."""
        quantizer = self.model.quantizer
        return quantizer if isinstance(quantizer, ResidualVectorQuantizer) else None

    @property
    def companions(self) -> dict[str, nn.Module]:
        """What a resumed run needs beside the codec."""
        return {**super().companions, "balancer": self.balancer}

    def losses(self, batch: CropBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """The discriminator's loss, then the codec's."""
        audio = batch.audio
        self.fit_codebooks(audio.device)
        made = self.model(audio, self.draw_codebooks(step))
        begins = self.config.discriminator_start
        if self.is_adversarial and step >= begins:
            yield "discriminator", self.told_apart(audio, made.audio)
        terms = self._reconstruction(made.audio, audio)
        if self.is_adversarial and step >= begins + self.config.discriminator_lead:
            terms |= self.rivalry(made.audio, audio)
        balanced = self.balancer(terms, made.audio)
        # The balanced gradient is a sum over items, commitment a mean: both per item of the whole batch, so
        # that neither their proportion nor the step depends on how many workers share the batch.
        commitment = self.config.commitment_weight * made.quantized.commitment
        pull = balanced / len(audio) + commitment / self.config.batch_items
        # Balanced, the value says nothing (weak gradients are scaled up): what is shown is the plain weighted
        # sum.
        shown = sum(self.balancer.weights[name] * term.detach() for name, term in terms.items())
        value = pull - pull.detach() + shown + commitment.detach()
        logs: dict[str, Tensor | float] = {name: term.detach() for name, term in terms.items()}
        logs["commitment"] = made.quantized.commitment.detach()
        logs["perplexity"] = made.quantized.perplexity.mean()
        yield "generator", Loss(value=value, weight=float(len(audio)), logs=logs)

    def draw_codebooks(self, step: int) -> int | None:
        """As many codebooks as a bit rate drawn for the step allows; the same on every rank."""
        rates = self.model.config.bandwidths_kbps
        if not rates:
            return None
        drawn = generator(self.seed, "bandwidth", step).integers(len(rates))
        return self.model.config.codebooks_at(rates[int(drawn)])

    def _reconstruction(self, made: Audio, audio: Audio) -> dict[str, Scalar]:
        waveform = (made.float() - audio).abs().mean()
        if self.config.mel == "energies":
            return {"waveform": waveform, "mel": self.mel_energies.to(audio.device)(made, audio)}
        distance = self.mel_distance.to(audio.device)(made.flatten(0, 1).float(), audio.flatten(0, 1))
        return {"waveform": waveform, "mel": distance[0]}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Log-mel distance, signal-to-noise ratio and codebook use on validation recordings."""
        distances, ratios, used = [], [], []
        for utterance in self.valid_utterances():
            audio = self.read(utterance)
            encoded = self.model.encode_batch(audio)
            restored = self.model.decode_batch(encoded).float()
            used.append(encoded.codes[0].cpu().numpy())
            distances.append(self.distance(restored, audio))
            noise = (restored - audio).square().sum().clamp(min=1e-10)
            ratios.append(float(10 * torch.log10(audio.square().sum().clamp(min=1e-10) / noise)))
        figures = {"score": float(np.mean(distances)), "mel_distance": float(np.mean(distances))}
        figures["snr_db"] = float(np.mean(ratios))
        return figures | self.figures_of_codes(used)

    @torch.no_grad()
    def samples(self, folder: Path) -> None:
        """Three validation recordings, and what comes back at every bit rate."""
        rates = self.model.config.bandwidths_kbps
        counts: dict[str, int | None] = {f"{r:g}kbps": self.model.config.codebooks_at(r) for r in rates}
        counts = counts or {"restored": None}
        for number, utterance in enumerate(self.valid_utterances()[:3], 1):
            audio = self.read(utterance)
            self.write(folder / f"{number}_original.wav", audio)
            for label, count in counts.items():
                encoded = self.model.encode_batch(audio, num_codebooks=count)
                self.write(folder / f"{number}_{label}.wav", self.model.decode_batch(encoded))
