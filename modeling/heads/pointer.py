"""The pointer-generator head: each target token is written from the vocabulary, or copied from the source."""

# Shapes: B batch, T target tokens, S source tokens, H hidden size, K pointer size, V vocabulary.

from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import initialization as init

from ...configuration.configuration_trine_seq2seq import TrineSeq2SeqConfig
from ..checks.ids import IGNORE_INDEX, has_shape
from ..initialization import fill_
from ..losses import is_plain_head, lm_loss, number_of_items
from ..outputs import TrineModelOutput
from .deferred_logits import DeferredLogits
from .pointer_losses import chunked_copy_loss, mix_copies
from .token_head import TokenHead, select_positions


FIRST_GATE = 1.0  # bias of the gate of a new head: 0.73 of the probability is the vocabulary's


@dataclass
class TrinePointerSource(TrineModelOutput):
    """Outputs of an encoder with what a pointer reads of its source, so that a generation computes it once.

    `source_ids` (B, S), token ids; `source_slots` (B, S), the first position that holds the same token; `source_keys`
    (B, S, K).
    """

    source_ids: torch.Tensor | None = None
    source_slots: torch.Tensor | None = None
    source_keys: torch.Tensor | None = None


class Copies(NamedTuple):
    """The copy attention and the gate of each target token, in float32 or better.

    `gate` (B, T, 1) is the logit of p_gen; `weights` (B, T, S) are the copy attention; `copied` (B, T, S) are its sums
    over the positions with the same token, in the first of them, and 0 in the others.
    """

    gate: torch.Tensor
    weights: torch.Tensor
    copied: torch.Tensor


class PointerHead(nn.Module):
    """The copy attention and the gate of a pointer-generator.

    p(w) = p_gen * softmax(logits)(w) + (1 - p_gen) * sum of a_i over the source positions i that hold token w.

    The attention a = softmax(q k_i / sqrt(K)) is one of its own, of a single head, so that every kind of decoder and
    every attention kernel serves. Its keys are made of the encoder's state, of the embedding of the token and of that
    of the token before, each embedding normalised: copying goes on from one token to the next. The gate p_gen reads
    the decoder's state, in whose residual stream its input is, and the context sum_i a_i state_i. Padding is not seen.

    Words of subwords can always be written, so there is no extended vocabulary. Of the paper's coverage there is the
    loss; the attention does not read the coverage, for which target tokens would have to be computed one by one.
    Source: See et al. 2017, arXiv 1704.04368, section 2.

    Args:
        config: Both stacks, which have one vocabulary; `pointer_size` is K.
    """

    def __init__(self, config: TrineSeq2SeqConfig):
        super().__init__()
        self.config = config
        source, target, size = config.encoder.hidden_size, config.decoder.hidden_size, config.pointer_size or 0
        # Other names than those of attention, so that adapters of attention leave the head alone.
        self.query = nn.Linear(target, size)
        self.state_key = nn.Linear(source, size, bias=False)
        self.token_key = nn.Linear(source, size, bias=False)
        self.previous_key = nn.Linear(source, size, bias=False)
        self.gate = nn.Linear(target + source, 1)
        self.scaling = size**-0.5

    def initialize(self) -> None:
        """Fills the projections, as the decoder's `initializer` says, and opens the gate to the vocabulary."""
        for projection in (self.query, self.state_key, self.token_key, self.previous_key, self.gate):
            fill_(projection.weight, self.config.decoder)
        init.constant_(self.gate.bias, FIRST_GATE)

    def read(
        self, encoder: Any, states: torch.Tensor, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """The fields of `TrinePointerSource`, of the encoder's states (B, S, H).

        Raises:
            ValueError: There are no ids of the source, they do not fit the states, or the mask is a ready one.
        """
        if input_ids is None:
            raise ValueError(
                f"pointer_size={self.config.pointer_size}: the head copies tokens of the source, whose ids are "
                "missing. Give input_ids beside encoder_outputs; of inputs_embeds nothing can be copied."
            )
        if not has_shape(input_ids, states.shape[:2]):
            raise ValueError(
                f"input_ids have shape {tuple(input_ids.shape)}, but the encoder's states are of "
                f"{tuple(states.shape[:2])} tokens: the pointer copies one token for each state."
            )
        tokens = encoder.embed(input_ids, None)
        tokens = nn.functional.layer_norm(tokens, tokens.shape[-1:])
        if attention_mask is not None:
            tokens = tokens * padding_mask(attention_mask, states)[..., None]
        previous = nn.functional.pad(tokens, (0, 0, 1, 0))[:, :-1]
        keys = self.state_key(states) + self.token_key(tokens) + self.previous_key(previous)
        slots = first_positions(input_ids, self.config.vocab_size)
        return {"source_ids": input_ids, "source_slots": slots, "source_keys": keys}

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        source_slots: torch.Tensor,
        source_keys: torch.Tensor,
    ) -> Copies:
        """Attends from the decoder's states (B, T, H) to the source (B, S, H)."""
        scores = self.query(hidden_states) @ source_keys.transpose(1, 2) * self.scaling
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if attention_mask is not None:
            seen = padding_mask(attention_mask, encoder_hidden_states)[:, None]
            scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1)
        context = weights.to(encoder_hidden_states.dtype) @ encoder_hidden_states
        gate = self.gate(torch.cat([hidden_states, context.to(hidden_states.dtype)], dim=-1)).to(weights.dtype)
        slots = source_slots[:, None].expand_as(weights)
        return Copies(gate, weights, torch.zeros_like(weights).scatter_add(-1, slots, weights))

    def with_source(
        self, encoder: Any, outputs: Any, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None
    ) -> Any:
        """The encoder's outputs as a `TrinePointerSource`, if they are not one already."""
        if getattr(outputs, "source_keys", None) is not None:
            return outputs
        names = {field.name for field in fields(TrinePointerSource)}
        found = outputs if isinstance(outputs, dict) else {"last_hidden_state": outputs[0]}
        kept = {name: found[name] for name in found if name in names}
        is_dummy = input_ids is not None and bool((input_ids < 0).any())  # `generate` makes such beside states
        source = self.read(encoder, outputs[0], None if is_dummy else input_ids, attention_mask)
        return TrinePointerSource(**kept, **source)  # pyright: ignore[reportArgumentType] tensors by name

    def head_of(self, model: Any, outputs: Any, inputs: dict[str, Any], logits_to_keep: Any) -> "CopyingHead":
        """Makes the head of one forward pass of a model, from the `outputs` and `inputs` of its trunk."""
        states, mask, given = outputs.encoder_last_hidden_state, inputs["attention_mask"], inputs["encoder_outputs"]
        if getattr(given, "source_keys", None) is not None:
            source = {name: getattr(given, name) for name in ("source_ids", "source_slots", "source_keys")}
        else:
            source = self.read(model.model.encoder, states, inputs["input_ids"], mask)
        ids = source.pop("source_ids")
        copies = self(outputs.last_hidden_state, states, mask, **source)
        return CopyingHead(model, copies, ids[:, None].expand_as(copies.weights), logits_to_keep)


