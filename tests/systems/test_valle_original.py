"""Checkpoints of lifeiteng/vall-e and VALL-E-X: converted, loaded, spoken with, and written back unchanged."""

import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch

from voder import checkpoint, conversion, exits, hub
from voder.audio.io import AudioClip, write_audio
from voder.cli import main
from voder.corpus.prepare import prepare_corpus
from voder.corpus.tokenize import tokenize_corpus
from voder.errors import CheckpointError, ConfigError, InputError, TextError
from voder.evaluate.synthetic import write_recordings
from voder.roles import SayRequest
from voder.systems.valle import SYSTEM, convert
from voder.systems.valle.config import ValleConfig
from voder.systems.valle.original import OriginalValle
from voder.systems.valle.original_layers import OriginalConfig
from voder.systems.valle.original_speaker import OriginalSpeaker, read_symbols

TABLE = ("<pad>", "<bos>", "<eos>", "h", "ə", "l", "oʊ", "_", ",")
SIZES = {"width": 16, "num_layers": 1, "num_heads": 2, "num_codebooks": 3, "codebook_size": 16, "num_text_ids": 9}
VARIANTS = {
    "vall-e": {},
    "vall-f": {"cross_attention": True, "share_embedding": False},
    "vall-e-x": {"num_languages": 3, "prepend_bos": True},
}


def network(**changes):
    torch.manual_seed(0)
    return OriginalValle(OriginalConfig(**SIZES | changes)).eval()


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """A random codec of four codebooks, one more than the network speaks."""
    torch.manual_seed(1)
    model, folder = hub.build("encodec/tiny"), tmp_path_factory.mktemp("codec") / "codec"
    config = hub.find("encodec").preset("tiny").model
    checkpoint.save(folder, system="encodec", config=config, state=model.state_dict())
    return folder


@pytest.fixture
def prompt():
    return AudioClip(np.random.default_rng(0).uniform(-0.3, 0.3, (1, 1600)).astype(np.float32), 8000)


def converted(tmp_path, codec, *more, **changes):
    tmp_path.mkdir(exist_ok=True)
    convert.write_original(network(**changes), tmp_path / "theirs.pt")
    (tmp_path / "table.k2symbols").write_text("".join(f"{s} {i}\n" for i, s in enumerate(TABLE)), encoding="utf-8")
    given = ["num_heads=2", f"codec={codec}", *more]
    system, coverage = conversion.convert(tmp_path / "theirs.pt", tmp_path / "ours", more=given)
    assert (system, coverage.is_complete) == ("valle", True)
    return tmp_path / "ours"


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_a_checkpoint_goes_in_is_loaded_and_comes_back_unchanged(tmp_path, codec, changes):
    folder = converted(tmp_path, codec, **changes)
    model, found, config = hub.load_model(folder)
    assert isinstance(model, OriginalValle)
    assert config.original == OriginalConfig(**SIZES | changes)
    assert config.codec_identity == checkpoint.identity(codec)
    assert found.provenance["converted_from"] == ["theirs.pt"]
    assert conversion.export(folder, tmp_path / "back.pt", "lifeiteng") == []
    theirs, back = (torch.load(tmp_path / n, weights_only=True)["model"] for n in ("theirs.pt", "back.pt"))
    assert set(theirs) == set(back)
    assert all(torch.equal(theirs[name], back[name]) for name in theirs)


@pytest.mark.parametrize("changes", [*VARIANTS.values(), {"prefix_mode": 2}], ids=[*VARIANTS, "segment"])
def test_ids_are_said_in_the_voice_of_a_recording(tmp_path, codec, prompt, changes):
    mode = [f"prefix_mode={changes['prefix_mode']}"] if "prefix_mode" in changes else []
    speaker = hub.load(converted(tmp_path, codec, *mode, **changes))
    request = SayRequest(text="ids: 3 4", prompt=prompt, prompt_text="ids: 6")
    with_text, without = speaker.say_batch([request, SayRequest(text="ids: 3", prompt=prompt)], seed=1)
    for speech in (with_text, without):
        assert speech.codes.shape[0] == 3
        assert speech.clip.num_samples == speech.codes.shape[1] * speaker.codec.hop
        assert speech.truncated == (speech.stop_reason == "limit")
    again = speaker.say_batch([request], seed=1)[0]
    assert np.array_equal(again.codes, with_text.codes)
    draws = [speaker.say_batch([request], seed=seed)[0].codes.tolist() for seed in (1, 2, 3)]
    assert any(draw != draws[0] for draw in draws)


