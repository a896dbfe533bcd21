import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from voder.errors import CheckpointError
from voder.interop import (
    WEIGHT_NORM,
    RenameTable,
    Rule,
    export,
    load_foreign,
    read_state,
    rename,
    rules,
    write_state,
)

TABLE = RenameTable(
    Rule("net.{i}.special.{w}", "first.{i}.{w}"),
    Rule("net.{i}.{w...}", "second.{i}.{w...}"),
    spelling=WEIGHT_NORM,
    ignored=("debug.{rest...}",),
    ours_only=("steps",),
)


def test_the_first_rule_wins_and_every_rule_inverts():
    pairs = {"net.0.special.bias": "first.0.bias", "net.0.other.bias": "second.0.other.bias"}
    for foreign, ours in pairs.items():
        assert TABLE.to_ours(foreign) == ours
        assert TABLE.to_foreign(ours) == foreign
    assert TABLE.to_ours("else.bias") is None
    assert TABLE.to_foreign("else.bias") is None


def test_both_spellings_of_weight_norm_are_read_and_the_old_one_is_written():
    ours = "second.3.conv.parametrizations.weight.original0"
    assert TABLE.to_ours("net.3.conv.weight_g") == ours
    assert TABLE.to_ours("net.3.conv.parametrizations.weight.original0") == ours
    assert TABLE.to_foreign(ours) == "net.3.conv.weight_g"


def test_placeholders_match_one_part_or_many():
    table = RenameTable(Rule("a.{x}.c", "one.{x}"), Rule("a.{x...}.c", "many.{x...}"))
    assert table.to_ours("a.b.c") == "one.b"
    assert table.to_ours("a.b.b.c") == "many.b.b"
    with pytest.raises(ValueError, match="placeholders"):
        Rule("a.{x}", "b.{y}")


def test_everything_that_does_not_fit_is_named():
    own = {
        "second.0.a": torch.zeros(2),
        "second.0.b": torch.zeros(3),
        "second.0.c": torch.zeros(1),
        "steps": torch.zeros(()),
    }
    foreign = {"net.0.a": torch.ones(2), "net.0.b": torch.ones(4), "what": torch.ones(1), "debug.x.y": torch.ones(1)}
    coverage = rename(foreign, own, TABLE)
    assert not coverage.is_complete
    assert (coverage.leftover, coverage.missing, coverage.ignored) == (("what",), ("second.0.c",), ("debug.x.y",))
    summary = coverage.summary()
    for part in ("left over: what", "missing: second.0.c", "second.0.b [4] instead of [3]"):
        assert part in summary


def test_two_names_for_one_tensor_are_refused():
    table = RenameTable(Rule("a.{w}", "x.{w}"), Rule("b.{w}", "x.{w}"))
    coverage = rename({"a.w": torch.ones(1), "b.w": torch.ones(1)}, {"x.w": torch.zeros(1)}, table)
    assert coverage.twice == ("x.w",)
    assert not coverage.is_complete


def test_loading_is_strict_and_export_gives_it_back():
    module = nn.Linear(2, 3)
    table = RenameTable(Rule("fc.{w}", "{w}"))
    foreign = {"fc.weight": torch.randn(3, 2), "fc.bias": torch.randn(3)}
    coverage = load_foreign(module, foreign, table, "here")
    assert coverage.summary() == "2 tensors filled, 0 ignored, none left over"
    torch.testing.assert_close(export(module.state_dict(), table), foreign)
    with pytest.raises(CheckpointError, match="in here do not fit this model: missing: bias"):
        load_foreign(module, {"fc.weight": torch.zeros(3, 2)}, table, "here")
    with pytest.raises(CheckpointError, match=r"no place .* extra"):
        export({"second.extra": torch.zeros(1), "extra": torch.zeros(1)}, TABLE)


def test_files_are_read_as_plain_tensors_only(tmp_path):
    state = {"a": torch.randn(2).half(), "n": torch.tensor(3)}
    save_file(state, tmp_path / "x.safetensors")
    torch.save(state, tmp_path / "x.th")
    for name in ("x.safetensors", "x.th"):
        read = read_state(tmp_path / name)
        assert read["a"].dtype == torch.float32
        assert read["n"].dtype == torch.int64
        assert torch.equal(read["a"], state["a"].float())


class Bomb:
    """Would run code when unpickled."""

    def __reduce__(self):
        return (print, ("boom",))


def test_damaged_and_dangerous_files_are_refused(tmp_path, capsys):
    for protocol in (2, 5):
        (tmp_path / f"bomb{protocol}.th").write_bytes(pickle.dumps({"a": Bomb()}, protocol))
    torch.save({"a": {"b": torch.zeros(1)}}, tmp_path / "nested.th")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    (tmp_path / "empty.th").write_bytes(b"")
    for name in ("bomb2.th", "bomb5.th", "nested.th", "junk.safetensors", "empty.th", "absent.th"):
        with pytest.raises(CheckpointError, match=name.partition(".")[0]):
            read_state(tmp_path / name)
    assert capsys.readouterr().out == ""


def test_pairs_of_layers_behind_prefixes_are_rules_of_weights_and_biases():
    table = RenameTable(*rules("net.{i}.", "blocks.{i}.", {"fc1": "inward", "fc2": "outward"}))
    assert table.to_ours("net.3.fc1.weight") == "blocks.3.inward.weight"
    assert table.to_foreign("blocks.0.outward.bias") == "net.0.fc2.bias"
    assert table.to_ours("net.3.fc3.weight") is None


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_state_that_was_written_is_read(tmp_path, name):
    state = {"strided": torch.arange(6.0).view(2, 3).T, "count": torch.tensor(7)}
    write_state(tmp_path / name, state)
    back = read_state(tmp_path / name)
    assert all(torch.equal(back[key], state[key]) for key in state)
    assert [file.name for file in tmp_path.iterdir()] == [name]
