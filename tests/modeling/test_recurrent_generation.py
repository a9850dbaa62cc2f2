"""Generating with the decoder's state as cache gives what recomputing gives; the trainer and the Hub work."""

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from support import forks
from support.recurrent import PAD, VARIANTS, pad_rows, random_ids, tiny_config, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from trine.configuration.bundle import files_of
from trine.configuration.configuration_trine_recurrent import TrineRecurrentConfig
from trine.modeling.caches.recurrent import TrineRecurrentCache
from trine.modeling.modeling_trine_recurrent import TrineRecurrentForConditionalGeneration


EVERY_VARIANT = pytest.mark.parametrize("name", VARIANTS)
MODES = {
    "greedy": {},
    "no_repeats": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 3},
    "sampling": {"do_sample": True, "temperature": 1.5},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
    "beam_sampling": {"num_beams": 3, "do_sample": True, "temperature": 2.0},
}
ROWS = [random_ids(length, seed=length) for length in (9, 2, 5)]


def generate(model, seed: int = 0, **inputs):
    torch.manual_seed(seed)
    inputs = {"max_new_tokens": 14, "do_sample": False, "top_k": None, "eos_token_id": None, **inputs}
    return model.generate(**inputs, output_logits=True, return_dict_in_generate=True)


def assert_same(actual, expected) -> None:
    assert actual.sequences.tolist() == expected.sequences.tolist()
    for step, other in zip(actual.logits, expected.logits, strict=True):
        torch.testing.assert_close(step, other, check_dtype=False, rtol=1e-6, atol=1e-6)


@EVERY_VARIANT
@pytest.mark.parametrize("side", ["left", "right"])
def test_greedy_equals_a_loop_over_each_row(side, name):
    model = tiny_model(name)
    outputs = generate(model, **pad_rows(ROWS, side))
    for index, row in enumerate(ROWS):
        target = torch.tensor([[model.config.decoder_start_token_id]])
        for step in outputs.logits:
            with torch.no_grad():
                logits = model(row[None], decoder_input_ids=target, use_cache=False).logits[0, -1]
            torch.testing.assert_close(step[index], logits, check_dtype=False, rtol=1e-6, atol=1e-6)
            target = torch.cat([target, logits.argmax()[None, None]], dim=1)
        assert outputs.sequences[index].tolist() == target[0].tolist()
    assert len({token for row in outputs.sequences.tolist() for token in row}) > 3, (
        "no repetition, which would hide errors"
    )


@EVERY_VARIANT
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_cached_equals_uncached(side, mode, name):
    model, inputs = tiny_model(name), pad_rows(ROWS, side)
    cached = generate(model, **inputs, **MODES[mode])
    assert type(cached.past_key_values) is TrineRecurrentCache and cached.past_key_values.get_seq_length() == 14
    assert_same(cached, generate(model, **inputs, use_cache=False, **MODES[mode]))


def test_the_modes_are_not_all_alike():
    inputs = pad_rows(ROWS)
    first = {mode: tuple(generate(tiny_model(), **inputs, **MODES[mode]).sequences[0].tolist()) for mode in MODES}
    assert len(set(first.values())) >= len(MODES) - 1


@EVERY_VARIANT
@pytest.mark.parametrize("sizes", [[1] * 7, [3, 4], [6, 1]])
def test_reading_the_target_in_pieces_equals_reading_it_at_once(sizes, name):
    model, source, target = tiny_model(name), pad_rows(ROWS, "left"), random_ids(3, 7)
    expected = model(**source, decoder_input_ids=target)
    encoder_outputs, cache, pieces = model.get_encoder()(**source), None, []
    for piece in target.split(sizes, dim=1):
        outputs = model(
            attention_mask=source["attention_mask"],
            encoder_outputs=encoder_outputs,
            decoder_input_ids=piece,
            past_key_values=cache,
            use_cache=True,
        )
        cache = outputs.past_key_values
        pieces.append(outputs.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected.logits, rtol=1e-12, atol=1e-12)
    assert cache.get_seq_length() == expected.past_key_values.get_seq_length() == 7


