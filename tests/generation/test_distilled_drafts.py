"""Drafts by students: of any kind of attention they change no token, and sampling keeps its distribution."""

from itertools import product

import pytest
import torch
from support.tiny import random_ids, tiny_model

from trine.configuration.kinds import ATTENTION_KINDS
from trine.conversion import shrink
from trine.scripts.jobs.assistants import PassCounter, set_drafts


def student_of(teacher, **fields):
    student = shrink(teacher, 1, "first", None, fields).model.to(teacher.dtype).eval()
    set_drafts(student, 3)
    return student


def generate(model, ids, **settings):
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": 12, **settings}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("drafts", ATTENTION_KINDS)
@pytest.mark.parametrize("kind", ["full", "sliding", "linear"])
def test_a_student_of_another_kind_changes_no_token(kind, drafts):
    teacher, ids = tiny_model(attention_types=kind, attention_dropout=0.0), random_ids(1, 9)
    student = student_of(teacher, attention_types=drafts)
    expected, sequence = [], ids
    with torch.no_grad():
        for _ in range(12):
            expected.append(teacher(sequence, use_cache=False).logits[0, -1].argmax().item())
            sequence = torch.cat([sequence, torch.tensor([[expected[-1]]])], dim=1)
    with PassCounter(student) as counter:
        assert generate(teacher, ids, assistant_model=student) == expected
    assert counter.count > 0


def test_sampling_with_drafts_keeps_the_models_distribution():
    """Each pair of second and third tokens comes as often as the model's probabilities, written out, say."""
    same = {"vocab_size": 3, "scale": 1.5, "dtype": torch.float32, "pad_token_id": None}
    teacher, student = tiny_model(**same), tiny_model(**same, seed=5, num_hidden_layers=1)
    set_drafts(student, 3)
    ids, draws, temperature = torch.tensor([[0, 2, 1]]), 300, 0.7
    texts = torch.tensor(list(product(range(3), repeat=3)))

    def probabilities(model):
        with torch.no_grad():
            rows = torch.cat([ids.expand(27, -1), texts], dim=1)
            steps = (model(rows, use_cache=False).logits[:, 2:5].double() / temperature).softmax(-1)
        return steps.gather(2, texts[..., None]).prod(1).view(3, 9).sum(0)

    expected = probabilities(teacher)
    torch.manual_seed(0)
    settings = {"do_sample": True, "temperature": temperature, "top_k": 0, "max_new_tokens": 3}
    drawn = [generate(teacher, ids, assistant_model=student, **settings) for _ in range(draws)]
    counts = torch.bincount(torch.tensor(drawn) @ torch.tensor([0, 3, 1]), minlength=9).double()

    def chi_square(share):
        return (((counts - draws * share) ** 2) / (draws * share)).sum().item()

    assert chi_square(expected) < 26.12  # 8 degrees of freedom: one run in a thousand is above
    assert chi_square(probabilities(student)) > 100  # the student alone would write others
