"""Load, train, resume, export, load: the same policy, for each family.

The arrays go through the checkpoints of a run as training saves them, untrained; a run
that trains is in tests/train/test_train_round_trip.py.
"""

import json
import shutil

import hub_weights
import numpy as np
import pytest
import round_trip
from hub_weights import LAYOUTS, values_of, write

from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.hf import load_policy
from gru_mem_jax.rl.lora import LoraConfig
from gru_mem_jax.runs.checkpoints.manager import Checkpoints

QUICK = ("qwen2.5_0.5b_instruct", "llama3_8b_instruct")
NAMES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in LAYOUTS
]
TIED = "ignore:[^ ]* config.json says tie_word_embeddings"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Of a layout, once: source, export, and whether its arrays were resumed."""
    ways = {}

    def of(name):
        if name not in ways:
            folder = tmp_path_factory.mktemp("way")
            source = write(folder / "source", LAYOUTS[name])
            ways[name] = source, *round_trip.through_a_run(source, folder)
        return ways[name]

    return of


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_lost(done, name):
    source, export, resumed = done(name)
    assert resumed
    found = round_trip.compare(source, export)
    assert set(found.values()) == {True}, found
    ours = {"README.md", "gru_mem.json", "generation_config.json"}
    small = {p.name for p in export.iterdir() if p.suffix != ".safetensors"} - ours
    kept = ("token", "template", "config.json", "vocab.json", "merges.txt")
    assert (
        small
        == {p.name for p in source.iterdir() if any(word in p.name for word in kept)}
        - ours
    )


@pytest.mark.torch
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_lost_for_transformers(done, name):
    pytest.importorskip("torch")
    source, export, _ = done(name)
    found = round_trip.compare_by_transformers(source, export)
    assert set(found.values()) == {True}, found


def other_head(folder, name="qwen2.5_0.5b_instruct"):
    layout = LAYOUTS[name]
    values = values_of(layout, layout.config_json())
    head = np.roll(values[f"{layout.prefix}embed_tokens.weight"], 7, axis=0)
    return write(folder / "source", layout, values={**values, layout.head: head}), head


@pytest.mark.filterwarnings(TIED)
def test_a_head_of_its_own_stays_one(tmp_path):
    source, head = other_head(tmp_path)
    export, resumed = round_trip.through_a_run(source, tmp_path)
    assert resumed
    found = round_trip.compare(source, export)
    assert set(found.values()) == {True}, found
    _, params = load_policy(export)
    np.testing.assert_array_equal(np.asarray(params["ends"]["head"]["kernel"]).T, head)


@pytest.mark.slow
@pytest.mark.filterwarnings(TIED)
def test_adapters_are_merged_into_the_policy_as_it_was(tmp_path):
    """Untrained adapters change nothing."""
    source, _ = other_head(tmp_path)
    export, resumed = round_trip.through_a_run(
        source, tmp_path, lora=LoraConfig(rank=2), policy_dir=str(source)
    )
    assert resumed
    found = round_trip.compare(source, export)
    assert set(found.values()) == {True}, found


def change(path, **changes):
    record = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(record), encoding="utf-8")


CHANGES = {
    "generation_config.json": (
        {"eos_token_id": [257, 261, 260]},
        "generation_config.json differs: eos_token_id has 2 elements, expected 3",
    ),
    "special_tokens_map.json": (
        {"eos_token": "<|eot_id|>"},
        r"special_tokens_map.json differs: eos_token is <\|end_of_text\|>, expected",
    ),
    "tokenizer_config.json": (
        {"chat_template": "{{ messages[0]['content'] }}<|eot_id|>"},
        "tokenizer_config.json differs: chat_template is",
    ),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with a policy and a run of it that was started."""
    folder = tmp_path_factory.mktemp("begun")
    source = write(folder / "p", LAYOUTS["llama3_8b_instruct"])
    assert round_trip.start(source, folder) is None
    return folder


@pytest.mark.parametrize("name", [*CHANGES, "absent", "weights", "beside"])
def test_what_makes_another_policy_at_resume(begun, tmp_path, name):
    """A file that is not read may come and go; the others are named."""
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    source, message = tmp_path / "p", None
    if name in CHANGES:
        changes, message = CHANGES[name]
        change(source / name, **changes)
    elif name == "absent":
        (source / "generation_config.json").unlink()
        message = "generation_config.json differs: present in the checkpoint"
    elif name == "weights":
        layout = LAYOUTS["llama3_8b_instruct"]
        values = values_of(layout, layout.config_json())
        values["model.norm.weight"] += 1
        hub_weights.write_weights(source, values, layout.shards)
        message = "weights_sha256 is"
    else:
        (source / "consolidated.safetensors").write_bytes(b"all weights once more")
    if message is None:
        assert round_trip.start(source, tmp_path)
        return
    with pytest.raises(InputError, match=message):
        round_trip.start(source, tmp_path)


def test_a_run_of_before_is_compared_by_what_it_kept(tmp_path, monkeypatch):
    """Checkpoints once held four files and did not say so: special_tokens_map.json may
    be new at a resume, generation_config.json may not."""
    source = write(tmp_path / "p", LAYOUTS["llama3_8b_instruct"])
    save = Checkpoints.save

    def saved_before(self, step, trees, metadata, *, files, **options):
        metadata = {k: v for k, v in metadata.items() if k != "tokenizer_files"}
        files = {k: v for k, v in files.items() if k != "special_tokens_map.json"}
        save(self, step, trees, metadata, files=files, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", saved_before)
        round_trip.start(source, tmp_path)
    (tmp_path / "copy").mkdir()
    shutil.copytree(tmp_path / "run", tmp_path / "copy" / "run")
    assert round_trip.start(source, tmp_path)
    change(source / "generation_config.json", eos_token_id=257)
    with pytest.raises(InputError, match=r"generation_config\.json differs"):
        round_trip.start(source, tmp_path / "copy")
