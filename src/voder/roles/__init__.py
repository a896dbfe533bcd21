"""What a part can be: small abstract classes that systems implement and everything else relies on.

A part is an `nn.Module`, so a system may train it or freeze it. The batched members work on tensors and are
what a system writes; the single-item members are what a user calls, and are written once, here.
"""

from voder.roles.clips import Waveform, as_clip, collate_clips, device_of, fit_clip
from voder.roles.parts import (
    Codec,
    Encoded,
    Encoder,
    Features,
    Generator,
    ImageTokenizer,
    SpeakerEncoder,
    Stream,
    Units,
    UnitTokenizer,
)
from voder.roles.verbs import (
    Answer,
    Chatter,
    Continuer,
    Listener,
    SayRequest,
    Speaker,
    Speech,
    Transcriber,
    Transcript,
    Translator,
    Turn,
)

__all__ = [
    "Answer",
    "Chatter",
    "Codec",
    "Continuer",
    "Encoded",
    "Encoder",
    "Features",
    "Generator",
    "ImageTokenizer",
    "Listener",
    "SayRequest",
    "Speaker",
    "SpeakerEncoder",
    "Speech",
    "Stream",
    "Transcriber",
    "Transcript",
    "Translator",
    "Turn",
    "UnitTokenizer",
    "Units",
    "Waveform",
    "as_clip",
    "collate_clips",
    "device_of",
    "fit_clip",
]
