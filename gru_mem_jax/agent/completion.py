"""From a completion's token ids to what the turn says."""

from gru_mem_jax.agent.config import Mode
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.parse import TurnOutput, parse_memory_turn
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


def interpret(mode: Mode, text: str, problem: str | None) -> TurnOutput:
    """What a memory turn says, given what is wrong with its ids (if anything is)."""
    if mode == "memagent":
        # MemAgent keeps what a cut completion holds.
        if problem in (None, CUT):
            return TurnOutput(
                update=True,
                memory=text,
                well_formed=problem is None,
                problem=problem,
            )
        return TurnOutput(problem=problem)
    return parse_memory_turn(text) if problem is None else TurnOutput(problem=problem)
