"""Supervised turns of synthetic examples, with the replies of `tiny.oracle`.

Those of one reading, chunk after chunk, see what the chunks before have left. Scans, of
agent mode "parallel", and turns of a second pass, of "reread", see a memory that is
empty or holds any part of what there is to find, wherever the chunk lies.
"""

import bisect
import dataclasses
import random
from collections.abc import Sequence

from gru_mem_jax.agent.chunking import iter_chunks
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.prompts import PromptBuilder, PromptKind
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.turns import (
    SupervisedTurn,
    check_kinds,
    chosen_chunks,
    supervised_turn,
)
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import check_number, plain_numbers
from gru_mem_jax.tiny import oracle, words


@dataclasses.dataclass(frozen=True, kw_only=True)
class TurnConfig:
    """Which turns of an example are taught, and which of them wrongly.

    Attributes:
      kinds: the kinds of turns.
      off_evidence: gated turns without evidence per turn with evidence.
      memagent_off_evidence: the same for MemAgent's turns, each of which must write
        the whole memory anew without a slip.
      answers_alone: share of the examples of which only the answer turn is taught,
        since an example has one answer turn and many others.
      blank_memory: share of gated turns before any evidence whose memory lists the
        missing values (as after a needless update), instead of being empty.
      shifted: share of the examples that lose some tokens at their beginning, so that
        chunks do not begin and end where blocks do. Their turns are not taught from the
        first chunk on that cuts a key or value: no reader could know it.
      scans: share of the gated turns that see another memory than one reading leaves:
        half of them an empty one, the others some or all of the facts, in order of the
        text. What their chunk holds may be known then, and change nothing. If above 0,
        all do of a chain whose second hop is read before the first.
      wrong_updates: share of the turns without evidence whose update gate is taught to
        say yes. For warm starts that copy well but gate badly; 0 teaches right gates.
      wrong_ends: share of the due ends whose exit gate is taught to say continue.
      wrong_thoughts: share of the turns with a wrong gate whose thought is wrong too:
        it claims a find with a wrong update, and ignores the find with a wrong exit.
    """

    kinds: tuple[PromptKind, ...] = ("gated", "memagent", "answer")
    off_evidence: float = 1.0
    memagent_off_evidence: float = 1.0
    answers_alone: float = 0.0
    blank_memory: float = 0.3
    shifted: float = 0.0
    scans: float = 0.0
    wrong_updates: float = 0.0
    wrong_ends: float = 0.0
    wrong_thoughts: float = 0.0

    def __post_init__(self):
        plain_numbers(self)
        check_kinds(self.kinds)
        for name in ("off_evidence", "memagent_off_evidence"):
            check_number(name, getattr(self, name), 0, 1000)
        for name in (
            *("answers_alone", "blank_memory", "shifted", "scans"),
            *("wrong_updates", "wrong_ends", "wrong_thoughts"),
        ):
            check_number(name, getattr(self, name), 0, 1)

    def oracle(self, encoder: Encoder, agent: AgentConfig) -> "OracleTurns":
        """The oracle for a policy, see `data.turns.TurnMaker`."""
        return OracleTurns(encoder, agent, self)