def test_what_never_ends_is_cut_and_says_so(codec, prompt):
    model = network()
    with torch.no_grad():
        model.ar_head.weight[16] = 0
        model.ar_head.weight[3] = 10 * model.ar_head.weight[3].sign()
        model.ar_head.weight[4] = -model.ar_head.weight[3]
    speaker = OriginalSpeaker(model, hub.load_codec(codec))
    (said,) = speaker.say_batch([SayRequest(text="ids: 3 4", prompt=prompt)], greedy=True)
    assert (said.stop_reason, said.truncated, said.codes.shape) == ("limit", True, (3, 33))


class Backend:
    """Stands for espeak."""

    def __init__(self, language, **options):
        assert (language, options) == ("en-us", {"preserve_punctuation": True, "with_stress": False})

    def phonemize(self, texts, *, separator, strip):
        assert (texts, strip) == (["hello, hello"], True)
        assert (separator.word, separator.phone) == ("_", "|")
        return ["h|ə|l|oʊ,_h|ə|l|oʊ"]


def with_phonemizer(monkeypatch, backend):
    modules = {"phonemizer": {}, "phonemizer.backend": {"EspeakBackend": backend}}
    modules["phonemizer.separator"] = {"Separator": lambda **names: types.SimpleNamespace(**names)}
    for name, content in modules.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


def test_words_become_the_tables_phonemes_with_marks_around(codec, monkeypatch):
    with_phonemizer(monkeypatch, Backend)
    speaker = OriginalSpeaker(network(), hub.load_codec(codec), symbols=TABLE)
    spelled = [3, 4, 5, 6, 8, 7, 3, 4, 5, 6]
    assert speaker.ids("hello,  hello", end=True) == [*spelled, 2]
    assert speaker.ids("hello, hello", begin=True) == [1, *spelled]
    assert speaker.ids("", begin=True) == [1]
    few = OriginalSpeaker(network(), hub.load_codec(codec), symbols=TABLE[:6])
    with pytest.raises(TextError, match="has no symbol ,, _, oʊ; it was made for another language"):
        few.ids("hello, hello")


def test_what_is_missing_for_words_is_named(codec, monkeypatch):
    plain = OriginalSpeaker(network(), hub.load_codec(codec))
    with pytest.raises(TextError, match=r"has no table of symbols .*: give phoneme ids instead, such as 'ids: 5 12 7'"):
        plain.ids("hello")
    speaker = OriginalSpeaker(network(), hub.load_codec(codec), symbols=TABLE)
    monkeypatch.setitem(sys.modules, "phonemizer.backend", None)
    with pytest.raises(TextError, match="need the package phonemizer, which is not installed: give phoneme ids"):
        speaker.ids("hello")

    def broken(language, **options):
        raise RuntimeError("espeak not installed on your system")

    with_phonemizer(monkeypatch, broken)
    with pytest.raises(TextError, match=r"need espeak-ng, which phonemizer does not find \(espeak not"):
        speaker.ids("hello")


def test_requests_that_cannot_be_said_are_refused_by_name(tmp_path, codec, prompt):
    speaker = hub.load(converted(tmp_path, codec))
    refused = [
        (SayRequest(text="ids: 1"), InputError, "speaks like a recording"),
        (SayRequest(text="ids: 1", speaker="ann", prompt=prompt), InputError, "knows no speaker by name"),
        (SayRequest(text="ids: 9", prompt=prompt), TextError, "'9' is no id of this checkpoint; allowed are 0 to 8"),
        (SayRequest(text="ids: x", prompt=prompt), TextError, "'x' is no id"),
        (SayRequest(text="ids:", prompt=prompt), TextError, "the text is empty"),
        (SayRequest(text=" ", prompt=prompt), TextError, "the text is empty"),
    ]
    for request, kind, message in refused:
        with pytest.raises(kind, match=message):
            speaker.say_batch([request])
    fine = SayRequest(text="ids: 3", prompt=prompt)
    with pytest.raises(ConfigError, match="language is ja, but"):
        speaker.say_batch([fine], language="ja")
    with pytest.raises(ConfigError, match="no sampling option"):
        speaker.say_batch([fine], temprature=1.0)


def test_vall_e_x_is_told_the_language(tmp_path, codec, prompt, monkeypatch):
    speaker = hub.load(converted(tmp_path, codec, **VARIANTS["vall-e-x"]))
    request = SayRequest(text="ids: 3 4 5 6", prompt=prompt)
    seen = []
    with torch.no_grad():  # what is said may be the same by chance: the text that is read is not
        monkeypatch.setattr(speaker.model.ar_text, "forward", lambda ids, languages: seen.append(languages) or 1 / 0)
        for name in ("zh", "ja", "en", None):
            with pytest.raises(ZeroDivisionError):
                speaker.say_batch([request], language=name)
        both = replace(request, prompt_text="ids: 7 8")
        for options in ({"language": "ja"}, {"language": "ja", "voice_language": "zh"}, {"voice_language": "ja"}):
            with pytest.raises(ZeroDivisionError):
                speaker.say_batch([both], **options)
    assert [each.tolist() for each in seen[:4]] == [[[n] * 4] for n in (0, 1, 2, 2)]
    assert [each[0].tolist() for each in seen[4:]] == [[1] * 6, [0] * 2 + [1] * 4, [1] * 2 + [2] * 4]
    with pytest.raises(ConfigError, match="language is 'de'"):
        speaker.say_batch([request], language="de")


