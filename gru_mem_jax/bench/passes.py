"""What passes over the same chunks cost, with kept keys of chunks and without.

Each pass is a scan: a request for each chunk, side by side, with a memory that is new.
With kept chunks their keys come from a `PrefixStore` from the second pass on, and only
what stands behind them is computed. FLOPs are counted by `planning.work.turn_flops`,
from the tokens that the engine says it shared.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gru_mem_jax.sampling.config import EngineConfig

if TYPE_CHECKING:
    from gru_mem_jax.bench.sampling import BenchConfig


def engine_configs(config: "BenchConfig") -> dict[str, EngineConfig]:
    """Sizes of the engines by name: "shared" keeps chunks, "unshared" keeps nothing."""
    tail = config.memory + config.completion
    plain = EngineConfig(
        slots=config.batch, max_length=config.prefix + tail, dtype=config.dtype
    )
    lengths = {"trunk_length": config.prefix, "tail_length": tail}
    return {
        "shared": dataclasses.replace(plain, trunks=config.batch, **lengths),
        "unshared": plain,
    }


def measure(
    config: "BenchConfig", policy: Any, params: Any, log: Callable[[str], None]
) -> dict[str, Any]:
    """Measures `config.passes` passes over `config.batch` chunks.

    Returns:
      `shared` and `unshared`: `gflops`, `seconds` and `tokens_computed` of all passes,
      `times_one_pass` (their FLOPs by those of the first), `store_bytes`; and
      `gflops_ratio` and `seconds_ratio`: how many times less it is with kept chunks.
    """
    from gru_mem_jax.sampling.engine import Engine
    from gru_mem_jax.sampling.prefix_store import PrefixStore, default_memory_bytes

    sizes = engine_configs(config)
    result: dict[str, Any] = {}
    for name in ("shared", "unshared"):
        store = None
        if name == "shared":
            store = PrefixStore("of one engine", default_memory_bytes(), evicts=False)
        engine = Engine(policy, params, sizes[name], store=store)
        log(f"{name}: compiling and warming up")
        runs = []
        for repeat in range(config.repeats + 1):
            if store is not None:
                store.clear()
            runs.append(_passes(engine, policy.config, config, repeat))
        result[name] = min(runs[1:], key=lambda run: run["seconds"])
        result[name]["store_bytes"] = store.stats()["memory_bytes"] if store else 0
        log(f"{name}: {result[name]['seconds']:.2f} s")
        del engine
    kept, computed = result["shared"], result["unshared"]
    return result | {
        f"{name}_ratio": computed[name] / kept[name] for name in ("gflops", "seconds")
    }


def _passes(
    engine: Any, shape: Any, config: "BenchConfig", repeat: int
) -> dict[str, float]:
    import numpy as np

    from gru_mem_jax.planning.work import turn_flops

    rng = np.random.default_rng((config.seed, repeat))
    chunks = rng.integers(0, shape.vocab_size, (config.batch, config.prefix)).tolist()
    flops, computed = [], 0
    start = time.perf_counter()
    for _ in range(config.passes or 1):
        memory = rng.integers(0, shape.vocab_size, config.memory).tolist()
        flops.append(0.0)
        engine.reset()  # a long text has more chunks than there are slots
        for completion in _scan(engine, config, chunks, memory):
            shared = completion.shared_prompt_tokens
            prompt = config.prefix + config.memory
            computed += prompt - shared
            flops[-1] += turn_flops(shape, prompt, len(completion.ids), shared)
    return {
        "seconds": time.perf_counter() - start,
        "gflops": sum(flops) / 1e9,
        "times_one_pass": sum(flops) / flops[0],
        "tokens_computed": computed,
    }


def _scan(
    engine: Any, config: "BenchConfig", chunks: list[list[int]], memory: list[int]
) -> list[Any]:
    """The completions of one request for each chunk."""
    from gru_mem_jax.agent.requests import Request, Segment

    for chunk in chunks:
        prompt = (Segment("chunk", tuple(chunk)), Segment("memory", tuple(memory)))
        engine.submit(
            Request(
                prompt=prompt,
                max_new_tokens=config.completion,
                stop_ids=(),
                temperature=0.0,
            )
        )
    ended: list[Any] = []
    while found := engine.step():
        ended += (completion for _, completion in found)
    return ended
