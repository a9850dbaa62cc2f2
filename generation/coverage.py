"""Coverage penalty: beam search that prefers hypotheses which have looked at the whole source."""

# Shapes: B batch, N beams, K candidates (at least 2 N), H heads, T target tokens, S source tokens.

import math
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList


@dataclass(frozen=True)
class CoverageBeamSearch:
    """Beam search of an encoder-decoder in which finished hypotheses are ranked with a coverage penalty.

    `model.generate(**source, num_beams=5, length_penalty=1.0, custom_generate=CoverageBeamSearch(0.2))` scores a
    finished hypothesis Y of a source X by

        log P(Y | X) / |Y|^length_penalty  +  penalty * sum_i log(min(sum_j p_ij, 1))

    |Y| counts the generated tokens, the end token among them. p_ij is the attention to source token i in the step that
    generates token j; padding of the source does not count, nor do tokens of the target that were given. log 0 is
    taken as -87. `sequences_scores` are these scores. The first term is transformers' own, and as there it alone
    decides which unfinished hypotheses go on; `penalty=0` is transformers' beam search to the bit.

    Transformers estimates when no unfinished hypothesis can still win. As the penalty is never above 0, the estimate
    stays an upper bound wherever it is one without a penalty: with `early_stopping="never"`.

    Attention weights are needed: load the model with `attn_implementation="eager"`. A recurrent model needs
    `attention="dot"`.
    Source: Wu et al. 2016, arXiv 1609.08144, equation 14, with transformers' length penalty in place of
    ((5 + |Y|) / 6)^alpha. There, 0.2 is best for both, and models trained by reinforcement need less.

    Args:
        penalty: beta, at least 0.
        layer: Layer of the decoder whose cross-attention counts; -1 is the last.
        head: Its head. None is the mean over all.

    Raises:
        ValueError: `penalty` is negative or not finite; in `generate`, the model is no encoder-decoder, gives no
            attention weights or has no such layer or head, or there is one beam.
    """

    penalty: float
    layer: int = -1
    head: int | None = None

    def __post_init__(self):
        if not (math.isfinite(self.penalty) and self.penalty >= 0):
            raise ValueError(f"penalty={self.penalty} must be a finite number of at least 0.")

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs: Any,
    ) -> Any:
        """Runs the beam search; `generate` calls this. Returns ids (rows, length) or transformers' output of beams."""
        if not model.config.is_encoder_decoder:
            raise ValueError(f"{type(model).__name__} is a decoder alone: it has no source to cover.")
        if generation_config.num_beams is None or generation_config.num_beams < 2:
            raise ValueError(
                f"num_beams={generation_config.num_beams} leaves nothing to rank by coverage: choose 2 or more."
            )
        model_kwargs["output_attentions"] = True
        search = _Search(model, self, model_kwargs.get("attention_mask"))
        return type(model)._beam_search(
            search,
            input_ids,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            generation_config=generation_config,
            **model_kwargs,
        )

    def attention(self, model: Any, cross_attentions: tuple[torch.Tensor | None, ...] | None) -> torch.Tensor:
        """The weights of the step that chooses the next token, (rows, S)."""
        layers = tuple(weights for weights in cross_attentions or () if weights is not None)
        if not layers:
            raise ValueError(
                f"{type(model).__name__} returns no attention weights, from which coverage is counted. Load it with "
                "attn_implementation='eager' (now it is "
                f"{model.config.get_text_config(decoder=True)._attn_implementation!r}); a recurrent model needs "
                "attention='dot'."
            )
        weights = _choose(layers, self.layer, "layer")[:, :, -1]
        if self.head is None:
            return weights.mean(dim=1)
        return _choose(weights.unbind(dim=1), self.head, "head")


class _Search:
    """A model as its beam search sees it, except in three methods of transformers' that are told of coverage."""

    def __init__(self, model: Any, options: CoverageBeamSearch, source_mask: torch.Tensor | None):
        self._model, self._options, self._source_mask = model, options, source_mask
        self._coverage: torch.Tensor | None = None  # (B * N, S), of the hypotheses that are going on
        self._running_beam_indices = torch.empty(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._model(*args, **kwargs)

    def _update_model_kwargs_for_generation(self, outputs: Any, model_kwargs: dict, **kwargs: Any) -> dict:
        """Called after each forward pass."""
        weights = self._options.attention(self._model, outputs.cross_attentions)
        weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
        self._coverage = weights if self._coverage is None else self._coverage + weights
        return self._model._update_model_kwargs_for_generation(outputs, model_kwargs, **kwargs)

    def _get_running_beams_for_next_iteration(self, **state: Any) -> tuple:
        """Called when the candidates are known: chooses the hypotheses that go on."""
        running = self._model._get_running_beams_for_next_iteration(**state)
        self._running_beam_indices = running[2]
        return running

    def _update_finished_beams(self, **state: Any) -> tuple:
        """Called then: chooses the best of those that are finished. (B, K) log-probabilities get the penalty.

        Beam indices, (B, N or K, T), hold the row that each token was generated in.
        """
        assert self._coverage is not None
        step = state["cur_len"] - state["decoder_prompt_len"]
        log_probs = state["topk_log_probs"]
        rows = state["topk_running_beam_indices"][:, :, step]
        penalty = self._penalties()[rows].to(log_probs)
        # Transformers divides the sum by this power of the length, which the penalty is to escape.
        state["topk_log_probs"] = log_probs + penalty * (step + 1) ** state["length_penalty"]
        self._coverage = self._coverage[self._running_beam_indices[:, :, step].flatten()]
        return self._model._update_finished_beams(**state)

    def _penalties(self) -> torch.Tensor:
        """The second term of the score of each row, (B * N,)."""
        assert self._coverage is not None
        logs = self._coverage.clamp(torch.finfo(torch.float32).tiny, 1.0).log()
        if self._source_mask is not None:
            logs = logs.masked_fill(self._source_mask.to(logs.device) == 0, 0.0)
        return self._options.penalty * logs.sum(dim=-1)


def _choose(choices: tuple[torch.Tensor, ...], index: int, name: str) -> torch.Tensor:
    if not -len(choices) <= index < len(choices):
        raise ValueError(f"{name}={index} is not one of {-len(choices)} to {len(choices) - 1}.")
    return choices[index]
