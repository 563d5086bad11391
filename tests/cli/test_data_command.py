"""`gru-mem data build`, `show` and `filter`, as a user gives them."""

import argparse
import dataclasses
import json
import os
import re

import pytest
from cli_helpers import random_policy

from gru_mem_jax.agent import parts
from gru_mem_jax.agent.turn_form import turn_constraint
from gru_mem_jax.cli import data_filter
from gru_mem_jax.cli.main import main
from gru_mem_jax.data import open_dataset
from gru_mem_jax.data.builders import RECIPES, recipe_class
from gru_mem_jax.runs.lock import FileLock
from gru_mem_jax.testing.scripted import ScriptedGenerator
from gru_mem_jax.tiny.synthetic import SyntheticConfig, generate

NOISE = "Nothing of interest is said here. " * 40


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {
            "id": f"q{i}",
            "question": f"Who is guest {i}?",
            "answers": [f"Ada {i}", "A."],
            "document": f"{NOISE}Guest {i} is Ada {i}. {NOISE}Ada {i} left.",
            "evidence_strings": [f"Ada {i} left", f"Guest {i} is Ada {i}"],
            "evidence_order": [1, 0],
            "task": "guests",
            "metadata": {"kind": "party"},
        }
        for i in range(4)
    ]
    rows[3]["question"] = "Who\x1b]0;owned\x07 came\x1b[31m?"
    write(folder / "mine.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def built(folder):
    assert main(build(folder, "--documents=1,3", out="set")) == 0
    return folder / "set"


def build(folder, *flags, out="new"):
    words = ["data", "build", "jsonl", f"--source={folder / 'mine.jsonl'}"]
    return [*words, f"--out={folder / out}", *flags]


def test_build_tells_what_it_made(folder, built, capsys):
    assert main(build(folder, "--documents=1,3", out="set")) == 0
    told = capsys.readouterr()
    assert told.out == f"{built}\n"
    line = (
        "exists, and is what was asked for: 4 questions of 1 documents, 3 documents; "
    )
    assert told.err.startswith(line + "4 texts; ")
    assert main(build(folder, "--num_questions=2", out="two")) == 0
    told = capsys.readouterr()
    assert told.err.splitlines()[:2] == ["building: texts", "building: 1 documents"]
    last = r"built in \d+\.\d s: 2 questions of 1 documents; 4 texts; 0\.3 MB\n"
    assert re.search(last, told.err)


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        ("", 2, "the following arguments are required: COMMAND; see gru-mem data"),
        ("bild", 2, "what: unknown value 'bild' (did you mean build?)"),
        ("build jsonl", 2, "required: --out"),
        ("build jsnl --out O", 2, "unknown value 'jsnl' (did you mean jsonl?)"),
        ("build jsonl --out O", 2, "give at least one file with a JSON object a line"),
        ("build jsonl --out O --source no", 2, "no: No such file or directory"),
        ("build jsonl --out O --sorce no", 2, "--sorce (did you mean --source?)"),
        (
            "build jsonl --out O --source S --documents 0",
            2,
            "must be at least 1, got 0",
        ),
        ("build jsonl --out O --source S --documents 3,3", 2, "names a length twice"),
        ("build jsonl --out O --source S --tokens 5", 2, "must be one of documents"),
        ("build jsonl --out O --source S --tokens 5 --chunks 5", 2, "in one unit"),
        (
            "build jsonl --out O --source S --task a",
            2,
            "--task is not a setting of json",
        ),
        ("build jsonl --out S --source S", 2, "--out: S is a file, expected a folder"),
        ("build long_hotpotqa --out O", 2, "--documents or --tokens or --chunks"),
        (
            "build long_hotpotqa --out O --documents 5",
            2,
            "https://hotpotqa.github.io",
        ),
        ("build ruler --out O --tokens 500", 2, "ruler needs --task"),
        ("show no", 2, "no: no such folder; build it by gru-mem data build"),
        ("show .", 2, ".: holds no dataset.json"),
        ("show set", 0, ""),
        ("show set --index 9", 2, "--index 9: set has 4 questions, from 0 on"),
        ("show set --length 5", 2, "set: has no length '5'"),
        ("filter set --out O", 2, "required: --policy"),
        ("filter set --out O --policy no", 2, "no"),
        ("filter set --out set --policy P", 2, "P"),
    ],
)
def test_one_line_for_what_cannot_be(
    folder, built, tmp_path, monkeypatch, capsys, words, status, expected
):
    (tmp_path / "set").symlink_to(built)
    (tmp_path / "S").write_text((folder / "mine.jsonl").read_text())
    monkeypatch.chdir(tmp_path)
    assert main(["data", *words.split()]) == status
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == bool(expected)
    assert sorted(os.listdir()) == ["S", "set"]


