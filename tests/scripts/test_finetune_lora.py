"""Instruction tuning: adapters and all weights, resumed, merged, loaded with plain PEFT; and what it refuses."""

import json
import re
import shlex

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support import forks
from support.tiny import SIZES
from transformers import AutoModelForCausalLM, AutoTokenizer

from trine import TrineConfig, TrineForCausalLM, train_byte_level_bpe
from trine.scripts import finetune_lora
from trine.scripts.arguments.instructions import InstructionArguments, InstructionTrainingArguments
from trine.scripts.arguments.lora import LoraArguments
from trine.scripts.arguments.parsing import parse_arguments


NUMBERS = ["one", "two", "three", "four", "five", "six"]
# Loads an adapter over its base where the package is not installed, and prints a sum of logits.
STRANGER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "trine":
            raise ImportError("trine is not installed here")

sys.meta_path.insert(0, Blocker())

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

base, adapter, output = sys.argv[1:]
ids = torch.arange(5, 25)[None]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, trust_remote_code=True), adapter)
direct = AutoModelForCausalLM.from_pretrained(adapter, trust_remote_code=True)
save_file({"peft": model.eval()(ids).logits, "direct": direct.eval()(ids).logits}, output)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Conversations, prompts with completions, a dense base and a sparse one, and a run on the sparse one."""
    folder = tmp_path_factory.mktemp("lora")
    pairs = [(f"say {a} and {b}", f"{a} and {b}") for a in NUMBERS for b in NUMBERS]
    chats = [
        {"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]}
        for ask, answer in pairs
    ]
    write(folder / "chats.jsonl", chats)
    write(folder / "pairs.jsonl", [{"ask": ask, "answer": answer} for ask, answer in pairs])
    tokenizer = train_byte_level_bpe([" ".join(pair) for pair in pairs], 280, chat_template="chatml")
    for name, fields in (("dense", {}), ("sparse", {"mlp_layer_types": "dense, sparse", "num_shared_experts": 1})):
        torch.manual_seed(0)
        config = TrineConfig(
            **{**SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **fields}
        )
        TrineForCausalLM(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    assert run(folder, "sparse", "straight", "--merge", "--metrics", "exact", "ended", "chrf") == 0
    return folder


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def run(folder, model, output, *argv):
    words = ["--model", str(folder / model), "--files", str(folder / "chats.jsonl"), "--rank", "2"]
    words += ["--max_steps", "4", "--save_steps", "2", "--per_device_train_batch_size", "4", "--samples", "1"]
    words += ["--learning_rate", "1e-2", "--max_length", "96", "--use_cpu", "--disable_tqdm", "true"]
    return finetune_lora.main([*words, "--output_dir", str(folder / output), *argv])


def metrics_of(folder, output):
    return json.loads((folder / output / "metrics.json").read_text())


def test_what_a_run_leaves(folder):
    output, metrics = folder / "straight", metrics_of(folder, "straight")
    assert (output / "loss.png").read_bytes().startswith(b"\x89PNG")
    base = AutoModelForCausalLM.from_pretrained(folder / "sparse")
    adapters = load_file(output / "adapter" / "adapter_model.safetensors")
    assert metrics["parameters"] == base.num_parameters()
    assert metrics["trained_parameters"] == sum(tensor.numel() for tensor in adapters.values())
    assert metrics["trained_share"] == metrics["trained_parameters"] / metrics["parameters"]
    assert (metrics["steps"], metrics["training_records"], metrics["validation_records"]) == (4, 34, 2)
    assert metrics["loss"]["after"] < metrics["loss"]["before"]
    assert metrics["truncated_records"] == metrics["bad_records"] == 0
    assert metrics["scored_answers"] == 2 and metrics["scores"]["model"].keys() == {"exact", "ended", "chrF"}
    answers = [json.loads(line) for line in (output / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(answers) == 2 and all(answer["target"] in answer["prompt"] for answer in answers)  # "say one and two"
    assert "## Scores" in (output / "README.md").read_text(encoding="utf-8")


def test_the_merged_checkpoint_and_plain_peft_give_the_logits_of_the_adapter(folder):
    ids = torch.arange(5, 25)[None]
    base = AutoModelForCausalLM.from_pretrained(folder / "sparse")
    before = base.eval()(ids).logits
    adapted = PeftModel.from_pretrained(base, str(folder / "straight" / "adapter")).eval()(ids).logits
    assert (adapted - before).abs().max() > 1e-2
    merged = AutoModelForCausalLM.from_pretrained(folder / "straight")
    assert type(merged) is TrineForCausalLM and merged.config.use_cache
    torch.testing.assert_close(merged.eval()(ids).logits, adapted)
    assert AutoTokenizer.from_pretrained(folder / "straight").chat_template


def test_the_adapter_loads_over_remote_code(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    paths = [str(folder / "sparse"), str(folder / "straight" / "adapter"), str(tmp_path / "logits.safetensors")]
    result = forks.run(["-c", STRANGER, *paths], tmp_path)
    assert result.returncode == 0, result.stderr
    merged = AutoModelForCausalLM.from_pretrained(folder / "straight").eval()
    for logits in load_file(paths[-1]).values():
        torch.testing.assert_close(logits, merged(torch.arange(5, 25)[None]).logits)


def test_resume_is_exact_and_samples_are_printed(folder, capsys):
    assert run(folder, "sparse", "stopped", "--max_steps", "2", "--lr_scheduler_type", "constant") == 0
    again = ["--resume_from_checkpoint", "last", "--lr_scheduler_type", "constant"]
    assert run(folder, "sparse", "stopped", *again) == 0
    assert run(folder, "sparse", "constant", "--lr_scheduler_type", "constant") == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"say \w+ and \w+<\|im_end\|>\n<\|im_start\|>assistant\n\n  model:  .*\n  target: \w+ and", printed
    )
    assert "weights trained" in printed and "Validation loss in nats per token" in printed
    first, second = (load_file(folder / name / "adapter_model.safetensors") for name in ("stopped", "constant"))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)


def test_the_next_command_takes_the_merged_model(folder, capsys, monkeypatch):
    """An earlier run without merging has left its adapters, which transformers would load instead."""
    from trine.scripts import serve

    assert run(folder, "sparse", "twice", "--max_steps", "1") == 0
    assert "holds adapters alone" in capsys.readouterr().out
    assert (folder / "twice" / "adapter_model.safetensors").exists()
    assert run(folder, "sparse", "twice", "--merge", "--resume_from_checkpoint", "last") == 0
    assert not (folder / "twice" / "adapter_model.safetensors").exists()
    words = shlex.split(re.search(r"Try next:\n  trine serve (.*)", capsys.readouterr().out)[1])
    monkeypatch.setattr(serve, "check_address", lambda host, port: None)
    monkeypatch.setattr(serve, "serve", lambda arguments: served.append(serve.load(arguments)))
    served = []
    serve.main([*words, "--device", "cpu"])
    ((model, tokenizer),) = served
    assert type(model) is TrineForCausalLM and tokenizer.chat_template
    adapted = AutoModelForCausalLM.from_pretrained(folder / "twice" / "adapter").eval()
    ids = torch.arange(5, 25)[None]
    torch.testing.assert_close(model(ids).logits, adapted(ids).logits)


@pytest.mark.filterwarnings("error:`is_gradient_checkpointing`")
def test_accumulation_changes_nothing(folder):
    constant = ["--lr_scheduler_type", "constant"]
    assert run(folder, "dense", "whole", *constant) == 0
    split = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]
    assert run(folder, "dense", "split", *constant, *split) == 0
    first, second = (load_file(folder / name / "adapter_model.safetensors") for name in ("whole", "split"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-4)


def test_all_weights_and_completions(folder):
    words = ["--full", "--format", "completion", "--prompt_field", "ask", "--completion_field", "answer"]
    words += ["--files", str(folder / "pairs.jsonl"), "--prompt_template", "Q: {prompt} A: "]
    words += ["--validation_files", str(folder / "pairs.jsonl")]
    with pytest.raises(SystemExit, match="leave too little"):  # nothing that is held out is trained on
        run(folder, "dense", "full", *words)
    write(folder / "held-out.jsonl", [{"ask": "say seven", "answer": "seven"}, {"ask": "say six", "answer": 6}])
    words[-1] = str(folder / "held-out.jsonl")
    with pytest.raises(SystemExit, match=r"held-out.jsonl', record 2: the field 'answer' holds an int"):
        run(folder, "dense", "full", *words)
    with pytest.warns(UserWarning, match="1 records cannot be used"):
        assert run(folder, "dense", "full", *words, "--skip_bad_records") == 0
    metrics = metrics_of(folder, "full")
    assert metrics["trained_share"] == 1 and metrics["bad_records"] == 1 and metrics["validation_records"] == 1
    model = AutoModelForCausalLM.from_pretrained(folder / "full")
    base = AutoModelForCausalLM.from_pretrained(folder / "dense")
    assert not torch.equal(model.model.embed_tokens.weight, base.model.embed_tokens.weight)


def test_the_validation_loss_is_that_of_the_answers(folder):
    """The loss before training, from logits by hand: over the tokens of the two held-out answers."""
    metrics = metrics_of(folder, "straight")
    words = ["--model", "m", "--files", str(folder / "chats.jsonl"), "--output_dir", str(folder / "unused")]
    arguments = parse_arguments([InstructionArguments], words[:4], command="test", description=None)[0]
    tokenizer = AutoTokenizer.from_pretrained(folder / "sparse")
    _, validation, _ = finetune_lora.read_data(arguments, tokenizer, seed=42)
    model = AutoModelForCausalLM.from_pretrained(folder / "sparse").eval()
    losses = []
    for example in validation:
        text = tokenizer.decode(example["input_ids"])
        begin = text.index("assistant\n") + len("assistant\n")
        logits = model(torch.tensor([example["input_ids"]])).logits[0].double().log_softmax(-1)
        place = 0
        for index, token in enumerate(example["input_ids"]):
            if begin <= place < text.rindex("<|im_end|>") + len("<|im_end|>"):
                losses.append(-logits[index - 1, token].item())
            place += len(tokenizer.decode([token]))
    assert metrics["loss"]["before"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "absent"], "model='absent' cannot be read"),
        (["--files", "absent.jsonl"], "The file or folder 'absent.jsonl' does not exist."),
        (["--files", "{folder}/pairs.jsonl"], "the field 'messages' is missing from ['answer', 'ask']"),
        (["--format", "completion"], "the field 'prompt' is missing from ['messages']"),
        (["--max_length", "97"], "max_length=97 is above max_position_embeddings=96."),
        (["--max_length", "8"], "its first max_length=8 tokens hold nothing to learn"),
        (["--targets", "atention"], "parts='atention' is not one of ['attention', 'feed_forward', 'experts']"),
        (["--dropout", "0.1"], "dropout=0.1 does not go with the fused experts"),
        (["--use_dora"], "use_dora=True does not go with the fused experts"),
        (["--full", "--merge"], "merge=True has nothing to merge with full=True"),
        (["--output_dir", "{folder}/straight"], "holds checkpoints of an earlier run"),
    ],
)
def test_errors(folder, tmp_path, argv, message):
    words = ["--output_dir", str(tmp_path), *(text.format(folder=folder) for text in argv)]
    with pytest.raises(SystemExit, match=re.escape(message)):
        run(folder, "sparse", "unused", *words)


def test_a_tokenizer_without_a_template_is_refused_or_gets_one(folder, tmp_path):
    TrineForCausalLM.from_pretrained(folder / "dense").save_pretrained(tmp_path)
    train_byte_level_bpe(["a text"], 260).save_pretrained(tmp_path)
    words = ["--output_dir", str(tmp_path / "output"), "--merge", "--max_steps", "1"]
    with pytest.raises(SystemExit, match="format='messages' needs a chat template"):
        run(folder, tmp_path, "unused", *words)
    assert run(folder, tmp_path, "unused", *words, "--chat_template", "chatml") == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "output")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == f"<|im_start|>user\nhi{tokenizer.eos_token}\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--format", "chat"], "format='chat' is not one of ['messages', 'completion']"),
        (["--dtype", "float64"], "dtype='float64' is not one of"),
        (["--prompt_template", "Q:"], "prompt_template='Q:' does not say where the {prompt} stands."),
        (["--validation_fraction", "1"], "validation_fraction=1.0 must be between 0 and 1."),
        (["--rank", "0"], "rank=0 must be at least 1."),
        (["--dropout", "1"], "dropout=1.0 must be at least 0 and below 1."),
        (["--samples", "-1"], "samples=-1 must be at least 0."),
        (["--score_records", "0"], "score_records=0 must be at least 1."),
        (["--metrics", "rogue"], "metrics has 'rogue', which is not one of ['exact', 'ended', 'bleu',"),
        (["--label_smoothing_factor", "0.1"], "label_smoothing_factor=0.1 must be 0 for instruction tuning."),
    ],
)
def test_values_are_checked_before_anything_is_read(folder, capsys, argv, message):
    with pytest.raises(SystemExit):
        run(folder, "absent", "unused", *argv)
    assert message in capsys.readouterr().err


def test_the_recipe_and_help(tmp_path, capsys):
    types = [InstructionArguments, LoraArguments, InstructionTrainingArguments]
    words = ["--recipe", "finetune-lora", "--model", "m", "--files", "f", "--output_dir", str(tmp_path)]
    arguments, lora, training = parse_arguments(types, words, command="test", description=None)
    assert (arguments.format, lora.rank, lora.merge, training.learning_rate) == ("messages", 16, True, 2e-4)
    with pytest.raises(SystemExit) as stop:
        finetune_lora.main(["--help"])
    assert stop.value.code == 0 and "--use_dora" in capsys.readouterr().out
