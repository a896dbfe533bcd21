"""The two stages of AnyGPT (2402.12226, §3.3 and §4) as values."""

from voder.train.stages import Stage

STAGES = {
    "pretrain": Stage(
        summary="Text is aligned with the codes of images, speech, music and sounds.",
        section="multimodal alignment pre-training (§3.3); stage1_pretrain of the code",
        trained=("network",),
        starts_from=("LLaMA-2 7B, vocabulary grown",),
        data="pairs of text and codes: speech .24, MLS .10, image pairs .22, MMC4 .04, music .25, audio .15; "
        "here: a token folder with texts, and task.dialogues",
        losses={"next id": 1.0},
        settings=(
            "task.batch_items=5",
            "task.max_ids=4500",
            "loop.steps=81000",
            "loop.optimizer.learning_rate=3e-5",
            "loop.schedule.warmup_steps=2430",
            "loop.precision=bf16",
        ),
        task_settings=("task.stage=pretrain",),
        recalled=("loop.steps=81000", "batch of 480 over 96 A100"),
    ),
    "chat": Stage(
        summary="It answers in any modality, several turns long.",
        section="any-to-any instruction tuning (§4); stage2_sft of the code",
        trained=("network",),
        starts_from=("stage pretrain, vocabulary grown by two markers",),
        data="AnyInstruct-108k: conversations with codes anywhere; here: task.dialogues, else echoes of recordings",
        losses={"next id of answers": 1.0},
        settings=(
            "task.batch_items=8",
            "task.max_ids=4096",
            "loop.steps=5000",
            "loop.optimizer.learning_rate=2e-5",
            "loop.schedule.warmup_steps=150",
            "loop.precision=bf16",
        ),
        task_settings=("task.stage=chat",),
        recalled=("task.batch_items=8",),
    ),
}
