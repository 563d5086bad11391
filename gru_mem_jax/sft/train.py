"""Supervised training of a tiny policy from a structured start, and what it leaves."""

import ctypes
import dataclasses
import pathlib
import queue
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from gru_mem_jax.agent.config import AgentConfig, check_budgets
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import SamplingConfig
from gru_mem_jax.data.turns import SupervisedTurn
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.parallelism import device_memory
from gru_mem_jax.policy.files import open_policy_dir, tokenizer_files
from gru_mem_jax.policy.functional import Params, Policy, make_policy
from gru_mem_jax.policy.hf import load_policy
from gru_mem_jax.sampling.footprint import size_text
from gru_mem_jax.sft.config import SFTConfig
from gru_mem_jax.sft.packing import PackedBatch, pack, packed_batches
from gru_mem_jax.sft.progress import Progress
from gru_mem_jax.sft.step import correct_targets, make_optimizer, make_step
from gru_mem_jax.tiny import tokenizer as word_tokenizer
from gru_mem_jax.tiny.structured import structured_init
from gru_mem_jax.tiny.synthetic import SyntheticConfig
from gru_mem_jax.tiny.turns import OracleTurns, synthetic_turns
from gru_mem_jax.tokenization import TextTokenizer

POLICY_FOLDER = "policy"
_HELD_OUT_SEED = 1_000_003  # the contexts that training is watched on
_AHEAD = 16  # batches made ahead of the learner


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTResult:
    """What a run left.

    Attributes:
      policy_dir: a Hugging Face directory.
      exact: share of held-out turns that are right token for token, teacher-forced, by
        "KIND", "KIND/TASK", "gated/with_evidence" and "gated/without_evidence".
      loss: mean of the last 100 steps, nats a token.
      seconds: wall-clock, compilation and evaluation included.
    """

    policy_dir: pathlib.Path
    exact: dict[str, float]
    loss: float
    seconds: float


def run(
    config: SFTConfig, out_dir: str | pathlib.Path, *, quiet: bool = False
) -> SFTResult:
    """Trains a policy and saves it.

    Leaves in `out_dir`: policy/ (Hugging Face: weights, tokenizer, gru_mem.json),
    checkpoints/ (Orbax) and metrics.jsonl.

    Args:
      config: all that decides the outcome.
      out_dir: made if need be; its policy/ must not be there.
      quiet: no progress and no table on stderr.

    Raises:
      InputError: out_dir cannot be used, or the configuration does not fit together.
      RunError: the loss is not finite, or something cannot be written.
    """
    from gru_mem_jax.policy.hf import export_policy
    from gru_mem_jax.runs.checkpoints.manager import Checkpoints
    from gru_mem_jax.runs.metrics import MetricsWriter

    started = time.perf_counter()
    out = _prepare(out_dir)
    _keep_freed_memory()
    policy, params, encoder, files = _start(config)
    turns = config.turns.oracle(encoder, agent_settings(config))
    held_out = _held_out(config, turns)
    with (
        MetricsWriter(out / "metrics.jsonl") as metrics,
        Progress(config.steps, quiet=quiet) as progress,
    ):
        params, loss = _train(
            config, policy, params, turns, held_out, metrics, progress
        )
        exact = exact_turns(policy, params, held_out, config)
        progress.table(exact)
    params = jax.device_get(params)
    with Checkpoints(out / "checkpoints") as checkpoints:
        checkpoints.save(
            config.steps,
            {"params": params},
            {"config": policy.config.to_hf(), "seed": config.seed},
            files=files,
        )
    export_policy(
        policy,
        params,
        out / POLICY_FOLDER,
        tokenizer_files=files,
        agent_settings=agent_settings(config),
    )
    seconds = time.perf_counter() - started
    progress.done(out, seconds)
    return SFTResult(
        policy_dir=out / POLICY_FOLDER, exact=exact, loss=loss, seconds=seconds
    )


