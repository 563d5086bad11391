"""Which slot a request gets, by hand-checkable examples."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_mem_jax.sampling.prefixes import (
    Residents,
    SlotAssignment,
    common_prefix,
    in_order,
)


def ids(*values):
    return np.asarray(values, np.int32)


def free(*flags):
    return np.asarray(flags, bool)


def test_common_prefix_stops_at_the_difference_the_filled_part_and_the_last_token():
    tokens = np.asarray([[1, 2, 3, 4, 9], [1, 2, 9, 4, 9], [1, 2, 3, 4, 9], [7] * 5])
    filled = np.asarray([4, 4, 1, 4], np.int32)
    got = common_prefix(ids(1, 2, 3, 4), tokens.astype(np.int32), filled)
    assert got.tolist() == [3, 2, 1, 0]
    assert common_prefix(ids(1), tokens.astype(np.int32), filled).tolist() == [0] * 4


def test_empty_slots_are_filled_in_order():
    residents = Residents(3, 8)
    got = residents.assign([ids(1, 2), ids(3, 4)], free(1, 1, 1), 1)
    assert got == [SlotAssignment(0, -1, 0, 0), SlotAssignment(1, -1, 0, 0)]
    assert residents.filled.tolist() == [1, 1, 0]


def test_a_free_slot_that_holds_the_prefix_is_taken_in_place():
    residents = Residents(2, 8)
    residents.assign([ids(1, 2, 3, 4), ids(5, 6, 7, 8)], free(1, 1), 2)
    got = residents.assign([ids(5, 6, 7, 9, 9)], free(1, 1), 2)
    assert got == [SlotAssignment(1, 1, 3, 0)]


def test_a_busy_slots_prefix_is_copied():
    residents = Residents(2, 8)
    residents.assign([ids(1, 2, 3, 4)], free(1, 1), 2)
    got = residents.assign([ids(1, 2, 3, 5)], free(0, 1), 2)
    assert got == [SlotAssignment(1, 0, 3, 0)]


def test_too_short_a_prefix_is_not_copied():
    residents = Residents(2, 8)
    residents.assign([ids(1, 2, 3, 4)], free(1, 1), 4)
    assert residents.assign([ids(1, 2, 3, 5)], free(0, 1), 4) == [
        SlotAssignment(1, -1, 0, 0)
    ]


def test_equal_prefixes_that_come_together_are_computed_once():
    prompts = [ids(1, 2, 3, 4, n) for n in range(4)]
    got = Residents(4, 8).assign(prompts, free(1, 1, 1, 1), 2)
    assert [p.wave for p in got] == [0, 1, 1, 1]
    assert [p.source for p in got] == [-1, 0, 0, 0]
    assert [p.shared for p in got] == [0, 4, 4, 4]


def test_the_old_contents_of_a_slot_taken_in_the_same_round_can_be_copied():
    residents = Residents(2, 8)
    residents.assign([ids(1, 2, 3, 4), ids(9, 9)], free(1, 1), 2)
    got = residents.assign([ids(1, 2, 7, 7), ids(1, 2, 3, 8)], free(1, 1), 2)
    assert got[0] == SlotAssignment(0, 0, 2, 0)
    assert got[1] == SlotAssignment(1, 0, 3, 0)  # copied before the first is prefilled


def test_the_stalest_slot_is_given_up_first():
    residents = Residents(3, 8)
    for n in range(3):
        residents.assign([ids(n, n, n)], free(1, 1, 1), 2)
    residents.assign([ids(0, 0, 5)], free(1, 1, 1), 2)
    assert residents.assign([ids(8, 8)], free(1, 1, 1), 2)[0].slot == 1


def test_tails_behind_different_trunks_have_nothing_in_common():
    residents = Residents(3, 8)
    residents.assign([ids(1, 2, 3, 4)], free(1, 1, 1), 2, [7])
    got = residents.assign(
        [ids(1, 2, 3, 4), ids(1, 2, 3, 5), ids(1, 2, 3, 6)], free(1, 1, 1), 2, [8, 7, 8]
    )
    assert got == [
        SlotAssignment(1, -1, 0, 0),
        SlotAssignment(0, 0, 3, 0),
        SlotAssignment(2, 1, 3, 1),
    ]


def test_a_kept_slot_is_taken_in_place_only_if_all_of_it_is_reused():
    residents = Residents(3, 8)
    residents.assign([ids(1, 2, 3, 4)], free(1, 1, 1), 2, keep=True)
    got = residents.assign([ids(1, 2, 5, 5)], free(1, 1, 1), 2, keep=True)
    assert got == [SlotAssignment(1, 0, 2, 0)]
    got = residents.assign([ids(1, 2, 3, 4, 4)], free(1, 1, 1), 2, keep=True)
    assert got == [SlotAssignment(0, 0, 3, 0)]


def test_a_slot_is_read_before_it_is_overwritten():
    moves = [SlotAssignment(1, 0, 2, 0), SlotAssignment(2, 1, 2, 0)]
    own = SlotAssignment(3, 3, 2, 0)
    assert in_order([*moves, own]) == in_order([own, *reversed(moves)]) == moves[::-1]


def test_clear_forgets_all():
    residents = Residents(1, 8)
    residents.assign([ids(1, 2, 3)], free(1), 1)
    residents.clear()
    assert residents.assign([ids(1, 2, 3)], free(1), 1) == [SlotAssignment(0, -1, 0, 0)]


@settings(max_examples=150, deadline=None)
@given(
    rounds=st.lists(
        st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=7), max_size=4),
        min_size=1,
        max_size=6,
    ),
    busy=st.lists(st.booleans(), min_size=4, max_size=4),
    min_shared=st.integers(1, 3),
    trunks=st.integers(1, 2),
    keep=st.booleans(),
)
def test_copies_and_prefills_leave_each_prompt_in_its_slot(
    rounds, busy, min_shared, trunks, keep
):
    """Plays the plan on a cache of plain tokens, in the engine's order.

    A prompt's trunk is put into its cache as 10 or 20, added to every token.
    """
    residents, cache = Residents(4, 8), np.full((4, 8), -9)
    taken = free(0, 0, 0, 0)
    for prompts in rounds:
        available = ~taken
        prompts = [ids(*p) for p in prompts[: int(available.sum())]]
        before = [len(prompt) % trunks for prompt in prompts]
        got = residents.assign(prompts, available.copy(), min_shared, before, keep=keep)
        prompts = [p + 10 * trunk for p, trunk in zip(prompts, before)]
        assert len({p.slot for p in got}) == len(got)
        assert all(not taken[p.slot] for p in got)
        for wave in range(1 + max((p.wave for p in got), default=-1)):
            chosen = [(p, prompt) for p, prompt in zip(got, prompts) if p.wave == wave]
            for p in in_order([p for p, _ in chosen]):
                cache[p.slot, : p.shared] = cache[p.source, : p.shared]
            for p, prompt in chosen:
                cache[p.slot, p.shared : len(prompt) - 1] = prompt[p.shared : -1]
        for p, prompt in zip(got, prompts):
            assert cache[p.slot, : len(prompt) - 1].tolist() == prompt[:-1].tolist()
        taken[:] = False
        for p, keep in zip(got, busy):
            taken[p.slot] = keep and not taken.sum() > 2
