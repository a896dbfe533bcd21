"""Settings of the self-supervised encoders; presets `tiny`, and the published sizes of every family."""

from dataclasses import dataclass, field, replace
from typing import Literal

from voder.errors import ConfigError
from voder.hub import Preset
from voder.train.loop import LoopConfig
from voder.train.optim import OptimizerConfig, ScheduleConfig

Family = Literal["hubert", "wav2vec2", "wavlm", "data2vec", "w2v_bert"]
MEL_HOP = 160
"""Samples between the mel frames that w2v-BERT hears and that BEST-RQ makes its targets from."""
MEL_BANDS = 80


_WAVLM = ("num_buckets", "max_distance")
_CONFORMER = ("left_positions", "right_positions", "depthwise_kernel")
_WAVEFORM = (
    "conv_channels",
    "conv_kernels",
    "conv_strides",
    "conv_bias",
    "conv_norm",
    "pre_norm",
    "position_kernel",
    "position_groups",
)
_FOREIGN: dict[Family, tuple[str, ...]] = {
    "hubert": (*_WAVLM, *_CONFORMER, "position_depth"),
    "wav2vec2": (*_WAVLM, *_CONFORMER, "position_depth"),
    "wavlm": (*_CONFORMER, "position_depth"),
    "data2vec": (*_WAVLM, *_CONFORMER, "pre_norm"),
    "w2v_bert": (*_WAVEFORM, *_WAVLM, "position_depth"),
}
"""Settings that a family does not read; they must stay as they are."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes of a network. Each family reads those that it has."""

    dim: int = 768
    """Width of the transformer."""
    num_layers: int = 12
    """Transformer layers."""
    num_heads: int = 12
    """Attention heads."""
    ffn_dim: int = 3072
    """Width inside the feed-forward layers."""
    conv_channels: tuple[int, ...] = (512,) * 7
    """Channels of the convolutions over the waveform."""
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    """Their kernels, in samples of their input."""
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    """Their strides; the product is the hop."""
    conv_bias: bool = False
    """Whether those convolutions have a bias."""
    conv_norm: Literal["group", "layer"] = "group"
    """group: statistics over the time of each channel after the first convolution; layer: over channels after each."""
    pre_norm: bool = False
    """Normalise before each part of a layer (the large models), or after it."""
    position_kernel: int = 128
    """Kernel of the convolutional position embedding."""
    position_groups: int = 16
    """Its groups."""
    position_depth: int = 1
    """How many such convolutions follow one another (data2vec)."""
    num_buckets: int = 320
    """Relative distances told apart (WavLM)."""
    max_distance: int = 800
    """Distances beyond this are all one (WavLM)."""
    left_positions: int = 64
    """Frames to the left told apart (w2v-BERT)."""
    right_positions: int = 8
    """Frames to the right told apart (w2v-BERT)."""
    depthwise_kernel: int = 31
    """Kernel of the conformer's convolution (w2v-BERT)."""
    dropout: float = 0.1
    """Dropout of the transformer while training."""
    layer_drop: float = 0.05
    """Chance that a training step skips a layer."""

    def __post_init__(self) -> None:
        sizes = {len(self.conv_channels), len(self.conv_kernels), len(self.conv_strides)}
        if len(sizes) != 1:
            raise ConfigError(
                f"conv_channels, conv_kernels and conv_strides have {len(self.conv_channels)}, "
                f"{len(self.conv_kernels)} and {len(self.conv_strides)} entries; they need one per convolution"
            )
        if self.dim % self.num_heads:
            raise ConfigError(f"dim {self.dim} is no multiple of num_heads {self.num_heads}; change one of them")


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """What a network is pre-trained with; its weights are kept in the checkpoint."""

    objective: Literal["best_rq", "hubert", "wav2vec2"] = "best_rq"
    """best_rq: labels of a frozen random projection; hubert: clusters; wav2vec2: contrast of quantised frames."""
    num_labels: int = 8192
    """Codes (best_rq), clusters (hubert) or entries of each codebook (wav2vec2)."""
    label_dim: int = 16
    """Width that frames and labels are compared in."""
    num_codebooks: int = 2
    """Codebooks of the product quantizer (wav2vec2)."""

    def __post_init__(self) -> None:
        if self.objective != "wav2vec2" and self.num_codebooks != 2:
            raise ConfigError(f"head.num_codebooks is {self.num_codebooks}, which acts only with objective=wav2vec2")


