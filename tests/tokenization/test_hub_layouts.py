"""Directories as the hub has them: the ids, prompts and stops of transformers."""

import datetime
import difflib
import itertools
import shutil

import hub_layouts
import pytest

from gru_mem_jax.agent.chunking import iter_chunks
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig, wording
from gru_mem_jax.agent.requests import prompt_ids
from gru_mem_jax.policy.files import open_policy_dir
from gru_mem_jax.tokenization import TextTokenizer
from gru_mem_jax.tokenization.directory import read_parts

transformers = pytest.importorskip("transformers")

LIST = "1. a\n\n2. b\n\n 13 c  7\n\n\n2024\t5\n"  # where classes and files may differ
SENTENCE = (
    "The keeper wrote that 1,024 birds had left the valley in 1987; caf\u00e9 "
    "\u4e16\U0001f600, e\u0301.\tIt's not in the book.\r\n\n  An article may hold it. "
)
HTML = (
    "<html><h1>A</h1>\n<table><tr><td>heron</td></tr></table> <b>amber</b> a < b > c "
)
# "new" is what transformers 5 saves of it: template, roles and ids in other files.
FORMS = [(name, form) for name in hub_layouts.NAMES for form in ("old", "new")]


@pytest.fixture(scope="module", params=FORMS, ids="-".join)
def case(request, tmp_path_factory):
    """(layout, directory, transformers' tokenizer, a prompt builder with ours)"""
    name, form = request.param
    folder = tmp_path_factory.mktemp(name) / "old"
    layout = hub_layouts.write(name, folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    if theirs.chat_template is None:  # a processor would read it
        theirs.chat_template = layout.files["chat_template.json"]["chat_template"]
    if form == "new":
        new = folder.parent / "new"
        theirs.save_pretrained(new)
        for file in ("config.json", "generation_config.json"):
            shutil.copy(folder / file, new)
        assert (new / "chat_template.jinja").is_file()
        assert not (new / "special_tokens_map.json").exists()
        folder, theirs = new, transformers.AutoTokenizer.from_pretrained(new)
    ours = TextTokenizer.from_pretrained(folder)
    return layout, folder, theirs, PromptBuilder(ours, PromptConfig())


def plain_ids(layout, theirs, text):
    """transformers' ids of a text that goes on, without the space before a text."""
    if not layout.prefix:
        return theirs(text, add_special_tokens=False)["input_ids"]
    # The mark is no piece of the vocabulary, so no merge reaches over it.
    mark = theirs("\u25c6", add_special_tokens=False)["input_ids"]
    ids = theirs("\u25c6" + text, add_special_tokens=False)["input_ids"]
    assert ids[: len(mark)] == mark
    return ids[len(mark) :]


def test_ids_of_documents(case):
    layout, _, theirs, builder = case
    ours = builder.encoder
    for text in (SENTENCE * 3, HTML, LIST, "x", " x", "\n\nx\n", "birds"):
        ids = ours.encode(text)
        assert ids == plain_ids(layout, theirs, text), text
        assert ours.control_ids.isdisjoint(ids)
    if not layout.prefix:
        assert ours.decode(ours.encode(HTML)) == HTML


def test_ids_of_chunks(case):
    layout, _, theirs, builder = case
    ours = builder.encoder
    document = (SENTENCE + HTML) * 60  # many blocks
    chunks = list(iter_chunks(document, ours, 64))
    assert len(document) > 3 * 1024
    assert "".join(chunk.text for chunk in chunks) == document
    ids = [i for chunk in chunks for i in chunk.ids]
    assert ids == plain_ids(layout, theirs, document)


def shown(kind, config, contents):
    """The user's message as text."""
    text = wording(kind, config)
    for name, content in contents.items():
        text = text.replace(f"{{{name}}}", content)
    return text


def borders_of(prompt, rendered, contents):
    """Where segments meet: in ids, and in characters of the whole prompt."""
    in_text = [0]
    for segment in prompt:
        if segment.role == "control":
            continue
        start = rendered.index(contents[segment.role], in_text[-1])
        in_text += [start, start + len(contents[segment.role])]
    in_ids, place = [], 0
    for segment in prompt[:-1]:
        place += len(segment.ids)
        in_ids.append(place)
    return list(zip(in_ids, in_text[1:], strict=True))


def count_crossed(ours, theirs, spans, borders):
    """How many borders a token of theirs crosses; ids differ nowhere else."""
    crossed = {b for b, at in borders if any(start < at < end for start, end in spans)}
    matcher = difflib.SequenceMatcher(None, ours, theirs, autojunk=False)
    for what, start, end, _, _ in matcher.get_opcodes():
        assert what == "equal" or any(start <= b <= end for b in crossed)
    return len(crossed)


PLAIN = {"question": "Which code", "memory": "the lantern", "chunk": "The keeper"}
# White space at the ends: tokenizers that have words for it merge it with ours.
SPACED = {"question": "\nWhich\n", "memory": " lantern ", "chunk": "\n\nThe  \n"}
# Of six borders and four, in gated and answer prompts of SPACED.
CROSSED = {"mistral_v1": (0, 0), "mistral_v3": (0, 0), "gemma3": (4, 2)}
CROSSED |= {"smollm2": (1, 0)}
MOST = (3, 2)  # of the others, whose words for white space are alike


class July26(datetime.datetime):
    """A clock that stands where ours does."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


def test_ids_of_prompts(case, monkeypatch):
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", July26)
    layout, _, theirs, builder = case
    ours, counts = builder.encoder, []
    name = next(n for n in hub_layouts.NAMES if hub_layouts.layout(n) is layout)
    for kind, contents in itertools.product(("gated", "answer"), (PLAIN, SPACED)):
        message = {"role": "user", "content": shown(kind, builder.config, contents)}
        rendered = theirs.apply_chat_template(
            [message], add_generation_prompt=True, tokenize=False
        )
        whole = theirs(rendered, add_special_tokens=False, return_offsets_mapping=True)
        names = ("question", "memory", "chunk")[: 3 if kind == "gated" else 2]
        prompt = getattr(builder, kind)(
            *(tuple(ours.encode(contents[n])) for n in names)
        )
        ids, expected = prompt_ids(prompt), whole["input_ids"]
        assert ours.decode(ids) == ours.decode(expected)
        borders = borders_of(prompt, rendered, contents)
        counts.append(count_crossed(ids, expected, whole["offset_mapping"], borders))
    gated, answer = CROSSED.get(name, MOST)
    assert counts == [0, gated, 0, answer]


def test_stops(case):
    layout, folder, theirs, builder = case
    ours = builder.encoder
    generation = transformers.GenerationConfig.from_pretrained(folder)
    stops = generation.eos_token_id
    stops = {stops} if isinstance(stops, int) else set(stops)
    assert stops == set(theirs.convert_tokens_to_ids(list(layout.stops)))
    # Ours are these, the tokenizer's eos, and what ends an assistant's text.
    assert stops <= set(ours.stop_ids)
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    after = theirs.apply_chat_template(messages, tokenize=False).rpartition("!")[2]
    more = {theirs.convert_ids_to_tokens(i) for i in set(ours.stop_ids) - stops}
    assert more <= {theirs.eos_token, after.strip()}


def test_no_marker_comes_from_text(case):
    _, _, theirs, builder = case
    ours = builder.encoder
    for token in theirs.added_tokens_decoder.values():
        text = f"a{token.content}b {token.content}"
        assert ours.control_ids.isdisjoint(ours.encode(text))
    named = {*theirs.all_special_tokens, *theirs.special_tokens_map.values()}
    assert set(theirs.convert_tokens_to_ids(list(named))) <= ours.control_ids


def test_roles_are_those_of_transformers(case):
    _, folder, theirs, _ = case
    ours = read_parts(open_policy_dir(folder)).special_tokens
    assert ours == theirs.special_tokens_map


def test_what_the_template_opens(case):
    layout, _, _, builder = case
    assert builder.opened == layout.opened


def test_variables_are_what_transformers_takes_as_arguments(tmp_path):
    hub_layouts.write("qwen3", tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = TextTokenizer.from_pretrained(tmp_path)
    off = {"enable_thinking": False}
    messages = [{"role": "user", "content": "Who?"}]
    options = {"add_generation_prompt": True, "tokenize": False}
    expected = theirs.apply_chat_template(messages, **options, **off)
    assert ours.render_chat(messages, off) == expected
    assert expected.endswith("assistant\n<think>\n\n</think>\n\n")
    builder = PromptBuilder(ours, PromptConfig(template_variables=off))
    assert builder.opened == "<think>\n\n</think>\n\n"
    answer = prompt_ids(builder.answer((), ()))
    assert ours.decode(answer).endswith("assistant\n" + builder.opened)
    assert PromptBuilder(ours).opened == ""
