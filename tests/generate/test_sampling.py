"""One id per row: supports, greedy, independence of rows, and that every option acts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from voder.errors import ConfigError
from voder.generate.sampling import RowNoise, SamplingConfig, choose, penalise, probabilities, sampling_config

LOGITS = torch.tensor([[2.0, 1.0, 0.5, -1.0, -3.0]])


def support(config: SamplingConfig) -> list[int]:
    noise = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    return sorted(set(choose(LOGITS.expand(1000, -1), config, noise).tolist()))


def test_greedy_is_argmax() -> None:
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    chosen = choose(logits, SamplingConfig(greedy=True), torch.zeros(20))
    assert torch.equal(chosen, logits.argmax(dim=-1))


def test_without_limits_everything_may_be_said() -> None:
    assert support(SamplingConfig()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_top_k_says_only_the_k_most_probable(k: int) -> None:
    assert support(SamplingConfig(top_k=k)) == list(range(k))


@pytest.mark.parametrize(("p", "expected"), [(0.1, [0]), (0.75, [0, 1]), (0.9, [0, 1, 2]), (1.0, [0, 1, 2, 3, 4])])
def test_top_p_says_the_smallest_set_that_reaches_p(p: float, expected: list[int]) -> None:
    assert support(SamplingConfig(top_p=p)) == expected


@given(u=st.floats(0, 1, exclude_max=True), temperature=st.floats(0.05, 5))
def test_an_id_without_probability_is_never_said(u: float, temperature: float) -> None:
    logits = torch.tensor([[-torch.inf, 0.3, -torch.inf, 0.1, -torch.inf]])
    chosen = choose(logits, SamplingConfig(temperature=temperature), torch.tensor([u], dtype=torch.float64))
    assert int(chosen) in (1, 3)


def test_frequencies_follow_the_probabilities() -> None:
    config = SamplingConfig(temperature=0.7)
    noise = torch.rand(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.bincount(choose(LOGITS.expand(40_000, -1), config, noise), minlength=5) / 40_000
    torch.testing.assert_close(counts.double(), probabilities(LOGITS, config)[0], atol=0.01, rtol=0)


def test_temperature_sharpens_and_flattens() -> None:
    cold, warm = (probabilities(LOGITS, SamplingConfig(temperature=t))[0, 0] for t in (0.2, 3.0))
    assert cold > 0.98
    assert warm < 0.4


def test_what_was_said_becomes_less_probable() -> None:
    penalised = penalise(LOGITS, torch.tensor([[0, -1, 3]]), 2.0)
    assert penalised.tolist() == [[1.0, 1.0, 0.5, -2.0, -3.0]]


def test_a_row_has_its_own_noise() -> None:
    def drawn(seeds: list[int], steps: int) -> torch.Tensor:
        noise = RowNoise([torch.Generator().manual_seed(seed) for seed in seeds], torch.device("cpu"))
        return torch.stack([noise.next().clone() for _ in range(steps)])

    together, alone = drawn([5, 6, 7], 300), drawn([6], 300)
    assert torch.equal(together[:, 1], alone[:, 0])
    assert not torch.equal(together[:, 0], together[:, 1])


def test_noise_follows_the_rows_that_stay() -> None:
    def fresh() -> RowNoise:
        return RowNoise([torch.Generator().manual_seed(seed) for seed in (5, 6)], torch.device("cpu"))

    kept, whole = fresh(), fresh()
    kept.next(), whole.next()
    kept.select(torch.tensor([1]))
    for _ in range(300):  # beyond the block drawn at once
        assert float(kept.next()[0]) == float(whole.next()[1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"repetition_penalty": 0.5},
        {"repetition_window": -2},
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ConfigError, match=f"{name} {value}"):
        SamplingConfig(**wrong)  # type: ignore[arg-type]


def test_what_is_not_given_is_the_systems_own() -> None:
    made = sampling_config({"top_k": 3, "temperature": None}, {"temperature": 0.6, "top_k": 10})
    assert made == SamplingConfig(temperature=0.6, top_k=3)
    with pytest.raises(ConfigError, match="the nearest is 'top_k'"):
        sampling_config({"topk": 3}, {})
