"""A constraint to measure constrained rows by, without a tokenizer.

It has the form and about the size of a gated turn's: pieces of forced tokens, a thought
and a memory that end with an id or with their budgets, and two gates.
"""

import numpy as np

from gru_mem_jax.grammar.automaton import EXIT, UPDATE, Constraint, TokenGrammar

PIECE = 8  # forced tokens between two parts of a turn
OPENS, CLOSES, END, FORCED = range(4)  # ids, by place; others are text
TEXT, WORDS = 1, 2  # supports


def turn_constraint(vocab: int, new_tokens: int) -> Constraint:
    """A turn of about `new_tokens`, half of them forced, over `vocab` >= 4 ids."""
    budget = max(1, new_tokens // 4)
    grammar = _grammar(vocab)
    return Constraint(grammar=grammar, start=0, budgets=(budget, budget))


def _grammar(vocab: int) -> TokenGrammar:
    forced = {"forced": FORCED}
    thought, memory = ({"support": TEXT, "segment": segment} for segment in range(2))
    words = {"support": WORDS, "opens": OPENS}
    piece, end = [forced] * PIECE, {"forced": END}
    states: list[dict[str, int]] = []
    for part in (
        *(piece, [thought, end], piece, [{**words, "gate": UPDATE}]),
        *(piece, [memory, end], piece, [{**words, "gate": EXIT}], piece),
    ):
        states += part
    number = len(states)

    def column(name: str) -> np.ndarray:
        return np.asarray([state.get(name, -1) for state in states], np.int32)

    # On to the next state, the last one to itself; text goes on in its segment, and an
    # id that ends one comes behind the state that forces it.
    place = np.arange(number, dtype=np.int32)
    text = column("segment") >= 0
    next_state = np.repeat(np.minimum(place + 1, number - 1)[:, None], 4, 1)
    next_state[text] = place[text, None]
    next_state[text, END] = place[text] + 2
    classes = np.full(vocab, FORCED, np.int32)
    classes[: FORCED + 1] = range(FORCED + 1)
    supports = np.ones((3, vocab), bool)
    supports[TEXT, [OPENS, CLOSES]] = False
    supports[WORDS] = classes < END
    return TokenGrammar(
        supports=supports,
        support=column("support"),
        forced=column("forced"),
        next_state=next_state,
        classes=classes,
        segment=column("segment"),
        exhausted=np.where(text, place + 1, -1).astype(np.int32),
        gate=column("gate"),
        opens=column("opens"),
        starts={"turn": 0},
        digest=f"bench {vocab}",
    )
