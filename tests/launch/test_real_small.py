"""launch/real_small.sh: its stages, with a fake gru-mem and with a model cut small."""

import json
import os
import pathlib
import random
import shutil
import subprocess
import sys

import jax
import pytest
from launch_scripts import LAUNCH, ROOT, launch, program

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
WORDS = ["rain", "came", "over", "the", "river", "near", "Paris", "and", "stayed"]


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
    """SmolLM2's shape cut small, random weights, and a tokenizer of 600 tokens."""
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


def words_of(files, model, out, *more):
    given = {"hotpotqa": files / "hotpot.json", "squad": files / "squad.json"}
    given |= {"model": model, "out": out}
    return [*(f"--{name}={value}" for name, value in given.items()), *more]


def stages(done):
    """The names of the stages that ran."""
    return [
        line.removeprefix("== ")
        for line in done.stderr.splitlines()
        if line.startswith("== ")
    ]


FAKE = r"""#!/bin/bash
printf '%s\n' "$*" >>"$CALLS"
if [ -n "$FAILS" ] && [[ "$*" == *"$FAILS"* ]]; then exit 1; fi
if [ "$1" = report ]; then exit 0; fi
while [ $# -gt 0 ]; do
  case "$1" in
    --out | --run_dir) folder="$2" ;;
    --json) echo "$FIGURES" >"$2" ;;
    --gin.NUM_STEPS=*) step="${1#*=}" ;;
  esac
  shift
done
if [ -n "$folder" ]; then
  [ -n "$step" ] || [ ! -e "$folder" ] || { echo "$folder exists" >&2; exit 2; }
  mkdir -p "$folder"
  [ -z "$step" ] || echo "{\"step\": ${STOPS:-$step}}" >>"$folder/metrics.jsonl"
fi
"""
FIGURES = {
    "prefill_tokens_per_s": 600.0,
    "decode_tokens_per_s": 200.0,
    "compile_seconds": 60.0,
    "row_tokens": 896,
    "shared": {"rows": 2, "update_seconds": 6.0, "score_seconds": 2.0},
}


@pytest.fixture
def fake(files, tmp_path):
    """Runs the script with a fake gru-mem; gives what it printed and the calls."""
    tools = tmp_path / "tools"
    tools.mkdir()
    program(tools, "gru-mem", FAKE)
    (tools / "python").symlink_to(sys.executable)
    calls, out = tmp_path / "calls", tmp_path / "out of mine"

    def start(*more, **env):
        calls.write_text("")
        env |= {"GRU_MEM": str(tools / "gru-mem"), "CALLS": str(calls)}
        env |= {"JAX_PLATFORMS": "cpu", "FIGURES": json.dumps(FIGURES)}
        words = words_of(files, tmp_path, out, *more)
        done = launch("real_small.sh", *words, env=env, check=False)
        return done, calls.read_text().splitlines()

    return start, out


