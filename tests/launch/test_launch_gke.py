"""The JobSet of launch/gke.sh, held to its schema; and Cluster Toolkit's command.

The schema of JobSet v1alpha2 comes from the models of kubeflow-trainer-api (PyPI), that
of a Job and its pods from kubernetes-validate (PyPI).
"""

import copy
import re
import shlex
import subprocess

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet
from launch_scripts import (
    HARD,
    ROOT,
    TRAIN,
    commands,
    dry_run,
    launch,
    of,
    recorded,
    recorder,
    start_words,
)

KUBERNETES = "1.33"
TOPOLOGIES = {  # topology: hosts, chips a host, GKE's name of the chip
    "v5p:2x2x1": (1, 4, "tpu-v5p-slice"),
    "v5p:4x4x4": (16, 4, "tpu-v5p-slice"),
    "v5p:4x8x8": (64, 4, "tpu-v5p-slice"),
    "v5e:2x4": (1, 8, "tpu-v5-lite-podslice"),
    "v5e:4x4": (4, 4, "tpu-v5-lite-podslice"),
    "v5e:16x16": (64, 4, "tpu-v5-lite-podslice"),
    "v6e:8x8": (16, 4, "tpu-v6e-slice"),
    "tpu7x:2x4x4": (8, 4, "tpu7x"),
}


def check(manifest):
    """Raises where a JobSet has a field or a type that it cannot have."""
    known = JobsetV1alpha2JobSet.from_dict(manifest).to_dict()
    assert known == manifest  # the models drop what they don't know
    for job in manifest["spec"]["replicatedJobs"]:
        whole = {"apiVersion": "batch/v1", "kind": "Job", **job["template"]}
        kubernetes_validate.validate(whole, KUBERNETES, strict=True)


def manifest_of(*more, words=TRAIN):
    found = dry_run("gke.sh", *more, words=words)
    manifest = yaml.safe_load(of(found, "kubectl").text)
    check(manifest)
    return manifest


def job_of(manifest):
    [replicated] = manifest["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def container_of(manifest):
    [container] = job_of(manifest)["template"]["spec"]["containers"]
    return container


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_the_jobset_asks_for_the_slice(topology):
    hosts, chips, accelerator = TOPOLOGIES[topology]
    manifest = manifest_of("--topology", topology)
    job = job_of(manifest)
    assert (job["parallelism"], job["completions"]) == (hosts, hosts)
    assert job["completionMode"] == "Indexed"
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology.partition(":")[2],
    }
    container = container_of(manifest)
    assert container["resources"] == {"limits": {"google.com/tpu": chips}}
    assert ("--distributed" in container["args"]) == (hosts > 1)


