"""Self-supervised speech encoders: HuBERT (2106.07447), wav2vec 2.0 (2006.11477), WavLM (2110.13900), data2vec
(2202.03555) and w2v-BERT 2.0 (2312.05187).

The networks are transformers'; how they are run is written here, for three reasons: a run ends at the layer that is
asked for, padding changes nothing that is valid (unless `padding="official"` asks for the originals' leaks), and what
pre-training masks is decided outside. Where the originals let padding in: the group norm over time after the first
convolution of base models, and every further convolution of data2vec's position embedding.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voder.audio.fbank import FbankConfig, kaldi_fbank
from voder.config import to_dict
from voder.errors import AudioError, ConfigError
from voder.nn.quantize.rvq import nearest
from voder.roles import Encoder, Features, UnitTokenizer
from voder.sequence.masks import length_mask
from voder.shapes import Audio, Embeddings, Lengths, Mask, Tokens
from voder.systems.hubert.config import MEL_BANDS, MEL_HOP, HubertConfig
from voder.systems.hubert.heads import build_head
from voder.systems.hubert.network import build_network
from voder.systems.hubert.targets import normalize_bands, stack_frames


@dataclass(frozen=True)
class Front:
    """What the transformer is given."""

    features: Embeddings
    """Output of the convolutions, or stacked mel frames, before any norm."""
    normed: Embeddings
    """The same after the LayerNorm."""
    valid: Mask | None
    """Which frames belong to each item; nothing when the batch is not padded."""


class SpeechEncoder(Encoder, UnitTokenizer):
    """A network, and the cluster centres that turn one of its layers into units."""

    centers: Tensor | None

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate_hz = config.sample_rate_hz
        self.width = config.network.dim
        self.num_units = config.num_units
        self.hop, self.receptive_field = _hop_and_field(config)
        self.network: Any = build_network(config)
        self.register_buffer("centers", torch.randn(config.num_units, self.width) if config.num_units else None)
        self.head = build_head(config)
        self.mel = FbankConfig(sample_rate_hz=config.sample_rate_hz, num_bands=MEL_BANDS, hop=MEL_HOP)

    def num_frames(self, lengths: Lengths) -> Lengths:
        """Frames of so many samples; nothing below the receptive field."""
        return (torch.div(lengths - self.receptive_field, self.hop, rounding_mode="floor") + 1).clamp(min=0)

    def encode_batch(self, audio: Audio, lengths: Lengths | None = None, *, layer: int | None = None) -> Features:
        """Run the network up to a layer.

        Raises:
            AudioError: an item is shorter than one frame.
            ConfigError: no such layer.
        """
        count = self.config.network.num_layers
        if layer is not None and not 0 <= layer <= count:
            raise ConfigError(f"layer is {layer}; this encoder has layers 0 to {count}")
        front = self.front(audio[:, 0], lengths)
        last = self.last_state(front, up_to=layer)
        valid = front.valid
        if valid is None:
            valid = torch.ones(last.shape[:2], dtype=torch.bool, device=last.device)
        return Features(values=self.output(last) if layer is None else last, valid=valid)

    def front(self, audio: Float[Tensor, "batch sample"], lengths: Lengths | None) -> Front:
        """Normalise the waveform and run the convolutions, or make mel frames."""
        self._check_lengths(audio, lengths)
        if self.config.family == "w2v_bert":
            return self.front_of_mel(*self.mel_frames(audio, lengths))
        if lengths is not None:
            audio = audio.masked_fill(~length_mask(lengths, audio.shape[1]), 0.0)
        if self.config.normalize:
            audio = normalize_waveform(audio, lengths)
        features = self._convolve(audio, lengths).transpose(1, 2)
        valid = None if lengths is None else self.frame_mask(lengths, audio.shape[1], features.shape[1])
        return Front(features, self.network.feature_projection.layer_norm(features), valid)

    def mel_frames(
        self, audio: Float[Tensor, "batch sample"], lengths: Lengths | None
    ) -> tuple[Float[Tensor, "batch frame band"], Lengths]:
        """The mel frames that w2v-BERT hears, normalised per item and band, and how many are valid."""
        if lengths is None:
            lengths = torch.full((len(audio),), audio.shape[1], device=audio.device)
        mel = kaldi_fbank(audio, self.mel)
        frames = torch.div(lengths - self.mel.window, self.mel.hop, rounding_mode="floor") + 1
        if self.config.normalize:
            return normalize_bands(mel, frames, epsilon=1e-7, correction=1), frames
        return mel * length_mask(frames, mel.shape[1])[..., None], frames

    def front_of_mel(self, mel: Float[Tensor, "batch frame band"], frames: Lengths) -> Front:
        """Stack mel frames in twos; a half-filled last pair is padding."""
        even = nn.functional.pad(mel, (0, 0, 0, mel.shape[1] % 2))
        stacked = stack_frames(even, 2)
        valid = length_mask(torch.div(frames, 2, rounding_mode="floor"), stacked.shape[1])
        return Front(stacked, self.network.feature_projection.layer_norm(stacked), valid)

    def frame_mask(self, lengths: Lengths, num_samples: int, num_frames: int) -> Mask:
        """True at frames that belong to each item."""
        if self.config.padding != "fairseq":
            return length_mask(self.num_frames(lengths), num_frames)
        size = num_samples // num_frames
        kept = length_mask(lengths, num_samples)[:, : size * num_frames]
        return kept.view(len(lengths), num_frames, size).any(dim=-1)

    def hidden_states(
        self, front: Front, *, up_to: int | None = None, masked: Mask | None = None
    ) -> Iterator[Embeddings]:
        """Yield what enters the first layer, then the output of every layer up to `up_to`.

        `masked` frames are replaced by the mask embedding first.
        """
        net, config = self.network, self.config.network
        x = net.feature_projection.dropout(net.feature_projection.projection(front.normed))
        if masked is not None:
            x = torch.where(masked[..., None], net.masked_spec_embed.to(x.dtype), x)
        if front.valid is not None:
            x = x.masked_fill(~front.valid[..., None], 0.0)
        if self.config.family != "w2v_bert":
            x = x + self._positions(x, front.valid)
            x = x if config.pre_norm else net.encoder.layer_norm(x)
        x = net.encoder.dropout(x)
        yield x
        attention, bias = _additive(front.valid, x), None
        for number, layer in enumerate(net.encoder.layers[:up_to]):
            # WavLM's first layer makes the position bias of all others
            if not (self.training and number and float(torch.rand(())) < config.layer_drop):
                x, bias = self._run_layer(layer, x, attention, front.valid, bias)
            yield x

    def last_state(self, front: Front, *, up_to: int | None = None, masked: Mask | None = None) -> Embeddings:
        """What leaves the last layer that is run."""
        last = front.normed
        for state in self.hidden_states(front, up_to=up_to, masked=masked):
            last = state
        return last

    def output(self, last: Embeddings) -> Embeddings:
        """The network's output from its last layer: with the final norm where norms come first."""
        if self.config.network.pre_norm and self.config.family != "w2v_bert":
            return self.network.encoder.layer_norm(last)
        return last

    @property
    def identity(self) -> str:
        """A hash of the configuration and of every weight that units depend on."""
        digest = hashlib.sha256(json.dumps(to_dict(self.config), sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            if not name.startswith("head."):
                digest.update(name.encode() + value.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def units_batch(self, audio: Audio, lengths: Lengths | None = None) -> tuple[Tokens, Lengths]:
        """The nearest centre of every frame, the lowest id on ties; recordings beyond `chunk_s` in stretches.

        Raises:
            ConfigError: no centres were fitted.
            AudioError: an item is shorter than one frame.
        """
        if lengths is None:
            lengths = torch.full((len(audio),), audio.shape[-1], device=audio.device)
        self._check_lengths(audio[:, 0], lengths)
        totals = self.num_frames(lengths)
        units = torch.zeros(len(audio), int(totals.max()), dtype=torch.int64, device=audio.device)
        step = max(1, int(self.config.chunk_s * self.sample_rate_hz) // self.hop)
        for start in range(0, units.shape[1], step):
            rows = torch.nonzero(totals > start)[:, 0]
            # a stretch overlaps the next by what its last frame sees
            first, width = start * self.hop, (step - 1) * self.hop + self.receptive_field
            piece = audio[rows, :, first : first + width]
            inside = (lengths[rows] - first).clamp(max=piece.shape[-1])
            found = self.assign(self.encode_batch(piece, inside, layer=self.config.layer))
            found = found[:, : units.shape[1] - start]  # a batch may be padded beyond its longest item
            units[rows, start : start + found.shape[1]] = found
        return units, totals

    def assign(self, features: Features) -> Tokens:
        """The nearest centre of every valid position; 0 elsewhere."""
        if self.centers is None:
            raise ConfigError("this encoder has no cluster centres: fit or import them (see the README of hubert)")
        batch, positions, width = features.values.shape
        found = nearest(features.values.float().reshape(-1, width), self.centers.float()).view(batch, positions)
        return found.masked_fill(~features.valid, 0)

    def _check_lengths(self, audio: Float[Tensor, "batch sample"], lengths: Lengths | None) -> None:
        least = audio.shape[1] if lengths is None else int(lengths.min())
        if least < self.receptive_field:
            raise AudioError(
                f"a recording has {least} samples at {self.sample_rate_hz} Hz; this encoder needs at least "
                f"{self.receptive_field} ({1000 * self.receptive_field / self.sample_rate_hz:.0f} ms)"
            )

    def _convolve(
        self, audio: Float[Tensor, "batch sample"], lengths: Lengths | None
    ) -> Float[Tensor, "batch channel frame"]:
        net, x = self.config.network, audio[:, None]
        first, *rest = self.network.feature_extractor.conv_layers
        if net.conv_norm == "group" and self.config.padding == "exact" and lengths is not None:
            x = first.conv(x)
            frames = torch.div(lengths - net.conv_kernels[0], net.conv_strides[0], rounding_mode="floor") + 1
            x = first.activation(masked_group_norm(x, frames, first.layer_norm))
        else:
            x = first(x)
        for layer in rest:
            x = layer(x)
        return x

    def _positions(self, x: Embeddings, valid: Mask | None) -> Embeddings:
        embed = self.network.encoder.pos_conv_embed
        if self.config.family != "data2vec" or self.config.padding != "exact" or valid is None:
            return embed(x)
        y = x.transpose(1, 2)
        for layer in embed.layers:
            y = layer(y.masked_fill(~valid[:, None], 0.0))
        return y.transpose(1, 2)

    def _run_layer(
        self, layer: Any, x: Embeddings, attention: Tensor | None, valid: Mask | None, bias: Tensor | None
    ) -> tuple[Embeddings, Tensor | None]:
        if self.config.family == "w2v_bert":
            return layer(x, attention_mask=attention, conv_attention_mask=valid), None
        if self.config.family != "wavlm":
            return layer(x, attention_mask=attention), None
        with warnings.catch_warnings():
            # transformers mixes a boolean and a float mask, which torch deprecates but still adds up
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
            return layer(x, attention_mask=valid, position_bias=bias)


def normalize_waveform(
    audio: Float[Tensor, "batch sample"], lengths: Lengths | None = None
) -> Float[Tensor, "batch sample"]:
    """Zero mean and unit population variance (1e-7 added) over each item's own samples; zeros beyond them."""
    if lengths is None:
        lengths = torch.full((len(audio),), audio.shape[1], device=audio.device)
    with torch.autocast(audio.device.type, enabled=False):
        return normalize_bands(audio.float()[..., None], lengths, epsilon=1e-7)[..., 0]


def masked_group_norm(
    x: Float[Tensor, "batch channel frame"], frames: Lengths, norm: nn.GroupNorm
) -> Float[Tensor, "batch channel frame"]:
    """A group norm of one channel per group whose statistics leave padding out."""
    with torch.autocast(x.device.type, enabled=False):
        normed = normalize_bands(x.float().transpose(1, 2), frames, epsilon=norm.eps).transpose(1, 2)
        return (normed * norm.weight[:, None] + norm.bias[:, None]).to(x.dtype)


def _additive(valid: Mask | None, like: Tensor) -> Float[Tensor, "batch 1 1 key"] | None:
    if valid is None:
        return None
    blocked = torch.zeros(valid.shape, dtype=like.dtype, device=like.device)
    return blocked.masked_fill(~valid, torch.finfo(like.dtype).min)[:, None, None]


def _hop_and_field(config: HubertConfig) -> tuple[int, int]:
    """Samples per frame, and samples that one frame sees."""
    if config.family == "w2v_bert":
        return 2 * MEL_HOP, FbankConfig().window + MEL_HOP
    field, hop = 1, 1
    for kernel, stride in zip(config.network.conv_kernels, config.network.conv_strides, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    return hop, field
