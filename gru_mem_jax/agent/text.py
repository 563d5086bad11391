"""Files and streams of bytes as text.

They are UTF-8. A byte order mark at the very start is dropped; everything else is kept
(line ends, NUL, bidirectional and zero-width characters), so that offsets count the
characters of what was read. Bytes that are not UTF-8 raise an error with their offset,
or are read as U+FFFD on request. What is plainly not text is refused either way.
"""

import codecs
import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from gru_mem_jax.errors import InputError

EncodingErrors = Literal["strict", "replace"]

_PIECE_BYTES = 1 << 16
_HEAD_BYTES = 64
_SIGNATURES = (
    (b"%PDF-", "a PDF file"),
    (b"PK\x03\x04", "a zip archive (a Word or EPUB document is one)"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x7fELF", "a program"),
    (codecs.BOM_UTF32_LE, "UTF-32 text"),
    (codecs.BOM_UTF32_BE, "UTF-32 text"),
    (codecs.BOM_UTF16_LE, "UTF-16 text"),
    (codecs.BOM_UTF16_BE, "UTF-16 text"),
)


def check_text(text: str, what: str, offset: int = 0) -> None:
    """Raises InputError if `text` holds a lone surrogate, which cannot be encoded."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what}: character {offset + error.start} is the lone surrogate "
            f"U+{ord(text[error.start]):04X}, which cannot be encoded; replace it"
        ) from None


def decode_pieces(
    pieces: Iterable[bytes], name: str, errors: EncodingErrors = "strict"
) -> Iterator[str]:
    """Decodes a stream of bytes piece by piece; a character may span two pieces.

    Args:
      pieces: the bytes.
      name: what error messages call the source.
      errors: "strict" or "replace".

    Raises:
      InputError: while iterating, for bytes that are not text (see the module).
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    offset = 0  # of the first byte that the decoder has not turned into text
    for piece, final in _with_head(pieces, name):
        if offset == 0 and piece.startswith(codecs.BOM_UTF8):
            piece, offset = piece[len(codecs.BOM_UTF8) :], len(codecs.BOM_UTF8)
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(piece, final)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}: byte {offset + error.start} "
                f"(0x{error.object[error.start]:02x}) is not UTF-8: {error.reason}; "
                f"convert the file, or set encoding_errors to replace"
            ) from None
        offset += held + len(piece) - len(decoder.getstate()[0])
        if text:
            yield text


def _with_head(pieces: Iterable[bytes], name: str) -> Iterator[tuple[bytes, bool]]:
    """The pieces, the first one long enough for `refuse_binary`, then (b"", True)."""
    head: bytes | None = b""
    for piece in pieces:
        if head is not None:
            head += piece
            if len(head) < _HEAD_BYTES:
                continue
            piece, head = head, None
            refuse_binary(piece, name)
        yield piece, False
    if head:
        refuse_binary(head, name)
    yield head or b"", True


def refuse_binary(head: bytes, name: str) -> None:
    """Raises InputError if the first bytes of a file are plainly not text."""
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            raise InputError(f"{name}: this is {kind}; convert it to UTF-8 text first")
    if 8 * head.count(0) > len(head):
        raise InputError(
            f"{name}: {head.count(0)} of the first {len(head)} bytes are NUL, "
            f"so this is not UTF-8 text; convert it first"
        )


def open_context(
    path: str | os.PathLike[str], errors: EncodingErrors = "strict"
) -> Iterator[str]:
    """The text of a file, a pipe or ("-") standard input, piece by piece.

    Nothing is read before the first piece is asked for; a pipe's text is given as it
    is written.

    Raises:
      InputError: at once if there is no such file or it is a folder; while iterating
        if it cannot be read or is not text.
    """
    if path == "-":
        return decode_pieces(_read(0, "standard input"), "standard input", errors)
    name = os.fsdecode(path)
    if not os.path.exists(name):
        raise InputError(f"{name}: no such file")
    if os.path.isdir(name):
        raise InputError(f"{name}: this is a folder; name a text file")
    return decode_pieces(_read(name, name), name, errors)


def _read(file: str | int, name: str) -> Iterator[bytes]:
    try:
        with open(file, "rb", buffering=0, closefd=file != 0) as stream:
            while piece := stream.read(_PIECE_BYTES):
                yield piece
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from None


class DeadlineReached(Exception):
    """The time for reading is over; the text read so far is good."""


class End(NamedTuple):
    """Sent by a reading thread after its last piece, with the error that ended it."""

    error: BaseException | None


def until_deadline(
    pieces: Iterable[str], seconds_left: Callable[[], float]
) -> Iterator[str]:
    """The pieces of a stream that may stall, read ahead in a thread.

    The thread is a daemon, since a read may block for ever.

    Raises:
      DeadlineReached: while iterating, if no piece comes in the seconds left.
    """
    # Few items, so that an endless stream stays bounded.
    items: queue.Queue[str | End] = queue.Queue(maxsize=2)
    abandoned = threading.Event()

    def put(item: str | End) -> None:
        while not abandoned.is_set():
            with contextlib.suppress(queue.Full):
                items.put(item, timeout=0.1)
                return

    def read() -> None:
        end = End(None)
        try:
            for piece in pieces:
                put(piece)
                if abandoned.is_set():
                    return
        except BaseException as error:  # any error is the consumer's
            end = End(error)
        put(end)

    threading.Thread(target=read, name="context reader", daemon=True).start()
    try:
        while True:
            try:
                item = items.get(timeout=max(0.0, seconds_left()))
            except queue.Empty:
                raise DeadlineReached from None
            if not isinstance(item, End):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                return
    finally:
        abandoned.set()
