"""The grammars that an engine has met, and the forms of its rows. Host side."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np

from gru_mem_jax.errors import InputError
from gru_mem_jax.grammar.automaton import Constraint, TokenGrammar
from gru_mem_jax.sampling import constraints
from gru_mem_jax.sampling.constraints import Tables
from gru_mem_jax.sampling.programs import Programs

Constraints = Iterable[Constraint | None]

MOST_GRAMMARS = 8  # more only while so many rows run that each need another


class Forms:
    """Which rows are constrained, and the tables that the decode loop needs for them.

    Sizes are powers of two and never shrink, so that few programs are compiled.

    Args:
      programs: that take the tables.
      slots: S, rows of the decode program.

    Attributes:
      rows: int32[S, 6], see `constraints`.
    """

    def __init__(self, programs: Programs, slots: int):
        self._programs = programs
        self._places: OrderedDict[str, int] = OrderedDict()  # by digest
        self._grammars: list[TokenGrammar] = []
        self._least = (1, 1, 1, 1)
        self._tables: Tables | None = None
        self.rows = np.zeros((slots, constraints.FORM_WIDTH), np.int32)
        self.rows[:, constraints.STATE] = -1

    def hold(self, grammar: TokenGrammar) -> int:
        """The place of a grammar in the tables, which have it from now on.

        Where they have no room the one that was used longest ago leaves.
        """
        place = self._places.get(grammar.digest)
        if place is None:
            place = self._room()
            self._grammars[place : place + 1] = [grammar]
            self._places[grammar.digest] = place
            self._tables = None
        self._places.move_to_end(grammar.digest)
        return place

    def give(self, slot: int, constraint: Constraint | None) -> None:
        """Gives a slot to a request."""
        if constraint is None:
            self.release(slot)
            return
        row = np.zeros(constraints.FORM_WIDTH, np.int32)
        row[constraints.GRAMMAR] = self.hold(constraint.grammar)
        row[constraints.STATE] = constraint.start
        row[constraints.LEFT] = constraint.budgets
        thresholds = [-1.0 if t is None else t for t in constraint.thresholds]
        row[constraints.THRESHOLDS] = np.asarray(thresholds, np.float32).view(np.int32)
        self.rows[slot] = row

    def release(self, slot: int) -> None:
        """Frees a slot."""
        self.rows[slot, constraints.STATE] = -1

    def take(self, result: np.ndarray, active: np.ndarray) -> None:
        """Keeps where a decode block has left its rows.

        Args:
          result: int32[3, S] of `sampler.decode`, or [0, S] if no row is constrained.
          active: the slots that it was given and that still run.
        """
        if len(result):
            state, *left = result[:, active]
            self.rows[active, constraints.STATE] = state
            self.rows[active, constraints.LEFT] = np.stack(left, 1)

    def arguments(self) -> tuple[tuple[int, ...], tuple[Any, ...]]:
        """Sizes of the tables, and what the decode program takes for these rows.

        Both are empty if all rows are free.
        """
        if (self.rows[:, constraints.STATE] < 0).all():
            return (), ()
        if self._tables is None:
            self._tables = self._programs.replicate(self._made())
        # A copy: it is read later, and a row may be released before.
        return self._sizes(), (self.rows.copy(), self._tables)

    def sizes_of(self, constraints: Constraints) -> list[tuple[int, ...]]:
        """Sizes of the tables that rows to come need; those of free rows are empty."""
        kinds = list(constraints)
        grammars = [kind.grammar for kind in kinds if kind is not None]
        for grammar in grammars:
            self.hold(grammar)
        free: list[tuple[int, ...]] = [()] if None in kinds else []
        return [*free, self._sizes()] if grammars else free

    def _sizes(self) -> tuple[int, ...]:
        """G, N, C and M of `Tables`."""
        found = (
            len(self._grammars),
            max(len(g.support) for g in self._grammars),
            max(g.next_state.shape[1] for g in self._grammars),
            max(len(g.supports) for g in self._grammars),
        )
        powers = (1 << (size - 1).bit_length() for size in found)
        self._least = tuple(map(max, powers, self._least))
        return self._least

    def _room(self) -> int:
        """A place for a new grammar, of those that no row uses."""
        if len(self._grammars) >= MOST_GRAMMARS:
            running = self.rows[self.rows[:, constraints.STATE] >= 0]
            used = set(running[:, constraints.GRAMMAR].tolist())
            for digest, place in self._places.items():
                if place not in used:
                    del self._places[digest]
                    return place
        return len(self._grammars)

    def _made(self) -> Tables:
        vocab = self._programs.vocab
        shapes = constraints.table_shapes(vocab, *self._sizes())
        made = Tables(*(np.zeros(leaf.shape, leaf.dtype) for leaf in shapes))
        made.supports[:, 0] = True  # free rows read it, whichever grammars there are
        for place, grammar in enumerate(self._grammars):
            supports = grammar.padded_supports(vocab)
            number, width = grammar.next_state.shape
            made.supports[place, : len(supports)] = supports
            made.states[place, :number] = _states(grammar)
            made.next_states[place, :number, :width] = grammar.next_state
            made.classes[place, : len(grammar.classes)] = grammar.classes
        return made


def check_grammar(grammar: TokenGrammar, vocab: int) -> None:
    """Raises InputError if a policy of so many embedding rows cannot draw by it."""
    ids = len(grammar.classes)
    if ids > vocab:
        raise InputError(
            f"the constraint is of {ids} token ids, but the policy's embedding has "
            f"{vocab} rows: is the tokenizer the policy's own?"
        )
    if ids < vocab and ((grammar.support == 0) & (grammar.forced < 0)).any():
        raise InputError(
            f"the constraint draws from all of its {ids} token ids, and the policy's "
            f"embedding has {vocab} rows: give that state a support of its own"
        )
    gates = grammar.support[grammar.gate >= 0]
    if (grammar.supports[gates].sum(-1) != 2).any() or (gates < 0).any():
        raise InputError("a gate of the constraint is not decided between two ids")


def _states(grammar: TokenGrammar) -> np.ndarray:
    """Columns of `Tables.states`, int32[N, 7]."""
    support = np.where(grammar.forced >= 0, 0, grammar.support)
    closes = np.full_like(support, -1)
    for state in np.flatnonzero(grammar.gate >= 0):
        words = np.flatnonzero(grammar.supports[support[state]])
        closes[state] = next(i for i in words if i != grammar.opens[state])
    columns = (
        support,
        grammar.forced,
        grammar.segment,
        grammar.exhausted,
        grammar.gate,
        grammar.opens,
        closes,
    )
    return np.stack(columns, 1).astype(np.int32)
