"""lm-eval: local tasks, made on the spot, whose figures are compared with a direct computation."""

import json
from pathlib import Path

import lm_eval
import torch
import yaml
from consumers.cases import Case
from consumers.checks import check_close
from consumers.contenders import ALL_DECODERS, DECODERS, ENCODER_DECODERS
from consumers.texts import PAIRS
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM


LIBRARY = "lm-eval"
TASKS = {
    "choose": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}:",
        "doc_to_choice": ["dog", "red horse"],
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}],
    },
    "continue": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["zzz"], "max_gen_toks": 8, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
    "surprise": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
}


def write_task(folder: Path, name: str) -> TaskManager:
    records = [{"question": question, "answer": answer} for question, answer in PAIRS[:6]]
    (folder / "data.json").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "data.json")}},
        "test_split": "test",
        **TASKS[name],
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return TaskManager(include_path=str(folder), include_defaults=False)


def evaluate(contender, folder, name, backend="causal", **keywords):
    results = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": contender.folder, "backend": backend, "device": "cpu", **contender.trust},
        tasks=[name],
        task_manager=write_task(folder, name),
        batch_size=4,
        bootstrap_iters=0,
        **keywords,
    )
    return results["samples"][name]


def log_likelihood(model, context: list[int], continuation: list[int]) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([context + continuation])).logits[0].log_softmax(dim=-1)
    return sum(float(logits[len(context) + i - 1, token]) for i, token in enumerate(continuation))


def choose(contender, folder):
    tokenizer, model = contender.tokenizer, contender.load(AutoModelForCausalLM).eval()
    expected, actual = [], []
    for sample in evaluate(contender, folder, "choose"):
        for (context, choice), response in zip(sample["arguments"], sample["filtered_resps"], strict=True):
            whole = tokenizer(context + choice).input_ids
            start = len(tokenizer(context).input_ids)
            expected.append(log_likelihood(model, whole[:start], whole[start:]))
            actual.append(float(response[0]))
    check_close(torch.tensor(actual), torch.tensor(expected), tolerance=1e-3)


def continue_texts(contender, folder, **keywords):
    tokenizer, model = contender.tokenizer, contender.load(AutoModelForCausalLM).eval()
    written = set()
    for sample in evaluate(contender, folder, "continue", **keywords):
        ids = tokenizer(sample["arguments"][0][0], return_tensors="pt").input_ids
        tokens = model.generate(ids, max_new_tokens=8, do_sample=False, use_cache=False)[0, ids.shape[1] :]
        expected = tokenizer.decode(tokens, skip_special_tokens=True)
        assert sample["filtered_resps"][0].strip() == expected.strip()
        written.add(expected)
    assert any(written)


def continue_chats(contender, folder):
    continue_texts(contender, folder, apply_chat_template=True)


def surprise(contender, folder):
    tokenizer, model = contender.tokenizer, contender.load(AutoModelForCausalLM).eval()
    samples = evaluate(contender, folder, "surprise")
    expected = [
        log_likelihood(model, [tokenizer.bos_token_id], tokenizer(sample["doc"]["answer"]).input_ids)
        for sample in samples
    ]
    actual = [float(sample["filtered_resps"][0]) for sample in samples]
    check_close(torch.tensor(actual), torch.tensor(expected), tolerance=1e-3)


def choose_answers(contender, folder):
    """An encoder-decoder reads the context, and its decoder scores the choice."""
    tokenizer, model = contender.tokenizer, contender.load(AutoModelForSeq2SeqLM).eval()
    expected, actual = [], []
    for sample in evaluate(contender, folder, "choose", backend="seq2seq"):
        for (context, choice), response in zip(sample["arguments"], sample["filtered_resps"], strict=True):
            source = tokenizer(context, return_tensors="pt").input_ids
            target = tokenizer(choice, add_special_tokens=False, return_tensors="pt").input_ids
            with torch.no_grad():
                logits = model(input_ids=source, labels=target).logits[0].log_softmax(dim=-1)
            expected.append(float(logits.gather(1, target[0][:, None]).sum()))
            actual.append(float(response[0]))
    check_close(torch.tensor(actual), torch.tensor(expected), tolerance=1e-3)


CASES = [
    Case("multiple choice", choose, "log-likelihoods equal a direct computation", ALL_DECODERS),
    Case("generation", continue_texts, "batched and cached texts equal single, uncached ones", ALL_DECODERS),
    Case("generation with a chat template", continue_chats, "likewise", DECODERS),
    Case("perplexity", surprise, "rolling log-likelihoods equal a direct computation", ALL_DECODERS),
    Case("multiple choice, `backend=seq2seq`", choose_answers, "likewise", ENCODER_DECODERS),
]


def test_lm_eval(case, contender, tmp_path):
    case.check(contender, tmp_path)
