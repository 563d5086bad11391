"""From the form of a completion and a tokenizer to a `TokenGrammar`.

A form is a sequence of parts: text that is forced, free text up to a closing tag, a
choice between two words, a box. Forced text between two free parts is encoded as one
piece, since that is how it stands in the turns that a policy is trained on. Where words
are to be chosen, their pieces share a front; the token after it decides.

A token of a free part may complete the closing tag and hold the beginning of what is
forced after it ("></", ">\n"): the rest is then encoded from there.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from gru_mem_jax.errors import PolicyError
from gru_mem_jax.grammar.automaton import FORCED, TokenGrammar
from gru_mem_jax.grammar.matching import Braces, Tags
from gru_mem_jax.grammar.token_texts import FREE, Tokenizer, TokenTexts

if TYPE_CHECKING:
    import numpy as np


class Text(NamedTuple):
    """Forced text."""

    text: str


class Free(NamedTuple):
    """Any text without a tag, up to its closing tag.

    Attributes:
      closing: the tag.
      segment: whose budget it takes from.
    """

    closing: str
    segment: int


class Box(NamedTuple):
    """Any text with balanced braces, at most MAX_DEPTH deep, and the closing brace."""

    segment: int
    closing: str = "}"


class Choice(NamedTuple):
    """One of two words; the last part of its form.

    Attributes:
      gate: which one is decided.
      words: the one that opens the gate, and the other.
      after: the rest of the form after each.
    """

    gate: int
    words: tuple[str, str]
    after: tuple["Form", "Form"]


Form = tuple[Union[Text, Free, Box, "Choice"], ...]


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
    states = _States(tags, TokenTexts(tokenizer), tokenizer, forms)
    starts = {name: states.enter(form) for name, form in forms.items()}
    states.follow()
    return _assembled(states, starts)


def form_tokens(grammar: TokenGrammar, start: int) -> int:
    """Most tokens of a completion that are not drawn in a segment, stop id included."""
    import numpy as np

    own = (grammar.segment < 0).astype(np.int32)
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


# -- states ----------------------------------------------------------------------------


class _Lead(NamedTuple):
    """A way through a form up to its next free part or its end.

    Attributes:
      text: that is said.
      decisions: the choices made on the way, and which word.
      rest: the form from the free part on; empty: it ends.
    """

    text: str
    decisions: tuple[tuple[Choice, int], ...]
    rest: Form


def _leads(form: Form) -> Iterator[_Lead]:
    text = ""
    for place, part in enumerate(form):
        if isinstance(part, Text):
            text += part.text
        elif isinstance(part, Choice):
            for i in range(2):
                for lead in _leads((Text(part.words[i]), *part.after[i])):
                    made = ((part, i), *lead.decisions)
                    yield _Lead(text + lead.text, made, lead.rest)
            return
        else:
            yield _Lead(text, (), form[place:])
            return
    yield _Lead(text, (), ())


def _front(form: Form) -> str:
    """The text with which a form begins, up to a choice."""
    text = ""
    for part in form:
        if not isinstance(part, Text):
            break
        text += part.text
    return text


def _parts(forms: Sequence[Form]) -> Iterator[tuple[Free | Box, Form]]:
    """All free parts of forms, and what follows each."""
    for form in forms:
        for place, part in enumerate(form):
            if isinstance(part, Choice):
                yield from _parts(part.after)
            elif not isinstance(part, Text):
                yield part, form[place + 1 :]


class _State(NamedTuple):
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


_NEVER = 0  # the kind of tokens that no free part holds


class _States:
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
        self.states: list[_State | None] = []
        self._same: dict[_State, int] = {}
        self._entered: dict[tuple[Form, str], int] = {}
        self._free: dict[tuple[Form, str], int] = {}
        self._unfollowed: list[tuple[Form, str, int]] = []
        self._end = self._add(_State(ids=((tokenizer.stop_ids[0], -1),)))
        self.kind_of = self._kinds(
            [_front(rest) for _, rest in _parts([*forms.values()])]
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

    def _add(self, state: _State) -> int:
        """The number of a state; equal states are one."""
        if state not in self._same:
            self._same[state] = len(self.states)
            self.states.append(state)
        return self._same[state]

    def enter(self, form: Form, said: str = "") -> int:
        """The state at the beginning of a form of which some text was said already."""
        if (form, said) not in self._entered:
            ways = []
            for lead in _leads(form):
                ids = self._ids(lead.text.removeprefix(said))
                after = self._part(lead.rest, "") if lead.rest else self._end
                if not lead.rest:
                    ids = (*ids, self._tokenizer.stop_ids[0])
                ways.append((ids, lead.decisions, after))
            self._entered[form, said] = self._tree(ways, 0)
        return self._entered[form, said]

    def _tree(self, ways: list[Any], at: int) -> int:
        """The state from which one of several runs of ids is to be said."""
        front = 0
        runs = [ids[at:] for ids, _, _ in ways]
        while all(len(r) > front and r[front] == runs[0][front] for r in runs):
            front += 1
        if len(ways) == 1:
            state = ways[0][2]
        else:
            state = self._gate(ways, at + front)
        for token in reversed(runs[0][:front]):
            state = self._add(_State(ids=((token, state),)))
        return state

    def _gate(self, ways: list[Any], at: int) -> int:
        """The state in which a token decides a choice."""
        depth = 0
        while len({decisions[depth][1] for _, decisions, _ in ways}) == 1:
            depth += 1
        choice: Choice = ways[0][1][depth][0]
        sides = [[w for w in ways if w[1][depth][1] == i] for i in range(2)]
        first = [{w[0][at] if len(w[0]) > at else -1 for w in side} for side in sides]
        if -1 in first[0] | first[1] or len(first[0]) > 1 or len(first[1]) > 1:
            self._refuse_words(choice, "the ids of one begin with those of the other")
        tokens = [tokens.pop() for tokens in first]
        if tokens[0] == tokens[1]:
            self._refuse_words(choice, "no token tells them apart")
        after = [self._tree(side, at + 1) for side in sides]
        return self._add(
            _State(ids=tuple(zip(tokens, after)), gate=choice.gate, opens=tokens[0])
        )

    def _refuse_words(self, choice: Choice, why: str) -> None:
        raise PolicyError(
            f"the tokenizer cannot hold turns to a form: of the words "
            f"{choice.words[0]!r} and {choice.words[1]!r} {why}; {FREE}"
        )

    def _ids(self, text: str) -> tuple[int, ...]:
        ids = encode_reply(self._tokenizer, self._tag_names, text)
        if not self._texts.check(ids, text):
            raise PolicyError(
                f"the tokenizer cannot hold turns to a form: {self._fault(text)!r} does "
                f"not come back from its ids; {FREE}"
            )
        return ids

    def _fault(self, text: str) -> str:
        """The first tag or word of a text that does not decode to itself."""
        for part in split_tags(self._tag_names, text):
            ids = encode_reply(self._tokenizer, self._tag_names, part)
            if part.strip() and not self._texts.check(ids, part):
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
            self.states[number] = _State(
                kinds=tuple(after[text] for text in texts),
                segment=part.segment,
                exhausted=self.enter((Text(left), *form[1:])),
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
        if read.closed != part.closing or not _front(rest).startswith(read.rest):
            return -1
        return self.enter(rest, read.rest)


def encode_reply(
    tokenizer: Tokenizer, tags: Sequence[str], text: str
) -> tuple[int, ...]:
    """Ids of a part of a reply: tags are control tokens where they are, others never."""
    ids = tokenizer.encode_control(text)
    if (tokenizer.control_ids - tokenizer.format_ids).isdisjoint(ids):
        return tuple(ids)
    ids = []
    for part in split_tags(tags, text):
        ids += (tokenizer.encode_control if part in tags else tokenizer.encode)(part)
    return tuple(ids)


def split_tags(tags: Sequence[str], text: str) -> list[str]:
    """A text as tags and what stands between them."""
    return re.split(f"({'|'.join(map(re.escape, tags))})", text)


# -- arrays ----------------------------------------------------------------------------


def _assembled(states: _States, starts: Mapping[str, int]) -> TokenGrammar:
    """The arrays of the states."""
    import numpy as np

    made = [state for state in states.states if state is not None]
    kind_of = np.array(states.kind_of, np.int32)
    # The two tokens of a gate must be told apart: each has a kind of its own.
    own: dict[int, int] = {}
    for token in (i for s in made if s.gate >= 0 for i, _ in s.ids):
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
        if state.kinds or state.gate >= 0:
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
