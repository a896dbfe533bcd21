"""Where published codecs lie on the Hub, with sizes and licences; `convert.PUBLISHED` adds how they are read.

Each is a name, a phrase, a licence as its page states it, and its files.
"""

from voder.published import HubSource, hub_source

CODECS: tuple[tuple[str, str, str, HubSource], ...] = (
    (
        "encodec-24khz",
        "codec of speech, sounds and music at 24 kHz, 1.5 to 24 kbit/s",
        "not stated, code MIT",
        hub_source(
            "facebook/encodec_24khz",
            "c1dbe2ae3f1de713481a3b3e7c47f357092ee040",
            {"config.json": 809, "model.safetensors": 93_100_000},
        ),
    ),
    (
        "encodec-48khz",
        "codec of music at 48 kHz in stereo, 3 to 24 kbit/s",
        "MIT",
        hub_source(
            "facebook/encodec_48khz",
            "c3def8e7185ac8c8efdce6eb8c4a651e487a503e",
            {"config.json": 803, "model.safetensors": 76_300_000},
        ),
    ),
    (
        "encodec-32khz",
        "codec of music at 32 kHz with four books of 2048, MusicGen's and AnyGPT's",
        "not stated, audiocraft CC-BY-NC-4.0",
        hub_source(
            "facebook/encodec_32khz",
            "d0c45384f6c44db055f78200cfdcb9c1c8706727",
            {"config.json": 758, "model.safetensors": 236_000_000},
        ),
    ),
)
