"""Tables from folders: policies, contexts, comparisons, counted by hand."""

import dataclasses

import pytest

from gru_mem_jax.evaluation import statistics, tabulate
from gru_mem_jax.evaluation.folder import ResultsFolder, ResultsWriter
from gru_mem_jax.evaluation.records import AskedQuestion, Manifest, ScoredAnswer
from gru_mem_jax.runs import columns

MODES = ("memagent", "with_exit_gate")


def answers(policy, mode, name, scores, labels=None, **fields):
    return [
        ScoredAnswer(
            policy=policy,
            mode=mode,
            set=name,
            labels=labels or {},
            index=index,
            id=f"{name}{index}",
            score=score,
            seconds=9.0,
            **{"seconds_share": 1.0, "chunks_read": 2, **fields},
        )
        for index, score in enumerate(scores)
    ]


def folder(path, given, policies=("p",), sets=None, modes=MODES):
    named = sorted({(a.set, tuple(a.labels.items())) for a in given})
    facts = [{"set": n, "labels": dict(la), "in_mix": n != "own"} for n, la in named]
    manifest = Manifest(
        title="T",
        policies=dict.fromkeys(policies, "/x"),
        modes=modes,
        settings={"sets": facts if sets is None else sets},
    )
    with ResultsWriter(path, manifest) as writer:
        for answer in given:
            writer.write_question(
                AskedQuestion(
                    set=answer.set,
                    labels=answer.labels,
                    index=answer.index,
                    id=answer.id,
                    question="?",
                    answers=("x",),
                    scoring="exact",
                    num_chunks=4,
                )
            )
            writer.write_answer(answer)
    return ResultsFolder(path)


def by(rows, **fields):
    (row,) = [r for r in rows if all(r.get(k) == v for k, v in fields.items())]
    return row


def test_the_columns_of_a_row(tmp_path):
    first, second, third = answers("p", "with_exit_gate", "a", [1.0, 0.5, 0.0])
    given = [
        dataclasses.replace(
            first,
            scores={"exact": 1.0, "f1": 1.0},
            exit="exact",
            updates_on=(2, 2),
            updates_off=(3, 4),
            well_formed=1.0,
            captured=(1, 2),
            retained=(1, 1),
            prompt_tokens=100,
            shared_prompt_tokens=60,
            completion_tokens=10,
            memory_tokens=(0, 8),
            seconds_alone=0.5,
        ),
        dataclasses.replace(
            second,
            scores={"exact": 0.0, "f1": 0.5},
            exit="late",
            updates_on=(0, 1),
            updates_off=(1, 1),
            well_formed=0.5,
            captured=(2, 2),
            retained=(1, 2),
            prompt_tokens=300,
            completion_tokens=30,
            memory_tokens=(4,),
            chunks_read=4,
            turns=7,
            passes=2,
            seconds_share=3.0,
        ),
        dataclasses.replace(third, failed="error 500"),
    ]
    (row,) = tabulate.table_rows([folder(tmp_path, given)])
    low, high = statistics.interval([1.0, 0.5, 0.0])
    assert row == {
        "policy": "p",
        "set": "a",
        "mode": "with_exit_gate",
        "num_questions": 3,
        "failed": 1,
        "exact": 0.5,
        "exact_low": low,
        "exact_high": high,
        "exact_match": pytest.approx(1 / 3),  # what failed counts as wrong
        "f1": 0.5,
        "update_on_evidence": pytest.approx(2 / 3),
        "update_off_evidence": 0.8,
        "balanced_update": pytest.approx((2 / 3 + 0.8) / 2),
        "exact_exit": 0.5,
        "early_exit": 0.0,
        "late_exit": 0.5,
        "well_formed": 0.5,
        "capture": 0.75,
        "retention": pytest.approx(2 / 3),
        "chunks_read": 0.75,
        "chunks": 3.0,
        "turns": 4.5,  # of the first as many as chunks: it is of an earlier version
        "passes": 1.5,
        "memory_tokens": 4.0,
        "longest_memory": 8,
        "prompt_tokens": 200.0,
        "trajectory_tokens": 20.0,
        "shared_prompt": 0.15,
        "seconds": 5.0,
        "question_seconds": 2.0,
        "alone_seconds": 0.5,
    }
    assert all(columns.find(name) for name in row)


