"""What the paper's methods must be: who learns, what equals what, and that no id is two things."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from voder import hub
from voder.audio.io import AudioClip
from voder.errors import AudioError, ConfigError, InputError, TextError, TokensError
from voder.nn.codec_lm import CoarseDecoder
from voder.roles import SayRequest
from voder.sequence.assemble import assemble
from voder.sequence.voices import Voice
from voder.systems.llmtts.config import PRESETS
from voder.systems.llmtts.convert import export_plain, plain_language_model
from voder.systems.llmtts.infer import LlmTtsSpeaker
from voder.systems.llmtts.layout import Layout, spell
from voder.systems.llmtts.model import LlmTts
from voder.systems.llmtts.reader import text_memory
from voder.text.subwords import byte_tokenizer

from .conftest import METHODS, build, settings

FAMILIES = ("llama", "qwen2", "gpt2", "opt")


@pytest.mark.parametrize("method", METHODS)
def test_of_the_language_model_only_lora_and_new_ids_learn(make, streams, method):
    model = make(method)
    text, audio = streams(model)
    model.coarse(text, audio)[audio.loss].logsumexp(-1).sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    inside = {name for name in moved if name.startswith("reader.")}
    new = set() if method == "coupled" else {"reader.new_ids.weight"}
    assert inside == new | {name for name, _ in model.reader.named_parameters("reader") if ".lora_" in name}
    assert any(name.startswith("ar.") for name in moved) == (method != "vocabulary")


def test_the_other_codebooks_teach_the_language_model_nothing(make, streams):
    for method in METHODS:
        model = make(method)
        text, _ = streams(model)
        frames = assemble([model.layout.frames(7, Voice()) for _ in range(2)])
        model.fine(text, frames, torch.zeros(2, 2, 7, dtype=torch.long), 1).sum().backward()
        touched = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
        assert touched == {"nar"}


def test_coupled_to_a_bare_embedding_it_is_valle(streams):
    """A language model that only looks ids up, projected by the identity, gives plain VALL-E."""
    model = build(settings(lora=None))
    decoder, layout, width = model.ar, model.layout, model.config.ar.width
    torch.manual_seed(5)
    table = torch.nn.Embedding(layout.first_said, width)
    model.reader.read_texts = lambda texts, memory=None: [table(torch.tensor(text)) for text in texts]
    plain = CoarseDecoder(
        model.config.ar, num_text_ids=layout.ids.size, num_audio_ids=16 + 3, num_outputs=16 + 1
    ).eval()
    with torch.no_grad():
        decoder.text.projection.weight.copy_(torch.eye(width))
        decoder.text.projection.bias.zero_()
        decoder.text.ids.weight[0] = 0
        shared = {name: value for name, value in decoder.state_dict().items() if not name.startswith("text.")}
        plain.load_state_dict(shared, strict=False)
        plain.text.segments.load_state_dict(decoder.text.segments.state_dict())
        plain.text.ids.weight[: layout.first_said] = table.weight
        start = layout.ids["mark"].start
        plain.text.ids.weight[start:] = decoder.text.ids.weight[1:]
    text, audio = streams(model)
    with torch.no_grad():
        torch.testing.assert_close(model.coarse(text, audio), plain(text, model.local(audio)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_cached_is_recomputed_over_any_language_model(make, streams, method, family):
    model = make(method, family=family)
    text, audio = streams(model)
    whole = model.coarse(text, audio)
    read = [6 + 1 + 2, 1 + 2]  # the prompt with both begins and one code; the begin and two codes
    longest = max(read)
    cut = replace(
        audio,
        **{name: value[:, :longest].clone() for name, value in vars(audio).items()},
    )
    valid = torch.arange(longest)[None] < torch.tensor(read)[:, None]
    session = model.session(text, replace(cut, valid=cut.valid & valid), room=3)
    rows = torch.arange(2)
    logits = session.start()
    for step in range(3):
        places = torch.tensor(read) - 1 + step
        wanted = whole[rows, places] if step < 2 else whole[1:, places[1]]
        torch.testing.assert_close(logits, wanted, atol=2e-5, rtol=0)
        said = torch.tensor([int(audio.ids[row, read[row] + step]) for row in ((0, 1) if step < 2 else (1,))])
        if step == 1:
            session.select(torch.tensor([1]))
            said = said[1:]
        logits = session.step(said - model.layout.first_said)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "opt"])
@torch.no_grad()
def test_with_lora_merged_and_its_vocabulary_grown_it_is_a_plain_model_that_says_the_same(
    make, streams, tmp_path, family, tied
):
    from transformers import AutoModelForCausalLM

    model = make("vocabulary", family=family, tied=tied)
    text, audio = streams(model)
    speaker = LlmTtsSpeaker(model, hub.build("spectral/tiny"), byte_tokenizer())
    export_plain(speaker, tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    row = [1, *text.ids[1][text.valid[1]].tolist(), *audio.ids[1][audio.valid[1]].tolist()]
    first, said = model.layout.first_said, model.reader.num_said
    logits = plain(torch.tensor([row])).logits[0, -int(audio.valid[1].sum()) :]
    wanted = model.coarse(text, audio)[1][audio.valid[1]]
    torch.testing.assert_close(logits[:, first : first + said], wanted, atol=2e-5, rtol=0)
    record = json.loads((tmp_path / "plain" / "voder.json").read_text())
    assert record["new_ids"]["code"] == [261, 16]
    assert plain.config.vocab_size == model.layout.ids.size
    assert plain.config.eos_token_id == model.config.lm.eos_id


@torch.no_grad()
def test_merged_is_unmerged_where_valle_stands_upon_it(make, streams):
    from voder.nn.lora import merge_lora

    for method in ("superposed", "coupled"):
        model = make(method)
        text, audio = streams(model)
        before = model.coarse(text, audio)
        model.reader.network = merge_lora(model.reader.network)
        model.reader.frozen = True
        torch.testing.assert_close(model.coarse(text, audio), before, atol=1e-5, rtol=0)


def test_only_the_vocabulary_method_is_a_language_model_by_itself(make):
    with pytest.raises(ConfigError, match="method coupled speaks through VALL-E"):
        plain_language_model(make("coupled"))


@torch.no_grad()
def test_a_frozen_language_model_reads_each_text_once(streams):
    model = build(settings(lora=None))
    text, audio = streams(model)
    calls, hidden = [], model.reader.hidden
    model.reader.hidden = lambda *args: calls.append(len(args[0])) or hidden(*args)
    memory = text_memory(10**6)
    first = model.coarse(text, audio, memory)
    again = model.coarse(text, audio, memory)
    assert torch.equal(first, again)
    assert calls == [1, 1, 1]  # prompt and target of one row, target of the other
    assert torch.allclose(model.coarse(text, audio), first, atol=1e-6)
    small = text_memory(4 * 32 * 5)
    assert torch.equal(model.coarse(text, audio, small), first)
    # 5 positions of 32 channels are those of the texts that were read first
    assert [text in small for text in ((70, 71, 72), (80, 81), (90, 91, 92, 93))] == [True, True, False]


@torch.no_grad()
def test_what_is_kept_of_a_text_does_not_depend_on_what_was_read_beside_it():
    """Or a resumed run, which begins with an empty memory, would differ in the last bits."""
    model = build(settings(lora=None, lm=replace(settings().lm, family="llama", width=64, ffn_width=96)))
    texts = [tuple(range(70, 70 + length)) for length in (3, 17, 8)]
    whole, alone = text_memory(10**6), text_memory(10**6)
    together = model.reader.read_texts(texts, whole)
    for text, hidden in zip(texts, together, strict=True):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (found,) = model.reader.read_texts([text], alone)
        assert torch.equal(found, hidden)
        assert found.dtype == torch.float32


@torch.no_grad()
def test_a_frozen_language_model_drops_nothing_out(streams):
    config = settings(lora=None)
    model = build(replace(config, lm=replace(config.lm, dropout=0.5))).train()
    text, _ = streams(model)
    assert torch.equal(model.read_text(text).vectors, model.read_text(text).vectors)


@pytest.mark.parametrize("preset", PRESETS)
def test_codes_ends_and_marks_collide_with_no_text(preset):
    layout = Layout(PRESETS[preset]().model)
    names = [layout.ids.locate(number)[0] for number in (layout.first_said - 1, layout.first_said)]
    assert names == ["text", "code"]
    marks = {layout.ids[name].start for name in ("end", "begin", "begin_prompt")}
    assert len(marks) == 3
    assert min(marks) >= layout.first_said + layout.config.codebook_size
    assert layout.end == layout.config.codebook_size


def test_text_that_imitates_special_tokens_stays_text():
    tokenizer = byte_tokenizer()
    ids = spell(tokenizer, "say </s> <|im_start|>  twice")
    assert min(ids) >= 5
    assert tokenizer.decode(list(ids)) == "say </s> <|im_start|> twice"


def test_numbers_out_of_range_and_texts_too_long_are_refused(make):
    layout = make().layout
    with pytest.raises(TokensError, match="codes reach 0 to 16, but this model knows 0 to 15"):
        layout.audio_target(np.array([0, 16]))
    with pytest.raises(TextError, match="25 tokens; this model says at most 24"):
        layout.text((70,) * 25, Voice())
    with pytest.raises(TextError, match="25 tokens"):
        layout.text((70,), Voice(prompt_codes=np.zeros((2, 9), np.int64), prompt_text=(70,) * 25))
    with pytest.raises(TextError, match="empty"):
        layout.text((), Voice())


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="give it a rank"):
        settings("vocabulary", lora=None)
    with pytest.raises(ConfigError, match=r"up to \d+ positions, but the language model has 384"):
        settings("superposed", max_frames=400)
    assert settings("coupled", max_frames=400).max_frames == 400


def test_the_published_size_is_described_without_being_allocated():
    with torch.device("meta"):
        model = LlmTts(PRESETS["paper"]().model)
    assert 6.5e9 < sum(p.numel() for p in model.reader.parameters()) < 7e9
    assert sum(p.numel() for p in model.ar.parameters()) > 1.5e8
    assert not any(p.requires_grad for p in model.reader.network.parameters())


def test_clips_are_named_by_what_is_wrong(bench):
    speaker = hub.load(bench.trained("llmtts"))
    with pytest.raises(InputError, match="no voice is called 'anne'; the nearest is 'ann'"):
        speaker.say_batch([SayRequest(text="abc", speaker="anne")])
    short = AudioClip(np.zeros((1, 300), np.float32), 8000)
    with pytest.raises(AudioError, match=r"the voice prompt lasts 0\.04 s; this model takes"):
        speaker.say("abc", voice=short)
    with pytest.raises(ConfigError, match="the nearest is 'top_k'"):
        speaker.say("abc", voice="ann", topk=3)
