"""How EnCodec is trained, as its paper and audiocraft's code say; and what it is made of, in the survey's words."""

from collections.abc import Mapping

from voder.systems.encodec.config import EncodecConfig
from voder.train.stages import Stage

_ADAM = ("loop.optimizer.name=adam", "loop.optimizer.learning_rate=3e-4", "loop.optimizer.betas=[0.5, 0.9]")
_BATCH = ("task.batch_items=64", "task.crop_s=1.0")
_SPEECH = "DNS Challenge 4, Common Voice, AudioSet, FSD50K; 24 kHz mono; any folder that `voder prepare` made"
_DISCRIMINATOR = "task.discriminator_windows=[2048, 1024, 512, 256, 128]"
_COMMITMENT = "task.commitment_weight=1.0"
_RECALLED = (
    "balancer weights 0.1, 1, 3, 3",
    "loop.optimizer.betas=[0.5, 0.9]",
    "300 epochs of 2000 steps",
    "constant learning rate",
)


def _settings(
    waveform: float, mel: float, adversarial: float, features: float, *more: str, steps: int = 600_000
) -> tuple[str, ...]:
    weights = (
        f"task.waveform_weight={waveform}",
        f"task.mel_weight={mel}",
        f"task.adversarial_weight={adversarial}",
        f"task.feature_weight={features}",
    )
    constant = ("loop.schedule.shape=constant", "loop.schedule.warmup_steps=0")
    return (f"loop.steps={steps}", *_BATCH, *_ADAM, *constant, *weights, *more)


def _losses(waveform: float, mel: float, adversarial: float, features: float) -> dict[str, float]:
    weights = {"waveform": waveform, "mel": mel, "adversarial": adversarial, "features": features}
    return {**weights, "commitment": 1.0}


STAGES: dict[str, Stage] = {
    "24khz": Stage(
        summary="the causal mono codec of speech, sounds and music, 1.5 to 24 kbit/s",
        section="2210.13438, sections 3.4 and 4.1",
        data=_SPEECH,
        losses=_losses(0.1, 1.0, 3.0, 3.0),
        settings=_settings(0.1, 1.0, 3.0, 3.0, _DISCRIMINATOR, _COMMITMENT),
        recalled=(*_RECALLED, "the paper's discriminator learns on two batches of three, here on every one"),
    ),
    "48khz": Stage(
        summary="the stereo codec of music, 3 to 24 kbit/s, with segments of a second",
        section="2210.13438, sections 3.4 and 4.1",
        data="Jamendo; 48 kHz stereo; any folder that `voder prepare` made",
        losses=_losses(0.1, 1.0, 4.0, 4.0),
        settings=_settings(0.1, 1.0, 4.0, 4.0, "task.discriminator_windows=[4096, 2048, 1024, 512, 256]", _COMMITMENT),
        recalled=(
            "balancer weights 0.1, 1, 4, 4",
            *_RECALLED[1:],
            "the paper's discriminator learns on every second batch, here on every one",
        ),
    ),
    "audiocraft": Stage(
        summary="the recipe of the authors' later code, whose weights are other than the paper's",
        section="audiocraft, config/solver/compression",
        data=_SPEECH,
        losses=_losses(0.1, 2.0, 4.0, 4.0),
        settings=_settings(0.1, 2.0, 4.0, 4.0, _DISCRIMINATOR, _COMMITMENT, "loop.ema_decay=0.99", steps=400_000),
        recalled=("200 epochs are of 2000 steps each",),
    ),
    "fsq": Stage(
        summary="the same codec with a fixed grid: no codebook, no commitment, nothing to collapse",
        section="2309.15505, section 3",
        data=_SPEECH,
        losses={name: weight for name, weight in _losses(0.1, 1.0, 3.0, 3.0).items() if name != "commitment"},
        settings=_settings(0.1, 1.0, 3.0, 3.0, _DISCRIMINATOR, "task.commitment_weight=0.0"),
        task_settings=("model.quantizer=fsq", "model.bandwidths_kbps=[]"),
        recalled=(
            *_RECALLED,
            "the paper trains FSQ on images; this joins its quantizer to EnCodec's recipe",
        ),
    ),
}


def anatomy(config: EncodecConfig) -> Mapping[str, str]:
    """The parts of a codec."""
    net = config.seanet
    strides = " x ".join(str(ratio) for ratio in reversed(net.ratios))
    kind = "residual vector" if config.quantizer == "rvq" else "finite scalar"
    parts = {
        "encoder": (
            f"SEANet, {'mono' if net.channels == 1 else 'stereo'} at {config.sample_rate_hz} Hz, strides {strides}, "
            f"{net.dim} channels at {config.sample_rate_hz / net.hop:g} frames/s; {kind} quantizer, "
            f"{config.num_codebooks} x {config.codebook_size} codes"
        )
    }
    if config.lm is not None:
        parts["language model"] = (
            f"transformer {config.lm.num_layers} x {config.lm.dim} over past frames, for entropy coding only"
        )
    return parts | {"generator": f"SEANet decoder, {net.dim} channels to {config.sample_rate_hz} Hz"}
