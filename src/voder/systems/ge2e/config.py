"""Sizes of the speaker encoder and how it is trained; presets `tiny`, `small` and `paper`."""

from collections.abc import Callable
from dataclasses import dataclass

from voder.hub import Preset
from voder.train.loop import LoopConfig, cosine_loop, few_steps
from voder.train.optim import OptimizerConfig, ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class Ge2eConfig:
    """The network and what it listens to; the defaults are those of the published weights (resemblyzer's)."""

    sample_rate_hz: int = 16_000
    """Of what it listens to."""
    n_fft: int = 400
    """Samples of a frame."""
    hop: int = 160
    """Samples from one frame to the next."""
    num_bands: int = 40
    """Mel bands."""
    logarithm: bool = False
    """The logarithm of the bands' power, about -1.5 to 1.5; the published weights read the power as it is."""
    loudness_dbfs: float = -30.0
    """Quieter recordings are raised to this level."""
    window_frames: int = 160
    """Frames that the network reads at once (1.6 s)."""
    window_step: int = 77
    """Frames from one window of a recording to the next."""
    min_coverage: float = 0.75
    """A last window that less of the recording fills is left out, unless it is the only one."""
    width: int = 256
    """Cells of each layer."""
    num_layers: int = 3
    """Layers of the LSTM."""
    embedding_width: int = 256
    """Channels of the vector."""

    def __post_init__(self) -> None:
        for name in ("hop", "window_frames", "window_step", "num_layers", "width", "embedding_width", "num_bands"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; 1 or more is wanted")
        if not 0 < self.min_coverage <= 1:
            raise ValueError(f"min_coverage is {self.min_coverage}; a share above 0 and up to 1 is wanted")
        if self.window_step > self.window_frames:
            raise ValueError(f"window_step {self.window_step} is beyond window_frames {self.window_frames}: gaps")
        if self.n_fft < 2 * self.num_bands:
            raise ValueError(f"n_fft {self.n_fft} has too few bins for {self.num_bands} mel bands")

    @property
    def window_samples(self) -> int:
        """Samples under a window."""
        return self.window_frames * self.hop


@dataclass(frozen=True, kw_only=True)
class Ge2eTaskConfig:
    """Batches of speakers and their recordings (1710.10467, section 2)."""

    speakers: int = 64
    """Speakers in a batch; fewer where the data has fewer."""
    utterances: int = 10
    """Windows of each of them, from different recordings as far as there are so many."""
    min_recordings: int = 2
    """Speakers with fewer recordings are left out: with one, a recording's room is learnt for a voice."""
    cache_mb: int = 1024
    """Decoded audio kept in memory, at most."""
    evaluate_items: int = 400
    """Recordings compared at each evaluation, at most."""

    def __post_init__(self) -> None:
        if self.speakers < 2 or self.utterances < 2:
            raise ValueError(f"speakers {self.speakers} and utterances {self.utterances} must be at least 2")


def tiny() -> Preset:
    """For tests: windows of 0.2 s, builds and trains a step in a moment."""
    model = Ge2eConfig(
        num_bands=16,
        logarithm=True,
        window_frames=20,
        window_step=10,
        width=12,
        num_layers=2,
        embedding_width=8,
        loudness_dbfs=-20.0,
    )
    task = Ge2eTaskConfig(speakers=2, utterances=3, evaluate_items=6)
    return Preset(model=model, task=task, loop=few_steps(1e-2))


def small() -> Preset:
    """0.3 M parameters, for a few hundred speakers on two cores."""
    loop = cosine_loop(
        3000,
        learning_rate=1e-3,
        every=500,
        warmup=100,
        betas=(0.9, 0.999),
        final_ratio=0.05,
        name="adam",
        max_grad_norm=3.0,
    )
    task = Ge2eTaskConfig(speakers=16, utterances=5)
    return Preset(model=Ge2eConfig(logarithm=True, width=128, num_layers=2, embedding_width=128), task=task, loop=loop)


def paper() -> Preset:
    """The published weights' size (1.4 M) with the paper's batches, optimiser and clipping.

    Recalled: SGD at 0.01, halved every 30 M steps of 50 M, gradients clipped at 3.
    """
    loop = LoopConfig(
        steps=1_500_000,
        optimizer=OptimizerConfig(name="sgd", learning_rate=0.01, betas=(0.0, 0.0)),
        schedule=ScheduleConfig(shape="constant", warmup_steps=0),
        max_grad_norm=3.0,
        evaluate_every=10_000,
        save_every=10_000,
    )
    return Preset(model=Ge2eConfig(logarithm=True), task=Ge2eTaskConfig(), loop=loop)


PRESETS: dict[str, Callable[[], Preset]] = {"tiny": tiny, "small": small, "paper": paper}