class OracleTurns:
    """Turns of examples with the wording of `synthetic`.

    Args:
      encoder: the policy's tokenizer.
      agent: prompts and chunk size.
      config: which turns.
    """

    def __init__(self, encoder: Encoder, agent: AgentConfig, config: TurnConfig):
        self.encoder, self.config = encoder, config
        self._chunk_size = agent.chunk_size
        self._builder = PromptBuilder(encoder, agent.prompt)

    def check(self, example: Example) -> None:
        """Checks that the turns that are taught can lead to the answer.

        Raises:
          InputError: the question has another wording; no scans are taught, and the
            needle of a chain is read in a chunk before its link, and so before it is
            known to be wanted.
        """
        oracle.parse_question(example.question)
        self._in_order(example)

    def _in_order(self, example: Example) -> bool:
        """Whether one reading, chunk after chunk, finds all evidence.

        Raises:
          InputError: it does not, and no other turns are taught.
        """
        order = example.evidence_order
        if list(order) == sorted(order):
            return True
        chunks = iter_chunks(example.document, self.encoder, self._chunk_size)
        ends = [chunk.end for chunk in chunks]
        read = [bisect.bisect_left(ends, end) for _, end in example.evidence]
        by_step = [chunk for _, chunk in sorted(zip(order, read, strict=True))]
        if by_step == sorted(by_step):
            return True
        if self.config.scans and "gated" in self.config.kinds:
            return False
        raise InputError(
            f"example {example.id!r}: its second hop is read before the first: no "
            "turns of a single reading lead to the answer; TurnConfig.scans teaches "
            "others"
        )

    def turns(self, example: Example, rng: random.Random) -> list[SupervisedTurn]:
        """The supervised turns of one example.

        All memory turns with evidence are taken, and a random part of the others.

        Args:
          example: of `synthetic`.
          rng: selects turns, and the gates that are taught wrong.
        """
        config = self.config
        has_answers = "answer" in config.kinds and config.answers_alone > 0
        if has_answers and rng.random() < config.answers_alone:
            return [self.answer(example)]
        asked = oracle.parse_question(example.question)
        question = self._builder.encode_content(example.question)
        if config.shifted and rng.random() < config.shifted:
            example = self._shift(example, rng)
        chunks = list(iter_chunks(example.document, self.encoder, self._chunk_size))
        facts = _facts_by_chunk(example, [chunk.end for chunk in chunks])
        in_order = self._in_order(example)
        kinds = ("gated", "memagent") if in_order else ("gated",)
        chosen = {
            "gated": chosen_chunks(facts, config.off_evidence, rng),
            "memagent": chosen_chunks(facts, config.memagent_off_evidence, rng),
        }
        rows = []
        read: tuple[oracle.Fact, ...] = ()
        for chunk, own in zip(chunks, facts):
            for kind in kinds:
                if kind not in config.kinds or chunk.index not in chosen[kind]:
                    continue
                found, new = read, own
                if kind == "gated" and (not in_order or self._is_scan(rng)):
                    found = _some_facts(example, rng)
                    new = oracle.new_facts(asked, found, own)
                memory = ()
                listed = found or (
                    chunk.index > 0
                    if kind == "memagent"
                    else rng.random() < config.blank_memory
                )
                if listed:
                    text = oracle.memory_text(asked, found)
                    memory = self._builder.encode_content(text)
                if kind == "gated":
                    prompt = self._builder.gated(question, memory, chunk.ids)
                    closed = oracle.gated_turn(asked, found, ()) if new else None
                    text = example.document[chunk.start : chunk.end]
                    reply = self._gated_reply(asked, found, new, text, rng)
                else:
                    prompt = self._builder.memagent(question, memory, chunk.ids)
                    closed = None
                    reply = oracle.memagent_turn(asked, found, new)
                rows.append(
                    supervised_turn(
                        *(self._builder, kind, example, bool(new), prompt, reply),
                        closed,
                    )
                )
            read += own
        if "answer" in config.kinds:
            rows.append(self.answer(example))
        return rows

    def answer(self, example: Example) -> SupervisedTurn:
        """The answer turn of an example, all evidence found."""
        asked = oracle.parse_question(example.question)
        found = _facts(example)
        prompt = self._builder.answer(
            self._builder.encode_content(example.question),
            self._builder.encode_content(oracle.memory_text(asked, found)),
        )
        reply = oracle.answer_turn(asked, found)
        return supervised_turn(self._builder, "answer", example, False, prompt, reply)

    def _shift(self, example: Example, rng: random.Random) -> Example:
        """The example without some of its first tokens, but with all evidence."""
        _, spans = self.encoder.encode_with_offsets(example.document)
        cut, _ = spans[rng.randrange(self._chunk_size)]
        cut = min(cut, example.evidence[0][0])
        return dataclasses.replace(
            example,
            document=example.document[cut:],
            evidence=tuple((a - cut, b - cut) for a, b in example.evidence),
        )

    def _is_scan(self, rng: random.Random) -> bool:
        share = self.config.scans
        return share > 0 and rng.random() < share  # 0 draws nothing

    def _gated_reply(
        self,
        asked: oracle.Asked,
        found: tuple[oracle.Fact, ...],
        new: tuple[oracle.Fact, ...],
        text: str,
        rng: random.Random,
    ) -> str:
        config = self.config
        says_update = says_end = claimed = None
        if not new and rng.random() < config.wrong_updates:
            says_update = True
        due = oracle.is_complete(asked, (*found, *new))
        if due and rng.random() < config.wrong_ends:
            says_end = False
        wrong = says_end is not None if new else says_update is not None
        if wrong and rng.random() < config.wrong_thoughts:
            claimed = () if new else (_false_find(asked, found, text, rng),)
        return oracle.gated_turn(
            asked,
            found,
            new,
            says_update=says_update,
            says_end=says_end,
            claimed=claimed,
        )


def _false_find(
    asked: oracle.Asked,
    found: Sequence[oracle.Fact],
    text: str,
    rng: random.Random,
) -> oracle.Fact:
    """A looked-up key with the value of another key, if possible from the chunk."""
    values = [value for _, value in oracle.facts_in(text)]
    value = rng.choice(values) if values else " ".join(rng.sample(words.VALUES, 3))
    return rng.choice(oracle.looked_up(asked, found)), value


def _facts(example: Example) -> list[oracle.Fact]:
    """All facts that are asked for, in order of the text."""
    return [
        fact
        for start, end in example.evidence
        for fact in oracle.facts_in(example.document[start:end])
    ]


def _some_facts(example: Example, rng: random.Random) -> tuple[oracle.Fact, ...]:
    """What a memory may hold before a scan: nothing, or the facts of some chunks.

    It holds no needle of a chain without its link.
    """
    facts = _facts(example)
    if rng.random() < 0.5:
        return ()
    number = rng.randint(1, len(facts))
    if any(example.evidence_order):
        hops = sorted(range(len(facts)), key=lambda i: example.evidence_order[i])
        return tuple(facts[i] for i in sorted(hops[:number]))
    return tuple(facts[i] for i in sorted(rng.sample(range(len(facts)), number)))


def _facts_by_chunk(
    example: Example, ends: Sequence[int]
) -> list[tuple[oracle.Fact, ...]]:
    """The facts that each chunk adds, up to the first chunk that cuts a fact."""
    facts: list[list[oracle.Fact]] = [[] for _ in ends]
    for start, end in example.evidence:
        for fact, span in oracle.facts_with_spans(example.document[start:end]):
            first = bisect.bisect_right(ends, start + span[0])
            last = bisect.bisect_left(ends, start + span[1])
            if first < last:
                return [tuple(f) for f in facts[:first]]
            facts[last].append(fact)
    return [tuple(f) for f in facts]