def test_every_recipe_is_there_and_its_fields_have_flags(capsys):
    assert main(["data", "build", "--help"]) == 0
    text = capsys.readouterr().out
    for name in RECIPES:
        assert name in text
        for field in dataclasses.fields(recipe_class(name)):
            flag = {"sources": "source", "encoder": "tokenizer", "lengths": "documents"}
            assert f"--{flag.get(field.name, field.name)}" in text, (name, field.name)


def test_bad_lines_are_named_and_nothing_is_left(folder, tmp_path, capsys):
    bad = tmp_path / "mine.jsonl"
    bad.write_text((folder / "mine.jsonl").read_text() + '{"question": "?"')
    assert main(build(tmp_path)) == 2
    error = capsys.readouterr().err
    assert f"1 of 5 records are bad: {bad}:5: is not JSON" in error
    assert os.listdir(tmp_path) == ["mine.jsonl"]
    assert main(build(tmp_path, "--on_bad_record=skip")) == 0


def test_two_builds_at_once(tmp_path, folder, capsys):
    work = tmp_path / ".new.building"
    work.mkdir()
    lock = FileLock(work / "lock")
    words = build(folder)
    words[4] = f"--out={tmp_path / 'new'}"
    try:
        assert main(words) == 2
    finally:
        lock.release()
    error = capsys.readouterr().err
    assert f"{work}: in use by pid {os.getpid()} on host " in error


