import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from voder import checkpoint, hub
from voder.audio.io import AudioClip, write_audio
from voder.data.dialogue import (
    Codes,
    Dialogue,
    Dialogues,
    DialogueTurn,
    Media,
    read_record,
    write_dialogues,
    write_record,
)
from voder.errors import CheckpointError, ConfigError, FittedPartMismatch, ManifestError
from voder.image import write_image
from voder.systems.nextgpt import SYSTEM, convert
from voder.systems.nextgpt.config import ImageBindConfig, NextGptConfig
from voder.systems.nextgpt.formats import read_legacy, read_new, write_legacy, write_new
from voder.systems.nextgpt.model import NextGpt
from voder.systems.nextgpt.train import NextGptTask
from voder.systems.nextgpt.vocabulary import fill_rows
from voder.systems.pengi.formats import read_triple, write_triple
from voder.train.run import RunRequest, train

TINY = SYSTEM.preset("tiny")


def media(folder):
    rng = np.random.default_rng(0)
    write_audio(folder / "a.wav", AudioClip((rng.standard_normal((1, 4000)) * 0.1).astype(np.float32), 8000))
    write_image(folder / "b.png", rng.integers(0, 255, (9, 12, 3)).astype(np.uint8))
    np.save(folder / "a.npy", np.ones((1, 8), np.float32))
    np.save(folder / "b.npy", np.ones((3, 4), np.float32))


def written(folder, rows):
    for split in ("train", "valid"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def task(folder, model=TINY.model, **changes):
    settings = {"targets": "files", "train_encoder": False, "max_ids": 120} | changes
    return NextGptTask(NextGpt(model), replace(TINY.task, **settings), folder, seed=0)


CAPTION = {"id": "1", "audio_name": "a.wav", "caption": "a dog"}
OLD = {
    "id": "2",
    "conversation": [
        {"from": "human", "value": "what is this?", "input_modality": "image", "mm_name": "b.png"},
        {"from": "gpt", "value": "a dog", "output_modality": "text"},
        {"from": "human", "value": "let me hear it", "input_modality": "text"},
        {"from": "gpt", "value": "here", "output_modality": "audio", "mm_name": "a.wav", "caption": "a dog barks"},
    ],
}
NEW_IN = {
    "id": "3",
    "input_audio": "a.wav",
    "conversations": [{"from": "human", "value": "<audio>\nwhat?"}, {"from": "gpt", "value": "a dog"}],
}
NEW_OUT = {
    "id": "4",
    "output_audio": "a.wav",
    "audio_captions": "a dog barks",
    "audio_caption_embeddings": "a.npy",
    "conversations": [{"from": "human", "value": "let me hear it"}, {"from": "gpt", "value": "here <audio>"}],
}


@pytest.mark.parametrize("row", [CAPTION, OLD])
def test_old_records_are_read_and_written(tmp_path, row):
    dialogue = read_legacy(row, tmp_path)
    assert write_legacy(dialogue, tmp_path) == row
    file = tmp_path / "x.json"
    write_dialogues(file, [dialogue], writer=write_legacy)
    assert Dialogues.open(file, reader=read_legacy)[0] == dialogue


@pytest.mark.parametrize("row", [NEW_IN, NEW_OUT])
def test_new_records_are_read_and_written(tmp_path, row):
    dialogue = read_new(row, tmp_path)
    assert write_new(dialogue, tmp_path) == row
    file = tmp_path / "x.jsonl"
    write_dialogues(file, [dialogue], writer=write_new)
    assert Dialogues.open(file, reader=read_new)[0] == dialogue


def test_a_dialogue_goes_from_the_old_line_to_the_new(tmp_path):
    dialogue = read_legacy(OLD, tmp_path)
    made = write_new(dialogue, tmp_path)
    assert made["input_image"] == "b.png"
    assert made["output_audio"] == "a.wav"
    assert read_new(made, tmp_path).turns == dialogue.turns


def test_triples_of_pengi_and_both_lines_are_one_record(tmp_path):
    triple = {"id": "1", "audio": "a.wav", "prompt": "what is it?", "text": "a dog"}
    dialogue = read_triple(triple, tmp_path)
    for write, read in ((write_legacy, read_legacy), (write_new, read_new), (write_record, read_record)):
        again = read(write(dialogue, tmp_path), tmp_path)
        assert again.turns == dialogue.turns
        assert write_triple(again, tmp_path) == triple


def test_several_media_of_a_kind_are_taken_in_order(tmp_path):
    row = {
        "input_audio": ["x.wav", "y.wav"],
        "conversations": [{"from": "human", "value": "<audio> and <audio>, alike?"}, {"from": "gpt", "value": "no"}],
    }
    parts = read_new(row, tmp_path).turns[0].parts
    assert [part.path.name if isinstance(part, Media) else part for part in parts] == [
        "x.wav",
        "and",
        "y.wav",
        ", alike?",
    ]


@pytest.mark.parametrize(
    ("reader", "row", "words"),
    [
        (read_legacy, {"caption": "x"}, "needs a conversation, or a caption"),
        (read_legacy, {"audio_name": "a", "image_name": "b", "caption": "x"}, "needs a conversation, or a caption"),
        (read_legacy, {"audio_name": "", "caption": "x"}, "must not be empty"),
        (read_legacy, {"conversation": []}, "must be a list of turns"),
        (read_legacy, {"conversation": [{"from": "me", "value": "x"}]}, "turn 1 is from 'me'"),
        (
            read_legacy,
            {"conversation": [{"from": "gpt", "value": "x", "output_modality": "smell"}]},
            "modality 'smell'",
        ),
        (read_legacy, {"conversation": [{"from": "human", "value": "x", "input_modality": "audio"}]}, "no mm_name"),
        (read_new, {}, "conversations are missing"),
        (read_new, {"conversations": [{"from": "human", "value": "<audio>"}]}, "no file is named for it"),
        (read_new, {"input_audio": "a", "conversations": [{"from": "human", "value": "x"}]}, "stands in no turn"),
        (read_new, {"input_audio": 3, "conversations": [{"from": "human", "value": "x"}]}, "must be text"),
    ],
)
def test_bad_records_are_named(tmp_path, reader, row, words):
    with pytest.raises(ManifestError, match=words):
        reader(row, tmp_path)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Codes(modality="speech", codes=(1,)), "codes have no place"),
        ("look at <audio> here", "mark the places of media"),
    ],
)
def test_what_the_new_line_cannot_hold_is_refused(tmp_path, part, words):
    turns = (DialogueTurn(role="user", parts=(part,)), DialogueTurn(role="assistant", parts=("a",)))
    with pytest.raises(ManifestError, match=words):
        write_new(Dialogue(id="1", turns=turns), tmp_path)


