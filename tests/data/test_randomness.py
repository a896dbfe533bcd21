"""Every generator is a function of its seed and stream, and nothing else."""

import numpy as np
import torch

from voder.data.randomness import fold, generator, torch_generator


def test_the_same_stream_gives_the_same_numbers_and_others_differ():
    draw = [
        generator(*key).random(4).tolist() for key in [(0, "crop", 1), (0, "crop", 1), (0, "crop", 2), (1, "crop", 1)]
    ]
    assert draw[0] == draw[1]
    assert draw[0] != draw[2]
    assert draw[0] != draw[3]


def test_streams_are_told_apart_by_type_and_boundaries():
    keys = [(0, "a", "b"), (0, "ab"), (0, "1"), (0, 1), (0, 1, 1), (0, 11), (0,), (1,), (-1,)]
    assert len({fold(*key) for key in keys}) == len(keys)


def test_values_are_fixed_for_ever():
    assert fold(0) == 4774516902939907285
    assert fold(7, "crop", 3) == 379330854232882029
    np.testing.assert_allclose(generator(0, "x").random(2), [0.9854933, 0.84202431], atol=1e-8)


def test_torch_generators_follow_the_stream_and_leave_the_global_one_alone():
    before = torch.random.get_rng_state()
    a, b, c = (torch.rand(3, generator=torch_generator(5, "noise", step)) for step in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(before, torch.random.get_rng_state())
