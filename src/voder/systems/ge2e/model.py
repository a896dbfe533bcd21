"""A speaker encoder (Wan et al., 1710.10467, section 3.2) in resemblyzer's form.

Mel power goes through an LSTM; the last state of the last layer, made non-negative by a linear layer and ReLU, is a
window's vector. A recording's vector is the mean over its windows. Every vector has length one. The paper's network has
768 cells projected to 256 and no ReLU.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from voder.audio.features import mel_filterbank
from voder.roles import SpeakerEncoder
from voder.shapes import Audio, Lengths
from voder.systems.ge2e.config import Ge2eConfig

Vectors = Float[Tensor, "row channel"]
_QUIETEST = 1e-5
"""A recording whose level is below -100 dBFS is silence, which nothing raises."""


class Ge2e(SpeakerEncoder):
    """Audio to a vector that says whose voice it is."""

    analysis_window: Tensor
    filters: Tensor

    def __init__(self, config: Ge2eConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate_hz, self.width = config.sample_rate_hz, config.embedding_width
        filters = mel_filterbank(
            sample_rate_hz=config.sample_rate_hz,
            n_fft=config.n_fft,
            num_bands=config.num_bands,
            scale="slaney",
            norm="slaney",
        )
        self.register_buffer("filters", filters, persistent=False)
        with torch.device("cpu"):  # a table of numbers, made even where a model is built without its weights
            analysis_window = torch.hann_window(config.n_fft)
        self.register_buffer("analysis_window", analysis_window, persistent=False)
        self.lstm = nn.LSTM(config.num_bands, config.width, config.num_layers, batch_first=True)
        self.linear = nn.Linear(config.width, config.embedding_width)
        self.similarity_weight = nn.Parameter(torch.full((1,), 10.0))
        self.similarity_bias = nn.Parameter(torch.full((1,), -5.0))

    def features(self, audio: Float[Tensor, "row sample"]) -> Float[Tensor, "row frame band"]:
        """Mel bands of frames centred on multiples of the hop, zeros beyond both ends."""
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(
                audio.float(),
                self.config.n_fft,
                self.config.hop,
                window=self.analysis_window,
                center=True,
                pad_mode="constant",
                return_complex=True,
            )
            power = torch.view_as_real(spectrum).square().sum(-1)
            bands = torch.matmul(self.filters, power).transpose(1, 2)
            return ((bands + 1e-6).log10() + 3) / 2 if self.config.logarithm else bands

    def level(self, audio: Float[Tensor, "row sample"], lengths: Lengths) -> Float[Tensor, "row sample"]:
        """Raise what is quieter than `loudness_dbfs` on the mean to it, and silence what is beyond an item's length."""
        valid = torch.arange(audio.shape[1], device=audio.device)[None] < lengths[:, None]
        samples = audio.float() * valid
        rms = (samples.square().sum(1) / lengths.clamp(min=1)).sqrt()
        wanted = 10 ** (self.config.loudness_dbfs / 20)
        gain = torch.where(rms > _QUIETEST, (wanted / rms.clamp(min=_QUIETEST)).clamp(min=1.0), 1.0)
        return samples * gain[:, None]

    def forward(self, mel: Float[Tensor, "row frame band"]) -> Vectors:
        """One vector of length one per window."""
        states, _ = self.lstm(mel)
        return F.normalize(F.relu(self.linear(states[:, -1])).float(), dim=1, eps=1e-8)

    def window_starts(self, num_samples: int) -> list[int]:
        """First frames of a recording's windows, as the original places them."""
        config = self.config
        num_frames = -(-(num_samples + 1) // config.hop)
        starts = list(range(0, max(1, num_frames - config.window_frames + config.window_step + 1), config.window_step))
        covered = (num_samples - starts[-1] * config.hop) / config.window_samples
        return starts[:-1] if covered < config.min_coverage and len(starts) > 1 else starts

    def embed_batch(self, audio: Audio, lengths: Lengths | None = None) -> Float[Tensor, "batch width"]:
        """Vectors of a zero-padded batch; padding changes none of them."""
        batch, _, num_samples = audio.shape
        counts = torch.full((batch,), num_samples, device=audio.device) if lengths is None else lengths
        starts = [self.window_starts(int(count)) for count in counts]
        reach = (max(row[-1] for row in starts) + self.config.window_frames) * self.config.hop
        levelled = self.level(audio[:, 0], counts)
        mel = self.features(F.pad(levelled, (0, max(0, reach - num_samples))))
        rows = torch.tensor([row for row, own in enumerate(starts) for _ in own], device=audio.device)
        firsts = torch.tensor([start for own in starts for start in own], device=audio.device)
        return self._mean_of_windows(mel, rows, firsts, batch)

    def _mean_of_windows(
        self,
        mel: Float[Tensor, "batch frame band"],
        rows: Int[Tensor, " window"],
        firsts: Int[Tensor, " window"],
        batch: int,
    ) -> Float[Tensor, "batch width"]:
        frames = firsts[:, None] + torch.arange(self.config.window_frames, device=mel.device)
        vectors = self(mel[rows[:, None], frames])
        total = vectors.new_zeros(batch, vectors.shape[1]).index_add(0, rows, vectors)
        return F.normalize(total, dim=1, eps=1e-8)
