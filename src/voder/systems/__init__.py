"""The table of contents: every system by name, in one line. `hub` imports the folder of a name when asked."""

SYSTEMS: dict[str, str] = {
    "encodec": "EnCodec: neural audio codec with residual vector quantisation (2210.13438)",
    "spectral": "Codec of mel frames in, inverse STFT out, after Vocos (2306.00814): trains in minutes",
    "speechtokenizer": "SpeechTokenizer: a codec whose first codebook holds the words (2308.16692)",
    "ctc": "Speech recogniser with connectionist temporal classification (Graves et al. 2006)",
    "beats": "BEATs: sounds to features, and to classes (2212.09058)",
    "hubert": "HuBERT, wav2vec 2.0, WavLM, data2vec, w2v-BERT 2.0: speech to features and units (2106.07447)",
    "unitvocoder": "Unit CodeHiFiGAN: discrete units to speech, with durations (2104.00355)",
    "whisper": "Whisper: recognition and translation of speech in 99 languages (2212.04356)",
    "lm": "Language model of text: Hugging Face's causal networks, whole or with LoRA (2106.09685)",
    "soundstorm": "SoundStorm: semantic codes to all codes of a codec, in parallel (2305.09636)",
    "salmonn": "SALMONN: a language model that hears speech, sounds and music (2310.13289)",
    "pengi": "Pengi: answers in text about recordings (2305.11834)",
    "nextgpt": "NExT-GPT: conversations with media in and out (2309.05519)",
    "ge2e": "Speaker encoder: whose voice it is (1710.10467)",
    "valle": "VALL-E: text to speech as codec language modelling (2301.02111)",
    "llmtts": "A language model of text that learns to speak, in three ways (2401.00246)",
    "audiolm": "AudioLM: goes on with speech, by units and then codes (2209.03143)",
    "speechgpt": "SpeechGPT: a language model that hears and speaks in units (2305.11000)",
    "anygpt": "AnyGPT: one language model over text, speech, images and music (2402.12226)",
}
