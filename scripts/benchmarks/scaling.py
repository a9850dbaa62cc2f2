"""How a cost grows with the length of the text: its exponent, and from which length on one way beats another."""

import math
import statistics
from collections.abc import Mapping, Sequence


Figures = Mapping[int, Sequence[float]]  # the measurements of each round by the number of tokens


def fit_exponent(costs: Mapping[int, float]) -> float:
    """The slope of log cost over log length by least squares: the e of a cost c * n**e. NaN below two lengths."""
    if len(costs) < 2:
        return math.nan
    lengths, logs = [math.log(length) for length in costs], [math.log(cost) for cost in costs.values()]
    return statistics.linear_regression(lengths, logs).slope


def exponents(figures: Figures, fit_from: int) -> list[float]:
    """The exponent of the medians over lengths from `fit_from` on, then the least and greatest of single rounds."""
    chosen = {length: values for length, values in figures.items() if length >= fit_from}
    rounds = min(map(len, chosen.values()), default=0)
    singles = [fit_exponent({length: values[index] for length, values in chosen.items()}) for index in range(rounds)]
    middle = fit_exponent({length: statistics.median(values) for length, values in chosen.items()})
    return [middle, min(singles, default=math.nan), max(singles, default=math.nan)]


def faster_from(figures: Figures, other: Figures) -> int | None:
    """The length from which on the medians are below the other's, up to the longest that both have, or None."""
    start = None
    for length in sorted(figures.keys() & other.keys(), reverse=True):
        if statistics.median(figures[length]) >= statistics.median(other[length]):
            break
        start = length
    return start


def variation(values: Sequence[float]) -> float:
    """The distance of the greatest from the least, as a share of the median."""
    return (max(values) - min(values)) / statistics.median(values)
