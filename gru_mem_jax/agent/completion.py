"""From a completion's token ids to the turn's text and gates."""

import functools

from gru_mem_jax.agent.config import Mode
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.parse import (
    TurnOutput,
    after_thought,
    extract_boxed,
    parse_memory_turn,
)
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import Completion, Request, prompt_ids
from gru_mem_jax.agent.trajectory import Turn
from gru_mem_jax.agent.turn_form import follow

CUT = "cut at the token limit"
MakeTurn = functools.partial[Turn]  # with what both kinds of turn have


def begin_turn(
    request: Request, completion: Completion, builder: PromptBuilder, *, trace: bool
) -> tuple[str, str | None, MakeTurn]:
    """A turn's text, what is wrong with its ids, and the turn but for what it changes.

    Raises:
      RunError: a constrained completion does not have its form.
    """
    said = follow(request, completion)
    text, problem = read_completion(completion, builder.encoder)
    text, ids = builder.opened + text, prompt_ids(request.prompt)
    make = functools.partial(
        Turn,
        update_probability=said.update_probability,
        exit_probability=said.exit_probability,
        text=text,
        finish_reason=completion.finish_reason,
        prompt_tokens=len(ids),
        completion_tokens=len(completion.ids),
        shared_prompt_tokens=completion.shared_prompt_tokens,
        seconds=completion.seconds,
    )
    if trace:
        make = functools.partial(
            make,
            prompt_ids=ids,
            completion_ids=tuple(completion.ids),
            logprobs=tuple(completion.logprobs),
            sampling_logprobs=tuple(completion.sampling_logprobs),
            supports=said.supports,
        )
    return text, problem, make


def answer_turn(
    request: Request,
    completion: Completion,
    builder: PromptBuilder,
    *,
    memory: str = "",
    memory_tokens: int = 0,
    trace: bool = False,
) -> tuple[Turn, str | None]:
    """The turn that answered from a memory, and the answer if it has one.

    Raises:
      RunError: a constrained completion does not have its form.
    """
    text, problem, make = begin_turn(request, completion, builder, trace=trace)
    answer = extract_boxed(text)
    if problem is None and answer is None:
        problem = r"no \boxed{} in the answer"
    turn = make(
        kind="answer",
        well_formed=problem is None,
        problem=problem,
        memory_before=memory,
        memory=memory,
        memory_tokens=memory_tokens,
    )
    return turn, answer


def read_completion(completion: Completion, encoder: Encoder) -> tuple[str, str | None]:
    """The completion's text without its stop token, and what is wrong with its ids."""
    ids = tuple(completion.ids)
    if ids and ids[-1] in encoder.stop_ids:
        ids = ids[:-1]
    problem = None
    if any(not 0 <= i < encoder.vocab_size for i in ids):
        problem = "an id without a string"
    elif not (encoder.control_ids - encoder.format_ids).isdisjoint(ids):
        problem = "a control token in the completion"
    elif completion.finish_reason == "length":
        problem = CUT
    return encoder.decode(ids), problem


def interpret(
    mode: Mode, text: str, problem: str | None, opened: str = ""
) -> TurnOutput:
    """The gates and the memory of a memory turn.

    MemAgent's whole completion is the memory. If the chat template has opened a
    thought, the memory is what comes after its end; without an end it is the whole
    completion, unless that was cut: then all of it is thought, and the memory is kept.

    Args:
      mode: of the agent.
      text: of the turn.
      problem: the fault of the completion's ids, or None.
      opened: the beginning of `text` that the chat template has written.
    """
    if mode == "memagent":
        memory = after_thought(text) if opened else text
        if memory is None and problem is None:
            memory = text.removeprefix(opened)
        # MemAgent uses a cut completion as it is.
        if memory is None or problem not in (None, CUT):
            return TurnOutput(problem=problem)
        return TurnOutput(
            update=True,
            memory=memory,
            well_formed=problem is None,
            problem=problem,
        )
    return parse_memory_turn(text) if problem is None else TurnOutput(problem=problem)
