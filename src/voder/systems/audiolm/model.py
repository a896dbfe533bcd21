"""AudioLM (2209.03143): three decoders over tokens, each over those of the one before.

Every stage is a decoder-only transformer with T5's relative positions (section 4.2). What audiolm-pytorch adds or
changes (one head of keys for all queries, a position network, end tokens inside the fine stage) is not here.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voder.nn.attention import causal_mask
from voder.nn.cache import StaticCache
from voder.nn.codec_lm import embedding
from voder.nn.dropout import ByteDropout
from voder.nn.relative import RelativePositions
from voder.nn.transformer import Transformer, TransformerConfig
from voder.sequence.assemble import Stream
from voder.systems.audiolm.config import AudioLmConfig, StageName
from voder.systems.audiolm.layout import Layout

Logits = Float[Tensor, "batch position output"]


class StageDecoder(nn.Module):
    """One stage: ids to logits of what follows each."""

    def __init__(
        self, config: TransformerConfig, relative: RelativePositions, *, num_ids: int, num_outputs: int
    ) -> None:
        super().__init__()
        self.ids = embedding(num_ids, config.width)
        self.dropout = ByteDropout(config.dropout)
        self.transformer = Transformer(config, relative=relative)
        self.head = nn.Linear(config.width, num_outputs)

    def forward(self, stream: Stream, cache: StaticCache | None = None) -> Logits:
        """Logits behind every position; a cache given is filled."""
        x = self.dropout(self.ids(stream.ids))
        if cache is not None:
            mask = causal_mask(stream.valid)
            return self.head(self.transformer(x, positions=stream.positions, mask=mask, cache=cache))
        # padding lies on the right, where nothing valid looks: positions and mask of one row serve all of them
        positions = torch.arange(x.shape[1], device=x.device)[None]
        return self.head(self.transformer(x, positions=positions, mask=causal_mask(positions >= 0)))


class AudioLm(nn.Module):
    """The stages by name; `fine` is None for a codec that has no codebooks left for it."""

    def __init__(self, config: AudioLmConfig) -> None:
        super().__init__()
        self.config = config
        layout = Layout(config)

        def stage(sizes: TransformerConfig, num_ids: int, num_outputs: int) -> StageDecoder:
            relative = RelativePositions(sizes.num_heads, config.num_buckets, config.max_distance)
            return StageDecoder(sizes, relative, num_ids=num_ids, num_outputs=num_outputs)

        semantic, coarse, fine = layout.semantic_ids, layout.coarse_ids, layout.fine_ids
        self.semantic = stage(config.semantic, semantic.size, semantic["end"].end)
        self.coarse = stage(config.coarse, coarse.size, coarse["end"].end)
        self.fine = stage(config.fine, fine.size, fine.size) if config.num_fine else None

    def stage(self, name: StageName) -> StageDecoder:
        """One stage. Raises ValueError for one that this model does not have."""
        found = getattr(self, name)
        if not isinstance(found, StageDecoder):
            raise ValueError(f"a codec of {self.config.num_codebooks} codebooks has no {name} stage")
        return found


class StageSession:
    """A batch that goes on: reads its prompts once, then one id per row and step.

    With `ranges`, steps take turns in what may be said: a code of the first codebook, of the second, and so on; the
    end may be said only where the first has its turn, so between frames.
    """

    def __init__(
        self, decoder: StageDecoder, prompt: Stream, room: int, ranges: Sequence[range] = (), end: int | None = None
    ) -> None:
        """`room` is the number of steps that may follow; rows of `prompt` may have different lengths."""
        self.decoder, self.end = decoder, end
        self.cache = StaticCache(decoder.transformer.config.num_layers, prompt.ids.shape[1] + room)
        self._prompt, self._valid = prompt, prompt.valid
        self._last = prompt.valid.sum(dim=1, keepdim=True) - 1
        self._position = prompt.positions.gather(1, self._last)
        self._barred = [self._all_but(allowed, turn) for turn, allowed in enumerate(ranges)]
        self._steps = 0

    def start(self) -> Float[Tensor, "batch output"]:
        """Read the prompts; logits of the first id."""
        logits = self.decoder(self._prompt, self.cache)
        return self._in_turn(logits.gather(1, self._last[:, :, None].expand(-1, -1, logits.shape[-1]))[:, 0])

    def step(self, ids: Tensor) -> Float[Tensor, "batch output"]:
        """Append one id per row; logits of the next."""
        self._position = self._position + 1
        self._valid = torch.cat((self._valid, torch.ones_like(self._valid[:, :1])), dim=1)
        hidden = self.decoder.transformer(
            self.decoder.ids(ids[:, None]), positions=self._position, mask=self._valid[:, None, :], cache=self.cache
        )
        self._steps += 1
        return self._in_turn(self.decoder.head(hidden[:, 0]))

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        self.cache.select(rows)
        self._valid, self._position = self._valid[rows], self._position[rows]

    def _all_but(self, allowed: range, turn: int) -> Tensor:
        barred = torch.ones(self.decoder.head.out_features, dtype=torch.bool, device=self._valid.device)
        barred[allowed.start : allowed.stop] = False
        if turn == 0 and self.end is not None:
            barred[self.end] = False
        return barred

    def _in_turn(self, logits: Tensor) -> Tensor:
        if not self._barred:
            return logits
        return logits.masked_fill(self._barred[self._steps % len(self._barred)], -torch.inf)
