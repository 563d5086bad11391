"""AUC and balanced accuracy, against their definitions."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from gru_mem_jax.evaluation.gate_measures import auc, balanced_accuracy

TURNS = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=30)


@hypothesis.given(turns=TURNS)
def test_auc_is_the_share_of_ordered_pairs(turns):
    """Every pair of an open and a closed turn, in float64; ties count half."""
    scores = [score / 3 for score, _ in turns]
    opens = [is_open for _, is_open in turns]
    pairs = [
        np.float64(a > b) + np.float64(a == b) / 2
        for a, x in zip(scores, opens)
        for b, y in zip(scores, opens)
        if x and not y
    ]
    found = auc(scores, opens)
    if pairs:
        assert found == pytest.approx(np.mean(pairs), abs=1e-12)
        flipped = auc([-s for s in scores], opens)
        assert flipped == pytest.approx(1 - found, abs=1e-12)
    else:
        assert found is None


def test_by_hand():
    opens = [True, True, False, False, False]
    assert auc([3, 1, 2, 1, 0], opens) == pytest.approx((3 + 1.5) / 6)
    assert auc([1e300, 9, -1e300, -5, 0], opens) == 1.0
    assert auc([0.0] * 5, opens) == 0.5
    said = [True, False, True, False, False]
    assert balanced_accuracy(said, opens) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert balanced_accuracy([False] * 5, opens) == 0.5
    assert balanced_accuracy(opens, opens) == 1.0


@pytest.mark.parametrize("opens", [[], [True, True], [False]])
def test_one_class_has_neither(opens):
    """Absent, not NaN."""
    assert auc([0.5] * len(opens), opens) is None
    assert balanced_accuracy([True] * len(opens), opens) is None