class CopyingHead(TokenHead):
    """The head of a model in one forward pass, whose logits are the log-probabilities of a mixture.

    Args:
        model: Its `lm_head` makes the logits of the vocabulary.
        copies: Those of all target tokens.
        ids: The source's token ids, (B, T, S).
        logits_to_keep: As of the model's `forward`.
    """

    def __init__(self, model: Any, copies: Copies, ids: torch.Tensor, logits_to_keep: Any):
        self.lm_head, self.training, self.config = model.lm_head, model.training, model.config
        self._loss_function = vars(model).get("_loss_function")
        self.weights = copies.weights
        gate, copied, kept = (select_positions(part, logits_to_keep) for part in (copies.gate, copies.copied, ids))
        self.parts = (gate, copied, kept)
        # No method: compiled code can hand a partial function out with its logits, and not what this object holds.
        self.project = partial(project_with_copies, model, *self.parts)

    def chunked_loss(
        self, hidden_states: torch.Tensor, targets: torch.Tensor, chunk_size: int, **kwargs
    ) -> torch.Tensor:
        """The loss that never holds the log-probabilities of all hidden states, of a head that is a plain one."""
        if not is_plain_head(self.lm_head):
            return lm_loss(self.project(hidden_states), targets, **kwargs)
        return chunked_copy_loss(hidden_states, self.lm_head, *self.parts, targets, chunk_size, **kwargs)

    def loss_and_logits(self, hidden_states, labels, targets, chunk_size, **kwargs) -> tuple[Any, Any]:
        """As of its base; training adds the coverage loss times `config.coverage_loss_coef`."""
        loss, logits = super().loss_and_logits(hidden_states, labels, targets, chunk_size, **kwargs)
        if isinstance(logits, DeferredLogits) and logits.dtype in (torch.bfloat16, torch.float16):
            logits.float()
        coefficient = self.config.coverage_loss_coef
        if loss is not None and labels is not None and self.training and coefficient:
            covered = coverage_loss(self.weights, labels, kwargs.get("num_items_in_batch"))
            loss = loss + coefficient * covered.to(loss.device)
        return loss, logits


def project_with_copies(
    model: Any, gate: torch.Tensor, copied: torch.Tensor, ids: torch.Tensor, hidden_states: torch.Tensor
) -> torch.Tensor:
    """Maps hidden states (..., hidden) to log-probabilities (..., vocabulary), in float32 or better."""
    return mix_copies(model.project(hidden_states), gate, copied, ids)


def padding_mask(attention_mask: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Which source tokens are no padding, boolean (B, S); a `ValueError` for another form of mask."""
    if not has_shape(attention_mask, states.shape[:2]):
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, but must be {tuple(states.shape[:2])}, 1 for a "
            "token of the source and 0 for padding: the pointer reads it, too."
        )
    return attention_mask != 0


def first_positions(ids: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """For each position of `ids` (B, S), the first of its row that holds the same token."""
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    firsts = ids.new_full((ids.shape[0], vocab_size), ids.shape[1])
    return firsts.scatter_reduce(1, ids, positions, "amin").gather(1, ids)


def coverage_loss(
    weights: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
) -> torch.Tensor:
    """How much copy attention goes where it went before: sum_i min(a_ti, sum of a_ji over j < t), a mean over labels.

    Source: See et al. 2017, arXiv 1704.04368, equations 10 and 12.

    Args:
        weights: (B, T, S).
        labels: (B, T); a token without one counts as a past one, but is not summed. Of labels of fewer positions, by
            `logits_to_keep`, all positions are summed.
    """
    repeated = torch.minimum(weights, weights.cumsum(dim=1) - weights).sum(dim=-1)
    if has_shape(labels, repeated.shape):
        repeated = repeated * (labels != IGNORE_INDEX)
    return repeated.sum() / number_of_items(labels, num_items_in_batch)
