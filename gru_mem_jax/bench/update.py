"""Seconds of the learner's update and score, with prefixes shared and without.

One group of rollouts over one chunk: G prompts with a common front and a memory each,
random tokens. Or recorded turns of a run. Both forms have the rows and the chunk of
logits that waste least for them, and take turns in one process, so that other load
affects both. `update` is loss and gradient with a reference, `score` the forward pass
that gives a reference's or the old policy's logprobs.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gru_mem_jax import machine
from gru_mem_jax.bench.sampling import DEFAULT_SHAPE, peak_rss_mb
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import check_bool, check_choice, check_int, plain_numbers
from gru_mem_jax.sampling.config import DTYPES

if TYPE_CHECKING:
    from gru_mem_jax.rl.packing import Conversation, PackedRows


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateBenchConfig:
    """Settings of `gru-mem bench update`.

    Attributes:
      policy: a policy directory (no tokenizer is needed); None: random weights.
      groups: G, rollouts of the question.
      prefix: tokens with which all prompts begin.
      memory: tokens that a prompt has of its own.
      completion: sampled tokens of each rollout.
      equal_memories: all rollouts have the same memory.
      replay: a folder of recorded rollouts (RUN/rollouts), whose turns are taken
        instead; None: random ones.
      replay_step: which of its steps.
      row_tokens: of both forms; None: shared as long as the largest tree, at most
        16384, unshared that or as long as the longest turn, whichever pads less.
      logits_chunk: of both forms; None: what the fullest row samples, at most 512.
      rows: of a micro-batch.
      remat: as of LearnerConfig.
      dtype: "float32" or "bfloat16".
      repeats: counted runs of each form.
      seed: of tokens and random weights.
    """

    policy: str | None = None
    groups: int = 8
    prefix: int = 900
    memory: int = 150
    completion: int = 60
    equal_memories: bool = False
    replay: str | None = None
    replay_step: int = 1
    row_tokens: int | None = None
    rows: int = 1
    logits_chunk: int | None = None
    remat: bool = False
    dtype: str = "float32"
    repeats: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        plain_numbers(self)
        least = {"groups": 1, "prefix": 1, "memory": 1, "completion": 1, "rows": 1}
        least |= {"replay_step": 1, "repeats": 1, "seed": 0}
        for name, low in least.items():
            check_int(name, getattr(self, name), low)
        for name, low in (("row_tokens", 2), ("logits_chunk", 1)):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), low)
        for name in ("equal_memories", "remat"):
            check_bool(name, getattr(self, name))
        check_choice("dtype", self.dtype, DTYPES)


def measure(
    config: UpdateBenchConfig, log: Callable[[str], None] = print
) -> dict[str, Any]:
    """Measures, and logs its progress.

    Args:
      config: what to measure.
      log: takes a line of text.

    Returns:
      The settings; `device`, `threads`, `conversations`, `sampled_tokens`; under
      `shared` and `unshared` each `tokens`, `rows`, `pairs`, `update_seconds`,
      `score_seconds` (medians), `update_tokens_per_s` (tokens of trajectories, each
      turn by itself), `temporaries_mb` (of the largest program, by the compiler) and
      `temporaries_mb_a_conversation`; unshared by shared `token_ratio`, `pair_ratio`,
      `update_ratio`, `score_ratio` and `temporaries_ratio` (a conversation);
      `gradient_difference` of both, and `packing_difference` of two unshared packings:
      the largest difference in a leaf by its largest number; `peak_rss_mb`.

    Raises:
      InputError: the policy cannot be loaded, there are no rollouts, or a turn is
        longer than a row.
    """
    import jax

    policy, params = _load(config)
    turns = _turns(config, policy.config.vocab_size)
    log(f"compiling, {len(turns)} conversations")
    shared, unshared, other = _row_tokens(config, turns)
    cases = {
        "unshared": _Case(config, policy, turns, unshared, share=False),
        "shared": _Case(config, policy, turns, shared, share=True),
    }
    repacked = _Case(config, policy, turns, other, share=False)
    log(cases["shared"].attention)
    grads = {name: case.update(params) for name, case in cases.items()}
    packing_difference = difference(grads["unshared"], repacked.update(params))
    gradient_difference = difference(grads["unshared"], grads["shared"])
    del grads, repacked
    for case in cases.values():
        case.score(params)
    seconds: dict[str, dict[str, list[float]]] = {
        name: {"update": [], "score": []} for name in cases
    }
    for repeat in range(1, config.repeats + 1):
        for name, case in cases.items():
            for what, run in (("update", case.update), ("score", case.score)):
                seconds[name][what].append(_timed(run, params))
        log(
            f"run {repeat} of {config.repeats}: "
            + ", ".join(f"{n} {s['update'][-1]:.2f} s" for n, s in seconds.items())
        )
    result: dict[str, Any] = dataclasses.asdict(config) | {
        "device": jax.devices()[0].device_kind,
        "threads": machine.cores(),
        "conversations": len(turns),
        "sampled_tokens": sum(len(turn.completion_ids) for turn in turns),
        **{name: case.figures(seconds[name]) for name, case in cases.items()},
        "gradient_difference": gradient_difference,
        "packing_difference": packing_difference,
        "peak_rss_mb": peak_rss_mb(),
    }
    for name, field in _RATIOS.items():
        result[name] = result["unshared"][field] / result["shared"][field]
    for what in ("update", "score"):  # of the runs side by side
        pairs = zip(seconds["unshared"][what], seconds["shared"][what], strict=True)
        result[f"{what}_ratio"] = statistics.median(a / b for a, b in pairs)
    return result


_RATIOS = {
    "token_ratio": "tokens",
    "pair_ratio": "pairs",
    "temporaries_ratio": "temporaries_mb_a_conversation",
}


def difference(a: Any, b: Any) -> float:
    """The largest difference in any leaf, by the leaf's largest number."""
    import jax

    worst = 0.0
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        worst = max(worst, float(np.abs(x - y).max() / max(np.abs(x).max(), 1e-30)))
    return worst