@pytest.mark.parametrize("name", ["dot", "none"])
def test_a_prompt_of_the_decoder_and_a_returned_cache_can_be_continued(name):
    """With targets padded on the left, whose mask goes on over the cached tokens."""
    model, source = tiny_model(name), pad_rows(ROWS)
    prompt = {
        f"decoder_{key}": value
        for key, value in pad_rows([random_ids(4), random_ids(2), random_ids(3)], "left").items()
    }
    prompt["decoder_input_ids"][:, 0] = model.config.decoder_start_token_id  # or `generate` adds one
    first = generate(model, **source, **prompt, max_new_tokens=5)
    assert_same(first, generate(model, **source, **prompt, max_new_tokens=5, use_cache=False))
    mask = torch.cat([prompt["decoder_attention_mask"], torch.ones(3, 5, dtype=torch.long)], dim=1)
    longer = {"decoder_input_ids": first.sequences, "decoder_attention_mask": mask}
    continued = generate(model, **source, **longer, past_key_values=first.past_key_values, max_new_tokens=4)
    assert_same(continued, generate(model, **source, **longer, use_cache=False, max_new_tokens=4))


def test_generation_returns_attention_and_reads_embeddings():
    model, source = tiny_model(), pad_rows(ROWS, "left")
    outputs = generate(model, **source, output_attentions=True)
    for step in outputs.cross_attentions:
        assert [weights.shape for weights in step] == [(3, 1, 1, 9)]
    embeds = model.get_input_embeddings()(source["input_ids"])
    assert_same(generate(model, inputs_embeds=embeds, attention_mask=source["attention_mask"]), outputs)


def test_an_end_token_stops_a_row():
    model, source = tiny_model(), pad_rows(ROWS)
    free = generate(model, **source).sequences
    end = free[0, 5].item()
    stopped = generate(model, **source, eos_token_id=end).sequences
    length = free[0].tolist().index(end) + 1
    assert stopped[0, :length].tolist() == free[0, :length].tolist() and (stopped[0, length:] == PAD).all()


@pytest.mark.parametrize("settings", [{"prompt_lookup_num_tokens": 3}, {"assistant_model": tiny_model()}])
def test_assisted_decoding_is_refused(settings):
    with pytest.raises(ValueError, match="not supported with stateful models, such as TrineRecurrentFor"):
        generate(tiny_model(), input_ids=random_ids(1, 4), **settings)


def test_the_cache_reorders_repeats_selects_and_resets():
    model, source = tiny_model(), random_ids(3, 4)
    cache = model(source, decoder_input_ids=source).past_key_values
    states = [tuple(state.clone() for state in cache.get_state(layer)) for layer in (0, 1)]
    steps = (
        (lambda: cache.reorder_cache(torch.tensor([2, 0, 0])), [2, 0, 0]),
        (lambda: cache.batch_repeat_interleave(2), [2, 2, 0, 0, 0, 0]),
        (lambda: cache.batch_select_indices(torch.tensor([3, 0])), [0, 2]),
        (lambda: cache.crop(0), [0, 2]),
    )
    for change, rows in steps:
        change()
        for layer in (0, 1):
            for state, original in zip(cache.get_state(layer), states[layer], strict=True):
                assert torch.equal(state, original[rows])
    assert (cache.get_seq_length(), cache.get_max_length(), cache.get_mask_sizes(1, 0)) == (4, -1, (5, 0))
    assert not cache.is_croppable and not cache.is_compileable and len(cache) == 2
    cache.reset()
    assert cache.get_seq_length() == 0 and cache.get_state(0) is None
    again = model(source, decoder_input_ids=source, past_key_values=cache)
    assert torch.equal(again.past_key_values.get_state(1)[0], states[1][0])


# The trainer


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<s>", "</s>", *"abcdefghijklmnop"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )


@pytest.mark.parametrize("settings", [{}, {"label_smoothing_factor": 0.1}, {"bf16": True}], ids=str)
def test_the_sequence_to_sequence_trainer_trains_and_generates(settings, tmp_path):
    tokenizer, generator = tiny_tokenizer(), torch.Generator().manual_seed(0)
    model = TrineRecurrentForConditionalGeneration(tiny_config(vocab_size=len(tokenizer)))
    texts = [
        " ".join("abcdefghijklmnop"[i] for i in torch.randint(0, 16, (length,), generator=generator))
        for length in (2, 6, 3, 5, 4, 2, 6, 3)
    ]
    data = [{**tokenizer(text), "labels": [*tokenizer(text).input_ids[::-1], 2]} for text in texts]
    data = [{key: row[key] for key in ("input_ids", "attention_mask", "labels")} for row in data]
    arguments = Seq2SeqTrainingArguments(
        tmp_path,
        max_steps=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        per_device_eval_batch_size=3,
        predict_with_generate=True,
        generation_max_length=9,
        generation_num_beams=2,
        logging_steps=1,
        use_cpu=True,
        disable_tqdm=True,
        **settings,
    )

    def compute_metrics(prediction) -> dict[str, float]:
        assert prediction.predictions[:, :2].min() > PAD and (prediction.predictions[:, 9:] == PAD).all()
        return {"rows": len(prediction.predictions)}

    trainer = Seq2SeqTrainer(
        model,
        arguments,
        train_dataset=data,
        eval_dataset=data,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        compute_metrics=compute_metrics,
    )
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer.train()
    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    metrics = trainer.evaluate()
    assert metrics["eval_rows"] == 8 and 0 < metrics["eval_loss"] < 10
    trainer.save_model(tmp_path / "model")
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model").generation_config.decoder_start_token_id == 1


