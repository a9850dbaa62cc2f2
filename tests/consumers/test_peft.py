"""PEFT: every method of its table, with the targets that it chooses itself."""

import peft
import torch
from consumers.cases import Case
from consumers.checks import check_close
from consumers.contenders import ALL_DECODERS, DECODERS, ENCODER_DECODERS, ENCODERS, KINDS
from consumers.texts import TEXTS
from peft import AutoPeftModelForCausalLM, PeftModel, TaskType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)


LIBRARY = "PEFT"
VIRTUAL = {"num_virtual_tokens": 4}
CPT = {"cpt_token_ids": [70, 71, 72, 73], "cpt_mask": [1, 1, 1, 1], "cpt_tokens_type_mask": [1, 2, 3, 4]}
# The settings of each method: those without which it cannot be made, and those that suit a width of 32.
METHODS = {
    "LORA": {"r": 4},
    "ADALORA": {"init_r": 6, "target_r": 4, "total_step": 20},
    "ADAMSS": {"r": 8, "num_subspaces": 2, "subspace_rank": 2},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2},
    "BEFT": {},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 8},
    "CARTRIDGE": VIRTUAL,
    "CPT": CPT,
    "DEFT": {"r": 4},
    "DELORA": {"r": 4},
    "FOURIERFT": {"n_frequency": 50},
    "FROD": {},
    "GLORA": {"r": 4},
    "GRALORA": {"r": 4, "gralora_k": 2},
    "HIRA": {"r": 4},
    "HRA": {"r": 4},
    "IA3": {},
    "LILY": {"r": 4, "num_B": 2, "stride_A": 1},
    "LN_TUNING": {},
    "LOHA": {"r": 4},
    "LOKR": {"r": 4},
    "MISS": {"r": 4},
    "OFT": {"oft_block_size": 4},
    "SHIRA": {"r": 2, "random_seed": 0},
    "PROMPT_TUNING": VIRTUAL,
    "MULTITASK_PROMPT_TUNING": {**VIRTUAL, "num_tasks": 2},
    "OSF": {},
    "P_TUNING": {**VIRTUAL, "encoder_hidden_size": 16},
    "PEANUT": {"r": 4},
    "POLY": {"r": 4, "n_tasks": 2, "n_skills": 2},
    "PREFIX_TUNING": VIRTUAL,
    "PSOFT": {"r": 4},
    "PVERA": {"r": 8},
    "RANDLORA": {"r": 4},
    "ROAD": {"group_size": 8},
    "SHADOW": {"r": 4},
    "SUPERTUNING": {"sparsity": 0.5},
    "TINYLORA": {"r": 2, "u": 4},
    "TRAINABLE_TOKENS": {"token_indices": list(range(260, 300))},
    "UNILORA": {"r": 4, "theta_d_length": 64},
    "VBLORA": {"r": 4, "num_vectors": 8, "vector_length": 8},
    "VERA": {"r": 8},
    "WAVEFT": {"n_frequency": 50},
    "XLORA": {},
}
SEQ2SEQ = ("LORA", "IA3", "PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "CARTRIDGE", "LN_TUNING", "TRAINABLE_TOKENS")
STATES = ("simplicial", "linear", "performer", "lsh")  # the kinds whose layers keep no plain keys and values
NEED_TASKS = ("POLY", "MULTITASK_PROMPT_TUNING")
assert set(METHODS) == {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING}, "the table is not that of this PEFT"
# Methods whose result is no model of the base class.
NOT_MERGED = {
    "ADAPTION_PROMPT",
    "BEFT",
    "CARTRIDGE",
    "CPT",
    "LILY",
    "MULTITASK_PROMPT_TUNING",
    "PEANUT",
    "POLY",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "P_TUNING",
    "SHADOW",
    "XLORA",
}
TASK_OF = {
    AutoModelForCausalLM: TaskType.CAUSAL_LM,
    AutoModelForSeq2SeqLM: TaskType.SEQ_2_SEQ_LM,
    AutoModelForSequenceClassification: TaskType.SEQ_CLS,
    AutoModelForTokenClassification: TaskType.TOKEN_CLS,
}


def batch_of(contender, auto_class, method):
    """Texts with padding, and labels for the head."""
    batch = dict(contender.tokenizer(TEXTS[:6], return_tensors="pt", padding=True))
    if auto_class is AutoModelForSequenceClassification:
        batch["labels"] = torch.arange(6) % 2
    else:
        ids = batch["input_ids"]
        batch["labels"] = ids.masked_fill(batch["attention_mask"] == 0, -100)
        if auto_class is AutoModelForSeq2SeqLM:
            batch["decoder_input_ids"] = ids
        if auto_class is AutoModelForTokenClassification:
            batch["labels"] = batch["labels"].where(batch["labels"] < 0, batch["labels"] % 2)
    if method in NEED_TASKS:
        batch["task_ids"] = torch.arange(6) % 2
    if method == "CPT":
        batch["input_type_mask"] = torch.full_like(batch["input_ids"], 4)
    return batch


def train(model, batch, method, steps: int = 6) -> None:
    """Train on one batch; every trained weight gets a finite gradient in some step, none else is trained."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained and len(trained) < len(list(model.parameters()))
    optimizer = torch.optim.Adam(trained.values(), lr=0.0005 if "decoder_input_ids" in batch else 0.02)
    reached = set()
    model.train()
    for step in range(steps):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        for name, parameter in trained.items():
            if parameter.grad is not None:
                assert parameter.grad.isfinite().all(), name
                if parameter.grad.any():
                    reached.add(name)
        optimizer.step()
        if method == "ADALORA":
            model.base_model.update_and_allocate(step)
    missed = {name for name in set(trained) - reached if method != "SHADOW" or "shadow_update" not in name}
    assert not missed, f"no gradient reaches {sorted(missed)}"


def outputs_of(model, batch):
    torch.manual_seed(0)
    with torch.no_grad():
        return model.eval()(**batch)


def logits_of(model, batch):
    """Without labels: some methods compute a loss of their own from them."""
    return outputs_of(model, {name: value for name, value in batch.items() if name != "labels"}).logits


def adapt(method, auto_class=AutoModelForCausalLM, **changes):
    """Attach, train, save, load on a fresh base, merge."""

    def run(contender, folder):
        torch.manual_seed(0)
        kwargs = {"num_labels": 2} if TASK_OF[auto_class] in (TaskType.SEQ_CLS, TaskType.TOKEN_CLS) else {}
        base = contender.load(auto_class, **kwargs)
        base.save_pretrained(folder / "base")  # with its new head, where it has one
        batch = batch_of(contender, auto_class, method)
        settings = {**METHODS[method], **changes}
        if method == "XLORA":
            settings = expert_adapters(contender, folder)
            base.config.use_cache = False
        if method == "CPT":
            settings["tokenizer_name_or_path"] = contender.folder
        config = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[method](task_type=TASK_OF[auto_class], **settings)
        model = get_peft_model(base, config)
        before = outputs_of(model, batch).loss
        train(model, batch, method)
        after = outputs_of(model, batch).loss
        assert after < before, (before, after)
        expected = logits_of(model, batch)
        if method == "XLORA":  # PEFT 0.21.2 saves an empty file instead of its classifier
            return
        model.save_pretrained(folder / "adapter")
        again = contender.load(auto_class, folder / "base")
        check_close(logits_of(PeftModel.from_pretrained(again, folder / "adapter"), batch), expected)
        if method not in NOT_MERGED and (method, kwargs) != ("LN_TUNING", {"num_labels": 2}):
            merged = model.merge_and_unload()
            check_close(logits_of(merged, batch), expected, tolerance=1e-2)
            merged.save_pretrained(folder / "merged")
            check_close(logits_of(contender.load(auto_class, folder / "merged"), batch), expected, tolerance=1e-2)

    return run


def expert_adapters(contender, folder):
    """X-LoRA mixes adapters that exist already."""
    adapters = {}
    for index in range(2):
        torch.manual_seed(index)
        config = peft.LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False, **PROJECTED)
        get_peft_model(contender.load(AutoModelForCausalLM), config).save_pretrained(folder / f"expert{index}")
        adapters[str(index)] = str(folder / f"expert{index}")
    return {"hidden_size": 32, "xlora_depth": 1, "adapters": adapters}


def load_by_itself(contender, folder):
    """`AutoPeftModelForCausalLM` finds the base by the adapter's folder alone."""
    model = contender.load(AutoModelForCausalLM)
    config = peft.LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False, **PROJECTED)
    adapted = get_peft_model(model, config)
    adapted.save_pretrained(folder / "adapter")
    batch = dict(contender.tokenizer(TEXTS[:2], return_tensors="pt", padding=True))
    again = AutoPeftModelForCausalLM.from_pretrained(folder / "adapter", **contender.trust)
    check_close(logits_of(again, batch), logits_of(adapted, batch))


