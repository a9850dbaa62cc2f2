"""Answer a question by the documents of an index, with a language model that reads them and cites them by number."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, TextStreamer, set_seed

import trine  # noqa: F401 - registers the models of this package with the Auto classes
from trine.configuration.patterns import check_choice
from trine.retrieval.checks import check_count, check_text
from trine.retrieval.computing import AUTO, DTYPE_HELP, DTYPES
from trine.retrieval.hits import Hit
from trine.retrieval.reranking import RERANK_WEIGHT, check_rerank_weight, load_reranker
from trine.retrieval.sources import INSTRUCTION, SourcedPrompt, cited_numbers, prompt_with_sources
from trine.scripts.arguments.chat_template import CHAT_TEMPLATE, set_chat_template
from trine.scripts.arguments.devices import check_device
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.scripts.arguments.text import read_standard_input, text_field
from trine.scripts.jobs.document_stores import STORE_HELP, STORE_NAME_HELP
from trine.scripts.jobs.memory import keep_freed_memory
from trine.scripts.search import RERANK_WEIGHT_HELP, SearchArguments, cut, opened_index, queries_first


UNLIMITED = 10**9  # above this a tokenizer's limit is none
# How the classes of models end that transformers would load as a decoder, with a head of random weights.
OTHER_TASKS = ("Classification", "MaskedLM", "QuestionAnswering", "MultipleChoice", "ForRetrieval", "PreTraining")


@dataclass
class AnswerArguments:
    """Options of `trine answer`."""

    model: str = field(metadata={"help": "Folder or Hub id of a causal language model, best one that chats."})
    text: list[str] = text_field("The question, which may stand first, without the option's name.")
    index: str | None = field(default=None, metadata={"help": "Folder that `trine index` wrote."})
    store: str | None = field(default=None, metadata={"help": f"In place of a folder, {STORE_HELP}"})
    store_name: str = field(default="documents", metadata={"help": STORE_NAME_HELP})
    k: int = field(default=5, metadata={"help": "Documents that are looked for.", "aliases": ["-k"]})
    min_similarity: float | None = field(
        default=None,
        metadata={
            "help": "Least cosine with the question that a document needs to be a source. By default the k best are "
            "sources, however far they are; trine search --explain shows cosines."
        },
    )
    rerank: str | None = field(
        default=None, metadata={"help": "What ranks the best of them again first, as for trine search."}
    )
    rerank_candidates: int = field(default=50, metadata={"help": "How many of the best are ranked again."})
    rerank_weight: float = field(default=RERANK_WEIGHT, metadata={"help": RERANK_WEIGHT_HELP})
    embedding_model: str | None = field(
        default=None, metadata={"help": "Where the model that made the index is now, if it was moved."}
    )
    instruction: str = field(default=INSTRUCTION, metadata={"help": "The sentence before the sources."})
    chat_template: str | None = CHAT_TEMPLATE
    max_length: int | None = field(
        default=None, metadata={"help": "Tokens of prompt and answer together. By default those of the model."}
    )
    max_new_tokens: int = field(default=128, metadata={"help": "Most tokens of the answer."})
    temperature: float = field(default=0.0, metadata={"help": "Divides the logits; 0 always takes the best token."})
    seed: int = field(default=0, metadata={"help": "Random seed, for a temperature above 0."})
    json: bool = field(default=False, metadata={"help": "Print answer and sources, with whole texts, as JSON."})
    device: str | None = field(default=None, metadata={"help": "Such as cpu or cuda:1. By default the accelerator."})
    dtype: str = field(
        default="auto", metadata={"help": "Such as float32 or bfloat16. By default that of the weights."}
    )
    search_dtype: str = field(default=AUTO, metadata={"help": f"The same of what searches and ranks. {DTYPE_HELP}"})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with the model. Trine's own needs none."}
    )

    def __post_init__(self):
        check_device(self.device)
        check_choice("search_dtype", self.search_dtype, DTYPES)
        if (self.index is None) == (self.store is None):
            raise ValueError("Name either index, a folder, or store, a database.")
        check_count("k", self.k)
        check_count("rerank_candidates", self.rerank_candidates)
        check_rerank_weight(self.rerank_weight)
        for name in ("max_new_tokens", "max_length"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.min_similarity is not None and not -1 <= self.min_similarity <= 1:
            raise ValueError(f"min_similarity={self.min_similarity} must be from -1 to 1: it is a cosine.")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature} must be a number of at least 0.")
        if len(self.text) > 1:
            raise ValueError(f"text={self.text} are {len(self.text)} questions; put one between quotation marks.")


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine answer` with these arguments, by default the process's."""
    argv = queries_first(list(sys.argv[1:] if argv is None else argv))
    (arguments,) = parse_arguments([AnswerArguments], argv, command="answer", description=__doc__)
    keep_freed_memory()
    question = (arguments.text or [read_standard_input("a question")])[0]
    try:
        check_text("question", question)
        check_decoder(arguments)
        sources = find(arguments, question)
        model, tokenizer = load(arguments)
        room = room_for(arguments, model, tokenizer)
        prompt = prompt_with_sources(tokenizer, question, sources, room, arguments.instruction)
        if len(prompt.sources) < len(sources) or prompt.is_cut:
            whole = ", the last one shortened" if prompt.is_cut else ""
            told = f"{len(prompt.sources)} of {len(sources)} sources fit into {room:,} tokens{whole}."
            print(told, file=sys.stderr, flush=True)
        answer = write(arguments, model, tokenizer, prompt)
    except (*INPUT_ERRORS, ImportError) as error:
        sys.exit(f"trine answer: {error}")
    if arguments.json:
        print(json.dumps(as_record(question, answer, prompt), ensure_ascii=False))
    else:
        print(f"\n{as_text(answer, prompt)}")


