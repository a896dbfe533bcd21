"""The three stages of SpeechGPT (2305.11000, §3.2) as values."""

from voder.train.stages import Stage

STAGES = {
    "adapt": Stage(
        summary="The language model learns to go on with speech as units.",
        section="modality adaptation pre-training (§3.2); ma_pretrain of the code",
        starts_from=("LLaMA 7B, vocabulary grown to 33,002",),
        data="LibriLight as unit strings, one a line; here: a token folder",
        losses={"next id": 1.0},
        settings=(
            "task.batch_items=3",
            "task.max_ids=1024",
            "loop.accumulate=8",
            "loop.steps=900",
            "loop.optimizer.learning_rate=2e-5",
        ),
        task_settings=("task.stage=adapt",),
        recalled=("loop.steps=900", "batch of 768 over 96 A100", "loop.optimizer.learning_rate=2e-5"),
    ),
    "instruct": Stage(
        summary="It transcribes and speaks on request.",
        section="cross-modal instruction fine-tuning (§3.2); cm_sft of the code",
        starts_from=("stage adapt, vocabulary grown to 33,006",),
        data="SpeechInstruct, cross-modal part: JSONL of prefix and plain_text; here: a token folder with texts",
        losses={"next id behind the prefix": 1.0},
        settings=(
            "task.batch_items=6",
            "task.max_ids=512",
            "loop.accumulate=12",
            "loop.steps=2100",
            "loop.optimizer.learning_rate=2e-5",
        ),
        task_settings=("task.stage=instruct",),
        recalled=("loop.steps=2100", "batch of 1536 over 96 A100"),
    ),
    "chain": Stage(
        summary="It answers spoken questions by way of text.",
        section="chain-of-modality instruction fine-tuning (§3.2); com_sft of the code",
        trained=("network.*.lora_",),
        starts_from=("stage instruct, frozen; LoRA of rank 8 beside it",),
        data="SpeechInstruct, chain of modality: 37,969 quadruplets in four formats; here: task.dialogues",
        losses={"next id behind the prefix": 1.0},
        settings=(
            "task.batch_items=12",
            "task.max_ids=1024",
            "loop.accumulate=4",
            "loop.steps=4200",
            "loop.optimizer.learning_rate=2e-5",
        ),
        # task.lora decides when it trains; the model's own is what a plan without data sees
        task_settings=("task.stage=chain", 'model.lora={"rank": 8, "alpha": 16, "dropout": 0.05}'),
        recalled=("loop.steps=4200", "37,969 quadruplets", "batch of 128 over 8 A100"),
    ),
}
