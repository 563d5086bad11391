"""What Python callers hand in: done as it is meant, or refused in one line."""

import collections
import io
import json
import pathlib

import numpy as np
import pytest
from callers import agent_on, policy
from loops import BYTES

from gru_mem_jax.agent.inputs import context_pieces, pairs, texts
from gru_mem_jax.errors import InputError
from gru_mem_jax.testing.scripted import ScriptedGenerator

TEXT = "abc 123456def 12345ghi"


def answer(context, question="Q"):
    return agent_on(ScriptedGenerator(policy, BYTES)).answer(question, context)


class Keyed:
    """A row or a table of pandas, as far as iterating over it goes."""

    def __init__(self, **values):
        self._values = values

    def keys(self):
        return self._values.keys()

    def __len__(self):
        return len(self._values)

    def __getitem__(self, name):
        return self._values[name]

    def __iter__(self):
        return iter(self._values.values())


class Old:
    """A sequence of the old kind."""

    def __getitem__(self, i):
        return (TEXT[:9], TEXT[9:])[i]


class Located:
    """An os.PathLike that is no pathlib.Path; also of bytes."""

    def __init__(self, path):
        self._path = path

    def __fspath__(self):
        return self._path


async def asynchronous():
    yield "abc"


def ended():
    generator = (piece for piece in [TEXT])
    list(generator)
    return generator


@pytest.mark.parametrize(
    "context",
    [
        TEXT,
        np.str_(TEXT),
        [TEXT[:5], TEXT[5:]],
        (TEXT,),
        np.array([TEXT[:5], TEXT[5:]]),
        np.array([TEXT], dtype=object),
        {"text": TEXT}.values(),
        io.StringIO(TEXT),
        Old(),
        (c for c in TEXT),
        map(str, TEXT),
        collections.deque([TEXT]),
    ],
    ids=lambda c: type(c).__name__,
)
def test_contexts_that_are_text(context):
    trajectory = answer(context)
    assert trajectory.answer == answer(TEXT).answer == "Q/abdehi"
    json.dumps(trajectory.answer)


def test_a_path_is_read_as_that_file(tmp_path):
    path = tmp_path / "a document.txt"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())  # the byte order mark is dropped
    for context in (path, Located(str(path)), Located(bytes(path))):
        assert answer(context).answer == answer(TEXT).answer
    with path.open() as file:
        assert answer(file).num_chunks == 3
    # A str is always the text itself, and a path never standard input.
    assert answer(str(path)).answer != answer(TEXT).answer
    for context, message in (
        (tmp_path / "none", "none: no such file"),
        (tmp_path, "this is a folder"),
        (pathlib.Path("-"), "-: no such file"),
        (pathlib.Path("a\0b"), "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            answer(context)
    (tmp_path / "binary").write_bytes(b"%PDF-1.7")
    with pytest.raises(InputError, match="binary: this is a PDF file"):
        answer(tmp_path / "binary")


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"text": TEXT}, "got dict, which has keys: give the text of one"),
        (collections.UserDict(text=TEXT), "got UserDict, which has keys"),
        (Keyed(text=TEXT), "got Keyed, which has keys"),
        ({TEXT}, "got set, which has no order: give a list"),
        (frozenset([TEXT]), "got frozenset, which has no order"),
        (b"abc", "got bytes: decode it first"),
        (bytearray(b"abc"), "got bytearray: decode it first"),
        (memoryview(b"abc"), "got memoryview: decode it first"),
        (None, "got None"),
        (3, "got 3"),
        (True, "got True"),
        (np.float64(0.5), "got "),
        (str, "got the class str"),
        (object(), "got object"),
        (len, "got builtin_function_or_method"),
        (io.BytesIO(b"abc"), "got BytesIO, a binary file: open it as text"),
        (ended(), "got generator that has ended: make a new one"),
        (
            asynchronous(),
            "got async_generator, which is asynchronous: give it to answer",
        ),
    ],
    ids=lambda c: type(c).__name__ if not isinstance(c, str) else "",
)
def test_contexts_that_are_refused_at_once(context, message):
    generator = ScriptedGenerator(policy, BYTES)
    with pytest.raises(
        InputError, match="the context must be text, a path or"
    ) as error:
        agent_on(generator).answer("Q", context)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert generator.requests == []


