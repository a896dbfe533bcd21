"""Tiny random weights under the very file names that the published ones have, one builder for each row."""

import json
import pathlib
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from systems.hubert.families import CONFIGS, build

from voder import checkpoint, hub
from voder.fixtures import read_case
from voder.interop import export
from voder.nn.causal_lm import CausalLmConfig, build_causal_lm, save_plain
from voder.nn.lora import LoraSizes
from voder.systems.anygpt import convert as anygpt
from voder.systems.anygpt import seed_convert
from voder.systems.anygpt.seed import SeedConfig, SeedTokenizer
from voder.systems.beats import convert as beats
from voder.systems.encodec import convert as encodec
from voder.systems.hubert import convert as hubert
from voder.systems.nextgpt import convert as nextgpt
from voder.systems.nextgpt.config import tiny as tiny_nextgpt
from voder.systems.nextgpt.model import NextGpt
from voder.systems.pengi import convert as pengi
from voder.systems.pengi.config import tiny as tiny_pengi
from voder.systems.pengi.model import Pengi
from voder.systems.salmonn import convert as salmonn
from voder.systems.salmonn.config import SalmonnTaskConfig
from voder.systems.salmonn.model import Salmonn, is_trained
from voder.systems.salmonn.parts import Parts, fitted_config
from voder.systems.soundstorm import convert as soundstorm
from voder.systems.soundstorm.config import SoundStormConfig
from voder.systems.soundstorm.model import SoundStorm
from voder.systems.speechgpt.config import SpeechGptConfig
from voder.systems.speechgpt.model import SpeechGpt
from voder.systems.speechgpt.vocabulary import SpeechGptVocabulary
from voder.systems.speechtokenizer import convert as speechtokenizer
from voder.systems.unitvocoder import convert as unitvocoder
from voder.systems.valle import convert as valle
from voder.systems.valle.original import OriginalValle
from voder.systems.valle.original_layers import OriginalConfig
from voder.systems.whisper import convert as whisper

FIXTURES = Path(__file__).parent / "fixtures"
WORDS = FIXTURES / "common" / "tiny_llama_tokenizer" / "tokenizer.model"
NUM_UNITS, CODES = 6, 16
LLAMA = CausalLmConfig(vocabulary_size=400, width=16, ffn_width=16, num_layers=2, num_heads=2)


def ours(system, folder, preset="tiny", **changes):
    """A checkpoint of ours with random weights."""
    torch.manual_seed(0)
    found = hub.find(system)
    config = replace(found.preset(preset).model, **changes)
    checkpoint.save(folder, system=system, config=config, state=found.build(config).state_dict())
    return folder


