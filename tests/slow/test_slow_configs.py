"""The smoke form of every experiment that the fast suite does not run, and of choices of each."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs import cifar100_kd, imagenet_kd
from tests.configs.choices import CHOICES
from tests.test_main import EXPERIMENTS

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

CHOSEN = {
    "cifar100_kd": (
        *(f"method={method}" for method in cifar100_kd.METHODS if method != "kd"), "stage=teacher",
        *(f"pair={pair},method=ofd" for pair in cifar100_kd.PAIRS),
        "pair=vgg13-mobilenetv2,method=ab", "pair=resnet32x4-shufflev2,method=reviewkd",
        "pair=resnet50_cifar-vgg8,method=reviewkd,weight=8", "pair=vgg13-vgg8,method=fsp",
    ),
    "imagenet_kd": (
        *(f"method={method}" for method in imagenet_kd.METHODS), "stage=teacher",
        "pair=resnet50-mobilenetv1,method=reviewkd", "pair=resnet50-mobilenetv1,method=ofd",
    ),
    "function_matching": ("", "consistent=False", "dataset=cifar100"),
    "resnet_strikes_back": ("", "repeats=1"),
    "teacher_clean_student_strong": ("", "teacher_sees=strong", "kd=False"),
    "efficientnet_b0_kd": ("", "kd=False", "sweep=k", "space=tpu,teacher_policy=same"),
    "efficientnet_b4_kd": ("",),
    "efficientnet_b8_kd": ("",),
    "wei2020_fig2": ("magnitude=0", "magnitude=36,ops=wei2020"),
    "wang2020_imagenet": ("", "method=crd,da=cutmix-pick", "method=at", "stage=teacher"),
    "a2aug_imagenet": ("", "scales=multi", "network=resnet200,n_views=2", "networks=independent"),
    "wei2020_table1": ("table", "variant=aa,magnitude=7", "variant=faa,teacher_policy=same"),
    "wei2020_table2": (
        "", "clean=kd", "network=shake26_2x96d,variant=aa", "network=pyramidnet272",
        "policy=randaugment,kd=False", "network=wrn_40_2",
    ),
    "wang2020_cifar100": (
        "loss=crd", "da=mixup,runs=2", "pool=1,by=student_entropy", "pair=vgg13-mobilenetv2",
        "pair=resnet32x4-shufflev2", "pair=resnet50-vgg8", "loss=ce,da=none", "stage=teacher",
        "loss=crd,da=standard,kd=False",
    ),
    "a2aug_cifar": ("networks=independent,n_views=2", "bn=shared", "form=l2_norm,logit_scale=1.0"),
    "rolewise": (
        "mode=official_code,method=dml", "network=alexnet,method=mhgd",
        "pair=wrn_28_10-preresnet56", "pair=pyramidnet200-preresnet44,method=kd_svd",
        "method=none,bits=2", "mode=official_code,method=soft", "stage=teacher",
        "pair=wrn_28_10-wrn_16_4,method=none",
    ),
    "das2020_cifar10": ("student=alexnet,student_aug=mixup", "dataset=mnist,size=32",
                        "stage=teacher,teacher_aug=cutout,holes=16", "select=best_test_loss",
                        "dataset=mnist,teacher_aug=cutmix"),
}


def test_every_experiment_is_run():
    fast = {name for name in EXPERIMENTS if name != "digits_kd"}
    assert fast | set(CHOSEN) | {"efficientnet_b7_kd"} == set(CHOICES)


@pytest.mark.parametrize("name, arg", [
    *((name, arg) for name in CHOSEN for arg in CHOSEN[name]), ("image_folder_kd", "side=64"),
])
def test_a_smoke_form_runs(run, name, arg, tmp_path, capsys):
    assert run(f"--config=configs/{name}.py:smoke,{arg}", f"--workdir={tmp_path}") == 0
    assert (tmp_path / "results.json").exists()
    assert "test accuracy" in capsys.readouterr().out


def test_students_follow_a_schedule(run, tmp_path):
    policy = [0] * 60
    policy[0:2] = [10, 5]  # Rotate, always
    file = tmp_path / "schedule.json"
    file.write_text(json.dumps({"segments": [[100, [0] * 60], [100, policy]]}))
    arg = f"smoke,method=soft,schedule={file},teacher_schedule={file}"
    workdir = tmp_path / "run"
    assert run(f"--config=configs/rolewise.py:{arg}", f"--workdir={workdir}") == 0


def test_efficientnet_b7_is_tried_within_two_minutes(tmp_path):
    command = [sys.executable, "main.py", "--config=configs/efficientnet_b7_kd.py:smoke"]
    seconds = []
    for number in range(2):  # the first fills the compile cache
        begin = time.monotonic()
        done = subprocess.run(
            [*command, f"--workdir={tmp_path / str(number)}"], cwd=ROOT, capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        seconds.append(time.monotonic() - begin)
    assert seconds[1] < 120, seconds
