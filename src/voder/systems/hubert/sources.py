"""Where published encoders lie, with sizes and licences; `convert.PUBLISHED` adds how they are read.

Each is a name, a phrase, a licence as its page states it, and its files.
"""

from voder.published import HubSource, hub_source

Found = tuple[str, str, str, HubSource]


def _base(repository: str, revision: str, weights: int) -> HubSource:
    """The files of a model in the layout of wav2vec 2.0's family."""
    sizes = {"config.json": 2_000, "preprocessor_config.json": 200, "pytorch_model.bin": weights}
    return hub_source(repository, revision, sizes)


ENCODERS: tuple[Found, ...] = (
    (
        "hubert-base-ls960",
        "HuBERT base, English, 95 M parameters",
        "Apache-2.0",
        _base("facebook/hubert-base-ls960", "dba3bb02fda4248b6e082697eee756de8fe8aa8a", 378_000_000),
    ),
    (
        "wav2vec2-base",
        "wav2vec 2.0 base, English, 95 M parameters",
        "Apache-2.0",
        _base("facebook/wav2vec2-base", "0b5b8e868dd84f03fd87d01f9c4ff0f080fecfe8", 380_000_000),
    ),
    (
        "wavlm-base-plus",
        "WavLM base+, English, 95 M parameters",
        "not stated, torchaudio says MIT",
        _base("microsoft/wavlm-base-plus", "4c66d4806a428f2e922ccfa1a962776e232d487b", 378_000_000),
    ),
    (
        "data2vec-audio-base",
        "data2vec base, English, 93 M parameters",
        "Apache-2.0",
        _base("facebook/data2vec-audio-base", "main", 373_000_000),
    ),
    (
        "w2v-bert-2.0",
        "w2v-BERT 2.0, 96 languages, 580 M parameters",
        "MIT",
        hub_source(
            "facebook/w2v-bert-2.0",
            "6b1c0b3a98343376f0cffd7cfbbe3ce4db45d459",
            {"config.json": 1_870, "preprocessor_config.json": 275, "model.safetensors": 2_320_000_000},
        ),
    ),
)
MHUBERT_CENTRES, MHUBERT_LAYER = "mhubert_base_vp_en_es_fr_it3_L11_km1000.bin", 11
MHUBERT: Found = (
    "mhubert-km1000",
    "mHuBERT of English, Spanish and French with 1000 units, SpeechGPT's",
    "not stated, fairseq's are MIT",
    # without its preprocessor_config.json: the original takes audio as it is
    hub_source(
        "voidful/mhubert-base",
        "f6b161b74babb312406f85d63c9982285a441f06",
        {"config.json": 1_380, "pytorch_model.bin": 378_000_000, MHUBERT_CENTRES: 3_080_000},
    ),
)
