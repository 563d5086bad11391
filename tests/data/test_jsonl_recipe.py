"""A user's own files as a set: documents in lines or files, evidence as strings."""

import json

import pytest

from gru_mem_jax.data import JsonlSource, open_dataset
from gru_mem_jax.data.builders import JsonlDocuments, Length, build
from gru_mem_jax.errors import InputError

TEXTS = [
    f"Text {i} ü. It says that key{i} is value{i}. Then it ends." for i in range(6)
]


def row(number, **changes):
    record = {
        "id": f"q{number}",
        "question": f"What is key{number}?",
        "answers": [f"value{number}"],
        "document": TEXTS[number],
        "evidence_strings": [f"key{number} is value{number}"],
    }
    return {k: v for k, v in (record | changes).items() if v is not None}


def write(path, rows):
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def lines(tmp_path):
    return write(tmp_path / "mine.jsonl", [row(i) for i in range(6)])


def built(tmp_path, *sources, counts=(1,), **fields):
    lengths = tuple(Length("documents", count) for count in counts)
    recipe = JsonlDocuments(sources=sources, lengths=lengths, **fields)
    return build(recipe, tmp_path / "set")


def test_documents_as_they_are(tmp_path, lines):
    examples = list(open_dataset(built(tmp_path, lines)))
    assert [example.document for example in examples] == TEXTS
    assert [example.id for example in examples] == [f"q{i}" for i in range(6)]
    for number, example in enumerate(examples):
        ((start, end),) = example.evidence
        assert example.document[start:end] == f"key{number} is value{number}"


def test_longer_documents_have_others_around_them(tmp_path, lines):
    out = built(tmp_path, lines, counts=(2, 4, 6))
    sets = [open_dataset(out, f"{count} documents") for count in (2, 4, 6)]
    for number in range(6):
        shorter: list[int] = []
        for count, dataset in zip((2, 4, 6), sets):
            pieces = list(dataset.question(number).pieces)
            assert len(set(pieces)) == count
            assert number in pieces
            # The shorter document is a subsequence of the longer.
            assert [piece for piece in pieces if piece in shorter] == shorter
            shorter = pieces
            example = dataset[number]
            assert example.document.count("Document ") == count
            ((start, end),) = example.evidence
            assert example.document[start:end] == f"key{number} is value{number}"
    places = {list(sets[2].question(n).pieces).index(n) for n in range(6)}
    assert len(places) > 1
    # One text each on disk, at three lengths.
    assert sets[0].manifest.texts == 6


def test_questions_on_one_document_share_it(tmp_path):
    rows = [row(0), row(1), row(0, id="again", question="Which key?")]
    out = built(tmp_path, write(tmp_path / "mine.jsonl", rows))
    dataset = open_dataset(out)
    assert dataset.manifest.texts == 2
    assert [list(q.pieces) for q in dataset.questions()] == [[0], [1], [0]]


def test_some_of_the_questions(tmp_path, lines):
    names = [
        q.id for q in open_dataset(built(tmp_path, lines, num_questions=3)).questions()
    ]
    assert len(names) == 3
    assert names == sorted(names)
    with pytest.raises(InputError, match="has 6 questions, fewer than 7"):
        built(tmp_path, lines, num_questions=7)
    with pytest.raises(
        InputError, match=r"has 6 different documents, too few for .* 7"
    ):
        built(tmp_path, lines, counts=(7,))


@pytest.fixture
def folder(tmp_path):
    """Questions beside a folder of documents."""
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        mark = "\ufeff" if number == 1 else ""
        path = tmp_path / "texts" / f"{number}.txt"
        path.write_text(mark + text, encoding="utf-8", newline="")
    rows = [row(i, document=None, document_path=f"texts/{i}.txt") for i in range(6)]
    return write(tmp_path / "mine.jsonl", rows)


def test_a_folder_of_documents(tmp_path, folder, monkeypatch):
    monkeypatch.chdir("/")
    examples = list(open_dataset(built(tmp_path, folder)))
    assert [example.document for example in examples] == TEXTS
    # The source of a file reads the same.
    source = JsonlSource(path=folder)
    assert {source.example(i).document for i in range(6)} == set(TEXTS)
    assert source.example(0).evidence


def test_the_set_and_the_file_are_known_by_their_documents(tmp_path, folder):
    recipe = JsonlDocuments(sources=(folder,))
    before = recipe.settings(), JsonlSource(path=folder).fingerprint()
    (tmp_path / "texts" / "3.txt").write_text("key3 is value3")
    after = (
        JsonlDocuments(sources=(folder,)).settings(),
        JsonlSource(path=folder).fingerprint(),
    )
    assert before[0]["sources_sha256"] == after[0]["sources_sha256"]
    assert before[0]["documents_sha256"] != after[0]["documents_sha256"]
    assert before[1] != after[1]


