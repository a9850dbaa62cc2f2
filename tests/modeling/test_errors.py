"""Every error of the models says what is wrong with which value."""

import pytest
import torch
from support.cache_errors import CACHE_ERRORS
from support.generation_errors import BAD_SETTINGS, GENERATORS, generate
from support.late_model_errors import masks_of_a_source, other_transformers, state_taken_back, too_many_arguments
from support.messages import unseen
from support.prefix_errors import PREFIX_ERRORS
from support.recurrent_errors import model_errors
from support.shards import damaged_shards, truncate
from support.tiny import GPT2, SIZES, SPARSE, random_ids, tiny_config, tiny_model
from support.translators import tiny_translator

from trine import (
    TrineForCausalLM,
    TrineForConditionalGeneration,
    TrineForMaskedLM,
    TrineForSequenceClassification,
    TrineModel,
    TrineSeq2SeqConfig,
    TrineSeq2SeqForQuestionAnswering,
    TrineSeq2SeqForTokenClassification,
)
from trine.modeling.caches.simplicial import SimplicialCacheLayer
from trine.modeling.feed_forward.balancing import flatten_mask
from trine.modeling.heads.classification_losses import sequence_loss
from trine.modeling.kernels.simplicial.forms import Window
from trine.modeling.kernels.simplicial.inputs import SimplicialInputs
from trine.modeling.kernels.simplicial.triton.operators import simplicial_triton


PARTS = ("checkpoints", "checks/checkpoints", "loading", "registration", "returned", "quantized", "tower_pooling")
HEADS = ("modeling_trine_dual", "heads/images", "heads/patches", "heads/pointer", "heads/retrieval", "heads/series")
HEADS = (*HEADS, "inputs/", "modeling_trine_image_text")
ELSEWHERE = tuple(f"modeling/{part}" for part in PARTS + HEADS)  # whose errors have files of their own


def run(ids, **fields):
    tiny_model(**fields)(torch.tensor([ids]))


def change_and_build(**changes):
    config = tiny_config()
    for field, value in changes.items():
        setattr(config, field, value)
    TrineModel(config)


def filled_cache() -> SimplicialCacheLayer:
    """The cache of a layer with windows of 8 and 3, after 9 tokens."""
    model = tiny_model(attention_types="simplicial")
    return model(random_ids(1, 9), use_cache=True).past_key_values.layers[0]


def both_sided() -> TrineForConditionalGeneration:
    return TrineForConditionalGeneration(TrineSeq2SeqConfig(encoder=SIZES, decoder=SIZES, decoder_is_causal=False))


