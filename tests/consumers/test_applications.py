"""LangChain, LlamaIndex and an OpenAI client: what applications are made with."""

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import openai
import torch
from consumers.cases import Case
from consumers.checks import check_close
from consumers.contenders import ALL_DECODERS, DECODERS, ENCODER_DECODERS, ENCODERS
from consumers.texts import PAIRS, TEXTS
from langchain_huggingface import ChatHuggingFace, HuggingFaceEmbeddings, HuggingFacePipeline
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.llms.huggingface import HuggingFaceLLM
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM


LIBRARY = "LangChain, LlamaIndex, OpenAI"
QUESTION = PAIRS[0][0]
UNFINISHED = "\N{REPLACEMENT CHARACTER}"
GREEDY = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}


def continuation(contender, inputs) -> str:
    """Greedy text by transformers alone, without a cache."""
    model = contender.load(AutoModelForCausalLM).eval()
    tokens = model.generate(**inputs, use_cache=False, **GREEDY)[0, inputs["input_ids"].shape[1] :]
    return contender.tokenizer.decode(tokens, skip_special_tokens=True)


def chat_inputs(contender):
    messages = [{"role": "user", "content": QUESTION}]
    return contender.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")


def lang_chain(contender, **keywords):
    return HuggingFacePipeline.from_model_id(
        contender.folder,
        task="text-generation",
        model_kwargs=contender.trust,
        pipeline_kwargs={**GREEDY, "return_full_text": False},
        **keywords,
    )


def complete_by_lang_chain(contender, folder):
    prompts = [QUESTION, "the red"]
    for prompt, answer in zip(prompts, lang_chain(contender, batch_size=2).batch(prompts), strict=True):
        assert answer == continuation(contender, contender.tokenizer(prompt, return_tensors="pt"))


def chat_by_lang_chain(contender, folder):
    model = ChatHuggingFace(llm=lang_chain(contender), tokenizer=contender.tokenizer)
    assert model.invoke([("human", QUESTION)]).content == continuation(contender, chat_inputs(contender))


def embed_by_lang_chain(contender, folder):
    model = HuggingFaceEmbeddings(model_name=contender.folder, model_kwargs={"device": "cpu", **contender.trust})
    expected = SentenceTransformer(contender.folder, device="cpu", **contender.trust).encode(TEXTS[:3])
    check_close(torch.tensor(model.embed_documents(TEXTS[:3])), torch.tensor(expected))


def llama_index(contender):
    return HuggingFaceLLM(
        model_name=contender.folder,
        tokenizer_name=contender.folder,
        model_kwargs=contender.trust,
        max_new_tokens=8,
        generate_kwargs={"do_sample": False, "min_new_tokens": 8},
        device_map="cpu",
        is_chat_model=True,
    )


def complete_by_llama_index(contender, folder):
    model = llama_index(contender)
    assert model.complete(QUESTION).text == continuation(contender, contender.tokenizer(QUESTION, return_tensors="pt"))
    streamed = [part.delta for part in model.stream_complete(QUESTION)]
    assert "".join(streamed) == model.complete(QUESTION).text


def chat_by_llama_index(contender, folder):
    answer = llama_index(contender).chat([ChatMessage(role="user", content=QUESTION)]).message.content
    assert answer == continuation(contender, chat_inputs(contender))


def embed_by_llama_index(contender, folder):
    model = HuggingFaceEmbedding(contender.folder, device="cpu", **contender.trust)
    expected = SentenceTransformer(contender.folder, device="cpu", **contender.trust).encode(
        TEXTS[:3], normalize_embeddings=True
    )
    check_close(torch.tensor(model.get_text_embedding_batch(TEXTS[:3])), torch.tensor(expected))


@contextmanager
def served(contender, folder):
    """The address of `trine serve` with a contender, once it says that it serves."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("trine")), "serve", "--model", contender.folder, "--port", str(port)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with (folder / "errors").open("w") as errors:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    try:
        for line in server.stdout:
            if found := re.search(r"http://\S+/v1", line):
                break
        else:
            raise RuntimeError((folder / "errors").read_text())
        yield found.group()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=300)  # on a busy machine; a server that does not end fails all the same


def ask(contender, folder):
    with served(contender, folder) as address:
        client = openai.OpenAI(base_url=address, api_key="none", max_retries=6, timeout=120)
        keywords = {"model": contender.folder, "temperature": 0, "max_tokens": 8}
        messages = [{"role": "user", "content": QUESTION}]
        answer = client.chat.completions.create(messages=messages, **keywords)
        stream = client.chat.completions.create(messages=messages, stream=True, **keywords)
        parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        completion = client.completions.create(prompt=QUESTION, **keywords)
    expected = greedy(contender, chat_inputs(contender))
    assert answer.choices[0].message.content == expected
    # A stream of transformers holds bytes back until they are a character: those that never are, are not sent.
    assert "".join(parts).rstrip(UNFINISHED) == expected.rstrip(UNFINISHED)
    assert completion.choices[0].text == greedy(contender, contender.tokenizer(QUESTION, return_tensors="pt"))
    assert answer.usage.completion_tokens <= 8


def greedy(contender, inputs) -> str:
    model = contender.load(AutoModelForCausalLM).eval()
    tokens = model.generate(**inputs, use_cache=False, do_sample=False, max_new_tokens=8)
    return contender.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


GREEDILY = "equals greedy, uncached text by transformers"
EMBEDDERS = ("Llama", "dense", *ENCODERS, *ENCODER_DECODERS)
CASES = [
    Case("LangChain, completion", complete_by_lang_chain, GREEDILY, ALL_DECODERS),
    Case("LangChain, chat", chat_by_lang_chain, GREEDILY, DECODERS),
    Case("LangChain, embeddings", embed_by_lang_chain, "equals sentence-transformers", EMBEDDERS),
    Case("LlamaIndex, completion and stream", complete_by_llama_index, GREEDILY, DECODERS),
    Case("LlamaIndex, chat", chat_by_llama_index, GREEDILY, DECODERS),
    Case("LlamaIndex, embeddings", embed_by_llama_index, "equals sentence-transformers, normed", EMBEDDERS),
    Case(
        "OpenAI client with `trine serve`",
        ask,
        f"chats, streams and completions: {GREEDILY}",
        DECODERS,
        ways=("package",),
    ),
]


def test_applications(case, contender, tmp_path):
    case.check(contender, tmp_path)
