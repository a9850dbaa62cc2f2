"""Images as tokens, patch by patch, and positions of rows and columns."""

import cmath
import math

import torch
from support.reference.positions import NoPositions
from support.reference.weights import Weights


def image_tokens(config, weights: Weights, image: torch.Tensor, hidden=()) -> torch.Tensor:
    """The vectors (T + N, hidden) of one image (C, Y, X): learned tokens, then patches row by row.

    Dosovitskiy et al. 2020, arXiv 2010.11929, equation 1; registers: arXiv 2309.16588. `hidden` are the numbers of
    patches that the mask token stands for.
    """
    size, rows, columns = config.patch_size, image.shape[1] // config.patch_size, image.shape[2] // config.patch_size
    tokens = []
    if config.use_cls_token:
        tokens.append(weights["cls_token"])
        if config.position_type == "learned":
            tokens[0] = tokens[0] + weights["position_embeddings"][0]
    if config.num_register_tokens:
        tokens += list(weights["register_tokens"])
    for row in range(rows):
        for column in range(columns):
            number = row * columns + column
            patch = image[:, row * size : (row + 1) * size, column * size : (column + 1) * size].reshape(-1)
            vector = weights["projection.weight"] @ patch + weights["projection.bias"]
            if number in hidden:
                vector = weights["mask_token"]
            if config.position_type == "learned":
                vector = vector + weights["position_embeddings"][int(config.use_cls_token) + number]
            if config.position_type == "sinusoidal":
                vector = vector + torch.cat([wave(row, len(vector) // 2), wave(column, len(vector) // 2)])
            tokens.append(vector)
    return torch.stack(tokens)


def wave(place: int, size: int) -> torch.Tensor:
    """Sine and cosine in turn, `size` numbers."""
    angles = [place / 10000 ** (2 * i / size) for i in range(size // 2)]
    return torch.tensor([f(angle) for angle in angles for f in (math.sin, math.cos)], dtype=torch.float64)


class GridRotaryPositions(NoPositions):
    """Heo et al. 2024, arXiv 2403.13298, section 3.1: of a head's complex numbers, features i and i + d/2, the first
    half turns with the row, the other with the column; frequency i is `base^(-4i/d)`.

    A position counts the tokens of an image `columns` patches wide; those before the patches, `prefix`, do not turn.
    """

    prefix = columns = 0

    def rotate(self, vector, position):
        base, half = self.config.rope_parameters["rope_theta"], len(vector) // 2
        number = position - self.prefix
        places = (0, 0) if number < 0 else divmod(number, self.columns)
        turns = [cmath.exp(1j * place * base ** (-i / (half // 2))) for place in places for i in range(half // 2)]
        turned = torch.complex(vector[:half], vector[half:]) * torch.tensor(turns)
        return torch.cat([turned.real, turned.imag])
