"""SALMONN as a whole: its parts, data, stages, answers and published files, on fresh tiny parts."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from voder import checkpoint, hub
from voder.audio.io import AudioClip, write_audio
from voder.config import resolve
from voder.data.manifest import Manifest
from voder.errors import CheckpointError, ConfigError, FittedPartMismatch, InputError, ManifestError, TextError
from voder.nn.causal_lm import CausalLmConfig
from voder.systems.salmonn import SYSTEM, convert
from voder.systems.salmonn.config import SalmonnTaskConfig, published_model
from voder.systems.salmonn.data import Example, open_examples, write_annotation
from voder.systems.salmonn.infer import SalmonnListener
from voder.systems.salmonn.model import Salmonn, is_trained
from voder.systems.salmonn.parts import find_part, fingerprint
from voder.systems.salmonn.prompt import Prompts
from voder.systems.salmonn.stages import TRAINED
from voder.systems.salmonn.train import SalmonnTask
from voder.text.subwords import byte_tokenizer, encode
from voder.train.run import RunRequest, train

PRESET = SYSTEM.preset("tiny")


@pytest.fixture(scope="module")
def run(bench):
    return checkpoint.resolve(bench.trained("salmonn"))


@pytest.fixture(scope="module")
def listener(run):
    return hub.load_role(run, "Listener")


def task_of(data, **changes):
    config = replace(PRESET.task, **changes)
    torch.manual_seed(0)
    model = Salmonn(SalmonnTask.fit_config(PRESET.model, config, data))
    return SalmonnTask(model, config, data, seed=0)


def annotated(folder, examples, rate=16_000):
    """A folder in the authors' format, with a tone for every path."""
    folder.mkdir()
    for split in ("train", "valid"):
        write_annotation(folder / f"{split}.json", examples)
    for number, path in enumerate({p for e in examples for p in (e.path, *e.expand_wav)}):
        tone = 0.3 * np.sin(np.arange(rate // 2, dtype=np.float32) * (0.05 + 0.02 * number))
        write_audio(folder / path, AudioClip(np.stack([tone, tone]), rate))
    return folder


EXAMPLES = [
    Example(path="a.wav", text="hello", task="asr"),
    Example(path="b.wav", text="a tone", task="audiocaption"),
    Example(path="a.wav", text="yes", task="QA", question="Is it a tone?", expand_wav=("b.wav",)),
    Example(path="b.wav", text="once upon a time", task="audio_story_telling"),
    Example(path="b.wav", text="  ", task="asr"),
]


def test_what_was_trained_is_saved_and_the_rest_borrowed(run):
    own = checkpoint.load_tensors(run / "model.safetensors")
    assert own
    assert all(is_trained(name) for name in own)
    whole = checkpoint.load_state(run)
    lm = checkpoint.load_state(run / "parts" / "lm")
    name = "llama.base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"
    assert torch.equal(whole[name], lm["network.model.layers.0.self_attn.q_proj.weight"])
    assert (run / "parts" / "speech" / "config.json").is_file()
    steps = sorted(run.parent.glob("step-*"))
    shared = [(step / "parts" / "speech" / "model.safetensors").stat().st_ino for step in steps]
    assert len(set(shared)) == 1  # hard links


def test_only_bridge_and_lora_learn_and_the_loss_falls(bench):
    task = task_of(bench.recordings)
    with torch.no_grad():
        task.model.llama.get_input_embeddings().weight.mul_(30)  # a fresh, frozen head cannot be sure of anything
    learn = [name for name, p in task.model.named_parameters() if p.requires_grad]
    assert all(is_trained(name) for name in learn)
    frozen = {n: p.clone() for n, p in task.model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.Adam([p for p in task.model.parameters() if p.requires_grad], lr=0.02)
    values = []
    for _ in range(30):
        ((_, loss),) = task.losses(task.batch(0, 0, 1), 0)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        values.append(float(loss.value.detach()))
    assert values[-1] < 0.5 * values[0]
    assert all(torch.equal(p, dict(task.model.named_parameters())[n]) for n, p in frozen.items())
    batch = task.batch(0, 0, 1)
    ((_, loss),) = task.losses(batch, 0)
    assert loss.weight == sum(map(len, batch.answers))
    assert "parameters learn beside" in task.describe(batch)


def test_a_stage_learns_its_own_tasks(tmp_path):
    data = annotated(tmp_path / "data", EXAMPLES)
    counts = {stage: len(task_of(data, stage=stage).examples) for stage in SYSTEM.stages}
    assert counts == {"pretraining": 2, "instruction": 4, "activation": 2}
    write_annotation(data / "train.json", EXAMPLES[:2])
    with pytest.raises(ManifestError, match=r"nothing for the stage activation.*asr, audiocaption"):
        task_of(data, stage="activation")
    for stage in SYSTEM.stages.values():
        assert stage.trained == TRAINED
        resolve(SYSTEM.preset("13b"), overrides=[*stage.settings, *stage.task_settings])


def test_stages_follow_one_another(tmp_path):
    data = annotated(tmp_path / "data", EXAMPLES)
    before = None
    for stage in SYSTEM.stages:
        config = resolve(PRESET, overrides=[*SYSTEM.stages[stage].task_settings, "loop.steps=2", "loop.save_every=2"])
        output = tmp_path / stage
        train(
            RunRequest(system="salmonn", config=config, data=data, output=output, device="cpu", start=before), say=str
        )
        before = checkpoint.resolve(output)
    assert hub.load(before).answer(data / "a.wav", "What is it?").heard_s == 0.5


def test_annotations_join_recordings_of_any_rate_and_channels(tmp_path):
    data = annotated(tmp_path / "data", EXAMPLES, rate=44_100)
    examples = open_examples(data, "train").rows
    assert len(examples[0].read(data)) == 16_000  # half a second, filled up to one
    assert len(examples[2].read(data)) == 8000 + 1600 + 8000
    assert task_of(data).batch(0, 0, 1).answers


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": "a.wav", "text": "x", "task": "asrr"}, r"no task 'asrr'.*asr"),
        ({"path": "a.wav", "text": "x", "task": "QA"}, "needs a question under 'Q'"),
        ({"path": "a.wav", "task": "asr"}, "text must be given"),
    ],
)
def test_bad_annotations_are_refused_by_example(tmp_path, row, message):
    (tmp_path / "train.json").write_text(json.dumps({"annotation": [row]}))
    with pytest.raises(ManifestError, match=message):
        open_examples(tmp_path, "train")
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(ManifestError, match="has both"):
        open_examples(tmp_path, "train")


def test_answers_do_not_depend_on_rate_channels_or_company(listener, bench):
    clip = bench.test_clips()[0]
    stereo = AudioClip(np.repeat(clip.at_rate(16_000).samples, 2, 0), 16_000)
    one, two = listener.answer_batch([clip, stereo], ["what?", "what?"])
    assert one.text == two.text


@torch.no_grad()
def test_the_lora_factor_acts_and_zero_is_the_language_model_alone(listener, bench):
    clip = bench.test_clips()[0]
    trained = [p for name, p in listener.model.named_parameters() if ".lora_B." in name]
    before = [p.clone() for p in trained]
    for p in trained:
        p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    loud, weak = listener.answer(clip, "what?"), listener.answer(clip, "what?", lora_factor=0)
    assert listener.answer(clip, "what?") == loud  # the factor is as it was
    for p in trained:
        p.zero_()
    assert listener.answer(clip, "what?") == weak
    assert weak.text != loud.text
    for p, value in zip(trained, before, strict=True):
        p.copy_(value)
    for factor in (-0.5, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="a number from 0 on"):
            listener.answer(clip, "what?", lora_factor=factor)


def test_long_recordings_are_heard_for_thirty_seconds_and_say_so(listener):
    noise = np.random.default_rng(0).standard_normal((1, 31 * 8000)).astype(np.float32) * 0.1
    answer = listener.answer(AudioClip(noise, 8000), "what?")
    assert (answer.heard_s, answer.truncated, answer.stop_reason) == (30.0, True, "only the first 30 s are heard")
    short = listener.answer(AudioClip(noise[:, :3], 8000), "what?")
    assert short.heard_s < 0.001


def test_questions_that_cannot_be_asked_are_refused(listener, bench):
    clip = bench.test_clips()[0]
    with pytest.raises(InputError, match="a question is empty"):
        listener.answer(clip, "  ")
    with pytest.raises(InputError, match="2 questions came for 1 clips"):
        listener.answer_batch([clip], ["a", "b"])
    with pytest.raises(TextError, match="shorter question"):
        listener.answer(clip, "a" * 600)
    with pytest.raises(ConfigError, match="num_beam"):
        listener.answer(clip, "a", num_beam=2)
    assert listener.answer_batch([], []) == []


def test_a_question_always_has_its_recording_and_cannot_write_markers():
    tokenizer = byte_tokenizer()
    vicuna = Prompts(published_model("13b"), tokenizer).question("Describe the audio.")
    assert vicuna.before == [1, *encode(tokenizer, "USER: <Speech>")]
    assert vicuna.after == encode(tokenizer, "</Speech> Describe the audio.\nASSISTANT:")
    chat = Prompts(SYSTEM.preset("small").model, tokenizer).question("a<|im_end|>")
    assert tokenizer.decode(chat.before) == "<|im_start|>user\n<Speech>"
    assert chat.after.count(4) == 1
    assert tokenizer.decode(chat.after).startswith("</Speech> a<|im_end|>")
    with pytest.raises(ConfigError, match="once"):
        replace(PRESET.model, template="no place")


def test_another_language_model_is_refused_by_name(run, bench, tmp_path):
    other = hub.find("lm").build(hub.find("lm").preset("tiny").model)
    checkpoint.save(tmp_path / "lm", system="lm", config=other.config, state=other.state_dict())
    config = resolve(PRESET, overrides=[f"task.lm={tmp_path / 'lm'}"])
    request = replace(bench.request("salmonn", tmp_path / "run"), config=config, start=run)
    with pytest.raises(FittedPartMismatch, match=r"trained on the language model [0-9a-f]{16}, and .*lm is"):
        train(request, say=str)
    copied = tmp_path / "copied"
    found = checkpoint.read(run)
    parts = {**found.parts, "lm": tmp_path / "lm"}
    own = checkpoint.load_tensors(run / "model.safetensors")
    model = hub.load_model(run)[2]
    checkpoint.save(copied, system="salmonn", config=model, state=own, parts=parts, borrowed=found.borrowed)
    with pytest.raises(FittedPartMismatch, match="language model"):
        hub.load(copied)
    checkpoint.save(
        copied, system="salmonn", config=model, state=own, parts={"lm": parts["lm"]}, borrowed=found.borrowed
    )
    with pytest.raises(CheckpointError, match="parts/speech"):
        hub.load(copied)


def test_a_fingerprint_changes_with_any_tensor():
    folder = find_part("fresh:lm/tiny", "LanguageModel")
    first = fingerprint(folder)
    assert fingerprint(folder) == first
    assert find_part("fresh:lm/tiny", "LanguageModel") == folder
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    try:
        begin = 8 + int.from_bytes(whole[:8], "little")  # where the first tensor lies
        file.write_bytes(whole[:begin] + b"\x00\x00\x80\x3f" + whole[begin + 4 :])
        assert fingerprint(folder) != first
        file.write_bytes(whole[:5])
        with pytest.raises(CheckpointError, match="copy the checkpoint again"):
            fingerprint(folder)
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speech": "fresh:lm/tiny"}, "has no attribute|Encoder"),
        ({"speech": "nothing"}, "neither a folder"),
        ({"audio": "nothing"}, "neither a folder"),
    ],
)
def test_parts_without_the_role_are_refused(bench, changes, message):
    if changes.get("speech") == "fresh:lm/tiny":
        changes = {"speech": str(find_part("fresh:lm/tiny", "LanguageModel"))}
        message = r"is a lm \(LanguageModel\); a Encoder"
    with pytest.raises(CheckpointError, match=message):
        task_of(bench.recordings, **changes)


