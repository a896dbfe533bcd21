from pathlib import Path

import pytest
import torch

from voder.errors import CheckpointError
from voder.evaluate.verify import verify_fixtures
from voder.systems.valle import convert
from voder.systems.valle.original import OriginalValle
from voder.systems.valle.original_infer import CODES_PER_PHONEME, CoarseSession, say
from voder.systems.valle.original_layers import OriginalConfig
from voder.systems.valle.reference import KINDS

FIXTURES = Path(__file__).parents[1] / "fixtures" / "valle"
CASES = sorted(FIXTURES.glob("*.json"))


@pytest.mark.parametrize("path", CASES, ids=[p.stem for p in CASES])
def test_reference_vectors_are_met(path):
    (outcome,) = verify_fixtures(path, kinds=KINDS).outcomes
    assert outcome.status == "pass", outcome.details


def test_every_kind_has_a_recording():
    assert {f"valle/{path.stem}" for path in CASES} == set(KINDS)


def tiny(**changes):
    torch.manual_seed(0)
    settings = {
        "width": 16,
        "num_layers": 2,
        "num_heads": 2,
        "num_codebooks": 3,
        "codebook_size": 20,
        "num_text_ids": 9,
    }
    return OriginalValle(OriginalConfig(**settings | changes)).eval()


def languages_of(model, text):
    return torch.zeros_like(text) if model.config.num_languages else None


VARIANTS = [
    {},
    {"norm_first": False, "share_embedding": False},
    {"prenet": True, "prepend_bos": True},
    {"cross_attention": True},
    {"num_languages": 3, "prepend_bos": True},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_checkpoints_go_in_and_come_out_the_same(changes, tmp_path):
    model = tiny(**changes)
    convert.write_original(model, tmp_path / "theirs.pt")
    loaded, coverage = convert.read_original(tmp_path / "theirs.pt", num_heads=2)
    assert loaded.config == model.config
    assert coverage.is_complete
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_vall_e_x_names_are_those_of_its_release(tmp_path):
    convert.write_original(tiny(num_languages=3, prepend_bos=True), tmp_path / "x.pt")
    names = torch.load(tmp_path / "x.pt", weights_only=True)["model"].keys()
    assert {
        "ar_text_embedding.word_embeddings.weight",
        "ar_language_embedding.word_embeddings.weight",
        "ar_decoder.layers.1.self_attn.in_proj_weight",
        "nar_decoder.layers.0.norm1.project_layer.weight",
        "nar_decoder.layers.0.norm1.norm.bias",
        "nar_predict_layers.1.weight",
        "nar_stage_embeddings.1.word_embeddings.weight",
    } <= names


@pytest.mark.parametrize("changes", VARIANTS)
def test_the_cache_changes_nothing(changes):
    model = tiny(**changes)
    text = torch.tensor([[1, 5, 2, 7]])
    ids = torch.randint(0, 20, (1, 12), generator=torch.Generator().manual_seed(1))
    read = model.ar_text(text, languages_of(model, text))
    valid = [torch.ones(1, n, dtype=torch.bool) for n in (4, 12)]
    with torch.no_grad():
        whole = model.coarse(read, valid[0], ids, valid[1])
        session = CoarseSession(model, read, ids[:, :5], 8)
        steps = [session.start(), *(session.step(ids[:, i]) for i in range(5, 12))]
    for got, wanted in zip(steps, whole[0, 4:], strict=True):
        heard = torch.isfinite(got[0])
        torch.testing.assert_close(got[0][heard], wanted[heard], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bos", [False, True])
def test_what_never_ends_stops_as_the_original_does(bos):
    model = tiny(prepend_bos=bos)
    with torch.no_grad():
        model.ar_head.weight[20] = 0  # the end never is the most probable
        model.ar_head.weight[3] = 10 * model.ar_head.weight[3].sign()
        model.ar_head.weight[4] = -model.ar_head.weight[3]
    text, prompt = torch.tensor([[1, 2, 3]]), torch.zeros(1, 3, 4, dtype=torch.long)
    assert say(model, text, prompt).shape == (1, 3, CODES_PER_PHONEME * 3 + 1 - bos)


def test_silence_at_once_is_no_error():
    model = tiny()
    with torch.no_grad():
        model.ar_stack.norm.weight.zero_()
        model.ar_stack.norm.bias.fill_(1.0)
        model.ar_head.weight.fill_(-1.0)
        model.ar_head.weight[20] = 1.0
    assert say(model, torch.tensor([[1, 2]]), torch.zeros(1, 3, 4, dtype=torch.long)).shape == (1, 3, 0)


def test_heads_that_are_not_tables_are_told_apart(tmp_path):
    model = tiny(share_embedding=False)
    state = torch.load(write(model, tmp_path), weights_only=True)["model"]
    with pytest.raises(CheckpointError, match="share_embedding=false"):
        convert.load_original(tiny(), state, "a file")


def write(model, folder):
    convert.write_original(model, folder / "m.pt")
    return folder / "m.pt"


def test_other_files_are_refused_by_name(tmp_path):
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="ar_text_embedding"):
        convert.read_original(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="allowed are 0, 1, 2 and 4"):
        convert.read_original(write(tiny(), tmp_path), prefix_mode=3)


def test_prompts_of_modes_two_and_four_must_be_given():
    for mode, missing in ((2, "starts"), (4, "neighbour")):
        model = tiny(prefix_mode=mode)
        codes, valid = model.padded(torch.zeros(1, 3, 8, dtype=torch.long), torch.tensor([8]))
        with pytest.raises(ValueError, match=missing):
            model.fine_input(codes, valid, 1, prefix_len=2)
