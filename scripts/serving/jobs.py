"""Requests to generate, and how each is generated: as a row of a batch, by itself, or with others of its settings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.cli.serving.utils import DirectStreamer
from transformers.generation.configuration_utils import GenerationMode

from trine.generation.batching.generation_batch import GenerationBatch, GenerationRow
from trine.generation.prefixes.prefix_cache import PrefixCache
from trine.scripts.serving.asked import Asked


class Way(NamedTuple):
    """How a request is generated.

    Attributes:
        is_alone: Whether it cannot be a row of a batch.
        takes_company: Whether an encoder-decoder may write its text beside others with the same settings.
        in_one_piece: Whether its tokens are known only at the end, as those of beams, of which a stream is one piece.
        settings: All of them, resolved.
    """

    is_alone: bool
    takes_company: bool
    in_one_piece: bool
    settings: dict[str, Any]


@dataclass(eq=False)
class Job:
    """A request to generate.

    Attributes:
        inputs: Arguments of `generate`, `input_ids` (1, tokens) among them.
        done: Gets the new tokens, or the error, in the thread that generates.
        gone: Set when nobody waits for the answer any more.
        row: Its row in the batch, as long as it has one.
        way: How it is generated; None until somebody has looked.
    """

    model: Any
    inputs: dict[str, Any]
    settings: Any
    asked: Asked
    done: Callable[[torch.Tensor | None, Exception | None], None]
    streamer: DirectStreamer | None = None
    gone: Event = field(default_factory=Event)
    row: GenerationRow | None = None
    way: Way | None = None

    @property
    def is_gone(self) -> bool:
        """Whether the client has gone away."""
        return self.gone.is_set() or (self.streamer is not None and self.streamer._cancelled.is_set())

    @property
    def tokens(self) -> int:
        """Length of the prompt."""
        return self.inputs["input_ids"].shape[-1]

    def look(self) -> "Way":
        """How it is generated. Raises a ValueError for settings that `generate` refuses."""
        if self.way is None:
            settings, _ = self.model._prepare_generation_config(self.settings)
            mode, reads_source = settings.get_generation_mode(), self.model.config.is_encoder_decoder
            is_alone = GenerationBatch(self.model).why_alone(self.settings) is not None
            is_free = self.streamer is None and not settings.do_sample
            is_free = is_free and settings.max_time is None and not settings.stop_strings
            in_one_piece = mode in (GenerationMode.BEAM_SEARCH, GenerationMode.BEAM_SAMPLE)
            self.way = Way(is_alone, reads_source and is_free, in_one_piece, settings.to_dict())
        return self.way


def generate_sources(jobs: Sequence[Job], stop: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
    """The new tokens that an encoder-decoder, whose settings are the same for all, writes for several sources.

    Sources are padded on the right, where the mask hides it, and texts end with their first end token.
    """
    model, settings = jobs[0].model, jobs[0].settings
    rows = [job.inputs["input_ids"][0] for job in jobs]
    settings, _ = model._prepare_generation_config(settings)
    pad, ends = settings.pad_token_id, settings.eos_token_id
    ends = {*(ends if isinstance(ends, list) else [ends])}
    ids = pad_sequence(rows, batch_first=True, padding_value=next(iter(ends)) or 0 if pad is None else pad)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    made = model.generate(
        input_ids=ids, attention_mask=mask, generation_config=jobs[0].settings, stopping_criteria=[stop]
    )
    texts = []
    for row in made[:, 1:]:
        stops = [place for place, token in enumerate(row.tolist()) if token in ends]
        texts.append(row[: stops[0] + 1] if stops else row)
    return texts


def generate_alone(
    job: Job, seed: int, prefix_cache: PrefixCache | None, stop: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """The new tokens of a request by itself."""
    torch.manual_seed(seed)
    in_one_piece = job.look().in_one_piece
    given = {
        "generation_config": job.settings,
        "streamer": None if in_one_piece else job.streamer,
        "stopping_criteria": [stop],
        **job.inputs,
    }
    cache = prefix_cache
    made = job.model.generate(**given) if cache is None else cache.generate(job.model, **given)
    job.asked.cached_tokens = 0 if cache is None else cache.cached_tokens
    tokens = made[0, 1 if job.model.config.is_encoder_decoder else job.tokens :]
    if in_one_piece and job.streamer is not None:
        job.streamer.put(made[0, :0])  # in place of the prompt
        job.streamer.put(tokens)
    return tokens
