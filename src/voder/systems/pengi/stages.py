"""Pengi's one stage of training, and its parts by the survey's names (2401.13601)."""

from collections.abc import Mapping

from voder.systems.pengi.config import PengiConfig
from voder.train.stages import Stage

TRAINED = ("audio_", "text_[mp]")
"""Audio encoder, projection and mapper; the text's mapper, and its projection where there is a tower."""

STAGES = {
    "pretrain": Stage(
        summary="every audio task as text after an audio and a text prefix",
        section="section 3.2",
        trained=TRAINED,
        starts_from=("HTSAT as CLAP trained it", "CLIP ViT-B/16's text encoder", "GPT-2 base"),
        data="3.4 M triples of AudioSet, FSD50K, CochlScene, MSP-Podcast, CMU-MOSI and MOSEI, MELD, NSynth, FMA, "
        "AudioCaps, Clotho, ClothoAQA, WavText5K, SoundDescs, MACS, WavCaps, FreeSound, FindSounds; lines of "
        "audio, prompt, text (task.records=triples)",
        losses={"cross-entropy of the answer": 1.0},
        settings=("task.batch_items=384", "loop.optimizer.name=adam", "loop.steps=531250"),
        recalled=("learning rate 1e-4 with a warm-up", "starts_from: which HTSAT weights"),
    ),
}


def anatomy(config: PengiConfig) -> Mapping[str, str]:
    """The parts that a configuration has."""
    audio, text, lm = config.audio, config.text, config.lm
    read = f"; CLIP's text tower, {text.num_layers} layers of {text.width}" if text is not None else ""
    layers = "-".join(map(str, audio.depths))
    return {
        "encoder": f"HTSAT, {layers} blocks, {audio.output_width} channels, {config.clip_s:g} s{read}",
        "input projector": f"two mappers of {config.mapper.num_layers} layers, {config.mapper.prefix} vectors each",
        "language model": f"{lm.family}, {lm.num_layers} layers of {lm.width}, frozen",
    }
