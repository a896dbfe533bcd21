import io
import json

import torch
from safetensors.torch import save_file

from voder.evaluate.verify import runners, verify_fixtures


def case(folder, name, kind):
    meta = {"kind": kind, "tensors": {"out/y": {"atol": 0.01}}}
    (folder / f"{name}.json").write_text(json.dumps(meta))
    save_file({"out/y": torch.ones(2)}, folder / f"{name}.safetensors")


def missing(_):
    raise ModuleNotFoundError("no pesq", name="pesq")


def broken(_):
    raise ValueError("boom")


KINDS = {
    "toy/right": lambda _: {"y": torch.ones(2) + 0.001},
    "toy/wrong": lambda _: {"y": torch.ones(2) + 0.1},
    "toy/missing": missing,
    "toy/broken": broken,
}


def report(folder):
    result = verify_fixtures(folder, kinds=KINDS)
    out = io.StringIO()
    result.print(out)
    return result, out.getvalue()


def test_every_fate_is_counted_named_and_explained(tmp_path):
    for name in ("right", "wrong", "missing", "broken", "unknown"):
        case(tmp_path, name, f"toy/{name}")
    result, text = report(tmp_path)
    assert {o.case.split("/")[1]: o.status for o in result.outcomes} == {
        "broken": "fail",
        "missing": "skipped",
        "right": "pass",
        "unknown": "unhandled",
        "wrong": "fail",
    }
    assert text.splitlines()[-1] == "1 passed, 2 failed, 1 skipped, 1 unhandled"
    assert result.exit_code == 1
    for part in ("y: error 0.1", "needs the package pesq", "ValueError: boom", "no system handles 'toy/unknown'"):
        assert part in text


def test_without_failures_the_exit_code_is_zero(tmp_path):
    case(tmp_path, "right", "toy/right")
    case(tmp_path, "unknown", "toy/unknown")
    result, text = report(tmp_path)
    assert result.exit_code == 0
    assert text.splitlines()[-1] == "1 passed, 0 failed, 0 skipped, 1 unhandled"
    columns = text.splitlines()[1].split()
    assert columns[1:] == ["0.001", "0.01", "pass"]


def test_systems_bring_their_runners():
    found = runners()
    assert {"encodec/rvq", "audiocraft/losses", "fsq/notebook"} <= found.keys()
