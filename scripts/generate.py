"""Generate text with a causal language model from a folder or the Hub."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, TextStreamer, set_seed

import trine  # noqa: F401 - registers the models of this package with the Auto classes
from trine.configuration.patterns import check_choice
from trine.conversion.quantization.fast import fast_on_cpu
from trine.generation.presets import SAMPLING_PRESETS, SamplingPreset
from trine.scripts.arguments.devices import check_device
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.scripts.arguments.text import read_standard_input, text_field
from trine.scripts.jobs.assistants import DRAFTED_TOKENS, load_assistant, set_drafts
from trine.scripts.jobs.memory import keep_freed_memory
from trine.training.run.resuming import list_checkpoints


DEFAULT_SAMPLING = SamplingPreset(0.8, 0, 1.0, "A little sharper than what was learned, as small models need it.")
CONSTRAINTS = ("json_schema", "grammar", "regex")


@dataclass
class GenerateArguments:
    """Options of `trine generate`."""

    model: str = field(metadata={"help": "Folder or Hub id of a causal language model."})
    text: list[str] = text_field("One or more texts to continue.")
    chat: bool = field(
        default=False,
        metadata={
            "help": "Take each text as what a user says, written by the tokenizer's chat template; print the answers."
        },
    )
    max_new_tokens: int = field(default=200, metadata={"help": "Most tokens to add to a prompt."})
    preset: str | None = field(
        default=None,
        metadata={
            "help": f"One of {', '.join(SAMPLING_PRESETS)}: the temperature, top_k and top_p that are not given."
        },
    )
    temperature: float | None = field(
        default=None, metadata={"help": "Divides the logits; 0 always takes the best token. By default 0.8."}
    )
    temperatures: str | None = field(
        default=None, metadata={"help": "Several, as 0.2,0.8,1.2: a sample of every prompt for each, in place of one."}
    )
    top_k: int | None = field(
        default=None, metadata={"help": "Sample from this many best tokens; 0, the default, is all."}
    )
    top_p: float | None = field(
        default=None, metadata={"help": "Sample from the best tokens of this joint probability. By default 1."}
    )
    min_p: float = field(default=0.0, metadata={"help": "Drop tokens below this share of the best one's probability."})
    repetition_penalty: float = field(
        default=1.0, metadata={"help": "Above 1, tokens that occurred become less likely."}
    )
    num_beams: int = field(default=1, metadata={"help": "Beams of beam search; 1 is none."})
    assistant_model: str | None = field(
        default=None,
        metadata={
            "help": "Smaller model of the same vocabulary, such as a distilled student, that drafts tokens, of which "
            "the model keeps those that it would have written. One text at a time."
        },
    )
    num_assistant_tokens: int = field(
        default=DRAFTED_TOKENS, metadata={"help": "Tokens that the assistant drafts each time."}
    )
    json_schema: str | None = field(
        default=None, metadata={"help": "File with a JSON schema that what is added must match (needs xgrammar)."}
    )
    grammar: str | None = field(
        default=None, metadata={"help": "File with a grammar in GBNF that what is added must match; or"}
    )
    regex: str | None = field(default=None, metadata={"help": "a regular expression that it must match."})
    seed: int = field(default=0, metadata={"help": "Random seed, set for each temperature."})
    stream: bool = field(
        default=True, metadata={"help": "Print one prompt's text as it arises (not with beams or a constraint)."}
    )
    device: str | None = field(default=None, metadata={"help": "Such as cpu or cuda:1. By default the accelerator."})
    dtype: str = field(
        default="auto", metadata={"help": "Such as float32 or bfloat16. By default that of the weights."}
    )
    fast_on_cpu: bool = field(
        default=False,
        metadata={"help": "Compute a quantised model by PyTorch's kernels of 8 bits, which are fast on a CPU."},
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with the model. Trine's own needs none."}
    )

    def __post_init__(self):
        check_device(self.device)
        if self.preset is not None:
            check_choice("preset", self.preset, SAMPLING_PRESETS)
        numbers = SAMPLING_PRESETS[self.preset] if self.preset is not None else DEFAULT_SAMPLING
        for name in ("temperature", "top_k", "top_p"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(numbers, name))
        texts = [str(self.temperature)] if self.temperatures is None else self.temperatures.split(",")
        try:
            self.all_temperatures = [float(text) for text in texts]
        except ValueError as error:
            raise ValueError(
                f"temperatures='{self.temperatures}' is not a list of numbers such as 0.2,0.8."
            ) from error
        if min(self.all_temperatures) < 0:
            raise ValueError(f"temperature={min(self.all_temperatures)} is below 0.")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} must be at least 1.")
        if self.assistant_model is not None and (self.num_beams != 1 or len(self.text) > 1):
            raise ValueError(
                f"assistant_model='{self.assistant_model}' drafts for one text and one beam at a time, not "
                f"num_beams={self.num_beams} and {len(self.text)} texts."
            )
        if self.num_assistant_tokens < 1:
            raise ValueError(f"num_assistant_tokens={self.num_assistant_tokens} must be at least 1.")
        self.constraints = {name: value for name in CONSTRAINTS if (value := getattr(self, name)) is not None}
        if len(self.constraints) > 1:
            raise ValueError(f"Only one of {list(CONSTRAINTS)} can be given, not {list(self.constraints)}.")
        for name in {"json_schema", "grammar"} & self.constraints.keys():
            if not Path(self.constraints[name]).is_file():
                raise ValueError(f"{name}='{self.constraints[name]}' is not a file.")


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine generate` with these arguments, by default the process's."""
    (arguments,) = parse_arguments([GenerateArguments], argv, command="generate", description=__doc__)
    keep_freed_memory()
    folder = Path(arguments.model)
    if not any(folder.glob("*config.json")) and (found := list_checkpoints(folder)):
        sys.exit(f"trine generate: '{folder}' holds checkpoints of a run that did not end: give --model {found[-1]}.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(arguments.model, trust_remote_code=arguments.trust_remote_code)
        model: Any = AutoModelForCausalLM.from_pretrained(
            arguments.model, dtype=arguments.dtype, trust_remote_code=arguments.trust_remote_code
        )
        model.to(arguments.device or torch.accelerator.current_accelerator() or "cpu").eval()
        assistant = draft_for(model, tokenizer, arguments)
        if arguments.fast_on_cpu:
            fast_on_cpu(model)
    except INPUT_ERRORS as error:
        sys.exit(f"trine generate: {error}")
    prompts = arguments.text or [read_standard_input("a text")]
    for temperature in arguments.all_temperatures:
        if len(arguments.all_temperatures) > 1:
            print(f"--- temperature {temperature:g} ---")
        set_seed(arguments.seed)
        try:
            options = {"chat": arguments.chat, **assistant, **_generation_options(arguments, temperature)}
            _print_samples(arguments, model, tokenizer, prompts, options)
        except (ImportError, ValueError) as error:
            sys.exit(f"trine generate: {error}")
        print()


def draft_for(model: Any, tokenizer: PreTrainedTokenizerBase, arguments: GenerateArguments) -> dict[str, Any]:
    """The option of `generate` that has the assistant; none without one."""
    if arguments.assistant_model is None:
        return {}
    settings = {"dtype": arguments.dtype, "trust_remote_code": arguments.trust_remote_code}
    assistant = load_assistant(arguments.assistant_model, tokenizer, model, **settings)
    set_drafts(assistant, arguments.num_assistant_tokens)
    return {"assistant_model": assistant}


def _print_samples(
    arguments: GenerateArguments,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    options: dict[str, Any],
) -> None:
    if arguments.constraints:
        print(*_continue_within(arguments, model, tokenizer, prompts, options), sep="\n---\n")
    elif arguments.stream and len(prompts) == 1 and arguments.num_beams == 1:
        streamer = TextStreamer(tokenizer, skip_prompt=arguments.chat, skip_special_tokens=True)
        continue_prompts(model, tokenizer, prompts, streamer=streamer, **options)
    else:
        print(*continue_prompts(model, tokenizer, prompts, **options), sep="\n---\n")


def continue_prompts(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: list[str], chat: bool = False, **options: Any
) -> list[str]:
    """Continues each prompt by the model's `generate`, which gets `options`; returns texts without special tokens.

    With `chat` a prompt is what a user says, and the answer alone is returned.

    Raises:
        ValueError: a prompt is empty and the tokenizer has no BOS token, or `chat` and it has no chat template, or one
            that refuses the message.
    """
    ids, start = _generate(model, tokenizer, prompts, chat, **options)
    return tokenizer.batch_decode(ids[:, start:] if chat else ids, skip_special_tokens=True)


def _generate(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: list[str], chat: bool, **options: Any
) -> tuple[torch.Tensor, int]:
    """Token ids (prompts, length) of prompts and continuations, and the length of the prompts.

    Prompts are one batch, padded on the left. An empty one is begun with the BOS token.
    """
    if chat:
        prompts = [write_message(tokenizer, prompt) for prompt in prompts]
    if "" in prompts and tokenizer.bos_token is None:
        raise ValueError("A prompt is empty, and the tokenizer has no bos_token to begin with.")
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    inputs = tokenizer(
        [prompt or str(tokenizer.bos_token) for prompt in prompts],
        padding=len(prompts) > 1,
        add_special_tokens=not chat,  # a template has them itself
        return_token_type_ids=False,
        return_tensors="pt",
    ).to(model.device)
    ids = model.generate(**inputs, pad_token_id=tokenizer.pad_token_id, **options)
    return ids, inputs["input_ids"].shape[1]


def write_message(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A user's words as the chat template writes them, up to where the answer begins; see `continue_prompts`."""
    if tokenizer.chat_template is None:
        raise ValueError("The tokenizer has no chat template, which --chat needs.")
    try:
        messages = [{"role": "user", "content": text}]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        raise ValueError(f"The chat template refuses the message: {error}") from error


def _continue_within(
    arguments: GenerateArguments,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    options: dict[str, Any],
) -> list[str]:
    """Continues each prompt so that the output matches the constraint; a warning names those that were cut off."""
    from trine.generation.constraints.processor import constrained_by

    ((name, value),) = arguments.constraints.items()
    rules = value if name == "regex" else Path(value).read_text(encoding="utf-8")
    stops = model.generation_config.eos_token_id
    constraint = constrained_by(tokenizer, vocab_size=model.config.vocab_size, eos_token_id=stops, **{name: rules})
    ids, start = _generate(
        model, tokenizer, prompts, logits_processor=[constraint], eos_token_id=constraint.stops, **options
    )
    for number, row in enumerate(ids[:, start:], 1):
        if not constraint.is_complete(row):
            print(
                f"trine generate: prompt {number} was cut off at max_new_tokens={arguments.max_new_tokens}.",
                file=sys.stderr,
            )
    texts = [constraint.text(row) for row in ids[:, start:]]
    return texts if arguments.chat else [prompt + text for prompt, text in zip(prompts, texts, strict=True)]


def _generation_options(arguments: GenerateArguments, temperature: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        "max_new_tokens": arguments.max_new_tokens,
        "num_beams": arguments.num_beams,
        "repetition_penalty": arguments.repetition_penalty,
        "do_sample": temperature > 0,
    }
    if temperature > 0:
        options |= {"temperature": temperature, "top_k": arguments.top_k, "top_p": arguments.top_p}
        options |= {"min_p": arguments.min_p} if arguments.min_p else {}
    return options


if __name__ == "__main__":
    main()
