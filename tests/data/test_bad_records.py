"""All bad records of a file are told at once, or left out."""

import json

import pytest

from gru_mem_jax.data.bad_records import BadRecord, BadRecordsError, Records, reasons
from gru_mem_jax.data.hotpotqa import HotpotQASource
from gru_mem_jax.data.jsonl import JsonlSource
from gru_mem_jax.data.squad import SQuADSource
from gru_mem_jax.errors import InputError


def line(own, **changes):
    record = {"id": own, "question": "Who?", "answers": ["Ada"], "document": "Ada."}
    return json.dumps(record | changes)


def jsonl(tmp_path, *lines, **fields):
    path = tmp_path / "examples.jsonl"
    data = b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines)
    path.write_bytes(data)
    return JsonlSource(path=str(path), **fields)


BAD = (
    line("a"),
    "{",
    line("b", question=" "),
    line("c"),
    line("a"),
    line("d", evidence=[[0, 99]]),
    line("e", answers=[]),
    line("f"),
)


def test_all_bad_lines_are_told_with_line_id_and_reason(tmp_path):
    source = jsonl(tmp_path, *BAD)
    for _ in range(2):
        with pytest.raises(BadRecordsError) as caught:
            source.example(0)
    told = [(bad.where, bad.id, bad.reason[:24]) for bad in caught.value.records.bad]
    assert told == [
        ("line 2", "", "is not JSON (Expecting p"),
        ("line 3", "b", "example.question is empt"),
        ("line 5", "a", "has the id 'a' of line 1"),
        ("line 6", "d", "example 'd': evidence sp"),
        ("line 7", "e", "example.answers holds no"),
    ]
    (message,) = str(caught.value).splitlines()
    assert message.startswith("5 of 8 records are bad: ")
    assert f"{source.path}:3: example.question is empty (id 'b')" in message
    assert "; and 2 more; correct them, or set JsonlSource.on_bad_record = " in message
    assert len(message) < 600


def test_skipped_lines_are_as_if_they_were_not_there(tmp_path):
    skipping = jsonl(tmp_path, *BAD, on_bad_record="skip")
    (tmp_path / "good").mkdir()
    good = jsonl(tmp_path / "good", *(BAD[i] for i in (0, 3, 7)))
    assert [skipping.example(i) for i in range(9)] == [
        good.example(i) for i in range(9)
    ]
    assert [where for where, _ in skipping.records().good] == [
        "line 1",
        "line 4",
        "line 8",
    ]
    assert len(skipping.records()) == 8


def test_nothing_good_is_an_error_that_no_setting_helps(tmp_path):
    source = jsonl(tmp_path, "{", "}", on_bad_record="skip")
    with pytest.raises(BadRecordsError, match="2 of 2 records are bad") as caught:
        source.example(0)
    assert "on_bad_record" not in str(caught.value)
    with pytest.raises(InputError, match="on_bad_record must be one of error, skip"):
        JsonlSource(path="x", on_bad_record="ignore")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"\xff\xfe", "is not UTF-8 (byte 0)"),
        (b"\0\0\0\0", "is not JSON"),
        (line("b").encode() + b"\0", "is not JSON"),
        (line("b")[:-4], "is not JSON ("),
        (line("b", answers="Ada"), "must be a list, got 'Ada'; put it in brackets"),
        (line(7), 'example.id must be text, got 7; write "7"'),
        (line("b", evidence=5), "example.evidence must be tuple, got 5"),
        (line("b", ansers=[]), "unknown field 'ansers' (did you mean answers?)"),
        (line("b", document="\ud800"), "the lone surrogate U+D800"),
        ("[" * 10**6, "is not JSON (nested too deeply)"),
    ],
)
def test_lines_that_people_bring(bad, reason, tmp_path):
    """The second of three is bad, whatever ends the lines."""
    for end in (b"\n", b"\r\n"):
        lines = [
            b"\xef\xbb\xbf" + line("a").encode(),
            bad if isinstance(bad, bytes) else bad.encode(),
            line("c").encode(),
            b"",
        ]
        path = tmp_path / "examples.jsonl"
        path.write_bytes(end.join(lines))
        source = JsonlSource(path=str(path), on_bad_record="skip")
        assert {source.example(i).id for i in range(4)} == {"a", "c"}
        (found,) = source.records().bad
        assert found.where == "line 2"
        assert reason in found.reason
        assert len(found.message(source.path)) < 400 + len(source.path)


def test_a_cut_last_line_is_asked_about(tmp_path):
    source = jsonl(tmp_path, line("a"), line("b")[:-9])
    with pytest.raises(InputError, match="the last line, without an end: was the file"):
        source.example(0)