def triton_on(query: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    reach = Window(0, 0)
    return simplicial_triton(SimplicialInputs(query, *[other] * 4, None, None, reach, reach, "hadamard", 1.0))


def make_for_vllm(model_class=TrineModel, **fields):
    config = tiny_config(**fields)
    config._attn_implementation = "vllm"
    model_class(config)


def two_stacks(model_class, start=1):
    config = TrineSeq2SeqConfig(encoder=SIZES, decoder=SIZES, decoder_start_token_id=1)
    config.decoder_start_token_id = start
    return model_class(config)


CASES = {
    **CACHE_ERRORS,
    **PREFIX_ERRORS,
    **{
        f"{generator}, {name}": (lambda make=make, settings=settings: generate(make(), **settings), message)
        for generator, make in GENERATORS.items()
        for name, (settings, message) in BAD_SETTINGS.items()
    },
    "router logits of a dense decoder": (
        lambda: tiny_model(TrineForCausalLM)(random_ids(1, 5), output_router_logits=True),
        "output_router_logits=True, but no layer has experts: mlp_layer_types are all 'dense'. TRL asks for router "
        "logits where its router_aux_loss_coef is set: leave that out, or set it to 0.",
    ),
    "grouped experts": (
        lambda: TrineForCausalLM(
            tiny_config(**SPARSE, hidden_size=36, head_dim=8, experts_implementation="grouped_mm")
        ),
        "experts_implementation='grouped_mm' cannot compute these experts: hidden_size=36 is not a multiple of 8.",
    ),
    "a long prompt": (
        lambda: generate(tiny_model(**GPT2), random_ids(1, 93), max_new_tokens=5),
        "max_length=98, of input and output, reaches position 96, but max_position_embeddings=96 allows 0 to 95. "
        "Shorten the input, or lower max_new_tokens or max_length.",
    ),
    "a long target": (
        lambda: generate(tiny_translator(position_type="learned"), max_new_tokens=97),
        "max_length=98, of input and output, reaches position 96, but max_position_embeddings=96 allows 0 to 95. ",
    ),
    "a long source": (
        lambda: generate(tiny_translator(position_type="learned"), random_ids(1, 97)),
        "The source reaches position 96, but max_position_embeddings=96 allows 0 to 95. Shorten it.",
    ),
    "beyond the vocabulary": (
        lambda: run([3, 61]),
        "input_ids hold values from 3 to 61, but vocab_size=61 allows 0 to 60.",
    ),
    "negative": (lambda: run([3, -100]), "input_ids hold values from -100 to 3, but vocab_size=61 allows 0 to 60."),
    "too long": (
        lambda: run([1] * 97, position_type="learned"),
        "position_ids hold values from 0 to 96, but max_position_embeddings=96 allows 0 to 95.",
    ),
    "paged simplicial": (
        lambda: tiny_model(attention_types="full, simplicial").generate_batch([[3]]),
        "attention_types[1]='simplicial' is not one of ['full', 'sliding'], which continuous batching serves; "
        "use generate.",
    ),
    "paged chunked": (
        lambda: tiny_model(attention_types="chunked").init_continuous_batching(),
        "attention_types[0]='chunked' is not one of ['full', 'sliding'], which continuous batching serves; "
        "use generate.",
    ),
    "paged relative positions": (
        lambda: tiny_model(position_type="relative").generate_batch([[3]]),
        "position_type='relative' is not one of ['sinusoidal', 'learned', 'rope', 'none'], which continuous batching "
        "serves; use generate.",
    ),
    "paged rope by length": (
        lambda: tiny_model(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}).generate_batch(
            [[3]]
        ),
        "rope_parameters['rope_type']='dynamic' is one of ['dynamic', 'longrope']: its frequencies follow the longest "
        "sequence, so that requests served together would change each other; use generate.",
    ),
    "paged encoder-decoder": (
        lambda: TrineForConditionalGeneration(
            TrineSeq2SeqConfig(encoder={**SIZES}, decoder={**SIZES}, decoder_start_token_id=0)
        ).generate_batch([[3]]),
        "model_type='trine_seq2seq' has is_encoder_decoder=True, add_cross_attention=None, but continuous batching "
        "serves single stacks; use generate.",
    ),
    "experts in vLLM": (
        lambda: make_for_vllm(hidden_act="gelu", **SPARSE),
        "hidden_act='gelu', gated_mlp=True: vLLM serves experts with 'silu' and gated_mlp=True; use generate.",
    ),
    "windows of an encoder in vLLM": (
        lambda: make_for_vllm(is_causal=False, attention_types="sliding"),
        "attention_types=['sliding', 'sliding'] with is_causal=False: to each side vLLM's window reaches 7 tokens, "
        "one less than sliding_window=8; use AutoModel.",
    ),
    "a classifier in vLLM": (
        lambda: make_for_vllm(TrineForSequenceClassification, is_causal=False, num_labels=3),
        "num_labels=3: vLLM reads the classifier's linear layer alone, without classifier_pooling='cls', pooler and "
        "transform, and serves no classifiers of Trine; use transformers' pipelines.",
    ),
    "neither yes nor no": (
        lambda: sequence_loss(
            tiny_config(problem_type="multi_label_classification"), torch.zeros(1, 2), torch.tensor([[1.0, 2.0]]), None
        ),
        "labels hold values from 1.0 to 2.0; with problem_type='multi_label_classification' each is a number from 0 ",
    ),
    "a target without a decoder": (
        lambda: two_stacks(TrineSeq2SeqForTokenClassification)(random_ids(1, 3), decoder_input_ids=random_ids(1, 3)),
        "There is no decoder: decoder_input_ids and decoder_inputs_embeds cannot be given.",
    ),
    "no ids to shift": (
        lambda: two_stacks(TrineSeq2SeqForQuestionAnswering)(inputs_embeds=torch.zeros(1, 3, 32)),
        "One of decoder_input_ids, decoder_inputs_embeds and input_ids must be given.",
    ),
    "no start to shift to": (
        lambda: two_stacks(TrineSeq2SeqForQuestionAnswering, None)(random_ids(1, 3)),
        "decoder_start_token_id=None is needed to make decoder_input_ids from input_ids; set it in the config.",
    ),
    "nothing to write": (
        lambda: tiny_translator()(random_ids(1, 3)),
        "One of decoder_input_ids, decoder_inputs_embeds and labels must be given.",
    ),
    "a decoder of both sides, token by token": (
        lambda: both_sided().generate(torch.tensor([[3]])),
        "decoder_is_causal=False: the decoder reads both sides of a token, so that it cannot write token by token. "
        "Use generate(custom_generate=MaskPredict()), from trine.generation.mask_predict.",
    ),
    "a decoder of both sides, with labels alone": (
        lambda: both_sided()(input_ids=torch.tensor([[3]]), labels=torch.tensor([[3]])),
        "decoder_is_causal=False: the decoder reads both sides, so that labels alone would show it what it is to "
        "predict. Give decoder_input_ids with masked tokens, as MaskedTargetCollator makes them.",
    ),
    "no input": (lambda: tiny_model()(), "Exactly one of input_ids and inputs_embeds must be given."),
    "two inputs": (
        lambda: tiny_model()(random_ids(1, 2), inputs_embeds=torch.zeros(1, 2, 32, dtype=torch.float64)),
        "Exactly one of input_ids and inputs_embeds must be given.",
    ),
    "encoder": (
        lambda: TrineForCausalLM(tiny_config(is_causal=False)),
        "is_causal=False describes an encoder; TrineForCausalLM needs is_causal=True.",
    ),
    "activation": (lambda: TrineModel(tiny_config(hidden_act="sliu")), "hidden_act='sliu' is not one of ["),
    "rope type": (
        lambda: TrineModel(tiny_config(rope_parameters={"rope_type": "yarm", "rope_theta": 1e4, "factor": 2.0})),
        "rope_parameters['rope_type']='yarm' is not one of ['default', ",
    ),
    "layers": (
        lambda: change_and_build(num_hidden_layers=5),
        "attention_types has 2 entries, but num_hidden_layers=5.",
    ),
    "late window": (lambda: change_and_build(sliding_window=0), "sliding_window=0 must be at least 1."),
    "late kind": (
        lambda: change_and_build(attention_types=["full", "linea"]),
        "attention_types[1]='linea' is not one of",
    ),
    "decoder": (
        lambda: TrineForMaskedLM(tiny_config()),
        "is_causal=True describes a decoder; TrineForMaskedLM needs is_causal=False.",
    ),
    "segment beyond": (
        lambda: tiny_model(type_vocab_size=2)(random_ids(1, 2), token_type_ids=torch.tensor([[0, 2]])),
        "token_type_ids hold values from 0 to 2, but type_vocab_size=2 allows 0 to 1.",
    ),
    "no source": (
        lambda: tiny_model(add_cross_attention=True)(random_ids(1, 2)),
        "encoder_hidden_states are missing, but add_cross_attention=True.",
    ),
    "a source for nothing": (
        lambda: tiny_model()(random_ids(1, 2), encoder_hidden_states=torch.zeros(1, 2, 32)),
        "encoder_hidden_states are given, but add_cross_attention=False.",
    ),
    "no start": (
        lambda: TrineForConditionalGeneration(
            TrineSeq2SeqConfig(encoder=SIZES, decoder=SIZES)
        ).prepare_decoder_input_ids_from_labels(random_ids(1, 2)),
        "decoder_start_token_id=None and pad_token_id=None are both needed to make decoder_input_ids from labels",
    ),
    "problem": (
        lambda: sequence_loss(tiny_config(problem_type="ranking"), torch.zeros(1, 2), torch.tensor([0]), None),
        "problem_type='ranking' is not one of ['regression', 'single_label_classification', 'multi_label_",
    ),
    "number of values": (
        lambda: sequence_loss(
            tiny_config(problem_type="regression", num_labels=3), torch.zeros(2, 3), torch.zeros(2), None
        ),
        "labels have shape (2,), but problem_type='regression' needs (2, 3).",
    ),
    "label": (
        lambda: tiny_model()(random_ids(1, 2), labels=torch.tensor([[3, -1]])),
        "labels hold values from -1 to 3; with vocab_size=61 they are 0 to 60, or -100 where nothing is predicted.",
    ),
    "number of labels": (
        lambda: tiny_model()(random_ids(1, 2), labels=random_ids(1, 3)),
        "labels have shape (1, 3), but must have (1, 2): each prediction needs its own, -100 where there is none.",
    ),
    "rows of labels": (
        lambda: tiny_model()(random_ids(1, 2), labels=random_ids(2)),
        "labels have shape (2,), but must have (batch, length).",
    ),
    "type of labels": (
        lambda: tiny_model()(random_ids(1, 2), labels=torch.rand(1, 2)),
        "labels are of torch.float32, but must be of torch.int64: each is the number of a class or a token, or -100",
    ),
    "number of targets": (
        lambda: tiny_model()(random_ids(1, 2), labels=random_ids(1, 2), num_items_in_batch=-1),
        "num_items_in_batch=-1 must be the number of targets in all micro-batches of an optimizer step, 0 or more.",
    ),
    "ready mask": (
        lambda: tiny_model(attention_types="simplicial")(random_ids(1, 4), attention_mask=torch.ones(1, 1, 4, 4)),
        "attention_mask has shape (1, 1, 4, 4), but layers of the kinds ['simplicial', 'linear', 'performer', "
        "'bigbird', 'lsh'] read a padding mask (batch, length): they make no table of all pairs of tokens",
    ),
    "masks without a type": (
        lambda: tiny_model(attention_types="sliding, full")(random_ids(1, 4), attention_mask={"full_attention": None}),
        "attention_mask has the keys ['full_attention'], but needs ['sliding_attention', 'full_attention']: "
        "'sliding_attention' is missing.",
    ),
    "no Triton here": (
        lambda: run([3, 4], attention_types="simplicial", simplicial_backend="triton"),
        "simplicial_backend='triton' cannot serve here: ",
    ),
    "no gradient of flex here": (
        lambda: run([3, 4], attention_types="simplicial", simplicial_backend="flex"),
        "simplicial_backend='flex' cannot serve here: flex attention has no backward pass on a CPU.",
    ),
    "two types for Triton": (
        lambda: triton_on(torch.zeros(1, 1, 1, 16), torch.zeros(1, 1, 1, 16, dtype=torch.float64)),
        "The inputs differ in dtype: [torch.float32, torch.float64, torch.float64, torch.float64, torch.float64].",
    ),
    "no kernels here": (
        lambda: triton_on(torch.zeros(1, 1, 1, 16), torch.zeros(1, 1, 1, 16)),
        "The Triton path cannot serve this call: ",
    ),
    "uncropped": (
        lambda: filled_cache().crop(1),
        "tokens_to_remove=1 must be 0 or negative: the number that goes, negated.",
    ),
    "router mask": (
        lambda: flatten_mask(torch.ones(2, 1, 4, 4), torch.zeros(8, 4)),
        "attention_mask has shape (2, 1, 4, 4); router losses need (batch, length), to tell padding among the 8",
    ),
    "router mask length": (
        lambda: flatten_mask(torch.ones(3, 4), torch.zeros(8, 4)),
        "attention_mask has shape (3, 4); router losses need (batch, length), to tell padding among the 8 tokens.",
    ),
}


