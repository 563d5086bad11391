"""TextTokenizer: the same ids as transformers, but for control tokens in text."""

import json
import os
import random
import shutil

import pytest

from gru_mem_jax.agent.chunking import iter_chunks
from gru_mem_jax.errors import InputError, PolicyError
from gru_mem_jax.tiny import tokenizer as word_tokenizer
from gru_mem_jax.tokenization import TextTokenizer

CHATML = word_tokenizer.CHAT_TEMPLATE


@pytest.fixture(scope="session")
def words_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("words")
    word_tokenizer.save(path)
    return path


@pytest.fixture(scope="session")
def words(words_dir):
    return TextTokenizer.from_pretrained(words_dir)


@pytest.fixture(scope="session")
def qwen2(qwen2_tokenizer_dir):
    return TextTokenizer.from_pretrained(qwen2_tokenizer_dir)


@pytest.fixture(scope="session")
def transformers_qwen2(qwen2_tokenizer_dir):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(qwen2_tokenizer_dir)


@pytest.fixture(scope="session")
def ordinary_texts(shared_dir):
    """10,000 sentences of Wikipedia, with line breaks and runs of spaces in some."""
    path = shared_dir / "data/hotpotqa/hotpot_dev_distractor_subset.json"
    records = json.loads(path.read_text(encoding="utf-8"))
    texts = [s for r in records for _, sentences in r["context"] for s in sentences]
    rng = random.Random(0)
    gaps = ["  ", "\n", "\n\n", "   \n", "\t", "\r\n"]
    texts = texts[:10_000]
    assert len(texts) == 10_000
    return [
        text.replace(" ", rng.choice(gaps), rng.randrange(4)) if i % 3 == 0 else text
        for i, text in enumerate(texts)
    ]


def test_qwen2_ids_are_those_of_transformers(qwen2, transformers_qwen2, ordinary_texts):
    theirs = transformers_qwen2(ordinary_texts, add_special_tokens=False)["input_ids"]
    for text, ids in zip(ordinary_texts, theirs, strict=True):
        assert qwen2.encode(text) == ids
        assert qwen2.encode_control(text) == ids
    assert qwen2.decode(theirs[0]) == ordinary_texts[0]


def test_qwen2_control_tokens(qwen2):
    # 14 special ones and the 8 that are not marked special.
    assert qwen2.control_ids == frozenset(range(151643, 151665))
    assert qwen2.stop_ids == (151645,)
    assert qwen2.format_ids == frozenset()
    assert qwen2.vocab_size == 151665
    for id_ in qwen2.control_ids:
        token = qwen2.decode([id_])
        assert qwen2.control_ids.isdisjoint(qwen2.encode(f"a{token}b {token}"))
        assert qwen2.encode_control(token) == [id_]
    qwen2.check_rows(151936)  # the model has rows to spare
    with pytest.raises(PolicyError, match=r"ids up to 151645, .* has 151644 rows"):
        qwen2.check_rows(151644)


def test_qwen2_prompts_are_those_of_transformers(qwen2, transformers_qwen2):
    messages = [{"role": "user", "content": "Who?\n\n  é世😀\n"}]
    theirs = transformers_qwen2.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False
    )
    assert qwen2.render_chat(messages) == theirs
    ids = transformers_qwen2(theirs, add_special_tokens=False)["input_ids"]
    assert qwen2.encode_control(theirs) == ids


def test_qwen2_chunks_are_the_documents_own_tokens(qwen2, ordinary_texts):
    document = "\n\n".join(ordinary_texts[:2000])
    ids = qwen2.encode(document)
    for size in (64, 5000):
        chunks = list(iter_chunks(document, qwen2, size))
        assert "".join(c.text for c in chunks) == document
        sliced = [i for c in chunks for i in c.ids]
        # Blocks are cut where tokens begin: text between words encodes alike.
        assert sliced == ids
        # A character may have up to four tokens, and is never cut.
        assert all(size - 3 <= len(c.ids) <= size for c in chunks[:-1])


def test_a_tokenizer_of_transformers_can_be_wrapped(
    qwen2, transformers_qwen2, words, words_dir
):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(words_dir)
    for wrapped, own in (
        (TextTokenizer.from_transformers(theirs), words),
        (TextTokenizer.from_transformers(transformers_qwen2), qwen2),
    ):
        assert wrapped.control_ids == own.control_ids
        assert wrapped.stop_ids == own.stop_ids
        messages = [{"role": "user", "content": "x"}]
        assert wrapped.render_chat(messages) == own.render_chat(messages)
        text = "Which code belongs to <think> the é?"
        assert wrapped.encode(text) == own.encode(text)
    with pytest.raises(PolicyError, match="str is not a fast tokenizer"):
        TextTokenizer.from_transformers("gpt2")


