"""Serve models over HTTP: a decoder's chats and completions, embeddings, and rankings, in OpenAI's forms."""

import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

import trine
from trine.generation.prefixes.prefix_cache import PrefixCache
from trine.modeling.checks.batching import check_continuous_batching
from trine.scripts.arguments.chat_template import set_chat_template
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.scripts.arguments.serving import ServeArguments, count_size
from trine.scripts.jobs.encoders import load_cross_encoder, load_encoder
from trine.scripts.jobs.memory import keep_freed_memory
from trine.scripts.serving.engines import OTHERS, find_engine


LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::", "")
WRITERS = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine serve` with these arguments, by default the process's."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if (engine := find_engine(argv)) in OTHERS:
        return OTHERS[engine](argv)
    (arguments,) = parse_arguments([ServeArguments], argv, command="serve", description=__doc__)
    keep_freed_memory()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        if arguments.model is not None:
            check_model(arguments)
        check_address(arguments.host, arguments.port)
        serve(arguments)
    except INPUT_ERRORS as error:
        sys.exit(f"trine serve: {error}")
    except ImportError as error:  # of codecarbon
        sys.exit(f"trine serve: {error}")
    except KeyboardInterrupt:  # Ctrl-C, once the server has closed
        pass


def check_model(arguments: ServeArguments) -> None:
    """Checks, before the decoder is loaded, that it can be served.

    Raises:
        OSError: The model is not there.
        ValueError: The model does not continue texts, or does not fit continuous batching.
    """
    config = AutoConfig.from_pretrained(str(arguments.model), trust_remote_code=arguments.trust_remote_code)
    own = {family.model_type for family, _, _ in trine.FAMILIES}
    served = {heads[name].__name__ for _, _, heads in trine.FAMILIES for name in WRITERS if name in heads}
    if config.model_type in own and not {*(config.architectures or [])} & served:
        raise ValueError(
            f"architectures={config.architectures} of '{arguments.model}' is not one of {sorted(served)}: the server "
            "writes texts, which needs a decoder."
        )
    if config.is_encoder_decoder and (arguments.continuous_batching or arguments.chat_template is not None):
        name = "continuous_batching" if arguments.continuous_batching else "chat_template"
        raise ValueError(f"{name} is for decoders, and '{arguments.model}' is an encoder-decoder.")
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
    """The decoder, or encoder-decoder, and its tokenizer.

    Raises:
        OSError, ValueError: They cannot be read, or there is no such chat template.
    """
    trust = {"trust_remote_code": arguments.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(str(arguments.model), **trust)
    if arguments.chat_template is not None:
        set_chat_template(tokenizer, arguments.chat_template)
    config = AutoConfig.from_pretrained(str(arguments.model), **trust)
    auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    if tokenizer.chat_template is None and not config.is_encoder_decoder:
        print(
            "The tokenizer has no chat template: /v1/completions is served, /v1/chat/completions needs "
            "--chat_template.",
            file=sys.stderr,
        )
    device = int(arguments.device) if arguments.device.isdigit() else arguments.device
    options = {"attn_implementation": arguments.attn_implementation, "dtype": arguments.dtype, "device_map": device}
    return auto.from_pretrained(str(arguments.model), **options, **trust).eval(), tokenizer


def serve(arguments: ServeArguments) -> None:
    """Answers requests until SIGTERM or Ctrl-C, which is a KeyboardInterrupt once the server has closed.

    It listens first, so that `/health` tells that the models are being loaded.

    Raises:
        OSError, ValueError: A model cannot be read, or cannot be served.
    """
    from trine.scripts.serving.guards import AllowedHosts, ApiKeys, BodyLimit
    from trine.scripts.serving.metrics import Metrics
    from trine.scripts.serving.server import Server
    from trine.scripts.serving.watch import Watch

    logging.set_verbosity(logging.log_levels[arguments.log_level])
    keys = arguments.keys()
    watch = Watch(Metrics(arguments.energy_country), arguments.access_log == "json")
    names = {*LOCAL_NAMES, arguments.host, *arguments.allowed_hosts}
    is_everywhere = arguments.host in EVERYWHERE
    names |= {socket.gethostname()} if is_everywhere else set()

    def load_all() -> tuple[Any, str, Callable[[], None]]:
        app, served, stop = make(arguments, watch.metrics)
        app = BodyLimit(app, count_size("max_body", arguments.max_body))
        app = ApiKeys(app, keys) if keys else app
        url = f"http://{'localhost' if is_everywhere else arguments.host}:{arguments.port}"
        welcome = f"{url}/v1 serves {', '.join(map(repr, served))}, until Ctrl-C."
        welcome += "" if arguments.model is None else f" To chat: transformers chat {arguments.model} {url}"
        return AllowedHosts(app, names, is_everywhere), welcome, stop

    options = {"host": arguments.host, "port": arguments.port}
    is_logged = arguments.access_log == "uvicorn"
    options |= {"access_log": is_logged, "log_level": "info" if is_logged else arguments.log_level}
    server = Server(watch, load_all, arguments.grace_seconds, **options)
    server.run()
    if server.error is not None:
        raise server.error


def make(arguments: ServeArguments, metrics: Any) -> tuple[Any, list[str], Callable[[], None]]:
    """The application with its models, their names, and what ends generation.

    Raises:
        OSError, ValueError: A model cannot be read, or cannot be served.
    """
    from trine.scripts.serving.app import make_app
    from trine.scripts.serving.decoder import Decoder
    from trine.scripts.serving.identity import identify_decoder, identify_vectors
    from trine.scripts.serving.limits import Limits
    from trine.scripts.serving.managers import OneModel
    from trine.scripts.serving.response_cache import ResponseCache
    from trine.scripts.serving.vector_models import EmbeddingModel, RerankModel

    limits = Limits(
        arguments.batch_requests,
        arguments.batch_tokens,
        arguments.batch_wait_ms / 1000,
        arguments.max_queue,
        arguments.max_tokens_per_request,
        arguments.request_timeout,
    )
    responses = None
    if arguments.response_cache is not None:
        size = count_size("response_cache", arguments.response_cache)
        responses = ResponseCache(size, metrics, arguments.response_cache_dir)
    sizes = {"num_blocks": arguments.cb_num_blocks, "max_batch_tokens": arguments.cb_max_batch_tokens}
    sizes = {name: value for name, value in sizes.items() if value}
    prefixes = PrefixCache(count_size("prefix_cache", arguments.prefix_cache)) if arguments.prefix_cache else None
    state = OneModel(arguments.continuous_batching, sizes, limits, metrics, prefixes, arguments.default_seed)
    served: list[Any] = []
    if arguments.model is not None:
        model, tokenizer = load(arguments)
        identity = "" if responses is None else identify_decoder(model, tokenizer)
        served.append(Decoder(str(arguments.model), model, tokenizer, state, responses, identity))
    for name, loader, kind in (
        (arguments.embedding_model, load_encoder, EmbeddingModel),
        (arguments.rerank_model, load_cross_encoder, RerankModel),
    ):
        if name is not None:
            other: Any = loader(name, device_of(arguments), arguments.trust_remote_code, arguments.vectors_dtype)
            identity = "" if responses is None else identify_vectors(other, arguments.vectors_dtype)
            served.append(kind(name, other, limits, metrics, responses, identity))
    clear = {"prefix": prefixes and prefixes.clear, "response": responses and responses.clear}
    caches = {name: empty for name, empty in clear.items() if empty is not None}
    return make_app(served, state, arguments.enable_cors, caches), [each.name for each in served], state.shutdown


def device_of(arguments: ServeArguments) -> str | None:
    """The device for models of sentence-transformers, which take no number."""
    device = None if arguments.device == "auto" else arguments.device
    return f"cuda:{device}" if device is not None and device.isdigit() else device


if __name__ == "__main__":
    main()