def test_what_the_old_line_cannot_hold_is_refused(tmp_path):
    medium = Media(kind="audio", path=tmp_path / "a.wav")
    answer = DialogueTurn(role="assistant", parts=("a",))
    for parts, words in (
        ((medium, medium, "x"), "at most one medium"),
        ((replace(medium, start_s=1.0), "x"), "whole files"),
        ((replace(medium, embedding=tmp_path / "a.npy"), "x"), "vectors lie elsewhere"),
    ):
        with pytest.raises(ManifestError, match=words):
            write_legacy(Dialogue(id="1", turns=(DialogueTurn(role="user", parts=parts), answer)), tmp_path)
    system = DialogueTurn(role="system", parts=("be kind",))
    with pytest.raises(ManifestError, match="system's turn"):
        write_legacy(Dialogue(id="1", turns=(system, answer)), tmp_path)


def test_stages_take_from_records_what_they_need(tmp_path):
    media(tmp_path)
    written(tmp_path, [CAPTION, OLD])
    first = task(tmp_path, stage="encoder_alignment", records="legacy")
    batch = first.batch(0, 0, 1)
    assert (len(batch.sounds), len(batch.pictures)) == (1, 1)
    assert not any(len(getattr(batch, f"{kind}_targets")) for kind in ("image", "video", "audio"))
    assert "2 of 2 examples fit" in first.describe(batch)
    (loss,) = [loss for _, loss in first.losses(batch, 0)]
    loss.value.backward()
    assert first.model.input_projector.weight.grad.ne(0).any()


