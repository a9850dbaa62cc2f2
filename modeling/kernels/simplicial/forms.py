"""Trilinear forms: how a query and a second key are composed into the one vector that meets the first key."""

# Shapes: D head size, in groups of D / parts features that lie side by side, as transformers' rotary pairs do.

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ....configuration.attention_costs import window_span
from ....configuration.choices import Choices


class Window(NamedTuple):
    """A window around a token: how many tokens it spans to the left and to the right, the token itself not counted."""

    left: int
    right: int

    @property
    def size(self) -> int:
        """Number of tokens in the window."""
        return self.left + self.right + 1

    def clip(self, queries: int, keys: int) -> "Window":
        """The part of the window that `queries` last tokens of `keys` tokens can use."""
        return Window(min(self.left, keys - 1), min(self.right, queries - 1))


def make_window(size: int, is_causal: bool) -> Window:
    """A window of `size` tokens: up to the token itself, or centred on it (even sizes lean left)."""
    return Window(*window_span(size, is_causal))


def hadamard(query: torch.Tensor, second_key: torch.Tensor) -> torch.Tensor:
    """The product of query and second key, feature by feature, (..., D)."""
    return query * second_key


def hadamard_vjp(query: torch.Tensor, second_key: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Gradients (..., D) of the product with respect to query and second key."""
    return grad * second_key, grad * query


def complex_product(query: torch.Tensor, second_key: torch.Tensor) -> torch.Tensor:
    """Query times conjugate second key (..., D), as complex numbers: real halves, then imaginary halves."""
    halves, second_halves = (states.view(*states.shape[:-1], 2, -1) for states in (query, second_key))
    second_real, second_imaginary = second_halves.chunk(2, dim=-2)
    real, imaginary = halves.chunk(2, dim=-2)
    turned = torch.cat((imaginary, -real), dim=-2)
    return torch.addcmul(halves * second_real, turned, second_imaginary).flatten(-2)


def complex_product_vjp(query: torch.Tensor, second_key: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Gradients (..., D) of the complex product with respect to query and second key."""
    real, imaginary = query.chunk(2, dim=-1)
    second_real, second_imaginary = second_key.chunk(2, dim=-1)
    grad_real, grad_imaginary = grad.chunk(2, dim=-1)
    query_grad = (
        grad_real * second_real - grad_imaginary * second_imaginary,
        grad_real * second_imaginary + grad_imaginary * second_real,
    )
    key_grad = (grad_real * real + grad_imaginary * imaginary, grad_real * imaginary - grad_imaginary * real)
    return torch.cat(query_grad, dim=-1), torch.cat(key_grad, dim=-1)


def cross_product(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Cross products (..., D) of D / 3 vectors (x, y, z), whose x, y and z are the thirds of the features."""
    x, y, z = first.chunk(3, dim=-1)
    a, b, c = second.chunk(3, dim=-1)
    return torch.cat((y * c - z * b, z * a - x * c, x * b - y * a), dim=-1)


def determinant(query: torch.Tensor, second_key: torch.Tensor) -> torch.Tensor:
    """The cross product of second key and query, whose dot product with a key is the determinant, (..., D)."""
    return cross_product(second_key, query)


def determinant_vjp(query: torch.Tensor, second_key: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Gradients (..., D) of the cross product with respect to query and second key."""
    return cross_product(grad, second_key), cross_product(query, grad)


@dataclass(frozen=True)
class TrilinearForm:
    """One trilinear form `<compose(q, k'), k>`.

    Attributes:
        compose: Maps queries and second keys (..., D), which broadcast, to (..., D).
        compose_vjp: Maps them and the gradient of the result to the gradients of both, not yet summed over what was
            broadcast.
        parts: Groups of features that the form mixes; D is a multiple of it.
        variance: Variance of a logit per feature, for independent entries of variance 1.
        unit: Value of each group in the second key with which composing is a multiple of the identity, and the logit
            at our scale that of dot-product attention; of mean square 1. None if there is no such key.
    """

    compose: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    compose_vjp: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]
    parts: int
    variance: int
    unit: tuple[float, ...] | None

    def scale(self, head_dim: int) -> float:
        """The factor on logits that gives them variance 1 for independent entries of variance 1."""
        return (self.variance * head_dim) ** -0.5


FORMS = Choices(
    "simplicial_form",
    {
        "hadamard": TrilinearForm(hadamard, hadamard_vjp, 1, 1, (1.0,)),
        "complex": TrilinearForm(complex_product, complex_product_vjp, 2, 2, (2**0.5, 0.0)),
        "determinant": TrilinearForm(determinant, determinant_vjp, 3, 2, None),
    },
)