def message_of(case: str) -> str:
    with pytest.raises(ValueError) as caught:
        CASES[case][0]()
    return str(caught.value)


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named(case):
    assert message_of(case).startswith(CASES[case][1])


@pytest.mark.parametrize("use_cache", [True, False])
def test_learned_positions_serve_to_the_last(use_cache):
    """The last token is never read. Padding takes no position."""
    model, settings = tiny_model(**GPT2), {"max_new_tokens": 7, "do_sample": False, "use_cache": use_cache}
    ids, mask = random_ids(1, 90), torch.ones(1, 90, dtype=torch.long)
    alone = generate(model, ids, **settings)
    padded = generate(
        model,
        torch.nn.functional.pad(ids, (6, 0), value=3),
        attention_mask=torch.nn.functional.pad(mask, (6, 0)),
        **settings,
    )
    assert alone.shape == (1, 97) and padded[0, 6:].tolist() == alone[0].tolist()
    embeds = model.get_input_embeddings()(ids)
    assert model.generate(inputs_embeds=embeds, **settings, pad_token_id=0)[0].tolist() == alone[0, 90:].tolist()
    with pytest.raises(ValueError, match="reaches position 96, but max_position_embeddings=96 allows 0 to 95"):
        generate(model, ids, **{**settings, "max_new_tokens": 8})