def test_captions_vectors_come_from_files(tmp_path):
    media(tmp_path)
    image = {
        **NEW_OUT,
        "id": "5",
        "output_image": "b.png",
        "image_captions": "a dog",
        "image_caption_embeddings": "b.npy",
    }
    image = {key: value for key, value in image.items() if "audio" not in key}
    image["conversations"] = [{"from": "human", "value": "show it"}, {"from": "gpt", "value": "here <image>"}]
    written(tmp_path, [NEW_OUT, image])
    made = task(tmp_path, stage="decoder_alignment", records="new")
    batch = made.batch(0, 0, 1)
    assert (batch.audio_targets.shape, batch.image_targets.shape) == ((1, 1, 8), (1, 3, 4))
    assert len(batch.sounds) == len(batch.pictures) == 0
    value, logs = made._loss(batch)
    assert set(logs) == {"said", "image", "audio"}
    torch.testing.assert_close(value.detach(), logs["said"] + logs["image"] + logs["audio"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "names no file"),
        (np.ones((2, 8)), r"\[2, 8\]; 1 x 8"),
        (np.full((1, 8), np.nan), "1 x 8"),
        ("x", "no readable"),
    ],
)
def test_missing_and_wrong_vectors_are_named(tmp_path, content, words):
    media(tmp_path)
    row = dict(NEW_OUT)
    if content is None:
        del row["audio_caption_embeddings"]
    elif isinstance(content, str):
        (tmp_path / "a.npy").write_text(content)
    else:
        np.save(tmp_path / "a.npy", content)
    written(tmp_path, [row])
    made = task(tmp_path, stage="decoder_alignment", records="new")
    with pytest.raises(ManifestError, match=words):
        made.batch(0, 0, 1)


def test_conversations_that_cannot_be_used_are_left_out_and_counted(tmp_path):
    media(tmp_path)
    video = {"id": "9", "video_name": "v.mp4", "caption": "a dog"}
    written(tmp_path, [CAPTION, video, {**CAPTION, "id": "8", "caption": "x" * 500}])
    made = task(tmp_path, stage="encoder_alignment", records="legacy")
    assert made.numbers.tolist() == [0]
    written(tmp_path, [video])
    with pytest.raises(ManifestError, match="none of the 1 examples"):
        task(tmp_path, stage="encoder_alignment", records="legacy")
    text = {"id": "7", "conversation": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    written(tmp_path, [text])
    with pytest.raises(ManifestError, match="nothing for encoder_alignment"):
        task(tmp_path, stage="encoder_alignment", records="legacy")
    assert len(task(tmp_path, stage="instruction", records="legacy").numbers) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stage": "decoder_alignment", "train_encoder": True, "targets": "encoder"}, "no part in decoder_alignment"),
        (
            {"stage": "instruction", "targets": "encoder", "audio": replace(TINY.model.audio, width=6)},
            "one vector of 8",
        ),
    ],
)
def test_settings_that_cannot_act_are_refused(bench, changes, words):
    model = replace(TINY.model, audio=changes.pop("audio", TINY.model.audio))
    with pytest.raises(ConfigError, match=words):
        task(bench.recordings, model, **changes)


@pytest.mark.parametrize("stage", ["encoder_alignment", "decoder_alignment", "instruction"])
def test_each_stage_trains_on_recordings_one_after_another(bench, tmp_path, stage):
    heard = stage != "decoder_alignment"
    config = replace(
        TINY_RUN,
        task=replace(TINY_RUN.task, stage=stage, train_encoder=heard, batch_items=8),
        loop=replace(TINY_RUN.loop, steps=4, save_every=4, evaluate_every=4),
    )
    start = checkpoint.resolve(bench.trained("nextgpt"))
    run = tmp_path / stage
    request = RunRequest(
        system="nextgpt", config=config, data=bench.recordings, output=run, seed=0, device="cpu", start=start
    )
    train(request, say=lambda text: None)
    before, after = checkpoint.load_state(start), checkpoint.load_state(checkpoint.resolve(run))
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    heads = {name.split(".")[0] for name in moved}
    assert (
        heads
        == {
            "encoder_alignment": {"encoder", "input_projector"},
            "decoder_alignment": {"output_projectors", "lm"},
            "instruction": {"encoder", "input_projector", "output_projectors", "lm"},
        }[stage]
    )


TINY_RUN = SYSTEM.preset("tiny")


