"""The agent: chunks, prompts, parser, gate rule, loop. Pure Python, cheap to import."""

from gru_mem_jax.agent.chunking import Chunk, evidence_labels, iter_chunks
from gru_mem_jax.agent.config import AgentConfig, Mode
from gru_mem_jax.agent.document import Document
from gru_mem_jax.agent.gru_mem_agent import GRUMemAgent
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.agent.requests import (
    Completion,
    Generator,
    Interruptible,
    Request,
    SamplingConfig,
)
from gru_mem_jax.agent.trajectory import (
    Trajectory,
    Turn,
    UnansweredError,
    trajectory_from_dict,
    trajectory_to_dict,
)

__all__ = [
    "AgentConfig",
    "Chunk",
    "Completion",
    "Document",
    "GRUMemAgent",
    "Generator",
    "Interruptible",
    "Mode",
    "PromptBuilder",
    "PromptConfig",
    "Recurrence",
    "Request",
    "SamplingConfig",
    "Trajectory",
    "Turn",
    "UnansweredError",
    "evidence_labels",
    "iter_chunks",
    "trajectory_from_dict",
    "trajectory_to_dict",
]