@dataclass(frozen=True, kw_only=True)
class HubertConfig:
    """An encoder, how audio gets into it, and which units are read off it."""

    family: Family = "hubert"
    """Which network."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Its sizes."""
    sample_rate_hz: int = 16_000
    """Rate of the audio that comes in."""
    normalize: bool = False
    """Bring every recording to zero mean and unit variance first (w2v-BERT: every mel band). It must be as in
    training: the large models want it, HuBERT base and mHuBERT do not, and a wrong choice shifts the units."""
    padding: Literal["exact", "official", "fairseq"] = "exact"
    """exact: a recording in a batch gives what it gives alone; official: padding leaks where the original lets it;
    fairseq: so, and frames count as padding by the rule of fairseq's HuBERT."""
    layer: int | None = None
    """Layer that units are read off, counted from 1; the output of the network if not given."""
    num_units: int = 0
    """Cluster centres; 0 when none were fitted. Those of a fresh model are random."""
    chunk_s: float = 100.0
    """Longer recordings are cut into stretches of this length for units; no frame is lost at a cut."""
    head: HeadConfig | None = None
    """The objective of pre-training, if its weights are here."""

    def __post_init__(self) -> None:
        if self.layer is not None and not 0 <= self.layer <= self.network.num_layers:
            raise ConfigError(f"layer is {self.layer}; this network has layers 0 to {self.network.num_layers}")
        if self.family == "data2vec" and self.network.conv_norm != "layer":
            raise ConfigError("network.conv_norm is group, but data2vec normalises over channels: set it to layer")
        default = NetworkConfig()
        for name in _FOREIGN[self.family]:
            if getattr(self.network, name) != getattr(default, name):
                raise ConfigError(
                    f"network.{name} is {getattr(self.network, name)}, but {self.family} has no such part; leave it at "
                    f"{getattr(default, name)} or choose another model.family"
                )
        if self.num_units < 0 or self.chunk_s <= 0:
            raise ConfigError(f"num_units {self.num_units} and chunk_s {self.chunk_s} must not be negative")


@dataclass(frozen=True, kw_only=True)
class HubertTaskConfig:
    """How a network is pre-trained."""

    crop_s: float = 10.0
    """Length of a training crop."""
    batch_items: int = 16
    """Crops in one batch; halve it when memory runs out."""
    mask_start: float = 0.01
    """Chance of a frame to start a masked span: a mel frame of 10 ms (best_rq), or one of the encoder's (hubert)."""
    mask_span: int = 40
    """Such frames in a span."""
    labels: str = "km"
    """Suffix of the label files beside the manifests: train.km, valid.km (hubert)."""
    label_rate_hz: float = 50.0
    """Labels per second: 100 for clusters of MFCCs, 50 for those of an encoder's layer (hubert)."""
    feature_penalty: float = 0.0
    """Weight of the mean square of what the convolutions give (HuBERT: 10)."""
    cache_mb: int = 1024
    """Decoded audio kept in memory, at most."""
    evaluate_items: int = 64
    """Validation crops, at most."""


def _preset(model: HubertConfig, **task: float) -> Preset:
    loop = LoopConfig(
        steps=400_000,
        optimizer=OptimizerConfig(learning_rate=5e-4, betas=(0.9, 0.98), weight_decay=0.01),
        schedule=ScheduleConfig(shape="linear", warmup_steps=32_000, final_ratio=0.0),
        max_grad_norm=10.0,
        evaluate_every=5000,
        save_every=5000,
        precision="bf16",
    )
    return Preset(model=model, task=HubertTaskConfig(**task), loop=loop)  # type: ignore[arg-type]


