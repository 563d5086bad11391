r"""Baselines: one prompt with the whole text, with what BM25 finds in it, or with none.

They are asked on the same questions as the agent, and leave trajectories of one answer
turn. The wording is MemAgent's for models that get a text (its `taskutils/memory_eval`,
Apache-2.0); or that of the agent's answer prompt, with the text in the place of the
memory, for a policy that knows no other.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Literal

from gru_mem_jax.agent.completion import answer_turn
from gru_mem_jax.agent.config import AgentConfig, config_to_dict
from gru_mem_jax.agent.document import Document
from gru_mem_jax.agent.loop import FAILED, INTERRUPTED
from gru_mem_jax.agent.prompts import PromptBuilder, Template, fill
from gru_mem_jax.agent.requests import Completion, Prompt, Request, Role, prompt_ids
from gru_mem_jax.agent.trajectory import Trajectory, Turn
from gru_mem_jax.agent.turn_form import turn_constraint
from gru_mem_jax.agent.turn_requests import question_ids, turn_request
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.evaluation.retrieval import Part, best_passages, two_ends
from gru_mem_jax.records import check_choice, check_int, plain_numbers

BaselineName = Literal["whole_text", "bm25", "question_alone"]
BASELINES: tuple[BaselineName, ...] = ("whole_text", "bm25", "question_alone")
ONE_PROMPT = "one_prompt"  # the stop reason of their trajectories

_BOXED = "{question}\n\nPut the answer in \\boxed{}.\n"
_ON_A_TEXT = (
    "Please read the following text and answer the question below.\n\n"
    "<text>\n{chunk}\n</text>\n\n" + _BOXED
)
_ALONE = "Please answer the question below.\n\n" + _BOXED


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """How baselines prompt.

    Attributes:
      wording: "plain" is what general models know; "memory" is the agent's answer
        prompt, with the text in the place of the memory; None: plain where prompts have
        full sentences, memory where they are compact.
      passage_tokens: of the passages that BM25 ranks.
      top_k: most passages; None: as many as fit the window.
    """

    wording: Literal["plain", "memory"] | None = None
    passage_tokens: int = 256
    top_k: int | None = None

    def __post_init__(self) -> None:
        plain_numbers(self)
        if self.wording is not None:
            check_choice("wording", self.wording, ("plain", "memory"))
        check_int("passage_tokens", self.passage_tokens, 1)
        if self.top_k is not None:
            check_int("top_k", self.top_k, 1)


class Baseline:
    """One question, asked in one prompt; driven as a `Recurrence` is.

    Args:
      mode: one of BASELINES.
      builder: of the prompts.
      config: of the agent; its completion_tokens, question_tokens and sampling count.
      question: text.
      document: text, or a Document.
      window: most tokens of the prompt and its completion; None: no limit.
      settings: how it prompts.
      trajectory_id: its seed depends on it.
      metadata: kept in the trajectory. "baseline" is added: tokens of the document, of
        the part that is shown, and the passages of that part.
      clock: a monotonic clock, in seconds.

    Raises:
      InputError: no such baseline, a question that is empty or over its budget, a
        window with no room for a text, or completion_tokens with none for the form of a
        constrained answer. From `next_request`: the document is not text, or bm25s is
        not installed.
    """

    def __init__(
        self,
        mode: str,
        builder: PromptBuilder,
        config: AgentConfig,
        question: str,
        document: str | Document,
        *,
        window: int | None = None,
        settings: BaselineConfig | None = None,
        trajectory_id: int = 0,
        metadata: dict[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        check_choice("mode", mode, BASELINES)
        if window is not None:
            check_int("window", window, 1)
        self._mode, self._builder, self._config = mode, builder, config
        self._settings = settings or BaselineConfig()
        self._question = question
        self._question_ids = question_ids(builder, config, question)
        compact = builder.config.style == "compact"
        wording = self._settings.wording or ("memory" if compact else "plain")
        self._template: Template | None = None
        if wording == "plain":
            alone = mode == "question_alone"
            self._template = builder.template(_ALONE if alone else _ON_A_TEXT)
        self._room = self._room_in(window)
        self._document: str | Document = document
        self._clock, self._started = clock, clock()
        self._finished: float | None = None
        self._request: Request | None = None
        turn_constraint(builder, config, "answer")  # raises where it leaves no room
        self._head = Trajectory(
            mode=mode,
            question=str(question),
            trajectory_id=trajectory_id,
            settings=config_to_dict(config),
            metadata=dict(metadata or {}),
        )

    @property
    def done(self) -> bool:
        """Whether it was answered, or ended without an answer."""
        return self._finished is not None

    @property
    def trajectory(self) -> Trajectory:
        """What has happened so far."""
        end = self._clock() if self._finished is None else self._finished
        return dataclasses.replace(self._head, seconds=end - self._started)

    def next_request(self) -> Request | None:
        """Its one request, once; then None."""
        if self.done or self._request is not None:
            return None
        try:
            part = self._part()
        except BaseException:
            self.stop(INTERRUPTED)
            raise
        self._document = ""  # frees it
        self._request = turn_request(
            self._builder,
            self._config,
            "answer",
            self._prompt(part.ids),
            self._head.trajectory_id,
            0,
        )
        shown = {
            "document_tokens": part.document_tokens,
            "text_tokens": len(part.ids),
            "passages": None if part.passages is None else list(part.passages),
        }
        metadata = {**self._head.metadata, "baseline": shown}
        self._head = dataclasses.replace(self._head, metadata=metadata)
        return self._request

    def receive(self, completion: Completion, number: int | None = None) -> Turn | None:
        """Takes the completion; None: it was a failure.

        Args:
          completion: of its request.
          number: 0, or None; there is one request.

        Raises:
          RunError: no request is open, or a constrained completion lacks its form.
        """
        if self._request is None:
            raise RunError("a completion came for which there is no open request")
        request = self._request
        if completion.failure is not None:
            self._end(stop_reason=FAILED, interrupted=True, failure=completion.failure)
            return None
        turn, answer = answer_turn(request, completion, self._builder)
        self._end(stop_reason=ONE_PROMPT, answer=answer, turns=(turn,))
        return turn

    def stop(self, reason: str) -> None:
        """Ends it at once if `reason` is "interrupted"; nothing is read otherwise."""
        if reason == INTERRUPTED and not self.done:
            self._end(stop_reason=reason, interrupted=True)

    def _end(self, **changes: Any) -> None:
        self._finished = self._clock()
        self._request = None
        self._document = ""
        self._head = dataclasses.replace(self._head, **changes)

    def _room_in(self, window: int | None) -> int | None:
        """Tokens of a text that the window has room for."""
        if window is None:
            return None
        prompt = len(prompt_ids(self._prompt(())))
        completion = self._config.completion_tokens
        room = window - prompt - completion
        if room < (self._mode != "question_alone"):
            raise InputError(
                f"the window of {window} tokens has no room for a text: template and "
                f"question take {prompt}, and the completion up to {completion}; raise "
                "it, or lower completion_tokens"
            )
        return room

    def _part(self) -> Part:
        encoder, settings = self._builder.encoder, self._settings
        document = self._document
        if self._mode == "question_alone":
            return Part((), 0)
        text = document.text if isinstance(document, Document) else document
        if self._mode == "whole_text":
            return two_ends(text, encoder, self._room)
        return best_passages(
            text,
            self._question,
            encoder,
            self._room,
            passage_tokens=settings.passage_tokens,
            top_k=settings.top_k,
        )

    def _prompt(self, ids: tuple[int, ...]) -> Prompt:
        if self._template is None:
            return self._builder.answer(self._question_ids, ids)
        contents: dict[Role, tuple[int, ...]] = {
            "question": self._question_ids,
            "chunk": ids,
        }
        return fill(self._template, contents)
