"""The three stages of the paper (2310.13289, section 3.2): one code, other examples."""

from voder.train.stages import Stage

TRAINED = ("bridge.", "*.lora_")
_SETTINGS = (
    "loop.steps=90000",
    "loop.optimizer.learning_rate=3e-5",
    "loop.optimizer.weight_decay=0.05",
    "loop.schedule.warmup_steps=3000",
    "loop.schedule.shape=cosine",
    "task.batch_size=8",
    "task.max_text_ids=300",
)
_LOSSES = {"answer": 1.0}

STAGES: dict[str, Stage] = {
    "pretraining": Stage(
        summary="learn to hear: transcripts and captions",
        section="2310.13289, section 3.2",
        trained=TRAINED,
        starts_from=("Whisper large-v2, BEATs iter3+ (AS2M, fine-tuned), Vicuna 13B v1.1",),
        data="LibriSpeech (280 k utterances), GigaSpeech M (680 k), WavCaps, AudioCaps, Clotho; annotation JSON",
        losses=_LOSSES,
        settings=_SETTINGS,
        task_settings=("task.stage=pretraining",),
    ),
    "instruction": Stage(
        summary="learn to follow instructions on twelve tasks and more",
        section="2310.13289, section 3.2",
        trained=TRAINED,
        starts_from=("stage pretraining",),
        data="about 2.3 M examples, 4.4 k hours; annotation JSON",
        losses=_LOSSES,
        settings=_SETTINGS,
        task_settings=("task.stage=instruction",),
        recalled=("amount of data",),
    ),
    "activation": Stage(
        summary="win back what instruction tuning drowned: a few long and diverse answers",
        section="2310.13289, section 3.3",
        trained=TRAINED,
        starts_from=("stage instruction",),
        data="12 stories that the model told with its LoRA factor lowered; annotation JSON, task audio_story_telling",
        losses=_LOSSES,
        settings=_SETTINGS[1:],
        task_settings=("task.stage=activation",),
        recalled=("12 stories", "settings as in the other stages"),
    ),
}
