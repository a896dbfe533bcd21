"""The equalities that voder promises, checked on the `tiny` preset of a system that was trained for a few steps.

    batched = alone           padding and batching change no output
    streamed = whole          piece by piece gives what the whole recording gives, pieces of any size
    cached = recomputed       the key-value cache changes no hidden state
    loaded = saved            a checkpoint read and written again has the same identity
    resumed = uninterrupted   the second half of a run, gone on with from its first half, ends in the same weights
    repeated = first          nothing is random unless another seed is asked for

A system gets these by its roles and by the shared parts it is built from; it writes nothing for them.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from voder import checkpoint, hub
from voder.config import to_dict
from voder.data.randomness import torch_generator
from voder.evaluate.bench import STEPS, Bench, quiet
from voder.evaluate.role_equalities import ROLES, Equality, distance
from voder.nn.attention import causal_mask
from voder.nn.cache import StaticCache
from voder.nn.transformer import Transformer
from voder.train.run import train


def check(system: str, bench: Bench) -> list[Equality]:
    """Check every equality that applies to a system (its preset `tiny`, or `system/preset`).

    Raises:
        ConfigError: no such system.
    """
    run = bench.trained(system)
    role = hub.load(run)
    results = [_loaded_is_saved(run, bench.folder / "again"), _resumed_is_uninterrupted(system, run, bench)]
    for kind, check_role in ROLES.items():
        if isinstance(role, kind):
            results += check_role(role, bench)
    return results + list(_cached_is_recomputed(role, bench.seed))


def _loaded_is_saved(run: Path, again: Path) -> Equality:
    model, found, config = hub.load_model(run)
    shutil.rmtree(again, ignore_errors=True)
    own = {name: value for name, value in model.state_dict().items() if name not in found.borrowed}
    parts, borrowed = found.parts, found.borrowed
    checkpoint.save(again, system=found.system, config=config, state=own, parts=parts, borrowed=borrowed)
    differing = float(checkpoint.identity(again) != checkpoint.identity(run))
    differing += float(checkpoint.read(again).config != to_dict(config))
    return Equality(name="loaded = saved", difference=differing, tolerance=0)


def _resumed_is_uninterrupted(system: str, run: Path, bench: Bench) -> Equality:
    """Take away all that came after the middle of a run, go on, and compare the ends."""
    resumed, middle, last = run.with_name(f"{run.name}-resumed"), f"step-{STEPS // 2:08d}", f"step-{STEPS:08d}"
    shutil.rmtree(resumed, ignore_errors=True)
    shutil.copytree(run, resumed)
    shutil.rmtree(resumed / "checkpoints" / last)
    (resumed / "checkpoints" / "best.json").unlink()
    (resumed / "trainer" / f"{last}.pt").unlink()
    if not (resumed / "checkpoints" / middle).is_dir():
        raise AssertionError(f"{run} has no checkpoint of its middle")
    train(bench.request(system, resumed), say=quiet)
    ends = [checkpoint.load_state(folder / "checkpoints" / last) for folder in (run, resumed)]
    worst = max(distance(ends[0][name], ends[1][name]) for name in ends[0])
    same_log = (run / "metrics.jsonl").read_text() == (resumed / "metrics.jsonl").read_text()
    return Equality(name="resumed = uninterrupted", difference=worst if same_log else float("inf"), tolerance=0)


def _cached_is_recomputed(role: nn.Module, seed: int) -> Iterator[Equality]:
    """Feed every transformer of a system a sequence at once, and in pieces of several sizes through a cache."""
    worst, found = 0.0, False
    for module in role.modules():
        if isinstance(module, Transformer) and module.final_norm.plain is not None:
            found = True
            for sizes in ((12,), (5, 1, 1, 1, 4), (1,) * 12):
                worst = max(worst, _cache_difference(module, sizes, seed))
    if found:
        yield Equality(name="cached = recomputed", difference=worst, tolerance=1e-4)


@torch.no_grad()
def _cache_difference(transformer: Transformer, sizes: Sequence[int], seed: int) -> float:
    total = sum(sizes)
    x = torch.randn(2, total, transformer.config.width, generator=torch_generator(seed, "cache", total))
    positions = torch.arange(total)[None].expand(2, -1)
    mask = causal_mask(torch.ones(2, total, dtype=torch.bool))
    whole = transformer(x, positions=positions, mask=mask)
    cache, pieces, start = StaticCache(transformer.config.num_layers, total), [], 0
    for size in sizes:
        end = start + size
        rows = mask[:, start:end, :end]
        pieces.append(transformer(x[:, start:end], positions=positions[:, start:end], mask=rows, cache=cache))
        start = end
    return distance(torch.cat(pieces, dim=1), whole)
