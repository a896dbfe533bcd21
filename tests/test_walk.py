"""What every system of the table says of itself: its stages, its parts, its card; and that plans need no memory.

A new system needs a line in `voder.systems.SYSTEMS` and nothing here.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import voder.systems
from voder import exits, hub
from voder.cli import main
from voder.config import resolve
from voder.errors import ConfigError
from voder.evaluate.papers import CATEGORIES
from voder.evaluate.plan import describe
from voder.systems import SYSTEMS
from voder.train.stages import Stage, freeze_all_but, learns
from voder.verbs.training import MADE_HERE

every_system = pytest.mark.parametrize("system", list(SYSTEMS))
EVERY_PRESET = [f"{name}/{preset}" for name in SYSTEMS for preset in hub.find(name).presets]
FOLDER = Path(voder.systems.__file__).parent
ANATOMY = ("encoder", "input projector", "language model", "output projector", "generator")
OF_OUR_OWN = {"ctc", "spectral"}
"""Networks that were never published in a size."""
TRAINED_AT_ONCE = {"lm", "soundstorm", "speechtokenizer"}
"""Systems of one stage, whose presets say all there is to say of it."""


def published(system: hub.System) -> list[str]:
    """Presets of published sizes."""
    return [name for name in system.presets if name.rpartition("_")[2] not in MADE_HERE and name not in MADE_HERE]


@pytest.mark.parametrize("name", EVERY_PRESET)
def test_a_preset_is_built_without_memory(name: str) -> None:
    system, _, preset = name.partition("/")
    found = hub.find(system)
    with torch.device("meta"):
        model = found.build(found.preset(preset).model)
    parameters = dict(model.named_parameters())
    here = {n: p for n, p in parameters.items() if p.device.type != "meta"}
    assert sum(p.numel() for p in here.values()) < 10_000, sorted(here)
    assert sum(p.numel() for p in parameters.values()) > 0


@every_system
def test_a_system_has_a_published_size(system: str) -> None:
    assert published(hub.find(system)) or system in OF_OUR_OWN


@every_system
def test_stages_are_values_whose_settings_exist(system: str) -> None:
    found = hub.find(system)
    assert found.stages or system in TRAINED_AT_ONCE
    for stage in found.stages.values():
        assert isinstance(stage, Stage)
        assert stage.summary
        assert stage.section
        assert stage.data
        assert all(weight > 0 for weight in stage.losses.values())
        for preset in published(found):
            moved = resolve(found.preset(preset), overrides=[*stage.settings, *stage.task_settings])
            assert moved == resolve(moved, overrides=[*stage.settings, *stage.task_settings])
        for preset in found.presets:
            resolve(found.preset(preset), overrides=stage.task_settings)


UNSEEN = {"llmtts": {"reader.said."}}
"""What stages train that no preset for tests has: a head of its own, where the language model's is not tied."""


@every_system
def test_what_a_stage_trains_exists_and_the_rest_is_frozen(system: str) -> None:
    found = hub.find(system)
    for name, stage in found.stages.items():
        there: list[str] = []
        for preset in (each for each in found.presets if each == "tiny" or each.endswith("_tiny")):
            config = resolve(found.preset(preset), overrides=stage.task_settings)
            with torch.device("meta"):
                model = found.build(config.model)
            names = [n for n, _ in model.named_parameters()]
            freeze_all_but(model, tuple(p for p in stage.trained if any(learns(n, (p,)) for n in names)))
            learning = [n for n, p in model.named_parameters() if p.requires_grad]
            assert learning, name
            assert all(learns(n, stage.trained) for n in learning)
            there += learning
        missing = {prefix for prefix in stage.trained if not any(learns(n, (prefix,)) for n in there)}
        assert missing <= UNSEEN.get(system, set()), name


@every_system
def test_the_parts_are_named_as_the_survey_names_them(system: str) -> None:
    found = hub.find(system)
    assert found.anatomy is not None
    described: set[tuple[Any, ...]] = set()
    for preset in found.presets:
        parts = found.anatomy(found.preset(preset).model)
        assert parts
        assert list(parts) == [part for part in ANATOMY if part in parts]  # these names, in this order
        for phrase in parts.values():
            assert 0 < len(phrase) < 300
            assert "\n" not in phrase
        described.add(tuple(parts.items()))
    # made of the configuration's numbers: presets of other sizes read differently
    assert len(described) > 1 or len(found.presets) == 1


@every_system
def test_a_card_says_what_the_system_is(system: str) -> None:
    text = (FOLDER / system / "README.md").read_text(encoding="utf-8")
    opening, front, body = text.split("---\n", 2)
    assert opening == ""
    card = yaml.safe_load(front)
    assert card["name"] == system
    assert card["title"]
    assert isinstance(card["year"], int)
    assert card["category"] in CATEGORIES
    assert card["keywords"]
    assert tuple(card["roles"]) == hub.find(system).roles
    assert card["link"].startswith("https://")
    assert "weights" in card or "models" in card
    assert body.strip().startswith(f"# {system}")


def test_a_stage_that_names_no_parameter_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no parameter begins with 'decodr'; they begin with .*decoder"):
        freeze_all_but(hub.build("whisper/tiny"), ("decodr",))


@every_system
def test_the_plan_of_every_stage_is_told_without_weights(system: str) -> None:
    found = hub.find(system)
    preset = (published(found) or ["tiny"])[0]
    for name, stage in found.stages.items():
        config = resolve(found.preset(preset), overrides=[*stage.settings, *stage.task_settings])
        plan = describe(found, config, preset=preset, stage_name=name)
        assert stage.summary in plan
        assert f"{config.loop.steps:,}" in plan
        assert ("recalled" in plan) == bool(stage.recalled)


def test_a_stage_that_is_only_planned_is_not_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = [(name, stage) for name in SYSTEMS for stage, value in hub.find(name).stages.items() if not value.runs]
    assert ("beats", "iteration1") in planned
    for name, stage in planned:
        command = [
            "train",
            name,
            "--stage",
            stage,
            "--preset",
            "tiny",
            "--data",
            str(tmp_path),
            "-o",
            str(tmp_path / "x"),
        ]
        assert main(command) == exits.USER
        assert f"stage {stage} of {name} can be planned (--dry-run) but not trained here" in capsys.readouterr().err
        assert not (tmp_path / "x").exists()