def test_show_marks_the_evidence_and_cuts_the_rest(built, capsys):
    assert main(["data", "show", str(built)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"1 documents +│ +4 │ +1 │ +2,7\d\d │", told)
    assert re.search(r"3 documents +│ +4 │ +3 │ +8,\d\d\d │", told)
    assert "answers: Ada 0 | A." in told
    assert "task: guests" in told
    assert "kind: party" in told
    assert "⟦0: Guest 0 is Ada 0⟧. Nothing of interest" in told
    assert "⟦1: Ada 0 left⟧." in told
    assert len(re.findall(r"… [\d,]+ characters …", told)) == 2
    assert told.count("Nothing of interest") < 30


def test_show_obeys_no_escape_sequence_and_json_is_exact(built, capsys):
    words = ["data", "show", str(built), "--index=3", "--length=3 documents"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "question: Who came?" in told
    assert "\x1b" not in told
    assert main([*words, "--json=-"]) == 0
    document = json.loads(capsys.readouterr().out)
    example = open_dataset(built, "3 documents")[3]
    assert document["example"]["question"] == example.question
    assert document["example"]["document"] == example.document
    assert (document["length"], document["index"]) == ("3 documents", 3)


def test_show_verifies(folder, capsys):
    assert main(build(folder, out="flipped")) == 0
    (file,) = (folder / "flipped").rglob("texts-pool*")
    data = bytearray(file.read_bytes())
    data[200] ^= 1
    file.write_bytes(data)
    words = ["data", "show", str(folder / "flipped")]
    assert main([*words, "--verify"]) == 2
    assert "texts-pool.array_record-00000 differs from" in capsys.readouterr().err


# -- filter ----------------------------------------------------------------------------

SETTINGS = {
    "chunk_size": 64,
    "question_tokens": 32,
    "memory_tokens": 32,
    "completion_tokens": 8,
    "prompt_tokens": 160,
    "prompt": {"style": "compact"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A policy of random weights, and a set of six questions."""
    folder = tmp_path_factory.mktemp("filter")
    policy = random_policy(folder, SETTINGS)
    examples = [generate(SyntheticConfig(num_chunks=4), i) for i in range(6)]
    write(folder / "mine.jsonl", map(dataclasses.asdict, examples))
    assert main(build(folder, "--documents=1,2", out="set")) == 0
    return folder, policy


@pytest.fixture
def asked(files, monkeypatch):
    """The same, where the policy says what a script says."""

    def engine(asking):
        encoder = asking.builder.encoder
        return ScriptedGenerator(lambda request: "\\boxed{gecko}", encoder, capacity=2)

    monkeypatch.setattr(data_filter._Asking, "engine", engine)
    return files


@pytest.mark.parametrize("form", ["free", "constrained"])
def test_the_engine_is_warm_for_the_form_of_its_answers(tmp_path, monkeypatch, form):
    changes = {"completion_tokens": 32, "format": form}
    policy = random_policy(tmp_path, SETTINGS | changes)
    warmed = []

    class Engine:
        def warm_up(self, constraints):
            warmed.extend(constraints)

    monkeypatch.setattr(parts, "make_engine", lambda *_: Engine())
    words = argparse.Namespace(policy=str(policy), samples=1, seed=0, slots=2)
    asking = data_filter._Asking(words)
    asking.engine()
    assert warmed == [turn_constraint(asking.builder, asking.agent, "answer")]
    assert (warmed == [None]) == (form == "free")


def filtered(asked, *flags, out="kept"):
    folder, policy = asked
    words = ["data", "filter", str(folder / "set"), f"--policy={policy}"]
    return main([*words, f"--out={folder / out}", "--slots=4", *flags])


def known(monkeypatch, *ids, after=None):
    """Makes every answer to these questions right; Ctrl-C after some answers."""
    from gru_mem_jax.data.builders import filtered as module

    real, given = module.attempts, []

    def attempts(*arguments):
        for each in real(*arguments):
            if len(given) == after:
                raise KeyboardInterrupt
            given.append(each.id)
            yield dataclasses.replace(each, score=float(each.id in ids))

    monkeypatch.setattr(module, "attempts", attempts)
    return given


def test_a_policy_that_knows_nothing(asked, capsys):
    folder, _ = asked
    assert filtered(asked, out="all") == 0
    told = capsys.readouterr()
    assert told.out == f"{folder / 'all'}\n"
    assert "0 of 6 questions are answered without the document; 6 are kept" in told.err
    assert filtered(asked, out="all") == 0
    assert "exists, and is what was asked for" in capsys.readouterr().err
    assert filtered(asked, "--samples=2", out="all") == 2
    assert "holds another set: filter." in capsys.readouterr().err


@pytest.mark.slow
def test_the_policys_own_answers(files, capsys):
    """Compiles; greedy and drawn answers, equal when they are asked again."""
    folder, _ = files
    for flags in ([], ["--samples=2", "--seed=1"]):
        for out in ("one", "two"):
            out += str(len(flags))
            assert filtered(files, *flags, out=out) == 0
        sums = [(folder / f"{o}{len(flags)}/SHA256SUMS") for o in ("one", "two")]
        assert sums[0].read_text() == sums[1].read_text()


def test_what_is_known_is_dropped_and_an_interrupted_filter_goes_on(
    asked, monkeypatch, capsys
):
    folder, _ = asked
    ids = [
        question.id
        for question in open_dataset(folder / "set", "1 documents").questions()
    ]
    given = known(monkeypatch, ids[1], ids[4], after=3)
    assert filtered(asked, "--samples=2") == 130
    told = capsys.readouterr().err
    assert "gru-mem: interrupted: the same command goes on from here" in told
    assert not (folder / "kept").exists()
    answers = folder / ".kept.answers" / "answers.jsonl"
    lines = answers.read_text().splitlines()
    assert len(lines) == 1 + 3
    # Killed while it wrote: the line that was cut is asked again.
    answers.write_text("\n".join(lines)[:-5])
    assert filtered(asked, "--samples=3") == 2
    assert "holds answers of another filter: " in capsys.readouterr().err
    first = given[:2]
    monkeypatch.undo()
    again = known(monkeypatch, ids[1], ids[4])
    assert filtered(asked, "--samples=2") == 0
    assert sorted(first + again) == sorted(ids * 2)
    assert "2 of 6 questions are answered" in capsys.readouterr().err
    kept = [own for own in ids if own not in (ids[1], ids[4])]
    for length in ("1 documents", "2 documents"):
        new = open_dataset(folder / "kept", length, verify=True)
        old = open_dataset(folder / "set", length)
        assert list(new) == [example for example in old if example.id in kept]
    assert not (folder / ".kept.answers").exists()
    # It shares nothing with what it was made of.
    (folder / "kept").rename(folder / "moved")
    assert len(open_dataset(folder / "moved", "1 documents")) == 4


def test_a_filter_without_an_answer_leaves_nothing(asked, monkeypatch):
    folder, _ = asked
    known(monkeypatch, after=0)
    before = sorted(folder.iterdir())
    assert filtered(asked, out="early") == 130
    assert sorted(folder.iterdir()) == before


def test_nothing_is_left(asked, monkeypatch, capsys):
    folder, _ = asked
    ids = [
        question.id
        for question in open_dataset(folder / "set", "1 documents").questions()
    ]
    known(monkeypatch, *ids)
    assert filtered(asked, out="none") == 2
    assert "answers every question without the document" in capsys.readouterr().err
    assert not (folder / "none").exists()
