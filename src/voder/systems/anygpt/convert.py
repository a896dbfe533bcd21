"""The published AnyGPT checkpoints and ours, both ways.

huggingface  folders of a Llama (`fnlp/AnyGPT-base`, `fnlp/AnyGPT-chat`) with their tokenizer; what codes they have is
             read off the size of their vocabulary. Licence: Apache-2.0 by their pages, over LLaMA-2's
seed         `seed_quantizer.pt` of AILab-CVC/seed-tokenizer-2, the image tokenizer

The speech parts (fnlp/AnyGPT-speech-modules) are imported by `speechtokenizer` and `soundstorm`.
"""

from dataclasses import replace
from pathlib import Path

from voder import checkpoint, hub
from voder.config import from_dict
from voder.errors import CheckpointError, ConfigError, FittedPartMismatch
from voder.generate.units import fitted_generator
from voder.interop import Coverage, Marks, load_foreign, read_state
from voder.nn.causal_lm import read_plain
from voder.nn.grown_lm import NETWORK, save_grown, trained_state, wrong_ids
from voder.published import HubFile, HubSource, Published, hub_source
from voder.systems.anygpt import seed_convert
from voder.systems.anygpt.config import AnyGptConfig
from voder.systems.anygpt.infer import fitted_music
from voder.systems.anygpt.model import AnyGpt
from voder.systems.anygpt.seed import SeedTokenizer
from voder.systems.anygpt.vocabulary import AnyGptVocabulary, ModalitySizes
from voder.text.subwords import read_unchanged, tokenizer_files
from voder.train.base_lm import TOKENIZER, tokenizer_of

LAYOUTS = {"huggingface": "a folder that transformers loads, codes and markers in its tokenizer"}
MARKS = Marks()
"""The folders look like any Llama's, so they must be named (`--system anygpt`)."""
_PUBLISHED_SPEECH = 1024


def vocabulary_of(size: int, speech: int = _PUBLISHED_SPEECH) -> AnyGptVocabulary:
    """The vocabulary of so many ids, with `speech` codes of speech in place of 1024.

    Raises:
        CheckpointError: no published one has that size.
    """
    found = AnyGptVocabulary.of_size(size - speech + _PUBLISHED_SPEECH)
    return AnyGptVocabulary(found.text_size, replace(found.sizes, speech=speech), chat=found.chat)


def _checked(vocabulary: AnyGptVocabulary, folder: Path) -> AnyGptVocabulary:
    """The vocabulary as the folder's tokenizer has it, which also says where the chat markers are."""
    wrong = wrong_ids(vocabulary, folder)
    if wrong and vocabulary.chat == "last":
        other = AnyGptVocabulary(vocabulary.text_size, vocabulary.sizes, chat="first")
        if not wrong_ids(other, folder):
            return other
    if wrong:
        raise CheckpointError(f"the tokenizer of {folder} has other ids than AnyGPT: {', '.join(wrong[:5])}")
    return vocabulary


def import_checkpoint(
    source: Path,
    output: Path,
    *,
    speech: Path | None = None,
    refiner: Path | None = None,
    music: Path | None = None,
    seed: Path | None = None,
) -> Coverage:
    """Convert a published folder; the others are our checkpoints of its parts, and the official file of SEED-2.

    Raises:
        ConfigError: no speech codec was named.
        CheckpointError: damaged, of another size, or with weights that have no place.
        FittedPartMismatch: a part has other codes than the vocabulary.
    """
    if speech is None:
        raise ConfigError("name our checkpoint of its speech codec (speech=FOLDER)")
    network, found = read_plain(source)
    codec = hub.load_codec(speech)
    vocabulary = _checked(vocabulary_of(found.vocabulary_size, codec.codebook_size), source)
    folder = checkpoint.resolve(hub.locate(speech))
    image = None if seed is None else _image_tokenizer(seed, vocabulary.sizes)
    state = trained_state(network)
    state |= {} if image is None else {f"seed.{name}": value for name, value in image.state_dict().items()}
    parts, identity = {"speech": folder}, checkpoint.identity(folder)
    if refiner is not None:
        parts["refiner"] = fitted_generator(refiner, identity, "refiner")
    config = AnyGptConfig(
        lm=replace(found, vocabulary_size=vocabulary.text_size),
        codes=vocabulary.sizes,
        chat=vocabulary.chat,
        speech_identity=identity,
        seed=None if image is None else image.config,
    )
    if music is not None:
        parts["music"] = fitted_music(music, config)
    provenance = {"converted_from": [source.name, *([seed.name] if seed else [])]}
    with tokenizer_files(read_unchanged(source, vocabulary.text_size)) as (words, name):
        parts[TOKENIZER], config = words, replace(config, tokenizer=name)
        checkpoint.save(output, system="anygpt", config=config, state=state, parts=parts, provenance=provenance)
    return Coverage(state=state)


