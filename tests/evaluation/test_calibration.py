"""Reliability, thresholds and exits, against references by hand and by scipy."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gru_mem_jax.agent.config import AgentConfig, config_from_dict
from gru_mem_jax.agent.trajectory import Trajectory, Turn
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.calibration.drawing import picture
from gru_mem_jax.evaluation.calibration.exits import (
    choose_exit,
    exit_curve,
    neighbours,
    stops,
)
from gru_mem_jax.evaluation.calibration.gates import (
    candidates,
    choose_gate,
    rates,
    reliability,
)
from gru_mem_jax.evaluation.calibration.readings import (
    GatedReading,
    calibrate_gates,
    reading,
)
from gru_mem_jax.evaluation.calibration.result import Calibration
from gru_mem_jax.evaluation.calibration.settings import with_thresholds


def turns_of(seed=0, count=400, positives=0.3):
    """Made-up probabilities, too sure of themselves; ties among them."""
    random = np.random.default_rng(seed)
    labels = random.random(count) < positives
    logits = 3 * (labels + random.normal(size=count)) - 2
    return np.round(1 / (1 + np.exp(-logits)), 3), labels


def test_reliability_by_hand():
    found = reliability([0.0, 0.04, 0.55, 0.95, 1.0], [0, 1, 0, 1, 1])
    assert (found.turns, found.positives) == (5, 3)
    bins = [(b.low, b.high, b.predicted, b.observed.share) for b in found.bins]
    # 1.0 belongs to the last bin.
    assert bins == [(0, 0.1, 0.02, 0.5), (0.5, 0.6, 0.55, 0), (0.9, 1, 0.975, 1)]
    error = 2 / 5 * 0.48 + 1 / 5 * 0.55 + 2 / 5 * 0.025
    assert found.calibration_error == pytest.approx(error, abs=1e-12)
    brier = (0 + 0.96**2 + 0.55**2 + 0.05**2 + 0) / 5
    assert found.brier == pytest.approx(brier, abs=1e-12)
    assert found.auc == pytest.approx((0.5 * 0 + 1 + 2 + 2) / 6)


def test_auc_and_wilson_are_scipys():
    predicted, wanted = turns_of()
    u = stats.mannwhitneyu(predicted[wanted], predicted[~wanted]).statistic
    pairs = wanted.sum() * (~wanted).sum()
    found = reliability(predicted, wanted)
    assert found.auc == pytest.approx(u / pairs, abs=1e-12)
    assert sum(each.observed.of for each in found.bins) == 400
    for each in found.bins:
        own = (predicted >= each.low) & (predicted < each.high + (each.high == 1))
        assert each.predicted == pytest.approx(predicted[own].mean())
        test = stats.binomtest(int(wanted[own].sum()), int(own.sum()))
        ci = test.proportion_ci(0.95, method="wilson")
        assert (each.observed.low, each.observed.high) == pytest.approx(ci, abs=1e-6)
    assert reliability([0.2], [False]).auc is None


def test_rates_are_those_of_counting():
    predicted, wanted = turns_of(1)
    cuts = candidates(predicted)
    found = rates(predicted, wanted, cuts)
    for i in range(0, len(cuts), 7):
        opened = predicted >= cuts[i]
        right, wrong = (opened & wanted).sum(), (opened & ~wanted).sum()
        assert found.true_positive[i] == right / wanted.sum()
        assert found.false_positive[i] == wrong / (~wanted).sum()
        assert found.precision[i] == (right / opened.sum() if opened.any() else 1)
        missed = (~opened & wanted).sum()
        assert found.f1[i] == pytest.approx(2 * right / (2 * right + wrong + missed))
    # The ROC's area by trapezes is the AUC.
    x = np.array([1, *found.false_positive, 0])
    y = np.array([1, *found.true_positive, 0])
    area = ((x[:-1] - x[1:]) * (y[:-1] + y[1:]) / 2).sum()
    assert area == pytest.approx(reliability(predicted, wanted).auc, abs=1e-12)


@pytest.mark.parametrize("criterion", ["balanced_accuracy", "f1"])
def test_no_threshold_is_better_than_the_chosen_one(criterion):
    predicted, wanted = turns_of(2)
    cuts = candidates(predicted)
    found = rates(predicted, wanted, cuts)
    chosen = getattr(found, criterion)[choose_gate(found, criterion)]
    every = rates(predicted, wanted, np.linspace(0, 1, 2001))
    assert chosen >= getattr(every, criterion).max() - 1e-12
    with pytest.raises(InputError, match="criterion must be one of"):
        choose_gate(found, "accuracy")


def test_of_equally_good_thresholds_the_half_stays():
    predicted, wanted = [0.01, 0.2, 0.7, 0.99], [False, False, True, True]
    cuts = candidates(predicted)
    assert cuts.tolist() == [0.005, 0.1, 0.4, 0.5, 0.8, 0.995]
    assert cuts[choose_gate(rates(predicted, wanted, cuts))] == 0.5


def test_candidates_stand_between_probabilities():
    assert candidates([0.0, 1.0]).tolist() == [0.5]
    assert candidates([0.123, 0.124]).tolist() == [0.06, 0.1235, 0.5, 0.6]
    near = np.nextafter(1.0, 0.0)
    assert near < candidates([near, 1.0])[-1] <= 1.0  # the next number


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_candidates_tell_all_probabilities_apart(values):
    cuts, known = candidates(values), sorted(set(values))
    assert ((cuts > 0) & (cuts <= 1)).all()
    for low, high in itertools.pairwise(known):
        assert ((cuts > low) & (cuts <= high)).any()


@pytest.mark.parametrize(
    ("probabilities", "labels", "said"),
    [
        ([], [], "at least one"),
        ([0.1, 0.2], [True], r"got shapes \(2,\) and \(1,\)"),
        ([1.5], [True], "in 0..1, got 1.5"),
        ([float("nan")], [True], "in 0..1, got nan"),
    ],
)
def test_bad_arrays(probabilities, labels, said):
    with pytest.raises(InputError, match=said):
        reliability(probabilities, labels)


def test_rates_need_both_labels():
    with pytest.raises(InputError, match="got 2 and 0"):
        rates([0.1, 0.2], [True, True], [0.5])


# P(end) of four documents, and their last evidence.
ENDS = [
    (0.1, 0.2, 0.9, 0.1, 0.1),
    (0.1, 0.6, 0.3, 0.8, 0.9),
    (0.7, 0.1),
    (0.05, 0.1, 0.2, 0.3),
]
LAST = [2, 3, 0, 3]


def test_where_reading_would_have_ended():
    thresholds = [0.15, 0.5, 0.65, 0.75, 0.95]
    expected = [
        [1, 1, 0, 2],
        [2, 1, 0, 3],
        [2, 3, 0, 3],
        [2, 3, 1, 3],
        [4, 4, 1, 3],
    ]
    assert stops(ENDS, thresholds).tolist() == expected
    curve = exit_curve(ENDS, LAST, thresholds)
    assert curve.complete.tolist() == [0.25, 0.75, 1, 1, 1]
    assert curve.exact.tolist() == [0.25, 0.75, 1, 0.75, 0.25]
    assert curve.chunks.tolist() == [2, 2.5, 3, 3.25, 4]
    assert (curve.questions, curve.all_chunks) == (4, 4)
    assert (curve.complete_share(1).count, curve.complete_share(1).of) == (3, 4)


def test_the_fewest_chunks_within_the_loss():
    curve = exit_curve(ENDS, LAST)
    assert curve.thresholds[choose_exit(curve, 0.01)] == 0.65  # between .6 and .7
    chosen = choose_exit(curve, 0.25)
    assert curve.complete[chosen] == 0.75
    every = exit_curve(ENDS, LAST, np.linspace(0.001, 1, 1000))
    for loss in (0, 0.01, 0.25, 0.5, 0.75, 1):
        best = every.chunks[every.complete >= 1 - loss].min()
        assert curve.chunks[choose_exit(curve, loss)] == best


def test_an_early_exit_that_is_certain_leaves_no_threshold():
    curve = exit_curve([(0.1, 1.0, 0.2, 0.3), (0.1, 0.9)], [2, 1])
    assert choose_exit(curve, 0.01) is None
    assert choose_exit(curve, 0.5) is not None
    assert (curve.complete <= 0.5).all()


def test_neighbours_read_noticeably_less_or_more():
    random = np.random.default_rng(0)
    ends = random.random((200, 20)) ** 3
    curve = exit_curve(ends, [10] * 200)
    chosen = int(np.searchsorted(curve.thresholds, 0.8))
    below, above = neighbours(curve, chosen)
    away = (curve.chunks[[below, above]] - curve.chunks[chosen]) / 20
    assert away[0] == pytest.approx(-0.05, abs=0.01)
    assert away[1] == pytest.approx(0.05, abs=0.01)
    few = exit_curve([(0.2, 0.8, 0.1)], [1])
    assert [few.thresholds[i] for i in neighbours(few, choose_exit(few))] == [0.1, 0.9]
    only = exit_curve([(1.0,)], [0])
    assert neighbours(only, 0) == []


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=6), min_size=1, max_size=5),
    st.floats(0, 1),
)
def test_a_stop_is_the_first_probability_that_reaches_the_threshold(ends, threshold):
    expected = [
        next((i for i, p in enumerate(own) if p >= threshold), len(own) - 1)
        for own in ends
    ]
    assert stops(ends, [threshold])[0].tolist() == expected


def turn(chunk, update, end):
    return Turn(
        kind="memory",
        chunk=chunk,
        update=False,
        exit=False,
        update_probability=update,
        exit_probability=end,
        well_formed=True,
        memory="",
        memory_tokens=0,
        text="",
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
        seconds=0.0,
    )


def trajectory(gates):
    turns = tuple(turn(i, *each) for i, each in enumerate(gates))
    return Trajectory(mode="without_exit_gate", question="Q", turns=turns)


def test_readings_of_trajectories():
    gates = [(0.1, 0.2), (0.9, 0.8)]
    found = reading(trajectory(gates), (1,))
    assert found == GatedReading(update=(0.1, 0.9), end=(0.2, 0.8), evidence=(1,))
    assert found.last_evidence == 1
    assert reading(trajectory(gates), ()) is None  # nothing is labelled
    assert reading(trajectory(gates), (2,)) is None  # not read
    assert reading(trajectory([(0.1, 0.2), (None, 0.8)]), (0,)) is None
    assert reading(trajectory([]), (0,)) is None
    with pytest.raises(InputError, match="got it in"):
        GatedReading(update=(0.1,), end=(0.1,), evidence=(1,))
    with pytest.raises(InputError, match="got 1 and 0"):
        GatedReading(update=(0.1,), end=(), evidence=(0,))


def some_readings(count=60, chunks=8, seed=0):
    random, read = np.random.default_rng(seed), []
    for _ in range(count):
        held = sorted(random.choice(chunks, 2, replace=False).tolist())
        own = np.isin(np.arange(chunks), held)
        done = np.arange(chunks) >= held[-1]
        noise = random.normal(size=(2, chunks))
        update, end = 1 / (1 + np.exp(-(8 * np.stack([own, done]) - 5 + noise)))
        read.append(
            GatedReading(update=tuple(update), end=tuple(end), evidence=tuple(held))
        )
    return read


def test_labels_of_the_two_gates():
    read = some_readings()
    update, exit_gate, curve = calibrate_gates(read, before=(0.3, None))
    assert (update.reliability.turns, update.reliability.positives) == (480, 120)
    expected = sum(8 - each.last_evidence for each in read)
    assert exit_gate.reliability.positives == expected
    assert update.before == 0.3
    assert update.threshold == update.picked != 0.3
    assert update.at(update.picked)["balanced_accuracy"] > 0.95
    assert 1 - curve.complete_share(choose_exit(curve)).share <= 0.01
    # Exact exits are at the chunk with the last evidence itself.
    sure = [GatedReading(update=(0, 1, 0), end=(0, 0.9, 0.9), evidence=(1,))] * 3
    update, exit_gate, curve = calibrate_gates(sure)
    assert (update.picked, exit_gate.picked) == (0.5, 0.5)
    assert exit_gate.labels.tolist() == [False, True, True] * 3
    assert curve.exact[choose_exit(curve)] == 1


def test_a_class_that_is_missing_leaves_the_threshold():
    read = [GatedReading(update=(0.5, 0.9), end=(0.8, 0.9), evidence=(0, 1))]
    update, exit_gate, _ = calibrate_gates(read, before=(0.4, None))
    assert (update.picked, update.threshold, update.at(0.5)) == (None, 0.4, None)
    assert "every chunk has evidence" in update.problem
    assert exit_gate.picked is not None
    read = [GatedReading(update=(0.5, 0.9), end=(0.8, 0.9), evidence=(0,))]
    update, exit_gate, curve = calibrate_gates(read)
    assert (exit_gate.picked, exit_gate.threshold, curve) == (None, None, None)
    assert "first chunk of every document" in exit_gate.problem
    early = [GatedReading(update=(0.5, 0.9), end=(1.0, 0.9), evidence=(1,))]
    _, exit_gate, curve = calibrate_gates(early)
    assert exit_gate.picked is None
    assert curve is not None
    assert "no threshold keeps the loss of evidence within 0.01" in exit_gate.problem
    with pytest.raises(InputError, match="at least one reading"):
        calibrate_gates([])


def test_settings_keep_all_else():
    saved = AgentConfig(chunk_size=64)
    own = {"chunk_size": 64, "mode": "with_exit_gate", "max_chunks": 9}
    picked = {"update_threshold": 0.25, "exit_threshold": None}
    assert with_thresholds(own, saved, saved, picked) == own | {
        "format": "constrained",
        "update_threshold": 0.25,
    }
    used = AgentConfig(chunk_size=32, mode="without_exit_gate", max_chunks=3)
    changed = with_thresholds(own, saved, used, {"exit_threshold": 0.5})
    assert changed == own | {
        "chunk_size": 32,
        "format": "constrained",
        "exit_threshold": 0.5,
    }
    assert config_from_dict(changed).exit_threshold == 0.5
    assert with_thresholds(None, saved, saved, picked) == {
        "format": "constrained",
        "update_threshold": 0.25,
    }


@pytest.mark.parametrize("kind", ["both", "neither"])
def test_picture_and_record(kind):
    read = {
        "both": some_readings(),
        "neither": [GatedReading(update=(0.5,), end=(0.8,), evidence=(0,))],
    }[kind]
    update, exit_gate, curve = calibrate_gates(read)
    found = Calibration(
        policy="P",
        questions=len(read),
        left_out=0,
        criterion="f1",
        max_loss=0.01,
        update=update,
        exit=exit_gate,
        curve=curve,
        runs=(),
        settings=None,
    )
    assert picture(found).startswith(b"\x89PNG")
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["exit"]["picked"] is (exit_gate.picked is not None)
    assert (record["exit_curve"] is None) is (kind == "neither")
