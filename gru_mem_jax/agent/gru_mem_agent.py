"""GRUMemAgent: a policy that answers questions on texts of any length."""

import contextlib
import functools
import inspect
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from typing import TYPE_CHECKING, Any

from gru_mem_jax.agent import driver, inputs, parts
from gru_mem_jax.agent.config import (
    AgentConfig,
    check_budgets,
    check_taught,
    config_or_settings,
    replace_settings,
)
from gru_mem_jax.agent.document import Document, share_documents
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.inputs import Context
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import Generator
from gru_mem_jax.agent.sharing import join
from gru_mem_jax.agent.trajectory import Trajectory, Turn, UnansweredError
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import shown

if TYPE_CHECKING:
    from gru_mem_jax.policy.functional import Params, Policy
    from gru_mem_jax.sampling.prefix_store import PrefixStore

AsyncContext = Context | AsyncIterable[str]
PairLike = tuple[str, Context] | Mapping[str, Any]
AsyncPairLike = tuple[str, AsyncContext] | Mapping[str, Any]
OnTurn = Callable[[Turn], object]


class GRUMemAgent:
    """Answers questions on texts, chunk by chunk, with a gated memory.

    >>> agent = GRUMemAgent.from_pretrained("runs/quickstart/policy")
    >>> agent.answer("Which code belongs to the heron?", text).answer

    Any number of threads and tasks may use one agent, and several agents one
    generator: they are served side by side, and one that fails or leaves does not
    affect the others. `answer_async`, `stream_async` and `answer_many_async` never
    block the event loop.

    A context is text; a path (pathlib.Path, any os.PathLike) of a text file in UTF-8;
    an iterable of texts, which is read no further than needed; or a `Document`, for
    several questions. The asynchronous methods take asynchronous iterables too.

    Args:
      policy: a generator (an engine, a server's client, a script), or a pair (policy,
        params) of `load_policy`, for which an engine is made.
      tokenizer: the policy's: an Encoder, or a fast tokenizer of transformers.
      config: budgets, mode, sampling; or a dict of those that are not the defaults.
      slots: how many questions an engine that is made works on at once.
      devices: how many devices have such an engine, with the weights on each, so that
        many questions are answered side by side; None: all of this process.
      cache: where that engine keeps keys and values of chunks for further questions, if
        prompts are chunk_first; None: in memory, those of Documents, of contexts that
        are equal in `answer_many`, and of all that is read in several passes.
      cache_bytes: most bytes of memory for them; 0 keeps none, None stands for an
        eighth of the machine's.

    Raises:
      PolicyError: the tokenizer or its chat template cannot be used.
      InputError: an argument is of another kind, or a setting does not exist.
    """

    def __init__(
        self,
        policy: "Generator | tuple[Policy, Params]",
        tokenizer: Encoder | Any,
        config: AgentConfig | Mapping[str, Any] | None = None,
        *,
        slots: int = 4,
        devices: int | None = 1,
        cache: "PrefixStore | None" = None,
        cache_bytes: int | None = None,
    ):
        self.config = config_or_settings(config, AgentConfig())
        slots, devices = parts.check_sizes(slots, devices)
        parts.check_policy(policy)
        parts.check_cache(cache, cache_bytes, self.config)
        self.encoder = parts.as_encoder(tokenizer)
        self._builder = PromptBuilder(self.encoder, self.config.prompt)
        self.generator: Generator
        self._keep_documents: Callable[[], None] = lambda: None
        if not isinstance(policy, tuple | list):
            if cache is not None or cache_bytes is not None:
                raise InputError("cache is for an engine that the agent makes")
            self.generator = policy
            return
        if isinstance(cache, str | os.PathLike):
            raise InputError(
                "cache must be a PrefixStore here: a folder needs the policy's files, "
                "which from_pretrained has"
            )
        if cache is None and cache_bytes != 0 and self.config.chunk_first:
            cache, self._keep_documents = parts.cache_for_documents(cache_bytes)
        self.generator = parts.make_engine(
            policy, self._builder, self.config, slots, cache, devices
        )

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str],
        config: AgentConfig | Mapping[str, Any] | None = None,
        *,
        slots: int = 4,
        devices: int | None = 1,
        cache: "str | os.PathLike[str] | PrefixStore | None" = None,
        cache_bytes: int | None = None,
        **settings: Any,
    ) -> "GRUMemAgent":
        """Loads a policy from a Hugging Face directory.

        Args:
          directory: a path, or `hf://org/name@revision`: config.json, weights and
            tokenizer. gru_mem.json has the settings that the policy was trained with,
            if it is there; generation_config.json how to sample, where that does not
            say.
          config: used instead of those settings; a dict changes some of them, as
            `settings` does.
          slots: how many questions `answer_many` works on at once, on each device.
          devices: as the class's.
          cache: as the class's; or a folder, of at most 16 GiB, that keeps them for
            other processes too.
          cache_bytes: as the class's.
          **settings: fields of AgentConfig, PromptConfig or SamplingConfig to change:
            mode="memagent", temperature=0.

        Raises:
          PolicyError: the directory cannot be loaded, with the file and the reason.
          InputError: an argument is of another kind; a setting does not exist or is out
            of range.
        """
        if not isinstance(directory, str | os.PathLike) or not os.fspath(directory):
            raise InputError(
                "directory must be the path of a policy directory or "
                f"hf://org/name@revision, got {shown(directory)}"
            )
        slots, devices = parts.check_sizes(slots, devices)
        from gru_mem_jax.policy.agent_settings import policy_settings
        from gru_mem_jax.policy.files import open_policy_dir
        from gru_mem_jax.policy.hf import load_policy
        from gru_mem_jax.tokenization import TextTokenizer

        files = open_policy_dir(directory)
        own = policy_settings(files)
        if not isinstance(config, AgentConfig):
            config = config_or_settings(config, own)
        config = replace_settings(config, **settings)
        check_taught(own, [config.mode])
        tokenizer = TextTokenizer.from_pretrained(files.root)
        # Before the weights, which may take minutes.
        check_budgets(PromptBuilder(tokenizer, config.prompt), config)
        parts.check_cache(cache, cache_bytes, config)
        if isinstance(cache, str | os.PathLike):
            cache, cache_bytes = parts.make_cache(files, cache, cache_bytes), None
        policy, params = load_policy(files.root)
        tokenizer.check_rows(policy.config.vocab_size)
        return cls(
            (policy, params),
            tokenizer,
            config,
            slots=slots,
            devices=devices,
            cache=cache,
            cache_bytes=cache_bytes,
        )

    def recurrence(self, question: str, context: Context, **kwargs: Any) -> Recurrence:
        """The state machine of one question, for a caller that drives it itself."""
        if isinstance(context, Document) or self.config.keeps_chunks:
            self._keep_documents()
        return Recurrence(self._builder, self.config, question, context, **kwargs)

    def answer(
        self, question: str, context: Context, on_turn: OnTurn | None = None
    ) -> Trajectory:
        """Reads the context and answers the question.

        Args:
          question: text.
          context: the text, the path of a file that holds it, an iterable of its
            pieces (a stream of any length), or a Document.
          on_turn: called with each turn as it ends; it may call the agent itself.

        Returns:
          The trajectory; its `answer` is None if the policy gave none.

        Raises:
          InputError: the question is empty or over its budget, the context is not text,
            or the budgets do not fit in prompt_tokens.
          UnansweredError: the generator, of a server say, gave up a request; it has
            the trajectory so far.
        """
        _check_callback(on_turn)
        if inspect.iscoroutinefunction(on_turn):
            raise InputError(
                "on_turn must be a plain function, got a coroutine function: give it "
                "to answer_async"
            )
        recurrence = self.recurrence(question, context)
        for _, turn in driver.run(self.generator, [recurrence]):
            if on_turn is not None and turn is not None:
                on_turn(turn)
        return _answered(recurrence)

    def stream(self, question: str, context: Context) -> Iterator[Turn]:
        """As `answer`, but yields each turn as it ends; the last is the answer turn."""
        recurrence = self.recurrence(question, context)
        for _, turn in driver.run(self.generator, [recurrence]):
            if turn is not None:
                yield turn
        _answered(recurrence)

    def answer_many(self, questions: Iterable[PairLike]) -> list[Trajectory]:
        """Answers many questions, each on its context, side by side.

        Args:
          questions: (question, context) pairs, or dicts of the two, each taken when it
            can be begun. The random seeds of a question depend on its index. In a list,
            equal contexts are read and chunked once, see `document.share_documents`.

        Returns:
          The trajectories, in the order of the questions; one that the generator gave
          up says why in `failure`.

        Raises:
          InputError: as `answer`, with the index of the question.
        """
        at_once = isinstance(questions, list | tuple)
        pairs = share_documents(inputs.pairs(questions), at_once=at_once)
        begun: list[Recurrence] = []

        def recurrences() -> Iterator[Recurrence]:
            for i, (question, context) in enumerate(pairs):
                begun.append(self._numbered(i, question, context))
                yield begun[-1]

        for _ in driver.run(self.generator, recurrences()):
            pass
        return [recurrence.trajectory for recurrence in begun]

    # -- the same for tasks of an event loop ------------------------------------------

    async def answer_async(
        self, question: str, context: AsyncContext, on_turn: OnTurn | None = None
    ) -> Trajectory:
        """As `answer`, for a task of an event loop.

        Args:
          question: text.
          context: as `answer`'s, which is read in a thread; or an asynchronous iterable
            of texts, which is read in the event loop.
          on_turn: called in the event loop; a coroutine function is awaited.

        A task that is cancelled frees its slot at once.
        """
        _check_callback(on_turn)
        return _answered(await self._run(question, context, on_turn))

    async def stream_async(
        self, question: str, context: AsyncContext
    ) -> AsyncGenerator[Turn, None]:
        """As `stream`, for `async for`."""
        async with contextlib.aclosing(self._turns(question, context)) as turns:
            async for recurrence, turn in turns:
                if turn is None:
                    _answered(recurrence)
                else:
                    yield turn

    async def answer_many_async(
        self, questions: Iterable[AsyncPairLike] | AsyncIterable[AsyncPairLike]
    ) -> list[Trajectory]:
        """As `answer_many`; the iterable of questions may be asynchronous too."""
        from gru_mem_jax.agent import asynchronous

        async def answered(item: tuple[int, inputs.Pair]) -> Trajectory:
            recurrence = await self._run(*item[1], number=item[0])
            return recurrence.trajectory

        return await asynchronous.side_by_side(
            answered, asynchronous.pairs(questions), max(1, self.generator.capacity)
        )

    async def _run(
        self,
        question: str,
        context: AsyncContext,
        on_turn: OnTurn | None = None,
        number: int | None = None,
    ) -> Recurrence:
        turns = self._turns(question, context, number)
        async with contextlib.aclosing(turns):
            async for recurrence, turn in turns:
                run = recurrence
                if on_turn is None or turn is None:
                    continue
                result = on_turn(turn)
                if inspect.isawaitable(result):
                    await result
        return run

    async def _turns(
        self, question: str, context: AsyncContext, number: int | None = None
    ) -> AsyncGenerator[tuple[Recurrence, Turn | None], None]:
        from gru_mem_jax.agent.asynchronous import Pieces, in_thread

        pieces = Pieces(context) if inputs.is_async(context) else None
        caller = join(self.generator)
        try:
            given = context if pieces is None else pieces
            # Here `context` is not asynchronous, which only TypeIs (3.13) could tell.
            make = functools.partial(
                self._numbered,
                number,
                question,
                given,  # type: ignore[arg-type]
            )
            recurrence = await in_thread(make)
            turns = driver.run(caller, [recurrence])
            while (ended := await in_thread(lambda: next(turns, None))) is not None:
                yield ended
        finally:
            caller.cancel()
            if pieces is not None:
                pieces.close()

    def _numbered(
        self, number: int | None, question: str, context: Context
    ) -> Recurrence:
        """The recurrence of a question, with its index among several."""
        if number is None:
            return self.recurrence(question, context)
        try:
            return self.recurrence(question, context, trajectory_id=number)
        except InputError as error:
            raise type(error)(f"questions[{number}]: {error}") from None


def _answered(recurrence: Recurrence) -> Trajectory:
    """The trajectory of a run that has ended; raises UnansweredError if it failed."""
    trajectory = recurrence.trajectory
    if trajectory.failure is not None:
        raise UnansweredError(trajectory)
    return trajectory


def _check_callback(on_turn: object) -> None:
    if on_turn is not None and not callable(on_turn):
        raise InputError(f"on_turn must be a function of a turn, got {shown(on_turn)}")
