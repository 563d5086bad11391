"""What a group of requests that share a prefix costs, with trunks and without.

Both engines compute the prefix once. Without trunks its keys are copied into each slot,
and each row reads its own; with trunks they are stored once and read once for all rows.
The engines run in turn, in one process; figures are medians.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gru_mem_jax.sampling.config import EngineConfig

if TYPE_CHECKING:
    from gru_mem_jax.bench.sampling import BenchConfig


def engine_configs(config: "BenchConfig") -> dict[str, EngineConfig]:
    """Sizes of the engines by name: "shared" has trunks, "unshared" has none."""
    tail = config.memory + config.completion
    plain = EngineConfig(
        slots=config.groups,
        max_length=config.prefix + tail,
        dtype=config.dtype,
    )
    lengths = {"trunk_length": config.prefix, "tail_length": tail}
    return {
        "shared": dataclasses.replace(plain, trunks=1, **lengths),
        "unshared": plain,
    }


def measure(
    config: "BenchConfig", policy: Any, params: Any, log: Callable[[str], None]
) -> dict[str, Any]:
    """Measures a group of `config.groups` requests.

    Returns:
      `shared` and `unshared`: `prefill_seconds`, `prefill_tokens` (computed),
      `decode_seconds` and `decode_tokens_per_s` of the group, `cache_bytes` (of the
      arrays), `programs`; and
      `prefill_ratio`, `decode_ratio`, `cache_ratio`: how many times faster, or smaller,
      it is with trunks. `slots_ratio`: how many times the slots trunks leave room for
      in the memory of the other engine, with a trunk for each group.
    """
    import numpy as np

    from gru_mem_jax.sampling.engine import Engine

    engines = {
        name: Engine(policy, params, sizes)
        for name, sizes in engine_configs(config).items()
    }
    rng = np.random.default_rng(config.seed)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
    log(f"compiling and warming up, {config.groups} rows")
    for repeat in range(config.repeats + 1):
        ids = rng.integers(0, policy.config.vocab_size, (config.groups + 1, 1 << 16))
        for name, engine in engines.items():
            run = _run(engine, ids, config)
            if repeat:
                runs[name].append(run)
                log(
                    f"run {repeat} of {config.repeats}, {name}: "
                    f"prefill {run['prefill_seconds']:.2f} s, "
                    f"decode {run['decode_tokens_per_s']:.0f} tokens/s"
                )
    result: dict[str, Any] = {}
    for name, engine in engines.items():
        result[name] = {
            key: statistics.median(run[key] for run in runs[name])
            for key in runs[name][0]
        }
        result[name]["cache_bytes"] = engine.stats()["cache_bytes"]
        result[name]["programs"] = engine.stats()["programs"]
    shared, plain = result["shared"], result["unshared"]
    whole = config.prefix + config.memory + config.completion
    own = config.memory + config.completion + config.prefix / config.groups
    return result | {
        "prefill_ratio": plain["prefill_seconds"] / shared["prefill_seconds"],
        "decode_ratio": plain["decode_seconds"] / shared["decode_seconds"],
        "cache_ratio": plain["cache_bytes"] / shared["cache_bytes"],
        "slots_ratio": whole / own,
    }


def _run(engine: Any, ids: Any, config: "BenchConfig") -> dict[str, float]:
    """Every prompt with a budget of one token, then again with all.

    The second time the engine still holds the prompts: only decoding remains.
    """
    engine.reset()
    before = engine.stats()["prefill_tokens"]
    first = _time(engine, ids, config, 1)
    computed = engine.stats()["prefill_tokens"] - before
    rest = _time(engine, ids, config, config.completion)
    return {
        "prefill_seconds": first,
        "prefill_tokens": computed,
        "decode_seconds": rest,
        "decode_tokens_per_s": config.groups * config.completion / rest,
    }


def _time(engine: Any, ids: Any, config: "BenchConfig", budget: int) -> float:
    from gru_mem_jax.agent.requests import Request, Segment

    prefix = tuple(ids[-1, : config.prefix].tolist())
    start = time.perf_counter()
    for row in ids[:-1]:
        memory = tuple(row[: config.memory].tolist())
        request = Request(
            prompt=(Segment("chunk", prefix), Segment("memory", memory)),
            max_new_tokens=budget,
            stop_ids=(),
            temperature=0.0,
        )
        engine.submit(request)
    while engine.step():
        pass
    return time.perf_counter() - start
