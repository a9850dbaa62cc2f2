"""TRL: each trainer takes a few steps from a folder's name, as its quick starts do."""

from math import log
from types import SimpleNamespace

import torch
from consumers.cases import Case
from consumers.checks import Gradients, check_close, check_falls
from consumers.contenders import ALL_DECODERS, DECODERS
from consumers.texts import PAIRS, TEXTS
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)


LIBRARY = "TRL"
PLAIN = Dataset.from_dict({"text": TEXTS})
CHATS = Dataset.from_list(
    [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in PAIRS]
)
PREFERENCES = Dataset.from_list(
    [
        {
            "prompt": [{"role": "user", "content": question}],
            "chosen": [{"role": "assistant", "content": answer}],
            "rejected": [{"role": "assistant", "content": f"{answer[::-1]}"}],
        }
        for question, answer in PAIRS
    ]
)
JUDGED = Dataset.from_dict(
    {
        "prompt": [question for question, _ in PAIRS],
        "completion": [f" {answer}" if index % 2 else f" {answer[::-1]}" for index, (_, answer) in enumerate(PAIRS)],
        "label": [bool(index % 2) for index in range(len(PAIRS))],
    }
)
PROMPTS = Dataset.from_dict({"prompt": [question for question, _ in PAIRS]})


def train(trainer_class, config_class, contender, folder, dataset, *, settings=None, **keywords):
    """Train a few steps and check the gradients; return the trainer and what it logged."""
    settings = {"max_steps": 8, "learning_rate": 3e-3, "per_device_train_batch_size": 4, **(settings or {})}
    arguments = config_class(
        output_dir=str(folder),
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        lr_scheduler_type="constant",
        **contender.trust,
        **settings,
    )
    gradients = Gradients()
    trainer = trainer_class(
        model=contender.folder, args=arguments, train_dataset=dataset, callbacks=[gradients], **keywords
    )
    trainer.train()
    gradients.check()
    losses = [entry for entry in trainer.state.log_history if "loss" in entry]
    return SimpleNamespace(trainer=trainer, log=losses)


def check_reloads(contender, folder, run, auto_class=AutoModelForCausalLM) -> None:
    """What the trainer saves loads elsewhere with the same outputs."""
    run.trainer.save_model(str(folder / "saved"))
    ids = contender.tokenizer(TEXTS[0], return_tensors="pt").input_ids
    again = contender.load(auto_class, folder / "saved")
    model = run.trainer.model.eval()
    with torch.no_grad():
        check_close(again(ids).logits, model(ids).logits)


def fine_tune(dataset, **settings):
    def run(contender, folder):
        result = train(SFTTrainer, SFTConfig, contender, folder, dataset, settings=settings)
        check_falls([entry["loss"] for entry in result.log])
        check_reloads(contender, folder, result)

    return run


def fine_tune_adapter(contender, folder):
    result = train(
        SFTTrainer,
        SFTConfig,
        contender,
        folder,
        PLAIN,
        settings={"learning_rate": 3e-2},
        peft_config=LoraConfig(r=4),
    )
    check_falls([entry["loss"] for entry in result.log])


def fine_tune_packed(**settings):
    """One row of several texts: the loss is that of the texts one by one."""

    def run(contender, folder):
        settings_ = {"max_length": 64, "learning_rate": 3e-3, **settings}
        result = train(SFTTrainer, SFTConfig, contender, folder, PLAIN, settings=settings_)
        check_falls([entry["loss"] for entry in result.log])
        trainer = result.trainer
        batch = next(iter(trainer.get_train_dataloader()))
        positions = batch["position_ids"][0]
        starts = [*(positions == 0).nonzero()[:, 0].tolist(), len(positions)]
        assert len(starts) > 3, "nothing is packed"
        model = trainer.model.eval()
        with torch.no_grad():
            packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits[0]
            parts = [model(batch["input_ids"][:, a:b]).logits[0] for a, b in zip(starts[:-1], starts[1:], strict=True)]
        check_close(packed, torch.cat(parts))

    return run


def prefer(contender, folder):
    result = train(DPOTrainer, DPOConfig, contender, folder, PREFERENCES)
    check_falls([entry["loss"] for entry in result.log])
    first = result.log[0]
    balance = result.trainer.router_aux_loss_coef * first.get("aux_loss", 0.0)
    assert abs(first["loss"] - balance - log(2)) < 1e-3, "at first the model is its own reference"
    assert result.log[-1]["rewards/margins"] > 0


def judge(contender, folder):
    result = train(KTOTrainer, KTOConfig, contender, folder, JUDGED)
    check_falls([entry["loss"] for entry in result.log])


def reward(contender, folder):
    result = train(RewardTrainer, RewardConfig, contender, folder, PREFERENCES)
    check_falls([entry["loss"] for entry in result.log])
    check_reloads(contender, folder, result, AutoModelForSequenceClassification)


def count_spaces(completions, **_):
    return [float(text.count(" ")) for text in completions]


def reinforce(trainer_class, config_class, **settings):
    def run(contender, folder):
        settings_ = {"max_steps": 3, "num_generations": 4, "max_completion_length": 12, **settings}
        result = train(
            trainer_class, config_class, contender, folder, PROMPTS, settings=settings_, reward_funcs=count_spaces
        )
        check_close(torch.tensor([entry["loss"] for entry in result.log]).isfinite().all(), True)
        assert any(entry["reward_std"] > 0 for entry in result.log), "all rewards are equal: nothing is learnt"

    return run


FALLS = "the loss falls, a finite gradient reaches every trained weight"
CASES = [
    Case("SFT on texts", fine_tune(PLAIN), f"{FALLS}, the saved model gives the same logits", ALL_DECODERS),
    Case("SFT on chats, answers only", fine_tune(CHATS, assistant_only_loss=True), FALLS, DECODERS),
    Case("SFT with packing", fine_tune_packed(packing=True), f"{FALLS}, texts in one row as one by one", ALL_DECODERS),
    Case("SFT padding-free", fine_tune_packed(padding_free=True, max_length=None), f"{FALLS}, likewise", ALL_DECODERS),
    Case(
        "SFT, `LoraConfig()` without targets",
        fine_tune_adapter,
        FALLS,
        DECODERS,
        fails=("Mixtral",),
        reason="PEFT has no targets for Mixtral.",
    ),
    Case("DPO", prefer, f"{FALLS} from ln 2, margins grow", DECODERS),
    Case("KTO", judge, FALLS, DECODERS),
    Case("Reward", reward, f"{FALLS}, the saved model gives the same scores", DECODERS),
    Case("GRPO", reinforce(GRPOTrainer, GRPOConfig), "losses are finite, rewards differ, gradients reach", DECODERS),
    Case("RLOO", reinforce(RLOOTrainer, RLOOConfig), "likewise", DECODERS),
]


def test_trl(case, contender, tmp_path):
    case.check(contender, tmp_path)
