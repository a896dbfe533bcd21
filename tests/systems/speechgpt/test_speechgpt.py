"""SpeechGPT at work: conversations, stages, plain folders, official layouts."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from voder import checkpoint, hub
from voder.audio.io import AudioClip
from voder.config import resolve
from voder.data.dialogue import Codes, Dialogue, DialogueTurn, write_dialogues
from voder.errors import CheckpointError, ConfigError, FittedPartMismatch, InputError
from voder.nn.causal_lm import CausalLmConfig, build_causal_lm, save_plain
from voder.nn.grown_lm import grown_tokenizer
from voder.nn.lora import LoraSizes
from voder.roles import Turn
from voder.systems.speechgpt import SYSTEM, SpeechGpt, convert
from voder.systems.speechgpt.infer import SpeechGptChatter, load_chatter
from voder.systems.speechgpt.stages import STAGES
from voder.systems.speechgpt.train import SpeechGptTask
from voder.systems.speechgpt.vocabulary import SpeechGptVocabulary
from voder.text.subwords import byte_tokenizer, read_tokenizer
from voder.train.lm_rows import IGNORED, RowBatch, next_id_loss

CLIP = AudioClip(0.1 * torch.randn(1, 2400, generator=torch.Generator().manual_seed(0)).numpy(), 8000)


def tiny(**changes):
    torch.manual_seed(0)
    return SpeechGpt(replace(SYSTEM.preset("tiny").model, **changes)).eval()


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return hub.build("speechtokenizer/tiny").eval()


@pytest.fixture
def chatter(codec):
    return SpeechGptChatter(tiny(), byte_tokenizer(), codec)


def user(*parts):
    return Turn(role="user", parts=parts)


def test_speech_that_is_wanted_comes_whole_and_text_alone_stays_text(chatter):
    for seed in range(3):
        spoken = chatter.reply([user("hello")], want="audio", seed=seed, max_new=20)
        clips = [part for part in spoken.parts if isinstance(part, AudioClip)]
        assert len(clips) == 1
        assert clips[0].num_samples % chatter.reader.hop == 0
        silent = chatter.reply([user(CLIP)], want="text", seed=seed, max_new=20)
        assert all(isinstance(part, str) for part in silent.parts)
    aloud = chatter.reply([user("hello")], task="speak", max_new=20)
    assert [type(part) for part in aloud.parts] == [AudioClip]


def test_every_option_acts(chatter):
    def said(**options):
        turn = chatter.reply([user("hello")], **{"max_new": 16, **options})
        return [p.samples.tolist() if isinstance(p, AudioClip) else p for p in turn.parts]

    assert said() == said() != said(seed=1)
    assert said(temperature=0.01) != said(temperature=5.0)
    assert said(top_k=1) != said(top_k=0, temperature=5.0)
    assert said(max_new=16) != said(max_new=17)
    assert chatter.reply([user("hello")], max_new=16).truncated
    with pytest.raises(ConfigError, match="max_news"):
        said(max_news=3)
    with pytest.raises(InputError, match="no image"):
        said(want="image")
    with pytest.raises(InputError, match="task 'sing'"):
        said(task="sing")


def test_history_changes_the_answer_and_bad_histories_are_refused(chatter):
    first = chatter.reply([user("a")], seed=3, max_new=16)
    asked = user("b")
    alone = chatter.reply([asked], seed=3, max_new=16)
    assert chatter.reply([user("a"), replace(first, parts=("x",)), asked], seed=3, max_new=16).parts != alone.parts
    told = Turn(role="assistant", parts=("x",))
    silent = replace(told, parts=())  # a model may say nothing, which is no reason to stop
    assert chatter.reply([user("a"), silent, asked], max_new=8).role == "assistant"
    for turns, reason in (
        ([], "last turn"),
        ([told], "take turns"),
        ([user("a"), user("b")], "take turns"),
        ([user("a"), told], "last turn"),
        ([Turn(role="system", parts=("x",)), user("a")], "system"),
        ([user()], "empty"),
        ([user("x" * 200)], "shorten"),
    ):
        with pytest.raises(InputError, match=reason):
            chatter.reply(turns)


def test_a_long_recording_is_heard_as_far_as_the_context_goes(chatter):
    long = AudioClip(CLIP.samples.repeat(20, axis=1), 8000)
    found = chatter.transcribe(long)
    assert found.truncated
    assert found.stop_reason == "context"
    assert 0 < found.heard_s < long.duration_s


def test_without_a_voice_the_text_is_answered_and_the_part_named(codec):
    hubert = hub.find("hubert")
    config = replace(hubert.preset("tiny").model, num_units=16)
    torch.manual_seed(0)
    chatter = SpeechGptChatter(tiny(dedup=True), byte_tokenizer(), hubert.build(config).eval())
    said = chatter.reply([user("hello")], want="audio", seed=2, max_new=12)
    assert all(isinstance(part, str) for part in said.parts)
    assert len(said.missing) == 1
    assert "vocoder" in said.missing[0]
    assert chatter.reply([user(CLIP)], max_new=8).role == "assistant"


def config(*settings):
    return resolve(SYSTEM.preset("tiny"), overrides=list(settings))


def task(bench, *settings, start=None):
    run = config(*settings)
    data = bench.data("speechgpt")
    fitted = SpeechGptTask.fit_config(run.model, run.task, data, start)
    torch.manual_seed(0)
    return SpeechGptTask(SpeechGpt(fitted).train(), run.task, data, seed=0)


@pytest.mark.parametrize("stage", list(STAGES))
def test_every_stage_learns_and_what_stays_stays(bench, stage):
    found = task(bench, *STAGES[stage].task_settings)
    learns = [name for name, parameter in found.model.named_parameters() if parameter.requires_grad]
    assert learns
    assert all(".lora_" in name for name in learns) == (stage == "chain")
    before = {name: value.clone() for name, value in found.model.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in found.model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step in range(12):
        batch = found.batch(step % 2, 0, 1)
        (_, loss), *_ = found.losses(batch, step)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        losses.append(float(loss.value.detach()))
    assert losses[-1] < losses[0]
    moved = {n for n, value in found.model.state_dict().items() if not torch.equal(before[n], value)}
    assert moved
    assert all(name in learns or name == "holds_trained" for name in moved)
    masked = [row.labels.count(IGNORED) for row in (found.batch(0, 0, 1).row(number) for number in range(2))]
    assert masked == ([0, 0] if stage == "adapt" else [1, 1])  # the begin alone: tiny has no prefix


def test_an_end_that_is_also_the_padding_carries_loss_and_the_padding_does_not(bench):
    found = task(bench, "model.lm.pad_id=2")
    assert found.model.config.lm.eos_id == found.model.config.lm.pad_id == 2
    for step in range(4):
        batch = found.batch(step, 0, 1)
        for labels, length in zip(batch.labels, batch.lengths, strict=True):
            assert labels[length - 1] == 2
            assert (labels[length:] == IGNORED).all()


@pytest.mark.parametrize("stage", ["adapt", "instruct"])
def test_without_validation_recordings_training_ones_are_judged(bench, tmp_path, stage):
    tokens = tmp_path / "tokens"
    shutil.copytree(bench.data("speechgpt"), tokens)
    record = json.loads((tokens / "tokens.json").read_text())
    del record["splits"]["valid"]
    (tokens / "tokens.json").write_text(json.dumps(record))
    run = config(f"task.stage={stage}")
    fitted = SpeechGptTask.fit_config(run.model, run.task, tokens)
    found = SpeechGptTask(SpeechGpt(fitted).eval(), run.task, tokens, seed=0)
    assert found.valid_split is found.split
    assert np.isfinite(found.evaluate()["score"])


def test_embeddings_alone_can_learn(bench):
    found = task(bench, "task.stage=adapt", "task.embeddings_only=true")
    learns = {name for name, parameter in found.model.named_parameters() if parameter.requires_grad}
    assert learns == {"network.model.embed_tokens.weight", "network.lm_head.weight"}
    with pytest.raises(ConfigError, match="adapt"):
        task(bench, "task.embeddings_only=true")


def test_stages_follow_one_another(bench):
    first = task(bench, "task.stage=adapt")
    assert not first.model.config.markers
    size = first.model.config.network.vocabulary_size
    second = SpeechGptTask.fit_config(config().model, config().task, first.data, first.model.config)
    grown = SpeechGptTask.adapt_state(first.model.state_dict(), first.model.config, second)
    assert grown["network.model.embed_tokens.weight"].shape[0] == size + 4
    third_run = config("task.stage=chain")
    third = SpeechGptTask.fit_config(third_run.model, third_run.task, first.data, second)
    state = SpeechGptTask.adapt_state(grown, second, third)
    model, plain = SpeechGpt(third), SpeechGpt(second)
    checkpoint.load_into(model, state, first.data)
    plain.load_state_dict(grown)
    ids, valid = torch.arange(9)[None] + 261, torch.ones(1, 9, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(model.eval()(ids, valid), plain.eval()(ids, valid))  # the LoRA begins as no change
    with pytest.raises(ConfigError, match="LoRA"):
        SpeechGptTask.fit_config(config().model, config().task, first.data, third)


def test_units_of_another_tokenizer_are_refused_by_name(bench, tmp_path, codec):
    found = task(bench)
    other = replace(found.model.config, units_identity="another")
    with pytest.raises(FittedPartMismatch, match="another"):
        SpeechGptTask.fit_config(config().model, config().task, found.data, other)
    checkpoint.save(
        tmp_path / "ours",
        system="speechgpt",
        config=other,
        state=found.model.state_dict(),
        parts={"units": found.store.tokenizer_folder},
    )
    with pytest.raises(FittedPartMismatch, match="another"):
        load_chatter(found.model.__class__(other), checkpoint.read(tmp_path / "ours"))
    said = (
        DialogueTurn(role="user", parts=("q", Codes(modality="speech", codes=(1,), tokenizer="strange"))),
        DialogueTurn(role="assistant", parts=("a",)),
    )
    write_dialogues(tmp_path / "d.jsonl", [Dialogue(id="d", turns=said)])
    spoken = task(bench, "task.stage=chain", f"task.dialogues={tmp_path / 'd.jsonl'}")
    with pytest.raises(FittedPartMismatch, match="strange"):
        spoken.batch(0, 0, 1)


def test_dialogues_are_what_stage_chain_reads(bench, tmp_path):
    found = task(bench)
    identity = found.store.tokenizer.identity
    said = (
        DialogueTurn(role="user", parts=("who?", Codes(modality="speech", codes=(1, 2), tokenizer=identity))),
        DialogueTurn(role="assistant", parts=("a cat", Codes(modality="speech", codes=(3,), tokenizer=identity))),
    )
    write_dialogues(tmp_path / "d.jsonl", [Dialogue(id="d", turns=said)])
    chain = task(bench, "task.stage=chain", f"task.dialogues={tmp_path / 'd.jsonl'}")
    shown = {chain.spelled(chain.batch(step, 0, 1).row(row)) for step in range(12) for row in range(2)}
    assert len(shown) == 4
    assert any("<sosp><1><2><eosp><eoh>." in each and "who?; [ta] a cat; [ua]<sosp><3>" in each for each in shown)
    assert any("who?<eoh>." in each and "a cat<eoa>" in each for each in shown)
    with pytest.raises(ConfigError, match="stage chain"):
        task(bench, f"task.dialogues={tmp_path / 'd.jsonl'}")


@pytest.fixture
def base_folder(tmp_path):
    """A checkpoint of `lm` with a random Llama over bytes."""
    system = hub.find("lm")
    preset = system.preset("tiny").model
    torch.manual_seed(1)
    checkpoint.save(tmp_path / "lm", system="lm", config=preset, state=system.build(preset).state_dict())
    return tmp_path / "lm"


def test_it_begins_with_a_language_model_whose_text_it_keeps(bench, base_folder):
    found = task(bench, f"task.lm={base_folder}")
    assert bool(found.model.holds_trained)
    trained = checkpoint.load_state(base_folder)["network.model.embed_tokens.weight"]
    table = found.model.network.get_input_embeddings().weight
    assert torch.equal(table[:261], trained)
    assert torch.allclose(table[261:], trained.mean(dim=0))
    chain = task(bench, f"task.lm={base_folder}", "task.stage=chain")
    assert torch.equal(chain.model.network.get_input_embeddings().weight[:261], trained)


@pytest.mark.parametrize(
    "settings",
    [
        ("model.lm.family=llama",),
        ("model.lm.tie_embeddings=true",),
        ("model.lm.family=qwen2",),
        ("model.lm.family=opt",),
        ("model.lm.family=gpt2", 'model.lora_targets=["c_attn"]'),
    ],
)
def test_any_causal_language_model_will_do(bench, tmp_path, settings):
    from transformers import AutoModelForCausalLM

    found = task(bench, "task.stage=chain", *settings)
    loss = next_id_loss(found.model, RowBatch.of([found.batch(0, 0, 1).row(0)]))
    assert torch.isfinite(loss.value)
    config_ = found.model.config
    checkpoint.save(
        tmp_path / "ours",
        system="speechgpt",
        config=config_,
        state=found.model.state_dict(),
        parts={"units": found.store.tokenizer_folder},
    )
    convert.export_checkpoint(tmp_path / "ours", tmp_path / "plain")
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids = torch.tensor([[5, 6, 261, config_.network.vocabulary_size - 1]])
    with torch.no_grad():
        ours = found.model.eval()(ids, torch.ones_like(ids, dtype=torch.bool))
        assert torch.allclose(loaded(input_ids=ids).logits, ours, atol=1e-5)
    tokenizer = read_tokenizer(tmp_path / "plain")
    names = found.model.vocabulary.tokens
    assert tokenizer.convert_tokens_to_ids(list(names)) == list(range(261, 261 + len(names)))


def test_a_published_folder_and_its_adapter_are_read(bench, tmp_path):
    units = checkpoint.resolve(bench.trained("spectral"))
    size = hub.load(units).codebook_size
    lm = CausalLmConfig(vocabulary_size=32_000 + size + 6, width=8, ffn_width=8, num_layers=1, num_heads=2)
    torch.manual_seed(0)
    source = tmp_path / "cm"
    tokens = SpeechGptVocabulary(32_000, size).tokens
    save_plain(build_causal_lm(lm), grown_tokenizer(byte_tokenizer(), 32_000, tokens), source)
    assert convert.import_checkpoint(source, tmp_path / "ours", units=units).is_complete
    role = hub.load_role(tmp_path / "ours", "Chatter")
    assert role.model.config.lm.vocabulary_size == 32_000
    assert role.model.config.markers
    marks = [role.model.vocabulary.markers[name] for name in ("[Human]", "<eoh>", "[SpeechGPT]")]
    typed = role.maker.prompt([(["<sosp><5><eosp> <eoh>"], None)])
    assert [id_ for id_ in typed if id_ >= 32_000] == marks  # though the folder's own tokenizer knows these tokens
    (source / "added_tokens.json").write_text(json.dumps({"<0>": 7}))
    with pytest.raises(CheckpointError, match="<0> 7 instead of 32000"):
        convert.import_checkpoint(source, tmp_path / "again", units=units)
    adapted = replace(role.model.config, lora=LoraSizes(rank=2, alpha=4, dropout=0.0))
    lora = {
        name.removeprefix("network.").replace(".default.", "."): torch.randn(value.shape)
        for name, value in SpeechGpt(adapted).state_dict().items()
        if ".lora_" in name
    }
    torch.save(lora, tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    assert convert.import_adapter(tmp_path, tmp_path / "ours", tmp_path / "com").is_complete
    with_adapter = hub.load(tmp_path / "com").model
    ids = torch.tensor([[5, 32_000, 32_001]])
    valid = torch.ones_like(ids, dtype=torch.bool)
    assert not torch.equal(with_adapter(ids, valid), role.model(ids, valid))
    lora.pop(next(iter(lora)))
    torch.save(lora, tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="missing"):
        convert.import_adapter(tmp_path, tmp_path / "ours", tmp_path / "none")


def test_the_published_size_is_described_without_weights():
    with torch.device("meta"):
        model = SpeechGpt(SYSTEM.preset("7b").model)
    names = {name for name, _ in model.network.named_parameters()}
    assert "model.layers.31.self_attn.q_proj.weight" in names
    assert model.network.get_input_embeddings().weight.shape == (33_006, 4096)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(6.75e9, rel=0.01)
    assert "33006 ids" in SYSTEM.anatomy(model.config)["language model"]


def test_a_model_of_the_first_stage_knows_no_conversations(bench, tmp_path):
    found = task(bench, "task.stage=adapt")
    checkpoint.save(tmp_path / "a", system="speechgpt", config=found.model.config, state=found.model.state_dict())
    with pytest.raises(CheckpointError, match="stage instruct"):
        hub.load(tmp_path / "a")
