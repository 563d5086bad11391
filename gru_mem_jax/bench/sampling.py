"""Tokens per second of the engines, and of a peer on the same weights and machine.

All devices of this process are measured at once, in tensor groups of an engine each.
Prompts are random and share no prefix. `prefill` counts prompt tokens until each row
has its first new token; `decode` counts new tokens after that. Runs of engine and peer
alternate, so that other load affects both; figures are medians, and the first run of
each (which compiles) is not counted. With `constrained` each run decodes once more, the
same prompts, with rows that are held to a form: see `constrained`. With `groups` the
requests share a prefix instead: see `groups`. With `passes` chunks are read several
times: see `passes`.
"""

import contextlib
import dataclasses
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

from gru_mem_jax import machine
from gru_mem_jax.bench import groups, passes
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.grammar.automaton import Constraint
from gru_mem_jax.records import check_choice, check_int, plain_numbers
from gru_mem_jax.sampling.config import DTYPES, EngineConfig

PEERS = ("huggingface",)

# The Qwen2 shape that is measured without a policy: 26.75M weights.
DEFAULT_SHAPE = {
    "family": "qwen2",
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Settings of `gru-mem bench sampling`.

    Attributes:
      policy: a policy directory (no tokenizer is needed); None: random weights.
      batch: B, rows that run side by side in each engine.
      prompt_tokens: P, of every row.
      new_tokens: N, of every row; at least 2.
      dtype: "float32" or "bfloat16".
      peer: None, or "huggingface": `generate` of transformers (torch) on the same
        weights, in its own process.
      constrained: measure constrained rows too.
      groups: G, requests that share a prefix; None: they share none.
      passes: K, over `batch` chunks; None: no chunk is read again.
      prefix: tokens that the requests of a group have in common, or of a chunk.
      memory: tokens that each prompt has of its own; at least 1.
      completion: tokens that each draws; at least 2.
      repeats: counted runs of engine and peer.
      seed: of the prompts, and of random weights.
    """

    policy: str | None = None
    batch: int = 8
    prompt_tokens: int = 512
    new_tokens: int = 128
    dtype: str = "float32"
    peer: str | None = None
    constrained: bool = False
    groups: int | None = None
    passes: int | None = None
    prefix: int = 900
    memory: int = 150
    completion: int = 60
    repeats: int = 3
    seed: int = 0

    def __post_init__(self):
        plain_numbers(self)
        least = {"batch": 1, "prompt_tokens": 1, "new_tokens": 2, "repeats": 1}
        least |= {"prefix": 1, "memory": 1, "completion": 2}
        alone = [n for n in ("groups", "passes") if getattr(self, n) is not None]
        least |= dict.fromkeys(alone, 1)
        for name, low in least.items():
            check_int(name, getattr(self, name), low)
        check_choice("dtype", self.dtype, DTYPES)
        if self.peer is not None:
            check_choice("peer", self.peer, PEERS)
        for name, given in (("constrained", self.constrained), ("peer", self.peer)):
            alone += [name] if given and alone else []
        if len(alone) > 1:
            raise InputError(
                f"{' and '.join(alone)}: groups and passes are measured alone"
            )

    @property
    def engine(self) -> EngineConfig:
        """Sizes of the engine that is measured; of groups the larger one's."""
        if self.groups is not None:
            return groups.engine_configs(self)["unshared"]
        if self.passes is not None:
            return passes.engine_configs(self)["shared"]
        return EngineConfig(
            slots=self.batch,
            max_length=self.prompt_tokens + self.new_tokens,
            dtype=self.dtype,
        )


def measure(config: BenchConfig, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Measures, and logs its progress.

    Args:
      config: what to measure.
      log: takes a line of text.

    Returns:
      The settings; `device`, `devices`, `engines`, `threads`; `prefill_tokens_per_s`
      and `decode_tokens_per_s` in all, and each with `_per_device`, with `constrained`
      `constrained_decode_tokens_per_s` too; `slot_occupancy` of a second workload of
      twice as many rows whose lengths differ, so that slots are refilled;
      `compile_seconds`, `programs`, `peak_rss_mb`; with a peer (which has one
      device), its name, rates and `peak_rss_mb` under `peer`, and `prefill_ratio` and
      `decode_ratio`, one device of ours by the peer. With groups or passes, what
      `groups.measure` or `passes.measure` returns, of one engine.

    Raises:
      InputError: the policy cannot be loaded, the rows exceed the memory, or the peer
        is not installed.
      RunError: the peer failed.
    """
    import jax

    _check_fits(config)
    policy, params = _load(config)
    device = jax.local_devices()[0].device_kind
    where: dict[str, Any] = {"device": device, "threads": machine.cores()}
    if config.groups is not None or config.passes is not None:
        kind = groups if config.groups is not None else passes
        figures = kind.measure(config, policy, params, log)
        return dataclasses.asdict(config) | where | figures
    bench = _EngineBench(config, policy, params)
    rates: dict[str, list[_Rates]] = {"engine": [], "peer": []}
    with contextlib.ExitStack() as stack:
        peer = None
        if config.peer:
            directory = config.policy or stack.enter_context(_exported(policy, params))
            peer = stack.enter_context(_peer(directory, config))
        del params
        log(bench.engine.attention)
        log(f"compiling and warming up, {config.batch} rows")
        bench.rates()
        if peer:
            peer.rates()
        for repeat in range(1, config.repeats + 1):
            rates["engine"].append(bench.rates())
            log(f"run {repeat} of {config.repeats}: {rates['engine'][-1].line()}")
            if peer:
                rates["peer"].append(peer.rates())
                log(f"  {config.peer}: {rates['peer'][-1].line()}")
        peer_rss = peer.peak_rss_mb if peer else None
    result = dataclasses.asdict(config) | {
        **where,
        **bench.devices(),
        **_medians(rates["engine"]),
        "slot_occupancy": bench.occupancy(),
        "compile_seconds": bench.engine.stats()["compile_seconds"],
        "programs": bench.engine.stats()["programs"],
        "peak_rss_mb": peak_rss_mb(),
    }
    for key in _medians(rates["engine"]):
        result[f"{key}_per_device"] = result[key] / result["devices"]
    if config.peer:
        theirs = _medians(rates["peer"])
        result["peer"] = {"name": config.peer, **theirs, "peak_rss_mb": peer_rss}
        for key, value in theirs.items():
            ours = result[f"{key}_per_device"]
            result[key.replace("tokens_per_s", "ratio")] = ours / value
    return result


class _Rates(NamedTuple):
    """Tokens per second of one run."""

    prefill: float
    decode: float
    constrained_decode: float | None = None

    def line(self) -> str:
        more = ""
        if self.constrained_decode is not None:
            more = f", constrained {self.constrained_decode:.0f}"
        return f"prefill {self.prefill:.0f}, decode {self.decode:.0f}{more} tokens/s"


class _EngineBench:
    """The engines, and the requests they are timed on."""

    def __init__(self, config: BenchConfig, policy: Any, params: Any):
        import numpy as np

        from gru_mem_jax.bench.constrained import turn_constraint
        from gru_mem_jax.sampling import engine_pool

        self._config = config
        self._vocab = policy.config.vocab_size
        self._rng = np.random.default_rng(config.seed)
        mesh = engine_pool.local_mesh()
        self.engine = engine_pool.make(policy, params, config.engine, mesh=mesh)
        self._rows = self.engine.capacity
        self._constraint = None
        if config.constrained:
            self._constraint = turn_constraint(self._vocab, config.new_tokens)
        self._devices = mesh.size

    def devices(self) -> dict[str, int]:
        """How many there are, and how many engines they have."""
        return {"devices": self._devices, "engines": self._rows // self._config.batch}

    def rates(self) -> _Rates:
        """One run: every prompt with a budget of one token, then again with all.

        From then on the slots still hold the prompts: only decoding remains.
        """
        rows, length = self._rows, self._config.prompt_tokens
        budget = self._config.new_tokens
        prompts = [self._prompt(length) for _ in range(rows)]
        self.engine.reset()
        first = self._time(prompts, [1] * rows)
        rest = self._time(prompts, [budget] * rows)
        rates = _Rates(rows * length / first, rows * budget / rest)
        if self._constraint is None:
            return rates
        rest = self._time(prompts, [budget] * rows, self._constraint)
        return rates._replace(constrained_decode=rows * budget / rest)

    def occupancy(self) -> float:
        """Share of decoded rows that are new tokens, where lengths differ."""
        most_prompt, most_new = self._config.prompt_tokens, self._config.new_tokens
        prompts, budgets = [], []
        for _ in range(2 * self._rows):
            length = self._rng.integers((most_prompt + 1) // 2, most_prompt + 1)
            prompts.append(self._prompt(int(length)))
            budgets.append(int(self._rng.integers((most_new + 3) // 4, most_new + 1)))
        before = self.engine.stats()
        self._time(prompts, budgets)
        after = self.engine.stats()
        steps = after["decode_steps"] - before["decode_steps"]  # of all engines
        return (after["new_tokens"] - before["new_tokens"]) / steps / self._config.batch

    def _prompt(self, length: int) -> tuple[int, ...]:
        return tuple(self._rng.integers(0, self._vocab, length).tolist())

    def _time(
        self,
        prompts: list[tuple[int, ...]],
        budgets: list[int],
        constraint: Constraint | None = None,
    ) -> float:
        from gru_mem_jax.agent.requests import Request, Segment

        requests = [
            Request(
                prompt=(Segment("chunk", ids),),
                max_new_tokens=budget,
                stop_ids=(),
                temperature=0.0,
                constraint=constraint,
                pin=number,  # again where its prompt is held
            )
            for number, (ids, budget) in enumerate(zip(prompts, budgets))
        ]
        start = time.perf_counter()
        for request in requests:
            self.engine.submit(request)
        while self.engine.step():
            pass
        return time.perf_counter() - start


class _Peer:
    """The peer's process: a line of JSON in, a line of JSON out."""

    def __init__(self, process: subprocess.Popen, errors: TextIO, config: BenchConfig):
        self._process = process
        self._errors = errors
        self._config = config
        self._seed = config.seed
        self.peak_rss_mb = 0.0

    def rates(self) -> _Rates:
        """One run of `generate`."""
        rows, length = self._config.batch, self._config.prompt_tokens
        budget = self._config.new_tokens
        self._seed += 1
        job = {
            "batch": rows,
            "prompt_tokens": length,
            "new_tokens": budget,
            "seed": self._seed,
        }
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        except (OSError, json.JSONDecodeError) as error:
            raise self._failure() from error
        self.peak_rss_mb = answer["peak_rss_mb"]
        return _Rates(
            rows * length / answer["prefill_seconds"],
            rows * (budget - 1) / answer["decode_seconds"],
        )

    def _failure(self) -> Exception:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        last = lines[-1] if lines else f"it ended with status {status}"
        if status == InputError.exit_status:
            return InputError(last)
        return RunError(f"the peer {self._config.peer} failed: {last}")


@contextlib.contextmanager
def _peer(directory: str, config: BenchConfig) -> Iterator[_Peer]:
    command = [sys.executable, "-m", "gru_mem_jax.bench.peers", directory]
    command += [config.dtype, str(machine.cores())]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield _Peer(process, errors, config)
        finally:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def _exported(policy: Any, params: Any) -> Iterator[str]:
    from gru_mem_jax.policy.hf_export import export_policy

    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder) / "policy"
        export_policy(policy, params, directory)
        yield str(directory)


def _check_fits(config: BenchConfig) -> None:
    """Raises InputError for rows that exceed the memory, before weights are read."""
    from gru_mem_jax.policy.config import PolicyConfig
    from gru_mem_jax.policy.files import open_policy_dir
    from gru_mem_jax.policy.functional import make_policy
    from gru_mem_jax.policy.hf import load_config
    from gru_mem_jax.sampling.footprint import check_engine_fits

    if config.policy is None:
        shape = PolicyConfig(**DEFAULT_SHAPE)
    else:
        shape = load_config(open_policy_dir(config.policy))
    advice = "lower batch, prompt_tokens or new_tokens"
    check_engine_fits(make_policy(shape), config.engine, advice=advice)


def _load(config: BenchConfig) -> tuple[Any, Any]:
    import jax

    if config.policy is not None:
        from gru_mem_jax.policy.hf import load_policy

        return load_policy(config.policy, config.dtype, form="sampling")
    from gru_mem_jax.policy.config import PolicyConfig
    from gru_mem_jax.policy.functional import make_policy

    policy = make_policy(PolicyConfig(**DEFAULT_SHAPE))
    return policy, policy.init(jax.random.key(config.seed))


def _medians(rates: list[_Rates]) -> dict[str, float]:
    return {
        f"{name}_tokens_per_s": statistics.median(getattr(r, name) for r in rates)
        for name in _Rates._fields
        if getattr(rates[0], name) is not None
    }


def peak_rss_mb() -> float:
    """Peak memory of this process, in MB of 2**20 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
