"""A list of JSON, read value by value, as json reads it whole."""

import hashlib
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from gru_mem_jax.data import json_list
from gru_mem_jax.errors import InputError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(json_list, "_BLOCK", 7)


def read(path):
    values = json_list.JsonList(str(path))
    return list(values), values.sha256()


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    values=st.lists(VALUES, max_size=5),
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_the_values_of_the_list(values, indent, ascii_only, mark, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "list.json"
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    data = f"{mark}{text} \n".encode(errors="surrogatepass")
    path.write_bytes(data)
    try:
        json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        with pytest.raises(InputError, match="is not UTF-8"):
            read(path)
    else:
        assert read(path) == (values, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", r"is not JSON \(Expecting '\[': char 0\)"),
        ("  ", r"is not JSON \(Expecting '\[': char 2\)"),
        ("{}", "must be a list, begins with {"),
        ("x", "must be a list, begins with x"),
        ("[1, 2", r"Expecting '\]': char 5"),
        ("[1, 2.", r"Expecting '\]': char 5"),
        ("[-]", r"Expecting value: char 1"),
        ("[1, 2}", r"Expecting '\]': char 5"),
        ("[1 2]", r"Expecting '\]': char 3"),
        ("[1, ]", "Expecting value: char 4"),
        ("[,]", "Expecting value: char 1"),
        ('[{"a": "a long text", "b": [1,', "is not JSON"),
        ('["never ended', r"Unterminated string .*: char 1"),
        ("[1] []", "Extra data: char 4"),
        ('["a\nb"]', "Invalid control character"),
        (f"[{'[' * 100_000}", "nested too deeply"),
        (f"[{'9' * 5000}]", "is not JSON"),
    ],
)
def test_text_that_is_none(text, expected, tmp_path):
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"list.json: .*{expected}"):
        read(path)


def test_files_that_are_none(tmp_path):
    (tmp_path / "latin.json").write_bytes('["é"]'.encode("latin-1"))
    with pytest.raises(InputError, match=r"latin.json: is not UTF-8 .*position 2"):
        read(tmp_path / "latin.json")
    with pytest.raises(InputError, match=r"none.json: No such file or directory"):
        read(tmp_path / "none.json")
    (tmp_path / "packed.json").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(InputError, match=r"packed.json: "):
        read(tmp_path / "packed.json")
