"""Hostile policy directories are refused by name, quickly and in little memory.

Faults C1, C2, C3, C4, C5, C6, C7 and C8.
"""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import policy_dirs
import pytest
import spoil

from gru_mem_jax.policy.hf import load_policy

MOST_SECONDS = 2.0
MOST_MB = 300.0


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of every attack, tried one after the other in one process."""
    folder = tmp_path_factory.mktemp("attacks")
    names = {name: number for number, name in enumerate(policy_dirs.ATTACKS)}
    for name, number in names.items():
        (folder / str(number)).mkdir()
        spoil.write_good(folder / str(number))
        policy_dirs.ATTACKS[name][0](folder / str(number))
    (folder / "names.json").write_text(json.dumps(names))
    script = pathlib.Path(policy_dirs.__file__).with_name("try_policy_dirs.py")
    run = subprocess.run(
        [sys.executable, str(script), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
    )
    if run.returncode:
        pytest.fail(run.stderr[-2000:])
    records = [json.loads(line) for line in run.stdout.splitlines()]
    return {name: rest for name, *rest in records}


@pytest.mark.parametrize("name", policy_dirs.ATTACKS)
def test_a_hostile_directory_is_refused(name, outcomes):
    error, message, seconds, peak_mb, _ = outcomes[name]
    assert error == "PolicyError", message
    assert re.search(policy_dirs.ATTACKS[name][1], message), message
    assert "\n" not in message
    assert len(message) < 1200
    assert seconds < MOST_SECONDS
    assert peak_mb < MOST_MB


def test_nothing_was_executed(outcomes):
    """Not one attack needed jax to be refused but those that depend on memory."""
    needed = [name for name, rest in outcomes.items() if rest[-1]]
    assert needed[0] == "C5-two_holes_to_compare"
    assert not list(pathlib.Path().glob("pwned"))


def test_the_good_directory_loads(tmp_path):
    """Else every attack would be refused for the wrong reason."""
    spoil.write_good(tmp_path)
    policy, params = load_policy(tmp_path)
    assert policy.config.num_hidden_layers == 2
    np.testing.assert_array_equal(params["ends"]["embedding"], 1.0)


def test_code_beside_a_known_model_is_never_run(tmp_path):
    """`auto_map` and its like name code; our own table needs none (C2)."""
    spoil.write_good(tmp_path)
    (tmp_path / "evil.py").write_text("open('pwned', 'w')")
    hostile = {
        "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"},
        "model_file": "evil.py",
        "trust_remote_code": True,
        "_attn_implementation_internal": "evil",
    }
    config = json.loads((tmp_path / "config.json").read_text()) | hostile
    (tmp_path / "config.json").write_text(json.dumps(config))
    policy, _ = load_policy(tmp_path)
    assert policy.config.family == "qwen2"
    assert not (tmp_path / "pwned").exists()
    assert "evil" not in sys.modules


def test_a_hub_cache_of_links_loads(tmp_path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    spoil.write_good(blobs)
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    assert load_policy(snapshot)[0].config.vocab_size == 48
