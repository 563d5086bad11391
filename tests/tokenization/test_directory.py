"""Which file of a directory counts: as in transformers, each case loaded by both."""

import dataclasses
import json

import hub_layouts
import hub_templates
import pytest

from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.errors import PolicyError
from gru_mem_jax.policy.files import open_policy_dir, tokenizer_files
from gru_mem_jax.tokenization import TextTokenizer
from gru_mem_jax.tokenization.directory import read_parts

transformers = pytest.importorskip("transformers")

ASK = [{"role": "user", "content": "Who?"}]
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 11422654\n"
CONFIG, MAP = "tokenizer_config.json", "special_tokens_map.json"


@pytest.fixture
def llama(tmp_path):
    """Llama 3's directory: a tokenizer that transformers takes as it is."""
    hub_layouts.write("llama3_instruct", tmp_path)
    return tmp_path


def edit(path, *gone, **changes):
    data = json.loads(path.read_text()) if path.exists() else {}
    data |= changes
    for name in gone:
        del data[name]
    path.write_text(json.dumps(data))


def both(folder):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    return theirs, read_parts(open_policy_dir(folder))


def ids_and_flags(tokens):
    names = ("special", "lstrip", "rstrip", "single_word", "normalized")
    return {t["id"]: (t["content"], *(t[n] for n in names)) for t in tokens}


def check_added(theirs, parts):
    """The added tokens are transformers', ids and options."""
    expected = [
        {"id": i, "content": t.content, **t.__getstate__()}
        for i, t in theirs.added_tokens_decoder.items()
    ]
    assert ids_and_flags(parts.tokenizer["added_tokens"]) == ids_and_flags(expected)


def test_special_tokens_map_counts_without_a_decoder(llama):
    edit(llama / CONFIG, "added_tokens_decoder", pad_token="<|python_tag|>")
    edit(
        llama / MAP,
        eos_token="<|end_of_text|>",
        additional_special_tokens=["<|eom_id|>", "<new>"],
    )
    theirs, parts = both(llama)
    assert parts.special_tokens == theirs.special_tokens_map
    assert parts.special_tokens == {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "pad_token": "<|python_tag|>",
    }
    assert parts.role_files == {
        "bos_token": MAP,
        "eos_token": MAP,
        "pad_token": CONFIG,
    }
    check_added(theirs, parts)
    ours = TextTokenizer.from_parts(parts)
    (new,) = ours.encode_control("<new>")
    assert new == theirs.convert_tokens_to_ids("<new>") in ours.control_ids
    assert parts.warnings == ()


def test_special_tokens_map_does_not_count_beside_a_decoder(llama):
    edit(llama / MAP, eos_token="<|end_of_text|>")
    theirs, parts = both(llama)
    assert theirs.eos_token == parts.special_tokens["eos_token"] == "<|eot_id|>"
    (warning,) = parts.warnings
    assert warning.startswith(f"{MAP}: eos_token '<|end_of_text|>' is ignored")
    with pytest.warns(UserWarning, match="is ignored, since tokenizer_config.json"):
        TextTokenizer.from_pretrained(llama)


def test_a_role_of_null_is_none(llama):
    edit(llama / CONFIG, "added_tokens_decoder")
    edit(llama / MAP, bos_token=None)
    theirs, parts = both(llama)
    assert theirs.bos_token is None
    assert parts.special_tokens == {"eos_token": "<|eot_id|>"}


def test_options_of_the_decoder_count(llama):
    decoder = json.loads((llama / CONFIG).read_text())["added_tokens_decoder"]
    for token in decoder.values():
        if token["content"] == "<|python_tag|>":
            token |= {"special": False, "lstrip": True}
    edit(llama / CONFIG, added_tokens_decoder=decoder)
    theirs, parts = both(llama)
    check_added(theirs, parts)
    text = "a  <|python_tag|> b"
    ids = TextTokenizer.from_parts(parts).encode_control(text)
    assert ids == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("decoder", [True, False])
