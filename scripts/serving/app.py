"""The application of `trine serve`: the routes of its models, and those that tell about the server."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from trine.scripts.serving.errors import add_errors
from trine.scripts.serving.managers import OneModel


# The option that serves a path.
OPTIONS = {
    "/v1/chat/completions": "model",
    "/v1/completions": "model",
    "/v1/responses": "model",
    "/v1/embeddings": "embedding_model",
    "/v1/rerank": "rerank_model",
    "/v2/rerank": "rerank_model",
}


class Served(Protocol):
    """A model with the routes that ask it, under the name that clients call it by."""

    name: str

    def add_routes(self, app: FastAPI) -> None:
        """Adds its routes."""


def make_app(
    served: Sequence[Served],
    state: OneModel,
    any_origin: bool = False,
    caches: Mapping[str, Callable[[], Any]] | None = None,
) -> FastAPI:
    """The application that serves models.

    Args:
        served: The models.
        state: What generates, and counts.
        any_origin: Lets pages of all sites in.
        caches: What empties each cache, by its name.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if any_origin:
        app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    add_errors(app)
    _add_information(app, [each.name for each in served])
    _add_state(app, state, caches or {})
    for each in served:
        each.add_routes(app)
    _add_unserved(app)
    return app


def _add_unserved(app: FastAPI) -> None:
    """Routes that name the option which would serve them."""

    def add_route(path: str, option: str) -> None:
        @app.post(path)
        async def refuse():
            raise HTTPException(404, f"{path} is not served: start with --{option} FOLDER.")

    there = {getattr(route, "path", "") for route in app.routes}
    for path, option in OPTIONS.items():
        if path not in there:
            add_route(path, option)


def _add_information(app: FastAPI, names: Sequence[str]) -> None:
    """The routes that tell what is served."""
    card = {"object": "model", "created": int(time.time()), "owned_by": "trine"}

    @app.get("/v1/models")
    async def list_models():
        return {"object": "list", "data": [{"id": name, **card} for name in dict.fromkeys(names)]}

    @app.get("/v1/models/{model:path}")
    async def find_model(model: str):
        check_name(model, 404)
        return {"id": model, **card}

    @app.post("/load_model")
    async def load_model(body: dict):
        """Answers the first question of `transformers chat`: the model is ready."""
        check_name(body.get("model"), 400)
        event = json.dumps({"status": "ready", "model": body["model"], "cached": True})
        return Response(f"data: {event}\n\n", media_type="text/event-stream")

    def check_name(asked: Any, status: int) -> None:
        if asked not in names:
            raise HTTPException(status, f"model={asked!r} is not served, only {' and '.join(map(repr, names))}.")


def _add_state(app: FastAPI, state: OneModel, caches: Mapping[str, Callable[[], Any]]) -> None:
    """The routes that tell whether all is well, how much was done, and that empty the caches."""

    @app.get("/health")
    async def tell_health():
        if state.is_alive():
            return {"status": "ok"}
        return JSONResponse({"status": "unhealthy", "reason": "what generates has died"}, 503)

    @app.get("/metrics")
    def tell_metrics():
        return Response(state.metrics.write(), media_type=CONTENT_TYPE_LATEST)

    @app.post("/cache/clear")
    def clear_caches():
        for clear in caches.values():
            clear()
        return {"cleared": [*caches]}
