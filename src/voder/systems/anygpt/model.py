"""AnyGPT (Zhan et al., 2402.12226): a language model over text and the codes of everything else."""

from voder.nn.grown_lm import GrownLm
from voder.systems.anygpt.config import AnyGptConfig
from voder.systems.anygpt.seed import SeedTokenizer
from voder.systems.anygpt.vocabulary import AnyGptVocabulary


class AnyGpt(GrownLm):
    """Ids to logits, and the image tokenizer where there is one, which never learns."""

    vocabulary: AnyGptVocabulary

    def __init__(self, config: AnyGptConfig) -> None:
        super().__init__(config.network)
        self.config = config
        self.vocabulary = config.vocabulary
        self.seed = None if config.seed is None else SeedTokenizer(config.seed).requires_grad_(False)
