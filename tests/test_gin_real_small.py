"""What the gin files of the small real model come to."""

import dataclasses

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.cli import evaluating, sft
from gru_mem_jax.cli.gin_config import GinConfig
from gru_mem_jax.cli.train import configurables
from gru_mem_jax.data import MixedSource
from gru_mem_jax.evaluation import EvaluationConfig
from gru_mem_jax.tiny.sources import SyntheticSuite
from gru_mem_jax.train.config import SFTConfig, TrainConfig


def built(classes, file, config, *bindings, **fields):
    gin = GinConfig(classes, [f"gin/experiments/real_small_{file}.gin"], bindings)
    made = gin.build(config(**fields))
    gin.check_all_read()
    return made


def trained(file, *bindings):
    own = AgentConfig()
    if file == "sft":
        return built(sft.configurables(), file, SFTConfig, *bindings, agent=own)
    return built(configurables(), file, TrainConfig, *bindings, agent=own)


def questions(*bindings):
    return built(
        (*evaluating.configurables(), SyntheticSuite),
        "questions",
        EvaluationConfig,
        *bindings,
        suite=SyntheticSuite(),
        agent=AgentConfig(),
    )


def test_both_agents_learn_from_the_same_questions():
    warm, gates, baseline = map(trained, ("sft", "rl", "memagent"))
    assert isinstance(warm.source, MixedSource)
    assert gates.source == baseline.source
    # A step of reinforcement learning has questions on different documents.
    apart = [dataclasses.replace(s, keep_together=False) for s in warm.source.sources]
    assert dataclasses.replace(warm.source, sources=apart) == gates.source
    assert all(source.keep_together for source in warm.source.sources)
    assert set(warm.turns.kinds) == {"gated", "memagent", "answer"}
    assert gates.agent.mode == "with_exit_gate"
    assert baseline.agent == dataclasses.replace(gates.agent, mode="memagent")
    assert gates.loop == baseline.loop
    assert gates.rollouts == baseline.rollouts
    assert gates.learner == baseline.learner
    assert (gates.advantages.alpha, baseline.advantages.alpha) == (0.9, 1.0)
    assert gates.loop.policy == "policies/sft"


def test_what_is_asked_is_held_out_from_what_is_learned():
    asked = questions()
    sets = list(asked.suite.question_sets())
    assert [each.name for each in sets] == [
        "single key",
        "multi key",
        "squad",
        "hotpotqa",
    ]
    assert [each.count for each in sets] == [50, 50, 100, 100]
    learned = {source.path: source for source in trained("sft").source.sources}
    for each in sets:
        for source in getattr(each.source, "sources", (each.source,)):
            if (other := learned.get(source.path)) is not None:
                assert (source.part, other.part) == ("held_out", "train")
                assert source.held_out_share == other.held_out_share
            else:
                assert source.path.startswith("sets/held_out/")
    assert asked.agent == trained("rl").agent
    fewer = questions("NUM_NEEDLES = 3", "NUM_QUESTIONS = 5")
    assert [each.count for each in fewer.suite.question_sets()] == [3, 3, 5, 5]


def test_the_macros_reach_their_settings():
    run = trained("rl", "FORMAT = 'constrained'", "CHUNK_SIZE = 90", "GROUP_SIZE = 8")
    assert (run.agent.format, run.agent.chunk_size) == ("constrained", 90)
    assert run.rollouts.group_size == 8
    run = trained("sft", "NUM_STEPS = 7", "WEIGHTS = (1, 1, 1, 1, 1, 9)", "SLOTS = 3")
    assert (run.loop.num_steps, run.engine.slots) == (7, 3)
    assert run.source.weights[-1] == 9
