"""Supervised turns of any labelled example, from its evidence spans.

The replies of a perfect reader, chunk by chunk:

    <think>the evidence in the section, quoted</think>
    <check>yes on evidence, else no</check>
    <update>on evidence the memory so far and the evidence, else nothing</update>
    <next>end from the last evidence on, else continue</next>

The gates are the labels of `agent.chunking.evidence_labels`, as in the rewards. A turn
writes the part of the evidence's sentences that lies in its chunk: a sentence that a
chunk border cuts is written in two turns if both chunks are labelled as evidence; else
its part in the unlabelled chunk is lost.

Memory only grows, within both budgets: `memory_tokens` for itself, `completion_tokens`
for the whole reply. A piece that does not fit after the older ones is left out; a turn
for which none fits is not taught, because its label demands an update that cannot be
written. The answer turn is taught if the memory holds all of the evidence.

Modes "reread" and "parallel" show chunks to other memories than one reading leaves: by
`EvidenceTurns.scans` to an empty one, or one that holds any part of the evidence. The
gate is open if the chunk adds what the memory lacks; closed for what it has and, where
`Example.evidence_order` tells, for a second hop before the first. A turn that leaves
nothing missing says end.
"""

import dataclasses
import random
from collections.abc import Collection, Sequence

from gru_mem_jax.agent.chunking import Chunk, evidence_labels, iter_chunks
from gru_mem_jax.agent.completion import interpret
from gru_mem_jax.agent.config import AgentConfig, check_budgets
from gru_mem_jax.agent.encoding import Encoder, Span
from gru_mem_jax.agent.memory import clean_memory
from gru_mem_jax.agent.parse import extract_boxed
from gru_mem_jax.agent.prompts import NO_MEMORY, PromptBuilder, PromptKind
from gru_mem_jax.agent.turn_requests import question_ids
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.labelled_document import (
    LabelledDocument,
    Memory,
    reading,
    steps_of_chunks,
)
from gru_mem_jax.data.scoring import full_answer, score
from gru_mem_jax.data.sentences import evidence_pieces
from gru_mem_jax.data.turn_choice import taught_chunks
from gru_mem_jax.data.turn_wording import (
    Reading,
    Wording,
    call_wording,
    check_wording,
    compact_wording,
    full_wording,
)
from gru_mem_jax.data.turns import (
    SupervisedTurn,
    break_tags,
    check_kinds,
    supervised_turn,
)
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import check_number, plain_numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvidenceTurns:
    """Which turns of labelled examples are taught, and their wording.

    Attributes:
      kinds: some of "gated", "memagent" and "answer"; None: the kind of the agent's
        mode, and "answer".
      off_evidence: gated turns without evidence per turn with evidence.
      memagent_off_evidence: the same for MemAgent's turns.
      after_evidence: share of the turns without evidence that come after the document's
        last evidence: their replies end, as that of the last evidence does, and those
        before it continue. Fewer are made of a document that has not so many chunks
        there. None: by chance.
      hard_negatives: share of the turns without evidence whose chunks are those of the
        document that are the likest to the evidence (`turn_choice.likeness`).
      scans: share of the gated turns that see another memory than one reading leaves:
        half of them an empty one, the others what some or all of the evidence comes to.
        If above 0, all do of a document that has a later hop before an earlier one.
      wording: returns the words of a turn, see `turn_wording`; a pure function of a
        `Reading`, called again with fewer sentences if not all fit, and without any for
        what would be said off evidence. Tags of the output format in its result are
        broken up: "< update>". None: `full_wording` or
        `compact_wording`, by the style of the prompts.
    """

    kinds: tuple[PromptKind, ...] | None = None
    off_evidence: float = 1.0
    memagent_off_evidence: float = 1.0
    after_evidence: float | None = None
    hard_negatives: float = 0.0
    scans: float = 0.0
    wording: Wording | None = None

    def __post_init__(self):
        plain_numbers(self)
        if self.kinds is not None:
            check_kinds(self.kinds)
        for name in ("off_evidence", "memagent_off_evidence"):
            check_number(name, getattr(self, name), 0, 1000)
        if self.after_evidence is not None:
            check_number("after_evidence", self.after_evidence, 0, 1)
        for name in ("hard_negatives", "scans"):
            check_number(name, getattr(self, name), 0, 1)
        if self.wording is not None:
            check_wording(self.wording)

    def oracle(self, encoder: Encoder, agent: AgentConfig) -> "EvidenceOracle":
        """The oracle for a policy, see `data.turns.TurnMaker`.

        Raises:
          InputError: prompts of full budgets would not fit the agent's prompt_tokens.
        """
        return EvidenceOracle(encoder, agent, self)