def as_pytorch(folder, shards=1):
    """Weights of a Hugging Face folder as torch files, as they were before 2023."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return
    names = {f"pytorch_model-{n + 1:05}-of-{shards:05}.bin": sorted(state)[n::shards] for n in range(shards)}
    for file, inside in names.items():
        torch.save({name: state[name] for name in inside}, folder / file)
    index = {name: file for file, inside in names.items() for name in inside}
    content = {"metadata": {"total_size": sum(v.nbytes for v in state.values())}, "weight_map": index}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(content))


def llama(folder, size=400, added=(), shards=1):
    """A Llama with its SentencePiece model, as LMSYS and Fudan published theirs in 2023: frequencies in every layer."""
    torch.manual_seed(0)
    save_plain(build_causal_lm(replace(LLAMA, vocabulary_size=size)), None, folder)
    weights = folder / "model.safetensors"
    angles = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(4) for n in range(LLAMA.num_layers)}
    save_file(load_file(weights) | angles, weights, metadata={"format": "pt"})
    as_pytorch(folder, shards)
    shutil.copy(WORDS, folder / "tokenizer.model")
    if added:
        ids = {token: 32_000 + number for number, token in enumerate(added)}
        (folder / "added_tokens.json").write_text(json.dumps(ids))


def encodec_folder(folder, scratch, **changes):
    encodec.export_checkpoint(ours("encodec", scratch / "codec", **changes), folder, "huggingface")


def codec_of_music(folder, scratch):
    rvq = replace(hub.find("encodec").preset("tiny").model.rvq, codebook_size=2048)
    encodec_folder(folder, scratch, rvq=rvq)


def encoder(name, **changes):
    def make(folder, scratch):
        model = build(name, **changes)
        checkpoint.save(scratch / "encoder", system="hubert", config=model.config, state=model.state_dict())
        hubert.export_checkpoint(scratch / "encoder", folder, "huggingface")
        if name != "w2v_bert":
            as_pytorch(folder)

    return make


def units(folder, scratch):
    deep = replace(CONFIGS["hubert"].network, num_layers=11)
    encoder("hubert", network=deep)(folder, scratch)
    (folder / "preprocessor_config.json").unlink()
    centres = np.random.default_rng(0).standard_normal((NUM_UNITS, deep.dim)).astype(np.float32)
    name = "mhubert_base_vp_en_es_fr_it3_L11_km1000.bin"
    (folder / name).write_bytes(pickle.dumps({"cluster_centers_": centres}))


def vocoder(folder, scratch):
    model = hub.load_model(ours("unitvocoder", scratch / "vocoder"))[0]
    net = model.config.generator
    settings = {
        "resblock": "1",
        "upsample_rates": net.upsample_rates,
        "upsample_kernel_sizes": net.upsample_kernels,
        "upsample_initial_channel": net.initial_channels,
        "resblock_kernel_sizes": net.block_kernels,
        "resblock_dilation_sizes": [net.block_dilations] * len(net.block_kernels),
        "num_embeddings": model.num_units,
        "embedding_dim": model.config.unit_dim,
        "dur_predictor_params": {
            "var_pred_hidden_dim": model.config.durations.hidden_dim,
            "var_pred_kernel_size": model.config.durations.kernel,
            "var_pred_dropout": 0.5,
        },
    }
    folder.mkdir(parents=True)
    unitvocoder.export_generator(model, folder / "g_00500000")
    (folder / "config.json").write_text(json.dumps(settings))


def vocoder_of_mels(folder, scratch):
    case = read_case(FIXTURES / "hifigan" / "hf_speecht5_hifigan.json")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(dict(case.args) | {"model_type": "hifigan"}))
    torch.save(dict(case.weights), folder / "pytorch_model.bin")


def tokenizer_file(path):
    def make(folder, scratch):
        (folder / path).parent.mkdir(parents=True)
        speechtokenizer.export_checkpoint(ours("speechtokenizer", scratch / "codec"), folder / path)

    return make


def storm(folder, scratch):
    torch.manual_seed(0)
    size = SoundStormConfig(
        width=16, num_layers=1, num_heads=1, num_semantic=CODES, codebook_size=CODES, num_levels=3, kernel=3
    )
    (folder / "soundstorm").mkdir(parents=True)
    state = export(SoundStorm(size).state_dict(), soundstorm.TABLE)
    torch.save(state, folder / "soundstorm" / "speechtokenizer_soundstorm_mls.pt")
    tokenizer_file("speechtokenizer/ckpt.dev")(folder / "speechtokenizer-snake", scratch)


def sounds(folder, scratch):
    model = hub.load_model(ours("beats", scratch / "beats", num_classes=2, classes=("dog", "rain")))[0]
    state = beats.export_official(model.state_dict(), model.config.num_layers)
    content = {"cfg": beats.to_official_config(model.config), "model": state, "label_dict": {0: "dog", 1: "rain"}}
    folder.mkdir(parents=True)
    torch.save(content, folder / "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt")


def listener(folder, scratch):
    whisper.export_checkpoint(ours("whisper", scratch / "whisper"), folder / "whisper-large-v2", "huggingface")
    (folder / "whisper-large-v2" / "generation_config.json").write_text("{}")
    sounds(folder / "beats-iter3-plus", scratch)
    llama(folder / "vicuna-7b-v1.5", shards=2)
    lm = hub.find("lm")
    config = replace(lm.preset("tiny").model, network=LLAMA)
    checkpoint.save(scratch / "lm", system="lm", config=config, state=lm.build(config).state_dict())
    parts = {"lm": scratch / "lm", "speech": scratch / "whisper", "audio": scratch / "beats"}
    base = salmonn.published_model("7b")
    small = replace(base, bridge=replace(base.bridge, width=24, ffn_width=32))
    task = SalmonnTaskConfig(**{name: str(place) for name, place in parts.items()})
    model = Salmonn(fitted_config(small, Parts.of_task(task)))
    state = {salmonn.OFFICIAL.to_foreign(n): v for n, v in model.state_dict().items() if is_trained(n)}
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 1}, folder / "salmonn_7b_v0.pth")


def speech_of_units(folder, scratch):
    names = SpeechGptVocabulary(32_000, NUM_UNITS, markers=True).tokens
    llama(folder, size=32_000 + len(names), added=names)
    units(folder / "mhubert-km1000", scratch)
    vocoder(folder / "mhubert-vocoder-lj", scratch)


def adapter(folder, scratch):
    speech_of_units(folder / "speechgpt-7b-cm", scratch)
    for part in ("mhubert-km1000", "mhubert-vocoder-lj"):
        (folder / "speechgpt-7b-cm" / part).rename(folder / part)
    config = SpeechGptConfig(
        lm=replace(LLAMA, vocabulary_size=32_000), num_units=NUM_UNITS, lora=LoraSizes(rank=2, alpha=4, dropout=0.0)
    )
    state = {
        name.removeprefix("network.").replace(".default.", "."): torch.randn(value.shape)
        for name, value in SpeechGpt(config).state_dict().items()
        if ".lora_" in name
    }
    torch.save(state, folder / "adapter_model.bin")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))


def any_to_any(folder, scratch):
    vocabulary = anygpt.vocabulary_of(32_000 + 4 + 8194 + CODES + 2 + 8194 + 4098, CODES)
    llama(folder, size=vocabulary.size, added=vocabulary.tokens)
    sizes = SeedConfig(codebook_size=8192, num_queries=32, vit_width=48, vit_heads=16, width=24, num_heads=12)
    torch.save(export(SeedTokenizer(sizes).state_dict(), seed_convert.TABLE), folder / "seed_quantizer.pt")
    storm(folder / "soundstorm-mls", scratch)
    (folder / "soundstorm-mls" / "speechtokenizer-snake").rename(folder / "speechtokenizer-snake")
    codec_of_music(folder / "encodec-32khz", scratch / "music")


class OfWindows:
    """Pickles as the path that the published VALL-E X has beside its weights."""

    def __reduce__(self):
        return pathlib.WindowsPath, ("C:\\", "data")


def voice(folder, scratch):
    encodec_folder(folder / "encodec-24khz", scratch)
    torch.manual_seed(0)
    sizes = OriginalConfig(
        width=64, num_layers=1, num_heads=1, prepend_bos=True, num_codebooks=4, codebook_size=16, num_languages=3
    )
    valle.write_original(OriginalValle(sizes), folder / "theirs.pt")
    content = torch.load(folder / "theirs.pt", weights_only=True)
    torch.save(content | {"manifest_dir": OfWindows()}, folder / "vallex-checkpoint.pt")


def media(folder, scratch):
    preset = tiny_nextgpt().model
    llama(folder / "vicuna-7b-v0")
    torch.manual_seed(0)
    model = NextGpt(replace(preset, lm=replace(LLAMA, bos_id=1, eos_id=2)))
    torch.save(nextgpt.official_state(model), folder / "pytorch_model.pt")
    torch.save(export(model.encoder.state_dict(), nextgpt.IMAGEBIND), folder / "imagebind_huge.pth")


def ears(folder, scratch):
    torch.manual_seed(0)
    config = tiny_pengi().model
    checkpoint.save(scratch / "ears", system="pengi", config=config, state=Pengi(config).state_dict())
    folder.mkdir(parents=True)
    pengi.export_checkpoint(scratch / "ears", folder / "base.pth")
    for kind, model_type in (("gpt2", "gpt2"), ("clip", "clip")):
        words_of(folder / kind, model_type)


def words_of(folder, model_type):
    """A tokenizer as the repositories of GPT-2 and CLIP have theirs: its class is told from config.json."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))


