"""From examples to supervised turns: prompts as the agent makes them, oracle replies.

A source of training data is a function from an example and a random generator to its
turns, so that other examples with another oracle can take the place of the synthetic
ones.
"""

import bisect
import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence

from gru_mem_jax.agent.chunking import iter_chunks
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig, PromptKind
from gru_mem_jax.agent.requests import Prompt, prompt_ids
from gru_mem_jax.data import oracle, synthetic
from gru_mem_jax.data.example import Example
from gru_mem_jax.errors import InputError


@dataclasses.dataclass(frozen=True, slots=True)
class TurnRow:
    """One conversation to learn: the loss is on the completion only.

    Attributes:
      kind: "gated", "memagent" or "answer".
      task: of the example.
      evidence: whether the chunk adds something to the memory.
      prompt: token ids.
      completion: token ids, the stop id last.
    """

    kind: PromptKind
    task: str
    evidence: bool
    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TurnConfig:
    """Which turns of an example are taught, and how.

    Attributes:
      prompt: order and style of the prompts.
      chunk_size: tokens of a chunk.
      kinds: the kinds of turns.
      off_evidence: gated turns without evidence per turn with evidence.
      memagent_off_evidence: the same for MemAgent's turns, each of which must write
        the whole memory anew without a slip.
      extra_answers: further examples, per example, whose answer turn alone is taught:
        an example has one answer turn, and many others.
      blank_memory: share of gated turns before any evidence whose memory lists what
        is missing (as after a needless update), instead of being empty.
      wrong_updates: share of the turns without evidence whose update gate is taught to
        say yes. For warm starts that copy well but gate badly; 0 teaches right gates.
      wrong_ends: share of the due ends whose exit gate is taught to say continue.
    """

    prompt: PromptConfig = dataclasses.field(
        default_factory=lambda: PromptConfig(style="compact")
    )
    chunk_size: int = 64
    kinds: tuple[PromptKind, ...] = ("gated", "memagent", "answer")
    off_evidence: float = 1.0
    memagent_off_evidence: float = 1.0
    extra_answers: int = 2
    blank_memory: float = 0.3
    wrong_updates: float = 0.0
    wrong_ends: float = 0.0

    def __post_init__(self):
        if self.chunk_size < 1:
            raise InputError(f"chunk_size must be at least 1, got {self.chunk_size}")
        if not self.kinds or not set(self.kinds) <= {"gated", "memagent", "answer"}:
            raise InputError(
                "kinds must name some of gated, memagent and answer, got "
                f"{self.kinds!r}"
            )
        for name in ("off_evidence", "memagent_off_evidence"):
            if not 0 <= getattr(self, name) <= 1000:
                raise InputError(
                    f"{name} must be between 0 and 1000, got {getattr(self, name)}"
                )
        if self.extra_answers < 0:
            raise InputError(
                f"extra_answers must be at least 0, got {self.extra_answers}"
            )
        for name in ("blank_memory", "wrong_updates", "wrong_ends"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"{name} must be between 0 and 1, got {getattr(self, name)}"
                )


