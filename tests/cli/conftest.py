"""A question to a scripted policy, asked through the command line."""

import json

import pytest
from cli_helpers import Ask, context_of


@pytest.fixture
def ask(tmp_path) -> Ask:
    """Ten chunks, keys in the 2nd, 5th and 8th, the exit gate opens in the 9th."""
    settings = {"chunk_size": 100, "prompt": {"style": "compact"}}
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "gru_mem.json").write_text(json.dumps(settings))
    (policy / "config.json").write_text("{}")
    marks = {"c1": "KEYalpha,", "c4": "KEYbravo,", "c7": "KEYcharl,", "c8": "STOP"}
    return Ask(folder=tmp_path, context=context_of(10, **marks))
