"""Devices and precisions: what cannot be had is said before work starts."""

import pytest
import torch

from voder.devices import autocast, check_precision, resolve_device
from voder.errors import ResourceError


def test_auto_takes_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"
    assert resolve_device("cpu").type == "cpu"


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_an_absent_gpu_is_refused_by_number(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ResourceError, match=rf"--device {name} was asked for, but this machine shows {count} GPUs"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cpu:cpu"])
def test_another_name_is_refused_with_those_allowed(name: str) -> None:
    with pytest.raises(ResourceError, match="is no device; allowed are auto, cpu, cuda"):
        resolve_device(name)


def test_bf16_acts_and_fp32_leaves_everything() -> None:
    product = {}
    for precision in ("fp32", "bf16"):
        with autocast(torch.device("cpu"), precision):
            product[precision] = torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype
    assert product == {"fp32": torch.float32, "bf16": torch.bfloat16}


def test_bf16_is_refused_where_the_gpu_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(ResourceError, match="Old GPU has no bf16; use --precision fp32"):
        check_precision(torch.device("cuda"), "bf16")
    check_precision(torch.device("cuda"), "fp32")
    check_precision(torch.device("cpu"), "bf16")
