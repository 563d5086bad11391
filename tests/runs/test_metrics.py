"""Rows are whole, cut to a step, and mirrored to TensorBoard byte for byte."""

import json
import math
import struct
import sys
import types

import numpy as np
import pytest

from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.runs import tensorboard
from gru_mem_jax.runs.metrics import (
    MetricsWriter,
    cut_metrics,
    read_metrics,
    start_wandb,
)


def test_rows_in_order_with_what_json_can_hold(tmp_path):
    with MetricsWriter(tmp_path / "m.jsonl") as metrics:
        metrics.write(0, {"a": np.float32(0.5), "n": np.int64(3), "nothing": None})
        metrics.write(1, {"a": math.nan, "b": -math.inf, "note": "x", "flag": True})
        metrics.sync()
    assert (tmp_path / "m.jsonl").read_text() == (
        '{"step": 0, "a": 0.5, "n": 3}\n'
        '{"step": 1, "a": "nan", "b": "-inf", "note": "x", "flag": true}\n'
    )
    assert read_metrics(tmp_path / "m.jsonl")[0] == {"step": 0, "a": 0.5, "n": 3}


def test_a_disabled_writer_touches_nothing(tmp_path):
    with MetricsWriter(
        tmp_path / "m.jsonl", enabled=False, cut_to=3, tensorboard=tmp_path / "tb"
    ) as metrics:
        metrics.write(0, {"a": 1})
        metrics.sync()
    assert list(tmp_path.iterdir()) == []


def rows(*steps) -> bytes:
    return b"".join(b'{"step": %d, "a": 0.5}\n' % step for step in steps)


@pytest.mark.parametrize(
    ("before", "step", "after", "last"),
    [
        (rows(0, 1, 2, 3), 1, rows(0, 1), 1),
        (rows(0, 1, 2, 3), 3, rows(0, 1, 2, 3), 3),
        (rows(0, 1, 2, 3), 9, rows(0, 1, 2, 3), 3),
        (rows(0, 1, 2, 3), -1, b"", -1),
        (b"", 4, b"", -1),
        # Killed within a line, or a line without its end.
        (rows(1, 2) + b'{"step": 3, "a"', 3, rows(1, 2), 2),
        (rows(1, 2) + b'{"step": 3}', 3, rows(1, 2), 2),
        (rows(1, 2) + b"\xff\x00", 3, rows(1, 2), 2),
        # A row twice, as an older writer may have left it, stays as it is.
        (rows(1, 2, 2, 5, 3), 3, rows(1, 2, 2, 3), 3),
    ],
)
def test_cut(tmp_path, before, step, after, last):
    path = tmp_path / "m.jsonl"
    path.write_bytes(before)
    assert cut_metrics(path, step) == last
    assert path.read_bytes() == after
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]
    with MetricsWriter(path, cut_to=step) as metrics:
        assert metrics.last_step == last
        metrics.write(last + 1, {"a": 0.5})
    assert path.read_bytes() == after + rows(last + 1)


def test_cut_of_no_file(tmp_path):
    assert cut_metrics(tmp_path / "m.jsonl", 3) == -1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line", [b"nonsense", b"[1]", b'{"a": 1}', b'{"step": "1"}', b""]
)
def test_a_broken_line_before_the_end_is_named(tmp_path, line):
    path = tmp_path / "m.jsonl"
    path.write_bytes(rows(0) + line + b"\n" + rows(1))
    for read in (read_metrics, lambda p: cut_metrics(p, 0)):
        with pytest.raises(InputError, match=r"m\.jsonl:2: expected a JSON object"):
            read(path)
    assert path.read_bytes() == rows(0) + line + b"\n" + rows(1)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        MetricsWriter(tmp_path / "none" / "m.jsonl")
    with pytest.raises(InputError, match="No such file"):
        read_metrics(tmp_path / "none")
    with pytest.raises(InputError, match="directory"):
        MetricsWriter(tmp_path)


