import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from voder import checkpoint, hub
from voder.audio.io import AudioClip, write_audio
from voder.data.dialogue import Dialogue, Dialogues, DialogueTurn, Media, write_dialogues
from voder.errors import CheckpointError, FittedPartMismatch, ManifestError
from voder.interop import RenameTable, export
from voder.systems.pengi import SYSTEM, convert
from voder.systems.pengi.config import PengiConfig
from voder.systems.pengi.formats import PROMPTS, read_triple, write_triple
from voder.systems.pengi.model import Pengi
from voder.systems.pengi.train import PengiTask
from voder.text.subwords import byte_tokenizer
from voder.train.run import RunRequest, train

TINY = SYSTEM.preset("tiny")


def recording(path, seconds=0.5):
    rng = np.random.default_rng(len(path.name))
    samples = (rng.standard_normal((1, int(8000 * seconds))) * 0.1).astype(np.float32)
    write_audio(path, AudioClip(samples, 8000))


def triples(folder, rows):
    for split in ("train", "valid"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def task(folder, **changes):
    return PengiTask(Pengi(TINY.model), replace(TINY.task, **changes), folder, seed=0)


def test_triples_are_read_and_written(tmp_path):
    row = {"id": "1", "audio": "a/b.wav", "prompt": PROMPTS["caption"], "text": "a dog barks"}
    dialogue = read_triple(row, tmp_path)
    assert dialogue.turns[0].parts == (Media(kind="audio", path=tmp_path / "a" / "b.wav"), "generate audio caption")
    assert dialogue.turns[1].text == "a dog barks"
    assert write_triple(dialogue, tmp_path) == row
    file = tmp_path / "x.jsonl"
    write_dialogues(file, [dialogue], writer=write_triple)
    assert Dialogues.open(file, reader=read_triple)[0] == dialogue
    assert len(PROMPTS) == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"audio": ""}, "must not be empty"),
        ({"prompt": " "}, "must not be empty"),
        ({"text": None}, "text is missing"),
        ({"text": 3}, "text must be text"),
    ],
)
def test_bad_triples_are_named(tmp_path, changes, words):
    row = {"audio": "a.wav", "prompt": "p", "text": "t"} | changes
    with pytest.raises(ManifestError, match=words):
        read_triple(row, tmp_path)


def test_what_a_triple_cannot_hold_is_refused(tmp_path):
    heard = Media(kind="audio", path=tmp_path / "a.wav", start_s=1.0)
    answer = DialogueTurn(role="assistant", parts=("yes",))
    for parts, words in (
        ((heard, "what?"), "whole files"),
        (("what?",), "one recording"),
        ((replace(heard, kind="image"), "what?"), "one recording"),
    ):
        dialogue = Dialogue(id="1", turns=(DialogueTurn(role="user", parts=parts), answer))
        with pytest.raises(ManifestError, match=words):
            write_triple(dialogue, tmp_path)


def test_triples_and_dialogues_are_trained_on_alike(tmp_path):
    recording(tmp_path / "a.wav", 0.4)
    recording(tmp_path / "bb.wav", 2.0)
    rows = [
        {"audio": "a.wav", "prompt": "what?", "text": "abc"},
        {"audio": "bb.wav", "prompt": "where?", "text": "de"},
        {"audio": "bb.wav", "prompt": "a prompt that is far too long to fit", "text": "x"},
        {"audio": "a.wav", "prompt": "why?", "text": "an answer of many more ids than fit"},
    ]
    triples(tmp_path, rows)
    first = task(tmp_path, records="triples")
    assert first.numbers.tolist() == [0, 1]
    batch = first.batch(0, 0, 1)
    assert batch.audio.shape == (2, 8000)
    assert "2 of 4 examples fit" in first.describe(batch)
    dialogues = [read_triple(row, tmp_path) for row in rows]
    for split in ("train", "valid"):
        write_dialogues(tmp_path / f"{split}.jsonl", dialogues)
    again = task(tmp_path, records="dialogues").batch(0, 0, 1)
    for name, value in vars(batch).items():
        assert torch.equal(value, getattr(again, name)), name


