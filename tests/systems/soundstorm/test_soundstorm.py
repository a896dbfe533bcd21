"""SoundStorm: reference vectors, official layout, decoding, masks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from voder import checkpoint, hub
from voder.errors import CheckpointError, ConfigError, FittedPartMismatch, InputError, TokensError
from voder.evaluate.verify import verify_fixtures
from voder.fixtures import find_cases, read_case
from voder.interop import export, rename
from voder.systems.soundstorm import SYSTEM, SoundStorm, convert
from voder.systems.soundstorm.config import published
from voder.systems.soundstorm.infer import SoundStormGenerator, load_generator
from voder.systems.soundstorm.masking import level_loss, mask_level
from voder.systems.soundstorm.reference import KINDS
from voder.systems.soundstorm.refine import RefineConfig, refine

CASES = [
    path for path in find_cases(Path(__file__).parents[2] / "fixtures" / "anygpt") if read_case(path).kind in KINDS
]


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = replace(SYSTEM.preset("tiny").model, num_semantic=16, codebook_size=16, num_levels=3)
    return SoundStorm(config).eval()


@pytest.fixture
def codec_folder(tmp_path):
    torch.manual_seed(0)
    system = hub.find("speechtokenizer")
    config = system.preset("tiny").model
    checkpoint.save(
        tmp_path / "codec", system="speechtokenizer", config=config, state=system.build(config).state_dict()
    )
    return tmp_path / "codec"


def draws(count, seed=0):
    return [torch.Generator().manual_seed(seed) for _ in range(count)]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_reference_vectors_are_met(path):
    (outcome,) = verify_fixtures(path, kinds=KINDS).outcomes
    assert outcome.status == "pass", outcome.details


def test_the_full_published_set_of_names_fills_everything():
    with torch.device("meta"):
        model = SoundStorm(published().model)
    official = export(model.state_dict(), convert.TABLE)
    assert sum(value.numel() for value in official.values()) == pytest.approx(351.4e6, rel=1e-3)
    assert official["net.code_embeds.weight"].shape == (7 * 1025, 1024)
    assert official["net.to_logits.2.weight"].shape == (7, 1024, 1024)
    assert official["net.conformer.layers.11.attn.fn.to_kv.weight"].shape == (2048, 1024)
    assert convert.config_of(official) == published().model
    official["net.conformer.rotary_emb.inv_freq"] = torch.empty(64, device="meta")
    coverage = rename(official, model.state_dict(), convert.TABLE)
    assert coverage.is_complete, coverage.summary()
    assert coverage.ignored == ("net.conformer.rotary_emb.inv_freq",)


def test_an_official_file_and_back_changes_nothing(model, codec_folder, tmp_path):
    file = tmp_path / "storm.pt"
    torch.save(export(model.state_dict(), convert.TABLE), file)
    assert convert.import_checkpoint(file, tmp_path / "ours", codec=codec_folder, head_width=8).is_complete
    role = hub.load_role(tmp_path / "ours", "Generator")
    units = torch.arange(12)[None] % 16
    ours = SoundStormGenerator(model, hub.load_codec(codec_folder))
    assert torch.equal(role.fill(units, torch.tensor([12])), ours.fill(units, torch.tensor([12])))
    convert.export_checkpoint(tmp_path / "ours", tmp_path / "back.pt")
    back, first = (torch.load(name, weights_only=True) for name in (tmp_path / "back.pt", file))
    assert back.keys() == first.keys()
    assert all(torch.equal(back[name], first[name]) for name in first)
    del first["semantic_token_emb.weight"]
    torch.save(first, file)
    with pytest.raises(CheckpointError, match="semantic_token_emb"):
        convert.import_checkpoint(file, tmp_path / "again", codec=codec_folder, head_width=8)


def test_another_codec_is_refused(model, codec_folder, tmp_path):
    wide = SoundStorm(replace(model.config, num_levels=5))
    torch.save(export(wide.state_dict(), convert.TABLE), tmp_path / "storm.pt")
    with pytest.raises(FittedPartMismatch, match="5 levels"):
        convert.import_checkpoint(tmp_path / "storm.pt", tmp_path / "ours", codec=codec_folder, head_width=8)
    config = replace(model.config, codec_identity="another")
    checkpoint.save(
        tmp_path / "fitted", system="soundstorm", config=config, state=model.state_dict(), parts={"codec": codec_folder}
    )
    with pytest.raises(FittedPartMismatch, match="another"):
        hub.load(tmp_path / "fitted")
    checkpoint.save(tmp_path / "alone", system="soundstorm", config=model.config, state=model.state_dict())
    with pytest.raises(CheckpointError, match="parts/codec"):
        load_generator(model, checkpoint.read(tmp_path / "alone"))


def test_every_frame_is_filled_and_the_prompt_stays(model):
    semantic = torch.arange(20)[None].repeat(2, 1) % 16
    prompt = torch.randint(16, (2, 6, 3), generator=torch.Generator().manual_seed(1))
    for steps in (1, 4, 30):
        found = refine(model, semantic, torch.tensor([20, 13]), RefineConfig(steps=steps), draws(2), prompt)
        assert torch.equal(found[:, :6], prompt)
        assert int(found.max()) < 16
        assert not found[1, 13:].any()


def test_padding_and_company_change_no_code(model):
    semantic = torch.arange(40).view(2, 20) % 16
    how = RefineConfig(steps=5)
    together = refine(model, semantic, torch.tensor([20, 11]), how, draws(2))
    alone = refine(model, semantic[1:, :11], torch.tensor([11]), how, draws(1))
    assert torch.equal(together[1, :11], alone[0])


def test_every_decoding_option_acts(model):
    semantic = torch.arange(40)[None] % 16
    lengths = torch.tensor([40])

    def found(seed=0, **options):
        return refine(model, semantic, lengths, RefineConfig(**options), draws(1, seed)).tolist()

    assert found() == found() != found(seed=1)
    assert found(greedy=True) == found(seed=1, greedy=True) != found()
    assert found(steps=1) != found(steps=8)
    assert found(temperature=0.01) != found(temperature=5.0)
    assert found(keep_share=0.05) == found(keep_share=0.05, seed=1) != found(keep_share=1.0)
    for wrong in ({"steps": 0}, {"temperature": 0.0}, {"keep_share": 1.5}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            RefineConfig(**wrong)


def test_codes_that_the_model_does_not_have_are_refused(model, codec_folder):
    role = SoundStormGenerator(model, hub.load_codec(codec_folder))
    with pytest.raises(TokensError, match="0 to 15"):
        role.generate(np.array([1, 16]))
    with pytest.raises(TokensError, match="prompt codes"):
        role.fill(torch.zeros(1, 9).long(), torch.tensor([9]), prompt=np.array([[1, 1]] * 3 + [[16, 1]]))
    with pytest.raises(TokensError, match="3 levels"):
        role.fill(torch.zeros(1, 9).long(), torch.tensor([9]), prompt=np.zeros((2, 2)))
    with pytest.raises(InputError, match="durations"):
        role.generate(np.array([1, 2]), predict_durations=True)


def test_decoding_as_published_and_a_prompt_act(model, codec_folder):
    role = SoundStormGenerator(model, hub.load_codec(codec_folder))
    units, lengths = torch.arange(24)[None] % 16, torch.tensor([24])
    plain = role.fill(units, lengths)
    assert plain.shape == (1, 4, 24)
    assert torch.equal(plain[:, 0], units)
    assert not torch.equal(plain, role.fill(units, lengths, as_published=True))
    prompt = np.random.default_rng(0).integers(16, size=(4, 10))
    assert not torch.equal(plain, role.fill(units, lengths, prompt=prompt))
    assert role.generate(units[0].numpy()).num_samples == 24 * role.hop


def test_only_hidden_frames_of_the_level_carry_loss(model):
    codes = torch.randint(16, (1, 9, 3), generator=torch.Generator().manual_seed(0))
    drawn = torch.zeros(1, 9, dtype=torch.bool)
    drawn[0, 5:7] = True
    hidden = mask_level(codes, drawn, torch.tensor([4]), torch.tensor([1]), 16)
    assert torch.equal(hidden[:, :, 0], codes[:, :, 0])
    assert (hidden[0, :, 1] == 16).nonzero()[:, 0].tolist() == [5, 6]
    assert (hidden[0, :, 2] == 16).nonzero()[:, 0].tolist() == [4, 5, 6, 7, 8]
    logits = torch.zeros(1, 9, 3, 16, requires_grad=True)
    level_loss(logits, codes, drawn, torch.tensor([1])).backward()
    assert logits.grad.abs().sum(dim=-1).nonzero()[:, 1:].tolist() == [[5, 1], [6, 1]]