def test_what_has_a_role_and_no_id_gets_the_next(llama, decoder):
    gone = () if decoder else ("added_tokens_decoder",)
    edit(
        llama / CONFIG,
        *gone,
        image_token="<picture>",
        pad_token="[PAD]",
        mask_token="<hidden>",
        unk_token="<unknown>",
        extra_special_tokens=["<|eom_id|>", "<x>"],
    )
    theirs, parts = both(llama)
    check_added(theirs, parts)
    ours = TextTokenizer.from_parts(parts)
    for token in ("[PAD]", "<x>", "<picture>", "<unknown>", "<hidden>"):
        (id_,) = ours.encode_control(token)
        assert id_ == theirs.convert_tokens_to_ids(token) in ours.control_ids


def test_special_tokens_by_name(llama):
    edit(llama / CONFIG, extra_special_tokens={"image_token": "<|python_tag|>"})
    edit(llama / CONFIG, chat_template="{{ image_token }}{{ messages[0].content }}")
    theirs, parts = both(llama)
    assert parts.special_tokens == theirs.special_tokens_map
    ours = TextTokenizer.from_parts(parts)
    assert ours.render_chat(ASK) == "<|python_tag|>Who?"
    assert ours.render_chat(ASK) == theirs.apply_chat_template(ASK, tokenize=False)


def test_added_tokens_json_counts_without_a_decoder(llama):
    size = len(transformers.AutoTokenizer.from_pretrained(llama))
    edit(llama / "added_tokens.json", **{"<late>": size + 5, "word": size})
    theirs, parts = both(llama)
    check_added(theirs, parts)  # there it does not
    assert "<late>" not in {t["content"] for t in parts.tokenizer["added_tokens"]}
    edit(llama / CONFIG, "added_tokens_decoder")
    theirs, parts = both(llama)
    check_added(theirs, parts)
    text = "a word <late>"
    ours = TextTokenizer.from_parts(parts)
    expected = theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.encode_control(text) == expected
    assert expected[-1] == size + 1  # the next id, whatever is listed
    assert parts.warnings == (
        f"added token '<late>' is listed with id {size + 5} and has {size + 1}",
    )


def test_listed_control_tokens_are_control(llama):
    data = json.loads((llama / "tokenizer.json").read_text())
    added = data["added_tokens"]
    added.append(
        {**added[-1], "id": added[-1]["id"] + 1, "content": "@@", "special": 0}
    )
    added[-1]["special"] = False
    (llama / "tokenizer.json").write_text(json.dumps(data))
    assert len(TextTokenizer.from_pretrained(llama).encode("@@")) == 1
    edit(llama / CONFIG, chat_control_tokens=["@@"])
    ours = TextTokenizer.from_pretrained(llama)
    assert len(ours.encode("@@")) == 2
    assert ours.encode_control("@@")[0] in ours.control_ids


# -- templates -----------------------------------------------------------------------


def template(name):
    return f"{name}: {{{{ messages[0].content }}}}"


NAMED = [
    {"name": "tool_use", "template": template("tools")},
    {"name": "default", "template": template("named")},
]
FILES = {
    "jinja": ("chat_template.jinja", template("jinja")),
    "tools": ("additional_chat_templates/tool_use.jinja", template("tools")),
    "default": ("additional_chat_templates/default.jinja", template("default")),
    "json": ("chat_template.json", json.dumps({"chat_template": template("json")})),
}


@pytest.mark.parametrize(
    ("files", "configured", "expected"),
    [
        ((), template("config"), "config"),
        (("jinja",), template("config"), "jinja"),
        (("jinja", "tools"), template("config"), "jinja"),
        (("jinja", "default"), None, "default"),
        (("default", "tools"), None, "default"),
        ((), NAMED, "named"),
        ((), {t["name"]: t["template"] for t in NAMED}, "named"),
        (("tools",), template("config"), None),
        ((), NAMED[:1], None),
        (("json",), template("config"), "config"),
        (("json", "jinja"), None, "jinja"),
    ],
)
def test_which_template_counts(llama, files, configured, expected):
    edit(llama / CONFIG, chat_template=configured)
    for name in files:
        path = llama / FILES[name][0]
        path.parent.mkdir(exist_ok=True)
        path.write_text(FILES[name][1])
    theirs = transformers.AutoTokenizer.from_pretrained(llama)
    if expected is None:
        with pytest.raises(ValueError, match="template"):
            theirs.apply_chat_template(ASK, tokenize=False)
        with pytest.raises(PolicyError, match=r"none named default.*found tool_use"):
            read_parts(open_policy_dir(llama))
        return
    assert theirs.apply_chat_template(ASK, tokenize=False) == f"{expected}: Who?"
    parts = read_parts(open_policy_dir(llama))
    assert TextTokenizer.from_parts(parts).render_chat(ASK) == f"{expected}: Who?"
    others = [w for w in parts.warnings if "has another chat template than" in w]
    assert len(others) == ("json" in files)
    # All of them are kept, exported and compared.
    kept = tokenizer_files(open_policy_dir(llama))
    assert {FILES[name][0] for name in files} <= kept.keys()


