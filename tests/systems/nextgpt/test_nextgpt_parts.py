import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from voder.audio.io import AudioClip
from voder.errors import AudioError, InputError, TextError
from voder.evaluate.verify import verify_fixtures
from voder.nn.causal_lm import CausalLmConfig
from voder.systems.nextgpt import SYSTEM, generators
from voder.systems.nextgpt.config import AudioTrunkConfig, ImageBindConfig, NextGptConfig, VisionTrunkConfig
from voder.systems.nextgpt.hearing import images, mel_image, stretches
from voder.systems.nextgpt.imagebind import ImageBind
from voder.systems.nextgpt.losses import caption_distance, min_snr_weights
from voder.systems.nextgpt.model import NextGpt, lay_out, row_losses
from voder.systems.nextgpt.pieces import IGNORED, Piece, Spoken, Words
from voder.systems.nextgpt.projectors import OutputProjector
from voder.systems.nextgpt.reference import KINDS
from voder.systems.nextgpt.seeing import picture
from voder.systems.nextgpt.stages import STAGES, TRAINED
from voder.systems.nextgpt.vocabulary import fill_rows, layout, signal_names
from voder.text.subwords import byte_tokenizer, encode, read_tokenizer
from voder.train.stages import freeze_all_but

FIXTURES = Path(__file__).parents[2] / "fixtures"
TINY = SYSTEM.preset("tiny").model
WITHOUT_PACKAGES = ["nextgpt/imagebind_a", "nextgpt/imagebind_mel", "nextgpt/losses", "nextgpt/legacy_train_a"]
NEEDS_DIFFUSERS = ["nextgpt/sd_loop", "nextgpt/audioldm_loop"]


def verified(name):
    (outcome,) = verify_fixtures(FIXTURES / f"{name}.json", kinds=KINDS).outcomes
    return outcome


@pytest.mark.parametrize("name", [*WITHOUT_PACKAGES, "lora/nextgpt_delta"])
def test_reference_vectors_are_met(name):
    outcome = verified(name)
    assert outcome.status == "pass", outcome.details


@pytest.mark.parametrize("name", NEEDS_DIFFUSERS)
def test_loops_over_diffusers_parts_are_met_or_the_package_is_named(name):
    outcome = verified(name)
    assert outcome.status == "pass" or outcome.details == ("needs the package diffusers",), outcome.details


def ears(**changes):
    torch.manual_seed(0)
    audio = AudioTrunkConfig(width=8, num_layers=1, num_heads=2, num_bands=24, num_frames=40)
    changes = {"vision": VisionTrunkConfig(width=8, num_layers=1, num_heads=2, size=8, patch=4)} | changes
    return ImageBind(ImageBindConfig(audio=audio, output_width=6, **changes)).eval().requires_grad_(False)


def test_sounds_are_twenty_times_longer_in_the_original_and_only_where_asked():
    clips = torch.randn(2, 3, 1, 24, 40)
    published, original = ears(), ears(logit_scale=True)
    plain = published.hear(clips)
    torch.testing.assert_close(original.hear(clips), 20 * plain)
    torch.testing.assert_close(published.hear(clips, logit_scale=True), 20 * plain)
    one = published.hear(clips[:, :1])
    torch.testing.assert_close(one.norm(dim=1), torch.ones(2))


def test_a_video_is_the_mean_of_its_stretches():
    eyes = ears()
    video = torch.randn(2, 3, 3, 2, 8, 8)
    each = torch.stack([eyes.watch(video[:, i : i + 1]) for i in range(3)])
    torch.testing.assert_close(eyes.watch(video), each.mean(0))
    still = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(eyes.see(still), eyes.watch(still[:, None, :, None].expand(-1, 1, -1, 2, -1, -1)))


