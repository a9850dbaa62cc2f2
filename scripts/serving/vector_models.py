"""Embeddings and rankings as routes of `trine serve`, in the forms of OpenAI and of Cohere and Jina."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Normalize

from trine.retrieval.encoding import encode_texts
from trine.scripts.serving.asked import current
from trine.scripts.serving.gatherer import Gatherer
from trine.scripts.serving.known_answers import HEADER
from trine.scripts.serving.limits import Limits
from trine.scripts.serving.metrics import Metrics
from trine.scripts.serving.request_checks import BadRequest, check_model
from trine.scripts.serving.response_cache import ResponseCache, key_of
from trine.scripts.serving.streams import until_disconnected
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
    check_size,
    check_text,
)


UNLIMITED = 10**9  # above this a tokenizer's limit is none


class VectorModel:
    """Computes float32 numbers of texts or pairs, together with those of other requests, or knows them.

    Args:
        name: What clients call it.
        model: Computes.
        limits: Of the server.
        metrics: Counts.
        responses: Keeps the numbers of each text or pair.
        identity: Tells the model and its settings from all others.
    """

    kind = ""

    def __init__(
        self,
        name: str,
        model: Any,
        limits: Limits | None = None,
        metrics: Metrics | None = None,
        responses: ResponseCache | None = None,
        identity: str = "",
    ):
        self.name, self.model, self.limits = name, model, limits or Limits()
        self.responses, self.identity = responses, identity
        self.metrics = metrics or Metrics()
        self.limit = limit_of(model.max_seq_length)
        self.gatherer = Gatherer(self.kind, self.compute, self.limits, self.metrics)

    def compute(self, group: Any, items: list[Any]) -> np.ndarray:
        """The numbers of some texts or pairs, (items, size), in forward passes of like lengths."""
        raise NotImplementedError

    async def find(self, group: Any, items: Sequence[Any], lengths: Sequence[int]) -> np.ndarray:
        """The numbers of texts or pairs, (items, size): known ones, and new ones, which are kept."""
        asked = current()
        asked.prompt_tokens = sum(lengths)
        self.metrics.read(asked.prompt_tokens)
        if self.responses is None:
            return np.stack(await self.gatherer.run(group, items, lengths))
        keys = [key_of(self.identity, self.kind, group, item) for item in items]
        known = await asyncio.to_thread(self.responses.get, keys)
        new = [place for place, value in enumerate(known) if value is None]
        asked.cache = "hit" if not new else "miss" if len(new) == len(items) else "partial"
        asked.cached_tokens = asked.prompt_tokens - sum(lengths[place] for place in new)
        rows = [np.frombuffer(value or b"", "<f4") for value in known]
        if new:
            made = await self.gatherer.run(group, [items[p] for p in new], [lengths[p] for p in new])
            for place, row in zip(new, made, strict=True):
                rows[place] = np.asarray(row, "<f4")
            kept = {keys[place]: rows[place].tobytes() for place in new if np.isfinite(rows[place]).all()}
            await asyncio.to_thread(self.responses.put, kept)
        return np.stack(rows)

    def check_tokens(self, tokens: int, field: str) -> None:
        """Raises a BadRequest for more tokens than the server takes of a request."""
        most = self.limits.max_tokens
        if most is not None and tokens > most:
            raise BadRequest(
                f"The request has {tokens:,} tokens, more than max_tokens_per_request={most} of this server.", field
            )


class EmbeddingModel(VectorModel):
    """Embeds the texts of requests together; the numbers are those of `SentenceTransformer.encode`.

    Args:
        batch_size: Texts in a forward pass. By default 32, and on a CPU fewer of long ones.
    """

    kind = "embeddings"

    def __init__(self, name: str, model: SentenceTransformer, *rest: Any, batch_size: int | None = None, **named: Any):
        self.batch_size = batch_size
        self.size = int(model.get_embedding_dimension() or 0)
        self.vocab_size = len(model.tokenizer)
        self.is_normalized = any(isinstance(module, Normalize) for module in model)
        super().__init__(name, model, *rest, **named)

    def add_routes(self, app: FastAPI) -> None:
        """Adds /v1/embeddings."""
        add_route(app, "/v1/embeddings", self.answer, self.limits)

    async def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """OpenAI's response to a request. Raises a BadRequest that says what is wrong in it."""
        check_known(body, EMBEDDING_FIELDS)
        check_model(body, self.name)
        encoding = check_choice(body, "encoding_format", ENCODINGS, "float")
        size = check_size(body, "dimensions", self.size)
        truncate, input_type = check_flag(body, "truncate"), check_choice(body, "input_type", INPUT_TYPES, None)
        inputs: list[Any] = check_input(body, self.vocab_size)
        is_text = isinstance(inputs[0], str)
        lengths = await asyncio.to_thread(self.count, inputs, input_type) if is_text else [*map(len, inputs)]
        advice = "shorten it, or send truncate=true"
        check_lengths(lengths, None if truncate else self.limit, "input", advice)
        lengths = [min(length, self.limit or length) for length in lengths]
        self.check_tokens(sum(lengths), "input")
        items = inputs if is_text else [list(ids)[: self.limit] for ids in inputs]
        vectors = self.cut(await self.find((input_type or "") if is_text else None, items, lengths), size)
        if not np.isfinite(vectors).all():
            raise BadRequest("The model gives numbers that are not finite.", "input")
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": place, "embedding": write_vector(vector, encoding)}
                for place, vector in enumerate(vectors)
            ],
            "model": self.name,
            "usage": {"prompt_tokens": sum(lengths), "total_tokens": sum(lengths)},
        }

    def cut(self, vectors: np.ndarray, size: int | None) -> np.ndarray:
        """The first numbers of vectors, which then get length 1 again where the model's have it, as OpenAI does."""
        if size is None:
            return vectors
        cut = vectors[:, :size]
        return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12) if self.is_normalized else cut

    def count(self, texts: Sequence[str], input_type: str | None) -> list[int]:
        """Tokens of texts, with the prompt that `encode_query`, `encode_document` or `encode` puts before them."""
        names = {"query": ["query"], "document": ["document", "passage", "corpus"]}.get(input_type or "", [])
        prompts = [self.model.prompts[name] for name in names if name in self.model.prompts]
        default = self.model.prompts.get(self.model.default_prompt_name or "")
        prompt = (prompts[0] if prompts else default) or ""
        return count_tokens(self.model.tokenizer, [f"{prompt}{text}" for text in texts])

    def compute(self, group: Any, items: list[Any]) -> np.ndarray:
        """The vectors of texts of one input type, or of token ids, where the group is None."""
        if group is None:
            return self._embed_ids(items)
        ways = {"query": self.model.encode_query, "document": self.model.encode_document}
        encode, is_cpu = ways.get(group, self.model.encode), self.model.device.type == "cpu"
        return encode_texts(encode, items, self.batch_size, is_cpu, self.limit, show_progress_bar=False)

    @torch.inference_mode()
    def _embed_ids(self, rows: Sequence[list[int]], batch_size: int = 32) -> np.ndarray:
        """The vectors of token ids, which are read as they are, without further special tokens."""
        self.model.eval()
        vectors = []
        for start in range(0, len(rows), batch_size):
            batch = {"input_ids": [*rows[start : start + batch_size]]}
            features = self.model.tokenizer.pad(batch, return_tensors="pt")
            vectors.append(self.model({**features.to(self.model.device)})["sentence_embedding"].float().cpu().numpy())
        return np.concatenate(vectors)


