"""The flags that say which questions an evaluation asks."""

import json

import pytest

from gru_mem_jax.cli import suites
from gru_mem_jax.cli.arguments import Parser
from gru_mem_jax.data import DatasetSource
from gru_mem_jax.data.builders import JsonlDocuments, Length, build
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation import DatasetSuite, SourceSuite
from gru_mem_jax.tiny.sources import SyntheticSuite


class Gin:
    """Binds nothing."""

    def build(self, value):
        return value


def suite_of(*flags, chunk_size=64):
    parser = Parser()
    suites.add_suite_flags(parser.add_argument)
    args = parser.parse(flags)
    suite = suites.default_suite(args, Gin(), chunk_size)
    return suites.suite_from(args, suite, lambda: None, chunk_size)


def test_without_flags_questions_are_synthetic():
    assert suite_of() == SyntheticSuite(chunk_tokens=64)
    assert suite_of(chunk_size=50) == SyntheticSuite(chunk_tokens=50)


def test_flags_change_the_synthetic_questions():
    assert suite_of(
        *("--tasks=chain,single_key", "--contexts=uniform:4,first_20:9"),
        *("--num_questions=3", "--seed=7"),
    ) == SyntheticSuite(
        chunk_tokens=64,
        tasks=("chain", "single_key"),
        contexts=(("uniform", 4), ("first_20", 9)),
        num_questions=3,
        seed=7,
    )


def test_a_file_is_a_suite(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "q", "answers": ["a"], "document": "d"}\n')
    suite = suite_of(f"--data={file}", "--num_questions=1")
    assert isinstance(suite, SourceSuite)
    (only,) = suite.question_sets()
    assert (only.name, only.count) == ("mine", 1)


def test_a_data_set_is_a_suite(tmp_path):
    """Every length of it, or those of --lengths, in the order of its questions."""
    lines = [
        json.dumps({"id": text, "question": "q", "answers": ["a"], "document": text})
        for text in "abc"
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    lengths = (Length("documents", 1), Length("documents", 2))
    recipe = JsonlDocuments(sources=(str(tmp_path / "mine.jsonl"),), lengths=lengths)
    folder = build(recipe, tmp_path / "mine")
    one, two = suite_of(f"--data={folder}").question_sets()
    assert (one.name, one.length, one.count) == ("mine", "1 documents", None)
    assert [one.source.example(i).document for i in range(3)] == ["a", "b", "c"]
    assert two.length == "2 documents"
    flags = (f"--data={folder}", "--num_questions=2")
    for text in ("2", "2 documents"):
        (only,) = suite_of(*flags, f"--lengths={text}").question_sets()
        assert (only.length, only.count) == ("2 documents", 2)
    _, unknown = suite_of(*flags, "--lengths=1,3").question_sets()
    with pytest.raises(InputError, match="has no length '3 documents'"):
        unknown.source.example(0)
    with pytest.raises(InputError, match="--gaps is for a suite by name"):
        suite_of(*flags, "--gaps=1")
    with pytest.raises(InputError, match=r"lengths must be a tuple such as"):
        DatasetSuite(path=str(folder), lengths="1")
    with pytest.raises(InputError, match="part must be"):
        DatasetSuite(path=str(folder), part="test")


def test_a_part_of_a_data_set(tmp_path):
    """Trained on part train, asked on the other: no question is in both."""
    records = [
        {"id": str(i), "question": f"q{i}", "answers": ["a"], "document": "a"}
        for i in range(20)
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, records)))
    recipe = JsonlDocuments(
        sources=(str(tmp_path / "mine.jsonl"),), lengths=(Length("documents", 1),)
    )
    folder = build(recipe, tmp_path / "mine")
    asked = {}
    for part in ("train", "held_out"):
        suite = DatasetSuite(path=str(folder), part=part, held_out_share=0.3)
        (only,) = suite.question_sets()
        trained = DatasetSource(path=folder, part=part, held_out_share=0.3)
        asked[part] = {each.id for _, each in only.source.records().good}
        assert asked[part] == {each.id for _, each in trained.records().good}
    assert len(asked["train"]) + len(asked["held_out"]) == 20
    assert min(map(len, asked.values())) > 2
    assert not asked["train"] & asked["held_out"]


def test_a_synthetic_suite_by_name():
    suite = suite_of("--suite=bridge", "--source=tiny", "--gaps=-8,8", "--lengths=20")
    assert [(s.gap, s.num_chunks, s.count) for s in suite.question_sets()] == [
        *((-8, 20, 32), (8, 20, 32)),
    ]
    assert suite_of("--suite=tiny", "--seed=5") == SyntheticSuite(
        chunk_tokens=64, seed=5
    )


def test_what_is_missing_is_listed(capsys):
    with pytest.raises(InputError, match=r"data sets are missing \(2\).*above"):
        suite_of("--suite=paper", "--tasks=HQA,SQuAD")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        *("--source hotpotqa=FILE", "--source squad=FILE", "HQA", "SQuAD"),
    ]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--suite=papers"], r"unknown suite 'papers' \(did you mean paper\?\)"),
        (["--suite=paper", "--source=hotpot=x"], "did you mean hotpotqa"),
        (["--suite=paper", "--source=tiny"], "suite paper has no synthetic documents"),
        (
            ["--suite=injection", "--source=tiny", "--source=squad=x"],
            "injection cannot stand in documents of data sets; multihop and bridge can",
        ),
        (
            ["--suite=bridge", "--source=tiny", "--datasets=x", "--contexts=uniform:8"],
            "--contexts is for synthetic documents; give --lengths",
        ),
        (["--suite=tiny", "--datasets=x"], "suite tiny needs no --datasets"),
        (["--suite=ruler", "--contexts=uniform:8"], "--contexts is for synthetic"),
        (["--suite=tiny", "--data=x"], "--data and --suite are two choices"),
        (["--lengths=7K"], "--lengths is for a suite by name"),
        (["--datasets=x"], "--datasets is for a suite by name"),
        (["--source=squad"], "expected NAME=FILE such as squad=dev-v2.0.json"),
        (["--suite=bridge", "--source=tiny", "--gaps=a"], "--gaps: expected"),
        (["--tasks=chian"], "--tasks: unknown name 'chian'"),
        (["--contexts=uniform"], "--contexts: expected e.g. uniform:8"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, named):
    with pytest.raises(InputError, match=named):
        suite_of(*flags)
