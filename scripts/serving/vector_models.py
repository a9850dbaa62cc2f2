"""Embeddings and rankings as routes of `trine serve`, in the forms of OpenAI and of Cohere and Jina."""

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from fastapi import FastAPI
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Normalize

from trine.scripts.serving.request_checks import BadRequest
from trine.scripts.serving.vector_checks import (
    EMBEDDING_FIELDS,
    ENCODINGS,
    INPUT_TYPES,
    RERANK_FIELDS,
    check_choice,
    check_documents,
    check_flag,
    check_input,
    check_known,
    check_lengths,
    check_model,
    check_size,
    check_text,
)


UNLIMITED = 10**9  # above this a tokenizer's limit is none


class EmbeddingModel:
    """Embeds the texts of a request together; the numbers are those of `SentenceTransformer.encode`.

    Args:
        name: What clients call it.
        model: Embeds.
        batch_size: Texts in a forward pass.
    """

    def __init__(self, name: str, model: SentenceTransformer, batch_size: int = 32):
        self.name, self.model, self.batch_size = name, model, batch_size
        self.size = int(model.get_embedding_dimension() or 0)
        self.limit = limit_of(model.max_seq_length)
        self.vocab_size = len(model.tokenizer)
        self.is_normalized = any(isinstance(module, Normalize) for module in model)

    def add_routes(self, app: FastAPI) -> None:
        """Adds /v1/embeddings."""
        add_route(app, "/v1/embeddings", self.answer)

    def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """OpenAI's response to a request. Raises a BadRequest that says what is wrong in it."""
        check_known(body, EMBEDDING_FIELDS)
        check_model(body, self.name)
        encoding = check_choice(body, "encoding_format", ENCODINGS, "float")
        size = check_size(body, "dimensions", self.size)
        truncate, input_type = check_flag(body, "truncate"), check_choice(body, "input_type", INPUT_TYPES, None)
        inputs: list[Any] = check_input(body, self.vocab_size)
        # Only the first numbers of a vector of length 1 are given length 1, too, as OpenAI does.
        options = {"truncate_dim": size, "normalize_embeddings": size is not None and self.is_normalized}
        if isinstance(inputs[0], str):
            prompt = self._prompt(input_type)
            lengths = count_tokens(self.model.tokenizer, [f"{prompt}{text}" for text in inputs])
            self._check(lengths, truncate)
            ways = {"query": self.model.encode_query, "document": self.model.encode_document}
            encode: Any = ways.get(input_type or "", self.model.encode)
            vectors = encode(inputs, batch_size=self.batch_size, show_progress_bar=False, **options)
        else:
            lengths = [*map(len, inputs)]
            self._check(lengths, truncate)
            vectors = self._embed_ids([list(ids)[: self.limit] for ids in inputs], **options)
        vectors = np.asarray(vectors, dtype=np.float32)
        if not np.isfinite(vectors).all():
            raise BadRequest("The model gives numbers that are not finite.", "input")
        tokens = sum(min(length, self.limit or length) for length in lengths)
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": place, "embedding": write_vector(vector, encoding)}
                for place, vector in enumerate(vectors)
            ],
            "model": self.name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    def _prompt(self, input_type: str | None) -> str:
        """Returns the text that `encode_query`, `encode_document` or `encode` puts before an input."""
        names = {"query": ["query"], "document": ["document", "passage", "corpus"]}.get(input_type or "", [])
        prompts = [self.model.prompts[name] for name in names if name in self.model.prompts]
        default = self.model.prompts.get(self.model.default_prompt_name or "")
        return (prompts[0] if prompts else default) or ""

    def _check(self, lengths: Sequence[int], truncate: bool) -> None:
        advice = "shorten it, or send truncate=true"
        check_lengths(lengths, None if truncate else self.limit, "input", advice)

    @torch.inference_mode()
    def _embed_ids(
        self, rows: Sequence[list[int]], truncate_dim: int | None, normalize_embeddings: bool
    ) -> np.ndarray:
        """The vectors of token ids, which are read as they are, without further special tokens."""
        self.model.eval()
        order = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
        vectors: dict[int, np.ndarray] = {}
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            features = self.model.tokenizer.pad({"input_ids": [rows[place] for place in places]}, return_tensors="pt")
            found = self.model({**features.to(self.model.device)})["sentence_embedding"][:, :truncate_dim]
            found = torch.nn.functional.normalize(found, dim=-1) if normalize_embeddings else found
            vectors |= dict(zip(places, found.float().cpu().numpy(), strict=True))
        return np.stack([vectors[place] for place in range(len(rows))])


class RerankModel:
    """Ranks the documents of a request for its query; the scores are those of `CrossEncoder.rank`.

    Args:
        name: What clients call it.
        model: Scores pairs.
        batch_size: Pairs in a forward pass.
    """

    def __init__(self, name: str, model: CrossEncoder, batch_size: int = 32):
        self.name, self.model, self.batch_size = name, model, batch_size
        self.limit = limit_of(model.max_seq_length)

    def add_routes(self, app: FastAPI) -> None:
        """Adds /v1/rerank, and /v2/rerank, which Cohere's client asks."""
        for path in ("/v1/rerank", "/v2/rerank"):
            add_route(app, path, self.answer)

    def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The response to a request. Raises a BadRequest that says what is wrong in it."""
        check_known(body, RERANK_FIELDS)
        check_model(body, self.name)
        top_n, return_documents = check_size(body, "top_n"), check_flag(body, "return_documents")
        query, documents = check_text(body.get("query"), "query"), check_documents(body)
        alone = len(self.model.tokenizer(query, "", truncation=False, verbose=False)["input_ids"])
        advice = "it leaves no room for a document, so shorten it"
        check_lengths([alone], None if self.limit is None else self.limit - 1, "query", advice)
        lengths = count_tokens(self.model.tokenizer, [query] * len(documents), documents)
        results = []
        ranked: Any = self.model.rank(query, documents, batch_size=self.batch_size, show_progress_bar=False)
        for each in ranked[:top_n]:
            results.append({"index": each["corpus_id"], "relevance_score": float(each["score"])})
            if return_documents:
                results[-1]["document"] = {"text": documents[each["corpus_id"]]}
        if not np.isfinite([each["relevance_score"] for each in results]).all():
            raise BadRequest("The model gives numbers that are not finite.", "documents")
        tokens = sum(min(length, self.limit or length) for length in lengths)
        return {"id": str(uuid4()), "model": self.name, "results": results, "usage": {"total_tokens": tokens}}


def add_route(app: FastAPI, path: str, answer: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Adds a route whose requests are answered in a thread, one at a time."""
    lock = asyncio.Lock()

    @app.post(path)
    async def respond(body: dict):
        async with lock:
            return await asyncio.to_thread(answer, body)


def limit_of(length: int | None) -> int | None:
    """The number of tokens that a model reads; None if there is no limit."""
    return None if length is None or length > UNLIMITED else length


def count_tokens(tokenizer: Any, *texts: Sequence[str]) -> list[int]:
    """The number of tokens of each text, or pair of texts, with those around it."""
    return [*map(len, tokenizer(*map(list, texts), truncation=False, verbose=False)["input_ids"])]


def write_vector(vector: np.ndarray, encoding: str | None) -> str | list[float]:
    """Numbers as JSON has them, or as base64 of float32, little-endian."""
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
