"""Reference vectors of the quantizers: residual vectors in both flavours, finite scalars in all
conventions."""

import math
from typing import Any

import torch
from torch import Tensor

from voder.fixtures import Case, load_official
from voder.interop import RenameTable, Rule
from voder.nn.quantize import FiniteScalarQuantizer, FSQConfig, ResidualFSQ, ScalarGrid
from voder.nn.quantize.fsq import Convention
from voder.nn.quantize.rvq import Codebook, ResidualVectorQuantizer, RVQConfig
from voder.systems.encodec import convert

Outputs = dict[str, Any]

_CODEBOOK = RenameTable(*(Rule(f"_codebook.{theirs}", ours) for theirs, ours in convert.CODEBOOK_STATE))
_RVQ = RenameTable(
    *(Rule(f"vq.layers.{{q}}._codebook.{t}", f"codebooks.{{q}}.{o}") for t, o in convert.CODEBOOK_STATE),
    ours_only=("steps",),
)


def _rvq(case: Case, **options: Any) -> ResidualVectorQuantizer:
    args = case.args
    config = RVQConfig(
        num_codebooks=args["n_q"],
        codebook_size=args["bins"],
        dim=args["dimension"],
        decay=args.get("decay", 0.99),
        updates="official",
        **options,
    )
    quantizer = ResidualVectorQuantizer(config)
    load_official(quantizer, case.weights, _RVQ, case)
    return quantizer


def _codebooks(case: Case, bandwidth: float) -> int:
    bits_per_frame = math.log2(case.args["bins"]) * case.args["frame_rate"]
    return min(max(1, math.floor(bandwidth * 1000 / bits_per_frame)), case.args["n_q"])


def rvq(case: Case) -> Outputs:
    """Codes and their vectors at every bandwidth, and how far the second best vector is behind."""
    quantizer, x = _rvq(case), case.inputs["x"]
    choices = {f"bw{b}": _codebooks(case, b) for b in case.args["bandwidths"]} | {"all": case.args["n_q"]}
    out: Outputs = {}
    for label, count in choices.items():
        codes = quantizer.encode(x, count)
        out[f"codes_{label}"] = codes.transpose(0, 1)
        out[f"quantized_{label}"] = quantizer.decode(codes)
    out["margin_all"] = _margins(quantizer, x)
    return out


def _margins(quantizer: ResidualVectorQuantizer, x: Tensor) -> Tensor:
    codes, margins = quantizer.encode(x), []
    for stage in range(codes.shape[1]):
        before = quantizer.decode(codes[:, :stage]) if stage else torch.zeros_like(x)
        book = quantizer.codebooks[stage]
        assert isinstance(book, Codebook)
        best = torch.cdist((x - before).transpose(1, 2), book.vectors[None]).square().topk(2, largest=False).values
        margins.append(best[..., 1] - best[..., 0])
    return torch.stack(margins)


def _train_forward(quantizer: ResidualVectorQuantizer, case: Case, count: int) -> tuple[Outputs, Tensor]:
    x = case.inputs["x"].clone().requires_grad_()
    quantizer.train()
    result = quantizer(x, num_codebooks=count)
    through = (result.values * case.inputs["grad_out"]).sum()
    out: Outputs = {
        "quantized": result.values,
        "penalty": result.commitment,
        "xgrad_penalty": torch.autograd.grad(result.commitment, x, retain_graph=True)[0],
        "xgrad_quantized": torch.autograd.grad(through, x)[0],
    }
    state = quantizer.state_dict()
    out |= {f"after.{_RVQ.to_foreign(n)}": value for n, value in state.items() if not _RVQ.is_ours_only(n)}
    return out, result.codes


def rvq_train_forward(case: Case) -> Outputs:
    """A training pass at every bandwidth, each from the same start."""
    out: Outputs = {}
    for bandwidth in case.args["bandwidths"]:
        count = _codebooks(case, bandwidth)
        values, codes = _train_forward(_rvq(case, straight_through="official"), case, count)
        values["codes"] = codes.transpose(0, 1)
        values["bandwidth"] = torch.tensor(count * math.log2(case.args["bins"]) * case.args["frame_rate"])
        out |= {f"bw{bandwidth}_{name}": value for name, value in values.items()}
    return out


def audiocraft_rvq_train_forward(case: Case) -> Outputs:
    """A training pass of the repaired quantizer."""
    count, rate = case.args["n_q"], case.meta["frame_rate"]
    out, codes = _train_forward(_rvq(case, straight_through="repaired"), case, count)
    bandwidth = torch.tensor(count * math.log2(case.args["bins"]) * rate / 1000)
    return out | {"codes": codes, "bandwidth": bandwidth}


