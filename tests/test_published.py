"""Weights that are elsewhere are known by the name that their authors gave them."""

from pathlib import Path

from voder.published import licence_of
from voder.systems.hubert.convert import ELSEWHERE


def test_a_licence_follows_from_the_name_of_file_or_folder():
    assert licence_of(Path("somewhere/wav2vec2-base"), ELSEWHERE) == "Apache-2.0"
    assert licence_of(Path("mhubert_base_vp_en_es_fr_it3.pt"), ELSEWHERE) == "MIT"
    assert licence_of(Path("of_mine.pt"), ELSEWHERE) == "as its source states"
