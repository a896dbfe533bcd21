"""SpeechGPT (Zhang et al., 2305.11000): a language model over text and units, nothing else."""

from voder.nn.grown_lm import GrownLm
from voder.systems.speechgpt.config import SpeechGptConfig
from voder.systems.speechgpt.vocabulary import SpeechGptVocabulary


class SpeechGpt(GrownLm):
    """Ids to logits."""

    vocabulary: SpeechGptVocabulary

    def __init__(self, config: SpeechGptConfig) -> None:
        super().__init__(config.network, config.lora, config.lora_targets)
        self.config = config
        self.vocabulary = config.vocabulary
