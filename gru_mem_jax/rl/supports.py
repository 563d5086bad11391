"""Supports: the sets of ids that tokens were drawn from.

A token of a constrained completion is drawn from a part of the ids, the row of a table
that `PackedRows.support` names. Its logprob is that among them, in the sampler and in
the learner: else the ratio of the two would not be one of probabilities of one event.
"""

from collections.abc import Sequence

import numpy as np

from gru_mem_jax.errors import InputError
from gru_mem_jax.rl.outcomes import Array
from gru_mem_jax.rl.packing import Conversation


def make_supports(vocab: int, *sets: Sequence[int]) -> np.ndarray:
    """A table by hand, bool [1 + len(sets), vocab]: all ids, then each of the sets.

    Raises:
      InputError: a set has no id, or one that is none.
    """
    table = np.zeros((1 + len(sets), vocab), bool)
    table[0] = True
    for row, ids in zip(table[1:], sets):
        for token in ids:
            if not 0 <= token < vocab:
                raise InputError(f"a support has id {token}, of {vocab} ids")
            row[token] = True
    return check_supports(table, vocab)


def check_supports(supports: Array, vocab: int) -> np.ndarray:
    """A table as numpy, bool [M, vocab].

    Raises:
      InputError: the first set is not of all ids, or one is empty; says which.
    """
    table = np.asarray(supports)
    if table.dtype != bool or table.ndim != 2 or table.shape[1] != vocab:
        raise InputError(
            f"a table of supports must be bool [M, {vocab}], got {table.dtype} "
            f"{list(table.shape)}"
        )
    if not len(table) or not table[0].all():
        raise InputError("the first support must be of all ids")
    for number in np.flatnonzero(~table.any(axis=1)):
        raise InputError(f"support {number} has no id: no token can be drawn from it")
    return table


def check_drawn(turns: Sequence[Conversation], supports: Array | None) -> None:
    """Whether sampled tokens are of the supports that they are said to come from.

    Args:
      turns: e.g. those of a file.
      supports: bool [M, V]; None: there is no table.

    Raises:
      InputError: a token cannot have been drawn from its support, or there is no such
        support; names the turn.
    """
    table = None if supports is None else np.asarray(supports)
    for turn in turns:
        if turn.supports is None:
            continue
        drawn = np.asarray(turn.supports)
        ids = np.asarray(turn.completion_ids)[drawn >= 0]
        drawn = drawn[drawn >= 0]
        if table is None:
            if drawn.size != len(turn.supports) or drawn.any():
                raise InputError(
                    f"{turn.name} was sampled with format constrained, and the run's "
                    "is free: set AgentConfig.format"
                )
            continue
        known = (drawn < table.shape[0]) & (ids < table.shape[1])
        if not known.all() or not table[drawn, ids].all():
            raise InputError(
                f"{turn.name} has a token that its support does not hold: it was "
                "sampled with another form of turns, or another tokenizer"
            )
