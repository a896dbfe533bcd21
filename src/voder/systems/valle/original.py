"""VALL-E and VALL-F as lifeiteng/vall-e built them, and VALL-E-X after them: for their checkpoints.

A sibling of the network in `model.py`, which trains; this one differs in every layer. Sinusoidal positions of text and
audio each start at 0 and are weighted by a learned alpha; ReLU inside the blocks; norms before the branches or after
them; adaptive norms multiply by what a linear layer makes of the stage (no 1 +). Without a begin token the first code
is given, never predicted. VALL-F reads the text by cross-attention.

Prefix modes, how the parallel half learns to follow a prompt: 0 none; 1 the beginning of the utterance; 2 a random
stretch of it, which is not learned then; 4 a neighbouring utterance. What was the prompt in modes 1, 2 and 4 is read in
all codebooks.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from voder.nn.cache import StaticCache
from voder.shapes import Codes, Embeddings, Lengths, Mask, Scalar, Tokens
from voder.systems.valle.original_layers import (
    AudioInput,
    OriginalConfig,
    OriginalStack,
    TextEmbeddings,
    TextInput,
    TextMask,
)

MAX_PROMPT_FRAMES = 225
"""3 s at 75 frames a second."""
Logits = Float[Tensor, "batch position output"]
Predicted = Float[Tensor, "batch predicted output"]
Prompt = Int[Tensor, "batch codebook prompt_frame"]


@dataclass(frozen=True, kw_only=True)
class FineInput:
    """What the parallel half reads and predicts."""

    prompt: Prompt | None
    """Read in all books, not predicted."""
    codes: Codes
    """Read in the books below the stage."""
    valid: Bool[Tensor, "batch all_frames"]
    """Of prompt and codes together."""
    targets: Int[Tensor, "batch frame"]
    """Of the codes; `end_id` is not learned."""
    scale: Scalar
    """By which the original multiplies the loss: as if the prompt had been learned too."""


class OriginalValle(nn.Module):
    """Both halves."""

    def __init__(self, config: OriginalConfig) -> None:
        super().__init__()
        self.config = config
        size, books = config.codebook_size, config.num_codebooks
        self.ar_text = TextInput(config)
        self.ar_audio = AudioInput(config, (size + 1 + config.prepend_bos,))
        self.ar_stack = OriginalStack(config, adaptive=False)
        self.ar_head = nn.Linear(config.width, size + 1, bias=False)
        if books > 1:
            self.nar_text = TextInput(config)
            self.nar_audio = AudioInput(config, (size + 1, *(size for _ in range(books - 1))))
            self.nar_stack = OriginalStack(config, adaptive=True)
            self.nar_stages = nn.ModuleList(nn.Embedding(1, config.width) for _ in range(books - 1))
            self.nar_heads = nn.ModuleList(nn.Linear(config.width, size, bias=False) for _ in range(books - 1))
        if config.share_embedding:
            for j in range(books - 2):
                head, table = self.nar_heads[j], self.nar_audio.tables[j + 2]
                assert isinstance(head, nn.Linear)
                assert isinstance(table, nn.Embedding)
                head.weight = table.weight

    def padded(self, codes: Codes, lengths: Lengths) -> tuple[Codes, Mask]:
        """Padding made uniform: the end id in the first book, 0 in the others; and which frames are valid."""
        valid = torch.arange(codes.shape[2], device=codes.device) < lengths[:, None]
        clean = codes * valid[:, None]
        clean[:, 0] = torch.where(valid, clean[:, 0], self.config.end_id)
        return clean, valid

    def coarse(
        self, text: TextEmbeddings, text_valid: TextMask, ids: Tokens, valid: Mask, cache: StaticCache | None = None
    ) -> Logits:
        """Logits of what follows each id of the first book; a cache given is filled."""
        x = self.ar_audio(self.ar_audio.embed(ids[:, None], 1))
        count, past = text.shape[1], torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
        own = valid[:, None, :] & past
        if self.config.cross_attention:
            mask = text_valid[:, None, :]
            return self.ar_head(self.ar_stack(x, mask=own, memory=text, memory_mask=mask, cache=cache))
        mask = torch.zeros(len(x), count + x.shape[1], count + x.shape[1], dtype=torch.bool, device=x.device)
        mask[:, :, :count] = text_valid[:, None, :]
        mask[:, count:, count:] = own
        hidden = self.ar_stack(torch.cat((text, x), dim=1), mask=mask, cache=cache)
        return self.ar_head(hidden[:, count:])

    def coarse_loss(
        self, text: TextEmbeddings, text_valid: TextMask, codes: Codes, valid: Mask
    ) -> tuple[Scalar, Predicted]:
        """Sum of the cross-entropies, end ids on padding counted, as the original has it; and the logits."""
        targets = F.pad(codes[:, 0], (0, 1), value=self.config.end_id)
        if self.config.prepend_bos:
            ids = F.pad(codes[:, 0], (1, 0), value=self.config.end_id + 1)
            valid = F.pad(valid, (1, 0), value=True)
        else:
            ids, targets = codes[:, 0], targets[:, 1:]
        logits = self.coarse(text, text_valid, ids, valid)
        return F.cross_entropy(logits.transpose(1, 2), targets, reduction="sum"), logits

    def fine_input(
        self,
        codes: Codes,
        valid: Mask,
        stage: int,
        *,
        prefix_len: int = 0,
        starts: Int[Tensor, " batch"] | None = None,
        neighbour: Prompt | None = None,
    ) -> FineInput:
        """Part `codes` (of `padded`) as the prefix mode says.

        Args:
            prefix_len: frames of the prompt in mode 1, drawn from a quarter to half of the shortest item.
            starts: first frame of the prompt in mode 2, which is a quarter of the shortest item long.
            neighbour: the prompt of mode 4.
        """
        mode, targets = self.config.prefix_mode, torch.where(valid, codes[:, stage], self.config.end_id)
        prompt: Tensor | None = None
        if mode == 1:
            prompt, codes, targets = codes[..., :prefix_len], codes[..., prefix_len:], targets[:, prefix_len:]
        elif mode == 2:
            if starts is None:
                raise ValueError("prefix mode 2 needs the starts of the prompts")
            prefix_len = min(MAX_PROMPT_FRAMES, int(0.25 * int(valid.sum(1).min())))
            frames = starts[:, None] + torch.arange(prefix_len, device=codes.device)
            prompt = codes.gather(2, frames[:, None].expand(-1, codes.shape[1], -1))
            targets = targets.scatter(1, frames, self.config.end_id)
        elif mode == 4:
            if neighbour is None:
                raise ValueError("prefix mode 4 needs the codes of a neighbour")
            prompt = neighbour
        extra = prompt.shape[2] if prompt is not None and mode != 1 else 0
        total = valid.sum().float()
        not_learned = prefix_len * len(codes) if mode in (1, 2) else 0
        return FineInput(
            prompt=prompt,
            codes=codes,
            valid=F.pad(valid, (extra, 0), value=True),
            targets=targets,
            scale=total / (total - not_learned),
        )

    def fine(self, text: TextEmbeddings, text_valid: TextMask, given: FineInput, stage: int) -> Logits:
        """Logits of book `stage` (from 1) at every frame of the codes."""
        frames = self.nar_audio.embed(given.codes, stage)
        if given.prompt is not None:
            frames = torch.cat((self.nar_audio.embed(given.prompt, self.config.num_codebooks), frames), dim=1)
        hidden = self.fine_hidden(text, text_valid, frames, given.valid, stage)
        head: nn.Module = self.nar_heads[stage - 1]
        logits: Tensor = head(hidden[:, -given.codes.shape[2] :])
        return logits

    def fine_hidden(
        self, text: TextEmbeddings, text_valid: TextMask, frames: Embeddings, valid: Mask, stage: int
    ) -> Embeddings:
        """Run the parallel half over embedded frames."""
        table = self.nar_stages[stage - 1]
        assert isinstance(table, nn.Embedding)
        x, own = self.nar_audio(frames), valid[:, None, :]
        if self.config.cross_attention:
            seen = own.expand(-1, x.shape[1], -1)
            return self.nar_stack(x, mask=seen, stage=table.weight, memory=text, memory_mask=text_valid[:, None, :])
        both = torch.cat((text, x), dim=1)
        everything: Bool[Tensor, "batch 1 key"] = torch.cat((text_valid[:, None, :], own), dim=2)
        mask = everything.expand(-1, both.shape[1], -1)
        return self.nar_stack(both, mask=mask, stage=table.weight)[:, text.shape[1] :]

    def fine_loss(
        self, text: TextEmbeddings, text_valid: TextMask, given: FineInput, stage: int
    ) -> tuple[Scalar, Logits]:
        """Sum of the cross-entropies of what is to be learned, scaled; and the logits."""
        logits = self.fine(text, text_valid, given, stage)
        summed = F.cross_entropy(
            logits.transpose(1, 2), given.targets, ignore_index=self.config.end_id, reduction="sum"
        )
        return summed * given.scale, logits
