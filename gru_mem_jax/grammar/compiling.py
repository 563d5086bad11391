"""From the forms of completions and a tokenizer to a `TokenGrammar`."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.grammar.automaton import FORCED, TokenGrammar
from gru_mem_jax.grammar.forms import Form
from gru_mem_jax.grammar.states import States
from gru_mem_jax.grammar.token_texts import FREE, Tokenizer, TokenTexts


def compile_forms(
    forms: Mapping[str, Form], tags: Sequence[str], tokenizer: Tokenizer
) -> TokenGrammar:
    """The automaton of some forms, each of which begins at its own state.

    Args:
      forms: by name; a completion of each ends with the tokenizer's first stop id.
      tags: that free parts do not hold; each begins with its only "<" and ends with its
        only ">".
      tokenizer: of the policy.

    Raises:
      PolicyError: the tokenizer has no ids for a tag or a word, or none that tell two
        words apart; says which, in one line.
    """
    states = States(tags, TokenTexts(tokenizer), tokenizer, forms)
    starts = {name: states.enter(form) for name, form in forms.items()}
    states.follow()
    return _assembled(states, starts)


def form_tokens(grammar: TokenGrammar, start: int) -> int:
    """Most tokens of a completion that are not drawn in a segment, stop id included."""
    import numpy as np

    is_end = (grammar.next_state < 0).all(1)
    own = ((grammar.segment < 0) & ~is_end).astype(np.int32)
    most = own
    while True:
        after = np.where(grammar.next_state >= 0, most[grammar.next_state], 0).max(1)
        spent = np.where(grammar.exhausted >= 0, most[grammar.exhausted], 0)
        longer = own + np.maximum(after, spent)
        if np.array_equal(longer, most):
            return int(most[start])
        most = longer


def reached_segments(grammar: TokenGrammar, start: int) -> frozenset[int]:
    """The segments that a completion may draw in."""
    seen, front = {start}, [start]
    while front:
        state = front.pop()
        for after in {*grammar.next_state[state].tolist()} - seen - {-1}:
            seen.add(after)
            front.append(after)
    return frozenset(grammar.segment[list(seen)].tolist()) - {-1}


def _assembled(states: States, starts: Mapping[str, int]) -> TokenGrammar:
    """The arrays of the states."""
    import numpy as np

    made = [state for state in states.states if state is not None]
    kind_of = np.array(states.kind_of, np.int32)
    # Two tokens one of which is drawn must be told apart: each has a kind of its own.
    own: dict[int, int] = {}
    for token in (i for s in made if len(s.ids) > 1 for i, _ in s.ids):
        own.setdefault(token, states.num_kinds + len(own))
    table = np.full((len(made), states.num_kinds + len(own)), -1, np.int32)
    for row, state in zip(table, made):
        if state.kinds:
            row[: states.num_kinds] = state.kinds
            row[list(own.values())] = row[kind_of[list(own)]]
    drawn = table >= 0
    kind_of[list(own)] = list(own.values())
    sets = {np.ones(len(kind_of), bool).tobytes(): 0}
    support = np.full(len(made), FORCED, np.int32)
    forced = np.full(len(made), -1, np.int32)
    for number, state in enumerate(made):
        for token, after in state.ids:
            table[number, kind_of[token]] = after
        if state.kinds or len(state.ids) > 1:
            allowed = drawn[number][kind_of]
            allowed[[token for token, _ in state.ids]] = True
            support[number] = sets.setdefault(allowed.tobytes(), len(sets))
            if not allowed.any():
                raise PolicyError(
                    "the tokenizer cannot hold turns to a form: it has no token for "
                    f"free text; {FREE}"
                )
        elif state.ids:
            forced[number] = state.ids[0][0]
    # Tokens that do the same in every state are of one class.
    columns, classes = np.unique(table, axis=1, return_inverse=True)
    fields = {
        name: np.array([getattr(state, name) for state in made], np.int32)
        for name in ("segment", "exhausted", "gate", "opens")
    }
    arrays: dict[str, np.ndarray] = {
        "supports": np.stack([np.frombuffer(each, bool) for each in sets]),
        "support": support,
        "forced": forced,
        "next_state": np.ascontiguousarray(columns),
        "classes": classes.reshape(-1).astype(np.int32)[kind_of],
        **fields,
    }
    digest = hashlib.sha256(json.dumps(starts, sort_keys=True).encode())
    for name, array in arrays.items():
        digest.update(f"{name} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return TokenGrammar(**arrays, starts=dict(starts), digest=digest.hexdigest())
