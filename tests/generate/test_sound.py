"""Codes of different lengths sound in a batch as they do alone, and what came before can be left out."""

import numpy as np
import torch

from voder import hub
from voder.generate.sound import decode_codes


def test_a_batch_sounds_like_its_parts_and_a_beginning_can_be_cut_off():
    torch.manual_seed(0)
    codec = hub.build("spectral/tiny").eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, codec.codebook_size, (codec.num_codebooks, frames)) for frames in (7, 1, 12)]
    together = decode_codes(codec, codes)
    for clip, each in zip(together, codes, strict=True):
        assert clip.samples.shape == (codec.channels, each.shape[1] * codec.hop)
        np.testing.assert_allclose(clip.samples, codec.decode(each).samples, atol=1e-5)
    cut = decode_codes(codec, codes, skip=[3, 0, 12])
    assert [clip.num_samples // codec.hop for clip in cut] == [4, 1, 0]
    np.testing.assert_array_equal(cut[0].samples, together[0].samples[:, 3 * codec.hop :])