def _image_tokenizer(file: Path, sizes: ModalitySizes) -> SeedTokenizer:
    state = read_state(file)
    config = seed_convert.config_of(state)
    if (config.codebook_size, config.num_queries) != (sizes.image, sizes.image_length):
        raise FittedPartMismatch(
            f"{file} makes {config.num_queries} codes of {config.codebook_size}; the vocabulary has "
            f"{sizes.image_length} of {sizes.image}"
        )
    model = SeedTokenizer(config)
    load_foreign(model, state, seed_convert.TABLE, str(file))
    return model


def export_checkpoint(folder: Path, output: Path, layout: str = "huggingface") -> list[str]:
    """Write the language model as a plain Hugging Face folder, codes and markers in its tokenizer.

    Returns what has no place there: the image tokenizer.

    Raises:
        CheckpointError: not a checkpoint of this system.
    """
    found = checkpoint.read_of(folder, "anygpt")
    model = AnyGpt(from_dict(AnyGptConfig, found.config, where=str(folder)))
    state = checkpoint.load_state(found.folder)
    checkpoint.load_into(model, state, found.folder)
    save_grown(model, tokenizer_of(model.config.tokenizer, found.parts, found.folder), output)
    return sorted(name for name in state if not name.startswith(NETWORK))


_SEED = "seed_quantizer.pt"


def _with_seed(folder: Path, output: Path, **parts: Path) -> Coverage:
    return import_checkpoint(folder, output, seed=folder / _SEED, **parts)


def _row(kind: str, what: str, revision: str, sha256: str = "") -> Published:
    sizes = {"config.json": 733, "tokenizer.model": 500_000, "added_tokens.json": 494_000}
    files = (HubFile("pytorch_model.bin", 27_700_000_000, sha256), *(HubFile(*each) for each in sizes.items()))
    return Published(
        name=f"anygpt-{kind}",
        system="anygpt",
        what=what,
        licence="Apache-2.0, over LLaMA-2's",
        origin=f"the authors', as fnlp/AnyGPT-{kind} has it, with SEED-2's image tokenizer",
        convert=_with_seed,
        hub=(
            HubSource(repository=f"fnlp/AnyGPT-{kind}", revision=revision, files=files),
            hub_source(
                "AILab-CVC/seed-tokenizer-2", "c6d957a9b280d9ed3879b1eb5d99036cf8390012", {_SEED: 1_230_000_000}
            ),
        ),
        needs={"speech": "speechtokenizer-snake", "refiner": "soundstorm-mls", "music": "encodec-32khz"},
    )


PUBLISHED = (
    _row(
        "base",
        "speech, images and music to text and back, 7 B parameters",
        "5f4692787bea31d7da4d95561ad0e602efa12afe",
        "8c2cc7fb20e770e7348bc3991f3ff6a45344f372040f51b1f35ff69f73c02ae3",
    ),
    _row("chat", "conversations in text, speech, images and music, 7 B parameters", "main"),
)