def plan(config: SFTConfig) -> list[str]:
    """Checks a configuration as `run` will, trains nothing; lines to read before.

    Raises:
      InputError: something does not fit together.
      PolicyError: the policy to go on from cannot be used.
    """
    policy, params, encoder, _ = _start(config)
    turns = _held_out(config, config.turns.oracle(encoder, agent_settings(config)))
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    longest = max(map(len, turns))
    if longest > config.row_tokens:
        raise InputError(
            f"a turn has {longest} tokens, more than a row of row_tokens "
            f"{config.row_tokens}; raise it"
        )
    # Adam's two moments, gradients and weights; logits and scores of a batch.
    shape, tokens = policy.config, config.rows * config.row_tokens
    batch = tokens * shape.num_attention_heads * config.row_tokens
    batch = 4 * (batch * shape.num_hidden_layers + tokens * shape.vocab_size // 2)
    memory = 4 * 4 * weights + 2 * batch
    limit = device_memory()
    over = f": more than the {size_text(limit)} that there are; may not fit"
    return [
        f"policy: {shape.family}, {weights:,} weights, from "
        + (config.policy or "a structured start"),
        f"a step: {config.rows} rows of {config.row_tokens} tokens; turns have up to "
        f"{longest}, {sum(map(len, turns)) / len(turns):.0f} in the mean",
        f"memory by formula: {size_text(memory)} beside the program itself"
        + (over if limit is not None and memory > limit else ""),
    ]


def _check_budgets(config: SFTConfig, encoder: TextTokenizer) -> None:
    agent = agent_settings(config)
    check_budgets(PromptBuilder(encoder, agent.prompt), agent)


def agent_settings(config: SFTConfig) -> AgentConfig:
    """How a policy trained so is meant to be run; greedily, for it is tiny."""
    budgets = config.question_tokens + config.memory_tokens + config.data.chunk_tokens
    return AgentConfig(
        chunk_size=config.data.chunk_tokens,
        question_tokens=config.question_tokens,
        memory_tokens=config.memory_tokens,
        completion_tokens=config.completion_tokens,
        prompt_tokens=budgets + 32,
        prompt=config.prompt,
        sampling=SamplingConfig(temperature=0.0),
    )


def exact_turns(
    policy: Policy, params: Params, turns: Sequence[SupervisedTurn], config: SFTConfig
) -> dict[str, float]:
    """Share of turns whose every token is the most likely one, given those before.

    Args:
      policy: the network.
      params: its weights.
      turns: what is looked at.
      config: sizes of the packed rows.

    Returns:
      By kind, kind and task, and for gated turns with and without evidence.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    for bins, batch in _in_order(turns, config):
        correct = np.asarray(correct_targets(policy, params, batch))
        start = 0
        for turn in (turn for row in bins for turn in row):
            end = start + len(turn.completion)
            exact = bool(correct[start:end].all())
            start = end
            right[turn.kind].append(exact)
            right[f"{turn.kind}/{turn.task}"].append(exact)
            if turn.kind == "gated":
                which = "with" if turn.evidence else "without"
                right[f"gated/{which}_evidence"].append(exact)
    return {name: float(np.mean(values)) for name, values in sorted(right.items())}


def _in_order(
    turns: Sequence[SupervisedTurn], config: SFTConfig
) -> Iterator[tuple[list[list[SupervisedTurn]], PackedBatch]]:
    """Batches of the turns in their order, the last one part empty."""
    targets = config.rows * config.row_tokens // 2
    bins: list[list[SupervisedTurn]] = [[]]
    used = held = 0
    for turn in turns:
        if used + len(turn) > config.row_tokens:
            bins.append([])
            used = 0
        if len(bins) > config.rows or held + len(turn.completion) > targets:
            bins = bins[: config.rows]
            yield bins, _padded(bins, config, targets)
            bins, used, held = [[]], 0, 0
        bins[-1].append(turn)
        used += len(turn)
        held += len(turn.completion)
    yield bins, _padded(bins, config, targets)


def _padded(
    bins: list[list[SupervisedTurn]], config: SFTConfig, targets: int
) -> PackedBatch:
    missing: list[list[SupervisedTurn]] = [[] for _ in range(config.rows - len(bins))]
    return pack(bins + missing, config.row_tokens, targets)


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed memory instead of handing it back to the system.

    On CPU, XLA frees a step's work space after the step, and the system would clear
    every page of it again: a fifth of the time. Elsewhere, and with other C libraries,
    nothing happens.
    """
    if jax.default_backend() != "cpu":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    m_trim_threshold, m_mmap_max = -1, -4  # of malloc.h
    mallopt(m_trim_threshold, 2**31 - 1)
    mallopt(m_mmap_max, 0)


def _prepare(out_dir: str | pathlib.Path) -> pathlib.Path:
    out = pathlib.Path(out_dir)
    for name in (POLICY_FOLDER, "checkpoints"):
        if (out / name).exists():
            raise InputError(
                f"{out / name} is there already; choose another folder or remove it"
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: {error.strerror}") from error
    return out


def _start(
    config: SFTConfig,
) -> tuple[Policy, Params, TextTokenizer, dict[str, bytes]]:
    """Policy, weights, tokenizer and its files, from scratch or from a directory.

    Budgets are judged when there is a tokenizer, before weights are read.
    """
    if config.policy is not None:
        directory = open_policy_dir(config.policy)
        encoder = TextTokenizer.from_pretrained(directory.root)
        _check_budgets(config, encoder)
        policy, params = load_policy(directory.root, "float32")
        encoder.check_rows(policy.config.vocab_size)
        return policy, params, encoder, tokenizer_files(directory)
    with tempfile.TemporaryDirectory() as scratch:
        names = word_tokenizer.save(scratch)
        encoder = TextTokenizer.from_pretrained(scratch)
        files = {n: (pathlib.Path(scratch) / n).read_bytes() for n in names}
    _check_budgets(config, encoder)
    pad = encoder.encode_control(word_tokenizer.END_OF_TEXT)[0]
    shape = config.model.policy_config(encoder.vocab_size, encoder.stop_ids[0], pad)
    rng = jax.random.key(config.seed)
    params = structured_init(
        shape, rng, config.model.structure, word_tokenizer.canonical_ids()
    )
    return make_policy(shape), jax.tree.map(jax.numpy.asarray, params), encoder, files


def _held_out(config: SFTConfig, turns: OracleTurns) -> list[SupervisedTurn]:
    data = dataclasses.replace(config.data, split="test", seed=_HELD_OUT_SEED)
    stream = synthetic_turns(data, turns, config.seed)
    return [next(stream) for _ in range(config.eval_turns)]


def _batches(config: SFTConfig, encoder_turns: OracleTurns) -> Iterator[PackedBatch]:
    """Batches of short chunks, then of whole ones."""
    short = dataclasses.replace(
        agent_settings(config), chunk_size=config.short_data.chunk_tokens
    )
    short_turns = config.turns.oracle(encoder_turns.encoder, short)
    stages: tuple[tuple[int, SyntheticConfig, OracleTurns], ...] = (
        (config.short_steps, config.short_data, short_turns),
        (config.steps - config.short_steps, config.data, encoder_turns),
    )
    for stage, (steps, data, turns) in enumerate(stages):
        seed = 2 * config.seed + stage
        data = dataclasses.replace(data, seed=data.seed * 1_000_003 + seed)
        stream = packed_batches(
            synthetic_turns(data, turns, seed),
            rows=config.rows,
            row_tokens=config.row_tokens,
            pool_turns=config.pool_turns,
            seed=seed,
        )
        for _ in range(steps):
            yield next(stream)


def _ahead(batches: Iterator[Any]) -> Iterator[Any]:
    """The same items, made by a thread while the learner works."""
    ready: queue.Queue = queue.Queue(_AHEAD)
    stop = threading.Event()

    def put(item) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def make() -> None:
        try:
            for batch in batches:
                if stop.is_set():
                    return
                put((batch, None))
            put((None, None))
        except BaseException as error:
            put((None, error))

    threading.Thread(target=make, name="sft-data", daemon=True).start()
    try:
        while True:
            batch, error = ready.get()
            if error is not None:
                raise error
            if batch is None:
                return
            yield batch
    finally:
        stop.set()


def _train(
    config: SFTConfig,
    policy: Policy,
    params: Params,
    turns: OracleTurns,
    held_out: Sequence[SupervisedTurn],
    metrics: Any,
    progress: Progress,
) -> tuple[Params, float]:
    """All steps; returns the weights and the mean loss of the last hundred."""
    optimizer = make_optimizer(config.optimizer, params, config.steps)
    step_fn = make_step(policy, optimizer)
    state = optimizer.init(params)
    recent: list[float] = []
    pending = None  # metrics are read one step late, so that the device never waits
    started = time.perf_counter()
    for step, batch in enumerate(_ahead(_batches(config, turns)), 1):
        params, state, values = step_fn(params, state, batch)
        if pending is not None:
            _read(pending, step - 1, config, recent, metrics, progress, started)
        pending = values
        if config.eval_every and step % config.eval_every == 0 and step < config.steps:
            exact = exact_turns(policy, params, held_out, config)
            metrics.write(step, {f"exact/{k}": v for k, v in exact.items()})
            progress.evaluation(step, float(np.mean(recent)), exact)
    _read(pending, config.steps, config, recent, metrics, progress, started)
    return params, float(np.mean(recent))


def _read(pending, step, config, recent, metrics, progress, started) -> None:
    values = {name: float(value) for name, value in pending.items()}
    if not np.isfinite(values["loss"]):
        raise RunError(
            f"step {step}: the loss is {values['loss']}; lower the learning rate"
        )
    recent.append(values["loss"])
    del recent[:-100]
    if step % config.log_every == 0 or step == config.steps:
        values["elapsed_seconds"] = time.perf_counter() - started
        metrics.write(step, values)
        progress.step(step, float(np.mean(recent)))