class _Case:
    """A learner, and the turns as its rows."""

    def __init__(
        self,
        config: UpdateBenchConfig,
        policy: Any,
        turns: Sequence["Conversation"],
        row_tokens: int,
        *,
        share: bool,
    ):
        from gru_mem_jax.rl.compile import compile_learner
        from gru_mem_jax.rl.learner import host_count
        from gru_mem_jax.rl.objective import ObjectiveConfig
        from gru_mem_jax.rl.optimizer import LearnerConfig
        from gru_mem_jax.rl.packing import pack
        from gru_mem_jax.rl.row_counts import count_rows

        settings = LearnerConfig(
            row_tokens=row_tokens,
            rows_per_device=config.rows,
            length_buckets=1,
            remat=config.remat,
            compute_dtype=config.dtype,
            share_prefixes=share,
        )
        self._turns = turns
        self._batches = pack(turns, settings.packing(1))
        self._count = host_count(self._batches)
        self._rows = count_rows(self._batches)
        sampled = max(int(b.completion_mask.sum(axis=1).max()) for b in self._batches)
        chunk = config.logits_chunk or min(512, -(-sampled // 64) * 64)
        self._learner = compile_learner(
            policy,
            ObjectiveConfig(beta=1e-3),
            dataclasses.replace(settings, logits_chunk=chunk),
        )
        self.attention = self._learner.attention
        self._programs = self._compiled()

    def _batch(self, rows: "PackedRows") -> Any:
        from gru_mem_jax.rl.learner import Batch

        # Any numbers do as the reference's: here the sampler's.
        return Batch(rows, None, rows.sampler_logprobs, self._count)

    def _compiled(self) -> tuple[Any, Any]:
        import jax

        learner, rows = self._learner, self._batches[0]
        params = learner.abstract_state().params
        carry = jax.eval_shape(learner.begin)
        accumulate = learner.accumulate.lower(params, {}, carry, self._batch(rows))
        score = learner.score.lower(learner.abstract_params(), rows, None)
        return accumulate.compile(), score.compile()

    def update(self, params: Any) -> Any:
        """The gradient of the whole."""
        import jax

        carry = self._learner.begin()
        for rows in self._batches:
            carry = self._programs[0](params, {}, carry, self._batch(rows))
        return jax.block_until_ready(carry.grads)

    def score(self, params: Any) -> None:
        """Logprobs of all sampled tokens."""
        import jax

        for rows in self._batches:
            jax.block_until_ready(self._programs[1](params, rows, None))

    def figures(self, seconds: dict[str, list[float]]) -> dict[str, float]:
        """As `measure` says."""
        counts, turns = self._rows, self._turns
        memory = self._programs[0].memory_analysis()
        temporaries = memory.temp_size_in_bytes / 2**20
        update = statistics.median(seconds["update"])
        return {
            "tokens": counts.tokens,
            "rows": counts.rows,
            "pairs": counts.pairs,
            "update_seconds": update,
            "score_seconds": statistics.median(seconds["score"]),
            "update_tokens_per_s": sum(map(len, turns)) / update,
            "temporaries_mb": temporaries,
            "temporaries_mb_a_conversation": (
                temporaries * len(self._batches) / len(turns)
            ),
        }


def _timed(run: Callable[[Any], Any], params: Any) -> float:
    start = time.perf_counter()
    run(params)
    return time.perf_counter() - start


def _load(config: UpdateBenchConfig) -> tuple[Any, Any]:
    import jax

    from gru_mem_jax.policy.config import PolicyConfig
    from gru_mem_jax.policy.functional import make_policy

    if config.policy is not None:
        from gru_mem_jax.policy.hf import load_policy

        return load_policy(config.policy, "float32")
    policy = make_policy(PolicyConfig(**DEFAULT_SHAPE))
    return policy, policy.init(jax.random.key(config.seed))


def _turns(config: UpdateBenchConfig, vocab: int) -> "list[Conversation]":
    if config.replay is not None:
        from gru_mem_jax.runs.rollouts import load_rollouts

        turns = list(load_rollouts(config.replay, config.replay_step).turns)
        highest = max((max(t.prompt_ids + t.completion_ids) for t in turns), default=-1)
        if not 0 <= highest < vocab:
            raise InputError(
                f"{config.replay}: step {config.replay_step} has no turns of this "
                f"policy: the largest token id is {highest}, the vocabulary {vocab}"
            )
        rng = np.random.default_rng(config.seed)
        return [
            dataclasses.replace(turn, advantage=float(rng.normal())) for turn in turns
        ]
    return random_group(
        np.random.default_rng(config.seed),
        vocab,
        groups=config.groups,
        prefix=config.prefix,
        memory=config.memory,
        completion=config.completion,
        equal_memories=config.equal_memories,
    )


def random_group(
    rng: np.random.Generator,
    vocab: int,
    *,
    groups: int,
    prefix: int,
    memory: int,
    completion: int,
    equal_memories: bool = False,
) -> "list[Conversation]":
    """One turn of each rollout of a question, of random tokens.

    Args:
      rng: of numpy.
      vocab: token ids are below it.
      groups, prefix, memory, completion, equal_memories: as in `UpdateBenchConfig`.
    """
    from gru_mem_jax.rl.packing import Conversation

    def draw(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(0, vocab, count).tolist())

    front, common = draw(prefix), draw(memory)
    return [
        Conversation(
            index=(0, rollout, 0),
            prompt_ids=front + (common if equal_memories else draw(memory)),
            completion_ids=draw(completion),
            sampler_logprobs=tuple((-rng.exponential(size=completion)).tolist()),
            advantage=float(rng.normal()),
        )
        for rollout in range(groups)
    ]


def _row_tokens(
    config: UpdateBenchConfig, turns: "Sequence[Conversation]"
) -> tuple[int, int, int]:
    """Rows of the shared form, of the unshared one, and others for the latter."""
    from gru_mem_jax.rl.packing import PackConfig, assign_rows, pack
    from gru_mem_jax.rl.row_counts import count_rows

    longest = max(map(len, turns))
    if config.row_tokens is not None:
        return config.row_tokens, config.row_tokens, longest
    most = PackConfig(row_tokens=max(longest, 16384))
    trees = [tree.size for row in assign_rows(turns, most) for tree in row]
    largest = max(longest, *trees)

    def padding(row_tokens: int) -> int:
        rows = {"rows": config.rows, "length_buckets": 1, "share_prefixes": False}
        packing = PackConfig(row_tokens=row_tokens, **rows)
        return count_rows(pack(turns, packing)).padding

    unshared = min(longest, largest, key=padding)
    return largest, unshared, 2 * longest