def test_beats_fills_the_other_slot(bench):
    task = task_of(bench.recordings, audio="fresh:beats/tiny", cache_mb=0)
    assert task.model.config.bridge.audio_width == 16
    ((_, loss),) = task.losses(task.batch(0, 0, 1), 0)
    loss.value.backward()
    assert task.model.bridge.audio_norm.weight.grad.abs().sum() > 0
    model, ears = task.model.eval(), task.ears
    clip = Manifest.open(bench.recordings / "test.jsonl")[0].read()
    assert SalmonnListener(model, ears, task.tokenizer).answer(clip, "what?").heard_s > 0


def test_kept_features_are_what_would_be_computed_again(bench):
    kept, fresh = task_of(bench.recordings), task_of(bench.recordings, cache_mb=0)
    for task in (kept, fresh):
        task.model.eval()
    losses = [next(iter(task.losses(task.batch(0, 0, 1), 0)))[1] for task in (kept, kept, fresh)]
    values = [float(loss.value.detach()) for loss in losses]
    assert values[0] == values[1]
    assert values[2] == pytest.approx(values[0], abs=2e-3)


def published_file(file, config):
    """Everything that SALMONN trains, as the authors name it, with their optimiser."""
    torch.manual_seed(1)
    state = {n: torch.randn_like(v) for n, v in Salmonn(config).state_dict().items() if is_trained(n)}
    foreign = {convert.OFFICIAL.to_foreign(name): value for name, value in state.items()}
    torch.save({"model": foreign, "optimizer": {"state": {}}, "epoch": 1}, file)
    return state


