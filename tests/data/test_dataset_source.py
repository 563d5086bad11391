"""Sources over built sets: grain's order, shards, parts, lengths that grow."""

import pickle

import grain
import pytest
from small_recipe import SmallRecipe

from gru_mem_jax.data import CurriculumSource, DatasetSource, FiniteSource, open_dataset
from gru_mem_jax.data.builders import Length, build
from gru_mem_jax.data.sources import is_finite, records_of
from gru_mem_jax.errors import InputError
from gru_mem_jax.hosts.processes import Hosts

SHORT, LONG = "2 documents", "3 documents"
LENGTHS = (Length("documents", 2), Length("documents", 3))
COUNT = 12
FEW = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    recipe = SmallRecipe(lengths=LENGTHS, num_questions=COUNT)
    return str(build(recipe, tmp_path_factory.mktemp("built") / "set"))


def ids(source, positions):
    return [source.example(position).id for position in positions]


def test_each_question_once_an_epoch_in_an_order_of_its_own(path):
    source = DatasetSource(path=path, length=SHORT)
    epochs = [ids(source, range(i, i + COUNT)) for i in (0, COUNT, 2 * COUNT)]
    every = sorted(f"q{i}" for i in range(COUNT))
    assert all(sorted(epoch) == every for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    again = DatasetSource(path=path, length=LONG)
    assert (
        ids(again, reversed(range(30))) == (epochs[0] + epochs[1] + epochs[2])[29::-1]
    )
    other = DatasetSource(path=path, length=SHORT, seed=1)
    assert ids(other, range(COUNT)) != epochs[0]
    # Numbers that were computed elsewhere: the order is the same on any machine.
    assert epochs[0][:6] == ["q1", "q2", "q11", "q5", "q9", "q7"]


def test_without_shuffling_a_position_is_an_index(path):
    source = DatasetSource(path=path, length=LONG, shuffle=False)
    assert ids(source, range(COUNT + 2)) == [f"q{i % COUNT}" for i in range(COUNT + 2)]
    assert source.example(5) == open_dataset(path, LONG)[5]


def test_the_state_of_grains_iterator_is_the_position(path):
    """A run that is resumed at its position goes on as grain's own iterator does."""
    source = DatasetSource(path=path, length=SHORT, seed=3)
    iterator = iter(source.examples().to_iter_dataset(FEW))
    assert [next(iterator) for _ in range(7)] == [source.example(i) for i in range(7)]
    state = iterator.get_state()
    assert state == {"next_index": 7}
    after = [next(iterator) for _ in range(10)]
    resumed = iter(source.examples().to_iter_dataset(FEW))
    resumed.set_state({"next_index": 7})
    assert [next(resumed) for _ in range(10)] == after
    assert after == [source.example(i) for i in range(7, 17)]


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_shard_a_process(path, count):
    """Grain's shard i of n holds what `Hosts.dealt` deals to process i of n."""
    source = DatasetSource(path=path, length=SHORT, seed=2)
    questions, steps = 12, 3  # of a step
    for index in range(count):
        hosts = Hosts(index, count)
        dealt = [
            source.example(step * questions + place).id
            for step in range(steps)
            for place in hosts.dealt(questions)
        ]
        options = grain.sharding.ShardOptions(index, count)
        shard = source.examples()[options.shard_index :: options.shard_count]
        iterator = iter(shard.to_iter_dataset(FEW))
        assert [next(iterator).id for _ in dealt] == dealt


def test_records_are_the_questions_without_documents(path):
    source: FiniteSource = DatasetSource(path=path, length=SHORT)
    assert is_finite(source)
    records = records_of(source)
    assert (len(records), records.bad, records.composed) == (COUNT, (), True)
    where, example = records.good[3]
    assert (where, example.id, example.document) == ("question 3", "q3", "")
    assert example.answers == ("value3", "another")
    assert source.fingerprint() == open_dataset(path, LONG).fingerprint


def test_records_read_no_document(path, monkeypatch):
    from gru_mem_jax.data.dataset import Dataset

    monkeypatch.setattr(Dataset, "texts", None)
    assert len(DatasetSource(path=path, length=SHORT).records()) == COUNT


def test_parts_share_no_question_at_any_length(path):
    fields = {"path": path, "held_out_share": 0.4}
    train = DatasetSource(part="train", length=SHORT, **fields)
    held = DatasetSource(part="held_out", length=LONG, **fields)
    sets = [{e.id for _, e in source.records().good} for source in (train, held)]
    assert not set.intersection(*sets)
    assert set.union(*sets) == {f"q{i}" for i in range(COUNT)}
    assert set(ids(held, range(20))) == sets[1]
    empty = DatasetSource(path=path, length=SHORT, part="held_out", held_out_share=0)
    with pytest.raises(
        InputError, match="none of its 12 records is of part 'held_out'"
    ):
        empty.records()


def test_a_curriculum_over_length(path):
    stages = ((SHORT, 0), (LONG, 20))
    grows = CurriculumSource(path=path, stages=stages, seed=5)
    plain = DatasetSource(path=path, length=LONG, seed=5)
    assert ids(grows, range(40)) == ids(plain, range(40))
    lengths = [grows.example(i).document.count("Document") for i in range(40)]
    assert lengths == [2] * 20 + [3] * 20
    assert grows.example(30) == plain.example(30)
    assert len(grows.records()) == COUNT
    # At a position by grain, too.
    assert [e.id for e in grows.examples()[18:22]] == ids(plain, range(18, 22))


def test_a_mix_of_lengths_is_decided_by_the_position(path):
    stages = ((SHORT, 0), (LONG, 10))
    mixed = CurriculumSource(path=path, stages=stages, mix=0.25)
    lengths = [mixed.example(i).document.count("Document") for i in range(210)]
    assert lengths[:10] == [2] * 10
    share = lengths[10:].count(2) / 200
    assert 0.15 < share < 0.35
    again = CurriculumSource(path=path, stages=list(map(list, stages)), mix=0.25)
    assert again == mixed
    assert again.example(77) == mixed.example(77)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stages": ()}, r"stages must be pairs"),
        ({"stages": ((SHORT, 1),)}, r"must rise from 0, got \[1\]"),
        ({"stages": ((SHORT, 0), (LONG, 0))}, r"must rise from 0, got \[0, 0\]"),
        ({"stages": ((SHORT,),)}, r"stages: expected pairs"),
        ({"stages": ((2, 0),)}, r"a length is text, got 2"),
        ({"stages": ((SHORT, 0),), "mix": 1.5}, r"mix must be a number from 0 to 1"),
    ],
)
def test_stages_that_cannot_be(path, fields, expected):
    with pytest.raises(InputError, match=expected):
        CurriculumSource(path=path, **fields)