def test_a_video_of_two_frames_has_the_vector_of_torchs_own_layers():
    eyes, width = ears(), 8
    with torch.no_grad():
        for parameter in eyes.parameters():
            parameter.normal_(std=0.3)
    sight = eyes.vision.trunk
    layer = nn.TransformerEncoderLayer(
        width, 2, 4 * width, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    ).eval()
    names = {
        "in_projection": "self_attn.in_proj_",
        "out_projection": "self_attn.out_proj.",
        "attention_norm": "norm1.",
        "ffn_norm": "norm2.",
        "ffn_in": "linear1.",
        "ffn_out": "linear2.",
    }
    block = sight.blocks[0].state_dict()
    layer.load_state_dict({f"{names[n]}{kind}": block[f"{n}.{kind}"] for n in names for kind in ("weight", "bias")})
    video = torch.randn(2, 3, 3, 2, 8, 8)
    stem = eyes.vision.patches.weight
    # by hand: what each of the two frames adds to each of the four patches
    patches = F.unfold(video.permute(0, 1, 3, 2, 4, 5).reshape(12, 3, 8, 8), 4, stride=4).view(6, 2, 48, 4)
    seen = sum(stem[:, :, frame].reshape(width, 48) @ patches[:, frame] for frame in range(2)).mT
    x = sight.first_norm(torch.cat((sight.token.expand(6, 1, -1), seen), dim=1) + sight.positions)
    vectors = F.normalize(sight.head(sight.norm(layer(x)[:, 0])), dim=-1)
    torch.testing.assert_close(eyes.watch(video), vectors.view(2, 3, -1).mean(1))


def test_heads_of_the_eyes_count():
    still = torch.randn(2, 3, 8, 8)
    vision = VisionTrunkConfig(width=8, num_layers=1, num_heads=4, size=8, patch=4)
    assert not torch.allclose(ears().see(still), ears(vision=vision).see(still))


def test_without_eyes_nothing_is_seen():
    blind = ImageBind(ImageBindConfig(audio=AudioTrunkConfig(width=8, num_layers=1, num_heads=2), vision=None))
    with pytest.raises(ValueError, match="no vision trunk"):
        blind.see(torch.zeros(1, 3, 8, 8))


def test_stretches_are_spread_from_the_beginning_to_the_end():
    config = AudioTrunkConfig()
    samples = np.arange(160_000, dtype=np.float32)
    cut = stretches(samples, config)
    assert cut.shape == (3, 32_000)
    assert cut[:, 0].tolist() == [0, 64_000, 128_000]
    assert stretches(samples[:100], config).shape == (3, 100)
    with pytest.raises(AudioError, match="without samples"):
        stretches(samples[:0], config)


def test_missing_frames_are_zero_and_silence_sits_at_the_floor():
    config = AudioTrunkConfig()
    short = mel_image(torch.randn(1, 4000) * 0.1, config)
    assert short.shape == (1, 1, 128, 204)
    assert short[..., 24:].eq(0).all()
    assert short[..., :23].ne(0).any()
    silent = mel_image(torch.full((1, 32_000), 0.3), config)
    assert torch.allclose(silent[..., :198], torch.tensor(np.log(np.finfo(np.float32).eps)).float())
    assert mel_image(torch.randn(1, 399), config).eq(0).all()


def test_recordings_of_any_rate_are_heard():
    clip = AudioClip(np.random.default_rng(0).standard_normal((2, 44_100)).astype(np.float32) * 0.1, 44_100)
    assert images([clip, clip], AudioTrunkConfig()).shape == (2, 3, 1, 128, 204)


def test_pictures_are_cut_to_their_middle():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 20:40] = 255
    seen = picture(image, 20)
    assert seen.shape == (3, 20, 20)
    assert seen[:, 10, 10].min() > 1.5
    assert picture(np.zeros((3, 500, 3), np.uint8), 8).shape == (3, 8, 8)
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(InputError, match="must be bytes"):
            picture(wrong, 8)


def test_projected_signals_learn_a_caption():
    torch.manual_seed(0)
    projector = OutputProjector(16, 16, 5, 6)
    states, written, wanted = torch.randn(2, 4, 16), torch.randn(2, 4, 16), torch.randn(2, 5, 6)
    optimizer = torch.optim.Adam(projector.parameters(), lr=1e-2)
    distances = []
    for _ in range(60):
        distance = caption_distance(projector(states, written), wanted).mean()
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
        distances.append(float(distance.detach()))
    assert distances[-1] < 0.1 * distances[0]


def test_a_reached_caption_has_no_gradient_that_is_no_number():
    projected = torch.ones(1, 2, 3, requires_grad=True)
    caption_distance(projected, torch.ones(1, 2, 3)).sum().backward()
    assert projected.grad.eq(0).all()


def test_steps_with_little_noise_count_less():
    schedule = torch.linspace(0.999, 0.001, 100)
    weights = min_snr_weights(schedule, torch.tensor([0, 50, 99]))
    assert weights[0] < 0.01
    assert weights[1:].eq(1).all()


