"""Policies as an evaluation meets them: first looked at, then ready to be timed."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from gru_mem_jax.agent.config import MODES, AgentConfig, check_budgets
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import Generator
from gru_mem_jax.sampling.config import EngineConfig

if TYPE_CHECKING:
    from gru_mem_jax.evaluation.asking import Asking
    from gru_mem_jax.evaluation.questions import DrawnSet

SHOW_TEXT = frozenset({"whole_text", "bm25"})  # baselines that fill a window


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warm:
    """A generator that is ready to be timed.

    Attributes:
      generator: of completions.
      window: tokens of the longest prompt and completion together.
      forget_documents: drops what is kept of documents for later questions.
      forget: drops all that is kept of earlier prompts.
    """

    generator: Generator
    window: int | None
    forget_documents: Callable[[], None]
    forget: Callable[[], None]


class Reader(Protocol):
    """A policy that was looked at, and not loaded yet."""

    builder: PromptBuilder

    def facts(self) -> dict[str, str]:
        """What it is recognised by."""

    def warm(
        self,
        config: AgentConfig,
        engine_config: EngineConfig,
        drawn: "Sequence[DrawnSet]",
        asking: "Asking",
        cache_bytes: int | None,
        note: Callable[[str], None],
    ) -> Warm:
        """A generator of it, ready to be timed.

        Args:
          config, engine_config, cache_bytes: see `evaluate`.
          drawn: all that will be asked.
          asking: how.
          note: is told what takes time.
        """


def agents_in(
    builder: PromptBuilder, config: AgentConfig, modes: Sequence[str]
) -> list[AgentConfig]:
    """The agent in each of its modes; in its own, where all are baselines.

    Raises:
      InputError: a prompt of full budgets exceeds prompt_tokens.
    """
    own = [mode for mode in modes if mode in MODES] or [config.mode]
    agents = [dataclasses.replace(config, mode=cast(Any, mode)) for mode in own]
    for each in agents:
        check_budgets(builder, each)
    return agents
