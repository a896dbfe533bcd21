"""The published SEED-2 tokenizer (`seed_quantizer.pt` of AILab-CVC/seed-tokenizer-2) and ours: names and sizes.

Licence of the weights: Apache-2.0, as their page states.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from voder.errors import CheckpointError
from voder.interop import RenameTable, Rule, rules
from voder.systems.anygpt.seed import SeedConfig

_PUBLISHED_HEADS = (16, 12)
"""Of the ViT and of the Q-Former: the only sizes that the weights do not show."""
BLOCK = {
    "norm1": "attention_norm",
    "attn.qkv": "attention.in_projection",
    "attn.proj": "attention.out_projection",
    "norm2": "ffn_norm",
    "mlp.fc1": "ffn_in",
    "mlp.fc2": "ffn_out",
}
_ATTENTION = {
    "self.query": "query",
    "self.key": "key",
    "self.value": "value",
    "output.dense": "out",
    "output.LayerNorm": "norm",
}
_FFN = {
    "intermediate_query.dense": "ffn_in",
    "output_query.dense": "ffn_out",
    "output_query.LayerNorm": "ffn_norm",
}
_LAYER = "Qformer.bert.encoder.layer.{i}."
TABLE = RenameTable(
    *rules("visual_encoder.blocks.{i}.", "vit.blocks.{i}.", BLOCK),
    Rule("visual_encoder.blocks.{i}.attn.q_bias", "vit.blocks.{i}.attention.query_bias"),
    Rule("visual_encoder.blocks.{i}.attn.v_bias", "vit.blocks.{i}.attention.value_bias"),
    Rule("visual_encoder.cls_token", "vit.class_token"),
    Rule("visual_encoder.pos_embed", "vit.positions"),
    Rule("visual_encoder.patch_embed.proj.{w}", "vit.patches.{w}"),
    Rule("ln_vision.{w}", "vit_norm.{w}"),
    Rule("query_tokens", "queries"),
    Rule("Qformer.bert.embeddings.LayerNorm.{w}", "query_norm.{w}"),
    *rules(_LAYER + "attention.", "layers.{i}.attention.", _ATTENTION),
    *rules(_LAYER + "crossattention.", "layers.{i}.cross.", _ATTENTION),
    *rules(_LAYER, "layers.{i}.", _FFN),
    Rule("quantize.embedding.{w}", "quantizer.vectors.{w}"),
    Rule("encode_task_layer.{n}.{w}", "encode_layer.{n}.{w}"),
    Rule("decode_task_layer.{n}.{w}", "decode_layer.{n}.{w}"),
    Rule("pos_embed_image", "image_positions"),
    Rule("pos_embed", "unused_positions"),
    *rules("blocks_image.{i}.", "image_blocks.{i}.", BLOCK),
    *rules("blocks.{i}.", "unused_blocks.{i}.", BLOCK),
    *(Rule(f"image_down.{2 * number}.{{w}}", f"down.{number}.{{w}}") for number in range(3)),
    Rule("distill_image_proj.{w}", "project.{w}"),
    ignored=("Qformer.bert.embeddings.position_ids",),
)


def official_config(args: Mapping[str, Any]) -> SeedConfig:
    """Translate the original's sizes."""
    vit = args["vit"]
    return SeedConfig(
        image_size=args["img"],
        patch_size=vit["patch"],
        vit_width=vit["embed"],
        vit_layers=vit["depth"],
        vit_heads=vit["heads"],
        vit_ffn_width=int(vit["embed"] * vit["mlp_ratio"]),
        num_queries=args["q"],
        width=args["hidden"],
        num_layers=args["qf_layers"],
        num_heads=args["qf_heads"],
        ffn_width=args["ffn"],
        codebook_size=args["n"],
        code_width=args["cb"],
        num_blocks=args["depth"],
        output_width=args["feat"],
    )


def config_of(state: Mapping[str, Tensor]) -> SeedConfig:
    """Read the sizes off the published weights; numbers of heads cannot be seen there and are the published ones.

    Raises:
        CheckpointError: they are of something else.
    """

    def count(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})

    try:
        vit_width, _, patch, _ = state["visual_encoder.patch_embed.proj.weight"].shape
        side = round((state["visual_encoder.pos_embed"].shape[1] - 1) ** 0.5)
        codes, code_width = state["quantize.embedding.weight"].shape
        queries, width = state["query_tokens"].shape[1:]
        return SeedConfig(
            image_size=side * patch,
            patch_size=patch,
            vit_width=vit_width,
            vit_heads=_PUBLISHED_HEADS[0],
            vit_layers=count("visual_encoder.blocks."),
            vit_ffn_width=state["visual_encoder.blocks.0.mlp.fc1.weight"].shape[0],
            num_queries=queries,
            width=width,
            num_heads=_PUBLISHED_HEADS[1],
            num_layers=count("Qformer.bert.encoder.layer."),
            ffn_width=state["Qformer.bert.encoder.layer.0.intermediate_query.dense.weight"].shape[0],
            codebook_size=codes,
            code_width=code_width,
            num_blocks=count("blocks_image."),
            output_width=state["distill_image_proj.weight"].shape[0],
            keeps_reconstruction="pos_embed" in state,
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"these are no weights of the SEED-2 tokenizer: {error}") from error
