"""The options of `trine serve`."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.utils.hub import convert_file_size_to_int

from trine.configuration.patterns import check_choice
from trine.retrieval.computing import AUTO, DTYPE_HELP, DTYPES
from trine.scripts.arguments.chat_template import CHAT_TEMPLATE
from trine.scripts.arguments.devices import check_device


LOG_LEVELS = ("debug", "info", "warning", "error")
ACCESS_LOGS = ("none", "json", "uvicorn")
KEY_VARIABLE = "TRINE_API_KEY"
OWN_ENGINE = "transformers"  # whose handlers answer
ENGINES = (OWN_ENGINE, "vllm")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")  # of accelerate, for several devices


def option(default: Any, text: str) -> Any:
    """A field with its line of help."""
    return field(default=default, metadata={"help": text})


@dataclass
class ServeArguments:
    """Options of `trine serve`."""

    model: str | None = option(
        None,
        "Folder or Hub id of a decoder, for chats and completions; chats need a chat template. Or of an "
        "encoder-decoder, for completions, whose prompt is the source.",
    )
    embedding_model: str | None = option(
        None, "Folder or Hub id of a model of sentence-transformers, for /v1/embeddings."
    )
    rerank_model: str | None = option(None, "Folder or Hub id of a CrossEncoder, for /v1/rerank.")
    engine: str = option(
        OWN_ENGINE, f"What serves, {' or '.join(ENGINES)}; vllm has options of its own: --engine vllm --help."
    )
    chat_template: str | None = CHAT_TEMPLATE
    host: str = option("localhost", "Address to listen on; localhost is this computer only.")
    port: int = option(8000, "Port to listen on.")
    allowed_hosts: list[str] = field(
        default_factory=list,
        metadata={
            "help": "More names by which requests may call this server, or * for all. Always allowed are localhost, "
            "--host, and where that is 0.0.0.0 or ::, the name of this computer and any number."
        },
    )
    api_key: str | None = option(
        None, f"Key that requests must bring; better in the variable {KEY_VARIABLE}, which no list of processes shows."
    )
    api_key_file: str | None = option(None, "File of such keys, one a line.")
    batch_requests: int = option(16, "Most requests that are answered together; 1 for one by one.")
    batch_tokens: int = option(32_768, "Most tokens in a batch, padding included, when another request joins it.")
    batch_wait_ms: float = option(5.0, "Milliseconds that texts to embed and pairs to rank wait for others.")
    max_queue: int = option(1024, "Most requests that wait for a place; more are answered with status 429.")
    max_tokens_per_request: int | None = option(
        None, "Most tokens of a request, prompt and answer. By default as many as the model has positions."
    )
    request_timeout: float | None = option(None, "Seconds for an answer, after which status 504 is sent.")
    max_body: str = option("32MiB", "Largest body of a request; larger ones are answered with status 413.")
    grace_seconds: float = option(10.0, "Time for the requests that are being answered after a SIGTERM.")
    continuous_batching: bool = option(False, "Generate with paged caches; for full and sliding layers.")
    cb_num_blocks: int | None = option(
        None, "Blocks of 256 tokens in the paged cache. On a CPU 64, else by the memory."
    )
    cb_max_batch_tokens: int | None = option(
        None, "Most tokens in a forward pass of it. On a CPU 256, else by the memory."
    )
    prefix_cache: str | None = option(
        None,
        "Memory, such as 1GiB, for what was read: prompts that begin alike are read from there on. Not with "
        "continuous_batching.",
    )
    response_cache: str | None = option(
        None,
        "Memory, such as 256MiB, for answers that are certain: greedy, with a seed, embeddings, scores.",
    )
    response_cache_dir: str | None = option(None, "Folder for these answers, which then outlive the server.")
    access_log: str = option("none", "A line for each request to standard error: none, json or uvicorn.")
    energy_country: str | None = option(
        None, "Three letters (ISO 3166), such as DEU: counts joules and CO2 in /metrics, with codecarbon."
    )
    attn_implementation: str | None = option(None, "Such as sdpa or flash_attention_2.")
    device: str = option("auto", "Such as cpu or cuda:1.")
    dtype: str = option("auto", "Such as bfloat16. By default that of the weights.")
    vectors_dtype: str = option(AUTO, f"The same of embedding_model and rerank_model. {DTYPE_HELP}")
    default_seed: int | None = option(None, "Random seed for requests without one.")
    enable_cors: bool = option(False, "Let pages of other sites ask, too.")
    log_level: str = option("warning", "Of transformers: debug, info, warning or error.")
    trust_remote_code: bool = option(False, "Run code that comes with the model. Trine's own needs none.")

    def __post_init__(self):
        check_device(self.device, [*DEVICE_MAPS, *map(str, range(torch.accelerator.device_count()))])
        check_choice("log_level", self.log_level, LOG_LEVELS)
        check_choice("access_log", self.access_log, ACCESS_LOGS)
        check_choice("vectors_dtype", self.vectors_dtype, DTYPES)
        if self.vectors_dtype != AUTO and not (self.embedding_model or self.rerank_model):
            raise ValueError(f"vectors_dtype='{self.vectors_dtype}' needs an --embedding_model or a --rerank_model.")
        if not (self.model or self.embedding_model or self.rerank_model):
            raise ValueError("Nothing is served: give --model, --embedding_model or --rerank_model.")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port={self.port} must be from 1 to 65535.")
        self._check_numbers()
        if self.continuous_batching and self.model is None:
            raise ValueError("continuous_batching=True is for a decoder: give its --model.")
        for name in ("cb_num_blocks", "cb_max_batch_tokens"):
            if getattr(self, name) is not None and not self.continuous_batching:
                raise ValueError(f"{name}={getattr(self, name)} needs continuous_batching.")
        if self.prefix_cache is not None and (self.continuous_batching or self.model is None):
            raise ValueError(f"prefix_cache='{self.prefix_cache}' needs a --model without continuous_batching.")
        if self.response_cache_dir is not None and self.response_cache is None:
            raise ValueError(f"response_cache_dir='{self.response_cache_dir}' needs --response_cache, its size.")
        for name in ("prefix_cache", "response_cache", "max_body"):
            if getattr(self, name) is not None:
                count_size(name, getattr(self, name))

    def _check_numbers(self) -> None:
        for name in ("batch_requests", "batch_tokens", "max_queue", "max_tokens_per_request", "cb_num_blocks"):
            check_least(name, getattr(self, name), 1)
        check_least("cb_max_batch_tokens", self.cb_max_batch_tokens, 1)
        for name in ("batch_wait_ms", "grace_seconds"):
            check_least(name, getattr(self, name), 0)
        if self.request_timeout is not None and not self.request_timeout > 0:
            raise ValueError(f"request_timeout={self.request_timeout} must be above 0.")

    def keys(self) -> list[str]:
        """The keys of which a request must bring one; none if all may ask.

        Raises:
            OSError: The file cannot be read.
            ValueError: It has no key, or a key is empty or has letters that no header holds.
        """
        keys = [key for key in (self.api_key, os.environ.get(KEY_VARIABLE)) if key is not None]
        if self.api_key_file is not None:
            try:
                lines = Path(self.api_key_file).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise OSError(f"api_key_file='{self.api_key_file}' cannot be read: {error}") from error
            found = [line.strip() for line in lines if line.strip()]
            if not found:
                raise ValueError(f"api_key_file='{self.api_key_file}' has no key.")
            keys += found
        for key in keys:
            if not key or not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError("An API key must be letters, digits and signs of ASCII, without spaces.")
        return keys


def check_least(name: str, value: float | None, least: int) -> None:
    """Raises a ValueError for a number below the least."""
    if value is not None and not value >= least:
        raise ValueError(f"{name}={value} must be at least {least}.")


def count_size(name: str, size: str) -> int:
    """A size such as 1GiB or 500MB in bytes; raises a ValueError."""
    try:
        count = convert_file_size_to_int(size)
    except ValueError:
        count = 0
    if count < 1:
        raise ValueError(f"{name}='{size}' is not a size such as 1GiB or 500MB.")
    return count