# The Hub

# Loads, computes and saves in a process in which `import trine` fails, then does the same with the copy.
STRANGER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "trine":
            raise ImportError("trine is not installed here")

sys.meta_path.insert(0, Blocker())

from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

folder, names = sys.argv[1], sys.argv[2:]
inputs = load_file(f"{folder}/inputs.safetensors")
for name in names:
    path = f"{folder}/{name}"
    for step in ("first", "second"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=True)
        assert type(config).__module__.startswith("transformers_modules."), type(config)
        model = AutoModelForSeq2SeqLM.from_pretrained(path, trust_remote_code=True)
        logits = model(**inputs).logits.detach().contiguous()
        source = {key: value for key, value in inputs.items() if key != "labels"}
        tokens = model.generate(**source, num_beams=2, max_new_tokens=6, min_new_tokens=6).contiguous()
        save_file({"logits": logits, "tokens": tokens}, f"{folder}/{name}-{step}.safetensors")
        path = f"{folder}/{name}-copy"
        model.save_pretrained(path)
    trunk = AutoModel.from_pretrained(f"{folder}/{name}", trust_remote_code=True)
    assert trunk(inputs["input_ids"], decoder_input_ids=inputs["labels"]).last_hidden_state.shape == (3, 3, 12)
assert "trine" not in sys.modules
"""


@pytest.mark.slow
def test_a_process_without_the_package_computes_the_same(tmp_path, monkeypatch):
    inputs = {**pad_rows(ROWS, "left"), "labels": random_ids(3, 3)}
    save_file(inputs, tmp_path / "inputs.safetensors")
    expected, names = {}, ["dot", "none"]
    for name in names:
        tiny_model(name, dtype=torch.float32).save_pretrained(tmp_path / name)
        # Loaded too, because the last bit depends on how the weights are aligned in memory.
        model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / name)
        tokens = model.generate(**pad_rows(ROWS, "left"), num_beams=2, max_new_tokens=6, min_new_tokens=6)
        expected[name] = {"logits": model(**inputs).logits, "tokens": tokens}
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    result = forks.run(["-c", STRANGER, str(tmp_path), *names], tmp_path)
    assert result.returncode == 0, result.stderr
    for name in names:
        for step in ("first", "second"):
            computed = load_file(tmp_path / f"{name}-{step}.safetensors")
            assert all(torch.equal(computed[key], tensor) for key, tensor in expected[name].items()), (name, step)
        first, copy = ({p.name: p.read_bytes() for p in (tmp_path / f).glob("*.py")} for f in (name, f"{name}-copy"))
        assert copy == first


def test_a_saved_model_carries_its_code_the_whole_map_and_a_card(tmp_path):
    model = tiny_model(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    written = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.py")}
    assert written == files_of(model.config)
    assert "class TrineModel" not in "".join(written.values()), "nothing that it does not need"
    expected = TrineRecurrentConfig.auto_map_of("trine_recurrent")
    assert TrineRecurrentConfig.from_pretrained(tmp_path).auto_map == expected
    for reference in expected.values():
        module, name = reference.split(".")
        assert f"class {name}(" in written[f"{module}.py"]
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.tags, card.data.pipeline_tag, card.data.license) == (["trine"], "text-generation", "unknown")
    for text in (
        f"{model.num_parameters():,} parameters",
        "both directions",
        "2 each, 12 wide",
        "| attention | dot (Luong",
    ):
        assert text in card.text, text
    assert "AutoModelForSeq2SeqLM.from_pretrained" in card.text and "one direction" not in card.text
    other = tiny_model("none, one way").model.render_card()
    assert "import AutoModel," in other and "one direction" in other and "| attention | none (Cho" in other