ROWS = {
    "encodec-24khz": encodec_folder,
    "encodec-48khz": encodec_folder,
    "encodec-32khz": codec_of_music,
    "speechtokenizer-hubert": tokenizer_file("speechtokenizer_hubert_avg/SpeechTokenizer.pt"),
    "speechtokenizer-snake": tokenizer_file("speechtokenizer/ckpt.dev"),
    "beats-iter3-plus": sounds,
    "hubert-base-ls960": encoder("hubert"),
    "wav2vec2-base": encoder("wav2vec2"),
    "wavlm-base-plus": encoder("wavlm"),
    "data2vec-audio-base": encoder("data2vec"),
    "w2v-bert-2.0": encoder("w2v_bert"),
    "mhubert-km1000": units,
    "mhubert-vocoder-lj": vocoder,
    "speecht5-hifigan": vocoder_of_mels,
    "vicuna-7b-v1.5": lambda folder, scratch: llama(folder, shards=2),
    "vicuna-13b-v1.1": lambda folder, scratch: llama(folder, shards=3),
    "vicuna-7b-v0": lambda folder, scratch: llama(folder, shards=2),
    "soundstorm-mls": storm,
    "salmonn-7b": listener,
    "pengi-base": ears,
    "nextgpt-7b": media,
    "vall-e-x": voice,
    "speechgpt-7b-cm": speech_of_units,
    "speechgpt-7b-com": adapter,
    "anygpt-base": any_to_any,
}
"""Rows by name; those left out differ from one of these in nothing but file names that are tested elsewhere."""
