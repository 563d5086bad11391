"""What an agent is made of, as callers give it: policy, tokenizer and cache."""

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeGuard

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import Generator
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import check_int, shown

if TYPE_CHECKING:
    from gru_mem_jax.policy.files import PolicyDir
    from gru_mem_jax.policy.functional import Params, Policy
    from gru_mem_jax.sampling.prefix_store import PrefixStore


def check_sizes(slots: object, devices: object) -> tuple[int, int | None]:
    """Raises InputError unless the two are numbers of slots and of devices."""
    if devices is not None:
        devices = check_int("devices", devices, 1)
    return check_int("slots", slots, 1), devices


def check_policy(policy: object) -> None:
    """Raises InputError unless it is a generator, or a policy with its params."""
    if isinstance(policy, tuple | list):
        made = len(policy) == 2 and hasattr(policy[0], "sampling_params")
        if made and isinstance(policy[1], Mapping) and "layers" in policy[1]:
            return
        got = f"({', '.join(type(part).__name__ for part in policy)})"
    else:
        parts = ("capacity", "submit", "step", "cancel")
        whole = all(hasattr(policy, name) for name in parts)
        if whole and not isinstance(policy, type):
            return
        got = shown(policy)
        if isinstance(policy, str | os.PathLike):
            got += " (GRUMemAgent.from_pretrained loads a directory)"
    raise InputError(
        "policy must be a generator, with capacity, submit, step and cancel, or a pair "
        f"(policy, params) of load_policy; got {got}"
    )


def _is_encoder(tokenizer: object) -> TypeGuard[Encoder]:
    return hasattr(tokenizer, "encode_control") and not isinstance(tokenizer, type)


def as_encoder(tokenizer: object) -> Encoder:
    """The Encoder of a tokenizer.

    Raises:
      InputError: it is neither an Encoder nor of transformers.
      PolicyError: it cannot be used.
    """
    if _is_encoder(tokenizer):
        return tokenizer
    if not hasattr(tokenizer, "special_tokens_map") or isinstance(tokenizer, type):
        raise InputError(
            "tokenizer must be an Encoder or a fast tokenizer of transformers, got "
            f"{shown(tokenizer)}"
        )
    from gru_mem_jax.tokenization import TextTokenizer

    return TextTokenizer.from_transformers(tokenizer)


def check_cache(cache: object, cache_bytes: object, config: AgentConfig) -> None:
    """Raises InputError unless the two are of use to an agent of this configuration."""
    if cache_bytes is not None:
        check_int("cache_bytes", cache_bytes, 0)
    if cache is None:
        return
    if not config.chunk_first:
        raise InputError(
            "cache: nothing of a document can be kept for the next question where "
            "prompts are memory_first; set order to chunk_first, if the policy was "
            "trained so"
        )
    if isinstance(cache, str | os.PathLike) and os.fspath(cache):
        return
    if not all(callable(getattr(cache, name, None)) for name in ("find", "put")):
        raise InputError(f"cache must be a folder or a PrefixStore, got {shown(cache)}")
    if cache_bytes is not None:
        raise InputError("cache_bytes: a PrefixStore has its own memory_bytes")


def cache_for_documents(
    cache_bytes: int | None,
) -> "tuple[PrefixStore, Callable[[], None]]":
    """A store in memory, and a function that makes it begin to keep.

    Most texts are read once: keys are kept from the first Document on, or from the
    first text that may be read again.
    """
    from gru_mem_jax.sampling.prefix_store import PrefixStore, default_memory_bytes

    most = default_memory_bytes() if cache_bytes is None else cache_bytes
    store = PrefixStore("of one engine", memory_bytes=0)

    def keep() -> None:
        store.memory_bytes = most

    return store, keep


def make_cache(
    files: "PolicyDir", folder: str | os.PathLike[str], cache_bytes: int | None
) -> "PrefixStore":
    """A store in a folder, for the engine that `make_engine` makes of a policy."""
    from gru_mem_jax.sampling.config import EngineConfig
    from gru_mem_jax.sampling.footprint import engine_dtype
    from gru_mem_jax.sampling.prefix_store import PrefixStore, default_memory_bytes

    memory = default_memory_bytes() if cache_bytes is None else cache_bytes
    return PrefixStore.for_policy(files, engine_dtype(EngineConfig()), folder, memory)


def make_engine(
    policy: "tuple[Policy, Params]",
    builder: PromptBuilder,
    config: AgentConfig,
    slots: int,
    store: "PrefixStore | None",
    devices: int | None = 1,
) -> Generator:
    """Engines for prompts and completions within the budgets.

    Args:
      policy: with params in either form.
      builder, config: of the prompts.
      slots: of each engine.
      store: that they share.
      devices: of this process that have an engine; None: all.
    """
    from gru_mem_jax.sampling import engine_pool
    from gru_mem_jax.sampling.config import EngineConfig
    from gru_mem_jax.sampling.prefix_store import with_trunks

    length = config.prompt_tokens + config.completion_tokens
    sizes = EngineConfig(slots=slots, max_length=length)
    if store is not None or config.reads_ahead:
        sizes = with_trunks(sizes, builder, config)
    mesh = None if devices == 1 else engine_pool.local_mesh(devices)
    return engine_pool.make(*policy, sizes, builder.encoder, mesh, store)
