"""How AnyGPT decodes each modality, as published."""

from collections.abc import Mapping

from voder.generate.lm import GenerateConfig

_ALL = 4096  # ids that repetition is counted over: the whole context

DECODING: Mapping[str, GenerateConfig] = {
    "text": GenerateConfig(greedy=False, max_new=100, min_new=10),
    "image": GenerateConfig(greedy=False, max_new=200, min_new=10),
    "speech": GenerateConfig(greedy=False, max_new=1500, min_new=10, repetition_penalty=1.05, repetition_window=_ALL),
    "music": GenerateConfig(
        greedy=False, max_new=2000, min_new=10, top_k=200, repetition_penalty=1.15, repetition_window=_ALL
    ),
}
"""By what is wanted; sounds are decoded like music."""
