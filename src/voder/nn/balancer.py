"""The loss balancer of EnCodec (2210.13438, §3.4, eq. 5): each loss gets a fixed share of the gradient.

Weights then mean shares of the gradient norm at the model's output, whatever the scale of a loss. Only the
output's gradient is balanced: a loss inside the model, such as commitment, must stay outside.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from voder.nn.workers import sum_over_workers
from voder.shapes import Audio, Scalar


class Balancer(nn.Module):
    """Combines losses of one tensor into one loss with a balanced gradient. Its averages are buffers."""

    totals: Tensor
    corrections: Tensor

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        rescale: bool = True,
        total_norm: float = 1.0,
        decay: float = 0.999,
        per_item: bool = True,
        epsilon: float = 1e-12,
    ) -> None:
        """Set up.

        Args:
            weights: share of each loss; the shares of the losses given in a step are normalised to sum to 1.
            rescale: False makes it a plain weighted sum.
            total_norm: norm of the balanced gradient.
            decay: of the moving average of each loss's gradient norm.
            per_item: take norms per batch item and average them, instead of one norm of all.
            epsilon: added to norms before dividing.
        """
        super().__init__()
        self.weights = dict(weights)
        self.rescale, self.total_norm, self.decay = rescale, total_norm, decay
        self.per_item, self.epsilon = per_item, epsilon
        self.register_buffer("totals", torch.zeros(len(self.weights)))
        self.register_buffer("corrections", torch.zeros(len(self.weights)))

    def forward(self, losses: Mapping[str, Scalar], output: Audio) -> Scalar:
        """Give a loss whose gradient at `output` is the balanced one and whose value is the scaled sum.

        Raises:
            ValueError: a loss without a weight.
        """
        unknown = [name for name in losses if name not in self.weights]
        if unknown:
            raise ValueError(f"losses {unknown} have no weight; weights are {sorted(self.weights)}")
        grads = {n: torch.autograd.grad(loss, output, retain_graph=True)[0] for n, loss in losses.items()}
        scales = self._scales(grads)
        gradient = torch.zeros_like(output, dtype=torch.float32)
        value = torch.zeros((), device=output.device)
        for name, loss in losses.items():
            gradient += scales[name] * grads[name].float()
            value = value + scales[name] * loss.detach().float()
        carrier = (output.float() * gradient).sum()
        return value + carrier - carrier.detach()

    @torch.no_grad()
    def _scales(self, grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        norms = self._mean_norms(grads)
        whole = sum(self.weights[name] for name in grads)
        scales = {}
        for index, name in enumerate(self.weights):
            if name not in grads:
                continue
            self.totals[index] = self.totals[index] * self.decay + norms[name]
            self.corrections[index] = self.corrections[index] * self.decay + 1
            if self.rescale:
                mean = self.totals[index] / self.corrections[index]
                share = self.weights[name] / whole * self._count(grads)
                scales[name] = share * self.total_norm / (self.epsilon + mean)
            else:
                scales[name] = torch.full_like(norms[name], self.weights[name])
        return scales

    def _count(self, grads: Mapping[str, Tensor]) -> int:
        return next(iter(grads.values())).shape[0] if self.per_item else 1

    def _mean_norms(self, grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Norms of all workers' items, averaged.

        A mean over more items gives each of them a smaller gradient, hence times their number: the averages
        then do not depend on how many workers share a batch.
        """
        count = self._count(grads)
        dims = 1 if self.per_item else None
        sums = [count * g.float().flatten(1).norm(dim=dims).sum() for g in grads.values()]
        shared = sum_over_workers(torch.stack([*sums, sums[0].new_tensor(float(count))]))
        return dict(zip(grads, shared[:-1] / shared[-1], strict=True))
