"""Policies as an evaluation meets them: first looked at, then ready to be timed."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from gru_mem_jax.agent.config import MODES, AgentConfig, check_budgets, longest_turn
from gru_mem_jax.agent.prompts import PromptBuilder, PromptKind
from gru_mem_jax.agent.requests import Generator
from gru_mem_jax.agent.turn_form import turn_constraint
from gru_mem_jax.grammar.automaton import Constraint
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


def _forms(
    builder: PromptBuilder, agents: Sequence[AgentConfig]
) -> list[Constraint | None]:
    """The forms of all completions; a baseline's is that of an answer."""
    turns: list[tuple[AgentConfig, PromptKind]] = [(a, a.memory_kind) for a in agents]
    turns += [(agent, "answer") for agent in agents]
    return [turn_constraint(builder, *turn) for turn in turns]


class LocalReader:
    """A policy directory, checked, without its weights: a `Reader`."""

    def __init__(self, path: str, config: AgentConfig):
        from gru_mem_jax.policy.files import open_policy_dir
        from gru_mem_jax.policy.hf import load_config
        from gru_mem_jax.tokenization import TextTokenizer

        self.directory = open_policy_dir(path)
        self.encoder = TextTokenizer.from_pretrained(self.directory.root)
        self.shape = load_config(self.directory)
        self.encoder.check_rows(self.shape.vocab_size)
        self.builder = PromptBuilder(self.encoder, config.prompt)

    def facts(self) -> dict[str, str]:
        """What it is recognised by."""
        from gru_mem_jax.runs.checkpoints.store import weights_digest

        return {"sha256": weights_digest(self.directory)}

    def warm(
        self,
        config: AgentConfig,
        engine_config: EngineConfig,
        drawn: "Sequence[DrawnSet]",
        asking: "Asking",
        cache_bytes: int | None,
        note: Callable[[str], None],
    ) -> Warm:
        """An engine on this machine's devices, with its programs compiled."""
        from gru_mem_jax.evaluation.queue import share_a_document
        from gru_mem_jax.policy.functional import make_policy
        from gru_mem_jax.policy.hf import load_policy
        from gru_mem_jax.sampling import engine_pool
        from gru_mem_jax.sampling.footprint import (
            check_engine_fits,
            engine_dtype,
            size_note,
            slots_note,
            with_fitting_slots,
            with_tensor,
        )
        from gru_mem_jax.sampling.prefix_store import (
            PrefixStore,
            default_memory_bytes,
            with_trunks,
        )

        builder = self.builder
        agents = agents_in(builder, config, asking.modes)
        longest = max(longest_turn(builder, each) for each in agents)
        window = None
        if set(asking.modes) & SHOW_TEXT:
            window = asking.window or self.shape.max_position_embeddings
        engine_config = engine_config.sized_for(max(longest, window or 0))
        mesh, policy = engine_pool.local_mesh(), make_policy(self.shape)
        devices = list(mesh.devices.flat)
        engine_config = with_tensor(policy, engine_config, devices)
        whole = engine_config
        engine_config = with_fitting_slots(policy, whole, devices)
        if (line := slots_note(policy, whole, engine_config, devices)) is not None:
            note(line)
        store = None
        kept = any(agent.keeps_chunks for agent in agents)
        kept = kept or (config.chunk_first and share_a_document(drawn))
        if cache_bytes != 0 and kept:
            store = PrefixStore("of one engine", cache_bytes or default_memory_bytes())
        if store is not None or config.reads_ahead:
            engine_config = with_trunks(engine_config, builder, config)
        check_engine_fits(
            policy, engine_config, devices=devices, tensor=engine_config.tensor
        )
        if (line := size_note(policy, engine_config, devices)) is not None:
            note(line)
        # Cut over the devices, and let go of where that was no engine's own.
        loaded = load_policy(
            self.directory.root,
            engine_dtype(engine_config),
            mesh=mesh if mesh.size > 1 else None,
            form="sampling",
        )
        engine = engine_pool.make(*loaded, engine_config, self.encoder, mesh, store)
        del loaded
        note(engine.attention)
        note("compiling the sampling programs")
        programs = engine.warm_up(constraints=_forms(builder, agents))
        seconds = engine.stats()["compile_seconds"]
        note(f"{programs} programs ready after {seconds:.1f} s")

        def forget_documents() -> None:
            if store is not None:
                store.clear()

        def forget() -> None:
            forget_documents()
            engine.reset()

        return Warm(
            generator=engine,
            window=min(window or longest, engine_config.max_length),
            forget_documents=forget_documents,
            forget=forget,
        )
