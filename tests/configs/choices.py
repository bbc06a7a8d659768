"""Every experiment with its choices, and what they resolve to."""

from __future__ import annotations

import importlib
from functools import cache

import numpy as np

from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment import views
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.training.plan import teacher_config
from kdaug_jax.types import Info

CHOICES = {
    "cifar100_kd": (
        "", "stage=teacher", "method=none", "method=fitnet", "method=at", "method=sp", "method=cc",
        "method=vid", "method=rkd", "method=pkt", "method=ab", "method=ft", "method=fsp",
        "method=nst", "method=kd_svd", "method=crd", "method=crd_kd", "method=ofd",
        "method=reviewkd", "method=dkd", "method=dist", "method=mlkd", "method=kd_ls",
        "method=dkd_ls", "method=mlkd_ls", "method=kd_dot", "method=crd_dot", "runs=3,holdout",
        "pair=wrn_40_2-wrn_40_1,method=ft", "pair=resnet56-resnet20,method=ofd",
        "pair=resnet110-resnet20,method=dkd,weight=2", "pair=resnet110-resnet32,method=reviewkd",
        "pair=resnet32x4-resnet8x4,method=mlkd_ls", "pair=vgg13-vgg8,method=fsp",
        "pair=vgg13-mobilenetv2,method=ofd", "pair=vgg13-mobilenetv2,method=ab",
        "pair=resnet50_cifar-mobilenetv2,method=reviewkd,weight=8",
        "pair=resnet50_cifar-mobilenetv2,method=ofd", "pair=resnet50_cifar-vgg8,method=ab",
        "pair=resnet50_cifar-vgg8,method=ofd", "pair=resnet32x4-shufflev1,method=ab",
        "pair=resnet32x4-shufflev1,method=ofd", "pair=resnet32x4-shufflev2,method=reviewkd",
        "pair=wrn_40_2-shufflev1,method=fitnet",
    ),
    "imagenet_kd": (
        "", "stage=teacher", "method=none", "source=torchdistill", "source=repdistiller",
        "source=dist", "source=ctkd", "source=mmrazor", "method=at", "method=crd", "method=ofd",
        "method=reviewkd", "method=dkd", "method=dist", "method=mlkd", "method=kd_ls",
        "method=kd_dot", "pair=resnet50-mobilenetv1", "pair=resnet50-mobilenetv1,method=reviewkd",
        "pair=resnet50-mobilenetv1,method=ofd", "pair=resnet50-mobilenetv1,method=at",
        "method=ofd,source=mdistiller", "method=reviewkd,source=mdistiller",
        "runs=3,replica_batch=32,holdout",
    ),
    "function_matching": (
        "", "dataset=cifar100", "epochs=300,temperature=2.0", "mix=False", "consistent=False",
        "dataset=cifar100,consistent=False,holdout",
    ),
    "resnet_strikes_back": (
        "", "repeats=1", "network=tv_resnet18,epochs=100", "network=tv_resnet34,repeats=1",
        "network=tv_resnet101", "network=tv_resnet152", "replica_batch=171,holdout",
    ),
    "teacher_clean_student_strong": (
        "", "teacher_sees=strong", "strong=trivialaugment", "strong=autoaugment,cutout=0",
        "dataset=cifar10", "kd=False,magnitude=9", "temperature=2.0,weight=0.5,runs=3,holdout",
    ),
    "a2aug_imagenet": (
        "", "n_views=1", "n_views=6", "form=joint_ce", "form=l2_norm", "form=kl",
        "logit_scale=1.0", "ensemble=average", "bn=shared", "networks=independent",
        "only=baseline", "scales=multi", "schedule=cosine", "network=resnet200", "runs=3",
        "draw=1", "replica_batch=128",
    ),
    "wang2020_imagenet": (
        "", "stage=teacher", "method=ce", "method=at", "method=sp", "method=crd",
        "method=crd,kd=False", "da=cutmix", "da=cutmix-pick,epoch_factor=2",
        "da=cutmix-pick,pool=1", "runs=3,replica_batch=32,holdout",
    ),
    "wei2020_fig2": ("", "magnitude=0", "magnitude=36,ops=wei2020,space=tpu"),
    "efficientnet_b0_kd": (
        "", "kd=False", "kd=False,magnitude=36", "sweep=weight", "sweep=k", "space=tpu",
        "teacher_policy=same", "teacher_policy=none", "holdout", "epochs=350",
    ),
    "efficientnet_b4_kd": ("", "kd=False"),
    "efficientnet_b7_kd": ("", "kd=False"),
    "efficientnet_b8_kd": ("", "kd=False", "test_side=800"),
    "wei2020_table1": (
        "", "table", "magnitude=0", "magnitude=7,kd=False", "variant=aa", "variant=faa",
        "teacher_policy=none", "teacher_policy=same", "base_cutout=0", "holdout",
    ),
    "wei2020_table2": (
        "", "kd=False", "policy=none,kd=False", "policy=randaugment,n=3,magnitude=5,kd=False",
        "network=shake26_2x96d", "network=pyramidnet272", "clean=kd", "clean=ce,kd=False",
        "dataset=cifar10", "dataset=cifar10,network=shake26_2x32d",
        "dataset=cifar10,network=shake26_2x112d,variant=aa",
        "dataset=cifar10,network=pyramidnet272", "subpolicies=cifar10_released",
    ),
    "wang2020_cifar100": (
        "", "da=cutmix", "da=mixup", "da=standard", "loss=ce", "loss=ce,da=none", "pool=1",
        "by=teacher_entropy", "by=student_entropy", "epoch_factor=4", "runs=3", "loss=crd",
        "loss=crd,da=standard", "dataset=tiny,epoch_factor=2", "pair=resnet56-resnet20",
        "pair=resnet32x4-resnet8x4", "pair=vgg13-vgg8", "pair=vgg13-mobilenetv2",
        "pair=resnet50-vgg8", "pair=resnet32x4-shufflev2",
    ),
    "a2aug_cifar": (
        "", "n_views=1", "n_views=2", "n_views=6", "form=joint_ce", "form=l2_norm", "form=kl",
        "logit_scale=1.0", "logit_scale=mean_norm", "ensemble=average", "bn=shared",
        "networks=independent", "only=baseline", "only=cutout", "network=wrn_28_10",
        "network=shake26_2x96d",
        "dataset=cifar10,network=pyramidnet272", "runs=10", "draw=1",
    ),
    "rolewise": (
        "", "bits=2", "stage=teacher", "stage=teacher,network=alexnet,dataset=cifar10",
        "stage=teacher,mode=official_code", "stage=teacher,pair=pyramidnet200-wrn_16_2",
        "method=none", "method=soft", "method=dml",
        "method=rkd", "method=mhgd", "method=kd_svd", "network=alexnet", "dataset=cifar10",
        "cutout=0", "cutout=16,holdout", "pair=wrn_28_10-wrn_16_2",
        "pair=wrn_28_10-wrn_16_4,method=none", "pair=wrn_28_10-preresnet56",
        "pair=preresnet164-preresnet32", "pair=pyramidnet200-preresnet44",
        "pair=pyramidnet200-wrn_16_2", "mode=official_code", "mode=official_code,method=soft",
        "mode=official_code,method=dml", "mode=official_code,method=rkd",
        "mode=official_code,method=mhgd", "mode=official_code,method=kd_svd",
    ),
    "das2020_cifar10": (
        "", "student=alexnet", "stage=teacher", "stage=teacher,dataset=mnist",
        "cinic=data/CINIC-10", "human=data/cifar10h-counts.npy", "select=best_test_loss",
        "dataset=mnist,size=32", "teacher_aug=cutout,holes=16,length=8",
        "teacher_aug=augment", "teacher_aug=cutout",
        "teacher_aug=cutout,holes=16", "teacher_aug=mixup", "teacher_aug=cutmix",
        "teacher_aug=cutmix,cutmix_prob=1.0", "teacher_aug=cutmix+augment",
        "teacher_aug=mixup+augment,student_aug=mixup+augment", "student_aug=cutmix",
        "reduction=element", "student_lr=0.1", "dataset=mnist", "dataset=mnist,teacher_aug=cutmix",
    ),
}

