"""Groups of rollouts in slots for one group and a half: how much is computed twice."""

import dataclasses
import itertools
import random

import jax
import numpy as np

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.data.example import Example
from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.rl.rollout import rollout
from gru_mem_jax.sampling import engine_pool, sampler
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.engine import Engine
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder

ENCODER = ByteEncoder()
GROUP = 8
SIZES = EngineConfig(
    slots=12,
    max_length=512,
    prefill_blocks=(16, 64),
    prefill_tokens=256,
    min_shared_tokens=4,
)
TRUNKS = dataclasses.replace(SIZES, trunks=8, trunk_length=320, tail_length=192)
CONFIG = AgentConfig(
    chunk_size=200,
    question_tokens=16,
    memory_tokens=24,
    completion_tokens=120,
    prompt_tokens=384,
    prompt=PromptConfig(style="compact", order="chunk_first"),
)


def policy_of(vocab):
    policy = make_policy(
        PolicyConfig(
            vocab_size=vocab,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            initializer_range=0.3,
        )
    )
    return policy, policy.init(jax.random.key(0))


def examples(number, chunks, size):
    texts = [random.Random(n) for n in range(number)]
    return {
        n: Example(
            id=str(n),
            question=f"which {n}?",
            answers=("x",),
            document="".join(text.choices("abcdefgh", k=size * chunks - 20)),
            evidence=((0, 1),),
        )
        for n, text in enumerate(texts)
    }


def trie_tokens(groups):
    """Distinct prefixes of all prompts: what has to be computed at least."""
    prompts = [t.prompt_ids for g in groups for r in g for t in r.turns]
    found, last = 0, ()
    for prompt in sorted(map(tuple, prompts)):
        same = sum(itertools.accumulate(map(int.__eq__, last, prompt), min))
        found += len(prompt) - same
        last = prompt
    return found


class Script:
    """Programs of an engine that computes nothing and says what `say` says."""

    names, compile_seconds = (), 0.0

    def __init__(self, engine, say):
        self._engine, self._say, self._said = engine, say, {}
        self.decode_attends = engine._programs.decode_attends

    def prefill(self, *sizes):
        return lambda params, cache, blocks, trunk: cache

    def copy(self, *sizes):
        return lambda cache, pairs, count: cache

    def decode(self, attend):
        return self._decode

    def _decode(self, params, cache, rows, limits, trunk):
        block = self._engine.config.decode_block
        counts = np.zeros(len(rows), np.int32)
        ids = np.zeros((3 * block, len(rows)), np.int32)
        left, step = {}, 0
        for slot in np.flatnonzero(rows[:, sampler.POSITION] >= 0).tolist():
            job = self._engine._rows.jobs[slot]
            if job.handle not in self._said:
                self._said[job.handle] = self._say(job.request)
            done = rows[slot, sampler.POSITION] + 1 - len(job.prompt)
            left[slot] = self._said[job.handle][done:]
        while step < limits[0]:
            step += 1
            for slot, said in left.items():
                if counts[slot] < min(step, len(said)):
                    ids[step - 1, slot] = said[step - 1]
                    counts[slot] = step
            ended = sum(len(said) <= step for said in left.values())
            if ended >= limits[1]:
                break
        stopped = [s in left and counts[s] == len(left[s]) for s in range(len(rows))]
        header = np.asarray([counts, stopped, [step] * len(rows)], np.int32)
        return cache, np.concatenate([header, ids])


def says(request):
    """Half of the turns write one of three memories; thoughts differ in length."""
    dice = random.Random(f"{request.seed}")
    update = dice.random() < 0.5
    memory = dice.choice(["one", "two two", "three three three"]) if update else ""
    exits = "end" if dice.random() < 0.08 else "continue"
    text = (
        f"<think>{'t' * dice.randint(1, 60)}</think>"
        f"<check>{'yes' if update else 'no'}</check><update>{memory}</update>"
        f"<next>{exits}</next>"
    )
    if not any(s.role == "chunk" and s.ids for s in request.prompt):
        text = r"\boxed{x}"
    return [*ENCODER.encode_control(text), ENCODER.stop_ids[0]]


def simulated(config, say=says, number=8, chunks=6):
    engine = Engine(*policy_of(512), config)
    programs = Script(engine, say)
    engine._programs = engine._slots.programs = programs
    if engine._trunks.pool is not None:
        engine._trunks.pool.programs = programs
    builder = PromptBuilder(ENCODER, CONFIG.prompt)
    groups = rollout(
        engine,
        builder,
        CONFIG,
        examples(number, chunks, CONFIG.chunk_size),
        GROUP,
        step=1,
        seed=0,
    )
    return engine.stats(), groups


def test_simulated_groups_are_computed_once_in_slots_for_one_and_a_half():
    stats, groups = simulated(TRUNKS)
    turns = [turn for group in groups for run in group for turn in run.turns]
    assert len(turns) > 300
    assert np.mean([turn.well_formed for turn in turns]) == 1
    trie = trie_tokens(groups)
    assert stats["prefill_tokens"] <= 1.1 * trie
    before, same = simulated(SIZES)
    assert trie_tokens(same) == trie
    assert before["prefill_tokens"] > 1.2 * trie  # each slot holds all of its own


def test_rollouts_of_a_random_policy_are_computed_once():
    """By one engine, and by two on two devices, which have groups of their own."""
    vocab = 1 + max(ENCODER.control_ids)
    builder = PromptBuilder(ENCODER, CONFIG.prompt)
    config = dataclasses.replace(CONFIG, chunk_size=90, completion_tokens=20)
    plain = dataclasses.replace(SIZES, max_length=256, prefill_blocks=(64,))
    trunks = dataclasses.replace(plain, trunks=6, trunk_length=160, tail_length=96)
    found = {}
    pair = make_mesh(MeshConfig(data=2))
    for name, sizes in (("trunks", trunks), ("plain", plain), ("pool", trunks)):
        mesh = pair if name == "pool" else None
        engine = engine_pool.make(*policy_of(vocab), sizes, mesh=mesh)
        groups = rollout(
            engine, builder, config, examples(3, 3, 90), GROUP, step=1, seed=0
        )
        found[name] = [[t.completion_ids for t in r.turns] for g in groups for r in g]
        if name != "plain":
            assert engine.stats()["prefill_tokens"] <= 1.1 * trie_tokens(groups)
    assert found["trunks"] == found["plain"] == found["pool"]
