"""The two things that are trained, as far as the paper's abstract and VALL-E say; and the five parts of a voice."""

from collections.abc import Mapping

from voder.systems.llmtts.config import LlmTtsConfig
from voder.train.stages import Stage

_RECALLED = (
    "only the abstract could be read: LoRA, data, steps and rates are assumed, as VALL-E's where it has them",
    "method A: loss on text and codes",
)
_STARTS = ("LLaMA-7B, or OPT of 125 M to 1.3 B; here any causal language model", "tokens of EnCodec at 6 kbit/s")
_DATA = "recordings with texts, as tokens of `voder tokenize`"

STAGES: dict[str, Stage] = {
    "ar": Stage(
        summary="codebook 1: VALL-E's decoder, and LoRA and new ids of the language model where it has them",
        section="2401.00246, methods A, B and C; 2301.02111, section 4.2.1",
        trained=("ar.", "reader.*.lora_", "reader.new_ids.", "reader.said."),
        starts_from=_STARTS,
        data=_DATA,
        losses={"cross-entropy of codebook 1 (A: of the text too)": 1.0},
        task_settings=("task.stage=ar",),
        recalled=_RECALLED,
    ),
    "nar": Stage(
        summary="the other codebooks, as VALL-E fills them in, upon the language model's hidden states of the text",
        section="2301.02111, section 4.2.2",
        trained=("nar.",),
        starts_from=(*_STARTS, "stage ar, for one checkpoint with both"),
        data=_DATA,
        losses={"cross-entropy of one codebook, the 2nd to the last in turn": 1.0},
        task_settings=("task.stage=nar",),
        recalled=_RECALLED,
    ),
}


def anatomy(config: LlmTtsConfig) -> Mapping[str, str]:
    """The parts of a voice."""
    lm, ar, nar, books = config.lm, config.ar, config.nar, config.num_codebooks
    lora = "frozen" if config.lora is None else f"LoRA of rank {config.lora.rank}"
    model = f"{lm.family} {lm.num_layers} x {lm.width}, {lora}"
    if config.method != "vocabulary":
        model += f"; decoder {ar.num_layers} x {ar.width} for codebook 1"
    if books > 1:
        model += f"; {nar.num_layers} x {nar.width} for the other {books - 1}"
    joined = {
        "vocabulary": f"{config.codebook_size} codes as new ids of the language model",
        "superposed": "hidden states of text and codes, projected into VALL-E",
        "coupled": "hidden states of the text, projected into VALL-E; embeddings of codes",
    }
    codes = f"{books} x {config.codebook_size} codes at {config.frame_rate_hz:g} frames/s"
    return {
        "encoder": f"a codec's, {codes}, for prompts",
        "input projector": joined[config.method],
        "language model": model,
        "output projector": f"linear layers to {config.codebook_size} codes",
        "generator": "the codec's decoder",
    }