def test_a_language_model_is_borrowed_and_fitted(bench, tmp_path):
    lm = bench.trained("lm")
    config = SYSTEM.preset("tiny")
    config = replace(
        config,
        model=replace(config.model, line="new"),
        task=replace(config.task, lm=str(lm), max_ids=300),
        loop=replace(config.loop, steps=2, save_every=2, evaluate_every=2),
    )
    run = tmp_path / "run"
    request = RunRequest(system="nextgpt", config=config, data=bench.recordings, output=run, seed=0, device="cpu")
    train(request, say=lambda text: None)
    folder = checkpoint.resolve(run)
    own = checkpoint.load_tensors(folder / "model.safetensors")
    inside = {name for name in own if name.startswith("lm.")}
    assert inside
    assert all(".lora_" in name or name.endswith(".rows") for name in inside)
    base, whole = checkpoint.load_state(lm), checkpoint.load_state(folder)
    table = "lm.base_model.model.model.embed_tokens.base.weight"
    assert torch.equal(whole[table], base["network.model.embed_tokens.weight"])
    assert torch.equal(whole["lm.base_model.model.lm_head.base.weight"], whole[table])  # its head is tied
    assert hub.load(run).gives == ("text", "audio", "image")
    wider = hub.find("lm").preset("tiny").model
    wider = replace(wider, network=replace(wider.network, ffn_width=24))
    checkpoint.save(tmp_path / "lm", system="lm", config=wider, state=hub.find("lm").build(wider).state_dict())
    other = replace(config, task=replace(config.task, lm=str(tmp_path / "lm")))
    with pytest.raises(FittedPartMismatch, match="to the same language model"):
        train(replace(request, config=other, start=run, output=tmp_path / "no"), say=lambda text: None)
    other = replace(config, task=replace(config.task, lm=str(run)))
    with pytest.raises(CheckpointError, match="a language model of text"):
        train(replace(request, config=other, output=tmp_path / "no"), say=lambda text: None)


def zeros(shapes, dtype=torch.float16):
    return {name: torch.zeros((), dtype=dtype).expand(shape) for name, shape in shapes.items()}


def trained_shapes():
    """Every tensor of the authors' pytorch_model.pt, by the paper's sizes."""
    shapes = {
        "llama_model.model.embed_tokens.weight": (32_038, 4096),
        "llama_model.lm_head.weight": (32_038, 4096),
        "llama_proj.weight": (4096, 1024),
        "llama_proj.bias": (4096,),
    }
    for layer in range(32):
        for part in "qkvo":
            here = f"llama_model.base_model.model.model.layers.{layer}.self_attn.{part}_proj.lora_"
            shapes |= {f"{here}A.default.weight": (32, 4096), f"{here}B.default.weight": (4096, 32)}
    for suffix, vectors, width in (("", 77, 768), ("_video", 77, 1024), ("_audio", 1, 512)):
        here = f"gen_text_hidden_fcs{suffix}.0."
        shapes |= {f"{here}query_embs": (1, vectors, 512), f"{here}fc.weight": (512, 4096), f"{here}fc.bias": (512,)}
        shapes |= {f"{here}model.weight": (width, 512), f"{here}model.bias": (width,)}
        for side, norms in (("encoder", 2), ("decoder", 3)):
            norm = {f"{here}tfm.{side}.norm.weight": (512,), f"{here}tfm.{side}.norm.bias": (512,)}
            shapes |= norm
            for layer in range(4):
                block = f"{here}tfm.{side}.layers.{layer}."
                for attention in ("self_attn", "multihead_attn")[: norms - 1]:
                    shapes |= {
                        f"{block}{attention}.in_proj_weight": (1536, 512),
                        f"{block}{attention}.in_proj_bias": (1536,),
                        f"{block}{attention}.out_proj.weight": (512, 512),
                        f"{block}{attention}.out_proj.bias": (512,),
                    }
                shapes |= {f"{block}linear1.weight": (2048, 512), f"{block}linear1.bias": (2048,)}
                shapes |= {f"{block}linear2.weight": (512, 2048), f"{block}linear2.bias": (512,)}
                for number in range(1, norms + 1):
                    shapes |= {f"{block}norm{number}.weight": (512,), f"{block}norm{number}.bias": (512,)}
    return shapes


