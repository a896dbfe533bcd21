"""Parameters, gradients and optimiser state cut into one piece per process: FSDP2 for any Task.

`fully_shard` gathers a module's parameters around its `forward` and sums its gradients after its backward. A Task calls
what it likes (`model.encode`, a discriminator twice), so the root that is sharded here is not the model but the step:
its `forward` runs a Task's generator up to its next loss. Parameters in blocks are gathered block by block; all
others with the root, from its forward to the end of its backward.

Three things differ from one process unless they are seen to, and are:

* a parameter without a gradient on one rank takes part with zeros, and one without on every rank has none, so that
  its moments and its decay stand still;
* gradients are sums over ranks, not means: the loop divides by what the losses are means of;
* evaluation runs on the main rank alone: `gathered` brings every parameter there first, and nothing is gathered inside.

Ranks must run the same blocks in the same order. A Task whose blocks depend on the data says so by `blocks`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from voder.errors import ConfigError
from voder.train.pieces import is_cut
from voder.train.task import Loss, Task


class Sharding:
    """A Task's optimised modules, cut over all processes of the group."""

    def __init__(self, task: Task, device: torch.device, *, bf16: bool) -> None:
        """Shard in place. With `bf16`, what autocast would cast is gathered in bfloat16, and summed in float32."""
        self.modules = task.optimised
        # here, since it brings SymPy, which changes the warnings filter of whoever imports it
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        # inputs keep their type: autocast decides per operation, and residual streams stay in fp32
        half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        policies: dict[nn.Module, MixedPrecisionPolicy] = {}
        for block in without_shared(task.blocks(), self.modules):
            if bf16:
                policies |= dict.fromkeys(exact_parts(block), MixedPrecisionPolicy())
            policies.setdefault(block, half if bf16 else MixedPrecisionPolicy())
        self._step = _Step(self.modules)
        self._present: set[str] = set()
        self._seen: set[nn.Module] = set()
        self._watched: set[tuple[str, int]] = set()
        for block in policies:
            block.register_forward_hook(_own_outputs)  # before torch's own hook, which looks at them
        self.blocks = [fully_shard(block, mesh=mesh, mp_policy=policy) for block, policy in policies.items()]
        self._root = fully_shard(self._step, mesh=mesh)
        for module in [*self.blocks, self._root]:
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
            module.set_reduce_scatter_unused_params(True)
        for each in [*policies, self._step]:
            each.register_forward_pre_hook(self._watch)
        self._step(iter(()))  # makes it the root: torch takes the first that runs for that
        self.end_step()

    def next_loss(self, stream: Iterator[tuple[str, Loss]]) -> tuple[str, Loss] | None:
        """What `next(stream, None)` gives, with parameters in place, and ready for its backward."""
        try:
            loss: tuple[str, Loss] | None = self._step(stream)
        except RuntimeError as error:
            if "mixed torch.Tensor and DTensor" not in str(error):
                raise
            raise ConfigError(
                "loop.sharding is full, but a block is used other than by calling it; name those that are called in "
                "Task.blocks, or train with loop.sharding=none"
            ) from error
        return loss

    def end_step(self) -> None:
        """Let go of all gathered parameters, after the last loss of a step."""
        for module in [*self.blocks, self._root]:
            module.reshard()

    def settle_gradients(self, name: str) -> None:
        """Take away the zeros that stand for a gradient that no rank had, after the backward passes of a phase."""
        own = [(f"{name}.{n}", p) for n, p in self.modules[name].named_parameters()]
        present = torch.tensor([float(n in self._present) for n, _ in own], device=own[0][1].device)
        dist.all_reduce(present, op=dist.ReduceOp.MAX)
        for (_, parameter), anywhere in zip(own, present.tolist(), strict=True):
            if not anywhere:
                parameter.grad = None
        self._present.clear()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """All parameters whole on every rank, so that one of them can use the modules alone. All ranks must enter."""
        self._root.set_reshard_after_forward(False)
        for module in [*self.blocks, self._root]:
            module.unshard()
        try:
            yield
        finally:
            self._root.reset_iter_state()  # and forgets the order of what one rank ran alone: torch prefetches by it
            for block in self.blocks:
                block.set_reshard_after_forward(True)

    def _watch(self, module: nn.Module, arguments: Any) -> None:
        """Note from now on which parameters get gradients: those gathered for this module, at its first use."""
        if module in self._seen:
            return
        self._seen.add(module)
        for name, parameter in self._step.parts.named_parameters(remove_duplicate=False):
            key = (name, id(parameter))  # the gathered parameter is one object for the whole run
            if parameter.requires_grad and not is_cut(parameter) and key not in self._watched:
                self._watched.add(key)
                note = partial(self._note_gradient, name)
                parameter.register_post_accumulate_grad_hook(note)  # type: ignore[no-untyped-call]

    def _note_gradient(self, name: str, parameter: Tensor) -> None:
        self._present.add(name)


class _Step(nn.Module):
    """The root: what is computed between two losses of a step."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(modules)

    def forward(self, stream: Iterator[tuple[str, Loss]]) -> tuple[str, Loss] | None:
        """Go on to the next loss."""
        return next(stream, None)


def _own_outputs(module: nn.Module, arguments: Any, output: Any) -> Any:
    """Copy outputs that are views: a change in place of one, as of a residual stream, would lose torch's hook on it."""
    if isinstance(output, Tensor):
        return output.clone() if output._base is not None else output
    if isinstance(output, tuple | list):
        owned = [_own_outputs(module, arguments, item) for item in output]
        return type(output)(*owned) if hasattr(output, "_fields") else type(output)(owned)
    if isinstance(output, dict):
        return type(output)({key: _own_outputs(module, arguments, item) for key, item in output.items()})
    if is_dataclass(output) and not isinstance(output, type):
        items = {f.name: _own_outputs(module, arguments, getattr(output, f.name)) for f in fields(output) if f.init}
        return replace(output, **items)
    return output


HALF: tuple[type[nn.Module], ...] = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
HALF += (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Modules whose weights autocast casts to bf16 at every use, so that it makes no difference to gather them so."""


def exact_parts(block: nn.Module) -> list[nn.Module]:
    """Modules of a block, and it may be one, with parameters of their own that autocast leaves in fp32: norms, scales.

    Innermost first, as torch wants them sharded. What autocast casts inside one of them is gathered with it.
    """
    owners = (m for m in reversed(list(block.modules())) if any(True for _ in m.parameters(recurse=False)))
    return [module for module in owners if type(module) not in HALF]


def without_shared(blocks: list[nn.Module], modules: Mapping[str, nn.Module]) -> list[nn.Module]:
    """Blocks without those that have a parameter in common with something outside (tied weights): these stay whole."""
    users: dict[int, set[tuple[int, str]]] = {}
    for module in {m for optimised in modules.values() for m in optimised.modules()}:
        for name, parameter in module.named_parameters(recurse=False):
            users.setdefault(id(parameter), set()).add((id(module), name))
    kept = []
    for block in blocks:
        own = {id(m) for m in block.modules()}
        if all(user in own for p in block.parameters() for user, _ in users.get(id(p), ())):
            kept.append(block)
    return kept
