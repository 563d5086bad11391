"""Grammars over few ids, by hand and at random, for tests of constrained rows."""

import numpy as np

from gru_mem_jax.grammar.automaton import EXIT, UPDATE, TokenGrammar


class Builder:
    """Collects states; `grammar` makes a TokenGrammar of them.

    A state is a dict of `forced` or `draws` (ids), of `to` (a state, or a dict from ids
    to states with None for the others), and of segment, exhausted, gate, opens.
    """

    def __init__(self, vocab: int):
        self.vocab = vocab
        self.states: list[dict] = []

    def add(self, **state) -> int:
        self.states.append(state)
        return len(self.states) - 1

    def grammar(self, **starts: int) -> TokenGrammar:
        number, vocab = len(self.states), self.vocab
        supports = [np.ones(vocab, bool)]
        columns = {
            name: np.full(number, -1, np.int32)
            for name in ("support", "forced", "segment", "exhausted", "gate", "opens")
        }
        edges = np.full((number, vocab), -1, np.int32)
        for place, state in enumerate(self.states):
            for name in set(columns) & set(state):
                columns[name][place] = state[name]
            ids = [state["forced"]] if "forced" in state else list(state["draws"])
            to = state["to"] if isinstance(state["to"], dict) else {None: state["to"]}
            for i in ids:
                edges[place, i] = to.get(i, to.get(None))
            if "forced" not in state:
                support = np.isin(np.arange(vocab), ids)
                found = [n for n, s in enumerate(supports) if (s == support).all()]
                columns["support"][place] = (found or [len(supports)])[0]
                supports += [] if found else [support]
        next_state, classes = np.unique(edges, axis=1, return_inverse=True)
        return TokenGrammar(
            supports=np.stack(supports),
            next_state=next_state,
            classes=classes.reshape(-1).astype(np.int32),
            starts=starts,
            digest=repr(self.states),
            **columns,
        )


def turn_grammar(vocab: int = 101, tags: int = 10, stop: int = 9) -> TokenGrammar:
    """As a gated turn: <thought> tags, a gate, perhaps <memory> tags, a gate, stop.

    Ids from `tags` on are text; 0 ends a segment, 2 and 3, 4 and 5 are the gates'
    words, where the first opens.
    """
    b, text = Builder(vocab), range(tags, vocab)
    b.states = [{} for _ in range(10)]
    first, thought, shut, check, opened, memory, closed, nexts, last, end = range(10)
    b.states[first] = {"forced": 1, "to": thought}
    for segment, state, by, then in (
        (0, thought, shut, check),
        (1, memory, closed, nexts),
    ):
        ends = {"segment": segment, "exhausted": by}
        b.states[state] = {"draws": [0, *text], "to": {0: then, None: state}, **ends}
        b.states[by] = {"forced": 0, "to": then}
    gates = ((check, UPDATE, 2, 3, opened), (nexts, EXIT, 4, 5, last))
    for state, gate, opens, closes, to in gates:
        shut_to = nexts if gate == UPDATE else last
        b.states[state] = {
            "draws": [opens, closes],
            "to": {opens: to, closes: shut_to},
            "gate": gate,
            "opens": opens,
        }
    b.states[opened] = {"forced": 6, "to": memory}
    b.states[last] = {"forced": stop, "to": end}
    b.states[end] = {"forced": stop, "to": end}
    return b.grammar(turn=first)


def random_grammar(rng: np.random.Generator, vocab: int, number: int) -> TokenGrammar:
    """Any automaton: states forced, free, in segments and at gates, edges anywhere.

    The ends of segments are states outside any.
    """
    b = Builder(vocab)
    outside = [int(s) for s in rng.permutation(number)[: 1 + number // 3]]
    for place in range(number):
        kind = rng.choice(["forced", "drawn", "gate", "segment", "segment"])
        to = {None: int(rng.integers(number))}
        if kind == "forced" or (kind == "segment" and place in outside):
            b.add(forced=int(rng.integers(vocab)), to=to)
            continue
        size = 2 if kind == "gate" else int(rng.integers(1, vocab + 1))
        ids = [int(i) for i in rng.permutation(vocab)[:size]]
        to |= {i: int(rng.integers(number)) for i in ids if rng.random() < 0.5}
        more = {}
        if kind == "gate":
            more = {"gate": int(rng.integers(2)), "opens": ids[0]}
        if kind == "segment":
            exhausted = int(rng.choice(outside))
            more = {"segment": int(rng.integers(2)), "exhausted": exhausted}
        b.add(draws=ids, to=to, **more)
    return b.grammar(any=int(rng.integers(number)))
