"""Three kinds of vectors from one pass of an encoder: dense, lexical, and one vector per token."""

# Shapes: B rows of a batch, N tokens of a row, S sequences, H hidden, D multi_vector_dim, V vocabulary.

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer
from transformers.utils.generic import ModelOutput

from ...configuration.configuration_trine import TrineConfig
from ..modeling_trine import TrineModel
from ..outputs import TrineHeadOutput
from ..pooling import mean_token, sequence_masks
from .base import TEXT, Prediction, TrineHead, make_forward
from .masked_lm import require_encoder
from .retrieval_scores import RetrievalVectors, vocabulary_vectors


# How sentence-transformers reads the folder: `SparseEncoder` by these files, `SentenceTransformer` and
# `MultiVectorEncoder`, which find that they are another class's, from the model itself.
SENTENCE_FILES: dict[str, Any] = {
    "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.Transformer"}],
    "sentence_bert_config.json": {
        "transformer_task": "retrieval",
        "modality_config": {"text": {"method": "sparse_vectors", "method_output_name": None}},
        "module_output_name": "sentence_embedding",
    },
    "config_sentence_transformers.json": {"model_type": "SparseEncoder", "similarity_fn_name": "dot"},
}


@dataclass
class RetrievalOutput(ModelOutput):
    """Fields of `TrineRetrievalOutput` that come first."""

    loss: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    dense: torch.Tensor | None = None
    token_weights: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class TrineRetrievalOutput(TrineHeadOutput, RetrievalOutput):
    """Output of `TrineForRetrieval`.

    `dense` (sequences, hidden), of length 1; `token_weights` (batch, length), not negative; `embeddings` (batch,
    length, multi_vector_dim), of length 1. The latter two are 0 for padding and special tokens.
    """


