"""launch/local_multi.sh with a fake gru-mem: words, devices, signals, statuses."""

import os
import re
import signal
import subprocess
import time

import pytest
from launch_scripts import HARD, LAUNCH, commands, launch, program, recorded, recorder


@pytest.fixture
def fake(bare_path, tmp_path):
    """Makes a fake gru-mem that does `then`, where $id is its number."""

    def make(then):
        recorder(
            bare_path, "gru-mem", f'echo "out $XLA_FLAGS"; id="${{@: -1}}"; {then}'
        )
        return {"GRU_MEM": str(bare_path / "gru-mem"), "TMPDIR": str(tmp_path)}

    return make


def test_words_and_devices(fake, bare_path):
    env = fake("exit 0") | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_other=1"
    }
    words = ["--processes", "3", "--devices", "4", *HARD]
    done = launch("local_multi.sh", *words, env=env, path=bare_path)
    assert done.stdout == "out --xla_other=1 --xla_force_host_platform_device_count=4\n"
    calls = sorted(recorded(bare_path, "gru-mem"))
    assert [call[: len(HARD)] for call in calls] == [HARD] * 3
    told = [dict(zip(call[len(HARD) :: 2], call[len(HARD) + 1 :: 2])) for call in calls]
    assert [each.pop("--process_id") for each in told] == ["0", "1", "2"]
    assert told[0] == told[1] == told[2]
    assert told[0]["--num_processes"] == "3"
    assert re.fullmatch(r"127\.0\.0\.1:\d+", told[0]["--coordinator"])


def test_gpus_are_split(bare_path):
    program(bare_path, "nvidia-smi", "#!/bin/bash\nprintf '%s\\n' 0 1 2 3\n")

    def devices(*words, **env):
        words = [*words, "--dry-run", "train"]
        done = launch("local_multi.sh", *words, env=env, path=bare_path, check=False)
        if done.returncode:
            return done.stderr
        return [command.words[1] for command in commands(done)]

    assert devices() == ["CUDA_VISIBLE_DEVICES=0,1", "CUDA_VISIBLE_DEVICES=2,3"]
    assert devices("--devices", "1", CUDA_VISIBLE_DEVICES="5,7") == [
        "CUDA_VISIBLE_DEVICES=5",
        "CUDA_VISIBLE_DEVICES=7",
    ]
    assert devices(JAX_PLATFORMS="cpu") == ["JAX_PLATFORMS=cpu"] * 2
    assert "there are 4" in devices("--devices", "4")
    assert "there are 4" in devices("--processes", "5")


def test_the_first_failure_is_told(fake, bare_path, tmp_path):
    env = fake('if [ $id = 1 ]; then echo "bad weights"; exit 7; fi; sleep 1; exit 1')
    words = ["--log_dir", str(tmp_path / "logs"), "train"]
    done = launch("local_multi.sh", *words, env=env, path=bare_path, check=False)
    assert done.returncode == 7
    assert "process 1 failed first, with status 7" in done.stderr
    assert done.stderr.splitlines()[-1] == "bad weights"
    statuses = [(tmp_path / "logs" / f"process_{i}.status").read_text() for i in (0, 1)]
    assert statuses == ["1\n", "7\n"]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_no_process_is_left_behind(fake, bare_path, tmp_path):
    env = fake("if [ $id = 1 ]; then exit 7; fi; sleep 60 & wait")
    words = ["--grace_seconds", "1", "--log_dir", str(tmp_path / "logs"), "train"]
    done = launch("local_multi.sh", *words, env=env, path=bare_path, check=False)
    assert done.returncode == 7
    assert "1 processes did not end within 1 s: killed" in done.stderr
    assert not alive(int((tmp_path / "logs" / "process_0.pid").read_text()))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on(fake, bare_path, tmp_path, signum):
    then = "n=0; trap 'n=$((n + 1))' TERM INT; touch up$id; "
    then += "for i in 1 2 3 4 5; do sleep 0.3; done; echo got $n; [ $n = 1 ]"
    env = {"PATH": str(bare_path)} | fake(f"cd {tmp_path}; {then}")
    words = ["bash", LAUNCH / "local_multi.sh", "--log_dir", tmp_path / "logs", "train"]
    process = subprocess.Popen(words, env=env, start_new_session=True)
    while not ((tmp_path / "up0").exists() and (tmp_path / "up1").exists()):
        time.sleep(0.05)
    os.killpg(process.pid, signum)  # as a terminal does: to the script's group
    assert process.wait(timeout=20) == 0
    assert "got 1" in (tmp_path / "logs" / "process_1.log").read_text()


def test_wrong_words_are_refused(bare_path):
    for words, told in {
        (): "nothing to run",
        ("--processes", "2"): "nothing to run",
        ("ask", "--policy", "x"): "runs train, sft or eval",
        ("--procs", "2", "train"): "unknown argument --procs",
        ("--processes", "0", "train"): "whole numbers from 1",
        ("--devices", "two", "train"): "whole numbers from 1",
        ("--processes",): "--processes needs a value",
    }.items():
        done = launch("local_multi.sh", *words, path=bare_path, check=False)
        assert done.returncode == 2
        [line] = done.stderr.splitlines()
        assert told in line
