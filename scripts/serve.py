"""Serve a decoder over HTTP as OpenAI's chats and completions, with the handlers of `transformers serve`."""

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

import trine
from trine.configuration.patterns import check_choice
from trine.modeling.checks.batching import check_continuous_batching
from trine.scripts.arguments.chat_template import CHAT_TEMPLATE, set_chat_template
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.scripts.jobs.memory import keep_freed_memory


LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::", "")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass
class ServeArguments:
    """Options of `trine serve`."""

    model: str = field(metadata={"help": "Folder or Hub id of a decoder; its tokenizer needs a template for chats."})
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
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port={self.port} must be from 1 to 65535.")
        for name in ("cb_num_blocks", "cb_max_batch_tokens"):
            if (getattr(self, name) or 1) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
            if getattr(self, name) is not None and not self.continuous_batching:
                raise ValueError(f"{name}={getattr(self, name)} needs continuous_batching.")


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine serve` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([ServeArguments], argv, command="serve", description=__doc__)
    keep_freed_memory()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        check_model(arguments)
        check_address(arguments.host, arguments.port)
        model, tokenizer = load(arguments)
    except INPUT_ERRORS as error:
        sys.exit(f"trine serve: {error}")
    with contextlib.suppress(KeyboardInterrupt):
        serve(arguments, model, tokenizer)


def check_model(arguments: ServeArguments) -> None:
    """Checks, before the model is loaded, that it can be served.

    Raises:
        OSError: The model is not there.
        ValueError: The model does not continue texts, or does not fit continuous batching.
    """
    config = AutoConfig.from_pretrained(arguments.model, trust_remote_code=arguments.trust_remote_code)
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
    """The model and its tokenizer.

    Raises:
        OSError, ValueError: They cannot be read, or there is no such chat template.
    """
    trust = {"trust_remote_code": arguments.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, **trust)
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
    return AutoModelForCausalLM.from_pretrained(arguments.model, **options, **trust).eval(), tokenizer


def serve(arguments: ServeArguments, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Answers requests until SIGTERM or Ctrl-C, which is a KeyboardInterrupt once the server has closed."""
    from trine.scripts.serving.chat_server import AllowedHosts, OneModel, Server, make_app

    logging.set_verbosity(logging.log_levels[arguments.log_level])
    if arguments.default_seed is not None:
        torch.manual_seed(arguments.default_seed)
    sizes = {"num_blocks": arguments.cb_num_blocks, "max_batch_tokens": arguments.cb_max_batch_tokens}
    state = OneModel(arguments.continuous_batching, {name: value for name, value in sizes.items() if value})
    app = make_app(arguments.model, model, tokenizer, state, arguments.enable_cors)
    names = {*LOCAL_NAMES, arguments.host, *arguments.allowed_hosts}
    is_everywhere = arguments.host in EVERYWHERE
    app = AllowedHosts(app, names | ({socket.gethostname()} if is_everywhere else set()), is_everywhere)
    url = f"http://{'localhost' if is_everywhere else arguments.host}:{arguments.port}"
    welcome = f"{url}/v1 serves '{arguments.model}', until Ctrl-C. To chat: transformers chat {arguments.model} {url}"
    try:
        Server(app, arguments.host, arguments.port, arguments.log_level, welcome, state).run()
    finally:
        state.shutdown()


if __name__ == "__main__":
    main()