def test_the_jobset_starts_again_after_a_failure():
    manifest = manifest_of("--max_restarts=7", "--grace_seconds", "90")
    policy = manifest["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    assert job_of(manifest)["backoffLimit"] == 0
    # Not after input that is refused: status 2.
    [rule] = policy["rules"]
    assert rule["action"] == "FailJobSet"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    [of_pods] = job_of(manifest)["podFailurePolicy"]["rules"]
    assert of_pods["action"] == "FailJob"
    assert of_pods["onExitCodes"]["values"] == [2]
    pod = job_of(manifest)["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] == 90


def test_data_secrets_and_accounts(env_file):
    more = ["--data", "gs://b/d/e", "--service_account", "trainer", "--spot"]
    done = launch("gke.sh", *start_words("gke.sh", *more, "--env_file", str(env_file)))
    made = next(line for line in done.stdout.splitlines() if " secret " in line)
    create, apply = made.split(" | ")
    assert shlex.split(create)[5:] == [
        *["create", "secret", "generic", "q7-env", f"--from-env-file={env_file}"],
        *["--dry-run=client", "--output=yaml"],
    ]
    assert shlex.split(apply)[5:] == ["apply", "--filename=-"]
    text = next(c.text for c in commands(done) if c.text)
    manifest = yaml.safe_load(text)
    check(manifest)
    template = job_of(manifest)["template"]
    pod, container = template["spec"], container_of(manifest)
    assert pod["serviceAccountName"] == "trainer"
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert container["envFrom"] == [{"secretRef": {"name": "q7-env"}}]
    assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    assert {"name": "data", "mountPath": "/data", "readOnly": True} in (
        container["volumeMounts"]
    )
    assert pod["volumes"][1]["csi"]["volumeAttributes"] == {
        "bucketName": "b",
        "mountOptions": "implicit-dirs,only-dir=d/e",
    }


def test_words_arrive_unharmed():
    args = container_of(manifest_of(words=HARD))["args"]
    # Kubernetes reads $(NAME) as a variable and $$ as $.
    read = [re.sub(r"\$\$|\$\(\w+\)", lambda m: "$" * (m[0] == "$$"), a) for a in args]
    assert read == [*HARD, "--run_dir", "gs://b/q7", "--distributed"]


@pytest.mark.parametrize("name", ["null", "true", "on", "e1"])
def test_names_that_yaml_would_read_otherwise(name):
    assert manifest_of("--name", name)["metadata"]["name"] == name


def test_the_schema_is_held():
    """The check itself: each of these is refused."""
    good = manifest_of()

    def broken(change):
        manifest = copy.deepcopy(good)
        change(manifest, job_of(manifest), container_of(manifest))
        with pytest.raises(
            (AssertionError, ValueError, kubernetes_validate.utils.ValidationError)
        ):
            check(manifest)

    broken(lambda m, j, c: m["spec"]["failurePolicy"].update(maxRestart=3))
    broken(lambda m, j, c: m["spec"]["failurePolicy"].update(maxRestarts="3"))
    broken(lambda m, j, c: m["spec"].update(replicatedJob=[]))
    broken(lambda m, j, c: j.update(parallelism="16"))
    broken(lambda m, j, c: j["template"]["spec"].update(gracePeriod=3))
    broken(lambda m, j, c: c.update(args="train"))
    broken(lambda m, j, c: c["securityContext"].update(runAsUser="root"))


def test_what_can_be_done_with_a_run():
    words = {c: dry_run("gke.sh", c) for c in ("--logs", "--delete", "--resume")}
    for found in words.values():
        assert found[0].words == [
            *["gcloud", "container", "clusters", "get-credentials", "big"],
            *["--location=us-east5-a", "--project=mine"],
        ]
        context = "gke_mine_us-east5-a_big"
        assert found[1].words[:3] == ["kubectl", "--context", context]
    assert words["--logs"][1].flag("--selector") == (
        "jobset.sigs.k8s.io/jobset-name=q7,batch.kubernetes.io/job-completion-index=0"
    )
    jobset, secret = (c.words[5:8] for c in words["--delete"][1:])
    assert (jobset, secret) == (
        ["delete", "jobset", "q7"],
        ["delete", "secret", "q7-env"],
    )
    first, again = words["--resume"][1:]
    assert first.words[5:8] == ["delete", "jobset", "q7"]
    assert yaml.safe_load(again.text) == manifest_of()


def test_cluster_toolkit(bare_path):
    more = ["--submit", "gcluster", "--data", "gs://b/d", "--spot"]
    done = launch("gke.sh", *start_words("gke.sh", *more, words=HARD))
    # What is printed is run, and so is the command that it passes, by bash as there.
    recorder(bare_path, "gcluster")
    recorder(bare_path, "entrypoint")
    env = {"PATH": str(bare_path)}
    subprocess.run(["bash", "-c", done.stdout], env=env, check=True)
    [words] = recorded(bare_path, "gcluster")
    assert words[:2] == ["job", "submit"]
    flags = dict(zip(words[2::2], words[3::2]))
    command = flags.pop("--command")
    program = "/opt/gru_mem/launch/docker/entrypoint.sh"
    assert command.startswith(program + " train ")
    command = command.replace(program, "entrypoint")
    subprocess.run(["bash", "-c", command], env=env, check=True)
    assert recorded(bare_path, "entrypoint") == [
        [*HARD, "--run_dir", "gs://b/q7", "--distributed"]
    ]
    assert flags == {
        "--name": "q7",
        "--project": "mine",
        "--cluster": "big",
        "--location": "us-east5-a",
        "--image": "us-docker.pkg.dev/mine/r/gru-mem:1",
        "--compute-type": "ct5p-hightpu-4t",
        "--topology": "4x4x4",
        "--restarts": "100",
        "--grace-period": "600s",
        "--mount": "gs://b/d:/data:ro",
        "--node-constraint": "cloud.google.com/gke-spot=true",
    }


def test_topologies_that_do_not_exist(bare_path):
    refused = {
        "4x4x4": "write it like v5p:4x4x4",
        "v5p:4x4x": "write it like v5p:4x4x4",
        "v4:4x4x4": "the kinds are v5e, v5p, v6e and tpu7x",
        "v5e:4x5": "v5e comes as 1x1, 2x2, 2x4",
        "v5e:4x4x4": "v5e comes as 1x1, 2x2, 2x4",
        "v5p:8x8": "v5p has three dimensions",
        "v5p:4x4x6": "multiples of 4 in ascending order",
        "v5p:8x4x4": "multiples of 4 in ascending order",
    }
    for topology, told in refused.items():
        words = start_words("gke.sh", "--topology", topology)
        done = launch("gke.sh", *words, path=bare_path, check=False)
        assert done.returncode == 2
        assert told in done.stderr, topology
        assert done.stdout == ""


def test_shipped_topologies_exist():
    """Files of gin/hardware that are named after topologies."""
    names = [p.stem for p in (ROOT / "gin" / "hardware").glob("*.gin")]
    found = [re.search(r"_(v5e|v5p|v6e|tpu7x)_([\dx]+)$", name) for name in names]
    for match in filter(None, found):
        manifest_of("--topology", f"{match[1]}:{match[2]}")
