"""Trajectories survive JSON, and no other JSON becomes one."""

import json

import pytest
from loops import recurrence, reply, run

from gru_mem_jax.agent.trajectory import (
    Trajectory,
    trajectory_from_dict,
    trajectory_to_dict,
)
from gru_mem_jax.errors import InputError

ISSUE_FIELDS = {
    *("answer", "mode", "num_chunks", "turns", "stop_reason", "seconds"),
    *("completion_tokens", "prompt_tokens"),
}
ISSUE_TURN_FIELDS = {
    *("kind", "chunk", "update", "exit", "well_formed", "memory", "memory_tokens"),
    *("prompt_tokens", "completion_tokens", "seconds"),
}
TRACE_FIELDS = {"prompt_ids", "completion_ids", "logprobs"}


@pytest.fixture(params=[False, True], ids=["plain", "traced"])
def trajectory(request):
    script = [reply(update="é\x00\u2028"), "bad", reply(exit_="end"), r"\boxed{4}"]
    rec = recurrence(kwargs={"trace": request.param, "metadata": {"policy": "p"}})
    return run(script, rec)[0]


def test_json_there_and_back(trajectory):
    record = trajectory_to_dict(trajectory)
    assert record.keys() >= ISSUE_FIELDS
    traced = trajectory.turns[0].prompt_ids is not None
    for turn in record["turns"]:
        assert turn.keys() >= ISSUE_TURN_FIELDS
        assert (turn.keys() >= TRACE_FIELDS) is traced
    assert record["num_chunks"] == 3
    assert list(record)[-1] == "turns"
    assert trajectory_from_dict(json.loads(json.dumps(record))) == trajectory


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"turns": None}, "trajectory.turns must be"),
        ({"turns": [1]}, "trajectory.turns must be an object"),
        ({"turns": [{}]}, "trajectory.turns has no field 'kind'"),
        ({"mode": 1}, "trajectory.mode must be str"),
        ({"answer": 42}, "trajectory.answer must be str"),
        ({"settings": []}, "trajectory.settings must be dict"),
        ({"interrupted": 0}, "trajectory.interrupted must be bool"),
        ({"qestion": "x"}, r"unknown field 'qestion' \(did you mean question"),
    ],
)
def test_refuses(changes, message):
    record = trajectory_to_dict(Trajectory(mode="memagent", question="q"))
    with pytest.raises(InputError, match=message):
        trajectory_from_dict({**record, **changes})


@pytest.mark.parametrize("record", [None, [], "x", 3])
def test_refuses_what_is_no_object(record):
    with pytest.raises(InputError, match="trajectory must be an object"):
        trajectory_from_dict(record)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "chat"),
        ("chunk", "0"),
        ("chunk_span", [0]),
        ("chunk_span", [0, 1, 2]),
        ("update", 1),
        ("seconds", "1"),
        ("prompt_ids", ["a"]),
    ],
)
def test_refuses_a_turn(trajectory, field, value):
    record = trajectory_to_dict(trajectory)
    record["turns"][0][field] = value
    with pytest.raises(InputError, match=rf"trajectory\.turns\.{field} must be"):
        trajectory_from_dict(record)