def test_null_is_a_missing_field(tmp_path):
    item = jsonl(tmp_path, line(None, evidence=None, task=None, scoring=None))
    example = item.example(0)
    assert (example.id, example.evidence, example.task) == ("line 1", (), "")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (f"[{line('a')}]".encode(), "begins with '\\['"),
        (b"\xef\xbb\xbf [\n", "begins with '\\['"),
        (line("a").encode("utf-16"), "UTF-16"),
        (b"\x1f\x8b" + b"x" * 80, "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        (b"", "holds no example"),
        (b"\xef\xbb\xbf\n \r\n", "holds no example"),
    ],
)
def test_files_that_are_something_else(data, expected, tmp_path):
    path = tmp_path / "examples.jsonl"
    path.write_bytes(data)
    for mode in ("error", "skip"):
        with pytest.raises(InputError, match=expected) as caught:
            JsonlSource(path=str(path), on_bad_record=mode).example(0)
        assert str(path) in str(caught.value)


def hotpot(number, **changes):
    return {
        "_id": f"id{number}",
        "question": "Which?",
        "answer": "x",
        "supporting_facts": [[f"A{number}", 0]],
        "context": [[f"A{number}", ["One."]], [f"B{number}", ["Two."]]],
    } | changes


def test_hotpotqa_gathers_and_skips(tmp_path):
    path = tmp_path / "hotpot.json"
    bad = [hotpot(1, answer=" "), 7, hotpot(0), hotpot(2, supporting_facts=[])]
    path.write_text(json.dumps([hotpot(0), *bad, hotpot(9)]))
    with pytest.raises(BadRecordsError, match="4 of 6 records are bad") as caught:
        HotpotQASource(path=str(path), paragraphs=4).example(0)
    assert [(b.where, b.id) for b in caught.value.records.bad] == [
        ("record 1", "id1"),
        ("record 2", ""),
        ("record 3", "id0"),
        ("record 4", "id2"),
    ]
    assert f"{path}: record 1.answer is empty (id 'id1'); " in str(caught.value)
    source = HotpotQASource(path=str(path), paragraphs=4, on_bad_record="skip")
    for i in range(4):
        example = source.example(i)
        assert example.id in ("id0", "id9")
        titles = {part.split("\n")[1] for part in example.document.split("\n\n")}
        assert titles == {"A0", "B0", "A9", "B9"}  # of good records alone
    assert source.records().composed
    # The first error is what the user can do something about.
    with pytest.raises(BadRecordsError):
        HotpotQASource(path=str(path), paragraphs=100).example(0)
    with pytest.raises(InputError, match="too few for documents of 5"):
        HotpotQASource(path=str(path), paragraphs=5, on_bad_record="skip").example(0)


def test_squad_gathers_and_skips(tmp_path):
    def question(own, **changes):
        answers = [{"text": "Ada", "answer_start": 0}]
        return {"id": own, "question": "Who?", "answers": answers} | changes

    def article(title, *qas):
        return {"title": title, "paragraphs": [{"context": "Ada.", "qas": list(qas)}]}

    path = tmp_path / "squad.json"
    articles = [
        article("A", question("a"), question("b", question=" "), question("a")),
        7,
        {"title": "C", "paragraphs": [3, {"context": "Of C.", "qas": []}]},
        article("D", question("d"), question("e", answers=[])),
    ]
    path.write_text(json.dumps({"data": articles}))
    with pytest.raises(BadRecordsError) as caught:
        SQuADSource(path=str(path), paragraphs=2).example(0)
    assert [(b.where, b.id) for b in caught.value.records.bad] == [
        ("article 0, paragraph 0, question 1", "b"),
        ("article 0, paragraph 0, question 2", "a"),
        ("article 1", ""),
        ("article 2, paragraph 0", ""),
    ]
    source = SQuADSource(path=str(path), paragraphs=2, on_bad_record="skip")
    assert {source.example(i).id for i in range(4)} == {"a", "d"}


def test_equal_faults_are_counted_together():
    bad = [
        BadRecord("line 1", "a", "the question has 151 tokens"),
        BadRecord("line 2", "b", "the question has 70 tokens"),
        BadRecord("record 3", "c", "record 3.answer is empty"),
        BadRecord("line 4", "it's", "example \"it's\" is 'odd'"),
    ]
    assert reasons(bad).startswith("2 x the question has # tokens; 1 x answer is empty")
    many = Records(name="f", good=(), bad=tuple(bad) * 1000)
    assert len(str(BadRecordsError(many, object(), "f.json"))) < 400
    assert "and 3997 more, all listed in f.json" in str(
        BadRecordsError(many, object(), "f.json")
    )