def test_what_a_baseline_does_not_have_is_absent(tmp_path):
    given = answers("p", "whole_text", "a", [1.0, 0.0], chunks_read=0)
    (row,) = tabulate.table_rows([folder(tmp_path, given, modes=("whole_text",))])
    gated = {"capture", "retention", "exact_exit", "update_on_evidence", "well_formed"}
    assert not (gated | {"chunks", "chunks_read", "memory_tokens"}) & set(row)
    assert (row["exact"], row["question_seconds"]) == (0.5, 1.0)


def test_mix_and_all_and_what_is_in_neither(tmp_path):
    given = [
        *answers("p", "memagent", "a", [1.0, 1.0], {"length": "7K"}),
        *answers("p", "memagent", "b", [0.0, 1.0], {"length": "7K"}),
        *answers("p", "memagent", "own", [0.0], {"length": "7K"}),
        *answers("p", "memagent", "a", [0.0, 0.0], {"length": "14K"}),
    ]
    rows = tabulate.table_rows([folder(tmp_path, given)])
    table = [(r.get("length"), r["set"], r["exact"]) for r in rows]
    assert sorted(table[:1] + table[1:], key=str) == sorted(
        [
            ("14K", "a", 0.0),
            ("7K", "mix", 0.75),
            ("7K", "a", 1.0),
            ("7K", "b", 0.5),
            ("7K", "own", 0.0),
            (None, "all", 0.5),
        ],
        key=str,
    )
    assert table[-1] == (None, "all", 0.5)
    assert by(rows, set="mix")["num_questions"] == 4


@pytest.mark.parametrize("within", [None, "", "/out"])
def test_several_policies_in_one_folder_or_in_several(tmp_path, within):
    """In several each is named by its folder where the names are the same."""
    given = {
        name: [
            *answers(name, "memagent", "a", base, seconds_share=2.0),
            *answers(name, "with_exit_gate", "a", gated),
        ]
        for name, base, gated in (
            ("p1", [1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]),
            ("p2", [0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0]),
        )
    }
    if within is None:
        made = [folder(tmp_path, [a for g in given.values() for a in g], ("p1", "p2"))]
        names = ["p1", "p2"]
    else:
        made = [
            folder(
                tmp_path / f"{name}{within}",
                [dataclasses.replace(a, policy="p") for a in own],
                sets=[{"set": "a", "labels": {}, "in_mix": True}],
            )
            for name, own in given.items()
        ]
        names = [f"p1{within}/p", f"p2{within}/p"]
    rows = tabulate.table_rows(made)
    order = [(row["policy"], row["mode"]) for row in rows]
    assert order == [(name, mode) for name in (*names, "mean") for mode in MODES]
    mean = by(rows, policy="mean", mode="memagent")
    assert mean["exact"] == pytest.approx((0.75 + 0.5) / 2)
    assert mean["exact_sd"] == pytest.approx(0.25 / 2**0.5)
    # Over the questions, each with its mean over the policies.
    interval = statistics.interval([0.5, 0.0, 1.0, 1.0])
    assert (mean["exact_low"], mean["exact_high"]) == interval
    assert (mean["num_questions"], mean["seconds"]) == (4, 16.0)
    assert all(row["speed_up"] == 2.0 for row in rows if row["mode"] != "memagent")
    assert all("speed_up" not in row for row in rows if row["mode"] == "memagent")
    results = tabulate.results(made)
    assert results["rows"] == rows
    assert results["policies"] == names
    found = {c["policy"]: c for c in results["comparisons"]}
    assert set(found) == {*names, "mean"}
    for each in found.values():
        assert (each["mode"], each["against"]) == ("with_exit_gate", "memagent")
        assert each["count"] == 4
    expected = statistics.paired([1.0, 0.5, 1.0, 1.0], [0.5, 0.0, 1.0, 1.0])
    assert found["mean"]["mean"] == expected.mean == 0.25
    assert (found["mean"]["low"], found["mean"]["p"]) == (expected.low, expected.p)


