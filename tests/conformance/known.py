"""The tests that our models skip or fail although their peer passes, each with its reason.

A row is a pattern of test names, a condition on the case, and the reason. A test that a row names must not pass: a row
that is no longer needed makes the run fail, and so does a skip without a row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch

from conformance.cases import Case


@dataclass(frozen=True)
class Known:
    """One exception: `test` is a shell pattern."""

    test: str
    applies: Callable[[Case], bool]
    reason: str


def is_dense(case: Case) -> bool:
    return "sparse" not in case.fields.get("mlp_layer_types", ())


def is_not_rotary(case: Case) -> bool:
    return case.fields.get("position_type", "rope") != "rope"


KNOWN = (
    Known("test_output_router_logits_from_config", is_dense, "a model without experts has no router logits"),
    Known(
        "test_eager_matches_batched_and_grouped_inference*",
        is_dense,
        "the test asks the class, and one class serves models with and without experts",
    ),
    Known("test_model_rope_*", is_not_rotary, "the case has no rotary positions, although the config has the field"),
    Known(
        "test_*tp_plan*",
        lambda case: case.fields.get("position_type") == "relative",
        "relative positions have no tensor-parallel plan: each process would need the bias of its own heads only",
    ),
    Known(
        "test_reverse_loading_mapping",
        lambda case: case.peer == "Mixtral",
        "checkpoints hold the experts fused, as the library computes with them, so loading converts nothing",
    ),
    Known(
        "test_can_load_from_already_mapped_keys",
        lambda case: case.peer == "Mixtral",
        "checkpoints hold the experts fused, as the library computes with them, so loading converts nothing",
    ),
)


def reason_for(case: Case, test: str) -> str | None:
    """Return why `test` may skip or fail for `case`, or None."""
    if case.peer is None:
        return None
    return next((known.reason for known in KNOWN if fnmatch(test, known.test) and known.applies(case)), None)
