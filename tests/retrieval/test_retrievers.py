"""Retrievers of LangChain and LlamaIndex: they return what `HybridSearch` finds, in chains and threads too."""

import asyncio
from typing import Any

import pytest
import torch
from langchain_core.language_models.llms import LLM
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import MetadataMode, QueryBundle
from support.searches import DOCUMENTS, QUERIES, tiny_encoder
from support.tiny import tiny_config

from trine import TrineForCausalLM, train_byte_level_bpe
from trine.retrieval import HybridSearch
from trine.retrieval.langchain import HybridRetriever as LangChainRetriever
from trine.retrieval.llama_index import HybridRetriever as LlamaIndexRetriever


METADATA = {"red-house": {"page": 3, "language": "en"}}
SCORES = ("score", "dense", "lexical")


class Backwards:
    """A reranker that turns the order round."""

    def rank(self, query, documents):
        return [{"corpus_id": place, "score": float(place)} for place in reversed(range(len(documents)))]


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    return HybridSearch(tiny_encoder(tmp_path_factory.mktemp("encoder")), DOCUMENTS)


@pytest.fixture(scope="module")
def decoder():
    tokenizer = train_byte_level_bpe([*DOCUMENTS.values()], 300, show_progress=False)
    torch.manual_seed(0)
    model = TrineForCausalLM(tiny_config(vocab_size=len(tokenizer), max_position_embeddings=4096)).eval()

    def write(prompt: str) -> str:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        tokens = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
        return tokenizer.decode(tokens[0, ids.shape[1] :])

    return write


def documents_of(hits):
    return [(hit.id, hit.text, {name: getattr(hit, name) for name in SCORES}) for hit in hits]


def of_langchain(documents):
    return [(each.id, each.page_content, {name: each.metadata[name] for name in SCORES}) for each in documents]


def of_llama_index(nodes):
    assert [node.score for node in nodes] == [node.metadata["score"] for node in nodes]
    return [(each.node_id, each.text, {name: each.metadata[name] for name in SCORES}) for each in nodes]


def test_langchain_finds_what_the_search_finds(search):
    retriever = LangChainRetriever(search=search, k=4, document_metadata=METADATA)
    expected = [documents_of(search.search(query, 4)) for query in QUERIES]
    assert [of_langchain(retriever.invoke(query)) for query in QUERIES] == expected
    assert [of_langchain(found) for found in retriever.batch(QUERIES * 2)] == expected * 2, "in threads"

    async def ask():
        return await retriever.ainvoke(QUERIES[0]), await retriever.abatch(QUERIES)

    one, all_ = asyncio.run(ask())
    assert of_langchain(one) == expected[0] and [of_langchain(found) for found in all_] == expected
    first = retriever.invoke("a red house")[0]
    assert first.id == "red-house" and {**first.metadata, **METADATA["red-house"]} == first.metadata
    assert {*first.metadata} == {*SCORES, "page", "language"}


def test_llama_index_finds_what_the_search_finds(search):
    retriever = LlamaIndexRetriever(search, k=4, metadata=lambda id_: METADATA.get(id_, {}))
    expected = [documents_of(search.search(query, 4)) for query in QUERIES]
    assert [of_llama_index(retriever.retrieve(query)) for query in QUERIES] == expected

    async def ask():
        return await asyncio.gather(*(retriever.aretrieve(QueryBundle(query)) for query in QUERIES))

    assert [of_llama_index(nodes) for nodes in asyncio.run(ask())] == expected
    first = retriever.retrieve("a red house")[0]
    assert first.node.get_content(MetadataMode.LLM) == f"page: 3\nlanguage: en\n\n{DOCUMENTS['red-house']}"


