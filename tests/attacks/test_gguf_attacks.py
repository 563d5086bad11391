"""Hostile GGUF files are refused in one line, quickly and in little memory.

Fault C15.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import gguf_attacks
import gguf_files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_mem_jax.errors import InputError, PolicyError
from gru_mem_jax.policy.gguf import import_gguf, read_header

sys.path.append(str(pathlib.Path(__file__).parents[1] / "policy"))

MOST_SECONDS = 2.0
MOST_MB = 300.0


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "m.gguf"
    gguf_files.write(path, gguf_files.config_of("llama"), quantisation="Q8_0")
    return path.read_bytes()


@pytest.fixture(scope="module")
def outcomes(good, tmp_path_factory):
    """What came of every attack, tried one after the other in one process."""
    folder = tmp_path_factory.mktemp("attacks")
    for name, (spoil, _) in gguf_attacks.ATTACKS.items():
        (folder / name).write_bytes(spoil(good))
    script = pathlib.Path(__file__).with_name("try_gguf_files.py")
    run = subprocess.run(
        [sys.executable, str(script), str(folder), *gguf_attacks.ATTACKS],
        capture_output=True,
        text=True,
        timeout=300,
    )
    if run.returncode:
        pytest.fail(run.stderr[-2000:])
    assert not (folder / "out").exists()
    records = [json.loads(line) for line in run.stdout.splitlines()]
    return {name: rest for name, *rest in records}


@pytest.mark.parametrize("name", gguf_attacks.ATTACKS)
def test_a_hostile_file_is_refused(name, outcomes):
    error, message, seconds, peak_mb = outcomes[name]
    assert error == "PolicyError", message
    assert re.search(gguf_attacks.ATTACKS[name][1], message), message
    assert "\n" not in message
    assert len(message) < 1200
    assert seconds < MOST_SECONDS
    assert peak_mb < MOST_MB


def test_the_good_file_is_imported(good, tmp_path):
    """Else every attack would be refused for the wrong reason."""
    (tmp_path / "m.gguf").write_bytes(good)
    assert import_gguf(tmp_path / "m.gguf", tmp_path / "out").family == "llama"


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "link.gguf").symlink_to("/dev/zero")
    for name, expected in {
        "pipe.gguf": "not a regular file",
        "folder.gguf": "got a folder",
        "link.gguf": "not a regular file",
        "none.gguf": "No such file",
        "nul\0.gguf": "null",
    }.items():
        with pytest.raises(PolicyError, match=expected) as caught:
            import_gguf(tmp_path / name, tmp_path / "out")
        assert str(caught.value).count(name) == 1


def test_a_file_without_a_tokenizer(tmp_path):
    path = tmp_path / "m.gguf"
    gguf_files.write(path, gguf_files.config_of("llama"), tokenizer=False)
    with pytest.raises(PolicyError, match="holds no tokenizer"):
        import_gguf(path, tmp_path / "out")


def test_a_file_cut_anywhere(good, tmp_path):
    """Every length of the header's beginning, and steps through the rest."""
    path = tmp_path / "m.gguf"
    lengths = [*range(400), *range(400, len(good), 1999), len(good) - 1]
    for length in lengths:
        path.write_bytes(good[:length])
        with pytest.raises(PolicyError) as caught:
            read_header(path)
        assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_random_damage(good, data, tmp_path_factory):
    """Imported, or refused by an error of ours: never anything else."""
    spoiled = bytearray(good)
    end = good.index(b"blk.1.ffn_down") + 4000  # beyond it are weights
    places = st.integers(0, min(end, len(good)) - 1)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(places)
        spoiled[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        cut = data.draw(places)
        del spoiled[cut : cut + data.draw(st.integers(1, 64))]
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "m.gguf").write_bytes(spoiled)
    refusal = ""
    try:
        import_gguf(folder / "m.gguf", folder / "out")
    except InputError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert (folder / "out" / "config.json").exists() == (not refusal)