def test_words(words):
    assert {words.decode([i]) for i in words.format_ids} == {
        *word_tokenizer.FORMAT_TAGS
    }
    assert words.control_ids > words.format_ids
    assert words.decode(words.encode_control("<check>yes</check>")) == (
        "<check>yes</check>"
    )
    assert len(words.encode_control("<check>yes</check><|im_end|>")) == 4
    assert len(words.encode("<check>")) == 7  # letters


def test_ids_without_a_string_give_replacement_characters(words):
    ids = words.encode("the é")
    assert words.decode([]) == ""
    assert words.decode([*ids, words.vocab_size]) == "the é\ufffd"
    mixed = [10**6, *ids, -1, 10**9, *ids]
    assert words.decode(mixed) == "\ufffdthe é\ufffd\ufffdthe é"
    assert words.decode(words.encode("é")[:1]) == "\ufffd"


def test_offsets_count_characters_of_the_text_before_normalisation(qwen2):
    text = "e\u0301 \u2126x"  # NFC makes one character of two, and another of one
    ids, spans = qwen2.encode_with_offsets(text)
    assert qwen2.decode(ids) == "é Ωx"
    # The two tokens of one character both have its place.
    assert [text[a:b] for a, b in spans] == ["e", " \u2126", "\u2126", "x"]


# -- other directories ---------------------------------------------------------------


def word_level(**changes):
    """The smallest tokenizer.json there is."""
    vocab = {"a": 0, "b": 1, "<unk>": 2, "<eos>": 3}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": 2, "content": "<unk>", "special": True, **flags},
        {"id": 3, "content": "<eos>", "special": True, **flags},
    ]
    data = {
        "version": "1.0",
        "truncation": {
            "direction": "Right",
            "max_length": 2,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    }
    return {**data, **changes}


def tokenizer(data, template=CHATML, **kwargs):
    kwargs = {"special_tokens": {"eos_token": "<eos>"}, **kwargs}
    return TextTokenizer(data, template=template, **kwargs)


def test_word_level_and_its_unknown_token():
    encoder = tokenizer(word_level())
    assert encoder.encode("a b a b") == [0, 1, 0, 1]  # not truncated
    assert encoder.control_ids == {2, 3}
    with pytest.raises(InputError, match="characters 2 to 3, 'x', have no token"):
        encoder.encode("a x")
    with pytest.raises(InputError, match="characters 2 to 3, '<'"):
        encoder.encode("a <eos>")


def test_lone_surrogates_are_no_text(words):
    with pytest.raises(InputError, match=r"character 2 is the lone surrogate U\+D83D"):
        words.encode("a \ud83d b")


def test_stop_ids_from_every_source():
    data = word_level()
    data["model"]["vocab"] |= {"<end>": 4, "<other>": 5}
    template = (
        "{% for m in messages %}{{ m.content }}"
        "{% if m.role == 'assistant' %}<end>{% endif %}{% endfor %}"
    )
    # <end> is used by the template, though nothing lists it; <other> by nothing.
    encoder = tokenizer(data, template, stop_ids=(5, 99))
    assert encoder.stop_ids == (5, 3)
    assert 4 not in encoder.control_ids  # not in what a prompt renders to
    flags = {**data["added_tokens"][0], "id": 4, "content": "<end>", "special": False}
    data["added_tokens"] = [*data["added_tokens"], flags]
    assert tokenizer(data, template).stop_ids == (3, 4)
    no_eos = tokenizer(data, template, special_tokens={})
    assert no_eos.stop_ids == (4,)
    with pytest.raises(PolicyError, match="no token that ends a completion"):
        tokenizer(data, "{{ messages[0].content }}", special_tokens={})


def test_added_tokens_keep_their_ids_when_control_tokens_leave():
    data = word_level()
    flags = data["added_tokens"][0]
    data["added_tokens"] += [
        {**flags, "id": 4, "content": "<tool>", "special": False},
        {**flags, "id": 5, "content": "word", "special": False},  # text
    ]
    encoder = tokenizer(data)
    assert encoder.control_ids == {2, 3, 4}
    assert encoder.encode("a word b") == encoder.encode_control("a word b") == [0, 5, 1]


def test_without_a_template():
    encoder = tokenizer(word_level(), template=None)
    assert encoder.encode("a") == [0]
    with pytest.raises(PolicyError, match="no chat template; add a chat_template"):
        encoder.render_chat([{"role": "user", "content": "a"}])


@pytest.fixture
def directory(tmp_path, words_dir):
    shutil.copytree(words_dir, tmp_path, dirs_exist_ok=True)
    return tmp_path


def edit(path, **changes):
    data = json.loads(path.read_text(encoding="utf-8"))
    data |= changes
    path.write_text(json.dumps(data), encoding="utf-8")


def test_a_template_file_goes_before_the_configuration(directory):
    (directory / "chat_template.jinja").write_text("[{{ messages[0].content }}]")
    encoder = TextTokenizer.from_pretrained(directory)
    assert encoder.render_chat([{"role": "user", "content": "x"}]) == "[x]"


def test_several_templates(directory):
    path = directory / "tokenizer_config.json"
    named = [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "<{{ messages[0].content }}>"},
    ]
    edit(path, chat_template=named)
    encoder = TextTokenizer.from_pretrained(directory)
    assert encoder.render_chat([{"role": "user", "content": "x"}]) == "<x>"