_EFFICIENTNET = (
    "kd=False,policy=autoaugment", "space=tpu", "ops=wei2020", "replica_batch=256",
    "teacher_policy=same", "teacher_policy=none", "holdout", "epochs=350", "k=10", "weight=1",
    "magnitude=0", "smoke",
)
# What is resolved without tracing: with CHOICES and the rows, each value of each option.
RESOLVED = {name: ("smoke",) for name in CHOICES} | {
    "efficientnet_b0_kd": _EFFICIENTNET,
    "efficientnet_b4_kd": _EFFICIENTNET,
    "efficientnet_b7_kd": _EFFICIENTNET,
    "efficientnet_b8_kd": _EFFICIENTNET,
    "imagenet_kd": (
        "smoke", "method=ofd,source=overhaul", "method=reviewkd,source=reviewkd",
        "method=mlkd,source=mlkd", "method=kd_ls,source=lskd",
    ),
    "wei2020_fig2": ("smoke", "epochs=350", "holdout", "replica_batch=256"),
    "wei2020_table2": (
        "smoke", "holdout", "policy=file,file=a.py,subset=f", "policy=schedule,file=b.txt",
        "policy=randaugment,n=1,magnitude=3", "network=wrn_40_2",
    ),
    "wang2020_cifar100": ("smoke", "holdout", "loss=crd,da=standard,kd=False", "stage=teacher"),
    "a2aug_cifar": (
        "smoke", "n_views=3", "n_views=5", "form=kl_norm", "network=shake26_2x32d,dataset=cifar10",
        "only=aa", "only=pba", "only=faa", "only=ra,network=wrn_28_10",
    ),
    "a2aug_imagenet": ("smoke", "n_views=2", "n_views=4", "n_views=5", "only=aa"),
    "rolewise": ("smoke", "schedule=a.json,teacher_schedule=b.json", "holdout"),
    "das2020_cifar10": ("smoke", "epochs=218", "holdout", "student_aug=augment",
                        "student_aug=cutout", "student_aug=mixup", "student_aug=cutmix+augment"),
}