class EvidenceOracle:
    """Turns of labelled examples; `EvidenceTurns.oracle` makes one.

    Args:
      encoder: the policy's tokenizer.
      agent: prompts, chunk size and budgets.
      config: which turns.
    """

    def __init__(self, encoder: Encoder, agent: AgentConfig, config: EvidenceTurns):
        self._agent, self._config, self._encoder = agent, config, encoder
        self._builder = PromptBuilder(encoder, agent.prompt)
        check_budgets(self._builder, agent)
        self._kinds = config.kinds or (agent.memory_kind, "answer")
        self._compact = agent.prompt.style == "compact"
        default = compact_wording if self._compact else full_wording
        self._wording = config.wording or default

    def check(self, example: Example) -> None:
        """Raises InputError if the example has no evidence; names it."""
        if not example.evidence:
            raise InputError(
                f"example {example.id!r:.60}: has no evidence to make turns of; mark "
                "where it stands in the document (evidence), or leave the example out"
            )

    def turns(self, example: Example, rng: random.Random) -> list[SupervisedTurn]:
        """The supervised turns of one example, the answer turn last.

        All memory turns with evidence are taken, and a random part of the others.

        Args:
          example: with evidence.
          rng: selects turns.

        Raises:
          InputError: the example has no evidence, or evidence, answer or question do
            not fit their budgets, or its document is not text. Names the example.
          RunError: the user's wording returns something else than two texts.
        """
        self.check(example)
        try:
            return self._turns(self._read(example), rng)
        except InputError as error:
            raise InputError(f"example {example.id!r:.60}: {error}") from None

    def _read(self, example: Example) -> LabelledDocument:
        """The document in chunks; it is tokenised only here."""
        question = question_ids(self._builder, self._agent, example.question)
        size, limit = self._agent.chunk_size, self._agent.max_chunks
        chunks = tuple(iter_chunks(example.document, self._encoder, size))
        borders = [(chunk.start, chunk.end) for chunk in chunks]
        evidence, last = evidence_labels(borders, example.evidence)
        pieces, lost = evidence_pieces(
            example.document, example.evidence, borders, evidence
        )
        read = len(chunks[:limit])
        if not any(evidence[:read]):
            raise InputError(
                f"its evidence lies after the first {limit} chunks, and max_chunks "
                "allows no more"
            )
        return LabelledDocument(
            example=example,
            question=question,
            chunks=chunks[:read],
            evidence=evidence,
            last=-1 if last is None else last,
            order=steps_of_chunks(example, borders),
            pieces=pieces,
            lost=lost or any(evidence[read:]),
        )

    def _turns(
        self, document: LabelledDocument, rng: random.Random
    ) -> list[SupervisedTurn]:
        config, own = self._config, self._agent.memory_kind
        turns: list[SupervisedTurn] = []
        memories: dict[PromptKind, Memory] = {}
        held = document.evidence[: len(document.chunks)]
        alike = document.likeness() if config.hard_negatives else None
        for kind, off_evidence in (
            ("gated", config.off_evidence),
            ("memagent", config.memagent_off_evidence),
        ):
            if kind in self._kinds:
                taught = taught_chunks(
                    *(held, document.last, off_evidence, rng),
                    after=config.after_evidence,
                    hard=config.hard_negatives,
                    likeness=alike,
                )
                scanned: set[int] = set()
                if kind == "gated" and config.scans:
                    share = config.scans if document.in_order else 1.0
                    scanned = {i for i in sorted(taught) if rng.random() < share}
                taught -= scanned
                made, memories[kind] = self._memory_turns(kind, document, taught)
                turns += made + self._scans(document, scanned, rng)
        if "answer" in self._kinds:
            # At run time the answer uses a memory of the agent's own kind.
            if own not in memories:
                _, memories[own] = self._memory_turns(own, document, set())
            if own == "gated" and config.scans and not document.in_order:
                memories[own] = self._merged(document, document.merged())
            if memories[own].whole and not document.lost:
                turns.append(self._answer(document, memories[own].text))
        return turns

    def _scans(
        self, document: LabelledDocument, taught: Collection[int], rng: random.Random
    ) -> list[SupervisedTurn]:
        """Turns of some chunks against memories that hold some of the evidence."""
        memories: dict[tuple[int, ...], Memory] = {}
        turns: list[SupervisedTurn | None] = []
        for index in sorted(taught):
            held = document.some_held(rng)
            if held not in memories:
                memories[held] = self._merged(document, held)
            memory, chunk = memories[held], document.chunks[index]
            if not memory.whole:
                continue  # it has not what it should
            if document.adds(index, held):
                turns.append(self._fitting("gated", document, chunk, memory)[0])
            else:
                turns.append(self._passing("gated", document, chunk, memory))
        return [turn for turn in turns if turn is not None]

    def _merged(self, document: LabelledDocument, chunks: Sequence[int]) -> Memory:
        """The memory after the evidence of some chunks, in this order."""
        memory = Memory(held=frozenset())
        for chunk in (document.chunks[index] for index in chunks):
            _, memory = self._fitting("gated", document, chunk, memory)
        return memory

    def _memory_turns(
        self, kind: PromptKind, document: LabelledDocument, taught: set[int]
    ) -> tuple[list[SupervisedTurn], Memory]:
        """The turns of some chunks, and the memory after all of them."""
        turns: list[SupervisedTurn] = []
        memory = Memory()
        for chunk in document.chunks:
            if document.evidence[chunk.index]:
                turn, memory = self._fitting(kind, document, chunk, memory)
                if turn is not None and chunk.index in taught:
                    turns.append(turn)
            elif chunk.index in taught:
                turns.append(self._passing(kind, document, chunk, memory))
        if not memory.text:
            raise InputError(self._no_room(document))
        return turns, memory

    def _passing(
        self, kind: PromptKind, document: LabelledDocument, chunk: Chunk, memory: Memory
    ) -> SupervisedTurn:
        """The turn that leaves the memory as it is."""
        made = self._turn(kind, document, chunk, memory, ())
        if made is None:
            raise InputError(
                "a reply without evidence takes more than completion_tokens "
                f"{self._agent.completion_tokens}; raise the budget"
            )
        return made[0]

    def _fitting(
        self, kind: PromptKind, document: LabelledDocument, chunk: Chunk, memory: Memory
    ) -> tuple[SupervisedTurn | None, Memory]:
        """The turn that adds the pieces that fit, oldest first, if any; the memory."""
        pieces = document.pieces[chunk.index]
        if not pieces:
            return None, memory
        if (made := self._turn(kind, document, chunk, memory, pieces)) is not None:
            return made
        best: tuple[SupervisedTurn | None, Memory] = None, memory
        kept: tuple[Span, ...] = ()
        for piece in pieces:
            made = self._turn(kind, document, chunk, memory, (*kept, piece))
            if made is not None:
                best, kept = made, (*kept, piece)
        return best[0], best[1]._replace(whole=False)

    def _turn(
        self,
        kind: PromptKind,
        document: LabelledDocument,
        chunk: Chunk,
        memory: Memory,
        pieces: Sequence[Span],
    ) -> tuple[SupervisedTurn, Memory] | None:
        """The turn that adds pieces, and the memory after it; None if over a budget."""
        builder, example = self._builder, document.example
        shown = builder.encode_content(memory.text)
        prompt = getattr(builder, kind)(document.question, shown, chunk.ids)
        reply = self._reply(kind, reading(document, chunk, memory, pieces))
        closed = None
        if pieces and kind == "gated":
            # More is needed: what this chunk adds would not be in the memory.
            passed = reading(document, chunk, memory, ())
            closed = self._reply(kind, dataclasses.replace(passed, is_last=False))
        turn = supervised_turn(
            builder, kind, example, bool(pieces), prompt, reply, closed
        )
        if len(turn.completion) > self._agent.completion_tokens:
            return None
        if not pieces:
            return turn, memory
        new = self._memory_after(turn)
        if len(builder.encode_content(new)) > self._agent.memory_tokens:
            return None
        held = None if memory.held is None else memory.held | {chunk.index}
        return turn, memory._replace(text=new, end=pieces[-1][1], held=held)

    def _reply(self, kind: PromptKind, reading: Reading) -> str:
        lead, update = self._builder.lead, bool(reading.sentences)
        thought, memory = "", reading.memory
        if update or kind == "gated":
            said = call_wording(self._wording, reading)
            thought, new = (clean_memory(break_tags(part)) for part in said)
            memory = new if update else memory
        if kind == "memagent":
            memory = memory or NO_MEMORY[self._agent.prompt.style]
            return lead(memory) + memory
        return ("" if self._compact else "\n").join(
            (
                f"<think>{lead(thought)}{thought}</think>",
                f"<check>{'yes' if update else 'no'}</check>",
                f"<update>{lead(memory) + memory if update else ''}</update>",
                f"<next>{'end' if reading.is_last else 'continue'}</next>",
            )
        )

    def _memory_after(self, turn: SupervisedTurn) -> str:
        """The memory that the agent's loop parses from a turn's completion."""
        mode = "memagent" if turn.kind == "memagent" else "with_exit_gate"
        output = interpret(mode, self._text(turn), None, self._builder.opened)
        if not output.well_formed:
            raise InputError(
                "the tokenizer does not decode the reply to itself "
                f"({output.problem}); use one with tokens for every text"
            )
        return clean_memory(output.memory)

    def _text(self, turn: SupervisedTurn) -> str:
        return self._builder.opened + self._encoder.decode(turn.completion[:-1])

    def _answer(self, document: LabelledDocument, memory: str) -> SupervisedTurn:
        builder, example = self._builder, document.example
        limit = self._agent.completion_tokens
        answer = full_answer(example.answers, example.scoring) or ""
        prompt = builder.answer(document.question, builder.encode_content(memory))
        reply = rf"\boxed{{{builder.lead(answer)}{answer}}}"
        turn = supervised_turn(builder, "answer", example, False, prompt, reply)
        if (tokens := len(turn.completion)) > limit:
            raise InputError(
                f"its answer takes {tokens} tokens, more than completion_tokens "
                f"{limit}; raise the budget"
            )
        said = extract_boxed(self._text(turn))
        if score(said, example.answers, example.scoring) < 1:
            raise InputError(
                f"no reply of this tokenizer matches answers {example.answers!r:.80} "
                f"by scoring {example.scoring!r}"
            )
        return turn

    def _no_room(self, document: LabelledDocument) -> str:
        sizes = [
            len(self._builder.encode_content(document.shown(piece)))
            for pieces in document.pieces
            for piece in pieces
        ]
        if not sizes:
            return "its evidence is white space"
        return (
            f"no piece of its evidence fits memory_tokens {self._agent.memory_tokens} "
            f"and completion_tokens {self._agent.completion_tokens}: the shortest has "
            f"{min(sizes)} tokens, and a gated reply quotes it as well; raise the "
            "budgets, or mark less of the document"
        )
