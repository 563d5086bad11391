"""A reward for drill.gin that rollouts of random weights differ in."""


def share_of_even_ids(example, trajectory):
    ids = trajectory.turns[-1].completion_ids
    return sum(i % 2 == 0 for i in ids) / len(ids)