def test_new_queries_begin_at_zero_and_old_ones_do_not():
    assert OutputProjector(8, 8, 3, 2, zero_queries=True).queries.eq(0).all()
    assert OutputProjector(8, 8, 3, 2).queries.ne(0).any()


class Scheduler:
    """Takes a tenth of what is predicted away, five times."""

    init_noise_sigma = 2.0

    def set_timesteps(self, steps, device=None):
        self.timesteps = torch.arange(steps, 0, -1)

    def scale_model_input(self, latents, time):
        return latents

    def step(self, predicted, time, latents):
        return SimpleNamespace(prev_sample=latents - predicted / 10)


def test_guidance_goes_from_the_unconditioned_and_is_off_up_to_one():
    asked = []

    def predict(latents, time, condition):
        asked.append((len(latents), int(time)))
        return condition[:, :, None, None].expand_as(latents)

    noise, towards, away = torch.ones(1, 2, 3, 3), torch.full((1, 2), 3.0), torch.full((1, 2), 1.0)
    run = lambda guidance, un=away: generators.denoise(  # noqa: E731
        predict, Scheduler(), noise, towards, un, steps=5, guidance=guidance
    )
    torch.testing.assert_close(run(1.0).latents, noise * 2 - 5 * towards[0, 0] / 10)
    assert asked == [(1, 5), (1, 4), (1, 3), (1, 2), (1, 1)]
    torch.testing.assert_close(run(2.0).latents, noise * 2 - 5 * (1.0 + 2 * 2.0) / 10)
    assert asked[-1][0] == 2
    assert run(2.0).first[:, 0, 0, 0].tolist() == [1.0, 3.0]
    with pytest.raises(ValueError, match="needs an unconditioned vector"):
        run(2.0, None)
    with pytest.raises(ValueError, match="at least one step"):
        generators.denoise(predict, Scheduler(), noise, towards, away, steps=0, guidance=1.0)


def fake_parts(channels, bands=None):
    unet = lambda latents, time, encoder_hidden_states=None, class_labels=None: SimpleNamespace(  # noqa: E731
        sample=latents * 0.1
    )
    config = SimpleNamespace(in_channels=channels, sample_size=4)
    wrapped = type("Unet", (), {"__call__": staticmethod(unet), "config": config})()
    vae_config = SimpleNamespace(scaling_factor=0.5, block_out_channels=(1, 1))
    decode = lambda latents: SimpleNamespace(  # noqa: E731
        sample=latents.mean(1, keepdim=True).repeat(1, 1 if bands else 3, 2, 2)
    )
    return wrapped, SimpleNamespace(config=vae_config, decode=decode)


def test_loops_run_over_anything_that_is_called_like_the_parts():
    unet, vae = fake_parts(4, bands=8)
    vocoder_config = SimpleNamespace(sampling_rate=16_000, upsample_rates=(5, 4), model_in_dim=8)
    vocoder = type(
        "V", (), {"config": vocoder_config, "__call__": staticmethod(lambda mel: mel.mean(-1).repeat_interleave(20, 1))}
    )()
    maker = generators.AudioLdm(
        unet=unet,
        vae=vae,
        scheduler=Scheduler(),
        vocoder=vocoder,
        unconditioned=torch.zeros(1, 6),
        duration_s=0.03,
        steps=3,
    )
    clip = maker.make(torch.ones(1, 6), seed=0)
    assert (clip.sample_rate_hz, clip.samples.shape) == (16_000, (1, 480))
    assert np.array_equal(clip.samples, maker.make(torch.ones(1, 6), seed=0).samples)
    assert not np.array_equal(clip.samples, maker.make(torch.ones(1, 6), seed=1).samples)
    unet, vae = fake_parts(4)
    painter = generators.StableDiffusion(
        unet=unet, vae=vae, scheduler=Scheduler(), unconditioned=torch.zeros(1, 7, 6), steps=2
    )
    image = painter.make(torch.ones(7, 6), seed=0)
    assert (image.shape, image.dtype) == ((8, 8, 3), np.uint8)


def words(config=TINY, tokenizer=None):
    return Words(config, tokenizer or byte_tokenizer())


