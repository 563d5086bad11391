"""What a constrained completion may say, as an automaton over token ids.

The grammar of a turn is compiled from texts and a tokenizer by `grammar.compiling`;
the decode loop runs it on the device, one state for each row; `walk` runs it here. In
each state either one token is forced, or the next one is drawn from a set, the state's
support: everything but what would break the form, the two words of a gate, or the two
tokens of which one begins a part and the other has passed it by, empty.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.records import check_int, check_number

if TYPE_CHECKING:  # numpy is imported late: the agent is cheap to import
    import numpy as np

NUM_SEGMENTS = 2  # parts of a completion with a budget of their own
FORCED = -1
UPDATE, EXIT = 0, 1  # gates, and the thresholds' places


@dataclasses.dataclass(frozen=True, eq=False)
class TokenGrammar:
    """A deterministic automaton of N states over V token ids.

    From state s on token i it goes to `next_state[s, classes[i]]`: ids of one class are
    never told apart. A token that is drawn in a segment takes one of the segment's
    budget; where the next state is of a segment of which nothing is left, the row goes
    to its `exhausted` instead, from where the end of what is free there is forced.

    Attributes:
      supports: bool[M, V], sets of ids that may be drawn; the first is of all ids.
      support: int32[N], which of them a state draws from; -1: its token is forced.
      forced: int32[N], the id that must come; -1: it is drawn.
      next_state: int32[N, C], -1 where a token may not come.
      classes: int32[V].
      segment: int32[N], whose budget a token drawn here takes from; -1: none's.
      exhausted: int32[N], see above; -1 outside segments.
      gate: int32[N], UPDATE or EXIT where a gate is decided; -1 elsewhere.
      opens: int32[N], the id that opens the gate; -1 elsewhere.
      starts: the first state of each kind of completion.
      digest: equal for equal grammars.
    """

    supports: "np.ndarray"
    support: "np.ndarray"
    forced: "np.ndarray"
    next_state: "np.ndarray"
    classes: "np.ndarray"
    segment: "np.ndarray"
    exhausted: "np.ndarray"
    gate: "np.ndarray"
    opens: "np.ndarray"
    starts: Mapping[str, int]
    digest: str

    def padded_supports(self, vocab: int) -> "np.ndarray":
        """bool[M, vocab] for an embedding of more rows than there are ids."""
        import numpy as np

        padded = np.zeros((len(self.supports), vocab), bool)
        padded[:, : self.supports.shape[1]] = self.supports[:, :vocab]
        padded[0] = True
        return padded


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Constraint:
    """The form of one completion.

    Attributes:
      grammar: its automaton.
      start: the first state.
      budgets: most tokens of each segment.
      thresholds: of the update and the exit gate: the gate opens if its probability is
        at least so much; None: it is drawn as other tokens are.
    """

    grammar: TokenGrammar
    start: int
    budgets: tuple[int, int]
    thresholds: tuple[float | None, float | None] = (None, None)

    def __post_init__(self) -> None:
        check_int("start", self.start, 0, len(self.grammar.support) - 1)
        if len(self.budgets) != NUM_SEGMENTS or len(self.thresholds) != 2:
            raise InputError("a constraint has two budgets and two thresholds")
        for budget in self.budgets:
            check_int("budget", budget, 1, 1 << 30)
        for threshold in self.thresholds:
            if threshold is not None:
                check_number("threshold", threshold, 0, 1)


class Step(NamedTuple):
    """One token of a constrained completion.

    Attributes:
      support: which set it was drawn from; FORCED: it was not drawn.
      gate: UPDATE or EXIT if it decides a gate; -1: it decides none.
      opens: whether it opens that gate.
    """

    support: int
    gate: int
    opens: bool


def walk(constraint: Constraint, ids: Sequence[int]) -> list[Step]:
    """How each token of a completion came about.

    Raises:
      RunError: a token could not have come; says which.
    """
    grammar = constraint.grammar
    state, left = constraint.start, list(constraint.budgets)
    steps: list[Step] = []
    for place, token in enumerate(ids):
        forced = int(grammar.forced[state])
        support, gate = int(grammar.support[state]), int(grammar.gate[state])
        known = 0 <= token < len(grammar.classes)
        allowed = token == forced
        if forced < 0:
            allowed = known and bool(grammar.supports[support, token])
        after = int(grammar.next_state[state, grammar.classes[token]]) if known else -1
        if not allowed or after < 0:
            raise RunError(f"token {place}, id {token}, does not follow the grammar")
        if forced >= 0:
            support = FORCED
        steps.append(Step(support, gate, gate >= 0 and token == grammar.opens[state]))
        state = state_after(grammar, state, token, left)
    return steps


def state_after(grammar: TokenGrammar, state: int, token: int, left: list[int]) -> int:
    """The state after a token that may come.

    Args:
      grammar: of the state.
      state: that the token comes in.
      token: its id.
      left: tokens left of each segment; the token is taken from it.
    """
    segment = grammar.segment[state]
    if segment >= 0 and grammar.forced[state] < 0:
        left[segment] -= 1
    after = int(grammar.next_state[state, grammar.classes[token]])
    segment = grammar.segment[after]
    return after if segment < 0 or left[segment] > 0 else int(grammar.exhausted[after])
