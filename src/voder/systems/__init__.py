"""The table of contents: every system by name, in one line. `hub` imports the folder of a name when asked."""

SYSTEMS: dict[str, str] = {
    "encodec": "EnCodec: neural audio codec with residual vector quantisation (2210.13438)",
    "spectral": "Codec of mel frames in, inverse STFT out, after Vocos (2306.00814): trains in minutes",
    "ctc": "Speech recogniser with connectionist temporal classification (Graves et al. 2006)",
    "beats": "BEATs: sounds to features, and to classes (2212.09058)",
    "hubert": "HuBERT, wav2vec 2.0, WavLM, data2vec, w2v-BERT 2.0: speech to features and units (2106.07447)",
    "unitvocoder": "Unit CodeHiFiGAN: discrete units to speech, with durations (2104.00355)",
    "whisper": "Whisper: recognition and translation of speech in 99 languages (2212.04356)",
    "valle": "VALL-E: text to speech as codec language modelling (2301.02111)",
}
