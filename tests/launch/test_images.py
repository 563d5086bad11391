"""Dockerfiles, and the program that a container starts."""

import configparser
import fnmatch
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from launch_scripts import HARD, LAUNCH, ROOT, recorded, recorder

DOCKERFILES = sorted((LAUNCH / "docker").glob("*.Dockerfile"))
each_file = pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)


def test_there_is_one_for_each_accelerator():
    assert [file.stem for file in DOCKERFILES] == ["cuda", "tpu"]


def test_dockerfiles_pass_hadolint():
    hadolint = pathlib.Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, *DOCKERFILES], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@each_file
def test_what_is_copied_is_there_and_nothing_else_is_sent(file):
    copied = []
    for line in re.findall(r"^COPY (.+) \S+$", file.read_text(), re.MULTILINE):
        copied += line.split()
    assert copied
    sent = [p for p in (ROOT / ".dockerignore").read_text().split() if p[0] == "!"]
    for path in copied:
        assert (ROOT / path).exists(), path
        assert any(fnmatch.fnmatch(path + "/", s[1:] + "/*") for s in sent), path
    assert all(any(c.startswith(s[1:]) for c in copied) for s in sent)


@each_file
def test_an_image_holds_no_secrets_and_no_root(file):
    text = file.read_text()
    assert not re.search(r"KEY|TOKEN|PASSWORD", text)
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE)[-1] == "10001"


@each_file
def test_extras_are_of_the_recipe(file):
    recipe = configparser.ConfigParser()
    recipe.read(ROOT / "setup.cfg")
    [extras] = re.findall(r"'\.\[([\w,]+)\]'", file.read_text())
    known = {"tpu": {"tpu", "gcs"}, "cuda": {"cuda12", "gcs"}}[file.stem]
    assert set(extras.split(",")) == known <= set(recipe["options.extras_require"])


# -- entrypoint.sh ---------------------------------------------------------------------


def start(bare_path, then):
    recorder(bare_path, "gru-mem", then)
    words = [str(LAUNCH / "docker" / "entrypoint.sh"), *HARD]
    return subprocess.Popen(["bash", *words], env={"PATH": str(bare_path)})


@pytest.mark.parametrize("status", [0, 1, 2])
def test_status_and_words_are_those_of_gru_mem(bare_path, status):
    assert start(bare_path, f"exit {status}").wait(timeout=10) == status
    assert recorded(bare_path, "gru-mem") == [HARD]


WAITS = "for i in 1 2 3 4 5 6; do sleep 0.5; done; exit 9"


@pytest.mark.parametrize(
    ("then", "status"),
    [
        (f"trap 'sleep 0.3; exit 0' TERM; {WAITS}", 143),  # saved, but not finished
        (f"trap 'exit 1' TERM; {WAITS}", 1),
    ],
    ids=["saved", "failed"],
)
def test_a_run_that_was_stopped_is_not_taken_for_finished(bare_path, then, status):
    process = start(bare_path, then)
    while not recorded(bare_path, "gru-mem"):
        time.sleep(0.05)
    time.sleep(0.3)  # the trap is set
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == status
