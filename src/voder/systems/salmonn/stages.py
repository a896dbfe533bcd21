"""The three stages of the paper (2310.13289, section 3.2): one code, other examples."""

from voder.systems.salmonn.config import StageName
from voder.train.stages import Stage

TRAINED = ("bridge.", "*.lora_")
_SETTINGS = (
    "loop.optimizer.learning_rate=3e-5",
    "loop.optimizer.weight_decay=0.05",
    "loop.schedule.warmup_steps=3000",
    "loop.schedule.shape=cosine",
    "task.batch_size=8",
    "task.max_text_ids=300",
)
_STEPS = "loop.steps=90000"


def _stage(
    name: StageName,
    summary: str,
    *,
    starts_from: str,
    data: str,
    section: str = "2310.13289, section 3.2",
    settings: tuple[str, ...] = (_STEPS, *_SETTINGS),
    recalled: tuple[str, ...] = (),
) -> Stage:
    return Stage(
        summary=summary,
        section=section,
        trained=TRAINED,
        starts_from=(starts_from,),
        data=f"{data}; annotation JSON",
        losses={"answer": 1.0},
        settings=settings,
        task_settings=(f"task.stage={name}",),
        recalled=recalled,
    )


STAGES: dict[str, Stage] = {
    "pretraining": _stage(
        "pretraining",
        "learn to hear: transcripts and captions",
        starts_from="Whisper large-v2, BEATs iter3+ (AS2M, fine-tuned), Vicuna 13B v1.1",
        data="LibriSpeech (280 k utterances), GigaSpeech M (680 k), WavCaps, AudioCaps, Clotho",
    ),
    "instruction": _stage(
        "instruction",
        "learn to follow instructions on twelve tasks and more",
        starts_from="stage pretraining",
        data="about 2.3 M examples, 4.4 k hours",
        recalled=("amount of data",),
    ),
    "activation": _stage(
        "activation",
        "win back what instruction tuning drowned: a few long and diverse answers",
        starts_from="stage instruction",
        data="12 stories that the model told with its LoRA factor lowered (task audio_story_telling)",
        section="2310.13289, section 3.3",
        settings=_SETTINGS,
        recalled=("12 stories", "settings as in the other stages"),
    ),
}
