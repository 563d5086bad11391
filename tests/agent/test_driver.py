"""Many recurrences over a generator of any capacity and any order."""

import pytest
from loops import BYTES, recurrence, reply

from gru_mem_jax.agent import driver
from gru_mem_jax.errors import RunError
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in


def policy(request):
    said = said_in(request, BYTES)
    if "chunk" not in said:
        return rf"\boxed{{{said['memory'].strip()}}}"
    return reply(update=f"{said['question'][-2:]}{said['chunk'][:3]}")


def many(count):
    for i in range(count):
        yield recurrence(
            f"{i:03d}" + "x" * (10 * (i % 4)), f"Q{i:02d}", kwargs={"trajectory_id": i}
        )


@pytest.mark.parametrize("capacity", [1, 3, 8, 100])
@pytest.mark.parametrize("shuffle_seed", [None, 0, 1])
def test_company_and_order_change_nothing(capacity, shuffle_seed):
    alone = {}
    for rec in many(20):
        for _ in driver.run(ScriptedGenerator(policy, BYTES), [rec]):
            pass
        alone[rec.trajectory.trajectory_id] = rec.trajectory.turns
    generator = ScriptedGenerator(
        policy, BYTES, capacity=capacity, shuffle_seed=shuffle_seed
    )
    together = {}
    for rec, turn in driver.run(generator, many(20)):
        assert turn == rec.trajectory.turns[-1]
        if rec.done:
            together[rec.trajectory.trajectory_id] = rec.trajectory.turns
    assert together == alone
    assert generator.most_submitted == min(capacity, 20)
    assert not generator.cancelled


def test_requests_of_a_group_have_one_pin_and_no_other_has_it():
    generator = ScriptedGenerator(policy, BYTES, capacity=4)
    for _ in driver.run(generator, many(6), group_size=2):
        pass
    for _ in driver.run(generator, many(1)):
        pass
    pins = {}
    for request in generator.requests:
        question = int(said_in(request, BYTES)["question"][-2:])
        pins.setdefault(request.pin, set()).add(question)
    # Of the second call: one of question 0 again.
    assert sorted(map(sorted, pins.values())) == [[0], [0, 1], [2, 3], [4, 5]]
    assert None not in pins


def test_recurrences_are_taken_when_there_is_room():
    begun = 0

    def lazily():
        nonlocal begun
        for rec in many(10):
            begun += 1
            yield rec

    run = driver.run(ScriptedGenerator(policy, BYTES, capacity=2), lazily())
    next(run)
    assert begun == 2
    run.close()


def test_leaving_early_cancels_what_is_under_way():
    generator = ScriptedGenerator(policy, BYTES, capacity=4)
    for _ in driver.run(generator, many(10)):
        break
    assert generator.cancelled


def test_stopping_one_between_turns():
    recurrences = list(many(8))
    generator = ScriptedGenerator(policy, BYTES, capacity=8)
    for rec, _ in driver.run(generator, recurrences):
        if rec is recurrences[3]:
            recurrences[7].stop("interrupted")
    assert recurrences[7].trajectory.interrupted
    assert all(r.trajectory.answer is not None for r in recurrences[:7])


def test_a_generator_that_does_nothing_is_an_error():
    class Idle(ScriptedGenerator):
        def step(self):
            return []

    with pytest.raises(RunError, match="ended none of 2 requests"):
        list(driver.run(Idle(policy, BYTES, capacity=2), many(5)))


def test_no_recurrences():
    assert list(driver.run(ScriptedGenerator(policy, BYTES), [])) == []


@pytest.mark.parametrize(("capacity", "most"), [(1, 4), (4, 7), (6, 9), (30, 20)])
def test_groups_are_begun_whole(capacity, most):
    generator = ScriptedGenerator(policy, BYTES, capacity=capacity)
    begun = []

    def recurrences():
        for rec in many(20):
            begun.append(rec)
            yield rec

    for _ in driver.run(generator, recurrences(), group_size=4):
        assert len(begun) % 4 == 0
        assert sum(not rec.done for rec in begun) <= most
    assert generator.most_submitted == most
    assert all(rec.done for rec in begun)
    assert len(begun) == 20
