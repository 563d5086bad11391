"""The states of a grammar, made from the forms' ends to their beginnings.

Forced text between two free parts is encoded as one piece, since that is how it stands
in the turns that a policy is trained on. Where words are to be chosen, their pieces
share a front; the token after it decides.

A token of a free part may complete the closing tag and hold the beginning of what is
forced after it ("></"): the rest is then encoded from there. Where the last token
before a free part would be another one if the part were empty ("<think></think>" holds
"></"), one of the two is drawn. From the state after the stop id nothing follows.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.grammar.forms import (
    Box,
    Choice,
    Form,
    Free,
    Lead,
    Text,
    encode_reply,
    free_parts,
    front,
    leads,
    split_tags,
)
from gru_mem_jax.grammar.matching import Braces, Tags
from gru_mem_jax.grammar.token_texts import FREE, Tokenizer, TokenTexts


class State(NamedTuple):
    """A state before it has its row in the arrays.

    Attributes:
      ids: next state by id, of a forced token or a gate.
      kinds: next state by kind of token, of a free part; -1: such a token is not drawn.
      segment, exhausted, gate, opens: as in TokenGrammar.
    """

    ids: tuple[tuple[int, int], ...] = ()
    kinds: tuple[int, ...] = ()
    segment: int = -1
    exhausted: int = -1
    gate: int = -1
    opens: int = -1


class _Way(NamedTuple):
    """Ids to be said, the choices made with them, and the state after them."""

    ids: tuple[int, ...]
    decisions: tuple[tuple[Choice, int], ...]
    after: int


_NEVER = 0  # the kind of tokens that no free part holds
_EMPTY = Choice(-1, ("an empty part", "text"), ((), ()))


class States:
    """All states, made from the forms' ends to their beginnings.

    Attributes:
      states: in order.
      kind_of: the kind of each id: tokens of one kind do the same in every free part.
      num_kinds: how many.
    """

    def __init__(
        self,
        tags: Sequence[str],
        texts: TokenTexts,
        tokenizer: Tokenizer,
        forms: Mapping[str, Form],
    ):
        self._tags, self._braces, self._texts = Tags(tags), Braces(), texts
        self._tag_names, self._tokenizer = tags, tokenizer
        self.states: list[State | None] = []
        self._same: dict[State, int] = {}
        self._entered: dict[tuple[Form, str, bool], int] = {}
        self._free: dict[tuple[Form, str], int] = {}
        self._unfollowed: list[tuple[Form, str, int]] = []
        self._end = self._add(State(ids=((tokenizer.stop_ids[0], -1),)))
        self.kind_of = self._kinds(
            [front(rest) for _, rest in free_parts([*forms.values()])]
        )
        self.num_kinds = len(self._tag_text)

    def _kinds(self, follows: Sequence[str]) -> list[int]:
        """Sets what tokens of each kind do, and returns the kind of each id."""
        plain = (".", ".")
        trims = [self._trims(i, follows) for i in range(self._tokenizer.vocab_size)]
        unsteady = [i for i, trim in enumerate(trims) if trim not in (plain, None)]
        self._texts.drop_unsteady(unsteady)
        for i in unsteady:
            trims[i] = self._trims(i, follows)
        found: dict[Any, int] = {None: _NEVER}
        kind_of = [found.setdefault(trim, len(found)) for trim in trims]
        known = list(found)[1:]
        self._tag_text = [None, *(trim[0] for trim in known)]
        self._box_text = [None, *(trim[1] for trim in known)]
        return kind_of

    def _trims(
        self, token: int, follows: Sequence[str]
    ) -> tuple[str, str | None] | None:
        """What a token does to a part with a closing tag, and to a box."""
        text = self._texts.texts[token]
        if text is None:
            return None
        # The format's control tokens, which are tags, have no place in an answer.
        tag = token in self._tokenizer.format_ids
        box = None if tag else self._braces.trimmed(text)
        return self._tags.trimmed(text, follows), box

    def _add(self, state: State) -> int:
        """The number of a state; equal states are one."""
        if state not in self._same:
            self._same[state] = len(self.states)
            self.states.append(state)
        return self._same[state]

    def enter(self, form: Form, said: str = "", spent: bool = False) -> int:
        """The state at the beginning of a form.

        Args:
          form: to be said.
          said: text of it that was said already.
          spent: whether it comes after free text whose budget is spent.
        """
        if (form, said, spent) not in self._entered:
            try:
                state = self._tree(self._ways(form, said, spent), 0)
            except PolicyError:  # empty parts cannot be told apart in time
                ways = self._ways(form, said, spent, empty=False)
                state = self._tree(ways, 0)
            self._entered[form, said, spent] = state
        return self._entered[form, said, spent]

    def _ways(
        self, form: Form, said: str, spent: bool, empty: bool = True
    ) -> list[_Way]:
        """The runs of ids up to free parts and ends, past parts that are empty too."""
        ways = []
        for lead in leads(form):
            ids = self._ids(lead.text.removeprefix(said), spent)
            if not lead.rest:
                ids = (*ids, self._tokenizer.stop_ids[0])
                ways.append(_Way(ids, lead.decisions, self._end))
                continue
            after = self._part(lead.rest, "")
            skipped = self._skipping(lead, said, spent, ids) if empty else []
            decided = (*lead.decisions, *([(_EMPTY, 1)] if skipped else []))
            ways.append(_Way(ids, decided, after))
            for way in skipped:
                decisions = (*lead.decisions, (_EMPTY, 0), *way.decisions)
                ways.append(way._replace(decisions=decisions))
        return ways

    def _skipping(
        self, lead: Lead, said: str, spent: bool, ids: tuple[int, ...]
    ) -> list[_Way]:
        """The ways past an empty free part, if they part with `ids` at its last id."""
        part = lead.rest[0]
        if not isinstance(part, Free) or not ids:
            return []
        whole = (Text(lead.text + part.closing), *lead.rest[1:])
        ways = self._ways(whole, said, spent)
        last = len(ids) - 1
        parts = (w.ids[:last] == ids[:last] and w.ids[last:][:1] for w in ways)
        return ways if all(p and p != ids[last:] for p in parts) else []

    def _tree(self, ways: list[_Way], at: int) -> int:
        """The state from which one of several runs of ids is to be said."""
        same = 0
        runs = [way.ids[at:] for way in ways]
        while all(len(r) > same and r[same] == runs[0][same] for r in runs):
            same += 1
        state = ways[0].after if len(ways) == 1 else self._gate(ways, at + same)
        for token in reversed(runs[0][:same]):
            state = self._add(State(ids=((token, state),)))
        return state

    def _gate(self, ways: list[_Way], at: int) -> int:
        """The state in which a token decides a choice, or that a part is empty."""
        depth = 0
        while len({way.decisions[depth][1] for way in ways}) == 1:
            depth += 1
        choice = ways[0].decisions[depth][0]
        sides = [[w for w in ways if w.decisions[depth][1] == i] for i in range(2)]
        first = [{w.ids[at] if len(w.ids) > at else -1 for w in side} for side in sides]
        if -1 in first[0] | first[1] or len(first[0]) > 1 or len(first[1]) > 1:
            self._refuse_words(choice, "the ids of one begin with those of the other")
        tokens = [tokens.pop() for tokens in first]
        if tokens[0] == tokens[1]:
            self._refuse_words(choice, "no token tells them apart")
        after = [self._tree(side, at + 1) for side in sides]
        opens = tokens[0] if choice.gate >= 0 else -1
        return self._add(
            State(ids=tuple(zip(tokens, after)), gate=choice.gate, opens=opens)
        )

    def _refuse_words(self, choice: Choice, why: str) -> None:
        raise PolicyError(
            f"the tokenizer cannot hold turns to a form: of the words "
            f"{choice.words[0]!r} and {choice.words[1]!r} {why}; {FREE}"
        )

    def _ids(self, text: str, spent: bool) -> tuple[int, ...]:
        ids = encode_reply(self._tokenizer, self._tag_names, text)
        if not self._texts.check(ids, text, spent):
            raise PolicyError(
                f"the tokenizer cannot hold turns to a form: "
                f"{self._fault(text, spent)!r} "
                f"does not come back from its ids; {FREE}"
            )
        return ids

    def _fault(self, text: str, spent: bool) -> str:
        """The first tag or word of a text that does not decode to itself."""
        for part in split_tags(self._tag_names, text):
            ids = encode_reply(self._tokenizer, self._tag_names, part)
            if part.strip() and not self._texts.check(ids, part, spent):
                return part
        return text

    # -- free parts --------------------------------------------------------------------

    def _part(self, form: Form, held: str) -> int:
        """The state of a form's first part, a free one, in which some text is held."""
        if (form, held) not in self._free:
            self._free[form, held] = len(self.states)
            self.states.append(None)
            self._unfollowed.append((form, held, len(self.states) - 1))
        return self._free[form, held]

    def follow(self) -> None:
        """Completes the states of free parts, and those that they lead to."""
        while self._unfollowed:
            form, held, number = self._unfollowed.pop()
            part = form[0]
            if isinstance(part, Free):
                texts, left = self._tag_text, part.closing
                if left.startswith(held):
                    left = left[len(held) :]
            elif isinstance(part, Box):
                texts, left = self._box_text, part.closing * (len(held) + 1)
            else:
                continue
            after = {text: self._after(form, held, text) for text in set(texts)}
            self.states[number] = State(
                kinds=tuple(after[text] for text in texts),
                segment=part.segment,
                exhausted=self.enter((Text(left), *form[1:]), spent=True),
            )

    def _after(self, form: Form, held: str, text: str | None) -> int:
        part, rest = form[0], form[1:]
        if text is None or isinstance(part, Text | Choice):
            return -1
        box = isinstance(part, Box)
        read = self._braces.read(held, text) if box else self._tags.read(held, text)
        if read is None:
            return -1
        if read.closed is None:
            return self._part(form, read.held)
        if read.closed != part.closing or not front(rest).startswith(read.rest):
            return -1
        return self.enter(rest, read.rest)