def generate_adapted(contender, folder):
    """Greedy tokens of an adapted model, with a cache, are those of its merged twin."""
    config = peft.LoraConfig(r=4, task_type="CAUSAL_LM", init_lora_weights=False, **PROJECTED)
    adapted = get_peft_model(contender.load(AutoModelForCausalLM), config).eval()
    batch = dict(contender.tokenizer(TEXTS[:2], return_tensors="pt", padding=True, padding_side="left"))
    settings = {"do_sample": False, "max_new_tokens": 12, "min_new_tokens": 12}
    tokens = adapted.generate(**batch, **settings)
    merged = adapted.merge_and_unload()
    assert torch.equal(tokens, merged.generate(**batch, **settings, use_cache=False))
    assert len(set(tokens[:, -12:].flatten().tolist())) > 1


EXPERTS = {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
PROJECTED = {"target_modules": ["q_proj", "v_proj", "query", "value"]}
TARGETED = {"target_modules": "all-linear"}
PROMISE = "gradients reach all it trains, the loss falls, reloaded equals adapted"
MERGED = f"{PROMISE}, merged and saved equals adapted"


# Prefixes are keys and values, which neither the states of these layers nor an encoder's are.
NO_PREFIX = {
    "refused": {
        **dict.fromkeys(STATES, "PEFT's prefix tuning makes them, are not its states"),
        **{name: "is_causal=False: only a decoder reads a cache" for name in ENCODERS if name != "BERT"},
    },
    "refusal": "Keys and values before a text are no states of such a layer, nor is there a cache in an encoder.",
}
REFUSED = {
    "ADAPTION_PROMPT": {
        "refused": {"dense": "Unsupported model type for adaption prompt"},
        "refusal": "PEFT's table of this method names Llama, Mistral and GPT-2, and nothing else.",
    },
    "PREFIX_TUNING": NO_PREFIX,
    "CARTRIDGE": NO_PREFIX,
}


def promise_of(method: str) -> str:
    if method == "XLORA":
        return "gradients reach all it trains, the loss falls (PEFT saves no X-LoRA classifier)"
    return PROMISE if method in NOT_MERGED else MERGED


def method_case(method, **fields) -> Case:
    return Case(method, adapt(method), promise_of(method), **fields, **REFUSED.get(method, {}))


SMALL = ("Llama", "dense")
WIDE = {
    "LORA": ("Llama", "dense", "sparse", *KINDS),
    "IA3": ("Llama", "dense", "sparse", *KINDS),
    "PREFIX_TUNING": ALL_DECODERS,
    "CARTRIDGE": ALL_DECODERS,
}
CASES = [
    *(method_case(method, contenders=WIDE.get(method, SMALL)) for method in METHODS),
    Case("LORA, all linear layers", adapt("LORA", **TARGETED), MERGED, ALL_DECODERS),
    Case("LORA, DoRA", adapt("LORA", use_dora=True), MERGED, SMALL),
    Case("LORA on experts", adapt("LORA", **EXPERTS), MERGED, ("Mixtral", "sparse")),
    Case("LORA on embeddings", adapt("LORA", target_modules=["embed_tokens", "q_proj"]), MERGED, SMALL),
    Case("LORA with new tokens", adapt("LORA", trainable_token_indices=list(range(260, 300))), MERGED, SMALL),
    Case(
        "LORA, head saved",
        adapt("LORA", AutoModelForSequenceClassification, **PROJECTED),
        MERGED,
        (*DECODERS, *ENCODERS),
    ),
    Case("LORA, token labels", adapt("LORA", AutoModelForTokenClassification), MERGED, ENCODERS),
    Case("IA3, encoders", adapt("IA3", AutoModelForSequenceClassification), MERGED, ENCODERS),
    Case(
        "LN_TUNING, encoders",
        adapt("LN_TUNING", AutoModelForSequenceClassification),
        f"{PROMISE} (PEFT leaves the head wrapped when it merges)",
        ENCODERS,
        fails=("BERT",),
        reason="PEFT has no targets for BERT.",
    ),
    Case("PROMPT_TUNING, encoders", adapt("PROMPT_TUNING", AutoModelForSequenceClassification), PROMISE, ENCODERS),
    Case(
        "PREFIX_TUNING, encoders",
        adapt("PREFIX_TUNING", AutoModelForSequenceClassification),
        PROMISE,
        ENCODERS,
        **NO_PREFIX,
    ),
    *(
        Case(
            f"{method}, encoder-decoders",
            adapt(method, AutoModelForSeq2SeqLM),
            promise_of(method),
            ENCODER_DECODERS,
        )
        for method in SEQ2SEQ
    ),
    Case("an adapter's folder alone", load_by_itself, "`AutoPeftModelForCausalLM` gives the adapted logits", DECODERS),
    Case("generation", generate_adapted, "cached tokens of the adapted are uncached ones of the merged", ALL_DECODERS),
]


def test_peft(case, contender, tmp_path):
    case.check(contender, tmp_path)
