"""Settings that do not fit together are refused before any weight is read."""

import dataclasses

import pytest
from train_settings import AGENT, changed, quick_settings

from gru_mem_jax.agent.config import config_to_dict
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.sources import ListSource
from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import MeshConfig
from gru_mem_jax.policy.files import open_policy_dir
from gru_mem_jax.tiny.sources import SyntheticSource
from gru_mem_jax.train.config import LoopConfig, TrainConfig, settings_text
from gru_mem_jax.train.plan import plan, policy_agent


def test_a_plan(policy_dir):
    planned = plan(quick_settings(), open_policy_dir(policy_dir))
    assert planned.longest <= planned.engine.max_length == 128
    assert planned.engine.max_length % 64 == 0
    assert planned.memory["total"] > planned.memory["params"] > 0
    assert "reference" in planned.memory
    assert planned.agent == AGENT
    assert planned.notes == ()
    assert planned.attention == (
        "attention on cpu: rows, prefill, decode by blocks (no kernel for cpu)"
    )


SAMPLING = AGENT.sampling


@pytest.mark.parametrize(
    ("part", "fields", "says"),
    [
        ("agent", {"sampling": dataclasses.replace(SAMPLING, top_k=5)}, "top_k is 5"),
        ("agent", {"sampling": dataclasses.replace(SAMPLING, top_p=0.9)}, "top_p is"),
        (
            "agent",
            {"sampling": dataclasses.replace(SAMPLING, temperature=0)},
            "temperature 0",
        ),
        ("agent", {"deadline_seconds": 5}, "deadline_seconds"),
        ("agent", {"chunk_size": 500}, "prompt_tokens is 192"),
        (
            "agent",
            {"chunk_size": 900, "prompt_tokens": 2000},
            "more than the policy's window of 512; lower chunk_size",
        ),
        ("learner", {"row_tokens": 64}, "more than a row of row_tokens 64"),
        ("learner", {"attention": "splash"}, "for TPUs, and the mesh has devices of c"),
        ("engine", {"max_length": 64}, "more than the engine's max_length 64"),
    ],
)
def test_what_does_not_fit(policy_dir, part, fields, says):
    settings = changed(quick_settings(), **{part: fields})
    with pytest.raises(InputError, match=says):
        plan(settings, open_policy_dir(policy_dir))


def test_meshes(policy_dir):
    directory = open_policy_dir(policy_dir)
    settings = dataclasses.replace(quick_settings(), mesh=MeshConfig(data=9))
    with pytest.raises(InputError, match=r"needs 9 devices, there are 8"):
        plan(settings, directory)
    settings = dataclasses.replace(quick_settings(), mesh=MeshConfig(data=2, fsdp=-1))
    planned = plan(settings, directory)
    assert dict(planned.mesh.shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    idle, note = planned.notes
    assert "8 rollouts of a step leave some of the 8 slots of each of 8 eng" in idle
    assert "micro-batches of 32 rows are partly empty with 8 rollouts" in note


def test_a_mesh_that_does_not_split_the_weights(policy_dir):
    settings = changed(quick_settings(), mesh={"fsdp": 5})
    notes = plan(settings, open_policy_dir(policy_dir)).notes
    assert any("fsdp 5 does not divide the hidden size 16" in note for note in notes)


def test_notes(policy_dir):
    settings = changed(
        quick_settings("memagent"),
        rewards={"overlong_weight": 1.0, "overlong_limit": 500},
        engine={"slots": 64},
    )
    notes = " | ".join(plan(settings, open_policy_dir(policy_dir)).notes)
    assert "8 rollouts of a step leave some of the engine's 64 slots idle" in notes
    assert "overlong_limit 500 is above completion_tokens 8" in notes
    assert "trained with alpha 1" in notes


def test_the_policy_brings_its_agent_along(policy_dir, tmp_path):
    """Greedy as it may be meant to run, it is trained at temperature 1."""
    import json
    import shutil

    directory = tmp_path / "policy"
    shutil.copytree(policy_dir, directory)
    greedy = dataclasses.replace(SAMPLING, temperature=0.0)
    record = config_to_dict(dataclasses.replace(AGENT, sampling=greedy))
    (directory / "gru_mem.json").write_text(json.dumps(record))
    assert policy_agent(open_policy_dir(directory)) == AGENT
    settings = dataclasses.replace(quick_settings(), agent=None)
    assert plan(settings, open_policy_dir(directory)).agent == AGENT


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"group_size": 1}, "group_size must be at least 2"),
        ({"eval_modes": "memagent"}, "eval_modes must be a tuple"),
        ({"eval_modes": ("greedy",)}, "eval_modes must be one of"),
        ({"overlap": 1}, "overlap must be True or False"),
        ({"keep": 0}, "keep must be at least 1"),
        ({"logprob_gap_limit": -1}, "logprob_gap_limit must be a number"),
        ({"save_every": 2.5}, "save_every must be an integer"),
    ],
)
def test_refused_loops(fields, says):
    with pytest.raises(InputError, match=says):
        quick_settings(**fields)


def test_parts_must_go_together():
    with pytest.raises(InputError, match="eval_every needs a suite"):
        TrainConfig(loop=LoopConfig(eval_every=5), source=SyntheticSource())
    with pytest.raises(InputError, match="optimizer_steps_per_batch 3 is more than"):
        changed(quick_settings(), learner={"optimizer_steps_per_batch": 3})


def test_settings_as_text_tell_what_differs():
    text = settings_text(quick_settings())
    assert "LoopConfig.num_steps = 5\n" in text
    assert "AgentConfig.chunk_size = 48\n" in text
    assert "LearnerConfig.lora = None\n" in text
    assert "RewardConfig.reward_fn = @train_settings.share_of_even_ids\n" in text
    assert "0x" not in text  # no addresses: they would differ between starts
    other = settings_text(changed(quick_settings(), objective={"beta": 0.0}))
    differing = set(text.splitlines()) ^ set(other.splitlines())
    assert differing == {"ObjectiveConfig.beta = 0.01", "ObjectiveConfig.beta = 0.0"}


# Sources


def test_synthetic_sources_never_end():
    source = SyntheticSource()
    assert source.example(10**9) == source.example(10**9)
    assert source.example(0) != source.example(1)


def some_examples(number):
    return tuple(
        Example(id=str(i), question="?", answers=("x",), document="d")
        for i in range(number)
    )


def test_lists_have_another_order_in_each_epoch():
    source = ListSource(examples=some_examples(10), seed=4)
    orders = [
        [source.example(10 * epoch + i).id for i in range(10)] for epoch in range(3)
    ]
    for order in orders:
        assert sorted(order) == [str(i) for i in range(10)]
    assert orders[0] != orders[1] != orders[2]
    again = ListSource(examples=some_examples(10), seed=4)
    assert again.example(17).id == orders[1][7]
    with pytest.raises(InputError, match="at least one"):
        ListSource(examples=())
    text = settings_text(dataclasses.replace(quick_settings(), source=source))
    assert "ListSource.examples = 10 examples, sha256 " in text