def test_a_reranker_and_metadata_of_a_function(search):
    expected = search.search("a red house", 3, rerank=Backwards(), rerank_candidates=6, rerank_weight=1)
    options = {"k": 3, "rerank": Backwards(), "rerank_candidates": 6, "rerank_weight": 1}
    found = LangChainRetriever(search=search, document_metadata=lambda id_: {"name": id_}, **options).invoke(
        "a red house"
    )
    assert [(each.id, each.metadata["rerank"], each.metadata["name"]) for each in found] == [
        (hit.id, hit.rerank, hit.id) for hit in expected
    ]
    nodes = LlamaIndexRetriever(search, **options).retrieve("a red house")
    assert [(node.node_id, node.score) for node in nodes] == [(hit.id, hit.rerank) for hit in expected]
    options["rerank_weight"] = 0.3
    expected = search.search("a red house", **options)
    nodes = LlamaIndexRetriever(search, **options).retrieve("a red house")
    assert [(node.node_id, node.score) for node in nodes] == [(hit.id, hit.mixed) for hit in expected]
    found = LangChainRetriever(search=search, **options).invoke("a red house")
    assert [(each.id, each.metadata["mixed"]) for each in found] == [(hit.id, hit.mixed) for hit in expected]
    for make in (LlamaIndexRetriever, LangChainRetriever):
        with pytest.raises(ValueError, match="rerank_weight=2.* must be a number above 0"):
            make(search=search, rerank_weight=2)


def test_a_chain_of_langchain(search, decoder):
    class Decoder(LLM):
        @property
        def _llm_type(self) -> str:
            return "trine"

        def _call(self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> str:
            return decoder(prompt)

    retriever = LangChainRetriever(search=search, k=2)
    together = RunnableLambda(lambda found: "\n".join(each.page_content for each in found))
    prompt = PromptTemplate.from_template("{context}\nQuestion: {question}\nAnswer:")
    chain = (
        {"context": retriever | together, "question": RunnablePassthrough()} | prompt | Decoder() | StrOutputParser()
    )
    texts = "\n".join(hit.text for hit in search.search("red house", 2))
    expected = decoder(f"{texts}\nQuestion: red house\nAnswer:")
    assert chain.invoke("red house") == asyncio.run(chain.ainvoke("red house")) == expected != ""


def test_a_query_engine_of_llama_index(search, decoder):
    prompts = []

    class Decoder(CustomLLM):
        @property
        def metadata(self) -> LLMMetadata:
            return LLMMetadata(context_window=4096, num_output=4)

        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
            prompts.append(prompt)
            return CompletionResponse(text=decoder(prompt))

        def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            raise NotImplementedError

    synthesizer = get_response_synthesizer(llm=Decoder(), response_mode="compact")
    engine = RetrieverQueryEngine(LlamaIndexRetriever(search, k=2, metadata=METADATA), synthesizer)
    answer = engine.query("red house")
    hits = search.search("red house", 2)
    assert [source.node_id for source in answer.source_nodes] == [hit.id for hit in hits]
    assert all(hit.text in prompts[0] for hit in hits) and "language: en" in prompts[0] and "dense" not in prompts[0]
    assert str(answer) == decoder(prompts[0]) and str(asyncio.run(engine.aquery("red house"))) == str(answer)


@pytest.mark.parametrize("make", [lambda s, **o: LangChainRetriever(search=s, **o), LlamaIndexRetriever])
def test_what_retrievers_refuse(search, make):
    with pytest.raises((TypeError, ValueError), match="HybridSearch"):
        make("search")
    with pytest.raises(ValueError, match="k=0 must be a whole number of at least 1"):
        make(search, k=0)
    with pytest.raises((TypeError, ValueError), match="bogus"):
        make(search, bogus=1)
    name = "document_metadata" if make is not LlamaIndexRetriever else "metadata"
    retriever = make(search, **{name: lambda id_: {"score": 1}})
    ask = getattr(retriever, "invoke", None) or retriever.retrieve
    with pytest.raises(
        ValueError, match="The metadata of document '.*' have the key 'score', which is that of a score"
    ):
        ask("red house")
    with pytest.raises(ValueError, match="query=' ' is an empty text"):
        ask(" ")
