"""GRUMemAgent: a policy that answers questions on texts of any length."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.config import (
    SETTINGS_FILE,
    AgentConfig,
    config_from_json,
    replace_settings,
)
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.records import Trajectory, Turn
from gru_mem_jax.agent.requests import Generator

Context = str | Iterable[str]


class GRUMemAgent:
    """Answers questions on texts, chunk by chunk, with a gated memory.

    >>> agent = GRUMemAgent.from_pretrained("runs/quickstart/policy")
    >>> agent.answer("Which code belongs to the heron?", text).answer

    Args:
      policy: a generator (an engine, a server's client, a script), or a pair (policy,
        params) as `load_policy` gives it, for which an engine is made.
      tokenizer: the policy's: an Encoder, or a fast tokenizer of transformers.
      config: budgets, mode, sampling.
      slots: how many questions an engine that is made works on at once.

    Raises:
      PolicyError: the tokenizer or its chat template cannot be used.
    """

    def __init__(
        self,
        policy: Generator | tuple[Any, Any],
        tokenizer: Encoder | Any,
        config: AgentConfig | None = None,
        *,
        slots: int = 4,
    ):
        self.config = config or AgentConfig()
        self.encoder = _encoder(tokenizer)
        self._builder = PromptBuilder(self.encoder, self.config.prompt)
        if isinstance(policy, tuple):
            policy = _engine(policy, self.encoder, self.config, slots)
        self.generator = policy

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str],
        config: AgentConfig | None = None,
        *,
        slots: int = 4,
        **settings: Any,
    ) -> "GRUMemAgent":
        """Loads a policy from a Hugging Face directory.

        Args:
          directory: a path, or `hf://org/name@revision`: config.json, weights,
            tokenizer, and perhaps gru_mem.json, the settings that the policy was
            trained with.
          config: instead of those settings.
          slots: how many questions `answer_many` works on at once.
          **settings: single settings, of AgentConfig, PromptConfig or SamplingConfig,
            by name: mode="memagent", temperature=0.

        Raises:
          PolicyError: the directory cannot be loaded; names the file and what is wrong.
          InputError: a setting that does not exist or is out of range.
        """
        from gru_mem_jax.policy.files import open_policy_dir
        from gru_mem_jax.policy.hf import load_policy
        from gru_mem_jax.tokenization import TextTokenizer

        files = open_policy_dir(directory)
        if config is None:
            text = files.read_text(SETTINGS_FILE)
            config = AgentConfig() if text is None else config_from_json(text)
        config = replace_settings(config, **settings)
        tokenizer = TextTokenizer.from_pretrained(files.root)
        policy, params = load_policy(files.root)
        tokenizer.check_rows(policy.config.vocab_size)
        return cls((policy, params), tokenizer, config, slots=slots)

    def recurrence(self, question: str, context: Context, **kwargs: Any) -> Recurrence:
        """The state machine of one question, for a caller that drives it itself."""
        return Recurrence(self._builder, self.config, question, context, **kwargs)

    def answer(
        self,
        question: str,
        context: Context,
        on_turn: Callable[[Turn], None] | None = None,
    ) -> Trajectory:
        """Reads the context and answers the question.

        Args:
          question: text.
          context: the text, or an iterable of its pieces (a stream of any length).
          on_turn: called with each turn as it ends.

        Returns:
          All that happened; `.answer` is the answer, None if the policy gave none.

        Raises:
          InputError: the question is empty or over its budget, the context is no text,
            or the budgets do not fit in prompt_tokens.
        """
        recurrence = self.recurrence(question, context)
        for _, turn in driver.run(self.generator, [recurrence]):
            if on_turn is not None:
                on_turn(turn)
        return recurrence.trajectory

    def stream(self, question: str, context: Context) -> Iterator[Turn]:
        """As `answer`, but yields each turn as it ends; the last is the answer turn."""
        recurrence = self.recurrence(question, context)
        for _, turn in driver.run(self.generator, [recurrence]):
            yield turn

    def answer_many(self, questions: Iterable[tuple[str, Context]]) -> list[Trajectory]:
        """Answers many (question, context) pairs side by side.

        Pairs are taken as there is room for them. A question's random seeds depend
        on its place among the pairs.

        Returns:
          The trajectories, in the order of the pairs.
        """
        begun: list[Recurrence] = []

        def recurrences() -> Iterator[Recurrence]:
            for i, (question, context) in enumerate(questions):
                begun.append(self.recurrence(question, context, trajectory_id=i))
                yield begun[-1]

        for _ in driver.run(self.generator, recurrences()):
            pass
        return [recurrence.trajectory for recurrence in begun]


def _encoder(tokenizer: Any) -> Encoder:
    if hasattr(tokenizer, "encode_control"):
        return tokenizer
    from gru_mem_jax.tokenization import TextTokenizer

    return TextTokenizer.from_transformers(tokenizer)


def _engine(
    policy: tuple[Any, Any], encoder: Encoder, config: AgentConfig, slots: int
) -> Generator:
    from gru_mem_jax.sampling.config import EngineConfig
    from gru_mem_jax.sampling.engine import Engine

    length = config.prompt_tokens + config.completion_tokens
    return Engine(*policy, EngineConfig(slots=slots, max_length=length), encoder)
