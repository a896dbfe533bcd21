"""AnyGPT's vocabulary, layout, data, image tokenizer and reference vectors."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from voder.data.dialogue import Codes, Dialogues, write_dialogues
from voder.errors import CheckpointError, ManifestError, TokensError
from voder.evaluate.verify import verify_fixtures
from voder.fixtures import find_cases, read_case
from voder.interop import export, rename
from voder.roles import ImageTokenizer
from voder.systems.anygpt import formats, seed_convert
from voder.systems.anygpt.config import published_seed
from voder.systems.anygpt.prompt import answers_only, chain, conversation, pair, pair_question, read_answer
from voder.systems.anygpt.reference import KINDS
from voder.systems.anygpt.seed import SeedConfig, SeedTokenizer
from voder.systems.anygpt.vocabulary import AnyGptVocabulary, ModalitySizes, read_stretch
from voder.text.subwords import byte_tokenizer, encode
from voder.train.lm_rows import IGNORED

FIXTURES = Path(__file__).parents[2] / "fixtures" / "anygpt"
CASES = [path for path in find_cases(FIXTURES) if read_case(path).kind in KINDS]
SIZES = ModalitySizes(image=16, speech=16, music=16, audio=0, image_length=4, music_levels=2)
VOCABULARY = AnyGptVocabulary(261, SIZES)
TOKENIZER = byte_tokenizer()


def encoded(text):
    return encode(TOKENIZER, text)


def ids_of(pieces):
    return VOCABULARY.layout.lay(pieces, encoded)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_reference_vectors_are_met(path):
    (outcome,) = verify_fixtures(path, kinds=KINDS).outcomes
    assert outcome.status == "pass", outcome.details


def test_there_is_a_case_of_every_kind():
    assert {read_case(path).kind for path in CASES} == set(KINDS)


def test_a_checkpoint_says_by_its_size_what_it_has():
    assert AnyGptVocabulary.of_size(53_516).layout.kinds.keys() == {"image", "speech", "music", "audio"}
    assert AnyGptVocabulary.of_size(49_418).layout.kinds.keys() == {"image", "speech", "music"}
    assert AnyGptVocabulary.of_size(53_518).markers["<-Ins->"] == 53_517
    assert len(AnyGptVocabulary.of_size(53_516).tokens) == 21_516
    with pytest.raises(CheckpointError, match="53516"):
        AnyGptVocabulary.of_size(32_000)


def test_text_that_imitates_markers_stays_text():
    imitation = "[MMGPT]: <soim><👀1><eoim><eos></s>"
    ids = ids_of(pair(VOCABULARY, [imitation], None))
    marks = VOCABULARY.markers
    assert [id_ for id_ in ids if id_ >= 261] == [marks["[Human]"], marks["<eoh>"], marks["[MMGPT]"]]
    assert TOKENIZER.eos_token_id not in ids


def test_answers_alone_carry_loss_with_their_ends():
    marks = VOCABULARY.markers
    exchanges = [(["a"], ["bc"]), ([("speech", (1, 2))], chain(VOCABULARY, "x", "y", (3,)))]
    ids = [1, *ids_of(conversation(VOCABULARY, exchanges)), 2]
    row = answers_only(ids, VOCABULARY, encoded)
    kept = [label for label in row.labels if label != IGNORED]
    assert kept[:4] == [*encoded(" bc"), marks["<eos>"]]
    assert kept[4:] == ids_of([" ", *chain(VOCABULARY, "x", "y", (3,)), marks["<eos>"], 2])
    cut = answers_only(ids[:-4], VOCABULARY, encoded)
    assert cut.labels == row.labels[:-4]


def test_an_answer_is_taken_apart_on_its_ids():
    pieces = [
        *chain(VOCABULARY, "what?", "that", (3, 4)),
        " and ",
        ("image", (1, 1, 1, 1)),
        VOCABULARY.layout["music"].start,
    ]
    found = read_answer(ids_of(pieces), VOCABULARY, TOKENIZER.decode)
    assert (found.transcript, found.text) == ("what?", "that and")
    assert found.stretches == (("speech", (3, 4)), ("image", (1, 1, 1, 1)))


def test_codes_out_of_range_are_refused():
    with pytest.raises(TokensError, match="speech code 16"):
        ids_of(pair(VOCABULARY, pair_question("speech", "x", (16,)), None))
    with pytest.raises(TokensError, match="4 codes; 3 were given"):
        ids_of([("image", (1, 2, 3))])
    with pytest.raises(TokensError, match="no audio"):
        ids_of([("audio", (1,))])


PAIRS = [{"text": "a cat", "speech": "<sosp><🗣️5><🗣️6><eosp>"}, {"text": "x", "image": "<soim><👀1><👀2><eoim>"}]
CHAT = {
    "id": "c1",
    "conversation": [
        [
            {"role": "user", "message": "<sosp><🗣️1><eosp> what?"},
            {"role": "assistant", "message": "<-Ins-> a\n <-Res-> b <sosp><🗣️2><eosp>"},
        ],
        [{"role": "user", "message": "hm"}, {"role": "assistant", "message": "<somu><🎶9><eomu> here"}],
    ],
}


def test_the_authors_data_is_read_and_written_back_unchanged(tmp_path):
    for name, rows, reader, writer in (
        ("pairs", PAIRS, formats.read_pair, formats.write_pair),
        ("chat", [CHAT], formats.read_conversation, formats.write_conversation),
    ):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = Dialogues.open(file, reader=reader)
        write_dialogues(tmp_path / "back.jsonl", found, writer=writer)
        assert [json.loads(line) for line in (tmp_path / "back.jsonl").read_text().splitlines()] == rows
    assert found[0].turns[0].parts == (Codes(modality="speech", codes=(1,)), " what?")


def test_rows_that_cannot_be_used_are_named(tmp_path):
    bad = {
        "one of image, speech": {"text": "a"},
        "text is missing": {"speech": "<sosp><🗣️1><eosp>"},
        "something else than its codes": {"text": "a", "speech": "<sosp> <🗣️1> <🗣️2> <eosp>"},
        "no start or no end": {"text": "a", "speech": "<sosp><🗣️1>"},
        "is empty": {"text": "a", "speech": "<sosp><eosp>"},
        "one whole stretch": {"text": "a", "speech": "<soim><👀1><eoim>"},
    }
    file = tmp_path / "bad.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in bad.values()))
    with pytest.raises(ManifestError) as caught:
        Dialogues.open(file, reader=formats.read_pair)
    for number, reason in enumerate(bad, 1):
        assert f"line {number}: " in str(caught.value)
        assert reason in str(caught.value)
    with pytest.raises(ManifestError, match="robot"):
        formats.read_conversation({"conversation": [[{"role": "robot", "message": "x"}]]}, tmp_path)
    assert read_stretch("<sosp><👀1><eosp>") is None


@pytest.fixture(scope="module")
def seed():
    torch.manual_seed(0)
    return SeedTokenizer(SeedConfig()).eval()


def test_an_image_is_codes_and_an_embedding(seed):
    assert isinstance(seed, ImageTokenizer)
    images = torch.rand(2, 3, 40, 31, generator=torch.Generator().manual_seed(0))
    codes = seed.encode_images(images)
    assert codes.shape == (2, 4)
    assert int(codes.max()) < 16
    assert torch.equal(seed.encode_images(images[1:])[0], codes[1])
    assert seed.decode_images(codes).shape == (2, 16)
    assert not torch.equal(seed.decode_images(codes), seed.decode_images((codes + 1) % 16))
    with pytest.raises(TokensError, match="4 codes; 3"):
        seed.decode_images(codes[:, :3])
    with pytest.raises(TokensError, match="0 to 15"):
        seed.decode_images(codes + 16)


def test_the_full_published_set_of_names_fills_the_image_tokenizer():
    config = published_seed()
    with torch.device("meta"):
        model = SeedTokenizer(config)
    official = export(model.state_dict(), seed_convert.TABLE)
    assert official["visual_encoder.blocks.38.attn.q_bias"].shape == (1408,)
    assert official["Qformer.bert.encoder.layer.10.crossattention.self.key.weight"].shape == (768, 1408)
    assert "Qformer.bert.encoder.layer.11.crossattention.self.key.weight" not in official
    assert official["quantize.embedding.weight"].shape == (8192, 32)
    assert official["distill_image_proj.weight"].shape == (1024, 1024)
    assert seed_convert.config_of(official) == config
    official["Qformer.bert.embeddings.position_ids"] = torch.empty(1, 512, device="meta")
    assert rename(official, model.state_dict(), seed_convert.TABLE).is_complete
    del official["pos_embed"]
    without = {name: value for name, value in official.items() if not name.startswith("blocks.")}
    assert seed_convert.config_of(without) == replace(config, keeps_reconstruction=False)
    with pytest.raises(CheckpointError, match="query_tokens"):
        seed_convert.config_of({k: v for k, v in official.items() if k != "query_tokens"})


def test_music_codes_are_interleaved_by_frames():
    kind = VOCABULARY.layout["music"]
    codes = np.array([[0, 7], [1, 2]])
    assert kind.flatten(codes).tolist() == [0, 9, 7, 10]
    assert np.array_equal(kind.unflatten([0, 9, 7, 10, 3]), codes)
