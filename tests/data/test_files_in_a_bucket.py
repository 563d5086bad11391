"""Data in a bucket: read as from a disk, refused in a line (fault R30)."""

import json

import pytest

from gru_mem_jax import buckets, storage
from gru_mem_jax.data import HotpotQASource, JsonlSource
from gru_mem_jax.errors import InputError

RECORD = {"id": "a", "question": "Which code?", "answers": ["amber"]}
RECORD |= {"document": "The code is amber."}


def test_records(bucket, tmp_path):
    data = (json.dumps(RECORD) + "\n").encode()
    (tmp_path / "q.jsonl").write_bytes(data)
    buckets.write(storage.locate(bucket) / "q.jsonl", data)
    there, here = (
        JsonlSource(path=f"{bucket}/q.jsonl"),
        JsonlSource(path=tmp_path / "q.jsonl"),
    )
    assert there.example(0) == here.example(0)
    assert there.fingerprint() == here.fingerprint()
    # Where a record is bad is told by its path.
    buckets.write(storage.locate(bucket) / "h.json", b"[{}]")
    source = HotpotQASource(path=f"{bucket}/h.json")
    assert source.records().bad[0].where
    assert source.records().name == f"{bucket}/h.json"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gs://none/q.jsonl", "gs://none/q.jsonl: there is no bucket none"),
        ("gs://private/q.jsonl", "gs://private/q.jsonl: permission denied"),
        ("gs://bucket/none.jsonl", "gs://bucket/none.jsonl: no such object or bucket"),
    ],
)
def test_what_cannot_be_read(emulator, path, message):
    with pytest.raises(InputError, match=message):
        JsonlSource(path=path).example(0)
