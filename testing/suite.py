"""All checks, and what runs them on a mechanism."""

import time
import warnings
from collections.abc import Callable, Collection
from typing import Any

import torch
from transformers.utils import logging

from .decoding import check_beams, check_cache, check_crop, check_static_cache
from .equality import check_equality, equal_kinds
from .layers import check_attributes, check_construction, check_gradients, check_initialization, check_oracle
from .results import Check, Difference, DoesNotApply, Result, describe_error
from .running import (
    check_checkpointing,
    check_compilation,
    check_cost,
    check_half_precision,
    check_overfitting,
)
from .sharing import check_saving, check_sharing
from .subjects import Subject, find_subjects
from .texts import check_causality, check_packing, check_padding, check_position_bias, check_reach


MIXERS = ("attention_types",)
LAYERED = ("attention_types", "mlp_layer_types", "router_type")
CHECKS = (
    Check(
        "construction",
        check_construction,
        "The class is made by (config, layer_idx), others by (config). The `forward` of attention returns (output, "
        "weights), with None where there are no weights, that of a feed-forward its output alone; and the output has "
        "the shape of the input, (B, N, hidden), for any batch and length, 1 too. Set `causal_only = True` on a "
        "mechanism that encoders cannot have.",
    ),
    Check(
        "initialization",
        check_initialization,
        "Fill each nn.Parameter and nn.Buffer in `initialize(self)`, after `super().initialize()`, with functions of "
        "torch.nn.init or transformers.initialization; what `__init__` alone fills is lost when tensors come later.",
    ),
    Check(
        "oracle",
        check_oracle,
        "Layer and oracle do not compute the same: compare them on two tokens and one head. Positions are none.",
        LAYERED,
    ),
    Check(
        "equality",
        check_equality,
        "Its row says that it `equals` a kind: it must have that kind's weights by their names, and `initialize` must "
        "leave all others such that they change nothing; or give `equals` a function that says when that holds.",
        ("attention_types", "mlp_layer_types"),
    ),
    Check(
        "gradients",
        check_gradients,
        "Look for detach(), no_grad(), .data and .item() in forward, and for a backward of your own. A parameter that "
        "nothing reads must go: distributed training waits for its gradient.",
    ),
    Check(
        "causality",
        check_causality,
        "A query sees later tokens: apply `visible` to scores before the softmax, or to weights after; normalise over "
        "no axis of tokens; scan from left to right.",
    ),
    Check(
        "reach",
        check_reach,
        "Tokens are not mixed, or an encoder looks to one side: read `self.is_causal`, or set `causal_only = True`.",
        MIXERS,
    ),
    Check(
        "padding",
        check_padding,
        "Use what the visibility says: `visible` in scores or weights (a softmax over nothing is NaN: fill with "
        "torch.finfo(dtype).min, of the dtype that the softmax has), or `is_token`, as in `without_padding`. "
        "Statistics of a text leave padding out.",
    ),
    Check(
        "packing",
        check_packing,
        "Texts of one row see each other: use `visible` or `visibility.segments`, and begin a state anew where a "
        "number changes, as `StateAttention.scan_apart` does.",
    ),
    Check(
        "position bias",
        check_position_bias,
        "Add `position_bias` to the scores in `mix` where it is not None; a mechanism without scores of pairs has no "
        "`cache_layer_classes`.",
        MIXERS,
    ),
    Check(
        "cache",
        check_cache,
        "Put into the cache all that later tokens need, after positions are applied, and count tokens in "
        "`cumulative_length`; with one new token, the state or keys before it must be those of the whole text. "
        "Write into no key or value in place. For NaN with padding, the hint of the check of padding holds.",
    ),
    Check(
        "beams",
        check_beams,
        "Name each tensor of the cache layer in `names`, its first axis the batch; or override `apply`, which "
        "reorder_cache, batch_repeat_interleave and batch_select_indices use.",
    ),
    Check(
        "crop",
        check_crop,
        "`remove(count)` must leave the cache as it was `count` tokens before. A state needs a record since the last "
        "crop, as in `ScannedCacheLayer`; or set `is_croppable = False` on the layer.",
    ),
    Check(
        "static cache",
        check_static_cache,
        "Keys of a static cache have empty places at the end, which `visible` hides, for a single query too: apply it "
        "whenever it is not None. So the last key is not the last query's: what depends on distances belongs into "
        "`position_bias`. Its `get_seq_length` is a tensor that `update` changes: add to it before.",
    ),
    Check(
        "attributes",
        check_attributes,
        "forward must not assign to self, or change a list, dictionary or buffer of it: keep what later tokens need "
        "in the cache, and pass the rest on as arguments.",
    ),
    Check(
        "half precision",
        check_half_precision,
        "Return the dtype of hidden_states: `.to(hidden_states.dtype)` after what is computed in float32; make new "
        "tensors with `dtype=` and `device=` of another. Exponentials, sums over tokens and norms want float32.",
    ),
    Check(
        "checkpointing",
        check_checkpointing,
        "forward is run twice: draw no random numbers beside dropout, and change nothing outside of it.",
    ),
    Check(
        "compilation",
        check_compilation,
        "No `if` on values of tensors, no .item(), .tolist() or boolean indexing in forward; take torch.where. Run "
        "TORCH_LOGS=graph_breaks to see the place.",
    ),
    Check(
        "overfitting",
        check_overfitting,
        "Training does not reduce the loss: look at the scale of initial values and of the output, which is added to "
        "the residual stream, and at parameters without gradients.",
    ),
    Check(
        "saving",
        check_saving,
        "`initialize` must fill with functions of torch.nn.init or transformers.initialization, which leave loaded "
        "weights alone; buffers that training changes must be persistent, others filled in `initialize`.",
    ),
    Check(
        "sharing",
        check_sharing,
        "The file may import torch, transformers, names of `trine` itself, the standard library, and files beside it "
        "by `from .name import`; what it needs must stand at its top.",
    ),
    Check("cost", check_cost, "", ("attention_types", "mlp_layer_types", "router_type")),
)

