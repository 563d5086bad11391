"""GRUMemAgent: a policy that answers questions on texts of any length."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.config import AgentConfig
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
      generator: completes requests: an engine, a server's client, a script.
      encoder: the policy's tokenizer.
      config: budgets, mode, sampling.

    Raises:
      InputError: the budgets do not fit in prompt_tokens.
      PolicyError: the chat template cannot be used.
    """

    def __init__(
        self,
        generator: Generator,
        encoder: Encoder,
        config: AgentConfig | None = None,
    ):
        self.generator = generator
        self.encoder = encoder
        self.config = config or AgentConfig()
        self._builder = PromptBuilder(encoder, self.config.prompt)

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
          InputError: the question is empty or over its budget; the context is no text.
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
        """Answers many (question, context) pairs side by side, in any order.

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
