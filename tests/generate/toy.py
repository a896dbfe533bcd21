"""A model whose next logits are a fixed function of all ids said so far: small enough to enumerate."""

import torch


class ToySession:
    """Rows named by a number; logits are pseudo-random in (row, ids so far)."""

    def __init__(self, rows: list[int], size: int = 4, sharpness: float = 1.5) -> None:
        self.said: list[tuple[int, ...]] = [() for _ in rows]
        self.rows, self.size, self.sharpness = list(rows), size, sharpness
        self.steps = 0
        self.computed = 0

    def logits(self) -> torch.Tensor:
        self.computed += len(self.rows)
        return torch.stack([self.of(row, ids) for row, ids in zip(self.rows, self.said, strict=True)])

    def of(self, row: int, ids: tuple[int, ...]) -> torch.Tensor:
        seed = row + 1
        for id_ in ids:
            seed = (seed * 31 + id_ + 7) % 1_000_003
        return torch.randn(self.size, generator=torch.Generator().manual_seed(seed)) * self.sharpness

    def start(self) -> torch.Tensor:
        return self.logits()

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        self.said = [(*said, id_) for said, id_ in zip(self.said, ids.tolist(), strict=True)]
        return self.logits()

    def select(self, rows: torch.Tensor) -> None:
        self.rows = [self.rows[i] for i in rows.tolist()]
        self.said = [self.said[i] for i in rows.tolist()]