# Before the hint of a check whose difference is that of float32.
FLOAT32 = (
    "It computes in float32, where the models of the checks are float64: take "
    "torch.promote_types(x.dtype, torch.float32) in place of torch.float32. If it does not: "
)


def applicable(subject: Subject) -> list[Check]:
    """The checks that suit the kind of a mechanism."""
    scored = getattr(subject.row, "has_pair_scores", False)
    return [
        check
        for check in CHECKS
        if subject.field in check.kinds
        and (check.name != "position bias" or scored)
        and (check.name != "oracle" or subject.oracle is not None)
        and (check.name != "equality" or equal_kinds(subject))
    ]


def run_check(check: Check, subject: Subject) -> Result:
    """Runs one check, with a fixed seed, and no messages of transformers."""
    hint = check.hint
    start, level, has_bars = time.perf_counter(), logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            passed, detail = True, check.run(subject) or ""
    except DoesNotApply as error:
        passed, detail = None, str(error)
    except Difference as error:
        passed, detail, hint = False, str(error), FLOAT32 * error.is_rounding + check.hint
    except Exception as error:
        passed, detail = False, describe_error(error, subject.file)
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()
    return Result(check.name, passed, detail, hint if passed is False else "", time.perf_counter() - start)


def check_mechanism(
    what: Any,
    *,
    oracle: Callable[..., Any] | None = None,
    only: Collection[str] = (),
    skip: Collection[str] = (),
    progress: Callable[[str], None] | None = None,
    **fields: Any,
) -> list[Result]:
    """Runs the suite on a mechanism.

    Args:
        what: A registered class, its name, `FILE.py:CLASS`, or a `Subject`.
        oracle: See `Subject`.
        only: Names of checks; by default all that apply.
        skip: Names of checks that are left out.
        progress: Is called with the name of each check before it runs.
        fields: Config fields of the models that are made, for a mechanism that needs some.

    Returns:
        A row for each check. Where no model can be made, only the one that says so.

    Raises:
        ValueError: There is no such mechanism, or no such check.

    Example:
        >>> all(row.passed for row in check_mechanism("full", only=["construction", "causality"]))
        True
    """
    subjects = [what] if isinstance(what, Subject) else find_subjects(what, oracle, **fields)
    results = []
    for subject in subjects:
        for check in choose(subject, only, skip):
            if progress is not None:
                progress(check.name)
            results.append(run_check(check, subject))
            if check.name == "construction" and results[-1].passed is False:
                break
    return results


def choose(subject: Subject, only: Collection[str], skip: Collection[str]) -> list[Check]:
    """The checks of a mechanism that are asked for.

    Raises:
        ValueError: A name is that of no check.
    """
    names = [check.name for check in CHECKS]
    for name in (*only, *skip):
        if name not in names:
            raise ValueError(f"{name!r} is not one of the checks {names}.")
    return [check for check in applicable(subject) if check.name not in skip and (not only or check.name in only)]
