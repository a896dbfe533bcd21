import json

import pytest
import torch
from safetensors.torch import save_file

from voder.errors import InputError
from voder.fixtures import Judged, compare, find_cases, json_difference, read_case


def write(folder, name="case", out_json=None, **outputs):
    """A case whose outputs are (tensor, tolerance or None for exact)."""
    specs = {
        f"out/{n}": {"match": "exact"} if tolerance is None else {"atol": tolerance}
        for n, (_, tolerance) in outputs.items()
    }
    meta = {"kind": "toy/add", "args": {"n": 1}, "tensors": specs} | ({"out_json": out_json} if out_json else {})
    (folder / f"{name}.json").write_text(json.dumps(meta))
    tensors = {f"out/{n}": value for n, (value, _) in outputs.items()}
    tensors |= {"in/x": torch.ones(2), "weights/a.w": torch.ones(3).half(), "weights/a.i": torch.tensor([1])}
    save_file(tensors, folder / f"{name}.safetensors")
    return read_case(folder / f"{name}.json")


def test_a_case_is_read_with_float32_weights(tmp_path):
    case = write(tmp_path, y=(torch.zeros(2), 0.1))
    assert case.name == f"{tmp_path.name}/case"
    assert (case.kind, case.args) == ("toy/add", {"n": 1})
    assert case.weights["a.w"].dtype == torch.float32
    assert case.weights_under("a.").keys() == {"w", "i"}
    assert case.weights["a.i"].dtype == torch.int64
    assert case.tolerance("y") == 0.1


@pytest.mark.parametrize(
    ("got", "problem"),
    [
        ({"y": torch.tensor([0.0, 1.05]), "i": torch.tensor([1, 2])}, ""),
        ({"y": torch.tensor([0.0, 1.2]), "i": torch.tensor([1, 2])}, "y: error 0.2"),
        ({"y": torch.tensor([0.0, 1.0]), "i": torch.tensor([1, 3])}, "i: 1 of 2 values differ"),
        ({"y": torch.tensor([0.0]), "i": torch.tensor([1, 2])}, "y: shape [1] instead of [2]"),
        ({"y": torch.tensor([0.0, float("nan")]), "i": torch.tensor([1, 2])}, "y: infinite values differ"),
        ({"i": torch.tensor([1, 2])}, "y: the runner gave nothing"),
        ({"y": 3, "i": torch.tensor([1, 2])}, "y: the runner gave int"),
    ],
)
def test_every_recorded_output_must_come_back(tmp_path, got, problem):
    case = write(tmp_path, y=(torch.tensor([0.0, 1.0]), 0.1), i=(torch.tensor([1, 2]), None))
    problems = compare(case, got).problems
    assert [problem] == [p[: len(problem)] for p in problems] if problem else problems == ()


def test_infinities_must_be_the_same_ones(tmp_path):
    inf = float("inf")
    case = write(tmp_path, y=(torch.tensor([inf, 1.0]), 0.1))
    assert not compare(case, {"y": torch.tensor([inf, 1.0])}).problems
    assert compare(case, {"y": torch.tensor([-inf, 1.0])}).problems
    assert compare(case, {"y": torch.tensor([5.0, 1.0])}).problems


def test_the_output_closest_to_its_tolerance_is_shown(tmp_path):
    case = write(tmp_path, a=(torch.zeros(1), 1.0), b=(torch.zeros(1), 0.001))
    shown = compare(case, {"a": torch.tensor([0.5]), "b": torch.tensor([0.0009])})
    assert (shown.output, shown.tolerance) == ("b", 0.001)


def test_runners_may_judge_themselves(tmp_path):
    case = write(tmp_path, y=(torch.zeros(1), None))
    for passed in (True, False):
        judged = Judged(passed=passed, error=3.0, tolerance=5.0, note="of another machine")
        assert bool(compare(case, {"y": judged}).problems) != passed


def test_json_outputs_are_exact_but_for_the_size_of_floats(tmp_path):
    case = write(tmp_path, out_json={"t": {"a": [1, 2.0, "x"]}})
    assert not compare(case, {"t": {"a": [1, 2.0001, "x"]}}).problems
    for wrong in ({"a": [1, 2.1, "x"]}, {"a": [1, 2.0]}, {"b": []}, {"a": [1, 2.0, "y"]}, {"a": [2, 2.0, "x"]}):
        assert compare(case, {"t": wrong}).problems, wrong
    assert compare(case, {}).problems
    assert json_difference(1.0, True)


def test_folders_without_cases_and_damaged_cases_are_named(tmp_path):
    with pytest.raises(InputError, match="no reference vectors"):
        find_cases(tmp_path)
    case = write(tmp_path, y=(torch.zeros(1), None))
    assert find_cases(tmp_path) == [case.path] == find_cases(case.path)
    case.path.with_suffix(".safetensors").write_bytes(b"junk")
    with pytest.raises(InputError, match="damaged"):
        read_case(case.path)
    case.path.write_text("{")
    with pytest.raises(InputError, match="not readable JSON"):
        find_cases(tmp_path)