class TrineForRetrieval(TrineHead[TrineRetrievalOutput]):
    """An encoder that makes up to three kinds of vectors of a text: those that `config.retrieval_outputs` names.

    `dense` is the mean of the states, of length 1. `sparse` gives each token the weight `relu(w h + b)`; a token that
    occurs twice has the larger one. `multi_vector` is `W h + b` of each token, of length 1. Tokens of
    `config.unscored_token_ids` are in neither of these two. What is not named has no parameters and takes no time.

    Source: Chen et al. 2024, BGE M3-Embedding, arXiv 2402.03216, section 3.2, where the dense vector is the first
    token's state, and a vector per token is as wide as the model.

    Args:
        config: The architecture; `is_causal` must be False.

    Raises:
        ValueError: `config.retrieval_outputs` is None.

    Example:
        >>> model = TrineForRetrieval.from_pretrained(
        ...     "my-encoder",
        ...     retrieval_outputs=["dense", "sparse"],
        ...     unscored_token_ids=tokenizer.all_special_ids,
        ... )
    """

    output_class = TrineRetrievalOutput

    def __init__(self, config: TrineConfig):
        require_encoder(config, type(self).__name__)
        if not config.retrieval_outputs:
            raise ValueError(
                f"retrieval_outputs={config.retrieval_outputs} names none of ['dense', 'sparse', 'multi_vector'], "
                "which TrineForRetrieval should make."
            )
        super().__init__(config)
        self.model = TrineModel(config, add_pooling_layer=False)
        if "sparse" in config.retrieval_outputs:
            self.sparse_linear = nn.Linear(config.hidden_size, 1)
        if "multi_vector" in config.retrieval_outputs:
            self.multi_vector_linear = nn.Linear(config.hidden_size, config.multi_vector_dim)
        self.post_init()

    def predict(
        self,
        outputs,
        inputs,
        return_dense: bool = True,
        return_sparse: bool = True,
        return_multi_vector: bool = True,
        **kwargs,
    ) -> Prediction:
        states, made = outputs.last_hidden_state, self.config.retrieval_outputs
        fields: dict[str, Any] = {"last_hidden_state": states}
        if return_dense and "dense" in made:
            masks = sequence_masks(states, inputs["attention_mask"], inputs["position_ids"])
            fields["dense"] = nn.functional.normalize(mean_token(states, masks), dim=-1)
        if return_sparse and "sparse" in made:
            weights = nn.functional.relu(self.sparse_linear(states)).squeeze(-1)
            fields["token_weights"] = weights * self.scored(inputs)
        if return_multi_vector and "multi_vector" in made:
            vectors = nn.functional.normalize(self.multi_vector_linear(states), dim=-1)
            fields["embeddings"] = vectors * self.scored(inputs)[..., None]
        return None, None, fields

    names = (*TEXT, "return_dense", "return_sparse", "return_multi_vector", "output_router_logits")
    forward = make_forward(TrineModel, names, predict, output_class)

    def scored(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Which tokens count for `sparse` and `multi_vector`: (B, N), False for padding and special tokens.

        Raises:
            ValueError: The inputs are embeddings, of which nobody knows what tokens they are.
        """
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        if ids is None:
            raise ValueError(
                "inputs_embeds do not tell special tokens from others: give input_ids, or return_sparse=False and "
                "return_multi_vector=False."
            )
        is_padding_mask = isinstance(mask, torch.Tensor) and mask.ndim == 2
        kept = mask[:, -ids.shape[1] :].bool() if is_padding_mask else torch.ones_like(ids, dtype=torch.bool)
        for token in self.config.unscored_token_ids or ():
            kept = kept & (ids != token)
        return kept

    def sparse_vectors(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns the weight of each token of the vocabulary, (B, V), for sentence-transformers' `SparseEncoder`.

        Raises:
            ValueError: `config.retrieval_outputs` has no `sparse`.
        """
        self.require("sparse")
        read = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        weights = self(**read, return_dense=False, return_multi_vector=False).token_weights
        return vocabulary_vectors(weights, input_ids, self.config.vocab_size)

    def require(self, *names: str) -> None:
        """Raises a `ValueError` for an output that this model does not make."""
        for name in names:
            if name not in self.config.retrieval_outputs:
                raise ValueError(
                    f"{name!r} is not among retrieval_outputs={self.config.retrieval_outputs}, which this model makes."
                )

    @torch.no_grad()
    def encode(
        self,
        texts: str | Sequence[str],
        *,
        return_dense: bool = True,
        return_sparse: bool = False,
        return_multi_vector: bool = False,
        tokenizer: Any = None,
        batch_size: int = 32,
        max_length: int | None = None,
        padding_free: bool | None = None,
    ) -> RetrievalVectors:
        """Returns the vectors of texts, on the CPU in single precision, from one pass of the model for all kinds.

        Args:
            texts: Any number; long ones are read first, so that a batch has little padding.
            return_dense: Whether to return `dense`.
            return_sparse: Whether to return `sparse`.
            return_multi_vector: Whether to return `multi_vector`.
            tokenizer: Default: that of the folder which the model was loaded from.
            batch_size: The number of texts that are read at once.
            max_length: The number of tokens of a text that are read, special ones included. Default: as many as
                tokenizer and model can.
            padding_free: Whether the texts of a batch are one row without padding. Default: with a flash attention.

        Raises:
            ValueError: The model does not make what is asked for, nothing is asked for, there is no tokenizer, or it
                adds tokens that `config.unscored_token_ids` lacks.
        """
        asked = {"dense": return_dense, "sparse": return_sparse, "multi_vector": return_multi_vector}
        if not any(asked.values()):
            raise ValueError("return_dense, return_sparse and return_multi_vector are all False: ask for one.")
        self.require(*(name for name, wanted in asked.items() if wanted))
        tokenizer = self.tokenizer_for(tokenizer, return_sparse or return_multi_vector)
        if max_length is None:
            max_length = min(tokenizer.model_max_length, self.config.max_position_embeddings)
        texts = [texts] if isinstance(texts, str) else [*texts]
        ids = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"] if texts else []
        order = sorted(range(len(ids)), key=lambda place: -len(ids[place]))
        if padding_free is None:
            padding_free = "flash" in str(self.config._attn_implementation)
        was_training = self.training
        self.eval()
        try:
            found: dict[int, tuple[Any, Any, Any]] = {}
            for start in range(0, len(order), batch_size):
                places = order[start : start + batch_size]
                options = {f"return_{name}": wanted for name, wanted in asked.items()}
                made = self.encode_batch([ids[place] for place in places], padding_free, options)
                found.update(zip(places, made, strict=True))
        finally:
            self.train(was_training)
        dense, sparse, multi_vector = ([found[place][kind] for place in range(len(ids))] for kind in range(3))
        stacked = torch.stack(dense) if return_dense and dense else torch.zeros(0, self.config.hidden_size)
        return RetrievalVectors(
            stacked if return_dense else None,
            sparse if return_sparse else None,
            multi_vector if return_multi_vector else None,
            self.config.vocab_size,
        )

    def tokenizer_for(self, tokenizer: Any, scores_tokens: bool) -> Any:
        """The given tokenizer, or that of the model's folder, whose special tokens the config has to know."""
        if tokenizer is None and not self.name_or_path:
            raise ValueError("tokenizer=None, but this model was not loaded from a folder, which has one.")
        tokenizer = AutoTokenizer.from_pretrained(self.name_or_path) if tokenizer is None else tokenizer
        known = self.config.unscored_token_ids or []
        added = sorted({*tokenizer("")["input_ids"]}.difference(known))
        if scores_tokens and added:
            raise ValueError(
                f"unscored_token_ids={known} lacks {added}, special tokens that the tokenizer adds to each text. Give "
                "from_pretrained unscored_token_ids=tokenizer.all_special_ids."
            )
        return tokenizer

    def encode_batch(self, rows: list[list[int]], padding_free: bool, options: dict[str, bool]) -> Iterator[Any]:
        """Yields dense vector, weights by token, and vectors of tokens of each row of ids, or None."""
        ids = [torch.tensor(row, device=self.device) for row in rows]
        if padding_free:
            position_ids = torch.cat([torch.arange(len(row), device=self.device) for row in ids])[None]
            outputs = self(input_ids=torch.cat(ids)[None], position_ids=position_ids, **options)
        else:
            pad = nn.utils.rnn.pad_sequence
            mask = pad([torch.ones_like(row) for row in ids], batch_first=True)
            padding = self.config.pad_token_id or 0
            outputs = self(input_ids=pad(ids, True, padding), attention_mask=mask, **options)

        def split(values: torch.Tensor | None) -> list[Any]:
            if values is None:
                return [None] * len(ids)
            parts = values[0].split([len(row) for row in ids]) if padding_free else values
            return [part[: len(row)].float().cpu() for part, row in zip(parts, ids, strict=True)]

        dense = [None] * len(ids) if outputs.dense is None else outputs.dense.float().cpu()
        for row, vector, weights, vectors in zip(
            ids, dense, split(outputs.token_weights), split(outputs.embeddings), strict=True
        ):
            if vectors is not None:
                vectors = vectors[self.scored({"input_ids": row[None], "attention_mask": None})[0].cpu()]
            yield vector, None if weights is None else largest_weights(row, weights), vectors

    def save_pretrained(self, save_directory, is_main_process: bool = True, *args, **kwargs):
        """Saves as every model, with what sentence-transformers needs to read the folder."""
        if is_main_process:
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            for name, content in SENTENCE_FILES.items():
                (Path(save_directory) / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
        return super().save_pretrained(save_directory, is_main_process, *args, **kwargs)


def largest_weights(row: torch.Tensor, weights: torch.Tensor) -> dict[int, float]:
    """The largest weight of each token of a row that is above 0, by id."""
    found: dict[int, float] = {}
    for token, weight in zip(row.tolist(), weights.tolist(), strict=True):
        if weight > found.get(token, 0.0):
            found[token] = weight
    return found


__all__ = ["TrineForRetrieval"]