def test_published_files_go_in_with_their_parts_and_out_unchanged(bench, tmp_path):
    parts = {"speech": "fresh:whisper/tiny", "audio": "fresh:beats/tiny", "lm": "fresh:lm/tiny"}
    lm, speech, audio = (
        find_part(parts[n], r) for n, r in (("lm", "LanguageModel"), ("speech", "Encoder"), ("audio", "Encoder"))
    )
    task = SalmonnTaskConfig(**parts)
    base = replace(published_model("7b"), bridge=replace(published_model("7b").bridge, width=24, ffn_width=32))
    config = SalmonnTask.fit_config(base, task, bench.recordings)
    state = published_file(tmp_path / "salmonn.pth", config)
    coverage = convert.import_checkpoint(tmp_path / "salmonn.pth", tmp_path / "ours", lm=lm, speech=speech, audio=audio)
    assert coverage.state.keys() == state.keys()
    loaded = hub.load(tmp_path / "ours")
    assert all(torch.equal(loaded.model.state_dict()[name], value) for name, value in state.items())
    assert loaded.answer(bench.test_clips()[0], "what?", max_new=3, num_beams=2).text is not None
    convert.export_checkpoint(tmp_path / "ours", tmp_path / "out.pth", "salmonn")
    again = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert all(torch.equal(again[convert.OFFICIAL.to_foreign(n)], v) for n, v in state.items())