class RerankModel(VectorModel):
    """Ranks the documents of a request for its query; the scores are those of `CrossEncoder.rank`.

    Args:
        batch_size: Pairs in a forward pass.
    """

    kind = "rerank"

    def __init__(self, name: str, model: CrossEncoder, *rest: Any, batch_size: int = 32, **named: Any):
        self.batch_size = batch_size
        super().__init__(name, model, *rest, **named)

    def add_routes(self, app: FastAPI) -> None:
        """Adds /v1/rerank, and /v2/rerank, which Cohere's client asks."""
        for path in ("/v1/rerank", "/v2/rerank"):
            add_route(app, path, self.answer, self.limits)

    async def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The response to a request. Raises a BadRequest that says what is wrong in it."""
        check_known(body, RERANK_FIELDS)
        check_model(body, self.name)
        top_n, return_documents = check_size(body, "top_n"), check_flag(body, "return_documents")
        query, documents = check_text(body.get("query"), "query"), check_documents(body)
        alone, lengths = await asyncio.to_thread(self.count, query, documents)
        advice = "it leaves no room for a document, so shorten it"
        check_lengths([alone], None if self.limit is None else self.limit - 1, "query", advice)
        lengths = [min(length, self.limit or length) for length in lengths]
        self.check_tokens(sum(lengths), "documents")
        scores = (await self.find("", [(query, document) for document in documents], lengths))[:, 0]
        if not np.isfinite(scores).all():
            raise BadRequest("The model gives numbers that are not finite.", "documents")
        order = sorted(range(len(documents)), key=lambda place: -scores[place])[:top_n]
        results: list[dict[str, Any]] = [{"index": each, "relevance_score": float(scores[each])} for each in order]
        if return_documents:
            for each in results:
                each["document"] = {"text": documents[each["index"]]}
        return {"id": str(uuid4()), "model": self.name, "results": results, "usage": {"total_tokens": sum(lengths)}}

    def count(self, query: str, documents: Sequence[str]) -> tuple[int, list[int]]:
        """Tokens of the query by itself, and of each pair."""
        alone = len(self.model.tokenizer(query, "", truncation=False, verbose=False)["input_ids"])
        return alone, count_tokens(self.model.tokenizer, [query] * len(documents), documents)

    def compute(self, group: Any, items: list[Any]) -> np.ndarray:
        """The scores of pairs, (pairs, 1)."""
        scores: Any = self.model.predict(items, batch_size=self.batch_size, show_progress_bar=False)
        return np.asarray(scores, dtype=np.float32).reshape(-1, 1)


def add_route(app: FastAPI, path: str, answer: Callable[[Mapping[str, Any]], Awaitable[dict]], limits: Limits) -> None:
    """Adds a route whose requests are answered within their time, as long as their client waits."""

    @app.post(path)
    async def respond(request: Request, body: dict):
        asked = current()

        async def respond_whole() -> JSONResponse:
            content = await answer(body)
            return JSONResponse(content, headers={} if asked.cache is None else {HEADER: asked.cache})

        left = None if limits.timeout is None else max(0.0, limits.timeout - asked.seconds)
        return await until_disconnected(request, respond_whole(), left, limits.timeout)


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
