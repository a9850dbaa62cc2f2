"""Serve models over HTTP: a decoder's chats and completions, embeddings, and rankings, in OpenAI's forms."""

import contextlib
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging
from transformers.utils.hub import convert_file_size_to_int

import trine
from trine.configuration.patterns import check_choice
from trine.generation.prefixes.prefix_cache import PrefixCache
from trine.modeling.checks.batching import check_continuous_batching
from trine.scripts.arguments.chat_template import CHAT_TEMPLATE, set_chat_template
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.scripts.jobs.encoders import load_cross_encoder, load_encoder
from trine.scripts.jobs.memory import keep_freed_memory


LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::", "")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass
class ServeArguments:
    """Options of `trine serve`."""

    model: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a decoder, for chats and completions; chats need a chat template."},
    )
    embedding_model: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a model of sentence-transformers, for /v1/embeddings."}
    )
    rerank_model: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a CrossEncoder, for /v1/rerank."}
    )
    chat_template: str | None = CHAT_TEMPLATE
    host: str = field(default="localhost", metadata={"help": "Address to listen on; localhost is this computer only."})
    port: int = field(default=8000, metadata={"help": "Port to listen on."})
    allowed_hosts: list[str] = field(
        default_factory=list,
        metadata={
            "help": "More names by which requests may call this server, or * for all. Always allowed are localhost, "
            "--host, and where that is 0.0.0.0 or ::, the name of this computer and any number."
        },
    )
    continuous_batching: bool = field(
        default=False, metadata={"help": "Serve requests together; for full and sliding layers."}
    )
    cb_num_blocks: int | None = field(
        default=None, metadata={"help": "Blocks of 256 tokens in the paged cache. On a CPU 64, else by the memory."}
    )
    cb_max_batch_tokens: int | None = field(
        default=None, metadata={"help": "Most tokens in a forward pass. On a CPU 256, else by the memory."}
    )
    prefix_cache: str | None = field(
        default=None,
        metadata={
            "help": "Memory, such as 1GiB, for what was read: prompts that begin alike are read from there on. Not "
            "with continuous_batching."
        },
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "Such as sdpa or flash_attention_2."})
    device: str = field(default="auto", metadata={"help": "Such as cpu or cuda:1."})
    dtype: str = field(default="auto", metadata={"help": "Such as bfloat16. By default that of the weights."})
    default_seed: int | None = field(default=None, metadata={"help": "Random seed for requests without one."})
    enable_cors: bool = field(default=False, metadata={"help": "Let pages of other sites ask, too."})
    log_level: str = field(default="warning", metadata={"help": "Of transformers: debug, info, warning or error."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with the model. Trine's own needs none."}
    )

    def __post_init__(self):
        check_choice("log_level", self.log_level, LOG_LEVELS)
        if not (self.model or self.embedding_model or self.rerank_model):
            raise ValueError("Nothing is served: give --model, --embedding_model or --rerank_model.")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port={self.port} must be from 1 to 65535.")
        for name in ("cb_num_blocks", "cb_max_batch_tokens"):
            if (getattr(self, name) or 1) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
            if getattr(self, name) is not None and not self.continuous_batching:
                raise ValueError(f"{name}={getattr(self, name)} needs continuous_batching.")
        if self.prefix_cache is not None:
            if self.continuous_batching or self.model is None:
                raise ValueError(f"prefix_cache='{self.prefix_cache}' needs a --model without continuous_batching.")
            prefix_bytes(self.prefix_cache)
        if self.continuous_batching and self.model is None:
            raise ValueError("continuous_batching=True is for a decoder: give its --model.")


def prefix_bytes(size: str) -> int:
    """A size such as 1GiB or 500MB in bytes; raises a ValueError."""
    try:
        count = convert_file_size_to_int(size)
    except ValueError:
        count = 0
    if count < 1:
        raise ValueError(f"prefix_cache='{size}' is not a size such as 1GiB or 500MB.")
    return count


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine serve` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([ServeArguments], argv, command="serve", description=__doc__)
    keep_freed_memory()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        if arguments.model is not None:
            check_model(arguments)
        check_address(arguments.host, arguments.port)
        decoder = None if arguments.model is None else load(arguments)
        others = load_others(arguments)
    except INPUT_ERRORS as error:
        sys.exit(f"trine serve: {error}")
    with contextlib.suppress(KeyboardInterrupt):
        serve(arguments, decoder, others)


def check_model(arguments: ServeArguments) -> None:
    """Checks, before the decoder is loaded, that it can be served.

    Raises:
        OSError: The model is not there.
        ValueError: The model does not continue texts, or does not fit continuous batching.
    """
    config = AutoConfig.from_pretrained(str(arguments.model), trust_remote_code=arguments.trust_remote_code)
    own = {family.model_type for family, _, _ in trine.FAMILIES}
    served = trine.TrineForCausalLM.__name__
    if config.model_type in own and config.architectures != [served]:
        raise ValueError(
            f"architectures={config.architectures} of '{arguments.model}' is not ['{served}']: the server continues "
            "texts, which needs a decoder."
        )
    if config.model_type in own and arguments.continuous_batching:
        check_continuous_batching(config)


def check_address(host: str, port: int) -> None:
    """Raises an OSError unless this computer can listen there."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            free.bind(address)
    except OSError as error:
        raise OSError(f"host='{host}', port={port} cannot be listened on: {error.strerror}.") from error


def load(arguments: ServeArguments) -> tuple[Any, PreTrainedTokenizerBase]:
    """The decoder and its tokenizer.

    Raises:
        OSError, ValueError: They cannot be read, or there is no such chat template.
    """
    trust = {"trust_remote_code": arguments.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(str(arguments.model), **trust)
    if arguments.chat_template is not None:
        set_chat_template(tokenizer, arguments.chat_template)
    if tokenizer.chat_template is None:
        print(
            "The tokenizer has no chat template: /v1/completions is served, /v1/chat/completions needs "
            "--chat_template.",
            file=sys.stderr,
        )
    device = int(arguments.device) if arguments.device.isdigit() else arguments.device
    options = {"attn_implementation": arguments.attn_implementation, "dtype": arguments.dtype, "device_map": device}
    return AutoModelForCausalLM.from_pretrained(str(arguments.model), **options, **trust).eval(), tokenizer


def load_others(arguments: ServeArguments) -> list[Any]:
    """The models that embed and rank, with their routes.

    Raises:
        OSError, ValueError: They cannot be read, or cannot be served.
    """
    from trine.scripts.serving.vector_models import EmbeddingModel, RerankModel

    device = None if arguments.device == "auto" else arguments.device
    device = f"cuda:{device}" if device is not None and device.isdigit() else device
    others: list[Any] = []
    if (name := arguments.embedding_model) is not None:
        others.append(EmbeddingModel(name, load_encoder(name, device, arguments.trust_remote_code)))
    if (name := arguments.rerank_model) is not None:
        others.append(RerankModel(name, load_cross_encoder(name, device, arguments.trust_remote_code)))
    return others


def serve(arguments: ServeArguments, decoder: tuple[Any, Any] | None, others: Sequence[Any]) -> None:
    """Answers requests until SIGTERM or Ctrl-C, which is a KeyboardInterrupt once the server has closed."""
    from trine.scripts.serving.chat_server import AllowedHosts, Decoder, OneModel, Server, make_app

    logging.set_verbosity(logging.log_levels[arguments.log_level])
    if arguments.default_seed is not None:
        torch.manual_seed(arguments.default_seed)
    sizes = {"num_blocks": arguments.cb_num_blocks, "max_batch_tokens": arguments.cb_max_batch_tokens}
    cache = PrefixCache(prefix_bytes(arguments.prefix_cache)) if arguments.prefix_cache else None
    state = OneModel(arguments.continuous_batching, {name: value for name, value in sizes.items() if value}, cache)
    served = [] if decoder is None else [Decoder(str(arguments.model), *decoder, state)]
    served += others
    app = make_app(served, state, arguments.enable_cors)
    names = {*LOCAL_NAMES, arguments.host, *arguments.allowed_hosts}
    is_everywhere = arguments.host in EVERYWHERE
    app = AllowedHosts(app, names | ({socket.gethostname()} if is_everywhere else set()), is_everywhere)
    url = f"http://{'localhost' if is_everywhere else arguments.host}:{arguments.port}"
    welcome = f"{url}/v1 serves {', '.join(repr(each.name) for each in served)}, until Ctrl-C."
    welcome += "" if decoder is None else f" To chat: transformers chat {arguments.model} {url}"
    try:
        Server(app, arguments.host, arguments.port, arguments.log_level, welcome, state).run()
    finally:
        state.shutdown()


if __name__ == "__main__":
    main()