def tiny() -> Preset:
    """For tests: builds and trains a step in a moment."""
    network = NetworkConfig(
        dim=32,
        num_layers=3,
        num_heads=4,
        ffn_dim=64,
        conv_channels=(16,) * 7,
        position_kernel=16,
        position_groups=4,
        dropout=0.0,
        layer_drop=0.0,
    )
    model = HubertConfig(network=network, num_units=4, head=HeadConfig(num_labels=64, label_dim=8))
    task = HubertTaskConfig(crop_s=1.0, batch_items=2, mask_start=0.05, mask_span=10, evaluate_items=2)
    loop = LoopConfig(steps=4, evaluate_every=2, save_every=2, log_every=1)
    return Preset(model=model, task=task, loop=loop)


_BEST_RQ = HeadConfig()
_BASE = NetworkConfig()
_LARGE = NetworkConfig(
    dim=1024, num_layers=24, num_heads=16, ffn_dim=4096, conv_norm="layer", conv_bias=True, pre_norm=True
)


def hubert_base() -> Preset:
    """HuBERT base (2106.07447): 95 M parameters; also mHuBERT, and wav2vec 2.0 base but for its family."""
    return _preset(HubertConfig(network=_BASE, head=_BEST_RQ))


def hubert_large() -> Preset:
    """HuBERT large: 317 M parameters."""
    return _preset(HubertConfig(network=_LARGE, normalize=True, head=_BEST_RQ))


def hubert_xlarge() -> Preset:
    """HuBERT X-large: 964 M parameters."""
    network = replace(_LARGE, dim=1280, num_layers=48, ffn_dim=5120)
    return _preset(HubertConfig(network=network, normalize=True, head=_BEST_RQ))


def wav2vec2_base() -> Preset:
    """wav2vec 2.0 base (2006.11477)."""
    return _preset(HubertConfig(family="wav2vec2", network=_BASE, head=_BEST_RQ))


def wav2vec2_large() -> Preset:
    """wav2vec 2.0 large, as trained on Libri-Light."""
    return _preset(HubertConfig(family="wav2vec2", network=_LARGE, normalize=True, head=_BEST_RQ))


def wavlm_base() -> Preset:
    """WavLM base and base+ (2110.13900)."""
    return _preset(HubertConfig(family="wavlm", network=_BASE, head=_BEST_RQ))


def wavlm_large() -> Preset:
    """WavLM large."""
    network = replace(_LARGE, conv_bias=False)
    return _preset(HubertConfig(family="wavlm", network=network, normalize=True, head=_BEST_RQ))


def data2vec_base() -> Preset:
    """data2vec base for speech (2202.03555)."""
    network = replace(_BASE, conv_norm="layer", position_kernel=19, position_depth=5)
    return _preset(HubertConfig(family="data2vec", network=network, normalize=True, head=_BEST_RQ))


def data2vec_large() -> Preset:
    """data2vec large for speech."""
    network = replace(_LARGE, conv_bias=False, pre_norm=False, position_kernel=19, position_depth=5)
    return _preset(HubertConfig(family="data2vec", network=network, normalize=True, head=_BEST_RQ))


def w2v_bert_2() -> Preset:
    """w2v-BERT 2.0 (as in Seamless, 2312.05187): 580 M parameters."""
    network = NetworkConfig(dim=1024, num_layers=24, num_heads=16, ffn_dim=4096, dropout=0.0)
    return _preset(HubertConfig(family="w2v_bert", network=network, normalize=True, head=_BEST_RQ))


PRESETS = {
    "tiny": tiny,
    "hubert-base": hubert_base,
    "hubert-large": hubert_large,
    "hubert-xlarge": hubert_xlarge,
    "wav2vec2-base": wav2vec2_base,
    "wav2vec2-large": wav2vec2_large,
    "wavlm-base": wavlm_base,
    "wavlm-large": wavlm_large,
    "data2vec-base": data2vec_base,
    "data2vec-large": data2vec_large,
    "w2v-bert-2": w2v_bert_2,
}
