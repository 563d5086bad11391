import os
import shutil

import pytest
from launch_scripts import TOOLS


@pytest.fixture
def bare_path(tmp_path):
    """A PATH with bash and small tools alone; programs may be added to it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ["bash", *TOOLS]:
        os.symlink(shutil.which(tool), folder / tool)
    return folder


@pytest.fixture
def env_file(tmp_path):
    """Secrets, as --env_file takes them."""
    path = tmp_path / "secrets of mine.env"
    path.write_text("WANDB_API_KEY=0123456789abcdef\nHF_TOKEN=secret-too\n")
    path.chmod(0o600)
    return path
