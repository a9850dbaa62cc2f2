"""Recipes from trained weights: each is read by its command, and says in its first lines how it is run."""

import shlex

import pytest

from trine.scripts import (
    distill,
    finetune_classifier,
    finetune_lora,
    train_embeddings,
    train_reranker,
    train_summarizer,
)
from trine.scripts.arguments.parsing import RECIPES


COMMANDS = {
    "chat-assistant": ("finetune-lora", finetune_lora),
    "distill-decoder": ("distill", distill),
    "distill-descriptions": ("distill", distill),
    "distill-zh-en": ("distill", distill),
    "embed-descriptions": ("train-embeddings", train_embeddings),
    "embed-three-vectors": ("train-embeddings", train_embeddings),
    "embed-zh-en": ("train-embeddings", train_embeddings),
    "rerank-descriptions": ("train-reranker", train_reranker),
    "classify-sections": ("finetune-classifier", finetune_classifier),
    "summarize-descriptions": ("train-summarizer", train_summarizer),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_of_its_first_lines_reads_it(name, tmp_path, monkeypatch):
    command, module = COMMANDS[name]
    comment = " ".join(
        line.lstrip("# ")
        for line in (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    )
    typed = next(text for text in comment.split("`") if text.startswith(f"trine {command} "))
    monkeypatch.chdir(tmp_path)
    argv = shlex.split(typed)[2:]
    assert argv[:2] == ["--recipe", name]
    missing = r"(data/[a-z-]+/train|pairs).jsonl' does not exist|model='(start|outputs/english)' cannot be read"
    with pytest.raises(SystemExit, match=missing):
        module.main([*argv, "--use_cpu"])
