"""Tokens drawn from a part of the ids, forced tokens, and tokens of other weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.rl.compile import compile_learner
from gru_mem_jax.rl.learner import Batch, host_count
from gru_mem_jax.rl.logprobs import token_logprobs
from gru_mem_jax.rl.objective import ObjectiveConfig, TokenSum, nll, weighted_sum
from gru_mem_jax.rl.optimizer import LearnerConfig
from gru_mem_jax.rl.packing import Conversation, pack, unpack
from gru_mem_jax.rl.supports import check_drawn, check_supports, make_supports

VOCAB, TEMPERATURE = 32, 0.7
POLICY = make_policy(
    PolicyConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.4,
    )
)
CONFIG = LearnerConfig(
    row_tokens=24,
    rows_per_device=8,
    length_buckets=1,
    remat=False,
    logits_chunk=5,
    compute_dtype="float32",
)
TABLE = np.concatenate(
    [
        make_supports(VOCAB, [3, 9]),
        np.random.default_rng(1).random((2, VOCAB)) < 0.4,
    ]
)
OBJECTIVE = ObjectiveConfig(beta=0.1)


class Bare:
    """A policy whose hidden states are its logits: gradients are those of logits."""

    config = POLICY.config

    def logits(self, params, states):
        return states


def drawn_tokens(rng, shape):
    """Supports of 4 at random, and a token of each."""
    support = rng.integers(0, len(TABLE), shape).astype(np.int32)
    tokens = [rng.choice(np.flatnonzero(TABLE[row])) for row in support.flat]
    return np.asarray(tokens, np.int32).reshape(shape), support


@pytest.mark.parametrize("chunk", [2, 512])
def test_logprobs_entropy_and_gradient_by_hand(chunk):
    rng = np.random.default_rng(0)
    tokens, support = drawn_tokens(rng, (3, 9))
    logits = rng.normal(size=(3, 9, VOCAB)).astype(np.float32) * 3
    mask = (rng.random((3, 9)) < 0.7).astype(np.float32)
    weights = rng.normal(size=(3, 9)).astype(np.float32)

    def total(logits):
        values = token_logprobs(
            Bare(),
            {},
            logits,
            tokens,
            mask,
            chunk=chunk,
            temperature=TEMPERATURE,
            support=support,
            supports=TABLE,
        )
        return jnp.sum(values[0] * weights), values

    gradient, (logprobs, entropy) = jax.jit(jax.grad(total, has_aux=True))(logits)
    wanted_gradient = np.zeros(logits.shape)
    for b, t in np.ndindex(3, 9):
        if t == 0 or not mask[b, t]:
            assert logprobs[b, t] == entropy[b, t] == 0
            continue
        ids = np.flatnonzero(TABLE[support[b, t]])
        scores = np.exp(logits[b, t - 1, ids].astype(np.float64) / TEMPERATURE)
        p = dict(zip(ids.tolist(), scores / scores.sum()))
        np.testing.assert_allclose(logprobs[b, t], np.log(p[tokens[b, t]]), atol=1e-5)
        want = -sum(x * np.log(x) for x in p.values())
        np.testing.assert_allclose(entropy[b, t], want, atol=1e-5)
        for i, x in p.items():
            slope = float(i == tokens[b, t]) - x
            wanted_gradient[b, t - 1, i] = weights[b, t] * slope / TEMPERATURE
    np.testing.assert_allclose(gradient, wanted_gradient, atol=1e-5)
    outside = ~TABLE[support[:, 1:]] & (mask[:, 1:, None] > 0)
    assert outside.any()
    assert not np.any(np.asarray(gradient)[:, :-1][outside])


def some_turns(seed=0, number=12):
    """Two or more of a question share a prefix; some tokens are forced."""
    rng = np.random.default_rng(seed)
    turns = []
    for i in range(number):
        if i % 3 == 0:
            front = tuple(rng.integers(0, VOCAB, 4).tolist())
        tokens, support = drawn_tokens(rng, (7,))
        support[[0, 3]] = -1
        turns.append(
            Conversation(
                index=(i // 3, i % 3, 0),
                prompt_ids=(*front, *rng.integers(0, VOCAB, 1 + i % 4).tolist()),
                completion_ids=tuple(tokens.tolist()),
                sampler_logprobs=tuple(np.where(support < 0, 0.0, -1.5).tolist()),
                advantage=float(rng.normal()),
                supports=tuple(support.tolist()),
            )
        )
    return turns


@pytest.fixture(scope="module")
def params():
    return POLICY.init(jax.random.key(0))


@pytest.fixture(scope="module")
def learner():
    return compile_learner(POLICY, OBJECTIVE, CONFIG, temperature=TEMPERATURE)


def carry_of(learner, params, turns, table=TABLE):
    batches = pack(turns, learner.packing)
    supports = None if table is None else learner.put_supports(table)
    state, carry, count = learner.init(params), learner.begin(), host_count(batches)
    for rows in batches:
        ref = rows.sampler_logprobs - np.float32(0.1)
        batch = Batch(rows, rows.sampler_logprobs, ref, count, supports)
        carry = learner.accumulate(state.params, {}, carry, batch)
    return jax.device_get(carry)


@pytest.fixture(scope="module")
def carried(learner, params):
    return carry_of(learner, params, some_turns())


def test_a_step_of_constrained_turns_one_at_a_time(carried, params):
    """Loss and gradient of turns by themselves, from whole logits of drawn tokens."""
    turns, drawn = some_turns(), np.array([1, 2, 4, 5, 6])
    count = 12 * 5
    longest = max(map(len, turns))
    ids = np.zeros((12, longest), np.int32)  # what follows a turn is not seen by it
    for row, turn in zip(ids, turns):
        row[: len(turn)] = turn.prompt_ids + turn.completion_ids
    starts = np.array([[len(turn.prompt_ids)] for turn in turns])
    targets = np.array([turn.completion_ids for turn in turns])[:, drawn]
    inside = TABLE[np.array([turn.supports for turn in turns])[:, drawn]]
    advantage = np.array([[turn.advantage] for turn in turns], np.float32)
    rows = np.arange(12)[:, None]

    def loss(params):
        positions = np.broadcast_to(np.arange(longest), ids.shape)
        logits = POLICY.apply(params, ids, positions)[rows, starts + drawn - 1]
        every = jax.nn.log_softmax(logits / TEMPERATURE, axis=-1, where=inside)
        new = every[rows, np.arange(5)[None], targets]
        ratio = jnp.exp(new + 1.5)
        gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)
        drift = -1.6 - new
        return jnp.sum(0.1 * (jnp.exp(drift) - 1 - drift) - gain) / count

    want, grads = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(carried.sums["loss"].total / count, want, rtol=1e-5)
    for item in (*carried.sums.values(), carried.gap):
        assert float(item.count) == count
    scale = max(np.abs(x).max() for x in jax.tree.leaves(grads))
    for a, b in zip(jax.tree.leaves(carried.grads), jax.tree.leaves(grads)):
        np.testing.assert_allclose(a, b, atol=2e-5 * scale)


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)])
def test_meshes_change_rounding_only(sizes, carried, params):
    mesh = make_mesh(MeshConfig(**dict(zip(("data", "fsdp", "tensor"), sizes))))
    config = dataclasses.replace(CONFIG, rows_per_device=1)
    spread = compile_learner(POLICY, OBJECTIVE, config, mesh, temperature=TEMPERATURE)
    got = carry_of(spread, params, some_turns())
    for name, item in carried.sums.items():
        np.testing.assert_allclose(got.sums[name].total, item.total, atol=1e-4)
    scale = max(np.abs(x).max() for x in jax.tree.leaves(carried.grads))
    for a, b in zip(jax.tree.leaves(got.grads), jax.tree.leaves(carried.grads)):
        np.testing.assert_allclose(a, b, atol=1e-5 * scale)


def test_what_is_said_of_forced_tokens_has_no_effect(learner, carried, params):
    turns = [
        dataclasses.replace(
            turn,
            sampler_logprobs=tuple(
                float("nan") if s < 0 else x
                for x, s in zip(turn.sampler_logprobs, turn.supports)
            ),
        )
        for turn in some_turns()
    ]
    got = carry_of(learner, params, turns)
    jax.tree.map(np.testing.assert_array_equal, got, carried)


def test_rows_of_all_ids_are_untouched_by_a_table(learner, params):
    """Up to the last bits: the compiler fuses two programs its own way."""
    turns = [dataclasses.replace(turn, supports=None) for turn in some_turns()]
    (rows,) = pack(turns, learner.packing)
    placed = learner.put(params)
    got = learner.logprobs(placed, rows, learner.put_supports(TABLE))
    for a, b in zip(
        jax.tree.leaves(got), jax.tree.leaves(learner.logprobs(placed, rows))
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_gates_are_scored_by_a_table_of_their_own(learner, params, carried):
    """P(yes) against no where a gate is decided; the update is not compiled again."""
    programs = learner.accumulate._cache_size()
    yes, no = 5, 20
    table = learner.put_supports(make_supports(VOCAB, [yes, no]))
    turns = [
        Conversation(
            index=(i, 0, 0),
            prompt_ids=(1, 2 + i),
            completion_ids=(7, yes, 8),
            sampler_logprobs=(0.0,) * 3,
            advantage=1.0,
            weights=(0.0, 1.0, 0.0),
            supports=(0, 1, 0),
        )
        for i in range(3)
    ]
    batches = pack(turns, learner.packing)
    placed = learner.put(params)
    values = [learner.logprobs(placed, rows, table).logprobs for rows in batches]
    got = np.exp(np.concatenate(unpack(values, batches, 3)))
    for i, probability in enumerate(got):
        logits = POLICY.apply(params, np.asarray([[1, 2 + i, 7]]), np.arange(3)[None])
        gap = np.float64(logits[0, -1, no] - logits[0, -1, yes]) / TEMPERATURE
        np.testing.assert_allclose(probability, 1 / (1 + np.exp(gap)), atol=1e-6)
    assert learner.accumulate._cache_size() == programs


def test_programs_with_a_table_lower_for_a_pod_on_shapes_alone():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    config = dataclasses.replace(CONFIG, rows_per_device=1)
    learner = compile_learner(POLICY, OBJECTIVE, config, mesh)
    rows, state = learner.abstract_rows(24), learner.abstract_state()
    table, count = learner.abstract_supports(5), jax.ShapeDtypeStruct((), jnp.float32)
    real = rows.advantages
    batch = Batch(rows, real, real, count, table)
    carry = jax.eval_shape(learner.begin)
    for traced in (
        learner.accumulate.trace(state.params, {}, carry, batch),
        learner.score.trace(learner.abstract_params(), rows, table),
    ):
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
        assert f"tensor<5x{VOCAB}xi1>" in text


def test_weights_scale_loss_and_count_and_nothing_else(learner, params):
    """A token of weight 2 is as two; what is only reported of it is as of one."""
    weights = (0.5, 0.0, 2.0, 1.0, 0.0, 1.0, 1.0)
    turns = [dataclasses.replace(t, weights=weights) for t in some_turns(number=3)]
    weigh = np.asarray([w for t in turns for w in t.token_weights])
    assert weigh.tolist() == [0.0, 0.0, 2.0, 0.0, 0.0, 1.0, 1.0] * 3
    supervised = compile_learner(POLICY, None, CONFIG, temperature=TEMPERATURE)
    carry = carry_of(supervised, params, turns)
    batches = pack(turns, supervised.packing)
    assert host_count(batches) == 12
    placed, table = learner.put(params), learner.put_supports(TABLE)
    scores = [learner.logprobs(placed, rows, table) for rows in batches]
    values = unpack([s.logprobs for s in scores], batches, 3)
    assert [len(x) for x in values] == [3, 3, 3]
    got = np.concatenate(values)
    want = -np.sum(weigh[weigh > 0] * got)
    np.testing.assert_allclose(carry.sums["loss"].total, want, rtol=1e-5)
    assert float(carry.sums["loss"].count) == 12
    assert float(carry.sums["entropy"].count) == 9
    np.testing.assert_allclose(
        carry.sums["entropy"].total, sum(np.sum(s.entropy) for s in scores), rtol=1e-5
    )
    np.testing.assert_allclose(carry.gap.total, np.abs(got + 1.5).sum(), rtol=1e-5)
    assert float(carry.gap.count) == 9


def test_weighted_sums_by_hand():
    values, weights = np.array([1.0, np.nan, -3.0]), np.array([0.5, 0.0, 2.0])
    got = weighted_sum(jnp.asarray(values), weights)
    assert got == TokenSum(-5.5, 2.5)
    assert nll(jnp.asarray(values), weights) == TokenSum(5.5, 2.5)
    slope = jax.grad(lambda x: nll(x, weights).total)(jnp.asarray(values))
    np.testing.assert_array_equal(slope, [-0.5, 0.0, -2.0])


def test_a_table_goes_with_rows():
    tokens = np.zeros((1, 4), np.int32)
    call = functools.partial(
        token_logprobs, Bare(), {}, jnp.zeros((1, 4, VOCAB)), tokens, supports=TABLE
    )
    with pytest.raises(ValueError, match="a row of it for each token"):
        call()
    with pytest.raises(ValueError, match="support"):
        call(support=tokens[:, :3])


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (np.ones((2, VOCAB)), r"must be bool \[M, 32\], got float64 \[2, 32\]"),
        (np.ones((2, 31), bool), r"got bool \[2, 31\]"),
        (np.zeros((0, VOCAB), bool), "first support must be of all ids"),
        (TABLE[1:], "first support must be of all ids"),
        (np.stack([TABLE[0], ~TABLE[0]]), "support 1 has no id"),
    ],
)
def test_tables_that_are_refused(table, says):
    with pytest.raises(InputError, match=says):
        check_supports(table, VOCAB)


def test_sets_that_are_refused():
    with pytest.raises(InputError, match="id 32, of 32 ids"):
        make_supports(VOCAB, [1, 32])
    with pytest.raises(InputError, match="support 2 has no id"):
        make_supports(VOCAB, [1], [])


def test_turns_of_another_grammar_are_named():
    turn = dataclasses.replace(some_turns()[0], completion_ids=(3,) * 7)
    for supports, table, says in (
        ((0, 1, -1, 1, 0, 0, 0), TABLE, None),
        ((0, 4, -1, 1, 0, 0, 0), TABLE, "its support does not hold"),
        ((0, 1, -1, 1, 0, 0, 0), make_supports(VOCAB, [4]), "does not hold"),
        ((0, 1, 0, 0, 0, 0, 0), None, "format constrained"),
        ((0, -1, 0, 0, 0, 0, 0), None, "format constrained"),
        ((0,) * 7, None, None),
        (None, None, None),
    ):
        turns = [dataclasses.replace(turn, supports=supports)]
        if says is None:
            check_drawn(turns, table)
            continue
        with pytest.raises(InputError, match=f"turn 0 of rollout 0.*{says}"):
            check_drawn(turns, table)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weights": (1.0,) * 6}, "7 sampled tokens and 6 weights"),
        ({"weights": (1.0,) * 6 + (-1.0,)}, "a token of weight -1"),
        ({"weights": (1.0,) * 6 + (float("nan"),)}, "a token of weight nan"),
        ({"supports": (0,) * 6 + (-2,)}, "a support -2"),
    ],
)
def test_conversations_that_are_refused(changes, says):
    with pytest.raises(InputError, match=says):
        dataclasses.replace(some_turns()[0], **changes)
