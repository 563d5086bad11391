"""Records of JSON that are not quite what they should be."""

import copy

from hypothesis import strategies as st

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 30),
    st.just(1.5),
    st.sampled_from(["", " ", "A3", "#1", "\ud800", "\x00"]),
    st.sampled_from([[], [[]], {}, {"title": "A3"}, [1, "x"], ["A3", 0]]),
)


def places(value, at=()):
    """The path of each part of a JSON value."""
    yield at
    if isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, (*at, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from places(part, (*at, index))


@st.composite
def damaged(draw, record):
    """The record with one part replaced, removed, doubled, or keys in another order."""
    record = copy.deepcopy(record)
    path = draw(st.sampled_from([p for p in places(record) if p]))
    parent = record
    for key in path[:-1]:
        parent = parent[key]
    how = draw(st.sampled_from(["replace", "remove", "double", "reverse"]))
    if how == "replace":
        parent[path[-1]] = draw(JUNK)
    elif how == "remove":
        del parent[path[-1]]
    elif how == "reverse":
        if isinstance(parent, dict):
            items = list(parent.items())[::-1]
            parent.clear()
            parent.update(items)
        else:
            parent.reverse()
    elif isinstance(parent, list):
        parent.insert(path[-1], parent[path[-1]])
    else:
        parent[path[-1]] = [parent[path[-1]]] * 2
    return record


@st.composite
def cut_short(draw, text):
    """The bytes of a text, up to a place in it."""
    data = text.encode()
    return data[: draw(st.integers(0, len(data) - 1))]
