"""Constrained rows of the decode loop: one step of the automata of their grammars.

`grammar.automaton.walk` does the same on the host, from the tokens. A row is in a state
of a grammar, -1 if it is free; from the state's support a token is drawn as ever, with
-inf for the logits of all others, unless one is forced or a threshold decides.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gru_mem_jax.sampling.draw import Draw

# Columns of the int32[S, 6] array that describes the forms of the rows. Two segments
# have tokens left, two gates have thresholds (floats by their bits; -1.0: none).
GRAMMAR, STATE, LEFT, THRESHOLDS = 0, 1, slice(2, 4), slice(4, 6)
FORM_WIDTH = 6

# Columns of `Tables.states`.
SUPPORT, FORCED, SEGMENT, EXHAUSTED, GATE, OPENS, CLOSES = range(7)
FREE = (0, -1, -1, -1, -1, -1, -1)  # what they say of a free row


class Tables(NamedTuple):
    """G grammars, each padded to N states, C classes and M supports.

    Attributes:
      supports: bool[G, M, V]; the first of each grammar is of all ids.
      states: int32[G, N, 7], columns as named above. As in `TokenGrammar`, but SUPPORT
        is 0 where a token is forced; CLOSES: the id that leaves a gate shut.
      next_states: int32[G, N, C].
      classes: int32[G, V].
    """

    supports: jax.Array
    states: jax.Array
    next_states: jax.Array
    classes: jax.Array


def table_shapes(
    vocab: int, grammars: int, states: int, classes: int, supports: int
) -> Tables:
    """Shapes and dtypes of tables for a vocabulary of V."""
    return Tables(
        jax.ShapeDtypeStruct((grammars, supports, vocab), jnp.bool_),
        jax.ShapeDtypeStruct((grammars, states, len(FREE)), jnp.int32),
        jax.ShapeDtypeStruct((grammars, states, classes), jnp.int32),
        jax.ShapeDtypeStruct((grammars, vocab), jnp.int32),
    )


class Form(NamedTuple):
    """Where the rows are in their grammars.

    Attributes:
      grammars: int32[S].
      thresholds: float32[S, 2], of the gates; below 0: none.
      states: int32[S]; -1: the row is free.
      left: int32[S, 2], of the segments' budgets.
    """

    grammars: jax.Array
    thresholds: jax.Array
    states: jax.Array
    left: jax.Array


def form(rows: jax.Array) -> Form:
    """The forms of rows, from int32[S, 6]."""
    thresholds = jax.lax.bitcast_convert_type(rows[:, THRESHOLDS], jnp.float32)
    return Form(rows[:, GRAMMAR], thresholds, rows[:, STATE], rows[:, LEFT])


def constrained_draw(
    tables: Tables,
    form: Form,
    active: jax.Array,
    logits: jax.Array,
    draw: Callable[[jax.Array], Draw],
) -> tuple[Draw, Form]:
    """One token per row, and the forms after it.

    Args:
      tables: of the rows' grammars.
      form: of the rows.
      active: bool[S]; the form of any other row stays as it is.
      logits: float32[S, V].
      draw: draws a token per row from logits; those of free rows are not changed.
    """
    now = _entries(tables, form.grammars, form.states)
    allowed = tables.supports[form.grammars, now[:, SUPPORT]]
    logits = jnp.where(allowed, logits, -jnp.inf)
    drawn = _forced(now, _decided(now, form.thresholds, logits, draw(logits)))
    return drawn, _after(tables, form, active, now, drawn.tokens)


def _entries(tables, grammars, states):
    """What the tables say of each row's state, int32[S, 7]."""
    found = tables.states[grammars, jnp.maximum(states, 0)]
    return jnp.where(states[:, None] < 0, jnp.asarray([FREE], jnp.int32), found)


def _decided(now, thresholds, logits, drawn):
    """The draw, with gates that have a threshold decided by it."""
    gate = now[:, GATE]
    place = jnp.maximum(gate, 0)[:, None]
    threshold = jnp.take_along_axis(thresholds, place, axis=-1)[:, 0]
    decided = (gate >= 0) & (threshold >= 0)
    words = jnp.maximum(now[:, OPENS : CLOSES + 1], 0)
    opening, closing = jnp.take_along_axis(logits, words, axis=-1).T
    odds = jnp.where(decided, opening - closing, 0.0)
    opens = jax.nn.sigmoid(odds) >= threshold  # P(open) of two words
    token = jnp.where(opens, words[:, 0], words[:, 1])
    logprob = jax.nn.log_sigmoid(jnp.where(opens, odds, -odds))
    return Draw(
        jnp.where(decided, token, drawn.tokens),
        jnp.where(decided, logprob, drawn.logprobs),
        jnp.where(decided, 0.0, drawn.sampling_logprobs),
    )


def _forced(now, drawn):
    """The draw, with forced tokens in place of drawn ones."""
    forced = now[:, FORCED] >= 0
    return Draw(
        jnp.where(forced, now[:, FORCED], drawn.tokens),
        jnp.where(forced, 0.0, drawn.logprobs),
        jnp.where(forced, 0.0, drawn.sampling_logprobs),
    )


def _after(tables, form, active, now, tokens):
    """The forms after a token of each active row."""
    grammars, states, segment = form.grammars, form.states, now[:, SEGMENT]
    classes = tables.classes[grammars, tokens]
    after = tables.next_states[grammars, jnp.maximum(states, 0), classes]
    after = jnp.where(states < 0, -1, after)
    counts = active & (segment >= 0) & (now[:, FORCED] < 0)
    segments = jnp.arange(form.left.shape[1])[None]
    left = form.left - (counts[:, None] & (segment[:, None] == segments))
    then = _entries(tables, grammars, after)
    spent = ((then[:, SEGMENT, None] == segments) & (left <= 0)).any(-1)
    after = jnp.where(spent, then[:, EXHAUSTED], after)
    return form._replace(states=jnp.where(active, after, states), left=left)
