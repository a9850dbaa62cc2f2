"""Serve a decoder over HTTP with the library's server, `transformers serve`: chats and completions as OpenAI's."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import AutoConfig, AutoTokenizer
from transformers.utils.import_utils import is_serve_available

import trine
from trine.modeling.continuous_batching import check_continuous_batching
from trine.scripts.arguments import parse_arguments


@dataclass
class ServeArguments:
    model: str = field(metadata={"help": "Folder or Hub id of a decoder; its tokenizer needs a template for chats."})
    host: str = field(default="localhost", metadata={"help": "Address to listen on; localhost is this computer only."})
    port: int = field(default=8000, metadata={"help": "Port to listen on."})
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
    log_level: str = field(default="warning", metadata={"help": "Of the library: debug, info, warning or error."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with the model. Trine's own needs none."}
    )

    def __post_init__(self):
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port={self.port} must be from 1 to 65535.")
        for name in ("cb_num_blocks", "cb_max_batch_tokens"):
            if (getattr(self, name) or 1) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
            if getattr(self, name) is not None and not self.continuous_batching:
                raise ValueError(f"{name}={getattr(self, name)} needs continuous_batching.")


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = parse_arguments([ServeArguments], argv, command="serve", description=__doc__)
    if not is_serve_available():
        sys.exit("trine serve: the server's packages are missing: pip install 'trine[serving]'")
    try:
        check_model(arguments)
    except (OSError, ValueError) as error:
        sys.exit(f"trine serve: {error}")
    from transformers.cli.serve import Serve

    options = {name: value for name, value in vars(arguments).items() if name != "model"}
    url = f"http://{arguments.host}:{arguments.port}"
    print(
        f"{url}/v1 serves '{arguments.model}', until Ctrl-C. To chat: transformers chat {arguments.model} {url}",
        flush=True,
    )
    Serve(arguments.model, **options)


def check_model(arguments: ServeArguments) -> None:
    """Finds out before the server starts what would otherwise fail at the first request.

    Raises:
        OSError: Model or tokenizer are not there.
        ValueError: The model does not continue texts, or does not fit continuous batching.
    """
    trust = {"trust_remote_code": arguments.trust_remote_code}
    config = AutoConfig.from_pretrained(arguments.model, **trust)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, **trust)
    own = {family.model_type for family, _, _ in trine.FAMILIES}
    served = trine.TrineForCausalLM.__name__
    if config.model_type in own and config.architectures != [served]:
        raise ValueError(
            f"architectures={config.architectures} of '{arguments.model}' is not ['{served}']: the server continues "
            "texts, which needs a decoder."
        )
    if config.model_type in own and arguments.continuous_batching:
        check_continuous_batching(config)
    if tokenizer.chat_template is None:
        print(
            "The tokenizer has no chat template: /v1/completions is served, /v1/chat/completions fails.",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