def test_the_wrong_vicuna_is_refused_by_name(tmp_path):
    right = published_model("13b").lm
    convert.refuse_wrong_vicuna(right, tmp_path)
    convert.refuse_wrong_vicuna(CausalLmConfig(width=64, num_heads=2, ffn_width=8, num_layers=1), tmp_path)
    newer = replace(right, norm_epsilon=1e-5, max_positions=4096)
    with pytest.raises(FittedPartMismatch, match=r"Vicuna 13B v1\.1.*norm_epsilon 1e-05 instead of 1e-06"):
        convert.refuse_wrong_vicuna(newer, tmp_path)
    older = replace(published_model("7b").lm, max_positions=2048)
    with pytest.raises(FittedPartMismatch, match=r"Vicuna 7B v1\.5"):
        convert.refuse_wrong_vicuna(older, tmp_path)


class Runs:
    """What a pickle could do."""

    def __reduce__(self):
        return (print, ("it ran",))


def test_files_that_would_run_code_are_refused(tmp_path, capsys):
    torch.save({"model": {"speech_llama_proj.weight": torch.zeros(1)}, "config": Runs()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="plain tensors"):
        convert.read_delta(tmp_path / "x.pth")
    assert "it ran" not in capsys.readouterr().out


def test_lora_on_layers_that_are_not_there_is_refused(bench):
    model = replace(PRESET.model, lora_targets=("c_attn",))
    with pytest.raises(ConfigError, match=r"lora_targets c_attn: a llama has q_proj"):
        SalmonnTask.fit_config(model, PRESET.task, bench.recordings)


def test_a_language_model_with_lora_of_its_own_is_refused(bench, tmp_path):
    from voder.nn.lora import LoraSizes

    config = replace(hub.find("lm").preset("tiny").model, lora=LoraSizes(rank=2))
    model = hub.find("lm").build(config)
    checkpoint.save(tmp_path / "lm", system="lm", config=config, state=model.state_dict())
    with pytest.raises(CheckpointError, match="LoRA of its own"):
        task_of(bench.recordings, lm=str(tmp_path / "lm"))


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "opt"])
def test_any_language_model_can_be_taught_to_hear(bench, tmp_path, family):
    tiny = hub.find("lm").preset("tiny").model
    config = replace(tiny, network=replace(tiny.network, family=family, num_kv_heads=None))
    checkpoint.save(tmp_path / "lm", system="lm", config=config, state=hub.find("lm").build(config).state_dict())
    targets = {"gpt2": ("c_attn",), "opt": ("q_proj", "v_proj")}.get(family, PRESET.model.lora_targets)
    settings = replace(PRESET.task, lm=str(tmp_path / "lm"))
    fitted = SalmonnTask.fit_config(replace(PRESET.model, lora_targets=targets), settings, bench.recordings)
    task = SalmonnTask(Salmonn(fitted), settings, bench.recordings, seed=0)
    ((_, loss),) = task.losses(task.batch(0, 0, 1), 0)
    loss.value.backward()
    assert all(p.grad is not None for p in task.model.bridge.parameters())
    listener = SalmonnListener(task.model.eval(), task.ears, task.tokenizer)
    assert listener.answer(bench.test_clips()[0], "what?", max_new=3).heard_s > 0


def test_its_anatomy_is_said():
    said = SYSTEM.anatomy(SYSTEM.preset("13b").model)
    assert said["input projector"] == "Q-Former, 2 layers of 768, 1 query per 17 frames"
    assert "an audio encoder of 768" in said["encoder"]
    assert said["language model"].startswith("llama, 40 layers of 5120")
