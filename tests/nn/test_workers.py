"""Two gloo processes with half of a batch each move codebooks and balancer as one process does with all of
it."""

import json
import os
import subprocess
import sys

SCRIPT = """
import json, os, sys
import torch, torch.distributed as dist
from voder.nn.balancer import Balancer
from voder.nn.quantize.rvq import ResidualVectorQuantizer, RVQConfig
from voder.nn.workers import gather_rows

def run(rank, world):
    torch.manual_seed(0)
    config = RVQConfig(
        num_codebooks=2, codebook_size=8, dim=3, decay=0.5, kmeans_iterations=3, dropout=0.5, dead_threshold=0.5
    )
    model, balancer = ResidualVectorQuantizer(config), Balancer({"a": 1.0, "b": 1.0}, decay=0.5)
    for step in range(3):
        data = torch.randn(4, 3, 10, generator=torch.Generator().manual_seed(step))[rank::world]
        torch.manual_seed(100 * step + rank)  # ranks have seeds of their own
        model(data)
        y = data.clone().requires_grad_()
        balancer({"a": y.square().mean(), "b": y.abs().mean()}, y)
    state = {**model.state_dict(), **balancer.state_dict()}
    return {name: value.flatten().tolist() for name, value in state.items()}

torch.set_num_threads(1)
alone = run(0, 1)
children = []
for rank in range(2):
    if (child := os.fork()) == 0:
        status = 1
        try:
            store = f"file://{sys.argv[1]}/store"
            dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
            together = run(rank, 2)
            assert len(gather_rows(torch.ones(rank + 1, 2))) == 3
            open(f"{sys.argv[1]}/{rank}.json", "w").write(json.dumps(together))
            dist.destroy_process_group()
            status = 0
        finally:
            os._exit(status)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
open(f"{sys.argv[1]}/alone.json", "w").write(json.dumps(alone))
"""


def test_two_workers_are_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    alone, first, second = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("alone", 0, 1))
    assert first == second
    assert alone.keys() == first.keys()
    for name, values in alone.items():
        assert all(abs(a - b) < 1e-4 for a, b in zip(values, first[name], strict=True)), name