def find(arguments: AnswerArguments, question: str) -> list[Hit]:
    """The documents that are near enough.

    Raises:
        OSError, ValueError, ImportError: Those of the index, or nothing is found.
    """
    options: Any = {name: getattr(arguments, name) for name in ("index", "store", "store_name")}
    code: Any = {"device": arguments.device, "trust_remote_code": arguments.trust_remote_code}
    code["dtype"] = arguments.search_dtype
    reranker = load_reranker(arguments.rerank, **code) if arguments.rerank else None
    with opened_index(SearchArguments(model=arguments.embedding_model, **options, **code)) as search:
        how = {name: getattr(arguments, name) for name in ("rerank_candidates", "rerank_weight")}
        hits = search.search(question, arguments.k, rerank=reranker, **how)
    least = arguments.min_similarity
    if least is not None and hits and hits[0].dense is None:
        raise ValueError(f"min_similarity={least} needs vectors, whose weight in the index is 0.")
    near = [hit for hit in hits if least is None or (hit.dense is not None and hit.dense >= least)]
    if not near:
        nearest = max((hit.dense for hit in hits if hit.dense is not None), default=None)
        far = f": the nearest document has {nearest:.3f}, and min_similarity={least}" if nearest is not None else ""
        raise ValueError(f"Nothing is found for {question!r}{far}. Without a source there is no answer.")
    return near


def check_decoder(arguments: AnswerArguments) -> None:
    """Refuses a model that does not continue texts, before anything is searched.

    Raises:
        OSError: It cannot be read.
        ValueError: Its checkpoint is that of an encoder, or of another kind of model.
    """
    try:
        config = AutoConfig.from_pretrained(arguments.model, trust_remote_code=arguments.trust_remote_code)
    except OSError as error:
        raise OSError(f"model='{arguments.model}' cannot be read: {error}") from error
    kind = (getattr(config, "architectures", None) or [""])[0]
    is_encoder = config.model_type == "trine" and not config.is_causal
    if is_encoder or kind.endswith(OTHER_TASKS):
        raise ValueError(
            f"model='{arguments.model}' holds {kind or 'an encoder'}, which writes no answer: name a causal language "
            "model. The model of the embeddings is named by the index, or --embedding_model."
        )


def load(arguments: AnswerArguments) -> tuple[Any, Any]:
    """The model that answers, and its tokenizer. Raises an OSError or a ValueError where there is none."""
    code: dict[str, Any] = {"trust_remote_code": arguments.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, **code)
    if arguments.chat_template is not None:
        set_chat_template(tokenizer, arguments.chat_template)
    model: Any = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=arguments.dtype, **code)
    return model.to(arguments.device or torch.accelerator.current_accelerator() or "cpu").eval(), tokenizer


def room_for(arguments: AnswerArguments, model: Any, tokenizer: Any) -> int:
    """The most tokens of the prompt.

    Raises:
        ValueError: The answer leaves none, or it is not known how long a text the model reads.
    """
    limits = [getattr(model.config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
    known = [limit for limit in limits if limit is not None and 0 < limit < UNLIMITED]
    length = arguments.max_length or min(known, default=0)
    if not length:
        raise ValueError(f"model='{arguments.model}' does not say how many tokens it reads: give --max_length.")
    if length <= arguments.max_new_tokens:
        raise ValueError(
            f"max_new_tokens={arguments.max_new_tokens} leaves no room for a prompt in the {length:,} tokens of "
            f"model='{arguments.model}'."
        )
    return length - arguments.max_new_tokens


def write(arguments: AnswerArguments, model: Any, tokenizer: Any, prompt: SourcedPrompt) -> str:
    """The model's answer, which is printed as it arises, but for JSON."""
    set_seed(arguments.seed)
    ids = torch.tensor([prompt.token_ids], device=model.device)
    options: dict[str, Any] = {"do_sample": arguments.temperature > 0}
    if arguments.temperature > 0:
        options |= {"temperature": arguments.temperature, "top_k": 0, "top_p": 1.0}
    if not arguments.json:
        options["streamer"] = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=arguments.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        **options,
    )
    return tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip()


def as_record(question: str, answer: str, prompt: SourcedPrompt) -> dict[str, Any]:
    """A record for JSON."""
    cited = cited_numbers(answer)
    sources = [
        {"number": number, "id": hit.id, "score": hit.score, "cited": number in cited, "text": hit.text}
        for number, hit in enumerate(prompt.sources, 1)
    ]
    return {"question": question, "answer": answer, "sources": sources, "unknown_citations": unknown(cited, prompt)}


def as_text(answer: str, prompt: SourcedPrompt) -> str:
    """Lines for a reader: the sources, those with a star that the answer cites."""
    cited = cited_numbers(answer)
    lines = ["Sources (* cited):" if cited else "Sources, none of which the answer cites:"]
    for number, hit in enumerate(prompt.sources, 1):
        star = "*" if number in cited else " "
        lines.append(f"{star}[{number}] {hit.id}  {hit.score:.4f}  {cut(hit.text)[:100]}")
    if strange := unknown(cited, prompt):
        lines.append(f"The answer also cites {', '.join(f'[{number}]' for number in strange)}, which are no sources.")
    return "\n".join(lines)


def unknown(cited: Sequence[int], prompt: SourcedPrompt) -> list[int]:
    """The numbers that stand for no source."""
    return [number for number in cited if not 1 <= number <= len(prompt.sources)]


if __name__ == "__main__":
    main()