def test_an_absolute_path(tmp_path):
    text = tmp_path / "elsewhere.txt"
    text.write_text(TEXTS[0])
    (tmp_path / "inner").mkdir()
    rows = [row(0, document=None, document_path=str(text))]
    out = built(tmp_path, write(tmp_path / "inner" / "mine.jsonl", rows))
    assert open_dataset(out)[0].document == TEXTS[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"evidence_strings": ["no such"]}, "'no such' is not in the document"),
        ({"evidence_strings": ["t"]}, "'t' occurs more than once"),
        ({"evidence_strings": ["aa"], "document": "aaa"}, "'aa' occurs more than once"),
        ({"evidence_strings": [" "]}, "' ' is not in the document"),
        ({"evidence_strings": "key1"}, "evidence_strings must be a list"),
        ({"evidence_strings": [3]}, "entry of example.evidence_strings must be text"),
        ({"evidence": [[0, 4]]}, "both evidence and evidence_strings"),
        ({"evidence_order": [0, 1]}, "a number for each of the 1 spans, got 2"),
        ({"document_path": "a.txt"}, "has both document and document_path"),
        ({"document": None}, "has no field 'document'"),
        ({"document": None, "document_path": "a.txt"}, "a.txt: No such file"),
        ({"document": None, "document_path": 3}, "document_path must be text"),
        ({"document": None, "document_path": "../a"}, "'../a' leads out of the folder"),
        ({"document": None, "document_path": "link"}, "'link' leads out of the folder"),
        ({"document": None, "document_path": "."}, "expected a regular file"),
        ({"document": None, "document_path": "image"}, "this is a PNG image"),
        ({"document": None, "document_path": "latin"}, "latin: is not UTF-8 .byte 1"),
        ({"document": None, "document_path": "a\0b"}, "is no path: it holds a NUL"),
        ({"id": "q0"}, "has the id 'q0' of line 1"),
        ({"answers": []}, "holds no answer"),
        ({"scoring": "best"}, "example.scoring must be one of"),
    ],
)
def test_a_bad_line(tmp_path, changes, expected):
    """Also one that would read files elsewhere (fault C14)."""
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "outside").write_text("key1 is value1")
    (inner / "link").symlink_to(tmp_path / "outside")
    (inner / "image").write_bytes(b"\x89PNG\r\n\x1a\n")
    (inner / "latin").write_bytes("kü".encode("latin-1"))
    lines = write(inner / "mine.jsonl", [row(0), row(1, **changes), row(2)])
    with pytest.raises(InputError, match=expected) as caught:
        built(tmp_path, lines)
    message = str(caught.value)
    assert message.startswith(f"1 of 3 records are bad: {lines}:2: ")
    assert "\n" not in message
    assert not (tmp_path / "set").exists()
    dataset = open_dataset(built(tmp_path, lines, on_bad_record="skip"))
    assert [q.id for q in dataset.questions()] == ["q0", "q2"]


def test_several_files_have_ids_of_their_own(tmp_path):
    first = write(tmp_path / "a.jsonl", [row(0, id=None), row(1)])
    second = write(tmp_path / "b.jsonl", [row(2, id=None), row(3)])
    names = [q.id for q in open_dataset(built(tmp_path, first, second)).questions()]
    assert names == ["line 1 of a.jsonl", "q1", "line 1 of b.jsonl", "q3"]
    twice = write(tmp_path / "c.jsonl", [row(1)])
    with pytest.raises(InputError, match=r"c.jsonl:1: has the id 'q1' of line 2 of a"):
        JsonlDocuments(sources=(first, twice)).settings()


def test_evidence_is_in_the_order_of_the_text_with_its_steps(tmp_path):
    changes = {
        "evidence_strings": ["Then it", "key1", "Text"],
        "evidence_order": [2, 0, 1],
    }
    lines = write(tmp_path / "mine.jsonl", [row(1, **changes)])
    example = open_dataset(built(tmp_path, lines))[0]
    found = [example.document[start:end] for start, end in example.evidence]
    assert (found, example.evidence_order) == (["Text", "key1", "Then it"], (1, 0, 2))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"sources": ()}, "at least one file with a JSON object a line"),
        (
            {"lengths": (Length("tokens", 5),)},
            "unit of lengths must be one of documents",
        ),
        ({"lengths": ()}, "lengths is empty"),
        ({"num_questions": 0}, "num_questions must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_settings_that_cannot_be(fields, expected):
    with pytest.raises(InputError, match=expected):
        JsonlDocuments(**({"sources": ("a",)} | fields))
