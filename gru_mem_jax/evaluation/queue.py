"""In which order the questions of an evaluation are asked."""

import itertools
from collections.abc import Iterator, Sequence

from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.questions import DrawnSet
from gru_mem_jax.evaluation.records import labels_text


def check_distinct(sets: Sequence[DrawnSet]) -> None:
    """Refuses sets whose answers could not be told apart: of one name and context.

    Raises:
      InputError: names them.
    """
    seen = set()
    for each in sets:
        key = (each.of.name, labels_text(each.of.labels))
        if key in seen:
            raise InputError(
                f"two question sets have the name {each.of.name!r} and the same labels "
                f"({key[1] or 'none'}); give one another name, or a label such as "
                "length"
            )
        seen.add(key)


def runs(
    sets: Sequence[DrawnSet], modes: Sequence[str]
) -> Iterator[tuple[list[DrawnSet], str]]:
    """Sets that run together, with their mode: by context, then mode.

    Those of the mix run as one; the others each by itself. A set is left out of the
    modes that it says.
    """
    by_context: dict[object, list[DrawnSet]] = {}
    for each in sets:
        by_context.setdefault(tuple(each.of.labels.items()), []).append(each)
    for chosen in by_context.values():
        mixed = [each for each in chosen if each.of.in_mix]
        alone = [[each] for each in chosen if not each.of.in_mix]
        for mode in modes:
            for group in [mixed, *alone]:
                asked = [each for each in group if mode not in each.of.left_out_modes]
                if asked:
                    yield asked, mode


def places(sets: Sequence[DrawnSet]) -> list[tuple[int, int]]:
    """(set, index) of all questions: the first of each set, the second of each, ...

    A question comes right after the first on its document, whose prefixes may then
    still be held.
    """
    each_set = [[(s, i) for i in range(len(d.examples))] for s, d in enumerate(sets)]
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*each_set))
    by_document: dict[object, list[tuple[int, int]]] = {}
    for place in filter(None, in_turn):
        document = sets[place[0]].document_key(place[1])
        by_document.setdefault(document, []).append(place)
    return list(itertools.chain.from_iterable(by_document.values()))


def share_a_document(sets: Sequence[DrawnSet]) -> bool:
    """Whether two questions are on the same document."""
    documents = [s.document_key(i) for s in sets for i in range(len(s.examples))]
    return len(set(documents)) < len(documents)