def test_a_template_in_chat_template_json_alone(llama):
    edit(llama / CONFIG, "chat_template")
    file, text = FILES["json"]
    (llama / file).write_text(text)
    parts = read_parts(open_policy_dir(llama))
    assert parts.template_file == file
    assert TextTokenizer.from_parts(parts).render_chat(ASK) == "json: Who?"
    (llama / file).write_text(json.dumps({"chat_template": NAMED}))
    assert TextTokenizer.from_pretrained(llama).render_chat(ASK) == "named: Who?"
    (llama / file).write_text('{"chat_template": 3}')
    with pytest.raises(PolicyError, match=r"chat_template\.json: .* must be text"):
        TextTokenizer.from_pretrained(llama)


def test_templates_that_want_content_parts(llama):
    edit(llama / CONFIG, chat_template=hub_templates.PARTS_ONLY)
    theirs = transformers.AutoTokenizer.from_pretrained(llama)
    ours = TextTokenizer.from_pretrained(llama)
    assert ours.content_parts
    listed = [{"role": "user", "content": [{"type": "text", "text": "Who?"}]}]
    expected = theirs.apply_chat_template(
        listed, tokenize=False, add_generation_prompt=True
    )
    assert ours.render_chat(ASK) == expected
    assert "Who?" in expected
    PromptBuilder(ours)  # shows question, memory and chunk once each
    refuses = "{% if m is string %}{{ raise_exception('a list') }}{% endif %}"
    refuses = refuses.replace("m is", "messages[0].content is")
    edit(llama / CONFIG, chat_template=refuses + hub_templates.PARTS_ONLY)
    ours = TextTokenizer.from_pretrained(llama)
    assert ours.content_parts
    assert ours.render_chat(ASK) == expected
    # What takes both is given text, and what fails for both says why.
    edit(llama / CONFIG, chat_template=hub_templates.GEMMA_3)
    assert not TextTokenizer.from_pretrained(llama).content_parts
    edit(llama / CONFIG, chat_template="{{ raise_exception('never') }}")
    with pytest.raises(PolicyError, match=r"the chat template fails: .*never"):
        TextTokenizer.from_pretrained(llama)


# -- stops, and files that are not what they seem ------------------------------------


def test_stops_of_the_files(llama):
    def stops():
        parts = read_parts(open_policy_dir(llama))
        return parts.stop_ids, parts.stop_file

    ids = json.loads((llama / "config.json").read_text())["eos_token_id"]
    edit(llama / "generation_config.json", eos_token_id=7)
    assert stops() == ((7,), "generation_config.json")
    assert transformers.GenerationConfig.from_pretrained(llama).eos_token_id == 7
    (llama / "generation_config.json").unlink()
    assert stops() == (tuple(ids), "config.json")
    edit(llama / "config.json", "eos_token_id", text_config={"eos_token_id": 8})
    assert stops() == ((8,), "config.json")
    edit(llama / "config.json", text_config={"eos_token_id": True})
    assert stops() == ((), None)


SMALL = ("tokenizer.json", CONFIG, MAP, "generation_config.json", "config.json")
SMALL += ("chat_template.jinja", "chat_template.json")


def test_byte_order_marks_change_nothing(llama):
    edit(llama / CONFIG, "added_tokens_decoder")
    (llama / "chat_template.jinja").write_text(hub_templates.SMOLLM_2)
    (llama / "chat_template.json").write_text(FILES["json"][1])
    before, kept = both(llama)[1], tokenizer_files(open_policy_dir(llama))
    for name in SMALL:
        path = llama / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_parts(open_policy_dir(llama)) == before
    assert "\ufeff" not in before.template
    assert tokenizer_files(open_policy_dir(llama)) == kept