def test_tokens_that_only_the_configuration_adds(directory):
    before = TextTokenizer.from_pretrained(directory)
    new = {"content": "<extra>", "special": True}
    edit(
        directory / "tokenizer_config.json",
        added_tokens_decoder={str(before.vocab_size): new},
        eos_token={"content": "<|im_end|>", "special": True},
    )
    encoder = TextTokenizer.from_pretrained(directory)
    assert encoder.control_ids - before.control_ids == {before.vocab_size}
    assert encoder.encode_control("<extra>") == [before.vocab_size]
    assert encoder.control_ids.isdisjoint(encoder.encode("<extra>"))
    assert encoder.stop_ids == before.stop_ids


def test_generation_config_names_stop_ids(directory):
    path = directory / "generation_config.json"
    (end,) = TextTokenizer.from_pretrained(directory).stop_ids
    path.write_text(f'{{"eos_token_id": [3, {end}]}}')
    assert TextTokenizer.from_pretrained(directory).stop_ids == (3, end)
    path.write_text('{"eos_token_id": 5}')
    assert TextTokenizer.from_pretrained(directory).stop_ids == (5, end)


UNIGRAM = {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "no tokenizer.json; save it with AutoTokenizer"),
        ("tokenizer.json", "{", r"tokenizer\.json"),
        ("tokenizer.json", b"\xff\xfe", r"tokenizer\.json"),
        ("tokenizer.json", "[]", r"tokenizer\.json.*object"),
        ("tokenizer.json", "{}", r"tokenizer\.json.*is broken: KeyError"),
        ("tokenizer.json", "[" * 100_000, r"tokenizer\.json"),
        ("tokenizer.json", word_level(model=UNIGRAM), "vocabulary of words or byte"),
        ("tokenizer.json", word_level(model={}), "tokenizer"),
        ("tokenizer.json", word_level(pre_tokenizer={"type": "?"}), "cannot be used"),
        ("tokenizer.json", word_level(added_tokens=[{}]), "is broken: KeyError"),
        ("tokenizer.json", word_level(added_tokens=None), "is broken: TypeError"),
        (
            "tokenizer.json",
            word_level(added_tokens=[{**word_level()["added_tokens"][0], "id": 7}]),
            "added token '<unk>' has id 7 in its list, but 2 in the vocabulary",
        ),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json"),
        ("tokenizer_config.json", "3", r"tokenizer_config\.json.*object"),
        ("tokenizer_config.json", {"chat_template": 3}, "chat_template must be text"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {}}}, "is broken"),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "is broken"),
        ("tokenizer_config.json", {}, "no token that ends a completion"),
        ("generation_config.json", "[1]", r"generation_config\.json.*object"),
    ],
)
def test_broken_files_are_named(directory, name, content, message):
    path = directory / name
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(PolicyError, match=message) as caught:
        TextTokenizer.from_pretrained(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"],
)
def test_what_is_no_file_is_never_opened(directory, name):
    path = directory / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)  # to open it would hang
    with pytest.raises(PolicyError, match=f"{name}: expected a regular file"):
        TextTokenizer.from_pretrained(directory)


def test_a_directory_that_does_not_exist(tmp_path):
    with pytest.raises(PolicyError, match="nowhere"):
        TextTokenizer.from_pretrained(tmp_path / "nowhere")