def test_a_closed_file_and_a_coroutine(tmp_path):
    (tmp_path / "f").write_text(TEXT)
    with (tmp_path / "f").open() as file:
        pass
    with pytest.raises(InputError, match="got TextIOWrapper that is closed"):
        answer(file)

    async def text():
        return TEXT

    coroutine = text()
    with pytest.raises(InputError, match="got coroutine: await it first"):
        answer(coroutine)
    coroutine.close()


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ([b"abc"], "type bytes (number 0); decode bytes first"),
        (["abc", None], "type NoneType (number 1); give strings"),
        ([pathlib.Path("a")], "(number 0); give one path, or the files' texts"),
        ([("a", "b")], "type tuple (number 0)"),
        (np.arange(3), "type int64 (number 0)"),
        (np.array([["a", "b"]]), "type ndarray (number 0)"),
        (np.array("abc"), "cannot be iterated over: iteration over a 0-d array"),
        (np.int64(3), "cannot be iterated over"),
    ],
    ids=lambda c: "" if isinstance(c, str) else type(c).__name__,
)
def test_pieces_that_are_refused_when_they_come(context, message):
    with pytest.raises(InputError) as error:
        list(texts(context_pieces(context)))
    assert message in str(error.value)


def test_nothing_is_read_before_it_is_needed():
    def endless():
        raise AssertionError("read")
        yield ""

    context = endless()
    assert context_pieces(context) is context
    agent_on(ScriptedGenerator(policy, BYTES)).recurrence("Q", context)
    agent_on(ScriptedGenerator(policy, BYTES)).stream("Q", context)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (None, "the question must be text that is not empty, got None"),
        (b"Q", "the question must be text, got bytes; decode it first"),
        (3, "the question must be text that is not empty, got 3"),
        (["Q"], r"the question must be text that is not empty, got \['Q'\]"),
        (pathlib.Path("q"), "the question must be text that is not empty, got"),
        (" ", "the question must be text that is not empty, got ' '"),
    ],
)
def test_questions_that_are_refused(question, message):
    with pytest.raises(InputError, match=message):
        answer(TEXT, question)


def test_a_question_of_numpy_is_text():
    trajectory = answer(TEXT, np.str_("Q"))
    assert type(trajectory.question) is str
    assert trajectory.answer == "Q/abdehi"


@pytest.mark.parametrize(
    "questions",
    [
        [("Q", TEXT), ["R", TEXT]],
        [{"question": "Q", "context": TEXT}, Keyed(context=TEXT, question="R")],
        np.array([["Q", TEXT], ["R", TEXT]]),
        ((question, TEXT) for question in "QR"),
        zip("QR", [TEXT] * 2, strict=True),
    ],
    ids=["pairs", "keys", "numpy", "generator", "zip"],
)
def test_answer_many_takes(questions):
    many = agent_on(ScriptedGenerator(policy, BYTES)).answer_many(questions)
    assert [t.answer for t in many] == ["Q/abdehi", "R/abdehi"]


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        (
            {"question": "Q", "context": "c"},
            "questions must be an iterable of .*got dict",
        ),
        ("ab", "questions must be an iterable of .*pairs; got str"),
        (b"ab", "got bytes"),
        (None, "got None"),
        (3, "got 3"),
        ({("Q", "c")}, "got set"),
        (asynchronous(), "asynchronous: give it to answer_many_async"),
        (
            ("Q", "abc"),
            r"questions\[0\] must be a .* pair, or a dict of the two; got str",
        ),
        (["ab"], r"questions\[0\] must be a .*; got str of length 2"),
        ([("Q", "c"), ("Q",)], r"questions\[1\] must be .*; got tuple of length 1"),
        (
            [("Q", "c"), ("Q", "c", 1)],
            r"questions\[1\] must be .*; got tuple of length 3",
        ),
        ([("Q", "c"), None], r"questions\[1\] must be .*; got None"),
        ([{"Q", "c"}], r"questions\[0\] must be .*; got set"),
        (
            [{"question": "Q", "contxt": ""}],
            r"questions\[0\] has an unknown key 'contxt'",
        ),
        ([{"question": "Q"}], r"questions\[0\] has no 'context'"),
        ([("Q", None)], r"questions\[0\]: the context must be text"),
        ([("", "c")], r"questions\[0\]: the question must be text"),
    ],
)
def test_answer_many_refuses(questions, message):
    generator = ScriptedGenerator(policy, BYTES)
    with pytest.raises(InputError, match=message):
        agent_on(generator).answer_many(questions)
    assert generator.requests == []  # items of a list are looked at first


def test_pairs_of_a_stream_are_taken_one_by_one():
    taken = []

    def stream():
        for i in range(3):
            taken.append(i)
            yield ("Q", "c") if i < 2 else "Q"

    items = pairs(stream())
    assert next(items) == ("Q", "c")
    assert taken == [0]
    with pytest.raises(InputError, match=r"questions\[2\]"):
        list(items)