def test_the_verb_says_which_languages_a_voice_knows(tmp_path, codec, prompt, capsys):
    write_audio(tmp_path / "prompt.wav", prompt)
    told, untold = converted(tmp_path, codec, **VARIANTS["vall-e-x"]), converted(tmp_path / "plain", codec)

    def say(model, *options):
        given = ["--model", str(model), "--voice", str(tmp_path / "prompt.wav"), "-o", str(tmp_path / "out.wav")]
        return main(["say", "ids: 3 4", *given, *options]), capsys.readouterr().err

    # a random network may say nothing or never end; no more than its length is wanted of it here
    assert say(told, "--language", "ja", "--voice-language", "zh")[0] in (exits.DONE, exits.PARTIAL)
    assert (tmp_path / "out.wav").exists()
    status, said = say(told, "--language", "de")
    assert (status, "--language is de; this voice knows zh, ja, en" in said) == (exits.USER, True)
    status, said = say(untold, "--voice-language", "ja")
    assert (status, "--voice-language is ja; this voice is told no language" in said) == (exits.USER, True)


def test_tables_and_codecs_that_do_not_fit_are_refused(tmp_path, codec):
    folder = converted(tmp_path, codec, f"symbols={tmp_path / 'table.k2symbols'}")
    assert hub.load_model(folder)[2].symbols == TABLE
    convert.write_original(network(num_text_ids=5), tmp_path / "small.pt")
    with pytest.raises(TextError, match="has 9 symbols, but the network reads 5 ids"):
        convert.import_checkpoint(tmp_path / "small.pt", tmp_path / "x", symbols=tmp_path / "table.k2symbols")
    convert.write_original(network(num_codebooks=5), tmp_path / "many.pt")
    with pytest.raises(CheckpointError, match="has 4 codebooks of 16, but the network speaks 5 of 16"):
        convert.import_checkpoint(tmp_path / "many.pt", tmp_path / "x", codec=codec)
    with pytest.raises(CheckpointError, match="is a valle; a codec is wanted here"):
        convert.import_checkpoint(tmp_path / "theirs.pt", tmp_path / "x", codec=folder)
    for lines, message in ((["a 0", "b 2"], "without gaps"), (["a"], "line 1"), (["a 0", "b 0"], "line 2")):
        with pytest.raises(TextError, match=message):
            read_symbols(lines)


def test_without_a_codec_it_is_kept_but_not_heard(tmp_path):
    convert.write_original(network(), tmp_path / "theirs.pt")
    convert.import_checkpoint(tmp_path / "theirs.pt", tmp_path / "mute", num_heads=2)
    assert isinstance(hub.load_model(tmp_path / "mute")[0], OriginalValle)
    with pytest.raises(CheckpointError, match=r"holds no parts/codec"):
        hub.load(tmp_path / "mute")


def test_our_own_network_has_no_such_layout_and_theirs_is_not_trained(tmp_path, tokens):
    preset = SYSTEM.preset("tiny").model
    checkpoint.save(tmp_path / "own", system="valle", config=preset, state=hub.build("valle/tiny").state_dict())
    with pytest.raises(ConfigError, match="holds voder's own network"):
        convert.export_checkpoint(tmp_path / "own", tmp_path / "x.pt", "lifeiteng")
    with pytest.raises(ConfigError, match=r"model\.original .* is not trained here"):
        SYSTEM.task().fit_config(ValleConfig(original=OriginalConfig(**SIZES)), None, tokens)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, codec):
    """Recordings with texts, as tokens of the codec."""
    folder = tmp_path_factory.mktemp("tokens")
    write_recordings(folder / "recordings", seed=0)
    prepare_corpus(folder / "recordings", folder / "data", workers=1)
    tokenize_corpus(folder / "data", hub.load_codec(codec), codec, folder / "tokens")
    return folder / "tokens"


@pytest.mark.parametrize("stage", ["ar", "nar"])
def test_a_stage_trains_its_network_alone(stage, tokens):
    preset = SYSTEM.preset("tiny")
    task_class, config = SYSTEM.task(), replace(preset.task, stage=stage)
    torch.manual_seed(0)
    model = SYSTEM.build(task_class.fit_config(preset.model, config, tokens))
    task = task_class(model, config, tokens, seed=0)
    assert set(task.optimised) == {stage}
    phases = {name for step in range(4) for name, _ in task.losses(task.batch(step, 0, 1), step)}
    assert phases == {stage}
    assert {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {stage}
