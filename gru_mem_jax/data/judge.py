"""Checks of examples that need a tokenizer and budgets."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from gru_mem_jax.agent.chunking import evidence_labels, iter_chunks
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.text import check_text
from gru_mem_jax.agent.turn_requests import question_ids
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.scoring import normalize_answer, score
from gru_mem_jax.errors import InputError


class Judge:
    """Finds examples that cannot be rolled out, or that no answer can solve.

    Args:
      builder: of the prompts, with the policy's tokenizer.
      config: budgets, chunk size and `max_chunks`.
      scored: whether answers are scored by `data.scoring`, and so are checked; false
        with another reward function.
      scoring: overrides that of the examples; None: their own.
    """

    def __init__(
        self,
        builder: PromptBuilder,
        config: AgentConfig,
        *,
        scored: bool = True,
        scoring: str | None = None,
    ):
        self._builder, self._config = builder, config
        self._scored, self._scoring = scored, scoring
        self._encoder = builder.encoder

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that verdicts depend on; JSON values."""
        config = self._config
        return {
            "question_tokens": config.question_tokens,
            "completion_tokens": config.completion_tokens,
            "chunk_size": config.chunk_size,
            "max_chunks": config.max_chunks,
            "style": config.prompt.style,
            "scored": self._scored,
            "scoring": self._scoring,
        }

    @functools.cached_property
    def reads_any_text(self) -> bool:
        """Whether the tokenizer has tokens for every text."""
        return reads_any_text(self._encoder)

    def problem(self, example: Example, *, composed: bool = False) -> str | None:
        """Why an example cannot be used; None: it can.

        Args:
          example: to check.
          composed: whether its document is not known yet, and not checked.
        """
        for name in ("question", "document"):
            if not isinstance(value := getattr(example, name), str):
                return f"its {name} must be text, got {type(value).__name__}"
        answers = example.answers
        if not isinstance(answers, tuple) or not all(
            isinstance(answer, str) for answer in answers
        ):
            return f"its answers must be a tuple of texts, got {answers!r:.80}"
        if not example.question.strip():
            return "the question is empty"
        try:
            check_text(example.question, "the question")
            question_ids(self._builder, self._config, example.question)
            found = self._question(example.question)
            if found is None and self._scored:
                found = self._answers(example)
            if found is None and not composed:
                found = self._document(example)
        except InputError as error:
            found = str(error)
        return found

    def question_tokens(self, example: Example) -> int:
        """Tokens of the question of a good example."""
        return len(self._builder.encode_content(example.question))

    def num_chunks(self, example: Example) -> int:
        """Chunks of the document of a good example."""
        chunks = iter_chunks(example.document, self._encoder, self._config.chunk_size)
        return sum(1 for _ in chunks)

    def _question(self, question: str) -> str | None:
        at = next(_without_token(self._encoder, question, self._unknown), None)
        if at is None:
            return None
        # Some tokenizers do not count dropped characters in later offsets.
        near = question[max(0, at - 8) : at + 1]
        return f"the question holds a character without a token, near {near!r}"

    @functools.cached_property
    def _unknown(self) -> int | None:
        return unknown_id(self._encoder)

    def _answers(self, example: Example) -> str | None:
        """A score above 0 must be possible within completion_tokens."""
        scoring = self._scoring or example.scoring
        fewest = None
        for text in _predictions(example.answers, scoring):
            for lead in ("", " "):
                tokens = self._tokens_to_say(lead + text, example.answers, scoring)
                if tokens is None or (fewest is not None and fewest <= tokens):
                    continue
                fewest = tokens
                if fewest <= self._config.completion_tokens:
                    return None
        if fewest is None:
            answers = ", ".join(map(repr, example.answers))
            return f"no prediction of this tokenizer scores with the answers {answers}"
        return (
            f"its shortest answer takes {fewest} tokens with \\boxed{{}} and the stop "
            f"token, more than completion_tokens {self._config.completion_tokens}; "
            "raise the budget"
        )

    def _tokens_to_say(
        self, text: str, answers: Sequence[str], scoring: str
    ) -> int | None:
        """Tokens of a completion that predicts `text`; None if that would score 0."""
        try:
            ids = self._encoder.encode(text)
        except InputError:
            return None
        said = self._encoder.decode(ids).strip()
        if score(said, answers, scoring) == 0:
            return None
        return self._box_tokens + len(ids) + 1

    @functools.cached_property
    def _box_tokens(self) -> int:
        try:
            return len(self._encoder.encode("\\boxed{}"))
        except InputError:
            return 0

    def _document(self, example: Example) -> str | None:
        document, limit = example.document, self._config.max_chunks
        if not document.strip():
            return "the document is empty"
        check_text(document, "the document")
        if self.reads_any_text and (limit is None or not example.evidence):
            return None
        chunks = iter_chunks(document, self._encoder, self._config.chunk_size)
        if self.reads_any_text:
            chunks = itertools.islice(chunks, limit)
        borders, tokens = [], 0
        try:
            for chunk in chunks:
                tokens += sum(token != self._unknown for token in chunk.ids)
                if limit is None or chunk.index < limit:
                    borders.append((chunk.start, chunk.end))
        except InputError as error:
            read = borders[-1][1] if borders else 0
            return f"the document, after character {read}: {error}"
        if not tokens:
            return "no character of the document has a token"
        if example.evidence and evidence_labels(borders, example.evidence)[1] is None:
            return (
                f"its evidence lies after the first {limit} chunks, and max_chunks "
                "allows no more"
            )
        return None


def _predictions(answers: Sequence[str], scoring: str) -> Iterator[str]:
    """Texts that would score, the likely ones first."""
    if scoring == "all":
        yield ", ".join(answers)
        return
    yield from answers
    if scoring in ("exact", "boxed", "f1"):
        yield from map(normalize_answer, answers)
    if scoring == "f1":
        for answer in answers:
            yield from normalize_answer(answer).split()


def _without_token(encoder: Encoder, text: str, unknown: int | None) -> Iterator[int]:
    """Positions of visible characters that are dropped or encoded as unknown."""
    covered = bytearray(len(text))
    for token, (start, end) in zip(*encoder.encode_with_offsets(text)):
        if token != unknown:
            covered[start:end] = b"\1" * (end - start)
    for at, character in enumerate(text):
        if not covered[at] and character.isprintable() and not character.isspace():
            yield at


def unknown_id(encoder: Encoder) -> int | None:
    """The id of unknown characters, if the tokenizer has one for text."""
    try:
        ids = {tuple(encoder.encode(c)) for c in "\U000efffd\U000dfffd"}
    except InputError:
        return None
    (first, *others) = ids
    return first[0] if not others and len(first) == 1 else None


def reads_any_text(encoder: Encoder) -> bool:
    """Whether every byte of UTF-8 has a token, so that no text is refused or dropped.

    Tested with a text that contains each byte of UTF-8, in characters that hardly any
    vocabulary has all of.
    """
    points = [*range(0x800), *(lead << 12 | 0x7A3 for lead in range(1, 16))]
    points += [plane << 16 | 0xFFFD for plane in (2, 5, 9, 13, 16)]
    probe = "".join(map(chr, points))
    try:
        return next(_without_token(encoder, probe, unknown_id(encoder)), None) is None
    except InputError:
        return False
