"""The gate rule, and memory cut to its budget."""

from gru_mem_jax.agent.encoding import Encoder

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def gated_memory(update: bool, candidate: str, previous: str) -> str:
    """M_t = M^_t if U_t else M_{t-1} (arXiv 2602.10560, Eq. 7)."""
    return candidate if update else previous


def clean_memory(text: str) -> str:
    """The text without white space at its ends, and without U+FFFD.

    U+FFFD stands for sampled bytes that do not make a character.
    """
    return text.replace(REPLACEMENT, "").strip()


def fit_memory(text: str, encoder: Encoder, budget: int, lead: str = "") -> str:
    """The start of a memory that fits the budget when it is encoded again.

    Memory is text: prompts never show the ids that a policy sampled. A memory that was
    cut by this function is returned unchanged.

    Args:
      text: candidate memory.
      encoder: encodes it, as plain text.
      budget: most tokens of lead + result.
      lead: what a prompt puts before a memory that is not empty.
    """
    text = clean_memory(text)
    while text:
        ids, spans = encoder.encode_with_offsets(lead + text)
        if len(ids) <= budget:
            break
        # Cut before the first token over the budget. The shorter text may encode into
        # more tokens than it had as a part of the longer one: hence the loop.
        end = min(spans[budget][0], len(lead) + len(text) - 1) - len(lead)
        text = text[: max(end, 0)].rstrip()
    return text
