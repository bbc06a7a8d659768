"""The files for clusters: what they would run, and what they hold, without a cluster."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from kdaug_jax import errors
from tests.conftest import EXTRAS_REQUIRED

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh")) + [LAUNCH / "slurm.sbatch"]
CONFIG = "--config=configs/digits_kd.py"
# A word that a shell would take apart.
VIEW = "--config.views.x=pad_crop(4)|flip; rm -rf $HOME 'x'"


def script(name, *words, **environment):
    return subprocess.run(
        ["bash", LAUNCH / name, *words], capture_output=True, text=True, cwd=ROOT, timeout=60,
        env={**os.environ, **environment},
    )


def test_shellcheck_finds_nothing():
    if not shutil.which("shellcheck"):
        if EXTRAS_REQUIRED:
            pytest.fail("shellcheck is not installed")
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", *SCRIPTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_stop_at_errors_and_build_no_command_from_texts(path):
    text = path.read_text()
    assert "set -euo pipefail" in text and "eval" not in text


# --- TPU pods.

def gcloud_lines(*words):
    done = script("tpu_pod.sh", "--dry-run", *words)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_setup_of_a_pod_copies_the_commit_after_one_first_contact():
    archive, contact, copied, installed = gcloud_lines("setup", "pod", "us-west4-a")
    assert archive[0] == "git" and archive[3:5] == ["archive", "--format=tar.gz"]
    ssh = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=us-west4-a"]
    assert contact == [*ssh, "--worker=0", "--command=true"]
    assert copied[4] == "scp" and copied[-1] == "--worker=all"
    assert installed[:-1] == [*ssh, "--worker=all"] and "install-here" in installed[-1]


def test_the_words_of_a_run_reach_every_vm_of_a_pod_as_they_are():
    (line,) = gcloud_lines("start", "pod", "zone", CONFIG, "--workdir=/mnt/shared/run", VIEW)
    assert line[-2] == "--worker=all"
    remote = line[-1].removeprefix("--command=")
    printed = subprocess.run(
        ["bash", "-c", remote.replace("cd kdaug && bash", "printf '%s\\n'")],
        capture_output=True, text=True, check=True,
    ).stdout
    assert printed.splitlines() == [
        "launch/tpu_pod.sh", "start-here", CONFIG, "--workdir=/mnt/shared/run", VIEW
    ]


def test_stop_and_status_ask_every_vm():
    for action in ("stop", "status"):
        (line,) = gcloud_lines(action, "pod", "zone")
        assert "--worker=all" in line


@pytest.mark.parametrize("words, message", [
    ([], "name an action: setup, start, status or stop"),
    (["begin", "pod", "zone"], "name an action: setup, start, status or stop"),
    (["start", "pod"], "write it as: start NAME ZONE"),
    (["start", CONFIG, "--workdir=/x"], "write it as: start NAME ZONE"),
    (["start", "pod", "zone", CONFIG], "start needs --config=... and --workdir=/..."),
    (["start", "pod", "zone", CONFIG, "--workdir=gs://b/r"], "on a disk that all VMs mount"),
    (["stop", "pod", "zone", "now"], "stop takes no 'now'"),
])
def test_what_a_pod_is_not_asked(words, message):
    done = script("tpu_pod.sh", *words)
    assert done.returncode == 2 and message in done.stderr


def test_a_vm_refuses_a_working_directory_on_its_own_disk(tmp_path):
    (tmp_path / "stat").write_text("#!/bin/sh\necho ext2/ext3\n")
    (tmp_path / "stat").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = script("tpu_pod.sh", "start-here", CONFIG, f"--workdir={tmp_path}/run", PATH=path)
    assert done.returncode == 2
    assert f"own disk (ext2/ext3 in {tmp_path}), and no other VM sees it" in done.stderr


def test_the_run_of_a_vm_is_supervised_and_stopped_by_sigterm(tmp_path):
    """With stand-ins for the disk, the metadata server and main.py."""
    for name, body in {"stat": "echo nfs", "curl": "echo FALSE"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    shutil.copytree(LAUNCH, tmp_path / "launch")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(shutil.which("python3"))
    (tmp_path / "main.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(75)))\n"
        "print(sys.argv[1:], flush=True)\ntime.sleep(60)\n"
    )
    on_vm = dict(cwd=tmp_path, text=True, stdout=subprocess.PIPE, timeout=60,
                 env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    words = ["bash", "launch/tpu_pod.sh"]
    subprocess.run([*words, "start-here", CONFIG, f"--workdir={tmp_path}/w"], check=True, **on_vm)
    log = tmp_path / "run.log"
    while not log.exists() or "]" not in log.read_text():
        os.sched_yield()
    again = subprocess.run([*words, "start-here", CONFIG, f"--workdir={tmp_path}/w"], **on_vm,
                           stderr=subprocess.PIPE)
    assert again.returncode == 2 and "a run is under way on this VM" in again.stderr
    stopped = subprocess.run([*words, "stop-here"], check=True, **on_vm)
    assert stopped.stdout == "saved\n"
    assert log.read_text().splitlines()[0] == str(
        ["--distributed=auto", CONFIG, f"--workdir={tmp_path}/w"]
    )
    assert subprocess.run([*words, "stop-here"], **on_vm).stdout.startswith("no run is under way")


# --- Slurm.

def slurm(tmp_path, status, **environment):
    """Runs the batch script with stand-ins for srun and scontrol; returns it and their calls."""
    calls = tmp_path / "calls"
    calls.write_text("")
    for name, end in {"srun": f"exit {status}", "scontrol": "echo node3; echo node4"}.items():
        path = tmp_path / name
        path.write_text(f'#!/bin/bash\nprintf "%s\\n" "{name} $1 $2" >> {calls}\n{end}\n')
        path.chmod(0o755)
    given = dict(SLURM_JOB_ID="4103", SLURM_JOB_NODELIST="node[3-4]", SLURM_CPUS_PER_TASK="8")
    done = script(
        "slurm.sbatch", CONFIG, "--workdir=/shared/run",
        **{**given, "PATH": f"{tmp_path}:{os.environ['PATH']}", **environment},
    )
    return done, calls.read_text()


@pytest.mark.parametrize("status, requeued", [
    (0, False), (1, False), (2, False), (4, False), (130, False), (253, False),
    (75, True), (76, True), (134, True), (137, True), (143, True),
])
def test_a_slurm_job_is_requeued_when_the_command_would_be_run_again(tmp_path, status, requeued):
    done, calls = slurm(tmp_path, status)
    assert done.returncode == status
    assert ("scontrol requeue 4103" in calls) == requeued


def test_a_slurm_job_that_a_user_stopped_is_not_requeued(tmp_path):
    done, calls = slurm(tmp_path, 75, SLURM_JOB_END_TIME="9999999999")
    assert done.returncode == 75 and "requeue" not in calls


def test_requeues_of_a_slurm_job_are_limited(tmp_path):
    _, calls = slurm(tmp_path, 76, SLURM_RESTART_COUNT="20")
    assert "requeue" not in calls


def test_a_process_of_a_slurm_job_gets_its_number_and_the_first_node(tmp_path):
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho node3; echo node4\n")
    (tmp_path / "scontrol").chmod(0o755)
    done = script(
        "slurm.sbatch", "--dry-run", CONFIG, "--workdir=/shared/run", VIEW,
        PATH=f"{tmp_path}:{os.environ['PATH']}", SLURM_JOB_ID="4103", PYTHON="echo",
        SLURM_JOB_NODELIST="node[3-4]", SLURM_CPUS_PER_TASK="8",
    )
    address, *command = shlex.split(done.stdout)
    assert re.fullmatch(r"KDAUG_COORDINATOR=node3:6[1-5]\d{3}", address)
    assert {"--kill-on-bad-exit=0", "--wait=60", "--cpus-per-task=8"} < set(command)
    task = subprocess.run(
        command[command.index("bash"):], capture_output=True, text=True, check=True,
        env={**os.environ, "SLURM_PROCID": "1", "SLURM_NTASKS": "2",
             "KDAUG_COORDINATOR": address.partition("=")[2]},
    )
    number = f"--distributed=1/2@{address.partition('=')[2]}"
    assert task.stdout == f"main.py {number} {CONFIG} --workdir=/shared/run {VIEW}\n"


def test_a_slurm_job_without_a_working_directory_is_refused():
    done = script("slurm.sbatch", CONFIG)
    assert done.returncode == 2 and "needs --config=... and --workdir=..." in done.stderr


def test_slurm_sends_the_warning_to_the_processes():
    text = (LAUNCH / "slurm.sbatch").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.MULTILINE))
    assert options["signal"] == "TERM@300" and "WARNING=300" in text
    assert options["ntasks-per-node"] == "1" and "gpus-per-task" not in options
    assert options["open-mode"] == "append" and "requeue" in options


# --- Kubernetes.

# Fields of JobSet 0.7, of the Job and of the pod that are known; others would be refused or, worse,
# dropped. A value is a type, or the fields of a part; a list holds the fields of its elements.
CONTAINER = dict(
    name=str, image=str, command=[str], args=[str], env=[dict(name=str, value=str)],
    ports=[dict(containerPort=int)], resources=dict(limits={"google.com/tpu": int}),
    securityContext=dict(privileged=bool, runAsUser=int),
    volumeMounts=[dict(name=str, mountPath=str)],
)
POD = dict(
    restartPolicy=str, terminationGracePeriodSeconds=int, nodeSelector={
        "cloud.google.com/gke-tpu-accelerator": str, "cloud.google.com/gke-tpu-topology": str
    },
    tolerations=[dict(key=str, operator=str)], containers=[CONTAINER],
    volumes=[dict(name=str, persistentVolumeClaim=dict(claimName=str), emptyDir=dict(medium=str))],
)
JOB = dict(
    parallelism=int, completions=int, backoffLimit=int, podFailurePolicy=dict(rules=[dict(
        action=str, onExitCodes=dict(containerName=str, operator=str, values=[int])
    )]),
    template=dict(spec=POD),
)
JOBSET = dict(apiVersion=str, kind=str, metadata=dict(name=str), spec=dict(
    failurePolicy=dict(maxRestarts=int, restartStrategy=str, rules=[
        dict(name=str, action=str, onJobFailureReasons=[str])
    ]),
    replicatedJobs=[dict(name=str, replicas=int, template=dict(spec=JOB))],
))


def unknown_fields(value, known, path=""):
    if isinstance(known, dict):
        if not isinstance(value, dict):
            return [path]
        return [
            wrong for name, part in value.items()
            for wrong in (unknown_fields(part, known[name], f"{path}.{name}")
                          if name in known else [f"{path}.{name}"])
        ]
    if isinstance(known, list):
        if not isinstance(value, list):
            return [path]
        return [wrong for part in value for wrong in unknown_fields(part, known[0], path)]
    return [] if type(value) is known else [path]


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())


def test_the_jobset_has_known_fields_only(jobset):
    assert unknown_fields(jobset, JOBSET) == []
    assert unknown_fields({"spec": {"failurPolicy": {}}}, JOBSET) == [".spec.failurPolicy"]
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")


def test_the_jobset_ends_with_a_final_status_and_starts_again_after_others(jobset):
    policy = jobset["spec"]["failurePolicy"]
    (rule,) = policy["rules"]
    assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert policy["restartStrategy"] == "BlockingRecreate" and policy["maxRestarts"] > 0
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0 and job["parallelism"] == job["completions"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    (rule,) = job["podFailurePolicy"]["rules"]
    codes, container = rule["onExitCodes"], job["template"]["spec"]["containers"][0]
    assert codes["containerName"] == container["name"] and codes["operator"] == "In"
    kinds = (errors.ConfigError, errors.DataError, errors.CheckpointError, errors.NonFiniteError,
             errors.Interrupted)
    assert codes["values"] == sorted({1, *(kind.exit_code for kind in kinds)})
    assert rule["action"] == "FailJob"


def test_the_pods_pass_signals_on_and_share_a_disk(jobset):
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][0] == "tini" and "sh" not in container["command"]
    assert pod["terminationGracePeriodSeconds"] <= 25
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    (workdir,) = [word.partition("=")[2] for word in container["args"] if "workdir" in word]
    assert workdir.startswith(mounts[0]) and "/dev/shm" in mounts
    assert {volume["name"] for volume in pod["volumes"]} == {
        mount["name"] for mount in container["volumeMounts"]
    }


# --- The image.

def test_the_image_copies_what_exists_and_passes_signals_on():
    lines = (LAUNCH / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if re.match("[A-Z]+ ", line)]
    for name, rest in steps:
        if name == "COPY":
            *sources, _ = rest.split()
            assert all((ROOT / source).exists() for source in sources), rest
    entry = [rest for name, rest in steps if name == "ENTRYPOINT"]
    assert entry == ['["tini", "--"]']
    assert not any(name == "ENV" and "LD_LIBRARY_PATH" in rest for name, rest in steps)
    assert any(name == "USER" and rest != "root" for name, rest in steps)


# --- Data.

def test_sets_are_prepared_as_the_source_reads_them(tmp_path):
    sets = "beans", "imagenet2012_subset/1pct"
    done = script("prepare_data.sh", "--dry-run", str(tmp_path), *sets)
    assert done.returncode == 0, done.stderr
    first, second = map(shlex.split, done.stdout.splitlines())
    assert first[-4:] == ["build", "beans", "--file_format=array_record", f"--data_dir={tmp_path}"]
    assert second[-3] == sets[1]


def test_a_set_that_is_there_is_passed_over(tmp_path):
    (tmp_path / "beans/0.1.0").mkdir(parents=True)
    (tmp_path / "beans/0.1.0/dataset_info.json").write_text("{}")
    done = script("prepare_data.sh", "--dry-run", str(tmp_path), "beans")
    assert done.stdout == f"beans: prepared already in {tmp_path}/beans\n"


@pytest.mark.parametrize("words, message", [
    (["data"], "write it as: prepare_data.sh FOLDER SET"),
    (["data", "../beans"], "'../beans' is no name of a set"),
    (["data", "beans; ls"], "'beans; ls' is no name of a set"),
    (["data", "beans"], "has no TensorFlow; in an environment of its own"),
])
def test_what_cannot_be_prepared(words, message):
    done = script("prepare_data.sh", *words, PYTHON="false")
    assert done.returncode == 2 and message in done.stderr