def test_a_target_that_is_padded_may_reach_the_last_position():
    model = tiny_translator(position_type="learned")
    target = torch.nn.functional.pad(random_ids(1, 3), (4, 0), value=1)
    mask = torch.tensor([[0] * 4 + [1] * 3])
    settings = {"decoder_input_ids": target, "decoder_attention_mask": mask, "eos_token_id": None}
    assert generate(model, **settings, max_new_tokens=94).shape == (1, 101)
    with pytest.raises(ValueError, match="reaches position 96, but max_position_embeddings=96"):
        generate(model, **settings, max_new_tokens=95)


@pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS.keys())
def test_settings_that_mean_something_are_taken(make):
    """The library's default of 50 best tokens, which nobody asked for, may be more than there are."""
    for settings in (
        {"top_k": 61},
        {"top_k": 0, "top_p": 1.0},
        {"top_k": 1, "temperature": 1e-3},
        {"num_beams": 2},
        {"do_sample": False, "temperature": 0.0},
    ):
        assert generate(make(), **{"do_sample": True, **settings}).shape[0] == 1
    assert generate(tiny_model(vocab_size=41), random_ids(1, 5, vocab_size=41), do_sample=True).shape == (1, 9)


def test_an_assistant_inherits_the_default_of_the_library():
    model = tiny_model(vocab_size=41)
    ids = random_ids(1, 5, vocab_size=41)
    assert generate(model, ids, do_sample=True, assistant_model=tiny_model(vocab_size=41, seed=1)).shape == (1, 9)


