"""Dimension names, and shape checks that run while a function is traced.

One letter per dimension, the same everywhere:

  P  questions in a batch         T  chunks of a context      V  vocabulary
  G  rollouts of one question     K  turns of a trajectory    D  model width
  B  rows of a batch              L  tokens of a row          N  layers
  S  slots of the sampler         C  cache length             F  feed-forward width
  Q  query heads                  H  head dimension

In attention code `K` is the number of key/value heads and `G` the query heads that
share one of them, as in the literature on grouped-query attention.
"""

from typing import Any


def check_shape(name: str, array: Any, shape: tuple[int | None, ...]) -> None:
    """Raises ValueError unless `array` has `shape`; None matches any size.

    Costs nothing in a compiled program: shapes are known while tracing.
    """
    actual = tuple(array.shape)
    fits = len(actual) == len(shape) and all(
        want is None or want == got for want, got in zip(shape, actual)
    )
    if not fits:
        wanted = ", ".join("_" if d is None else str(d) for d in shape)
        raise ValueError(f"{name}: expected shape ({wanted}), got {actual}")
