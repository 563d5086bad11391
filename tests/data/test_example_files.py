"""A user's JSONL: what becomes of good lines, and what is said of bad ones."""

import json
import os
import re

import pytest

from gru_mem_jax.agent.chunking import evidence_labels, iter_chunks
from gru_mem_jax.data.files import index_at
from gru_mem_jax.data.jsonl import JsonlSource
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder


def line(**changes):
    record = {
        "question": "Who?",
        "answers": ["Ada"],
        "document": "It rained. Ada came. Then all left.",
        "evidence": [[11, 20]],
    }
    record |= changes
    return json.dumps({k: v for k, v in record.items() if v is not None})


def source(tmp_path, *lines, **fields):
    path = tmp_path / "examples.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return JsonlSource(path=str(path), **fields)


def test_the_fields_of_an_example(tmp_path):
    spans = [[21, 35], [0, 10]]
    item = source(
        tmp_path,
        "\ufeff" + line(id="a", task="mine", scoring="f1", evidence=spans),
        "",
        line(evidence=None) + "\r",
    )
    examples = {item.example(i).id: item.example(i) for i in range(2)}
    first, second = examples["a"], examples["line 3"]
    assert first.evidence == ((0, 10), (21, 35))  # in order of the text
    assert (first.task, first.scoring) == ("mine", "f1")
    assert (second.task, second.scoring, second.evidence) == ("", "exact", ())
    assert second.answers == ("Ada",)
    chunks = iter_chunks(first.document, ByteEncoder(), 12)
    borders = [(chunk.start, chunk.end) for chunk in chunks]
    assert evidence_labels(borders, first.evidence) == ((True, False, True), 2)


def test_every_epoch_has_each_example_once_in_an_order_of_its_own(tmp_path):
    item = source(tmp_path, *(line(id=str(i)) for i in range(8)))
    ids = [item.example(i).id for i in range(24)]
    epochs = [ids[i : i + 8] for i in (0, 8, 16)]
    assert all(sorted(epoch) == list("01234567") for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = JsonlSource(path=item.path)
    assert [again.example(i).id for i in reversed(range(24))] == ids[::-1]
    other = JsonlSource(path=item.path, seed=1)
    assert [other.example(i).id for i in range(8)] != ids[:8]
    # Numbers that were computed elsewhere: the order is the same on any machine.
    assert [index_at(i, 0, 8) for i in range(8)] == [0, 2, 1, 4, 6, 7, 3, 5]


def test_the_file_is_read_once_and_known_by_its_sha256(tmp_path):
    item = source(tmp_path, line())
    assert item == JsonlSource(path=item.path)
    assert hash(item) == hash(JsonlSource(path=item.path))
    before = item.fingerprint()
    assert re.fullmatch(r"[0-9a-f]{64}", before)
    (tmp_path / "examples.jsonl").write_text("gone")
    assert item.example(3).question == "Who?"
    assert item.fingerprint() == before


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ("{", r"jsonl:2: is not JSON"),
        ("[" * 100_000, r"jsonl:2: is not JSON"),
        ("[1]", r"jsonl:2: example must be an object, got list"),
        (line(question=None), r"jsonl:2: example has no field 'question'"),
        (line(question=5), r"jsonl:2: example.question must be text, got 5"),
        (line(question=" "), r"jsonl:2: example.question is empty"),
        (
            line(question="\ud800"),
            r"jsonl:2: example.question: character 0 is the lone",
        ),
        (line(document=""), r"jsonl:2: example.document is empty"),
        (line(document=["x"]), r"jsonl:2: example.document must be text"),
        (line(document="x\udfff"), r"jsonl:2: example.document: character 1"),
        (line(answers="Ada"), r"jsonl:2: example.answers must be a list, got 'Ada'"),
        (line(answers=[]), r"jsonl:2: example.answers holds no answer"),
        (line(answers=["", " "]), r"jsonl:2: example.answers holds no answer"),
        (line(answers=[r"\text{}"]), r"jsonl:2: no answer can match answers"),
        (
            line(id="b", answers=["Ada", "}"], scoring="all"),
            r"jsonl:2: no answer can match .* by scoring 'all' .*'b'",
        ),
        (line(answers=[1]), r"jsonl:2: an entry of example.answers must be text"),
        (line(evidence=[[11, 99]]), r"jsonl:2: .*span \(11, 99\) is not inside"),
        (line(evidence=[[5, 5]]), r"jsonl:2: .*span \(5, 5\) is not inside"),
        (line(evidence=[[-1, 5]]), r"jsonl:2: .*span \(-1, 5\) is not inside"),
        (line(evidence=[[0.5, 5]]), r"jsonl:2: example.evidence must be int"),
        (line(evidence=[[True, 5]]), r"jsonl:2: example.evidence must be int"),
        (line(evidence=[[1]]), r"jsonl:2: example.evidence must be"),
        (line(evidence=[["x" * 10**6, 1]]), r"jsonl:2: example.evidence must be int"),
        (line(scoring="nice"), r"jsonl:2: example.scoring must be one of exact, f1"),
        (line(task=7), r"jsonl:2: example.task must be str"),
        (line(id=7), r"jsonl:2: example.id must be text"),
        (line(id="a"), r"jsonl:2: has the id 'a' of line 1; ids are unique"),
        (line(anwser="x"), r"jsonl:2: example has an unknown field 'anwser'"),
    ],
)
def test_lines_that_are_no_examples(bad, expected, tmp_path):
    item = source(tmp_path, line(id="a"), bad)
    for _ in range(2):  # an error is not remembered as an empty source
        with pytest.raises(InputError, match=expected) as caught:
            item.example(0)
        assert len(str(caught.value)) < 400


def test_files_that_are_none(tmp_path):
    (tmp_path / "bytes").write_bytes(b'{"question": "\xff"}\n')
    (tmp_path / "empty").write_text("\n\n")
    os.mkfifo(tmp_path / "pipe")
    for name, expected in {
        "absent": "absent: No such file",
        ".": "expected a regular file",
        "pipe": "expected a regular file",
        "empty": "holds no example",
        "bytes": r"bytes:1: is not UTF-8 \(byte 14\)",
        "n\0l": "null",
    }.items():
        with pytest.raises(InputError, match=expected):
            JsonlSource(path=str(tmp_path / name)).example(0)
    for fields in ({"path": ""}, {"path": 3}, {"path": "x", "seed": -1}):
        with pytest.raises(InputError, match="must be"):
            JsonlSource(**fields)
