"""Training of dense, lexical and multiple vectors together: contrast on each and on their sum, which teaches them.

Source: Chen et al. 2024, BGE M3-Embedding, arXiv 2402.03216, section 3.3.
"""

# Shapes: Q queries, P documents.

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import Trainer

from ...modeling.heads.base import balancing_losses
from ...modeling.heads.retrieval_scores import multi_vector_scores, vocabulary_vectors, weighted_sum
from ..data.distinct_batches import DistinctBatches


# How much the loss of each kind counts in M3.
LOSS_WEIGHTS = {"dense": 1.0, "sparse": 0.1, "multi_vector": 1.0}
HEADS = ("sparse_linear.", "multi_vector_linear.")  # how names of their parameters begin


def retrieval_loss(
    scores: Mapping[str, torch.Tensor],
    targets: torch.Tensor,
    temperature: float = 0.02,
    score_weights: Mapping[str, float] | None = None,
    distill: bool = True,
) -> torch.Tensor:
    """Returns the loss of scores, the mean over the queries.

    The contrast of a kind is the cross-entropy of the right document among all, of scores over the temperature. The
    first part is the sum of the contrasts, each times its `LOSS_WEIGHTS`, and of that of the weighted sum of the
    scores, over the number of these terms. The second is the sum of the cross-entropies between the probabilities by
    the sum, which has no gradient there, and those of each kind, likewise weighted, over the number of kinds. The loss
    is the mean of both parts. With one kind of scores, it is its contrast.

    Args:
        scores: (Q, P) of `dense`, `sparse` and `multi_vector`, or some of these.
        targets: The right document of each query, (Q,).
        temperature: What scores are divided by.
        score_weights: As of `weighted_sum`.
        distill: Whether there is the second part.

    Raises:
        ValueError: The temperature is not above 0, or there are no scores.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0.")
    if not scores:
        raise ValueError("scores={} has none of ['dense', 'sparse', 'multi_vector'].")
    logits = {name: score / temperature for name, score in scores.items()}
    contrasts = {name: cross_entropy(logit, targets) for name, logit in logits.items()}
    if len(scores) == 1:
        return next(iter(contrasts.values()))
    teacher = weighted_sum(logits, score_weights)
    first = cross_entropy(teacher, targets) + sum(LOSS_WEIGHTS[name] * loss for name, loss in contrasts.items())
    first = first / (len(scores) + 1)
    if not distill:
        return first
    taught = teacher.detach().softmax(dim=-1)
    second = sum(LOSS_WEIGHTS[name] * cross_entropy(logit, taught) for name, logit in logits.items())
    return (first + second / len(scores)) / 2


def compare(queries: Any, documents: Any, query_ids: torch.Tensor, document_ids: torch.Tensor, vocab_size: int):
    """Returns the scores (Q, P) of each kind that two outputs of `TrineForRetrieval` have, by name.

    Args:
        queries: The model's output for the queries.
        documents: That for the documents.
        query_ids: What it read, (Q, length).
        document_ids: Likewise, (P, length).
        vocab_size: The number of tokens.
    """
    scores: dict[str, torch.Tensor] = {}
    if queries.dense is not None:
        scores["dense"] = queries.dense @ documents.dense.T
    if queries.token_weights is not None:
        left = vocabulary_vectors(queries.token_weights, query_ids, vocab_size)
        scores["sparse"] = left @ vocabulary_vectors(documents.token_weights, document_ids, vocab_size).T
    if queries.embeddings is not None:
        sides = (queries.embeddings, documents.embeddings)
        left, right = ((vectors, (vectors != 0).any(dim=-1)) for vectors in sides)
        scores["multi_vector"] = multi_vector_scores(*left, *right)
    return scores


class RetrievalCollator:
    """Makes a batch of records: texts under `query`, `positive` and, in some or all of them, `negatives`.

    All positives of the batch come first among its documents, then all negatives; each query is compared with all.

    Args:
        tokenizer: That of the model.
        max_length: The number of tokens of a text that are read.
    """

    def __init__(self, tokenizer: Any, max_length: int | None = None):
        self.tokenizer, self.max_length = tokenizer, max_length

    def __call__(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        documents = [record["positive"] for record in records]
        documents += [text for record in records for text in record.get("negatives") or ()]
        return {"queries": self.read([record["query"] for record in records]), "documents": self.read(documents)}

    def read(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Returns padded ids and their mask."""
        options: dict[str, Any] = {"truncation": True, "max_length": self.max_length, "return_tensors": "pt"}
        return dict(self.tokenizer(texts, padding=True, **options))