def test_the_full_trained_file_fills_everything_and_goes_back():
    shapes = trained_shapes()
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == pytest.approx(396.05e6, rel=1e-4)
    coverage = convert.convert_state(NextGptConfig(), zeros(shapes), "pytorch_model.pt")
    assert coverage.is_complete
    assert not coverage.ignored
    with torch.device("meta"):
        model = NextGpt(NextGptConfig())
        back = convert.official_state(model)
    assert {name: tuple(value.shape) for name, value in back.items()} == shapes
    assert {value.dtype for value in back.values()} == {torch.float16}
    frozen = convert.frozen_names(model)
    assert set(coverage.state) | set(frozen) == {n for n in model.state_dict() if not n.startswith("encoder.")}
    assert frozen["lm.base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"] == (
        "model.layers.0.self_attn.q_proj.weight"
    )


def test_tables_are_found_under_both_names_and_never_twice():
    state = convert.official_state(NextGpt(TINY.model))
    table = "llama_model.model.embed_tokens.weight"
    prefixed = "llama_model.base_model.model.model.embed_tokens.weight"
    both = state | {prefixed: state[table]}
    with pytest.raises(CheckpointError, match="the same table"):
        convert.convert_state(TINY.model, both, "x")
    del both[table]
    assert convert.convert_state(TINY.model, both, "x").is_complete


def test_what_a_file_lacks_or_has_too_much_is_named():
    state = convert.official_state(NextGpt(TINY.model))
    less = {name: value for name, value in state.items() if name != "gen_text_hidden_fcs_audio.0.query_embs"}
    with pytest.raises(CheckpointError, match=r"missing: output_projectors\.audio\.queries"):
        convert.convert_state(TINY.model, less, "x")
    with pytest.raises(CheckpointError, match=r"left over: group_vit\.x"):
        convert.convert_state(TINY.model, state | {"group_vit.x": torch.zeros(1)}, "x")
    other = state | {"llama_model.lm_head.weight": torch.zeros(261, 16)}
    with pytest.raises(CheckpointError, match="261 rows; 268 are wanted, 261 of the language model and 7 of marks"):
        convert.convert_state(TINY.model, other, "x")


def imagebind_shapes():
    """Every tensor of imagebind_huge.pth that NExT-GPT needs, and some of the other modalities."""
    shapes = {
        "modality_preprocessors.audio.rgbt_stem.proj.weight": (768, 1, 16, 16),
        "modality_preprocessors.audio.rgbt_stem.norm_layer.weight": (768,),
        "modality_preprocessors.audio.rgbt_stem.norm_layer.bias": (768,),
        "modality_preprocessors.vision.rgbt_stem.proj.1.weight": (1280, 3, 2, 14, 14),
        "modality_trunks.vision.pre_transformer_layer.0.weight": (1280,),
        "modality_trunks.vision.pre_transformer_layer.0.bias": (1280,),
        "modality_postprocessors.audio.1.log_logit_scale": (),
        "modality_trunks.text.blocks.0.attn.in_proj_weight": (3072, 1024),
        "modality_preprocessors.imu.cls_token": (1, 1, 512),
    }
    for kind, width, layers, patches in (("audio", 768, 12, 228), ("vision", 1280, 32, 256)):
        shapes[f"modality_preprocessors.{kind}.cls_token"] = (1, 1, width)
        shapes[f"modality_preprocessors.{kind}.pos_embedding_helper.pos_embed"] = (1, patches + 1, width)
        shapes |= {f"modality_heads.{kind}.0.weight": (width,), f"modality_heads.{kind}.0.bias": (width,)}
        shapes[f"modality_heads.{kind}.2.weight"] = (1024, width)
        for layer in range(layers):
            here = f"modality_trunks.{kind}.blocks.{layer}."
            extra = {f"{here}attn.bias_k": (1, 1, width), f"{here}attn.bias_v": (1, 1, width)}
            shapes |= extra if kind == "audio" else {}
            shapes |= {f"{here}attn.in_proj_weight": (3 * width, width), f"{here}attn.in_proj_bias": (3 * width,)}
            shapes |= {f"{here}attn.out_proj.weight": (width, width), f"{here}attn.out_proj.bias": (width,)}
            for norm in ("norm_1", "norm_2"):
                shapes |= {f"{here}{norm}.weight": (width,), f"{here}{norm}.bias": (width,)}
            shapes |= {f"{here}mlp.fc1.weight": (4 * width, width), f"{here}mlp.fc1.bias": (4 * width,)}
            shapes |= {f"{here}mlp.fc2.weight": (width, 4 * width), f"{here}mlp.fc2.bias": (width,)}
    return shapes


