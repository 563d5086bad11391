"""Files that are whole or not there."""

import os

from gru_mem_jax import durable_files


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    for name in ("x" * 255, "é" * 127, "short.json"):
        for data in ("old", "new"):
            durable_files.write_atomically(tmp_path / name, data)
        assert (tmp_path / name).read_text() == "new"
    assert len(os.listdir(tmp_path)) == 3
