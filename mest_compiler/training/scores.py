"""What a run's scores mean, by the name of their metric: shares of right answers, or errors."""

from collections.abc import Iterable

from mest_compiler.losses.base import ACCURACY


def score_text(metric: str, score: float) -> str:
    """A score as a person reads it: an accuracy in per cent, an error as a number."""
    return f"{score:.2%}" if metric == ACCURACY else f"{score:#.4g}"


def best_of(metric: str, scores: Iterable[float]) -> float:
    """The highest accuracy, or the smallest error."""
    return max(scores) if metric == ACCURACY else min(scores)
