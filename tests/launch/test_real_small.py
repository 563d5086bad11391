"""launch/real_small.sh: all of its stages on a model of random weights, again, further."""

import json
import os
import pathlib
import random
import subprocess
import sys

import jax
import pytest
from launch_scripts import LAUNCH, ROOT, launch

from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.policy.hf_export import export_policy
from gru_mem_jax.tokenization import TextTokenizer

HELPER = LAUNCH / "real_small.py"
GRU_MEM = pathlib.Path(sys.executable).parent / "gru-mem"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = (
    "rain came over the river near Paris and stayed for many years in spring".split()
)


def sentence(rng):
    return " ".join(rng.choices(WORDS, k=8)).capitalize() + "."


def hotpotqa(number):
    rng = random.Random(number)
    context = [
        [f"Title {number} {i}", [sentence(rng), " " + sentence(rng)]] for i in range(4)
    ]
    context[1][1][0] = f"The tower {number} stands in city{number}."
    context[2][1][1] = f" The city{number} lies in land{number}."
    return {
        "_id": f"h{number}",
        "question": f"Where is tower {number}?",
        "answer": f"land{number}",
        "supporting_facts": [[f"Title {number} 1", 0], [f"Title {number} 2", 1]],
        "context": context,
        "type": "bridge",
        "level": "easy",
    }


def article(number):
    rng = random.Random(f"squad{number}")
    paragraphs = []
    for i in range(6):
        text = f"{sentence(rng)} It was built in year{number}{i}. {sentence(rng)}"
        answer = f"year{number}{i}"
        answers = [{"text": answer, "answer_start": text.index(answer)}]
        qas = [{"id": f"{number}{i}", "question": f"When, {i}?", "answers": answers}]
        qas.append({"id": f"{number}{i}n", "question": "Why?", "answers": []})
        paragraphs.append({"context": text, "qas": qas})
    return {"title": f"Article {number}", "paragraphs": paragraphs}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files in the official forms."""
    folder = tmp_path_factory.mktemp("files of mine")
    (folder / "hotpot.json").write_text(json.dumps(list(map(hotpotqa, range(40)))))
    data = list(map(article, range(20)))
    (folder / "squad.json").write_text(json.dumps({"version": "v2.0", "data": data}))
    return folder


@pytest.fixture(scope="module")
def model(files, tmp_path_factory):
    """SmolLM2's shape, cut small, with random weights, and a tokenizer of 600 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    needles = [
        "A special magic number is hidden within the following text. Make sure to "
        "memorize it. What is the special magic uuid mentioned in the provided text? "
        "One of the special magic numbers uuids for is: <think></think><check>yes no"
        "</check><update></update><next>end continue</next><section></section><problem>"
        "</problem><memory></memory>"
    ]
    texts = [path.read_text() for path in files.glob("*.json")]
    tokenizer.train_from_iterator(texts + needles * 50, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    encoder = TextTokenizer.from_pretrained(folder)
    policy = make_policy(
        PolicyConfig(
            family="llama",
            vocab_size=encoder.vocab_size,
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=1,
            max_position_embeddings=4096,
            eos_token_ids=encoder.stop_ids,
        )
    )
    target = tmp_path_factory.mktemp("policy") / "model"
    names = ["tokenizer.json", "tokenizer_config.json"]
    export_policy(
        policy,
        policy.init(jax.random.key(0)),
        target,
        tokenizer_files=[folder / name for name in names],
    )
    return target


@pytest.fixture(scope="module")
def run(files, model, tmp_path_factory):
    """Runs the script; gives what it printed and its folder."""
    out = tmp_path_factory.mktemp("out") / "real small"
    programs = str(tmp_path_factory.mktemp("programs"))

    def start(*words, check=True):
        environment = {
            **{k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
            "GRU_MEM": str(GRU_MEM),
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
            "GRU_MEM_CACHE_DIR": programs,
        }
        words = ["--hotpotqa", str(files / "hotpot.json"), *words, "--quick"]
        words += ["--squad", str(files / "squad.json"), "--model", str(model)]
        done = subprocess.run(
            ["bash", str(LAUNCH / "real_small.sh"), *words, "--out", str(out)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert not check or done.returncode == 0, done.stderr[-4000:]
        return done

    return start, out


def stages(done):
    """The names of the stages that ran."""
    return [
        line.removeprefix("== ")
        for line in done.stderr.splitlines()
        if line.startswith("== ")
    ]


def test_all_stages_then_none_then_more_steps(run):
    start, out = run
    first = start()
    ran = stages(first)
    assert len(ran) == len(set(ran))
    for name in ("before", "constrained", "sft", "rl", "memagent", "early_rl"):
        assert f"evaluate_{name}" in ran
    table = (out / "table.txt").read_text()
    for word in ("single key", "multi key", "squad", "hotpotqa", "early"):
        assert word in table
    for policy in ("before", "constrained", "sft", "rl", "memagent"):
        assert policy in table
    assert "mean" not in table
    assert (out / "page/report.html").stat().st_size > 100_000
    assert list((out / "runs/rl/plots").glob("*.png"))
    hours = (out / "hours.txt").read_text().splitlines()
    assert "estimate, h" in hours[0]
    assert not any(line.endswith("-") for line in hours)
    # A stage that is done is passed over.
    again = start()
    assert not stages(again)
    assert (out / "table.txt").read_text() == table
    # More steps go further; what was made of fewer is made again.
    more = start("--steps", "3")
    assert stages(more) == ran[ran.index("sft") :]
    rows = (out / "runs/sft/metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [0, 1, 2, 3]
    policies = {"before", "constrained", "sft", "rl", "memagent"}
    assert {path.name for path in (out / "policies").iterdir()} == policies


def test_texts_are_parted_by_paragraph(files, tmp_path):
    words = [files / "hotpot.json", files / "squad.json", tmp_path]
    subprocess.run([sys.executable, HELPER, "texts", *words], check=True)
    assert (tmp_path / "counts").read_text() == "40 120\n"
    train, held_out = (
        set((tmp_path / f"{name}.txt").read_text().split("\n\n"))
        for name in ("train", "held_out")
    )
    assert len(train | held_out) == 160
    assert not train & held_out
    assert 8 < len(held_out) < 45


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--squad", "x"], "--hotpotqa is needed"),
        (["--hotpotqa", "/x", "--squad", "/y"], "--hotpotqa: there is no file /x"),
        (["--steps", "0"], "--steps is a whole number from 1"),
        (["--format", "loose"], "--format is free or constrained"),
        (["--model", "/none"], "--model: there is no /none"),
        (["--gpus"], "--gpus"),
    ],
)
def test_what_is_refused(files, words, expected):
    given = {"--hotpotqa": files / "hotpot.json", "--squad": files / "squad.json"}
    if "--squad" not in words:
        words = [*words, *(str(word) for pair in given.items() for word in pair)]
    done = launch("real_small.sh", *words, check=False)
    assert done.returncode == 2
    assert expected in done.stderr


def test_help_says_where_the_files_come_from():
    done = launch("real_small.sh", "--help")
    assert "https://hotpotqa.github.io" in done.stdout
    assert "https://rajpurkar.github.io/SQuAD-explorer" in done.stdout
