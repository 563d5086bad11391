"""Sources as one: shares, order, records."""

import dataclasses
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_recipe import SmallRecipe

from gru_mem_jax.data import DatasetSource, JsonlSource, ListSource, MixedSource
from gru_mem_jax.data.bad_records import BadRecordsError
from gru_mem_jax.data.builders import Length, build
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.sources import is_finite, on_bad_record
from gru_mem_jax.errors import InputError


def listed(name, count):
    """A source with `count` questions."""
    return ListSource(
        examples=tuple(
            Example(id=f"{i}", question=f"{name} {i}?", answers=("a",), document=name)
            for i in range(count)
        )
    )


@dataclasses.dataclass(frozen=True)
class InRuns:
    """Numbers its positions; `size` of them are on a document."""

    name: str
    size: int

    def example(self, position):
        return Example(
            id=str(position),
            question=self.name,
            answers=("a",),
            document=f"{self.name} {position // self.size}",
        )

    def questions_together(self, position):
        return self.size - position % self.size

    def records(self):
        return listed(self.name, 3).records()


@given(
    parts=st.lists(
        st.tuples(st.integers(1, 5), st.integers(1, 1000)), min_size=1, max_size=4
    )
)
@settings(max_examples=40, deadline=None)
def test_each_source_has_its_share_and_gives_all_it_has_in_order(parts):
    sources = tuple(InRuns(f"s{i}", size) for i, (size, _) in enumerate(parts))
    weights = tuple(float(weight) for _, weight in parts)
    mixed = MixedSource(sources=sources, weights=weights)
    count, most = 200, max(size for size, _ in parts)
    given_of = [0] * len(parts)
    last = None
    for position in range(count):
        example = mixed.example(position)
        number, own = map(int, example.id.split("/"))
        assert example.question == f"s{number}"
        assert own == given_of[number]
        given_of[number] += 1
        if own % parts[number][0]:  # within a document: no other source between
            assert last == number
        last = number
        for i, weight in enumerate(weights):
            due = weight / sum(weights) * (position + 1)
            assert abs(given_of[i] - due) <= most * len(parts)
    again = MixedSource(sources=sources, weights=weights)
    assert again.example(137) == mixed.example(137)


def test_shares_by_hand():
    mixed = MixedSource(sources=(listed("a", 5), listed("b", 7)), weights=(3, 1))
    names = "".join(mixed.example(i).document for i in range(12))
    assert names == "aabaaabaaaba"
    equal = MixedSource(sources=(InRuns("a", 2), InRuns("b", 1)))
    names = "".join(equal.example(i).question for i in range(9))
    assert names == "aabbaabba"
    assert [equal.questions_together(i) for i in range(4)] == [2, 1, 1, 1]


def test_records_of_all_with_ids_and_places_of_their_own(tmp_path):
    path = build(SmallRecipe(lengths=(Length("documents", 2),)), tmp_path / "set")
    built = DatasetSource(path=path)
    other = listed("a", 3)
    mixed = MixedSource(sources=(other, built, built))
    records = mixed.records()
    assert is_finite(mixed)
    assert len(records) == 3 + 4 + 4
    assert len({where for where, _ in records.good}) == 11
    assert len({example.id for _, example in records.good}) == 11
    assert records.composed
    assert not any(example.document for _, example in records.good)
    ids = {example.id for _, example in records.good}
    assert {mixed.example(i).id for i in range(33)} == ids
    assert mixed.fingerprint() == dataclasses.replace(mixed).fingerprint()
    assert mixed.fingerprint() != MixedSource(sources=(other, built)).fingerprint()
    assert not MixedSource(sources=(other, other)).records().composed
    assert pickle.loads(pickle.dumps(mixed)).example(5) == mixed.example(5)


def test_bad_records_are_an_error_or_are_passed_over(tmp_path):
    path = tmp_path / "some.jsonl"
    good = '{"id": "1", "question": "Who?", "answers": ["a"], "document": "d"}\n'
    path.write_text(f"{good}nonsense\n")
    skips, fails = (JsonlSource(path=path, on_bad_record=r) for r in ("skip", "error"))
    assert on_bad_record(MixedSource(sources=(skips, skips))) == "skip"
    strict = MixedSource(sources=(listed("a", 2), skips, fails))
    assert on_bad_record(strict) == "error"
    with pytest.raises(BadRecordsError):
        [strict.example(i) for i in range(6)]
    (one, two) = strict.records().bad
    assert one.where == f"source 1 ({path}): line 2"
    assert two.where == f"source 2 ({path}): line 2"
    lenient = MixedSource(sources=(listed("a", 2), fails), on_bad_record="skip")
    assert [lenient.example(i).id for i in range(4)] == ["0/0", "1/1", "0/1", "1/1"]


@dataclasses.dataclass(frozen=True)
class Endless:
    def example(self, position):
        raise AssertionError


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"sources": ()}, "sources must be at least one source"),
        ({"sources": listed("a", 1)}, "sources must be at least one source"),
        ({"sources": ("a",)}, "must have an end .* got 'a'"),
        ({"sources": (Endless(),)}, "must have an end .* got Endless"),
        ({"weights": (1.0,)}, "a number for each of 2 sources, got "),
        ({"weights": 2}, "a number for each of 2 sources, got 2"),
        ({"weights": (1, 0)}, "a weight"),
        ({"weights": (1, "b")}, "a weight"),
        ({"weights": (1, float("nan"))}, "a weight"),
        ({"on_bad_record": "maybe"}, "on_bad_record"),
    ],
)
def test_what_it_refuses(fields, expected):
    every = {"sources": (listed("a", 1), listed("b", 1))} | fields
    with pytest.raises(InputError, match=expected):
        MixedSource(**every)