def codebook_ema_step(case: Case) -> Outputs:
    """One codebook: living codes, dead codes, three steps in a row, k-means from given rows."""
    args, inputs = case.args, case.inputs
    out: Outputs = {}
    config = RVQConfig(
        num_codebooks=1,
        codebook_size=args["codebook_size"],
        dim=args["dim"],
        decay=args["decay"],
        epsilon=args["epsilon"],
        commitment_weight=args["commitment_weight"],
        updates="official",
        straight_through="official",
    )
    for label, steps in (("alive", ["x"]), ("dead", ["x"]), ("steps", ["x_step0", "x_step1", "x_step2"])):
        quantizer = ResidualVectorQuantizer(config)
        load_official(quantizer.codebooks[0], case.weights_under(f"{label}."), _CODEBOOK, case)
        for i, name in enumerate(steps):
            prefix = f"{label}{i}" if len(steps) > 1 else label
            out |= _codebook_step(quantizer, inputs[name], inputs["grad_out"], prefix)
    fresh = ResidualVectorQuantizer(config)
    book = fresh.codebooks[0]
    assert isinstance(book, Codebook)
    book.initialise(inputs["x"].transpose(1, 2).flatten(0, 1), first=inputs["kmeans_first"])
    return out | _codebook_step(fresh, inputs["x"], inputs["grad_out"], "kmeans")


def _codebook_step(quantizer: ResidualVectorQuantizer, x: Tensor, grad_out: Tensor, prefix: str) -> Outputs:
    x = x.clone().requires_grad_()
    quantizer.train()
    result = quantizer(x)
    gradient = torch.autograd.grad((result.values * grad_out).sum() + result.commitment, x)[0]
    out: Outputs = {
        f"{prefix}_quantized": result.values,
        f"{prefix}_codes": result.codes[:, 0],
        f"{prefix}_loss": result.commitment[None],
        f"{prefix}_xgrad": gradient,
    }
    state = {n: value.clone() for n, value in quantizer.codebooks[0].state_dict().items()}
    return out | {f"{prefix}_after.{_CODEBOOK.to_foreign(name)}": value for name, value in state.items()}


def fsq_notebook(case: Case) -> Outputs:
    """The authors' convention: bounds, codes, ids, gradients and whole codebooks."""
    out: Outputs = {}
    for i, levels in enumerate(case.args["levels"]):
        grid = ScalarGrid(tuple(levels), "notebook", case.args.get("eps", 1e-3))
        z = case.inputs[f"z{i}"].clone().requires_grad_()
        codes = grid.quantise(z)
        ids = torch.arange(len(case.outputs[f"book{i}"]))
        out |= {
            f"bound{i}": grid.bound(z),
            f"codes{i}": codes,
            f"index{i}": grid.number(grid.digits(z)),
            f"grad{i}": torch.autograd.grad(codes.sum(), z)[0],
            f"book{i}": grid.values(grid.unnumber(ids)),
        }
    out["readme_example"] = ScalarGrid((3, 5, 4), "notebook").quantise(torch.tensor([[0.25, 0.6, -7.0]]))
    return out


def fsq_vqp(case: Case) -> Outputs:
    """vector-quantize-pytorch with its projections and several codebooks."""
    convention: Convention = "symmetric" if case.args["preserve_symmetry"] else "vqp"
    out: Outputs = {}
    for i, spec in enumerate(case.args["configs"]):
        count = spec.get("num_codebooks", 1)
        dim = spec.get("dim") or len(spec["levels"]) * count
        config = FSQConfig(levels=tuple(spec["levels"]), dim=dim, num_codebooks=count, convention=convention)
        quantizer = FiniteScalarQuantizer(config)
        quantizer.load_state_dict(case.weights_under(f"cfg{i}."))
        z = case.inputs[f"z{i}"].clone().requires_grad_()
        result = quantizer(z.transpose(1, 2))
        values, ids = result.values.transpose(1, 2), result.codes.transpose(1, 2)
        out |= {
            f"codes{i}": values,
            f"index{i}": ids if count > 1 else ids[..., 0],
            f"zgrad{i}": torch.autograd.grad((values * case.inputs[f"g{i}"]).sum(), z)[0],
            f"from_index{i}": quantizer.decode(result.codes).transpose(1, 2),
        }
    return out


def fsq_disagreement(case: Case) -> Outputs:
    """The two conventions side by side."""
    z, levels = case.inputs["z"], tuple(case.args["levels"])
    ours, theirs = ScalarGrid(levels, "notebook"), ScalarGrid(levels, "vqp")
    notebook, vqp = ours.number(ours.digits(z)), theirs.number(theirs.digits(z))
    return {"index_notebook": notebook, "index_vqp": vqp, "fraction_differ": (notebook != vqp).float().mean()}


def fsq_residual(case: Case) -> Outputs:
    """Residual finite scalar quantisation."""
    args = case.args
    dim = args.get("dim") or len(args["levels"])
    config = FSQConfig(
        levels=tuple(args["levels"]), dim=dim, num_codebooks=args["num_quantizers"], arrangement="residual"
    )
    quantizer = ResidualFSQ(config)
    quantizer.load_state_dict({k: v for k, v in case.weights.items() if k.startswith("project_")})
    result = quantizer(case.inputs["z"].transpose(1, 2))
    return {
        "out": result.values.transpose(1, 2),
        "index": result.codes.transpose(1, 2),
        "decoded": quantizer.decode(result.codes).transpose(1, 2),
    }
