from dataclasses import replace

import numpy as np
import pytest
import torch

from voder.nn.causal_lm import CausalLmConfig
from voder.nn.lora import LoraSizes
from voder.sequence.assemble import assemble
from voder.sequence.voices import Voice
from voder.systems.llmtts.config import PRESETS, LlmTtsConfig
from voder.systems.llmtts.model import LlmTts

METHODS = ("vocabulary", "superposed", "coupled")
TARGETS = {"gpt2": ("c_attn",)}


def settings(method="coupled", *, family="opt", tied=True, **changes) -> LlmTtsConfig:
    """The tiny preset of a method over a tiny language model of a family."""
    base = PRESETS["tiny"]().model
    kv = {"num_kv_heads": 1} if family in ("llama", "qwen2") else {}
    sizes = {"width": 32, "ffn_width": 48, "num_layers": 2, "num_heads": 2, "max_positions": 384}
    lm = CausalLmConfig(family=family, vocabulary_size=261, tie_embeddings=tied, pad_id=0, **sizes, **kv)
    targets = TARGETS.get(family, ("q_proj", "v_proj"))
    return replace(base, **({"method": method, "lm": lm, "lora_targets": targets} | changes))


def build(config, seed=0) -> LlmTts:
    """A model whose LoRA does something."""
    torch.manual_seed(seed)
    model = LlmTts(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.2)
    return model


@pytest.fixture
def make():
    """Build a model of a method: `make("coupled", family="gpt2")`."""
    return lambda method="coupled", **changes: build(settings(method, **changes))


@pytest.fixture
def streams():
    """Two rows for a model: a prompted one with its text, and a longer one by tag."""

    def lay_out(model):
        layout, rng = model.layout, np.random.default_rng(0)
        prompt = Voice(prompt_codes=rng.integers(0, 16, (2, 6)), prompt_text=(70, 71, 72))
        rows = [
            ((80, 81), prompt, rng.integers(0, 16, 5)),
            ((90, 91, 92, 93), Voice(speaker=1), rng.integers(0, 16, 9)),
        ]
        text = assemble([layout.text(tokens, voice) for tokens, voice, _ in rows])
        audio = assemble([[*layout.audio_prompt(voice), layout.audio_target(codes)] for _, voice, codes in rows])
        return text, audio

    return lay_out


LORA = LoraSizes(rank=2, alpha=4, dropout=0.0)
