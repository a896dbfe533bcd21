"""Speaking with the original VALL-E: one request at a time, as the original does it, but with a cache."""

import torch
from jaxtyping import Int
from torch import Tensor

from voder.generate.decode import Limits, decode
from voder.generate.sampling import SamplingConfig
from voder.nn.cache import StaticCache
from voder.shapes import Codes, Tokens
from voder.systems.valle.original import MAX_PROMPT_FRAMES, OriginalValle
from voder.systems.valle.original_layers import TextEmbeddings

Said = Int[Tensor, "batch codebook said_frame"]

CODES_PER_PHONEME = 16
"""The original gives up when it has said more than this for every id of the text."""
_CONTINUED_SHARE = 0.5


class CoarseSession:
    """The first half, reading text and prompt once; a row whose best id is the end can say nothing else."""

    def __init__(self, model: OriginalValle, text: TextEmbeddings, ids: Tokens, room: int) -> None:
        self.model, self.text, self.ids = model, text, ids
        config = model.config
        self.cache = StaticCache(config.num_layers, text.shape[1] + ids.shape[1] + room)
        self.next = ids.shape[1]

    def start(self) -> Tensor:
        """Read what there is; logits of the first id."""
        everything = [torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) for x in (self.text, self.ids)]
        return self._final(self.model.coarse(self.text, everything[0], self.ids, everything[1], self.cache)[:, -1])

    def step(self, ids: Tensor) -> Tensor:
        """Append one id; logits of the next."""
        audio, config = self.model.ar_audio, self.model.config
        x = audio(audio.embed(ids[:, None, None], 1), self.next)
        self.next += 1
        mask = torch.ones(len(x), 1, self.cache.length + 1, dtype=torch.bool, device=x.device)
        memory = self.text if config.cross_attention else None
        seen = torch.ones(len(x), 1, self.text.shape[1], dtype=torch.bool, device=x.device)
        hidden = self.model.ar_stack(x, mask=mask, memory=memory, memory_mask=seen, cache=self.cache)
        return self._final(self.model.ar_head(hidden[:, 0]))

    def select(self, rows: Tensor) -> None:
        """Keep these rows."""
        self.text, self.ids = self.text[rows], self.ids[rows]
        self.cache.select(rows)

    def _final(self, logits: Tensor) -> Tensor:
        end = self.model.config.end_id
        others = torch.arange(logits.shape[-1], device=logits.device) != end
        over = logits.argmax(dim=-1, keepdim=True) == end
        return logits.masked_fill(over & others, -torch.inf)


@torch.no_grad()
def say(
    model: OriginalValle,
    text: Tokens,
    prompt: Codes,
    *,
    enrolled: int = 0,
    languages: Tokens | None = None,
    sampling: SamplingConfig | None = None,
    generator: torch.Generator | None = None,
) -> Said:
    """Say a text in the voice of a prompt; the codes after the prompt, none if the model ends at once.

    Args:
        text: phoneme ids `[1, position]`, those of the prompt in front.
        prompt: codes `[1, codebook, frame]`.
        enrolled: how many ids belong to the prompt, with a mark of its own at the end that is not among the ids; prefix
            modes 2 and 4 take them out for the parallel half. 0: the text of the prompt is not there.
        languages: one per phoneme, where the model knows any.
        sampling: greedy if not given.
        generator: needed when not greedy.
    """
    config = model.config
    ids = prompt[:, 0]
    if config.prepend_bos:
        ids = torch.nn.functional.pad(ids, (1, 0), value=config.end_id + 1)
    longest = CODES_PER_PHONEME * text.shape[1] + 1 - config.prepend_bos
    session = CoarseSession(model, model.ar_text(text, languages), ids, longest)
    limits = Limits(end_ids=(config.end_id,), max_lengths=[longest])
    chosen = SamplingConfig(greedy=True) if sampling is None else sampling
    said = decode(session, chosen, limits, [generator or torch.Generator()])[0].ids
    first = torch.cat((prompt[:, 0], torch.tensor([said], dtype=torch.long, device=prompt.device)), dim=1)
    if config.prefix_mode in (2, 4) and enrolled:
        text = _without_prompt(text, enrolled)
        languages = None if languages is None else _without_prompt(languages, enrolled)
    return fill(model, text, prompt, first, languages)


def _without_prompt(ids: Tokens, enrolled: int) -> Tensor:
    """The first id (a begin mark) and those behind the prompt's, the last of which stays too."""
    return torch.cat((ids[:, :1], ids[:, enrolled - 1 :]), dim=1)


@torch.no_grad()
def continue_speech(model: OriginalValle, text: Tokens, codes: Codes, languages: Tokens | None = None) -> Said:
    """Fill in the finer books of the second half of a recording (at most 3 s are the prompt), given its first book."""
    split = min(int(codes.shape[2] * _CONTINUED_SHARE), MAX_PROMPT_FRAMES)
    return fill(model, text, codes[..., :split], codes[:, 0], languages)


@torch.no_grad()
def fill(
    model: OriginalValle,
    text: Tokens,
    prompt: Codes,
    first: Int[Tensor, "batch both"],
    languages: Tokens | None = None,
) -> Said:
    """All books behind the prompt, the most probable codes stage by stage.

    `first` is the first book of prompt and speech. Prefix mode 0 reads the prompt, like the rest, only below the stage.
    """
    config, split = model.config, prompt.shape[2]
    said = [first[:, split:]]
    if config.num_codebooks == 1 or not said[0].shape[1]:
        return torch.stack(said * config.num_codebooks, dim=1)
    read = model.nar_text(text, languages)
    read_valid = torch.ones(read.shape[:2], dtype=torch.bool, device=read.device)
    valid = torch.ones_like(first, dtype=torch.bool)
    for stage in range(1, config.num_codebooks):
        behind = model.nar_audio.embed(torch.stack(said, dim=1), stage)
        before = model.nar_audio.embed(prompt, stage if config.prefix_mode == 0 else config.num_codebooks)
        hidden = model.fine_hidden(read, read_valid, torch.cat((before, behind), dim=1), valid, stage)
        said.append(model.nar_heads[stage - 1](hidden[:, split:]).argmax(dim=-1))
    return torch.stack(said, dim=1)
