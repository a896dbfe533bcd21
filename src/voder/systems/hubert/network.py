"""transformers' networks, made from our configuration without weights: nothing is ever downloaded.

The import costs seconds, so it happens when a network is built.
"""

from typing import Any

from torch import nn

from voder.systems.hubert.config import MEL_BANDS, HubertConfig


def build_network(config: HubertConfig) -> nn.Module:
    """A random network of a family."""
    if config.family == "w2v_bert":
        from transformers.models.wav2vec2_bert.configuration_wav2vec2_bert import Wav2Vec2BertConfig
        from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertModel

        return Wav2Vec2BertModel(Wav2Vec2BertConfig(**_conformer_arguments(config)))
    arguments = _arguments(config)
    if config.family == "wavlm":
        from transformers.models.wavlm.configuration_wavlm import WavLMConfig
        from transformers.models.wavlm.modeling_wavlm import WavLMModel

        return WavLMModel(WavLMConfig(**arguments))
    if config.family == "data2vec":
        from transformers.models.data2vec.configuration_data2vec_audio import Data2VecAudioConfig
        from transformers.models.data2vec.modeling_data2vec_audio import Data2VecAudioModel

        return Data2VecAudioModel(Data2VecAudioConfig(**arguments))
    if config.family == "wav2vec2":
        from transformers.models.wav2vec2.configuration_wav2vec2 import Wav2Vec2Config
        from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2Model

        return Wav2Vec2Model(Wav2Vec2Config(**arguments))
    from transformers.models.hubert.configuration_hubert import HubertConfig as Arguments
    from transformers.models.hubert.modeling_hubert import HubertModel

    return HubertModel(Arguments(**arguments))


def network_arguments(config: HubertConfig) -> dict[str, Any]:
    """The arguments of transformers' configuration of a family."""
    return _conformer_arguments(config) if config.family == "w2v_bert" else _arguments(config)


def _shared(config: HubertConfig) -> dict[str, Any]:
    net = config.network
    return {
        "hidden_size": net.dim,
        "num_hidden_layers": net.num_layers,
        "num_attention_heads": net.num_heads,
        "intermediate_size": net.ffn_dim,
        "hidden_dropout": net.dropout,
        "attention_dropout": net.dropout,
        "activation_dropout": 0.0,
        "feat_proj_dropout": 0.0,
        "layerdrop": 0.0,  # skipped layers are counted by our own loop
        "apply_spec_augment": False,
        "mask_time_prob": 0.05,  # above zero, so that the mask embedding exists
    }


def _arguments(config: HubertConfig) -> dict[str, Any]:
    net = config.network
    arguments = _shared(config) | {
        "conv_dim": net.conv_channels,
        "conv_kernel": net.conv_kernels,
        "conv_stride": net.conv_strides,
        "conv_bias": net.conv_bias,
        "feat_extract_norm": net.conv_norm,
        "do_stable_layer_norm": net.pre_norm,
        "num_conv_pos_embeddings": net.position_kernel,
        "num_conv_pos_embedding_groups": net.position_groups,
    }
    if config.family == "data2vec":
        arguments |= {"num_conv_pos_embeddings": net.position_depth, "conv_pos_kernel_size": net.position_kernel}
    if config.family == "wavlm":
        arguments |= {"num_buckets": net.num_buckets, "max_bucket_distance": net.max_distance}
    return arguments


def _conformer_arguments(config: HubertConfig) -> dict[str, Any]:
    net = config.network
    return _shared(config) | {
        "feature_projection_input_dim": 2 * MEL_BANDS,
        "hidden_act": "swish",
        "position_embeddings_type": "relative_key",
        "left_max_position_embeddings": net.left_positions,
        "right_max_position_embeddings": net.right_positions,
        "conv_depthwise_kernel_size": net.depthwise_kernel,
        "conformer_conv_dropout": net.dropout,
        "add_adapter": False,
    }