def test_full_disk_leaves_no_half_row(tmp_path, monkeypatch):
    """Fault R7."""
    import os

    write = os.write
    with MetricsWriter(tmp_path / "m.jsonl") as metrics:
        metrics.write(0, {"a": 1})
        room = [7]

        def fill(fd, data):
            if room[0] == 0:
                raise OSError(28, "No space left on device")
            data, room[0] = data[: room[0]], 0
            return write(fd, data)

        monkeypatch.setattr(os, "write", fill)
        with pytest.raises(
            RunError, match=r"m\.jsonl: no space left to write \(23 bytes"
        ):
            metrics.write(1, {"a": 1.25})
        monkeypatch.undo()
        metrics.write(1, {"a": 1.25})
    assert [row["step"] for row in read_metrics(tmp_path / "m.jsonl")] == [0, 1]


# Written by tensorboardX 2.6: file version, two scalars at step 300, restart at 7.
GOLDEN = (
    "1800000000000000a37f4b220900001040fc54d9411a0d627261696e2e4576656e743a32338d2fe9",
    "3200000000000000241956ec0900001040fc54d94110ac022a240a0d0a06726577617264150000003f"
    "0a130a0c746f6b656e735f7065725f731500409a4480965ad4",
    "0f000000000000006d532b090900001040fc54d94110073a0208010f417177",
)


def clock() -> float:
    return 1700000000.25


def test_event_file_is_what_tensorboardx_writes(tmp_path):
    # Its first event says step 0 in no bytes, ours in two: the same message.
    version = bytes.fromhex(GOLDEN[0])[12:-4].replace(b"A\x1a\r", b"A\x10\x00\x1a\r")
    writer = tensorboard.EventWriter(tmp_path / "a", first_step=7, clock=clock)
    writer.write(
        300,
        {"step": 300, "reward": 0.5, "tokens_per_s": 1234, "note": "x", "flag": True},
    )
    writer.close()
    assert writer.path.read_bytes() == tensorboard.frame(version) + bytes.fromhex(
        GOLDEN[2] + GOLDEN[1]
    )


def test_masked_crc():
    # RFC 3720, B.4: the CRC-32C of 32 zero bytes.
    crc = 0x8A9136AA
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    assert tensorboard.masked_crc(bytes(32)) == masked


def events(path):
    """Steps of a file's records, by the framing alone."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event, data = data[12 : 12 + length], data[16 + length :]
        found.append(event)
    return found


def test_a_resumed_run_opens_another_file_and_says_from_where(tmp_path):
    path = tmp_path / "m.jsonl"
    for cut_to, steps in ((-1, (0, 1, 2)), (0, (1, 2))):
        with MetricsWriter(path, cut_to=cut_to, tensorboard=tmp_path / "tb") as metrics:
            for step in steps:
                metrics.write(step, {"a": 1.0, "b": math.nan, "c": None})
    first, second = sorted((tmp_path / "tb").iterdir())
    assert len(events(first)) == 4  # version, three rows
    assert len(events(second)) == 4  # version, restart, two rows
    assert events(second)[1].endswith(bytes.fromhex("10013a020801"))  # from step 1
    assert b"\n\x01a" in events(second)[2]
    assert b"\n\x01b" not in events(second)[2]  # not a number: left out


def test_tensorboard_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "tb").touch()
    with pytest.raises(InputError, match="tb"):
        MetricsWriter(tmp_path / "m.jsonl", tensorboard=tmp_path / "tb")


def test_wandb_is_named_when_missing_and_gets_the_rows(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="pip install wandb"):
        start_wandb("project", "id")
    calls = []
    run = types.SimpleNamespace(log=lambda row, step: calls.append((step, dict(row))))
    fake = types.SimpleNamespace(init=lambda **kw: calls.append(kw) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    wandb = start_wandb("project", "id", mode="offline")
    with MetricsWriter(tmp_path / "m.jsonl", wandb=wandb) as metrics:
        metrics.write(3, {"a": 1.5, "b": None})
    assert calls == [
        {"project": "project", "id": "id", "resume": "allow", "mode": "offline"},
        (3, {"step": 3, "a": 1.5}),
    ]
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {"step": 3, "a": 1.5}