# What takes seconds to be traced at its own size: a test of the slow suite.
SLOW = {name: () for name in CHOICES} | {
    "a2aug_imagenet": tuple(arg for arg in CHOICES["a2aug_imagenet"] if arg != "only=baseline"),
    "wang2020_imagenet": tuple(
        arg for arg in CHOICES["wang2020_imagenet"] if arg not in ("method=ce", "stage=teacher")
    ),
    "wei2020_fig2": tuple(arg for arg in CHOICES["wei2020_fig2"] if arg != "magnitude=0"),
    "cifar100_kd": CHOICES["cifar100_kd"][1:], "imagenet_kd": CHOICES["imagenet_kd"][1:],
    "function_matching": CHOICES["function_matching"],
    "resnet_strikes_back": CHOICES["resnet_strikes_back"],
    "teacher_clean_student_strong": CHOICES["teacher_clean_student_strong"][1:],
    "a2aug_cifar": (
        "", "n_views=6", "form=joint_ce", "form=l2_norm", "form=kl", "logit_scale=1.0",
        "logit_scale=mean_norm", "ensemble=average", "bn=shared", "networks=independent",
        "network=wrn_28_10", "network=shake26_2x96d", "dataset=cifar10,network=pyramidnet272",
        "runs=10", "draw=1",
    ),
    "rolewise": (
        "bits=2", "method=kd_svd", "network=alexnet", "dataset=cifar10", "cutout=0",
        "cutout=16,holdout", "stage=teacher,pair=pyramidnet200-wrn_16_2",
        "pair=wrn_28_10-wrn_16_2", "pair=wrn_28_10-wrn_16_4,method=none",
        "pair=wrn_28_10-preresnet56", "pair=preresnet164-preresnet32",
        "pair=pyramidnet200-preresnet44", "pair=pyramidnet200-wrn_16_2", "mode=official_code",
        "mode=official_code,method=mhgd", "mode=official_code,method=kd_svd",
    ),
    "wang2020_cifar100": ("loss=crd,da=standard", "pair=resnet50-vgg8"),
}


def load(name, arg=""):
    """The complete plain config of an experiment."""
    return configs.validate(importlib.import_module(f"configs.{name}").get_config(arg))


@cache
def describe(side, classes, count):
    """Facts of a training split of the experiment's kind, without its images."""
    label = np.arange(count, dtype=np.int32) % classes
    return Info(classes, (side, side), label, (120.0,) * 3, (60.0,) * 3)


def info_of(config):
    source = config["data"]["source"]
    kinds = {
        "cifar10": (32, 10, 5000), "cifar100": (32, 100, 5000), "idx": (28, 10, 6000),
        "folder": (832, 1000, 8192), "tinyimagenet": (64, 200, 10000),
    }
    info = describe(*kinds[source.partition(":")[0]])
    if source.startswith("folder:"):  # photographs as they lie on disk
        info = info._replace(size=None, mixed="train: 8,192 images of many sizes")
    return views.with_crops(info, configs.view_texts(config), config["data"]["crop"])


def programs_of(config):
    """The programs of all phases, which resolves every name, number and shape of a config."""
    return build_programs(config, info_of(config))


def teachers_of(config):
    """The configs that train the frozen networks, the innermost last."""
    teachers = []
    for name, section in config["networks"].items():
        if not section["trainable"]:
            teacher = teacher_config(config, name)
            teachers += [teacher, *teachers_of(teacher)]
    return teachers
