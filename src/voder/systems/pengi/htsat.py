"""HTSAT (2202.00874): a Swin transformer (2103.14030) over a log-mel spectrogram folded to a square image.

Pengi's front end (2305.11834) listens to 44.1 kHz audio through a mel bank that was built for 32 kHz, so that every
band lies a factor of 1.378 higher than its name says. Published weights need that (`filter_rate_hz`).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voder.audio.features import mel_filterbank
from voder.nn.attention import attend
from voder.shapes import Embeddings
from voder.systems.pengi.config import HtsatConfig

LogMel = Float[Tensor, "batch frame band"]
Image = Float[Tensor, "batch 1 row column"]
Grid = Float[Tensor, "batch row column channel"]
NextGrid = Float[Tensor, "batch next_row next_column next_channel"]
_FLOOR = 1e-10
_MLP_RATIO = 4


class FrontEnd(nn.Module):
    """Power spectrogram with reflected edges, mel bank, decibels."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: HtsatConfig) -> None:
        super().__init__()
        self.config = config
        with torch.device("cpu"):  # also where the network is only described, on the meta device
            filters = mel_filterbank(
                sample_rate_hz=config.filter_rate_hz or config.sample_rate_hz,
                n_fft=config.n_fft,
                num_bands=config.num_bands,
                f_min_hz=config.f_min_hz,
                f_max_hz=config.f_max_hz,
                scale="slaney",
                norm="slaney",
            )
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def power(self, audio: Float[Tensor, "batch sample"]) -> Float[Tensor, "batch frame bin"]:
        """Energies of samples // hop + 1 frames."""
        n_fft = self.config.n_fft
        with torch.autocast(audio.device.type, enabled=False):
            padded = F.pad(audio.float()[:, None], (n_fft // 2, n_fft // 2), mode="reflect")[:, 0]
            spectrum = torch.stft(padded, n_fft, self.config.hop, window=self.window, center=False, return_complex=True)
            return torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)

    def forward(self, audio: Float[Tensor, "batch sample"]) -> LogMel:
        """Ten times the decimal logarithm of the mel energies."""
        energies = self.power(audio)
        with torch.autocast(audio.device.type, enabled=False):
            return 10.0 * torch.log10((energies @ self.filters.mT).clamp(min=_FLOOR))


class WindowAttention(nn.Module):
    """Attention within windows of a grid, with a learned bias for every distance in two directions."""

    places: Tensor

    def __init__(self, width: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads, self.window = num_heads, window
        self.in_projection = nn.Linear(width, 3 * width)
        self.out_projection = nn.Linear(width, width)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        self.register_buffer("places", distance_places(window), persistent=False)

    def forward(self, x: Embeddings, separate: Float[Tensor, "window query key"] | None) -> Embeddings:
        """`x` has one row per window; `separate` keeps apart what a rolled grid brings together."""
        count, length, width = x.shape
        parts = self.in_projection(x).view(count, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.bias_table[self.places].permute(2, 0, 1)[None]
        if separate is not None:
            bias = bias + separate[:, None].repeat(count // len(separate), 1, 1, 1)
        heads = attend(parts[0], parts[1], parts[2], None, bias=bias.expand(count, -1, -1, -1))
        return self.out_projection(heads.transpose(1, 2).reshape(count, length, width))


def distance_places(window: int) -> Tensor:
    """Row of the bias table for every query and key of a window."""
    row, column = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    row, column = row.flatten(), column.flatten()
    down = row[:, None] - row[None, :] + window - 1
    right = column[:, None] - column[None, :] + window - 1
    return down * (2 * window - 1) + right


def split_windows(x: Grid, window: int) -> Float[Tensor, "window place channel"]:
    """Cut a grid into windows, row by row."""
    batch, height, width, channels = x.shape
    cut = x.view(batch, height // window, window, width // window, window, channels)
    return cut.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, channels)


def join_windows(windows: Float[Tensor, "window place channel"], window: int, size: int) -> Grid:
    """Undo `split_windows` for a square grid."""
    side = size // window
    cut = windows.view(-1, side, side, window, window, windows.shape[-1])
    return cut.permute(0, 1, 3, 2, 4, 5).reshape(-1, size, size, windows.shape[-1])


class SwinBlock(nn.Module):
    """Attention in windows, every other block's shifted by half a window, and a feed-forward part."""

    separate: Tensor | None

    def __init__(self, width: int, num_heads: int, size: int, window: int, *, shifted: bool) -> None:
        super().__init__()
        self.size, self.window = size, min(window, size)
        self.shift = window // 2 if shifted and size > window else 0
        self.attention_norm = nn.LayerNorm(width)
        self.attention = WindowAttention(width, num_heads, self.window)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn_in = nn.Linear(width, _MLP_RATIO * width)
        self.ffn_out = nn.Linear(_MLP_RATIO * width, width)
        self.register_buffer("separate", self._separate() if self.shift else None, persistent=False)

    def _separate(self) -> Float[Tensor, "window query key"]:
        """-100 between places that only rolling made neighbours."""
        region = torch.zeros(self.size)
        region[-self.window : -self.shift] = 1
        region[-self.shift :] = 2
        regions = (3 * region[:, None] + region[None, :])[None, :, :, None]
        cut = split_windows(regions, self.window)[..., 0]
        return (cut[:, :, None] != cut[:, None, :]).float() * -100.0

    def forward(self, x: Grid) -> Grid:
        """Run one block."""
        normed = self.attention_norm(x)
        if self.shift:
            normed = normed.roll((-self.shift, -self.shift), dims=(1, 2))
        attended = self.attention(split_windows(normed, self.window), self.separate)
        attended = join_windows(attended, self.window, self.size)
        if self.shift:
            attended = attended.roll((self.shift, self.shift), dims=(1, 2))
        x = x + attended
        y: Tensor = x + self.ffn_out(F.gelu(self.ffn_in(self.ffn_norm(x))))
        return y


class Merge(nn.Module):
    """Four neighbours become one place with twice the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.projection = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Grid) -> NextGrid:
        """Halve the grid."""
        corners = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
        return self.projection(self.norm(torch.cat(corners, dim=-1)))


class Stage(nn.Module):
    """Blocks at one size of the grid, and the step to the next."""

    def __init__(self, config: HtsatConfig, number: int) -> None:
        super().__init__()
        width, size = config.width << number, config.grid >> number
        self.blocks = nn.ModuleList(
            SwinBlock(width, config.num_heads[number], size, config.window, shifted=bool(block % 2))
            for block in range(config.depths[number])
        )
        self.merge = Merge(width) if number + 1 < len(config.depths) else None

    def forward(self, x: Grid) -> NextGrid:
        """Run one stage."""
        for block in self.blocks:
            x = block(x)
        return x if self.merge is None else self.merge(x)


class Htsat(nn.Module):
    """Audio to a grid of vectors, their mean, and classes of sounds."""

    def __init__(self, config: HtsatConfig) -> None:
        super().__init__()
        self.config = config
        self.front = FrontEnd(config)
        self.band_norm = nn.BatchNorm1d(config.num_bands)
        self.patches = nn.Conv2d(1, config.width, config.patch, config.patch)
        self.patch_norm = nn.LayerNorm(config.width)
        self.stages = nn.ModuleList(Stage(config, number) for number in range(len(config.depths)))
        self.norm = nn.LayerNorm(config.output_width)
        self.classes = nn.Conv2d(config.output_width, config.num_classes, (config.last_rows, 3), padding=(0, 1))
        self.spare_head = nn.Linear(config.num_classes, config.num_classes)
        """In every published checkpoint; the published code never runs it."""

    def image(self, bands: LogMel) -> Image:
        """Norm each band, stretch to the frames that fill the image, fold: one strip of bands under another.

        Raises:
            ValueError: more frames than the image holds.
        """
        if bands.shape[1] > self.config.max_frames:
            raise ValueError(f"{bands.shape[1]} frames do not fit an image of {self.config.max_frames}")
        normed = self.band_norm(bands.transpose(1, 2)).transpose(1, 2)[:, None]
        size = (self.config.max_frames, self.config.num_bands)
        if normed.shape[2:] != size:
            normed = F.interpolate(normed, size, mode="bicubic", align_corners=True)
        strips = normed.transpose(2, 3).unflatten(3, (self.config.num_strips, -1))
        return strips.transpose(2, 3).flatten(2, 3)

    def grid(self, audio: Float[Tensor, "batch sample"]) -> Grid:
        """Vectors of the last stage."""
        x = self.patches(self.image(self.front(audio))).permute(0, 2, 3, 1)
        x = self.patch_norm(x)
        for stage in self.stages:
            x = stage(x)
        normed: Tensor = self.norm(x)
        return normed

    def forward(self, audio: Float[Tensor, "batch sample"]) -> Float[Tensor, "batch channel"]:
        """One vector per recording: the mean of the grid."""
        return self.grid(audio).flatten(1, 2).mean(dim=1)

    def classify(self, grid: Grid) -> tuple[Float[Tensor, "batch class"], Float[Tensor, "batch frame class"]]:
        """Probabilities of classes in the whole recording, and in each frame of the image."""
        rows = self.config.last_rows
        # the strips of bands are laid behind one another again: [batch, channel, row, time]
        batch, _, width, channels = grid.shape
        strips = grid.permute(0, 3, 1, 2).reshape(batch, channels, -1, rows, width).transpose(2, 3).flatten(3, 4)
        logits = self.classes(strips).flatten(2)
        frames = logits.sigmoid().transpose(1, 2).repeat_interleave(8 * self.config.patch, dim=1)
        return logits.mean(dim=2).sigmoid(), frames