def test_what_is_done_is_passed_over_and_more_steps_go_further(fake, files):
    start, out = fake
    done, calls = start()
    assert done.returncode == 0, done.stderr
    assert len([call for call in calls if call.startswith("data build")]) == 11
    asked = [call for call in calls if call.startswith("eval ")]
    assert len(asked) == 7
    trained = [call for call in calls if call.startswith(("sft ", "train "))]
    assert [call.split()[-1] for call in trained] == [
        "runs/sft",
        "runs/rl",
        "runs/memagent",
    ]
    moved = shutil.copytree(files, out.parent / "moved")
    again, tail = start(f"--squad={moved / 'squad.json'}")
    assert again.returncode == 0
    assert [call.split()[0] for call in tail] == ["plot"] * 3 + ["report"]
    assert not stages(again)
    more, calls = start("--steps", "500")
    assert more.returncode == 0, more.stderr
    ran = stages(more)
    assert (ran[0], ran[-1]) == ("sft", "evaluate_early_memagent")
    assert "evaluate_constrained" not in ran
    rows = (out / "runs/sft/metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [200, 500]  # not begun anew
    # The reinforcement begins with another policy.
    assert len((out / "runs/rl/metrics.jsonl").read_text().splitlines()) == 1


def test_more_questions_are_asked_of_what_was_trained(fake):
    start, _ = fake
    done, calls = start()
    assert done.returncode == 0, done.stderr
    early = [call for call in calls if "--data sets/held_out/early" in call]
    assert len(early) == 2
    assert all("--num_questions 50" in call for call in early)
    others = [call for call in calls if "real_small_questions.gin" in call]
    assert len(others) == 5
    for call in others:
        assert {"--gin.NUM_QUESTIONS=100", "--gin.NUM_NEEDLES=50"} <= set(call.split())
        half = "--gin.NUM_QUESTIONS=50 --gin.NUM_NEEDLES=25" in call
        assert half == ("policies/before" in call)  # the last binding of a name holds
    # What matters most comes first.
    asked = [line for line in stages(done) if line.startswith("evaluate_")]
    order = ["sft", "rl", "memagent", "before", "constrained", "early_rl"]
    assert asked == [f"evaluate_{name}" for name in [*order, "early_memagent"]]
    again, _ = start("--questions", "120")
    assert again.returncode == 0, again.stderr
    assert stages(again) == asked
    # An evaluation begun with other words begins anew, and only that.
    again, _ = start("--questions", "120", "--", "--gin.questions/SLOTS=5")
    assert stages(again) == asked[:5]


def test_settings_go_where_they_are_for(fake):
    start, _ = fake
    words = ["sft/ROWS=3", "rl/GROUP_SIZE=8", "questions/SLOTS=5", "CHUNK_SIZE=90"]
    done, calls = start("--", *(f"--gin.{word}" for word in words))
    assert done.returncode == 0, done.stderr
    for call in calls:
        said = call.split()
        command = said[0]
        assert ("--gin.ROWS=3" in said) == (command == "sft")
        assert ("--gin.GROUP_SIZE=8" in said) == (command == "train")
        if command in ("sft", "train", "eval"):
            assert "--gin.CHUNK_SIZE=90" in said
        if said[:3] == ["data", "build", "ruler"]:
            assert said[said.index("--chunk_size") + 1] == "90"
    assert sum("--gin.SLOTS=5" in call for call in calls) == 5
    done, _ = start("--", "--num_steps=3")
    assert done.returncode == 2
    assert "after -- come settings" in done.stderr


def test_a_stage_that_fails_or_is_stopped_is_gone_on_with(fake):
    start, _ = fake
    failed, _ = start(FAILS="policies/sft --gin")
    assert failed.returncode == 1
    assert stages(failed)[-1] == "evaluate_sft"
    # A run that SIGTERM stops is saved and has status 0.
    stopped, _ = start(STOPS="7")
    assert stopped.returncode == 130
    assert stages(stopped) == ["evaluate_sft", "rl"]
    assert "the same command goes on" in stopped.stderr
    whole, _ = start()
    assert whole.returncode == 0, whole.stderr
    assert stages(whole)[0] == "rl"


def test_the_hours_are_told_before_anything_is_asked(fake):
    start, out = fake
    done, calls = start("--estimate", "--steps", "300")
    assert done.returncode == 0, done.stderr
    assert not [call for call in calls if call.startswith(("eval", "sft"))]
    lines = (out / "hours.txt").read_text().splitlines()[1:]
    told = dict(line.split()[:2] for line in lines if not line.startswith("model"))
    # By hand: 300 steps of 4 rows of 3 s each, a minute of compiling, and 8 times 50
    # rows of held-out turns of 1 s and the turns of 16 questions, at half the rates.
    watched = 80 * (27 + 30 + 21) / 300 + 32 * 200 / 300 + 80 * 49 / 100
    seconds = 300 * 4 * 3 + 60 + 8 * (50 + watched)
    assert float(told["sft"]) == pytest.approx(seconds / 3600, abs=0.006)
    # 50 + 50 + 100 + 100 questions to 8, 8, 6 and 7.7 chunks, of which four share those
    # of several keys and of SQuAD; then answers.
    prompts = (2170 + 300) * 78 + 1420 * 200
    seconds = prompts / 300 + (2170 * 35 + 300 * 22) / 100 + 60
    assert float(told["evaluate_memagent"]) == pytest.approx(seconds / 3600, abs=0.006)
    parts = [float(value) for name, value in told.items() if name != "all"]
    assert float(told["all"]) == pytest.approx(sum(parts), abs=0.06)


@pytest.mark.slow
def test_all_stages_with_a_model_cut_small(files, model, tmp_path):
    out = tmp_path / "real small"
    environment = {
        **{name: v for name, v in os.environ.items() if name != "XLA_FLAGS"},
        "GRU_MEM": str(GRU_MEM),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "GRU_MEM_CACHE_DIR": str(tmp_path / "programs"),
    }

    def start():
        done = subprocess.run(
            ["bash", LAUNCH / "real_small.sh", *words_of(files, model, out, "--quick")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=1800,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done

    first = start()
    ran = stages(first)
    assert len(ran) == len(set(ran))
    table = (out / "table.txt").read_text()
    for word in ("single key", "multi key", "squad", "hotpotqa", "early"):
        assert word in table
    policies = {"before", "constrained", "sft", "rl", "memagent"}
    assert {path.name for path in (out / "policies").iterdir()} == policies
    assert all(policy in table for policy in policies)
    assert (out / "page/report.html").stat().st_size > 100_000
    assert list((out / "runs/rl/plots").glob("*.png"))
    hours = (out / "hours.txt").read_text().splitlines()
    assert not any(line.endswith("-") for line in hours)
    assert not stages(start())
    assert (out / "table.txt").read_text() == table


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