def test_old_turns_are_laid_out_on_the_authors_ids():
    recorded = json.loads((FIXTURES / "nextgpt" / "legacy_train_a.json").read_text())
    lm = CausalLmConfig(vocabulary_size=400, width=32, num_heads=4)
    made = words(NextGptConfig(lm=lm), read_tokenizer(FIXTURES / "nextgpt" / "tokenizer"))
    assert made.stops == ((2,), (13, 38, 38, 38), (362, 38, 38, 38))
    entries = {entry["name"]: entry for entry in recorded["label_building"]}
    for number, caption in enumerate(recorded["captions"]):
        heard, said = {"role": "user", "media": (0,)}, Spoken(role="assistant", text=caption)
        conversations = {
            "stage1": [Spoken(text=recorded["stage1_prompt"], **heard), said],
            "stage3_two_turns": [
                Spoken(text="what is this?", **heard),
                said,
                Spoken(role="user", text="thank you"),
                Spoken(role="assistant", text="yes"),
            ],
            "stage3_audio": [
                Spoken(role="user", text=f"please describe {caption}"),
                replace(said, shows=("audio",)),
            ],
        }
        for kind in ("image", "video", "audio"):
            conversations[f"stage2_{kind}"] = [Spoken(role="user", text=caption), replace(said, shows=(kind,))]
        for name, turns in conversations.items():
            read = lay_out([made.lay_out(turns)])
            media = bool(turns[0].media)
            head = [1, *recorded["prefix_ids"]["with_media" if media else "text_only"], *([0] if media else [])]
            kept = sum(entries[name]["attention_mask"][number])
            assert read.ids[0].tolist() == head + entries[name]["input_ids"][number][:kept], name
            wanted = [IGNORED] * len(head) + entries[name]["labels"][number][:kept]
            assert read.labels[0].tolist() == wanted, name


def test_signals_stand_behind_the_vocabulary_in_the_authors_order():
    config = NextGptConfig()
    names = signal_names(config)
    assert len(names) == layout(config).size - 32_000 == 38
    at = {name: 32_000 + number for number, name in enumerate(names)}
    assert (at["<Img>"], at["[IMG0]"], at["[VID0]"], at["[AUD0]"], at["[AUD7]"]) == (
        32_000,
        32_002,
        32_006,
        32_030,
        32_037,
    )
    new = signal_names(replace(config, line="new"))
    assert (new[0], new[-1], len(new)) == ("<image_00>", "<audio_07>", 36)


def test_text_that_imitates_signals_and_marks_stays_text():
    made = words()
    text = "[AUD0] [AUD1] <Img> <audio_00> </s>"
    pieces = made.lay_out([Spoken(role="user", text=text)])
    ids = list(itertools.chain.from_iterable(piece.ids for piece in pieces))
    assert max(ids) < made.vocabulary["text"].end
    assert 2 not in ids
    assert made.encode(text) == encode(byte_tokenizer(), text)
    knowing = byte_tokenizer()
    knowing.add_tokens(["[AUD0]"])
    with pytest.raises(TextError, match="use the language model's own tokenizer"):
        words(tokenizer=knowing).encode("say [AUD0]")


def test_in_the_new_line_every_answer_ends_with_the_end():
    made = words(replace(TINY, line="new"))
    turns = [
        Spoken(role="user", text="a", media=(0,)),
        Spoken(role="assistant", text="b", shows=("audio",)),
        Spoken(role="user", text="c"),
        Spoken(role="assistant", text="d"),
    ]
    read = lay_out([made.lay_out(turns)])
    learned = read.labels[0][read.labels[0] != IGNORED].tolist()
    audio = made.signals("audio")
    assert learned == [*made.encode(" b"), *audio, 2, *made.encode(" d"), 2]
    assert read.media[0].max() == 0
    assert made.stops == ((2,),)


def test_rows_of_different_lengths_are_padded_on_the_right():
    rows = [[Piece((5, 6)), Piece(medium=1)], [Piece((7,), True)]]
    read = lay_out(rows)
    assert read.ids.tolist() == [[5, 6, 0], [7, 0, 0]]
    assert read.media.tolist() == [[-1, -1, 1], [-1, -1, -1]]
    assert read.valid.tolist() == [[True, True, True], [True, False, False]]
    assert read.labels.tolist() == [[IGNORED] * 3, [7, IGNORED, IGNORED]]


def network(config=TINY):
    torch.manual_seed(0)
    made = NextGpt(config).eval()
    fill_rows(made, torch.Generator().manual_seed(0))
    return made