@pytest.mark.parametrize("name", SMALL)
def test_pointers_of_git_lfs_are_named(llama, name):
    (llama / name).write_text(LFS)
    edit(llama / CONFIG, "added_tokens_decoder") if name == MAP else None
    with pytest.raises(PolicyError, match=f"{name}: a Git LFS pointer.*git lfs pull"):
        TextTokenizer.from_pretrained(llama)


@pytest.mark.parametrize("name", ["tokenizer.model", "tekken.json"])
def test_other_forms_of_tokenizers_are_to_be_converted(llama, name):
    (llama / "tokenizer.json").unlink()
    (llama / name).write_bytes(b"\n\x0e")
    with pytest.raises(
        PolicyError, match=rf"no tokenizer\.json; {name} is there.*save"
    ):
        TextTokenizer.from_pretrained(llama)


# -- classes that take only words ----------------------------------------------------

TEXT = "1. a\n\n2. b\n\n 13 c  7\n\n\n2024\t5\nIt's caf\u00e9 e\u0301 \u4e16 the birds "
NAMED_CLASSES = (None, "PreTrainedTokenizerFast", "Qwen2Tokenizer", "GPT2Tokenizer")
NAMED_CLASSES += ("LlamaTokenizerFast", "GemmaTokenizer")


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "mistral", "gemma3_text"])
@pytest.mark.parametrize("name", ["smollm2", "mistral_v1"])
def test_the_class_that_counts(tmp_path, name, kind):
    """Whatever a directory names: ids are those of what transformers makes of it."""
    layout = hub_layouts.write(name, tmp_path)
    edit(tmp_path / "config.json", model_type=kind)
    config = layout.files[CONFIG] | {"chat_template": None, "legacy": False}
    del config["unk_token"], config["eos_token"]
    made = set()
    for named in NAMED_CLASSES:
        changes = {} if named is None else {"tokenizer_class": named}
        (tmp_path / CONFIG).write_text(json.dumps(config | changes))
        if named is None:
            edit(tmp_path / CONFIG, "tokenizer_class")
        theirs, parts = both(tmp_path)
        made.add(type(theirs).__name__)
        if type(theirs).__name__ == "GemmaTokenizer" and name == "smollm2":
            continue  # wants an unknown token, and fails without
        ours = TextTokenizer.from_parts(dataclasses.replace(parts, stop_ids=(1,)))
        assert parts.special_tokens.items() <= theirs.special_tokens_map.items(), named
        for text in (TEXT, f"{TEXT}<s>{TEXT}<|im_end|>{TEXT}"):
            expected = theirs(text, add_special_tokens=False)["input_ids"]
            assert ours.encode_control(text, start=True) == expected, named
    assert len(made) > 1 or kind in ("qwen2", "mistral")


# -- Mistral's split -------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*splits text differently")
def test_the_wrong_split_of_mistral_is_told_and_mended(tmp_path):
    layout = hub_layouts.write("mistral_tekken", tmp_path)
    data = json.loads(json.dumps(layout.tokenizer))
    right = data["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    data["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\p{L}+|\P{L}"}
    vocab = data["model"]["vocab"]
    for i in range(100_001 - len(vocab)):
        vocab[f"filler{i}"] = len(vocab)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    text = " theThere THE/"
    theirs, parts = both(tmp_path)
    assert "fix_mistral_regex" in "".join(parts.warnings)
    wrong = theirs(text, add_special_tokens=False)["input_ids"]
    assert TextTokenizer.from_parts(parts).encode(text) == wrong
    edit(tmp_path / CONFIG, fix_mistral_regex=True)
    theirs, parts = both(tmp_path)
    assert parts.warnings == ()
    mended = TextTokenizer.from_parts(parts).encode(text)
    assert mended == theirs(text, add_special_tokens=False)["input_ids"] != wrong
    # The right one is not warned of, here.
    edit(tmp_path / CONFIG, "fix_mistral_regex")
    data["pre_tokenizer"]["pretokenizers"][0]["pattern"] = right
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert read_parts(open_policy_dir(tmp_path)).warnings == ()
    assert TextTokenizer.from_pretrained(tmp_path).encode(text) == mended
