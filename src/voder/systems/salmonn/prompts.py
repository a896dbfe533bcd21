"""Questions by task, for examples that bring none: one is drawn for every example and step.

The original draws from pools of its own for the same tasks; these are ours, and fewer.
"""

QUESTION = "{}"
"""The place of an example's own question."""
PROMPTS: dict[str, tuple[str, ...]] = {
    "asr": (
        "Write down what is said.",
        "What are the words in this recording?",
        "Turn the speech into text.",
        "Please write a transcript of the speech.",
    ),
    "asr_zh": ("Write down the Chinese speech.", "What is said here in Chinese?"),
    "asr_de": ("Write down the German speech.", "What is said here in German?"),
    "translation_ec": ("Say in Chinese what is said.", "Put the English speech into Chinese."),
    "audiocaption": (
        "Describe what can be heard.",
        "What is going on in this recording?",
        "Put the sounds into a sentence.",
    ),
    "audiocaption_v2": ("Describe in detail what can be heard.", "Tell everything that goes on in this recording."),
    "QA": (QUESTION, "Listen, and answer this: {}"),
    "inference_QA": (QUESTION, "Think about what you hear. {}"),
    "gender_QA": (QUESTION,),
    "gender_recognition": ("Does a man or a woman speak?", "Is the voice a man's or a woman's?"),
    "phone_recognition": ("Write down the phonemes.", "Which phonemes are spoken?"),
    "speech_separation": ("Write down what each of the speakers says.", "Two people talk at once: what do they say?"),
    "emotion_recognition": ("What does the speaker feel?", "In one word, which emotion is in the voice?"),
    "music_description": ("Describe the music.", "What kind of music is it, and how is it played?"),
    "speaker_verification": ("Do you hear one speaker or two? Answer yes for one, no for two.",),
    "audio_story_telling": ("Tell a story that goes with what you hear.", "Invent a story around these sounds."),
    "speaker_diarization_asr": ("Write down who says what.", "Give each speaker's words in turn."),
}
STAGE_TASKS: dict[str, tuple[str, ...]] = {
    "pretraining": ("asr", "asr_zh", "asr_de", "audiocaption"),
    "instruction": tuple(PROMPTS),
    "activation": ("audio_story_telling", "QA", "inference_QA"),
}
"""Tasks whose examples each stage learns."""
