"""NExT-GPT's three stages of training, and its parts by the survey's names (2401.13601)."""

from collections.abc import Mapping

from voder.systems.nextgpt.config import KINDS, NextGptConfig, StageName
from voder.train.stages import Stage

TRAINED: dict[StageName, tuple[str, ...]] = {
    "encoder_alignment": ("input_projector.",),
    "decoder_alignment": ("output_projectors.", "lm.*.rows"),
    "instruction": ("input_projector.", "output_projectors.", "lm.*.rows", "lm.*.lora_"),
}
"""By stage; `rows` are those of the signal tokens alone."""
ENCODER = "encoder."

_OPTIMISER = (
    "loop.optimizer.name=adam",
    "loop.optimizer.betas=[0.9,0.95]",
    "loop.optimizer.weight_decay=0.001",
    "loop.max_grad_norm=1.0",
    "task.max_ids=512",
)


def _stage(
    name: StageName,
    summary: str,
    *,
    section: str,
    starts_from: tuple[str, ...],
    data: str,
    losses: tuple[str, ...],
    learning_rate: str = "4e-4",
    task_settings: tuple[str, ...] = (),
    recalled: tuple[str, ...] = (),
) -> Stage:
    return Stage(
        summary=summary,
        section=section,
        trained=TRAINED[name],
        starts_from=starts_from,
        data=data,
        losses=dict.fromkeys(losses, 1.0),
        settings=(*_OPTIMISER, f"loop.optimizer.learning_rate={learning_rate}"),
        task_settings=(f"task.stage={name}", *task_settings),
        recalled=("one epoch, a tenth of it warm-up", *recalled),
    )


STAGES = {
    "encoder_alignment": _stage(
        "encoder_alignment",
        "what the encoders hear and see becomes words: captions of media",
        section="section 4.1",
        starts_from=("Vicuna-7B-v0", "imagebind_huge"),
        data="CC3M, WebVid, AudioCaps; records of a medium and its caption (task.records=legacy)",
        losses=("cross-entropy of the caption",),
    ),
    "decoder_alignment": _stage(
        "decoder_alignment",
        "signal tokens stand for what generators read of a caption: text alone goes in",
        section="section 4.2",
        starts_from=("stage encoder_alignment",),
        data="the captions of CC3M, WebVid, AudioCaps with vectors of the generators' text encoders (.npy)",
        losses=("cross-entropy of caption and signals", "distance to the caption's vectors"),
        task_settings=("task.train_encoder=false",),
    ),
    "instruction": _stage(
        "instruction",
        "conversations with media in and out, modality-switching ones (MosIT) at last",
        section="sections 5.1 and 5.2",
        starts_from=("stage decoder_alignment",),
        data="text+X to text, text to text+X, text to text, and MosIT (about 5,000 dialogues); conversations",
        losses=("cross-entropy of the assistant's turns", "distance to the captions' vectors"),
        learning_rate="5e-4",
        recalled=("about 5,000 dialogues",),
    ),
}


def anatomy(config: NextGptConfig) -> Mapping[str, str]:
    """The parts that a configuration has."""
    audio, vision, lm = config.encoder.audio, config.encoder.vision, config.lm
    eyes = f", vision {vision.num_layers} layers of {vision.width}" if vision is not None else ""
    made = [f"{kind} {o.num_signals} → {o.num_vectors} x {o.width}" for kind in KINDS if (o := config.output(kind))]
    generators = {"image": "Stable Diffusion", "video": "ZeroScope", "audio": "AudioLDM"}
    return {
        "encoder": f"ImageBind: audio {audio.num_layers} layers of {audio.width}{eyes}; one vector a medium",
        "input projector": f"linear, {config.encoder.output_width} to {lm.width}",
        "language model": f"{lm.family}, {lm.num_layers} layers of {lm.width}, LoRA of rank {config.lora.rank}",
        "output projector": f"signals to vectors by queries: {'; '.join(made) or 'none'}",
        "generator": ", ".join(generators[kind] for kind in KINDS if config.output(kind)) or "none",
    }