def test_the_ids_are_not_read_while_compiling():
    """A check that reads values would break the graph; the embedding kernel still refuses."""
    torch.compiler.reset()
    compiled = torch.compile(tiny_model(dtype=torch.float32), fullgraph=True, backend="eager")
    with pytest.raises(IndexError):
        compiled(torch.tensor([[3, 61]]))


def test_every_error_of_the_models_is_tested(tmp_path, monkeypatch):
    damaged_shards(tmp_path, truncate)
    with pytest.raises(OSError) as caught:
        TrineForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(RuntimeError) as too_late:
        filled_cache().crop(-1)
    with pytest.raises(RuntimeError, match="1 tokens are to be removed, but 0 were recorded") as not_recorded:
        tiny_model(attention_types="linear")(random_ids(1, 4), use_cache=True).past_key_values.crop(-1)
    outputs = tiny_model().train()(random_ids(1, 2), labels=random_ids(1, 2))
    with torch.no_grad():
        vars(outputs)["logits"].head.weight.mul_(2)
    with pytest.raises(RuntimeError, match="weights have changed") as read_too_late:
        outputs.to_tuple()
    messages = [
        str(read_too_late.value),
        str(not_recorded.value),
        str(caught.value),
        str(too_late.value),
        *(state_taken_back(), too_many_arguments(), masks_of_a_source(), *other_transformers(monkeypatch)),
        *map(message_of, CASES),
        *(message for _, message in model_errors().values()),
    ]
    places = unseen("modeling", messages)
    assert [place for place in places if not place.startswith(ELSEWHERE)] == []