def test_a_stretch_of_a_dialogues_recording_is_what_is_heard(tmp_path):
    recording(tmp_path / "a.wav", 1.0)
    heard = Media(kind="audio", path=tmp_path / "a.wav", start_s=0.25, end_s=0.5)
    asked = DialogueTurn(role="user", parts=(heard, "what?"))
    for split in ("train", "valid"):
        answer = DialogueTurn(role="assistant", parts=("ab",))
        write_dialogues(tmp_path / f"{split}.jsonl", [Dialogue(id="1", turns=(asked, answer))])
    made = task(tmp_path, records="dialogues")
    assert made.train_examples[0].read().num_samples == 2000


def test_data_without_anything_to_learn_is_refused(tmp_path):
    turns = (DialogueTurn(role="user", parts=("hi",)), DialogueTurn(role="assistant", parts=("ho",)))
    for split in ("train", "valid"):
        write_dialogues(tmp_path / f"{split}.jsonl", [Dialogue(id="1", turns=turns)])
    with pytest.raises(ManifestError, match=r"nothing to learn from as task.records"):
        task(tmp_path, records="dialogues")


def test_the_loss_falls_on_four_pairs(tmp_path):
    for number in range(4):
        recording(tmp_path / f"{'x' * (number + 1)}.wav", 0.3)
    rows = [{"audio": f"{'x' * (n + 1)}.wav", "prompt": "what?", "text": "abcd"[n] * 3} for n in range(4)]
    triples(tmp_path, rows)
    torch.manual_seed(0)
    made = task(tmp_path, records="triples", batch_items=4)
    with torch.no_grad():
        made.model.lm.transformer.wte.weight.mul_(20)  # a random table says too little to tell ids apart
    optimizer = torch.optim.Adam([p for p in made.model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step in range(25):
        ((_, loss),) = made.losses(made.batch(step, 0, 1), step)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        losses.append(float(loss.value.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_a_language_model_is_borrowed_and_fitted(bench, tmp_path):
    lm = bench.trained("lm")
    config = SYSTEM.preset("tiny")
    config = replace(
        config,
        task=replace(config.task, lm=str(lm), max_answer=12),
        loop=replace(config.loop, steps=2, save_every=2, evaluate_every=2),
    )
    run = tmp_path / "run"
    request = RunRequest(system="pengi", config=config, data=bench.recordings, output=run, seed=0, device="cpu")
    train(request, say=lambda text: None)
    folder = checkpoint.resolve(run)
    own = checkpoint.load_tensors(folder / "model.safetensors")
    assert not any(name.startswith("lm.") for name in own)
    base = checkpoint.load_state(lm)
    whole = checkpoint.load_state(folder)
    assert torch.equal(whole["lm.model.norm.weight"], base["network.model.norm.weight"])
    role = hub.load(run)
    assert role.model.config.lm.family == "llama"
    assert role.answer(bench.test_clips()[0], "what?").heard_s > 0
    wider = hub.find("lm").preset("tiny").model
    wider = replace(wider, network=replace(wider.network, ffn_width=24))
    checkpoint.save(tmp_path / "lm", system="lm", config=wider, state=hub.find("lm").build(wider).state_dict())
    other = replace(config, task=replace(config.task, lm=str(tmp_path / "lm")))
    with pytest.raises(FittedPartMismatch, match="to the same language model"):
        train(replace(request, config=other, start=run, output=tmp_path / "no"), say=lambda text: None)
    other = replace(config, task=replace(config.task, lm=str(run)))
    with pytest.raises(CheckpointError, match="a language model of text"):
        train(replace(request, config=other, output=tmp_path / "no"), say=lambda text: None)


def official_shapes(*, towered):
    """Every tensor of the authors' file, by the paper's sizes."""
    shapes = {}

    def linear(name, out, width, bias=True):
        shapes[f"{name}.weight"] = (out, width)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def norm(name, width):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    ears = "audio_encoder.base.htsat."
    for part in ("conv_real", "conv_imag"):
        shapes[f"{ears}spectrogram_extractor.stft.{part}.weight"] = (513, 1, 1024)
    shapes[f"{ears}logmel_extractor.melW"] = (513, 64)
    norm(f"{ears}bn0", 64)
    shapes |= {f"{ears}bn0.running_mean": (64,), f"{ears}bn0.running_var": (64,), f"{ears}bn0.num_batches_tracked": ()}
    shapes |= {f"{ears}patch_embed.proj.weight": (96, 1, 4, 4), f"{ears}patch_embed.proj.bias": (96,)}
    norm(f"{ears}patch_embed.norm", 96)
    for stage, (depth, heads) in enumerate(zip((2, 2, 6, 2), (4, 8, 16, 32), strict=True)):
        width, windows = 96 << stage, (64 >> stage) // 8
        for block in range(depth):
            here = f"{ears}layers.{stage}.blocks.{block}."
            norm(f"{here}norm1", width)
            norm(f"{here}norm2", width)
            shapes[f"{here}attn.relative_position_bias_table"] = (225, heads)
            shapes[f"{here}attn.relative_position_index"] = (64, 64)
            if block % 2 and windows > 1:
                shapes[f"{here}attn_mask"] = (windows**2, 64, 64)
            linear(f"{here}attn.qkv", 3 * width, width)
            linear(f"{here}attn.proj", width, width)
            linear(f"{here}mlp.fc1", 4 * width, width)
            linear(f"{here}mlp.fc2", width, 4 * width)
        if stage < 3:
            linear(f"{ears}layers.{stage}.downsample.reduction", 2 * width, 4 * width, bias=False)
            norm(f"{ears}layers.{stage}.downsample.norm", 4 * width)
    norm(f"{ears}norm", 768)
    shapes |= {f"{ears}tscam_conv.weight": (527, 768, 2, 3), f"{ears}tscam_conv.bias": (527,)}
    linear(f"{ears}head", 527, 527)
    for name, width in (("audio_encoder", 768), *((("caption_encoder", 512),) if towered else ())):
        linear(f"{name}.projection.linear1", 1024, width, bias=False)
        linear(f"{name}.projection.linear2", 1024, 1024, bias=False)
        norm(f"{name}.projection.layer_norm", 1024)
    if towered:
        tower = "caption_encoder.base."
        shapes[f"{tower}embeddings.position_ids"] = (1, 77)
        shapes[f"{tower}embeddings.token_embedding.weight"] = (49_408, 512)
        shapes[f"{tower}embeddings.position_embedding.weight"] = (77, 512)
        for layer in range(12):
            here = f"{tower}encoder.layers.{layer}."
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                linear(f"{here}self_attn.{part}", 512, 512)
            norm(f"{here}layer_norm1", 512)
            norm(f"{here}layer_norm2", 512)
            linear(f"{here}mlp.fc1", 2048, 512)
            linear(f"{here}mlp.fc2", 512, 2048)
        norm(f"{tower}final_layer_norm", 512)
        linear("caption_encoder.clip_text_projection", 512, 512, bias=False)
    gpt = "caption_decoder.gpt."
    shapes |= {f"{gpt}transformer.wte.weight": (50_257, 768), f"{gpt}transformer.wpe.weight": (1024, 768)}
    shapes[f"{gpt}lm_head.weight"] = (50_257, 768)
    for layer in range(12):
        here = f"{gpt}transformer.h.{layer}."
        shapes |= {f"{here}attn.bias": (1, 1, 1024, 1024), f"{here}attn.masked_bias": ()}
        norm(f"{here}ln_1", 768)
        norm(f"{here}ln_2", 768)
        for part, (rows, columns) in {
            "attn.c_attn": (768, 2304),
            "attn.c_proj": (768, 768),
            "mlp.c_fc": (768, 3072),
            "mlp.c_proj": (3072, 768),
        }.items():
            shapes |= {f"{here}{part}.weight": (rows, columns), f"{here}{part}.bias": (columns,)}
    norm(f"{gpt}transformer.ln_f", 768)
    for kind in ("audio", "text"):
        here = f"caption_decoder.{kind}_project."
        shapes[f"{here}prefix_const"] = (40, 768)
        if kind == "audio" or towered:
            linear(f"{here}linear", 40 * 768, 1024)
        for layer in range(4):
            block = f"{here}transformer.layers.{layer}."
            norm(f"{block}norm1", 768)
            norm(f"{block}norm2", 768)
            linear(f"{block}attn.to_queries", 768, 768, bias=False)
            linear(f"{block}attn.to_keys_values", 1536, 768, bias=False)
            linear(f"{block}attn.project", 768, 768)
            linear(f"{block}mlp.fc1", 1536, 768)
            linear(f"{block}mlp.fc2", 768, 1536)
    return shapes


def empty(shapes):
    return {
        name: torch.zeros((), dtype=torch.long if "num_batches" in name else torch.float32).expand(shape)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("towered", [True, False])
def test_a_full_published_checkpoint_fills_everything_and_goes_back(towered):
    shapes = official_shapes(towered=towered)
    state = empty(shapes)
    config = convert.published_config(state)
    assert (config.text is not None) == towered
    coverage = convert.convert_state(config, {f"module.{name}": value for name, value in state.items()}, "base.pth")
    assert coverage.is_complete
    derived = {name.removeprefix("module.") for name in coverage.ignored}
    assert all(any(word in name for word in DERIVED) for name in derived)
    back = export(coverage.state, convert.OFFICIAL)
    assert {name: tuple(value.shape) for name, value in back.items()} == {
        name: shape for name, shape in shapes.items() if name not in derived
    }


DERIVED = ("_extractor.", "attn_mask", "relative_position_index", "lm_head", "attn.bias", "masked_bias", "position_ids")


def test_what_does_not_fit_is_named():
    state = empty(official_shapes(towered=True))
    gone = state.pop("caption_decoder.audio_project.prefix_const")
    with pytest.raises(CheckpointError, match=r"missing: audio_mapper\.constants"):
        convert.convert_state(PengiConfig(), state, "x")
    state |= {"caption_decoder.audio_project.prefix_const": gone, "optimizer.step": gone}
    with pytest.raises(CheckpointError, match=r"left over: optimizer\.step"):
        convert.convert_state(PengiConfig(), state, "x")


def test_a_checkpoint_goes_out_and_comes_back(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = Pengi(TINY.model)
    checkpoint.save(tmp_path / "ours", system="pengi", config=TINY.model, state=model.state_dict())
    convert.export_checkpoint(tmp_path / "ours", tmp_path / "base.pth")
    byte_tokenizer().save_pretrained(tmp_path / "words")
    monkeypatch.setattr(convert, "published_config", lambda state: TINY.model)
    with pytest.raises(CheckpointError, match="give gpt2=FOLDER"):
        convert.import_checkpoint(tmp_path / "base.pth", tmp_path / "no")
    words = tmp_path / "words"
    assert convert.import_checkpoint(tmp_path / "base.pth", tmp_path / "back", gpt2=words, clip=words).is_complete
    role = hub.load(tmp_path / "back")
    for name, value in model.state_dict().items():
        assert torch.equal(value, role.model.state_dict()[name]), name
    assert role.answer(AudioClip(np.zeros((1, 800), np.float32), 8000), "what?", max_new=2).text is not None
    big = replace(TINY.model, lm=replace(TINY.model.lm, vocabulary_size=100))
    monkeypatch.setattr(convert, "published_config", lambda state: big)
    with pytest.raises(CheckpointError):
        convert.import_checkpoint(tmp_path / "base.pth", tmp_path / "no", gpt2=words, clip=words)


def test_the_table_has_no_rule_that_nothing_needs():
    assert isinstance(convert.HTSAT, RenameTable)
    with torch.device("meta"):
        own = set(Pengi(PengiConfig()).state_dict())
    assert all(convert.OFFICIAL.to_foreign(name) for name in own)


def test_files_of_others_are_refused(tmp_path):
    torch.save([1], tmp_path / "a.pth")
    with pytest.raises(CheckpointError):
        convert.import_checkpoint(tmp_path / "a.pth", tmp_path / "no")
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="left over: x"):
        convert.import_checkpoint(tmp_path / "b.pth", tmp_path / "no")
    (tmp_path / "c").mkdir()
    checkpoint.save(tmp_path / "c" / "d", system="ctc", config=TINY.model, state={})
    with pytest.raises(CheckpointError, match="one of pengi is wanted"):
        convert.export_checkpoint(tmp_path / "c" / "d", tmp_path / "e.pth")
    assert not Path(tmp_path / "no").exists()
