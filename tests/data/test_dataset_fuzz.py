"""Fault R31: whatever bytes a set holds, an answer or an error of one line."""

import json
import pathlib
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_recipe import SmallRecipe

from gru_mem_jax.data import DatasetSource, open_dataset
from gru_mem_jax.data.builders import JsonlDocuments, Length, build
from gru_mem_jax.errors import InputError

quick = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    recipe = SmallRecipe(lengths=(Length("documents", 2),))
    return build(recipe, tmp_path_factory.mktemp("built") / "set")


@pytest.fixture(scope="module")
def copy(built):
    return pathlib.Path(shutil.copytree(built, built.with_name("copy")))


def outcome(folder):
    """What reading everything gives: examples, or the line of the error."""
    try:
        dataset = open_dataset(folder)
        examples = list(dataset)
        source = DatasetSource(path=str(folder), shuffle=False)
        assert [source.example(i) for i in range(len(dataset))] == examples
    except InputError as error:
        message = str(error)
    else:
        return examples
    assert "\n" not in message
    assert message.startswith(str(folder))
    return message


TABLES = ("texts/1.0.0/texts-pool", "questions/1.0.0/questions-documents_2")


@quick
@given(
    table=st.sampled_from(TABLES),
    # Records, their chunk's header, the index, and the file's end.
    places=st.lists(st.integers(0, 1100) | st.integers(65536, 66700), min_size=1),
    byte=st.integers(0, 255),
)
def test_bytes_that_changed(built, copy, table, places, byte):
    name = f"{table}.array_record-00000"
    data = bytearray((built / name).read_bytes())
    for place in places:
        data[place] = byte
    (copy / name).write_bytes(data)
    try:
        found = outcome(copy)
    finally:
        shutil.copy(built / name, copy / name)
    # Each block of records has a hash: what is read is right, or refused.
    assert isinstance(found, str) or found == list(open_dataset(built))


@quick
@given(table=st.sampled_from(TABLES), size=st.integers(0, 131072), pad=st.booleans())
def test_files_that_were_cut(built, copy, table, size, pad):
    name = f"{table}.array_record-00000"
    data = (built / name).read_bytes()
    cut = data[:size] + bytes(len(data) - size) * pad
    (copy / name).write_bytes(cut)
    manifest = json.loads((built / "dataset.json").read_text())
    manifest["files"][name] = len(cut)  # whoever cuts it may edit this too
    (copy / "dataset.json").write_text(json.dumps(manifest))
    try:
        found = outcome(copy)
    finally:
        shutil.copy(built / name, copy / name)
        shutil.copy(built / "dataset.json", copy / "dataset.json")
    assert isinstance(found, str) or found == list(open_dataset(built))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@quick
@given(data=st.data(), value=JSON, remove=st.booleans())
def test_a_manifest_that_was_edited(built, copy, data, value, remove):
    manifest = json.loads((built / "dataset.json").read_text())
    place, keys = manifest, sorted(manifest)
    while True:
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            break
        place = inner
        keys = sorted(inner) if isinstance(inner, dict) else range(len(inner))
    if remove:
        del place[key]
    else:
        place[key] = value
    (copy / "dataset.json").write_text(json.dumps(manifest))
    try:
        outcome(copy)
    finally:
        shutil.copy(built / "dataset.json", copy / "dataset.json")


@quick
@given(table=st.sampled_from(["texts", "questions"]), value=JSON, data=st.data())
def test_a_description_that_was_edited(built, copy, table, value, data):
    """TFDS's own files: names of shards and numbers of records."""
    file = data.draw(st.sampled_from(["dataset_info.json", "features.json"]))
    name = f"{table}/1.0.0/{file}"
    text = (built / name).read_text()
    if data.draw(st.booleans()):
        described = json.loads(text)
        described[data.draw(st.sampled_from(sorted(described)))] = value
        text = json.dumps(described)
    else:
        text = text[: data.draw(st.integers(0, len(text)))]
    (copy / name).write_text(text)
    manifest = json.loads((built / "dataset.json").read_text())
    manifest["files"][name] = len(text.encode())
    (copy / "dataset.json").write_text(json.dumps(manifest))
    try:
        outcome(copy)
    finally:
        shutil.copy(built / name, copy / name)
        shutil.copy(built / "dataset.json", copy / "dataset.json")


def test_features_name_no_module(built, copy):
    """Fault C14: TFDS imports what features.json names; it is compared before."""
    name = "texts/1.0.0/features.json"
    text = (built / name).read_text()
    manifest = (built / "dataset.json").read_text()
    changed = text.replace("tensorflow_datasets.core.features.text", "antigravity_text")
    (copy / name).write_text(changed)
    sizes = (f'"{name}": {len(text)}', f'"{name}": {len(changed)}')
    (copy / "dataset.json").write_text(manifest.replace(*sizes))
    try:
        assert "features.json: is not that of texts" in outcome(copy)
    finally:
        shutil.copy(built / name, copy / name)
        shutil.copy(built / "dataset.json", copy / "dataset.json")


LINE = {
    "id": "a",
    "question": "Who?",
    "answers": ["Ada"],
    "document": "It rained. Ada came.",
    "evidence_strings": ["Ada"],
    "evidence_order": [0],
    "task": "t",
    "scoring": "f1",
    "metadata": {"a": 1},
}


@quick
@given(
    changes=st.dictionaries(
        st.sampled_from([*LINE, "evidence", "document_path"]), JSON
    ),
    cut=st.integers(0, 400),
)
def test_lines_of_a_user(tmp_path, changes, cut):
    path = tmp_path / "mine.jsonl"
    second = json.dumps(LINE | {"id": "b"} | changes)
    path.write_text(json.dumps(LINE) + "\n" + second[:cut], encoding="utf-8")
    recipe = JsonlDocuments(sources=(str(path),))
    message = ""
    try:
        recipe.settings()
        list(recipe.pool())
        list(recipe.questions(Length("documents", 1)))
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    assert not message or message.startswith(f"1 of 2 records are bad: {path}:2: ")
