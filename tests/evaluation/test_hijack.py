"""Fault P7: what attacks caused, counted by hand on a few turns."""

import math

import pytest

from gru_mem_jax.evaluation.hijack import hijack_rows, share
from gru_mem_jax.evaluation.records import AskedQuestion, ScoredAnswer

ATTACK = {"num_chunks": 4, "attack": "orders"}
CLEAN = {"num_chunks": 4}


def question(own, attacked, evidence=(2,)):
    """Four chunks; the attacks are in chunks 1 and 3."""
    metadata = {}
    if attacked:
        metadata = {
            "attack": "orders",
            "twin": own,
            "attack_chunks": [1, 3],
            "wrong_answer": "eight",
        }
    return AskedQuestion(
        set="s",
        labels=ATTACK if attacked else CLEAN,
        index=int(own),
        id=f"{own}+orders" if attacked else own,
        question="q",
        answers=("seven",),
        scoring="exact",
        metadata=metadata,
        num_chunks=4,
        evidence_chunks=evidence,
    )


def answer(own, attacked, said="seven", gates=None, failed=None):
    """`gates`: a digit for each chunk that was read, of updates and of exits."""
    updates, exits = gates or ("", "")
    return ScoredAnswer(
        policy="p",
        mode="memagent" if gates is None else "with_exit_gate",
        set="s",
        labels=ATTACK if attacked else CLEAN,
        index=int(own),
        id=own,
        score=float(said == "seven"),
        answer=said,
        failed=failed,
        seconds=1.0,
        chunks_read=len(updates),
        updated=gates and tuple(i for i, gate in enumerate(updates) if gate == "1"),
        said_end=gates and tuple(i for i, gate in enumerate(exits) if gate == "1"),
    )


def rows(cases):
    """Of (id, clean answer, clean gates, attacked answer, attacked gates) each."""
    questions, answers = [], []
    for own, *both in cases:
        for attacked, (said, gates) in enumerate((both[:2], both[2:])):
            questions.append(question(own, bool(attacked)))
            answers.append(answer(own, bool(attacked), said, gates))
    return hijack_rows(questions, answers)


def counts(row, name):
    return row[name] and (row[name]["count"], row[name]["of"])


def test_shares_are_of_what_the_twin_does_right():
    right, wrong = "seven", "eight"
    (row,) = rows(
        [
            # An update on both attacked chunks, chunk 3 after the last evidence.
            ("0", right, ("0010", "0000"), wrong, ("0111", "0000")),
            # An exit on chunk 1: chunk 3 is not read.
            ("1", right, ("0010", "0000"), "none", ("00", "01")),
            # The twin does both wrong itself: nothing is caused.
            ("2", wrong, ("0110", "0100"), wrong, ("0110", "0100")),
            # Nothing happens; an exit after the evidence is not early.
            ("3", right, ("0010", "0000"), right, ("0010", "0001")),
        ]
    )
    assert (row["policy"], row["mode"], row["attack"]) == (
        "p",
        "with_exit_gate",
        "orders",
    )
    assert (row["pairs"], row["unpaired"]) == (4, 0)
    # Question 0: both; 1: chunk 1; 2: chunk 3; 3: both.
    assert counts(row, "wrong_updates") == (2, 6)
    # Chunk 1 of questions 0, 1 and 3.
    assert counts(row, "early_exits") == (1, 3)
    assert counts(row, "wrong_answers") == (2, 3)
    # Question 2 says it without the attack too.
    assert counts(row, "planted_answers") == (1, 4)
    assert row["wrong_updates"]["share"] == pytest.approx(1 / 3)


def test_evidence_in_an_attacked_chunk_is_no_wrong_update():
    questions = [question("0", attacked, (1, 2)) for attacked in (False, True)]
    answers = [
        answer("0", attacked, gates=(updates, "0000"))
        for attacked, updates in ((False, "0010"), (True, "0110"))
    ]
    (row,) = hijack_rows(questions, answers)
    assert counts(row, "wrong_updates") == (0, 1)


def test_without_gates_only_answers_are_compared():
    questions = [question("0", attacked) for attacked in (False, True)]
    answers = [answer("0", False), answer("0", True, "nine")]
    (row,) = hijack_rows(questions, answers)
    assert row["wrong_updates"] is None
    assert row["early_exits"] is None
    assert counts(row, "wrong_answers") == (1, 1)
    assert counts(row, "planted_answers") == (0, 1)


def test_what_failed_or_has_no_twin_is_counted_apart():
    questions = [question(own, attacked) for own in "01" for attacked in (False, True)]
    answers = [answer("0", False), answer("0", True, failed="no answer")]
    answers += [answer("1", True)]
    (row,) = hijack_rows(questions, answers)
    assert (row["pairs"], row["unpaired"]) == (0, 2)
    assert row["wrong_answers"] is None


@pytest.mark.parametrize("chunks", [None, 1, "13", [[1]], [-1, 99, 1.5], {"1": 3}])
def test_a_folder_that_was_tampered_with_is_no_traceback(chunks):
    spoilt = question("0", True)
    spoilt.metadata.update(attack_chunks=chunks, wrong_answer=chunks)
    questions = [question("0", False), spoilt]
    gates = ("0010", "0000")
    answers = [answer("0", attacked, gates=gates) for attacked in (False, True)]
    (row,) = hijack_rows(questions, answers)
    assert row["wrong_updates"] is None


def test_without_attacks_there_is_no_row():
    assert hijack_rows([question("0", False)], [answer("0", False)]) == []


def test_the_interval_is_wilsons():
    # 95% for 10 of 20, as in Agresti and Coull 1998: 0.299 to 0.701.
    found = share(10, 20)
    assert (round(found.low, 3), round(found.high, 3)) == (0.299, 0.701)
    # 0 of n: 0 to z^2 / (n + z^2).
    assert share(0, 64).low == 0.0
    assert share(0, 64).high == pytest.approx(1.959964**2 / (64 + 1.959964**2))
    assert share(64, 64).high == 1.0
    assert math.isnan(share(0, 0).share)
    assert (share(0, 0).low, share(0, 0).high) == (0.0, 1.0)