def test_stages_of_a_training_are_compared_and_not_averaged(tmp_path):
    """Each of a folder of its own, in modes of its own."""
    scores = {"before": [0.0, 0.0, 1.0, 0.0], "after": [1.0, 1.0, 1.0, 0.0]}
    made = [
        folder(
            tmp_path / name,
            [
                *answers(name, "with_exit_gate", "a", own),
                *(answers(name, "memagent", "a", own[:2]) if name == "after" else ()),
            ],
            policies=(name,),
        )
        for name, own in scores.items()
    ]
    rows = tabulate.table_rows(made, averaged=False)
    assert [(row["policy"], row["mode"]) for row in rows] == [
        ("before", "with_exit_gate"),
        ("after", "memagent"),
        ("after", "with_exit_gate"),
    ]
    results = tabulate.results(made, averaged=False)
    assert results["rows"] == rows
    modes, policies = results["comparisons"]
    assert (modes["policy"], modes["against"]) == ("after", "memagent")
    assert "against_policy" not in modes
    expected = statistics.paired(scores["after"], scores["before"])
    assert policies["mean"] == expected.mean == 0.5
    assert (policies["policy"], policies["against_policy"]) == ("after", "before")
    assert (policies["mode"], policies["count"]) == ("with_exit_gate", 4)
    assert (policies["low"], policies["high"]) == (expected.low, expected.high)


def test_comparisons_are_on_the_questions_of_both(tmp_path):
    """As an evaluation that is not at its end has them."""
    given = [
        *answers("p", "memagent", "a", [1.0, 0.0, 1.0]),
        *answers("p", "with_exit_gate", "a", [0.0, 0.0]),
    ]
    (found,) = tabulate.results([folder(tmp_path, given)])["comparisons"]
    assert (found["count"], found["mean"]) == (2, -0.5)


def test_folders_on_other_questions_stay_apart(tmp_path):
    one = folder(tmp_path / "1", answers("p", "memagent", "a", [1.0]))
    two = folder(tmp_path / "2", answers("p", "memagent", "b", [0.0]))
    rows = tabulate.table_rows([one, two])
    assert [(row["policy"], row["set"]) for row in rows] == [("p", "a"), ("p", "b")]


@pytest.mark.parametrize("sets", [None, 7, [7], [{"set": "a"}], [{"labels": 3}]])
def test_a_manifest_without_sets_is_no_obstacle(tmp_path, sets):
    given = answers("p", "memagent", "a", [1.0])
    made = folder(tmp_path, given, sets=sets)
    (row,) = tabulate.table_rows([made])
    assert (row["set"], row["exact"]) == ("a", 1.0)
    assert tabulate.table_rows([folder(tmp_path / "none", [])]) == []


def test_latency_is_compared_with_reading_to_the_end(tmp_path):
    modes = ("without_exit_gate", "parallel", "reread")
    seconds = {"without_exit_gate": 2.0, "parallel": 0.5, "reread": None}
    given = [
        answer
        for mode in modes
        for answer in answers("p", mode, "a", [1.0, 0.0], seconds_alone=seconds[mode])
    ]
    rows = tabulate.table_rows([folder(tmp_path, given, modes=modes)])
    assert by(rows, mode="parallel")["latency_ratio"] == 4.0
    for mode in ("without_exit_gate", "reread"):
        assert "latency_ratio" not in by(rows, mode=mode)
