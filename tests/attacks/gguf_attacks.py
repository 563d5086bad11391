"""Hostile GGUF files: name -> (how a sound file is spoiled, what the refusal says).

Each function gets the bytes of a sound file and returns others.
"""

import math
import struct
from collections.abc import Callable

_HEADER = 24  # magic, version, number of tensors, number of keys


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _tensor(name: bytes, dims=(32,), kind=0, offset=0) -> bytes:
    sizes = struct.pack(f"<{len(dims)}Q", *dims)
    return (
        _string(name)
        + struct.pack("<I", len(dims))
        + sizes
        + struct.pack("<IQ", kind, offset)
    )


def _key(name: bytes, kind: int, value: bytes) -> bytes:
    return _string(name) + struct.pack("<I", kind) + value


def _file(keys: list[bytes], tensors: list[bytes] = (), data: int = 4096) -> bytes:
    """A whole file: keys and entries as given, zeros for weights."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    body = head + b"".join(keys) + b"".join(tensors)
    return body + b"\0" * (-len(body) % 32) + b"\0" * data


_LLAMA = _key(b"general.architecture", 8, _string(b"llama"))
_EPS = _key(b"llama.attention.layer_norm_rms_epsilon", 6, b"")
_ALIGNED_AT = struct.pack("<I", 48)


def _counts(tensors: int | None, keys: int | None) -> Callable[[bytes], bytes]:
    def spoil(good: bytes) -> bytes:
        old = struct.unpack_from("<QQ", good, 8)
        new = (old[0] if tensors is None else tensors, old[1] if keys is None else keys)
        return good[:8] + struct.pack("<QQ", *new) + good[_HEADER:]

    return spoil


def _replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def spoil(good: bytes) -> bytes:
        if old not in good:
            raise ValueError(old)
        return good.replace(old, new, 1)

    return spoil


def _whole(content: bytes) -> Callable[[bytes], bytes]:
    return lambda good: content


def _array(kind: int, count: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + items


_DEEP = b"".join(_array(9, 1) for _ in range(100_000))
ATTACKS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (_whole(b""), "not a GGUF file"),
    "wrong_magic": (lambda good: b"GGML" + good[4:], r"got b'GGML'"),
    "version_1": (lambda good: good[:4] + b"\1\0\0\0" + good[8:], "GGUF version 1"),
    "version_77": (lambda good: good[:4] + b"\x4d\0\0\0" + good[8:], "GGUF version 77"),
    "big_endian": (lambda good: good[:4] + b"\0\0\0\3" + good[8:], "a big-endian GGUF"),
    "lfs_pointer": (
        _whole(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "git lfs pull",
    ),
    "keys_2^60": (_counts(None, 1 << 60), rf"has {1 << 60} metadata keys, at most"),
    "tensors_2^60": (_counts(1 << 60, None), rf"has {1 << 60} tensors, at most"),
    "more_keys_than_bytes": (
        lambda good: good[:16] + struct.pack("<Q", 60_000) + good[24:2000],
        "cut short, or damaged: its 60000 metadata keys",
    ),
    "key_of_2^62_bytes": (
        lambda good: good[:24] + struct.pack("<Q", 1 << 62) + good[32:],
        rf"a metadata key would have {1 << 62} bytes",
    ),
    "string_of_2^62_bytes": (
        _whole(_file([_key(b"a", 8, struct.pack("<Q", 1 << 62))])),
        rf"key 'a' would have {1 << 62} bytes",
    ),
    "array_of_2^60": (
        _whole(_file([_key(b"a", 9, _array(8, 1 << 60))])),
        rf"has {1 << 60} items in metadata key 'a'",
    ),
    "array_longer_than_the_file": (
        _whole(_file([_key(b"a", 9, _array(12, 1 << 19))])),
        "cut short, or damaged: its 524288 items",
    ),
    "item_of_2^40_bytes": (
        _whole(_file([_key(b"a", 9, _array(8, 1, struct.pack("<Q", 1 << 40)))])),
        rf"item 0 of metadata key 'a' would have {1 << 40} bytes",
    ),
    "arrays_in_arrays": (
        _whole(_file([_key(b"a", 9, _DEEP)])),
        "an array of arrays: not read",
    ),
    "million_items_in_each_of_many_arrays": (
        _whole(
            _file(
                [
                    _key(b"a%d" % i, 9, _array(8, 1 << 20, b"\0" * (8 << 20)))
                    for i in range(6)
                ]
            )
        ),
        "the header goes beyond 33554432 bytes",
    ),
    "unknown_type": (_whole(_file([_key(b"a", 99, b"")])), "has type 99"),
    "unknown_type_of_items": (
        _whole(_file([_key(b"a", 9, _array(77, 1))])),
        "an array of type 77",
    ),
    "not_utf8": (_whole(_file([_key(b"\xff\xfe", 0, b"1")])), "is not UTF-8"),
    "a_key_twice": (_whole(_file([_LLAMA, _LLAMA])), "occurs twice"),
    "a_tensor_twice": (
        _whole(_file([_LLAMA], [_tensor(b"x"), _tensor(b"x", offset=128)])),
        "tensor 'x' occurs twice",
    ),
    "tensors_overlap": (
        _whole(_file([_LLAMA], [_tensor(b"x"), _tensor(b"y", offset=96)])),
        "tensors 'x' and 'y' overlap",
    ),
    "a_tensor_beyond_the_end": (
        _whole(_file([_LLAMA], [_tensor(b"x", offset=1 << 40)])),
        "would end at byte",
    ),
    "an_offset_of_2^64": (
        _whole(_file([_LLAMA], [_tensor(b"x", offset=(1 << 64) - 32)])),
        "would end at byte",
    ),
    "misaligned": (
        _whole(_file([_LLAMA], [_tensor(b"x", offset=4)])),
        "is misaligned: it begins at 4",
    ),
    "alignment_0": (
        _whole(_file([_key(b"general.alignment", 4, b"\0\0\0\0")], [_tensor(b"x")])),
        "alignment must be a power of two",
    ),
    "alignment_48": (
        _whole(_file([_key(b"general.alignment", 4, _ALIGNED_AT)], [_tensor(b"x")])),
        "alignment must be a power of two",
    ),
    "dims_that_overflow": (
        _whole(_file([_LLAMA], [_tensor(b"x", (1 << 62, 1 << 62, 4))])),
        "would end at byte",
    ),
    "million_axes": (
        _whole(_file([_LLAMA], [_tensor(b"x", (1,) * 1000)])),
        "expected 1 to 4 axes, got 1000",
    ),
    "axis_0": (_whole(_file([_LLAMA], [_tensor(b"x", (0, 4))])), "an axis of size 0"),
    "half_a_block": (
        _whole(_file([_LLAMA], [_tensor(b"x", (33,), kind=8)])),
        "no whole blocks of Q8_0",
    ),
    "unknown_quantisation": (
        _whole(_file([_LLAMA], [_tensor(b"x", kind=200)])),
        "quantisation number 200",
    ),
    "a_quantisation_without_inverse": (
        _whole(_file([_LLAMA], [_tensor(b"x", (256,), kind=15)])),
        "is Q8_K, which the installed gguf cannot dequantise",
    ),
    "whole_numbers": (
        _whole(_file([_LLAMA], [_tensor(b"x", kind=26)])),
        "is I32, which the installed gguf cannot dequantise",
    ),
    "no_architecture": (_whole(_file([])), "'general.architecture' is missing"),
    "another_architecture": (
        _whole(_file([_key(b"general.architecture", 8, _string(b"mamba"))])),
        "architecture 'mamba' is not supported",
    ),
    "architecture_is_a_number": (
        _whole(_file([_key(b"general.architecture", 4, b"\0\0\0\0")])),
        "expected text, got 0",
    ),
    "no_tensors": (_whole(_file([_LLAMA])), "'token_embd.weight' is missing"),
    "million_layers": (
        _replaced(
            _key(b"llama.block_count", 4, struct.pack("<I", 2)),
            _key(b"llama.block_count", 4, struct.pack("<I", 10**9)),
        ),
        "num_hidden_layers must be",
    ),
    "no_heads": (
        _replaced(
            _key(b"llama.attention.head_count", 4, struct.pack("<I", 4)),
            _key(b"llama.attention.head_count", 4, struct.pack("<I", 0)),
        ),
        "num_attention_heads",
    ),
    "eps_not_a_number": (
        _replaced(_EPS + struct.pack("<f", 1e-5), _EPS + struct.pack("<f", math.nan)),
        "rms_norm_eps",
    ),
    "another_tokenizer": (
        _replaced(_string(b"gpt2"), _string(b"bert")),
        "tokenizer 'bert' is not supported",
    ),
    "another_splitting": (
        _replaced(_string(b"smollm"), _string(b"smocat")),
        "pre-tokenizer 'smocat' .* is not supported",
    ),
    "a_merge_of_unknown_words": (
        _replaced(_string(b"th e"), _string(b"th q")),
        "merge 1, 'th q': expected two tokens",
    ),
    "end_beyond_the_tokens": (
        _replaced(
            _key(b"tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 2)),
            _key(b"tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 99999)),
        ),
        "the id 99999 of the end token",
    ),
}