@torch.no_grad()
def test_padding_changes_no_loss():
    model, made = network(), words()
    turns = [Spoken(role="user", text="a", media=(0,)), Spoken(role="assistant", text="bcd", shows=("audio",))]
    long = [Spoken(role="user", text="a longer one"), Spoken(role="assistant", text="yes")]
    vectors = torch.randn(1, 8)

    def losses(*conversations):
        read = lay_out([made.lay_out(turns) for turns in conversations])
        logits, states = model.states(model.embeddings(read, vectors), read.valid)
        sums, counts = row_losses(logits, read.labels)
        return sums / counts, model.project(states, read.ids, "audio")[0]

    together, alone = losses(turns, long), losses(turns)
    torch.testing.assert_close(together[0][:1], alone[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[1], alone[1], rtol=1e-4, atol=1e-5)


def test_spans_that_are_not_whole_are_refused():
    model = network()
    first = model.vocabulary["audio"].start
    states = torch.zeros(1, 3, 16)
    for ids in ([first, first + 1, 5], [first + 1, first, first + 2]):
        with pytest.raises(ValueError, match="whole spans of 3"):
            model.project(states, torch.tensor([ids]), "audio")
    two = torch.tensor([list(range(first, first + 3)) * 2])
    assert model.project(torch.zeros(1, 6, 16), two, "audio")[1].tolist() == [0, 0]


@pytest.mark.parametrize("stage", list(STAGES))
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_each_stage_trains_exactly_its_parts(stage, family):
    lm = replace(TINY.lm, family=family, tie_embeddings=family == "gpt2")
    model = NextGpt(replace(TINY, lm=lm))
    freeze_all_but(model, TRAINED[stage])
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    heads = {name.split(".")[0] for name in learning if not name.startswith("lm.")}
    assert (
        heads
        == {
            "encoder_alignment": {"input_projector"},
            "decoder_alignment": {"output_projectors"},
            "instruction": {"input_projector", "output_projectors"},
        }[stage]
    )
    inside = {
        name.rsplit(".", 1)[1] if name.endswith("rows") else "lora" for name in learning if name.startswith("lm.")
    }
    assert inside == {"encoder_alignment": set(), "decoder_alignment": {"rows"}, "instruction": {"rows", "lora"}}[stage]
    assert all("lora" in name or name.endswith(".rows") for name in learning if name.startswith("lm."))


def test_old_rows_of_the_tables_stay_bit_for_bit():
    model, made = network().train(), words()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    freeze_all_but(model, TRAINED["decoder_alignment"])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)
    read = lay_out(
        [made.lay_out([Spoken(role="user", text="a"), Spoken(role="assistant", text="a", shows=("audio",))])]
    )
    logits, states = model.states(model.embeddings(read, torch.zeros(0, 8)), read.valid)
    loss = row_losses(logits, read.labels)[0].sum() + model.project(states, read.ids, "audio")[0].square().sum()
    loss.backward()
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in moved if name.startswith("lm.")} == {
        "lm.base_model.model.model.embed_tokens.rows",
        "lm.base_model.model.lm_head.rows",
    }


def test_new_rows_begin_near_the_mean_once():
    model = NextGpt(TINY)
    table = model.lm.get_input_embeddings()
    assert table.rows.eq(0).all()
    fill_rows(model, torch.Generator().manual_seed(0))
    torch.testing.assert_close(table.rows.mean(0), table.base.weight.mean(0), atol=2e-3, rtol=0)
    filled = table.rows.clone()
    fill_rows(model, torch.Generator().manual_seed(1))
    assert torch.equal(table.rows, filled)


def test_the_published_sizes_are_the_papers():
    with torch.device("meta"):
        model = NextGpt(NextGptConfig())
    sizes = {kind: sum(p.numel() for p in part.parameters()) for kind, part in model.output_projectors.items()}
    assert sizes["image"] == pytest.approx(31.96e6, rel=2e-4)
    assert sizes["video"] == pytest.approx(32.09e6, rel=2e-4)
    assert sizes["audio"] == pytest.approx(31.79e6, rel=2e-4)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"projector_width": 6}, "multiple of 4"),
        ({"lm": replace(TINY.lm, eos_id=None)}, "eos_id must be set"),
        ({"lm": replace(TINY.lm, pad_id=0)}, "pad_id must be null"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        replace(TINY, **changes)