def test_a_length_that_is_not_there_is_found_before_it_is_reached(path):
    source = CurriculumSource(path=path, stages=((SHORT, 0), ("9 documents", 1000)))
    with pytest.raises(InputError, match=r"has no length '9 documents'"):
        source.records()


def test_sources_are_values(path):
    source = DatasetSource(path=path, length=SHORT)
    source.example(0)
    assert source == DatasetSource(path=path, length=SHORT)
    assert hash(source) == hash(DatasetSource(path=path, length=SHORT))
    copy = pickle.loads(pickle.dumps(source))
    assert (copy, copy.example(3)) == (source, source.example(3))


def test_grains_workers_read_it(path):
    """In threads, as an iterator does by default, and in order."""
    source = DatasetSource(path=path, length=SHORT)
    options = grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)
    iterator = iter(source.examples().to_iter_dataset(options))
    assert [next(iterator).id for _ in range(20)] == ids(source, range(20))


def test_a_question_that_no_answer_can_match(path, tmp_path):
    import dataclasses

    class Unmatchable(SmallRecipe):
        def questions(self, length):
            for question in super().questions(length):
                if question.id == "q1":
                    question = dataclasses.replace(question, answers=(" ",))
                yield question

    out = str(build(Unmatchable(lengths=LENGTHS), tmp_path / "set"))
    with pytest.raises(InputError, match=r"set: question 1: .* \(id 'q1'\)"):
        DatasetSource(path=out, length=SHORT).example(0)
    skips = DatasetSource(path=out, length=SHORT, on_bad_record="skip")
    assert set(ids(skips, range(9))) == {"q0", "q2", "q3"}
