"""`voder doctor`: facts about the installation, without touching anything."""

import sys
from types import ModuleType

import pytest
import torch

from voder.evaluate import doctor


def test_facts_cover_what_a_report_of_a_fault_needs() -> None:
    facts = doctor.examine()
    assert {"versions", "torch build", "processors", "gpus", "audio", "extras", "disk", "memory"} <= facts.keys()
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["audio"]["mp3"] in ("yes", "no")
    assert set(facts["extras"]) >= {"metrics", "all", "dev"}
    page = doctor.describe(facts)
    assert len(page.splitlines()) == len(facts)


def test_an_extra_that_lacks_something_says_what(monkeypatch: pytest.MonkeyPatch) -> None:
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "pystoi" else known(name))
    assert doctor.examine()["extras"]["metrics"] == "lacks pystoi"


def test_a_broken_neighbour_of_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ModuleType("torchaudio")
    monkeypatch.setitem(sys.modules, "torchaudio", broken)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())

    def fail(name: str) -> None:
        raise OSError("undefined symbol")

    monkeypatch.setattr(doctor.importlib, "import_module", fail)
    assert doctor._loadable("torchaudio") == "broken: undefined symbol"
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert doctor._loadable("torchaudio") == "absent (good)"


def test_gpus_are_listed_by_name_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        name, total_memory, major, minor = "Card", 80 * 2**30, 9, 0

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Card)
    assert doctor.examine()["gpus"] == ["Card (80 GiB, capability 9.0)"]
