"""Checkpoints of other software: recognised, converted, exported back, or refused by name."""

from pathlib import Path

import pytest
import torch

from voder import checkpoint, cli, conversion, hub
from voder.errors import CheckpointError, ConfigError
from voder.interop import Marks, Outside, look


def save_tiny(name: str, folder: Path) -> torch.nn.Module:
    """A checkpoint of a system's tiny preset."""
    torch.manual_seed(0)
    system = hub.find(name)
    config = system.preset("tiny").model
    model = system.build(config)
    checkpoint.save(folder, system=name, config=config, state=model.state_dict())
    return model


CASES = [
    ("encodec", "huggingface", "hf"),
    ("hubert", "huggingface", "hf"),
    ("hubert", "fairseq", "model.safetensors"),
    ("whisper", "openai", "model.pt"),
    ("whisper", "huggingface", "hf"),
    ("whisper", "ctranslate2", "ct2"),
    ("beats", "official", "model.pt"),
]


@pytest.mark.parametrize(("system", "layout", "name"), CASES)
def test_what_is_exported_is_recognised_and_comes_back_unchanged(
    system: str, layout: str, name: str, tmp_path: Path
) -> None:
    save_tiny(system, tmp_path / "ours")
    absent = conversion.export(tmp_path / "ours", tmp_path / name, layout)
    assert conversion.recognise(tmp_path / name) == system
    more = ["num_heads=2"] if layout == "fairseq" else []
    found, coverage = conversion.convert(tmp_path / name, tmp_path / "back", more=more)
    assert (found, coverage.is_complete) == (system, True)
    before, after = checkpoint.load_state(tmp_path / "ours"), checkpoint.load_state(tmp_path / "back")
    assert set(after) >= set(before) - set(absent)
    assert len(absent) < len(before) / 2
    for key in set(before) - set(absent):
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=0, msg=key)


def test_every_layout_that_is_promised_is_tried_here() -> None:
    promised = {(name, layout) for name, _ in conversion.converters() for layout in conversion.layouts(name)}
    elsewhere = {  # in the tests of the systems themselves, where sizes can be chosen
        ("encodec", "official"),
        ("unitvocoder", "fairseq"),
    }
    walked = {(system, layout) for system, layout, _ in CASES}
    assert walked | elsewhere <= promised
    assert all(name in dict(conversion.converters()) for name, _ in promised)


def test_official_files_are_recognised_by_their_names(tmp_path: Path) -> None:
    torch.save({"encoder.model.0.conv.conv.weight_g": torch.zeros(1)}, tmp_path / "x.th")
    assert conversion.recognise(tmp_path / "x.th") == "encodec"
    torch.save({"model": {"patch_embedding.weight": torch.zeros(1)}, "cfg": {}}, tmp_path / "y.pt")
    assert look(tmp_path / "y.pt").sections == {"model", "cfg"}
    assert conversion.recognise(tmp_path / "y.pt") == "beats"


def test_one_mark_is_enough_and_a_model_type_decides() -> None:
    marks = Marks(model_types=("a",), names=("x.", "y"), files=("one+two",))
    assert marks.fit(Outside(model_type="a"))
    assert not marks.fit(Outside(model_type="b", files=frozenset({"one", "two"})))
    assert marks.fit(Outside(files=frozenset({"one", "two", "three"})))
    assert not marks.fit(Outside(files=frozenset({"one"})))
    assert marks.fit(Outside(names=frozenset({"x.weight"})))
    assert not marks.fit(Outside(names=frozenset({"y.weight", "xx"})))


def test_what_nobody_knows_is_refused_with_what_was_seen(tmp_path: Path) -> None:
    torch.save({"strange.weight": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"its 1 tensors begin with strange.weight.*encodec"):
        conversion.recognise(tmp_path / "x.pt")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "teapot"}')
    with pytest.raises(CheckpointError, match="its model_type is teapot"):
        conversion.recognise(tmp_path / "hf")
    (tmp_path / "hf" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not readable"):
        conversion.recognise(tmp_path / "hf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no tensors and no config\.json"):
        conversion.recognise(tmp_path / "empty")


def test_nothing_runs_from_a_file(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path(tmp_path / "ran").touch, ())  # type: ignore[return-value]

    torch.save({"encoder.model.0.conv.conv.weight_g": Trap()}, tmp_path / "x.th")
    with pytest.raises(CheckpointError, match="not a readable checkpoint of plain tensors"):
        conversion.convert(tmp_path / "x.th", tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


def test_wrong_requests_are_refused_by_name(tmp_path: Path) -> None:
    save_tiny("encodec", tmp_path / "ours")
    conversion.export(tmp_path / "ours", tmp_path / "hf", "huggingface")
    with pytest.raises(ConfigError, match="no layout 'hugingface'; the nearest is 'huggingface'"):
        conversion.export(tmp_path / "ours", tmp_path / "x", "hugingface")
    with pytest.raises(ConfigError, match="exists; choose another name"):
        conversion.export(tmp_path / "ours", tmp_path / "hf", "huggingface")
    with pytest.raises(ConfigError, match="exists; choose another folder"):
        conversion.convert(tmp_path / "hf", tmp_path / "ours")
    with pytest.raises(ConfigError, match="does not take 'lmm=x'; the nearest is 'lm'"):
        conversion.convert(tmp_path / "hf", tmp_path / "back", more=["lmm=x"])
    with pytest.raises(ConfigError, match="lm=nowhere: there is no nowhere"):
        conversion.convert(tmp_path / "hf", tmp_path / "back", more=["lm=nowhere"])
    with pytest.raises(ConfigError, match="ctc has no foreign layouts"):
        conversion.convert(tmp_path / "hf", tmp_path / "back", system="ctc")
    with pytest.raises(CheckpointError, match=r"there is no .*gone"):
        conversion.convert(tmp_path / "gone", tmp_path / "back")
    save_tiny("ctc", tmp_path / "ctc")
    with pytest.raises(ConfigError, match="ctc has no layout 'huggingface'; it has none"):
        conversion.export(tmp_path / "ctc", tmp_path / "x", "huggingface")


def test_the_verbs_convert_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny("encodec", tmp_path / "ours")
    hf, back = str(tmp_path / "hf"), str(tmp_path / "back")
    assert cli.main(["export", str(tmp_path / "ours"), "--layout", "huggingface", "-o", hf]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{hf}\n"
    assert "without a place in that layout: quantizer.steps" in captured.err
    assert cli.main(["convert", hf, "-o", back]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{back}: encodec\n"
    assert "tensors filled" in captured.err
    assert cli.main(["convert", hf, "-o", back]) == 2
