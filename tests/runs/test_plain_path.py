"""Links to folders whose names a library would misread."""

import os
import tempfile

import pytest

from gru_mem_jax.errors import RunError
from gru_mem_jax.runs.checkpoints.orbax_workarounds import plain_path


def test_harmless_names_are_used_as_they_are(tmp_path):
    for name in ("run_1", "a b", "lr=3e-4,seed=0", "x+y@host", "-1.5"):
        with plain_path(tmp_path / name) as path:
            assert path == tmp_path / name


@pytest.mark.parametrize("name", ["a [b]", "x**y", "%41", "ü", "a\nb", "a\udcffb", "~"])
def test_others_are_reached_by_a_link_that_goes_away(tmp_path, monkeypatch, name):
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(links))
    folder = tmp_path / name
    with plain_path(folder) as path:
        folder.mkdir()  # it may come later
        (path / "file").write_text("x")
        assert path.is_relative_to(links)
    assert (folder / "file").read_text() == "x"
    assert list(links.iterdir()) == []


def test_a_temporary_folder_that_is_of_no_use(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "x [y]"))
    with plain_path(tmp_path / "a [b]") as path:
        assert "[" not in os.fspath(path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(RunError, match="set TMPDIR"), plain_path(tmp_path / "a [b]"):
        pass
