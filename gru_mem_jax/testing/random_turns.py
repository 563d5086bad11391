"""Constrained completions without a model: each token drawn from what may come."""

import math
import random
from collections.abc import Callable, Sequence

import numpy as np

from gru_mem_jax.agent.requests import Completion, Request
from gru_mem_jax.errors import InputError
from gru_mem_jax.grammar.automaton import Constraint, state_after


def draw_constrained(
    constraint: Constraint, choose: Callable[[np.ndarray], int]
) -> list[tuple[int, int]]:
    """The ids of a completion to its end, each with how many might have come.

    Args:
      constraint: its form.
      choose: picks an id, given which ones may come, bool [V]; called where none is
        forced.
    """
    grammar, state = constraint.grammar, constraint.start
    left, draws = list(constraint.budgets), []
    while (grammar.next_state[state] >= 0).any():  # else it is the end
        token, count = int(grammar.forced[state]), 1
        if token < 0:
            allowed = grammar.supports[grammar.support[state]]
            token, count = choose(allowed), int(np.count_nonzero(allowed))
        draws.append((token, count))
        state = state_after(grammar, state, token, left)
    return draws


class RandomGenerator:
    """Completes constrained requests at random, all tokens that may come alike.

    What it draws for a request depends on the request's seed alone.

    Attributes:
      capacity: how many requests it states that it runs at once.
      requests: all that were submitted, in order.
    """

    capacity = 4

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._submitted: dict[int, tuple[Constraint, int]] = {}

    def submit(self, request: Request) -> int:
        """Queues a request.

        Raises:
          InputError: it is not constrained.
        """
        if request.constraint is None:
            raise InputError("RandomGenerator completes constrained requests only")
        self.requests.append(request)
        self._submitted[len(self.requests)] = (request.constraint, request.seed)
        return len(self.requests)

    def step(self) -> Sequence[tuple[int, Completion]]:
        """Ends one request."""
        if not self._submitted:
            return []
        handle = min(self._submitted)
        constraint, seed = self._submitted.pop(handle)
        rng = random.Random(seed)
        draws = draw_constrained(
            constraint, lambda allowed: int(rng.choice(np.flatnonzero(allowed)))
        )
        logprobs = tuple(-math.log(count) for _, count in draws)
        completion = Completion(
            ids=tuple(token for token, _ in draws),
            logprobs=logprobs,
            sampling_logprobs=logprobs,
            finish_reason="stop",
        )
        return [(handle, completion)]

    def cancel(self) -> None:
        """Drops all submitted requests."""
        self._submitted.clear()