class RetrievalTrainer(Trainer):
    """Trains a `TrineForRetrieval` with `retrieval_loss`, on the batches of a `RetrievalCollator`.

    No text is twice in a batch of a data set with a length, where it would be a wrong answer to its own query.

    Args:
        args: As of transformers' `Trainer`.
        temperature: As of `retrieval_loss`, and so the following.
        score_weights: The weights of the sum.
        distill: Whether the sum teaches the kinds.
        head_learning_rate: That of the layers for `sparse` and `multi_vector`; by default as of all.
        no_duplicates: False for batches in which a text may be twice.
        kwargs: As of transformers' `Trainer`.
    """

    def __init__(
        self,
        *args,
        temperature: float = 0.02,
        score_weights: Mapping[str, float] | None = None,
        distill: bool = True,
        head_learning_rate: float | None = None,
        no_duplicates: bool = True,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.head_learning_rate, self.no_duplicates = head_learning_rate, no_duplicates
        self._signature_columns = ["query", "positive", "negatives"]  # which transformers keeps, in place of forward's
        self.loss_options: Any = {"temperature": temperature, "score_weights": score_weights, "distill": distill}

    def get_train_dataloader(self) -> DataLoader:
        """Returns batches of records in which no text is twice."""
        records: Any = self.train_dataset
        if not self.no_duplicates or not hasattr(records, "__len__"):
            return super().get_train_dataloader()
        texts = [{record["query"], record["positive"], *(record.get("negatives") or ())} for record in records]
        arguments = self.args
        loader = DataLoader(
            records,
            batch_sampler=DistinctBatches(
                texts, self._train_batch_size, arguments.dataloader_drop_last, arguments.data_seed or arguments.seed
            ),
            collate_fn=self.data_collator,
            num_workers=arguments.dataloader_num_workers,
            pin_memory=arguments.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model=None):
        """Returns transformers' optimizer, in which heads have a learning rate of their own where one is given."""
        is_new, rate = self.optimizer is None, self.head_learning_rate
        optimizer: Any = super().create_optimizer(model)
        if is_new and rate is not None:
            trunk: Any = self.model
            heads = {id(tensor) for name, tensor in trunk.named_parameters() if name.startswith(HEADS)}
            split = [
                (group, [each for each in group["params"] if (id(each) in heads) == is_head])
                for group in optimizer.param_groups
                for is_head in (False, True)
            ]
            optimizer.param_groups[:] = [
                {**group, "params": tensors, **({"lr": rate} if id(tensors[0]) in heads else {})}
                for group, tensors in split
                if tensors
            ]
        return optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Returns the loss of a batch, with the router losses of a sparse model in training, and the scores."""
        trunk: Any = self.accelerator.unwrap_model(model)
        is_routed = model.training and trunk.has_experts()
        read: list[Any] = [inputs["queries"], inputs["documents"]]
        queries, documents = (model(**side, output_router_logits=is_routed) for side in read)
        ids = [side["input_ids"] for side in read]
        scores = compare(queries, documents, ids[0], ids[1], trunk.config.vocab_size)
        targets = torch.arange(len(ids[0]), device=ids[0].device)
        loss = retrieval_loss(scores, targets, **self.loss_options)
        if is_routed:
            routed = zip((queries, documents), (side["attention_mask"] for side in read), strict=True)
            loss = loss + sum(balancing_losses(trunk.model, side.router_logits, mask)[1] for side, mask in routed) / 2
        return (loss, scores) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Returns the loss of a batch without gradients; there are no predictions."""
        with torch.no_grad():
            loss: Any = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None