class OracleTurns:
    """Turns of examples whose wording the synthetic oracle knows.

    Args:
      encoder: the policy's tokenizer.
      config: which turns.
    """

    def __init__(self, encoder: Encoder, config: TurnConfig):
        self.config = config
        self._encoder = encoder
        self._builder = PromptBuilder(encoder, config.prompt)

    def with_config(self, config: TurnConfig) -> "OracleTurns":
        """The same with another configuration."""
        return OracleTurns(self._encoder, config)

    def __call__(self, example: Example, rng: random.Random) -> list[TurnRow]:
        """The turns of one example that are to be learnt.

        Memory turns with evidence are all taken, of the others a random part.

        Args:
          example: of `synthetic`.
          rng: decides what is taken, and which gates are taught wrong.
        """
        config = self.config
        asked = oracle.parse_question(example.question)
        question = self._builder.encode_content(example.question)
        chunks = list(iter_chunks(example.document, self._encoder, config.chunk_size))
        facts = _facts_by_chunk(example, [chunk.end for chunk in chunks])
        chosen = {
            "gated": _choose(facts, config.off_evidence, rng),
            "memagent": _choose(facts, config.memagent_off_evidence, rng),
        }
        rows = []
        found: tuple[oracle.Fact, ...] = ()
        for chunk, new in zip(chunks, facts):
            for kind in ("gated", "memagent"):
                if kind not in config.kinds or chunk.index not in chosen[kind]:
                    continue
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
                    reply = self._gated_reply(asked, found, new, rng)
                else:
                    prompt = self._builder.memagent(question, memory, chunk.ids)
                    reply = oracle.memagent_turn(asked, found, new)
                rows.append(self._row(kind, example, bool(new), prompt, reply))
            found += new
        if "answer" in config.kinds:
            rows.append(self.answer(example))
        return rows

    def answer(self, example: Example) -> TurnRow:
        """The answer turn of an example, all evidence found."""
        asked = oracle.parse_question(example.question)
        found = [
            fact
            for start, end in example.evidence
            for fact in oracle.facts_in(example.document[start:end])
        ]
        prompt = self._builder.answer(
            self._builder.encode_content(example.question),
            self._builder.encode_content(oracle.memory_text(asked, found)),
        )
        reply = oracle.answer_turn(asked, found)
        return self._row("answer", example, False, prompt, reply)

    def _gated_reply(
        self,
        asked: oracle.Asked,
        found: tuple[oracle.Fact, ...],
        new: tuple[oracle.Fact, ...],
        rng: random.Random,
    ) -> str:
        says_update = says_end = None
        if not new and rng.random() < self.config.wrong_updates:
            says_update = True
        due = oracle.is_complete(asked, (*found, *new))
        if due and rng.random() < self.config.wrong_ends:
            says_end = False
        return oracle.gated_turn(
            asked, found, new, says_update=says_update, says_end=says_end
        )

    def _row(
        self,
        kind: PromptKind,
        example: Example,
        evidence: bool,
        prompt: Prompt,
        reply: str,
    ) -> TurnRow:
        completion = (*self._encoder.encode_control(reply), self._encoder.stop_ids[0])
        return TurnRow(kind, example.task, evidence, prompt_ids(prompt), completion)


def _choose(
    facts: Sequence[tuple], off_evidence: float, rng: random.Random
) -> set[int]:
    """All chunks that add something, and so many of the others for each."""
    with_evidence = [i for i, new in enumerate(facts) if new]
    without = [i for i, new in enumerate(facts) if not new]
    wanted = round(off_evidence * max(1, len(with_evidence)))
    return {*with_evidence, *rng.sample(without, min(wanted, len(without)))}


def _facts_by_chunk(
    example: Example, ends: Sequence[int]
) -> list[tuple[oracle.Fact, ...]]:
    """What each chunk adds: a needle belongs to the chunk that holds its end."""
    facts: list[list[oracle.Fact]] = [[] for _ in ends]
    for start, end in example.evidence:
        found = oracle.facts_in(example.document[start:end])
        facts[bisect.bisect_left(ends, end)].extend(found)
    return [tuple(f) for f in facts]


def synthetic_turns(
    data: synthetic.SyntheticConfig, turns: OracleTurns, seed: int
) -> Iterator[TurnRow]:
    """Turns of example after example, without end; the same for equal arguments."""
    rng = random.Random(f"{seed}/{data.split}")
    answers = turns.config.extra_answers if "answer" in turns.config.kinds else 0
    for index in itertools.count(0, 1 + answers):
        yield from turns(synthetic.generate(data, index), rng)
        for extra in range(1, 1 + answers):
            yield turns.answer(synthetic.generate(data, index + extra))
