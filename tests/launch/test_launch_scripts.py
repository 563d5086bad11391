"""What all launch scripts share: arguments, secrets, dry runs without tools."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest
from launch_scripts import (
    HARD,
    LAUNCH,
    ROOT,
    SCRIPTS,
    TRAIN,
    WORDS,
    commands,
    dry_run,
    launch,
    program,
    start_words,
)

each_script = pytest.mark.parametrize("script", SCRIPTS)


@pytest.fixture
def refusal(bare_path):
    """Gives the line with which a script refuses words."""
    for name in ("gcloud", "kubectl", "sbatch"):
        program(bare_path, name, "#!/bin/bash\necho called\n")
    return lambda script, *words: refused(script, *words, path=bare_path)


def refused(script, *words, path):
    done = launch(script, *words, path=path, check=False)
    assert done.returncode == 2, done.stdout
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith(f"{script}: ")
    return line


def test_each_start_script_is_tested():
    named = re.compile(r"^VALUES=", re.MULTILINE)
    scripts = {p.name for p in LAUNCH.glob("*.sh") if named.search(p.read_text())}
    assert scripts == {*SCRIPTS, "local_multi.sh", "real_small.sh", "reading.sh"}


def test_scripts_pass_shellcheck():
    scripts = [*LAUNCH.rglob("*.sh"), ROOT / ".ci" / "run"]
    assert len(scripts) > 8
    shellcheck = pathlib.Path(sys.executable).parent / "shellcheck"
    done = subprocess.run(
        [shellcheck, "--external-sources", "--source-path=SCRIPTDIR", *scripts],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@each_script
def test_a_dry_run_needs_no_tools(script, bare_path):
    done = launch(script, *start_words(script), path=bare_path)
    assert done.stderr == ""
    assert commands(done)


@each_script
def test_a_start_without_tools_says_what_is_missing(script, bare_path):
    done = launch(
        script, *WORDS[script].split(), "--", *TRAIN, path=bare_path, check=False
    )
    assert done.returncode == 2
    assert re.search(r"(gcloud|sbatch) is not installed", done.stderr)


@each_script
def test_wrong_words_are_refused(script, refusal):
    given = WORDS[script].split()
    assert "unknown argument --nmae" in refusal(script, "--nmae", "q7")
    assert "unknown argument train" in refusal(script, *given, "train")
    assert "--name needs a value" in refusal(script, "--name")
    assert "--name is needed" in refusal(script, *given[2:])
    assert "--run_dir is needed" in refusal(script, *given[:-2], "--dry-run")
    assert "at most 28" in refusal(script, *given, "--name", "Q 7", "--", *TRAIN)
    assert "give the words of gru-mem" in refusal(script, *given)
    assert "comes train or sft, not ask" in refusal(script, *given, "--", "ask")
    assert "give --run_dir before --" in refusal(
        script, *given, "--", *TRAIN, "--run_dir", "x"
    )


@each_script
def test_a_relative_run_folder_is_refused(script, refusal):
    given = [*WORDS[script].split(), "--run_dir", "runs/q7", "--", *TRAIN]
    assert re.search("begin with gs://|an absolute path", refusal(script, *given))


@each_script
def test_help_tells_every_flag(script):
    source = (LAUNCH / script).read_text()
    flags = re.findall(r'^(?:VALUES|SWITCHES)="([^"]*)"', source, re.MULTILINE)
    told = launch(script, "--help").stdout
    assert "--dry-run" in told
    for flag in " ".join(flags).split():
        assert f"--{flag}" in told, flag


@each_script
def test_secrets_are_on_no_command_line(script, env_file):
    keys = {"WANDB_API_KEY": "key-of-environment", "HF_TOKEN": "hf-of-environment"}
    done = launch(script, *start_words(script, "--env_file", str(env_file)), env=keys)
    told = done.stdout + done.stderr
    assert env_file.name.partition(" ")[0] in told  # the file is used
    secret = [*keys.values(), "0123456789abcdef", "secret-too", "WANDB", "HF_TOKEN"]
    assert [text for text in secret if text in told] == []


@each_script
def test_secrets_are_refused_where_others_see_them(script, env_file, refusal):
    given = WORDS[script].split()
    env_file.chmod(0o644)
    words = [*given, "--env_file", str(env_file), "--", *TRAIN]
    assert "chmod 600 it" in refusal(script, *words)
    assert "no such file" in refusal(script, *given, "--env_file", "x", "--", *TRAIN)
    for word in ["WANDB_API_KEY=1", f"--gin.X='hf_{'a1' * 17}'"]:
        line = refusal(script, *given, "--", "train", word)
        assert "give --env_file" in line
        assert word not in line


# -- gcloud's flags --------------------------------------------------------------------

# Newer than the gcloud whose table of flags may be here.
NEWER = {"--target-size-policy-mode"}
SDK = pathlib.Path("/usr/lib/google-cloud-sdk/data/cli/gcloud_completions.py")


@pytest.mark.skipif(not SDK.exists(), reason="gcloud's table of flags is not here")
def test_gcloud_has_the_flags(env_file):
    spec = importlib.util.spec_from_file_location("gcloud_completions", SDK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = []
    for script in SCRIPTS[:3]:
        more = ["--env_file", str(env_file), "--data", "gs://b/d"]
        found += dry_run(script, *more, "--service_account", "me", words=HARD[:1])
        for what in ("--logs", "--delete", "--resume"):
            found += dry_run(script, *more, what)
    found = [c.words[1:] for c in found if c.words[0] == "gcloud"]
    assert len(found) > 15
    for words in found:
        tree = module.STATIC_COMPLETION_CLI_TREE
        known = set(tree["flags"])
        rest = list(words)
        while rest and rest[0] in tree.get("commands", {}):
            tree = tree["commands"][rest.pop(0)]
            known |= set(tree["flags"])
        assert not tree.get("commands"), words  # a whole command
        flags = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert flags <= known | NEWER, (words, flags - known)
