"""Bytes become text once, by one rule, whatever pieces they come in."""

import itertools
import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gru_mem_jax.agent.text import (
    DeadlineReached,
    decode_pieces,
    open_context,
    until_deadline,
)
from gru_mem_jax.errors import InputError


def pieces_of(data, size):
    return [data[i : i + size] for i in range(0, len(data), size)]


@given(st.text(max_size=300), st.integers(1, 100))
def test_any_text_in_any_pieces(text, size):
    data = text.encode()
    expected = text.removeprefix("\ufeff")
    if 8 * data[:64].count(0) > len(data[:64]) or data.startswith(b"%PDF-"):
        return  # looks binary, see below
    assert "".join(decode_pieces(pieces_of(data, size), "x")) == expected


@pytest.mark.parametrize("size", [1, 3, 64, 1000])
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"\xef\xbb\xbfabc", "abc"),  # a byte order mark at the start is dropped
        (b"abc\xef\xbb\xbf", "abc\ufeff"),  # elsewhere it is a character
        (b"a\r\nb\rc\n", "a\r\nb\rc\n"),  # line ends stay
        (b"one \x00 NUL in a text", "one \x00 NUL in a text"),
        ("\u202eright\u200b".encode(), "\u202eright\u200b"),
        ("é世😀".encode() * 50, "é世😀" * 50),
    ],
)
def test_by_hand(data, text, size):
    assert "".join(decode_pieces(pieces_of(data, size), "x")) == text


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize(
    ("data", "offset", "byte", "replaced"),
    [
        (b"abc\xffdef", 3, "ff", "abc\ufffddef"),
        ("é".encode() * 100 + b"\xc3", 200, "c3", "é" * 100 + "\ufffd"),  # cut short
        (b"\xef\xbb\xbfab\xe9", 5, "e9", "ab\ufffd"),  # the mark counts as bytes
        (b"a" * 99 + b"\xed\xa0\x80b", 99, "ed", "a" * 99 + "\ufffd" * 3 + "b"),
        (b"x" * 64 + b"\x80", 64, "80", "x" * 64 + "\ufffd"),
        (b"caf\xe9 latin 1", 3, "e9", "caf\ufffd latin 1"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_text(data, offset, byte, replaced, size):
    with pytest.raises(InputError, match=rf"in\.txt: byte {offset} \(0x{byte}\)"):
        list(decode_pieces(pieces_of(data, size), "in.txt"))
    assert "".join(decode_pieces(pieces_of(data, size), "x", "replace")) == replaced


@pytest.mark.parametrize("errors", ["strict", "replace"])
@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"%PDF-1.7\n...", "a PDF file"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\x1f\x8b\x08rest", "gzip"),
        (b"\x89PNG\r\n\x1a\n", "a PNG"),
        (b"\xff\xd8\xff\xe0", "a JPEG"),
        (b"\x7fELF\x02", "a program"),
        ("text".encode("utf-16"), "UTF-16"),
        ("text".encode("utf-32"), "UTF-32"),
        ("text".encode("utf-16-le"), "4 of the first 8 bytes are NUL"),
        (bytes(1000), "of the first (64|1000) bytes are NUL"),
    ],
)
def test_files_that_are_plainly_no_text(data, message, size, errors):
    with pytest.raises(InputError, match=message):
        list(decode_pieces(pieces_of(data, size), "in", errors))


def test_text_is_passed_on_as_it_comes():
    seen = []

    def source():
        for i in range(5):
            seen.append(i)
            yield b"x" * 100

    stream = decode_pieces(source(), "x")
    assert next(stream) == "x" * 100
    assert seen == [0]


def test_files(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("é\r\n".encode() * 100_000)
    pieces = list(open_context(path))
    assert "".join(pieces) == "é\r\n" * 100_000
    assert max(map(len, pieces)) <= 1 << 16
    with pytest.raises(InputError, match=r"none\.txt: no such file"):
        open_context(tmp_path / "none.txt")
    with pytest.raises(InputError, match="this is a folder"):
        open_context(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        open_context("a\x00b")


def test_a_named_pipe_is_read_as_it_is_written(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    wait = threading.Event()

    def write():
        with open(path, "wb", buffering=0) as pipe:
            pipe.write(b"first " * 20)
            wait.wait(10)
            pipe.write(b"second")

    writer = threading.Thread(target=write)
    writer.start()
    stream = open_context(path)
    assert next(stream) == "first " * 20  # before the writer goes on
    wait.set()
    assert list(stream) == ["second"]
    writer.join()


def test_a_stream_that_stalls_ends_at_the_deadline():
    release = threading.Event()

    def stalling():
        yield "a"
        release.wait(30)

    end = time.monotonic() + 0.3
    stream = until_deadline(stalling(), lambda: end - time.monotonic())
    assert next(stream) == "a"
    with pytest.raises(DeadlineReached):
        next(stream)
    assert time.monotonic() < end + 5
    release.set()


def test_reading_ahead_is_bounded_and_passes_on_errors():
    taken = []

    def source():
        for i in range(100):
            taken.append(i)
            yield str(i)
        raise InputError("the end is bad")

    stream = until_deadline(source(), lambda: 60.0)
    assert [next(stream) for _ in range(3)] == ["0", "1", "2"]
    time.sleep(0.3)
    # Two wait in the queue and one is in the reader's hand.
    assert len(taken) <= 3 + 2 + 1
    rest = []
    with pytest.raises(InputError, match="the end is bad"):
        rest.extend(stream)
    assert "".join(itertools.chain("012", *rest)) == "".join(map(str, range(100)))


def test_an_abandoned_stream_lets_its_thread_end():
    before = threading.active_count()
    stream = until_deadline(itertools.repeat("x"), lambda: 60.0)
    next(stream)
    assert threading.active_count() == before + 1
    stream.close()
    end = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert threading.active_count() == before