def test_the_full_imagebind_fills_everything_and_goes_back():
    from voder.interop import export

    shapes = imagebind_shapes()
    coverage = convert.convert_imagebind(ImageBindConfig(), zeros(shapes, torch.float32), "imagebind_huge.pth")
    assert len(coverage.ignored) == 2
    back = export(coverage.state, convert.IMAGEBIND)
    assert {name: tuple(value.shape) for name, value in back.items()} == {
        name: shape for name, shape in shapes.items() if name not in coverage.ignored
    }


def filled(config):
    torch.manual_seed(0)
    model = NextGpt(config).eval()
    fill_rows(model, torch.Generator().manual_seed(0))
    for name, value in model.state_dict().items():
        if ".lora_B." in name:
            value.normal_(std=0.1)
    return model


def test_the_authors_file_comes_in_over_its_parts(bench, tmp_path, monkeypatch):
    lm = bench.trained("lm")
    sizes = checkpoint.read(lm).config["network"]
    model = filled(replace(TINY.model, lm=replace(TINY.model.lm, **{k: v for k, v in sizes.items() if k != "pad_id"})))
    torch.save(convert.official_state(model), tmp_path / "pytorch_model.pt")
    from voder.interop import export

    torch.save(export(model.encoder.state_dict(), convert.IMAGEBIND), tmp_path / "imagebind.pth")
    monkeypatch.setattr(convert, "NextGptConfig", lambda **known: replace(TINY.model, **known))
    with pytest.raises(CheckpointError, match="give lm=FOLDER"):
        convert.import_checkpoint(tmp_path / "pytorch_model.pt", tmp_path / "no")
    coverage = convert.import_checkpoint(
        tmp_path / "pytorch_model.pt", tmp_path / "ours", lm=lm, imagebind=tmp_path / "imagebind.pth"
    )
    assert coverage.is_complete
    monkeypatch.undo()
    role = hub.load(tmp_path / "ours")
    state, wanted = role.model.state_dict(), model.state_dict()
    table = "lm.base_model.model.model.embed_tokens."
    for name in (f"{table}rows", f"{table}base.weight", "input_projector.weight", "encoder.audio.trunk.positions"):
        torch.testing.assert_close(state[name], wanted[name], atol=1e-3, rtol=1e-3)
    base = checkpoint.load_state(lm)
    assert torch.equal(state["lm.base_model.model.model.norm.weight"], base["network.model.norm.weight"])


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "qwen2"])
def test_the_language_model_goes_out_as_transformers_loads_it(tmp_path, family):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lm = replace(TINY.model.lm, family=family, tie_embeddings=family in ("gpt2", "opt"))
    config = replace(TINY.model, lm=lm)
    model = filled(config)
    checkpoint.save(tmp_path / "ours", system="nextgpt", config=config, state=model.state_dict())
    left = convert.export_checkpoint(tmp_path / "ours", tmp_path / "plain", "huggingface")
    assert left == ["encoder.*", "input_projector.*", "output_projectors.*"]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    ids = torch.tensor([tokenizer("a [AUD0][AUD1][AUD2]", add_special_tokens=False)["input_ids"]])
    assert ids[0, -3:].tolist() == [265, 266, 267]
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, model.lm(input_ids=ids).logits, atol=1e-4, rtol=1e-4)


def test_layouts_that_a_model_does_not_have_are_refused(tmp_path):
    config = replace(TINY.model, line="new")
    checkpoint.save(tmp_path / "a", system="nextgpt", config=config, state=NextGpt(config).state_dict())
    with pytest.raises(CheckpointError, match="no such file exists"):
        convert.export_checkpoint(tmp_path / "a", tmp_path / "b.pt", "official")
    checkpoint.save(tmp_path / "c", system="ctc", config=config, state={})
    with pytest.raises(CheckpointError, match="one of nextgpt is wanted"):
        convert.export_checkpoint(tmp_path / "c", tmp_path / "b.pt", "official")
