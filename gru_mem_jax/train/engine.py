"""The sampler of a run."""

from collections.abc import Callable
from typing import Any

from gru_mem_jax.sampling.engine import Engine


class HeldEngine:
    """One engine for a whole run.

    Args:
      make: from weights to an engine; called once, when it is first needed.
    """

    def __init__(self, make: Callable[[Any], Engine]):
        self._make = make
        self._engine: Engine | None = None

    def __call__(self, params: Any) -> Engine:
        """The engine with these weights, all that it held forgotten."""
        if self._engine is None:
            self._engine = self._make(params)
        else:
            self._engine.set_params(params)
        return self._engine
