"""From a completion's token ids to what the turn says."""

from gru_mem_jax.agent.config import Mode
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.parse import TurnOutput, after_thought, parse_memory_turn
from gru_mem_jax.agent.requests import Completion

CUT = "cut at the token limit"


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
    """What a memory turn says.

    MemAgent's whole completion is the memory, whatever it says. But where the chat
    template has opened a thought, the memory is what comes after its end; a completion
    that ends without one is no thought, and one that is cut before it is all thought:
    then the memory stays.

    Args:
      mode: of the agent.
      text: of the turn.
      problem: what is wrong with the completion's ids, if anything is.
      opened: the beginning of `text`, as far as the chat template has written it.
    """
    if mode == "memagent":
        memory = after_thought(text) if opened else text
        if memory is None and problem is None:
            memory = text.removeprefix(opened)
        # MemAgent keeps what a cut completion holds.
        if memory is None or problem not in (None, CUT):
            return TurnOutput(problem=problem)
        return TurnOutput(
            update=True,
            memory=memory,
            well_formed=problem is None,
            problem=problem,
        )
    return parse_memory_turn(text) if problem is None else TurnOutput(problem=problem)
