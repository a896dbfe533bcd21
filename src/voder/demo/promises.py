"""What the demo promises: the bar of every figure, from scratch and with the bundled checkpoints."""

from dataclasses import dataclass, replace

from voder.evaluate.figures import Figure

EARS_KNOWN = "ears: other takes of known speakers"
EARS_NEW = "ears: a speaker never heard"
EARS_CODEC = "ears: through the codec"
SAID_TAG = "voice: unseen strings, by speaker tag"
SAID_PROMPT = "voice: unseen strings, by audio prompt"
NEW_BEFORE = "new speaker: before fine-tuning, by audio prompt"
NEW_AFTER = "new speaker: after two minutes of fine-tuning, by audio prompt"


@dataclass(frozen=True)
class Bar:
    """Percent of words wrong, at most: what must be and what is aimed at."""

    must: float | None
    aim: float | None


FROM_SCRATCH = {
    EARS_KNOWN: Bar(5.0, 2.5),
    EARS_NEW: Bar(20.0, 10.0),
    EARS_CODEC: Bar(8.0, 4.0),
    SAID_TAG: Bar(20.0, 10.0),
    SAID_PROMPT: Bar(None, 30.0),
}
BUNDLED = {
    EARS_KNOWN: Bar(3.0, 1.5),
    EARS_NEW: Bar(12.0, 6.0),
    EARS_CODEC: Bar(5.0, 3.0),
    SAID_TAG: Bar(8.0, 4.0),
    SAID_PROMPT: Bar(25.0, 12.0),
}
TIME_S = {"bundled": Bar(300.0, 180.0), "from scratch": Bar(1200.0, 840.0)}
MEMORY_MB = 4096.0


def held_to(figure: Figure, bars: dict[str, Bar]) -> Figure:
    """The figure with its bar, if it has one."""
    bar = bars.get(figure.name)
    return replace(figure, must=bar.must, aim=bar.aim) if bar else figure
