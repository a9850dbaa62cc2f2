"""Continuous batching gives what `generate` gives, request by request, for every layer that it serves."""

import pytest
import torch
from support.tiny import SPARSE, random_ids, tiny_model
from transformers import ContinuousBatchingConfig, GenerationConfig

from trine import TrineRecurrentConfig, TrineRecurrentForConditionalGeneration
from trine.modeling.checks.batching import CPU_CACHE


SETTINGS = {"page_size": 4, "num_blocks": 96, "max_batch_tokens": 48}
CASES = {
    "full": {},
    "sliding": {"attention_types": "sliding", "sliding_window": 5},
    "mixed": {"num_hidden_layers": 3, "attention_types": "sliding, full, sliding", "sliding_window": 6},
    "learned": {"position_type": "learned"},
    "sinusoidal, post-norm": {"position_type": "sinusoidal", "norm_position": "post"},
    "experts": SPARSE,
}
# One token, around a page and the windows, and more than a batch holds: that prompt is read in parts.
LENGTHS = (1, 3, 4, 5, 9, 17, 60)


def expected_of(model, prompts: list[list[int]], settings: GenerationConfig) -> list[list[int]]:
    return [
        model.generate(torch.tensor([prompt]), generation_config=settings)[0, len(prompt) :].tolist()
        for prompt in prompts
    ]


# What `eager` computes in pages differs from `sdpa` by kind of layer, and in nothing else.
@pytest.mark.parametrize(
    ("case", "attn"), [*((case, "sdpa") for case in CASES), ("full", "eager"), ("mixed", "eager")]
)
def test_it_equals_generate(case, attn):
    """With fewer places than requests, so that some begin when others end."""
    model = tiny_model(dtype=torch.float32, attn=attn, scale=2.0, **CASES[case])
    prompts = [random_ids(length, seed=length).tolist() for length in LENGTHS]
    settings = GenerationConfig(max_new_tokens=14, do_sample=False, eos_token_id=5, pad_token_id=0)
    outputs = model.generate_batch(
        prompts,
        generation_config=settings,
        continuous_batching_config=ContinuousBatchingConfig(**SETTINGS, max_requests_per_batch=4),
    )
    assert [output.generated_tokens for output in outputs.values()] == expected_of(model, prompts, settings)
    assert all(output.error is None for output in outputs.values())
    assert model.config._attn_implementation == attn, "it is as before"


def test_requests_share_a_prefix_and_ask_for_different_lengths():
    model = tiny_model(dtype=torch.float32, attn="sdpa", scale=2.0)
    prefix = random_ids(11).tolist()
    requests = [(prefix + random_ids(length, seed=length).tolist(), 3 * length) for length in (1, 2, 5)]
    settings = GenerationConfig(max_new_tokens=1, do_sample=False, eos_token_id=-1)
    with model.continuous_batching_context_manager(
        generation_config=settings, continuous_batching_config=ContinuousBatchingConfig(**SETTINGS)
    ) as manager:
        names = [manager.add_request(prompt, max_new_tokens=length) for prompt, length in requests]
        done = {}
        while len(done) < len(requests):
            result = manager.get_result(timeout=10)
            assert result is not None
            done[result.request_id] = result.generated_tokens
    for name, (prompt, length) in zip(names, requests, strict=True):
        one = GenerationConfig(max_new_tokens=length, do_sample=False, pad_token_id=0)
        assert done[name] == expected_of(model, [prompt], one)[0]
        assert len(done[name]) == length


def test_on_a_cpu_the_cache_is_bounded():
    """The library would take nearly all of the memory."""
    model = tiny_model(dtype=torch.float32, attn="sdpa", scale=2.0)
    prompts = [[7, 8, 9], [10]]
    settings = GenerationConfig(max_new_tokens=3, do_sample=False, eos_token_id=-1, pad_token_id=0)
    outputs = model.generate_batch(prompts, generation_config=settings)
    assert [output.generated_tokens for output in outputs.values()] == expected_of(model, prompts, settings)
    given = ContinuousBatchingConfig(max_batch_tokens=32)
    manager = model.init_continuous_batching(settings, given)
    assert given.num_blocks is None, "what was given is not changed"
    made = manager.continuous_batching_config
    assert (made.num_blocks, made.max_batch_tokens) == (CPU_CACHE["num_blocks"], 32)


def test_recurrent_models_are_refused():
    """The other refusals stand among the errors of the models, in tests/modeling/test_errors.py."""
    model = TrineRecurrentForConditionalGeneration(TrineRecurrentConfig(vocab_size=61, hidden_size=8))
    with pytest.raises(ValueError, match="model_type='trine_recurrent' has is_encoder_decoder=True"):
        model.generate_batch([[3, 4]])
