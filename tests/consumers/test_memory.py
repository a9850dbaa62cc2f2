"""accelerate, torchao and bitsandbytes: models that do not fit, and weights of fewer bits."""

import torch
from accelerate import cpu_offload, disk_offload, init_empty_weights, load_checkpoint_and_dispatch
from consumers.cases import Case
from consumers.checks import check_close
from consumers.contenders import ALL_DECODERS, DECODERS, ENCODER_DECODERS
from consumers.texts import TEXTS
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, BitsAndBytesConfig, TorchAoConfig


LIBRARY = "accelerate, torchao, bitsandbytes"


def class_of(contender):
    return AutoModelForSeq2SeqLM if contender.name in ENCODER_DECODERS else AutoModelForCausalLM


def inputs_of(contender):
    inputs = dict(contender.tokenizer(TEXTS[:3], return_tensors="pt", padding=True, padding_side="left"))
    if contender.name in ENCODER_DECODERS:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    return inputs


def logits_of(model, inputs):
    with torch.no_grad():
        return model.eval()(**inputs).logits


def check_same(contender, model) -> None:
    """Logits and greedy tokens are those of the model in memory."""
    inputs, plain = inputs_of(contender), contender.load(class_of(contender))
    check_close(logits_of(model, inputs), logits_of(plain, inputs), tolerance=1e-5)
    inputs.pop("decoder_input_ids", None)
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(**inputs, **settings), plain.generate(**inputs, **settings))


def on_disk(model) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.is_meta]


def offload_to_disk(contender, folder):
    model = contender.load(class_of(contender)).eval()
    disk_offload(model, str(folder / "disk"), execution_device=torch.device("cpu"))
    assert on_disk(model)
    check_same(contender, model)


def offload_to_memory(contender, folder):
    model = contender.load(class_of(contender)).eval()
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert on_disk(model)
    check_same(contender, model)


def dispatch_automatically(contender, folder):
    """`device_map="auto"` with too little memory for the whole model."""
    model = contender.load(
        class_of(contender), device_map="auto", max_memory={"cpu": "60KB"}, offload_folder=str(folder / "disk")
    )
    assert on_disk(model), "everything fitted"
    check_same(contender, model)


def dispatch_a_checkpoint(contender, folder):
    """accelerate's own loader, on a model without memory of its own."""
    with init_empty_weights():
        model = class_of(contender).from_config(contender.config, **contender.trust)
    model.tie_weights()
    parts = ["lm_head", *(f"model.{name}" for name, _ in model.model.named_children() if name != "layers")]
    places = dict.fromkeys([*parts, "model.layers.0"], "cpu") | {"model.layers.1": "disk"}
    model = load_checkpoint_and_dispatch(model, contender.folder, places, offload_folder=str(folder / "disk"))
    check_same(contender, model.eval())


def relative_error(actual, expected) -> float:
    return float((actual - expected).norm() / expected.norm())


def widen(contender, folder):
    """Writes a model of the contender's kind whose layers all have at least 64 inputs; returns its folder."""
    config = contender.load(AutoConfig, hidden_size=64, head_dim=16)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, **contender.trust).save_pretrained(folder / "wide")
    return folder / "wide"


def quantise(config, tolerance, *, saves=True, is_wide=False):
    """The weights are of fewer bits, the logits near; saved and loaded, they are the same."""

    def run(contender, folder):
        source = widen(contender, folder) if is_wide else None
        plain = contender.load(AutoModelForCausalLM, source)
        torch.manual_seed(0)
        model = contender.load(AutoModelForCausalLM, source, quantization_config=config(), dtype=torch.float32)
        inputs = inputs_of(contender)
        logits = logits_of(model, inputs)
        error = relative_error(logits, logits_of(plain, inputs))
        assert 0 < error < tolerance, error
        assert "q_proj" in " ".join(name for name in quantised(model)), quantised(model)
        if saves:
            model.save_pretrained(folder / "saved")
            check_close(logits_of(contender.load(AutoModelForCausalLM, folder / "saved"), inputs), logits)

    return run


def quantised(model) -> list[str]:
    """The names of weights that are not plain floating-point tensors of their full size."""
    return [
        name
        for name, parameter in model.named_parameters()
        if type(parameter.data) is not torch.Tensor or not parameter.is_floating_point()
    ]


def torchao(settings_class):
    return lambda: TorchAoConfig(settings_class())


def bits(**settings):
    return lambda: BitsAndBytesConfig(**settings)


NF4 = bits(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


def train_on_quantised(contender, folder):
    """QLoRA: adapters on weights of four bits get gradients, and the loss falls."""
    model = contender.load(AutoModelForCausalLM, quantization_config=NF4(), dtype=torch.float32)
    model = prepare_model_for_kbit_training(model)
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    ids = contender.tokenizer(TEXTS[0], return_tensors="pt").input_ids
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.02)
    losses = []
    adapted.train()
    for _ in range(6):
        optimizer.zero_grad()
        loss = adapted(input_ids=ids, labels=ids).loss
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0], losses


SAME = "logits and greedy tokens equal those of the model in memory"
NEAR = "weights are quantised, logits within {} %, saved equals reloaded"
SHAPES = (*ALL_DECODERS, *ENCODER_DECODERS)
CASES = [
    Case("accelerate, `disk_offload`", offload_to_disk, SAME, SHAPES),
    Case("accelerate, `cpu_offload`", offload_to_memory, SAME, SHAPES),
    Case('`device_map="auto"`, the rest on disk', dispatch_automatically, SAME, SHAPES),
    Case("accelerate, `load_checkpoint_and_dispatch`", dispatch_a_checkpoint, SAME, ("Llama", "dense", "sparse")),
    Case("torchao, int8 weights", quantise(torchao(Int8WeightOnlyConfig), 0.1), NEAR.format(10), ALL_DECODERS),
    Case(
        "torchao, int8 dynamic",
        quantise(torchao(Int8DynamicActivationInt8WeightConfig), 0.2),
        NEAR.format(20),
        DECODERS,
    ),
    Case("bitsandbytes, int8", quantise(bits(load_in_8bit=True), 0.2), NEAR.format(20), ALL_DECODERS),
    # Its kernel for inference takes no layer of 32 inputs; what it saves is not what it has, for the peers either.
    Case(
        "bitsandbytes, nf4",
        quantise(NF4, 0.6, saves=False, is_wide=True),
        "weights are quantised, logits within 60 %",
        ALL_DECODERS,
    ),
    Case("bitsandbytes, QLoRA", train_on_quantised, "gradients reach the adapters, the loss falls", DECODERS),
]


def test_memory(case, contender, tmp_path):
    case.check(contender, tmp_path)
