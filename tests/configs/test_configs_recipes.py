"""The numbers of each paper's main rows, written down a second time."""

import ast
import importlib

import numpy as np
import pytest

from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.training.plan import teacher_config
from tests.configs.choices import info_of, load, teachers_of


def optim_of(config):
    optim = dict(config["optim"])
    schedule = optim.pop("schedule")
    assert optim.pop("restart") is False
    return optim, schedule


def kd_of(config):
    kd = config["terms"]["kd"]
    return kd["loss"], kd["weight"]


@pytest.mark.parametrize(
    "variant, side, magnitude, k, weight, group",
    [
        ("b0", 224, 9, 5, 0.5, 1024), ("b4", 380, 15, 50, 2.0, 1024),
        ("b7", 600, 28, 50, 2.0, 512), ("b8", 672, 28, 50, 2.0, 512),
    ],
)
def test_efficientnets(variant, side, magnitude, k, weight, group):
    config = load(f"efficientnet_{variant}_kd")
    assert config["views"]["x"]["ops"] == (
        f'inception_crop({side})|flip|randaugment(2, {magnitude}, "tpu_clean")'
    )
    assert config["eval"]["view"] == f"efficientnet_crop({side})"
    assert config["networks"]["student"]["name"] == f"efficientnet_{variant}"
    assert kd_of(config) == ("topk_kl", weight) and config["terms"]["kd"]["k"] == k
    ce = config["terms"]["ce"]
    assert (ce["weight"], ce["label_smoothing"], ce["loss"]) == (1.0, 0.1, "cross_entropy")
    optim, schedule = optim_of(config)
    assert optim == dict(
        name="rmsprop", rho=0.9, momentum=0.9, eps=0.001, weight_decay=1e-5, decay="not_batchnorm",
        clip_norm=0.0, combine="sum()", ema=0.9999, ema_ramp=True,
    )
    assert schedule == dict(
        name="exponential", base=0.256, every=2.4, factor=0.97, staircase=True, unit="epoch",
        warmup=5.0,
    )
    assert config["data"]["batch_size"] == 4096 and config["train"]["replica_batch_size"] == group
    assert config["train"]["epochs"] == 500.0
    assert config["networks"]["student"]["mean"] == (123.675, 116.28, 103.53)
    assert config["networks"]["student"]["std"] == (58.395, 57.12, 57.375)


def test_teachers_of_efficientnets():
    for variant in ("b0", "b4", "b7"):
        config = load(f"efficientnet_{variant}_kd")
        (teacher,) = teachers_of(config)
        assert teacher["networks"]["student"]["name"] == f"efficientnet_{variant}"
        assert teacher["views"]["x"]["ops"].endswith('|flip|autoaugment("imagenet_v0")')
        assert teacher["terms"]["ce"]["label_smoothing"] == 0.1
        assert teacher["optim"] == config["optim"]
    b7, inner = teachers_of(load("efficientnet_b8_kd"))
    full = load("efficientnet_b7_kd")
    for section in ("views", "terms", "optim", "train", "networks", "data"):
        assert b7[section] == full[section], section
    assert b7["eval"]["view"] == full["eval"]["view"]
    assert inner == teacher_config(full, "teacher")


def test_figure_4_sweeps():
    weights, ks = (load("efficientnet_b0_kd", f"sweep={option}") for option in ("weight", "k"))
    assert weights["population"] == (("terms.kd.weight", (0.1, 0.2, 0.5, 1.0, 2.0)),)
    assert weights["terms"]["kd"]["k"] == 10
    assert ks["population"] == (("terms.kd.k", (2, 5, 10, 25, 50)),)
    assert ks["terms"]["kd"]["weight"] == 0.5


def autoaugment(rate, decay):
    return (
        dict(name="sgd", momentum=0.9, nesterov=True, weight_decay=decay, decay="all",
             clip_norm=5.0, combine="sum()", ema=0.0, ema_ramp=True),
        dict(name="cosine", base=rate, end=0.0, unit="epoch", warmup=0.0),
    )


PIPELINE = 'pad_crop(4, "mean", False)|flip|cutout(16)'


@pytest.mark.parametrize("magnitude", range(8))
def test_table_1_of_paper_000(magnitude):
    config = load("wei2020_table1", f"magnitude={magnitude}")
    stage = f"wei2020(2, {magnitude})|" if magnitude else ""
    assert config["views"]["x"]["ops"] == stage + PIPELINE
    assert config["networks"]["student"]["name"] == "wrn_28_10"
    assert kd_of(config) == ("topk_kl", 1.0) and config["terms"]["kd"]["k"] == 5
    assert config["terms"]["ce"]["weight"] == 1.0
    assert (config["train"]["epochs"], config["data"]["batch_size"]) == (200.0, 128)
    assert optim_of(config) == autoaugment(0.1, 5e-4)
    (teacher,) = teachers_of(config)
    assert teacher["views"]["x"]["ops"] == f'autoaugment("cifar10")|{PIPELINE}'
    assert teacher["optim"] == config["optim"]
    plain = load("wei2020_table1", f"magnitude={magnitude},kd=False")
    assert list(plain["terms"]) == ["ce"] and list(plain["networks"]) == ["student"]


def test_the_whole_table_1_is_one_population():
    config = load("wei2020_table1", "table")
    assert dict(config["population"]) == {
        "views.x.wei2020.m": tuple(range(8)), "terms.kd.weight": (0.0, 1.0)
    }
    (program,) = build_programs(config, info_of(config))
    assert {"views.x.wei2020.m", "terms.kd.weight"} < set(program.hparams)


@pytest.mark.parametrize(
    "data, network, full, epochs, batch, rate, decay",
    [
        ("cifar10", "wrn_28_10", "wrn_28_10", 200, 128, 0.1, 5e-4),
        ("cifar10", "shake26_2x32d", "shake26_2x32d", 1800, 128, 0.01, 1e-3),
        ("cifar10", "shake26_2x96d", "shake26_2x96d", 1800, 128, 0.01, 1e-3),
        ("cifar10", "shake26_2x112d", "shake26_2x112d", 1800, 128, 0.01, 1e-3),
        ("cifar10", "pyramidnet272", "pyramidnet272_a200_shakedrop", 1800, 64, 0.05, 5e-5),
        ("cifar100", "wrn_28_10", "wrn_28_10", 200, 128, 0.1, 5e-4),
        ("cifar100", "shake26_2x96d", "shake26_2x96d", 1800, 128, 0.01, 2.5e-3),
        ("cifar100", "pyramidnet272", "pyramidnet272_a200_shakedrop", 1800, 64, 0.025, 5e-4),
    ],
)
def test_table_2_of_paper_000(data, network, full, epochs, batch, rate, decay):
    config = load("wei2020_table2", f"dataset={data},network={network}")
    assert config["networks"]["student"]["name"] == full
    assert config["views"]["x"]["ops"] == f'autoaugment("cifar10")|{PIPELINE}'
    assert (config["train"]["epochs"], config["data"]["batch_size"]) == (epochs, batch)
    assert optim_of(config) == autoaugment(rate, decay)
    assert config["terms"]["kd"]["k"] == {"cifar10": 3, "cifar100": 5}[data]
    assert kd_of(config) == ("topk_kl", 1.0)
    (teacher,) = teachers_of(config)
    if (data, network) == ("cifar100", "pyramidnet272"):
        assert teacher["networks"]["student"]["name"] == full
        assert teacher["optim"] == config["optim"]
    else:
        assert teacher["networks"]["student"]["name"] == "wrn_28_10"
        assert (teacher["train"]["epochs"], teacher["data"]["batch_size"]) == (200, 128)
        assert optim_of(teacher) == autoaugment(0.1, 5e-4)
    assert teacher["views"]["x"]["ops"] == f'autoaugment("cifar10")|{PIPELINE}'


def test_columns_of_table_2():
    nothing = load("wei2020_table2", "policy=none,kd=False")["views"]["x"]["ops"]
    assert nothing == 'pad_crop(4, "mean", False)|flip'
    for arg, stage in (
        ("policy=randaugment,n=2,magnitude=14", "randaugment(2, 14)"),
        ("policy=file,file=a.json", 'autoaugment("a.json")'),
        ("policy=schedule,file=b.json", 'schedule("b.json")'),
        ("policy=file,file=archive.py", 'autoaugment("archive.py", table="fa_reduced_cifar10")'),
        ("policy=file,file=archive.py,subset=f", 'autoaugment("archive.py", table="f")'),
    ):
        config = load("wei2020_table2", f"{arg},kd=False")
        assert config["views"]["x"]["ops"] == f"{stage}|{PIPELINE}"


def test_fifty_clean_epochs():
    config = load("wei2020_table2", "clean=kd")
    assert config["train"]["epochs"] == 250.0 and config["terms"]["kd"]["weight"] == 0.0
    assert config["optim"]["schedule"]["until"] == 200.0
    first, clean = build_programs(config, info_of(config))
    assert clean.start_step == 200 * first.steps_per_epoch
    assert clean.hparams["terms.kd.weight"] == 1.0
    start = np.int32(clean.start_step)
    assert float(clean.learning_rate(clean.hparams, start)) == pytest.approx(1e-4)
    assert float(first.learning_rate(first.hparams, start)) == pytest.approx(0.0, abs=1e-7)
    assert clean.config["views"]["x"]["ops"] == 'pad_crop(4, "mean", False)|flip'


def milestones(rate, at=(150.0, 180.0, 210.0), factor=0.1):
    return dict(name="milestones", base=rate, at=at, factor=factor, unit="epoch", warmup=0.0)


def sgd(momentum, decay, nesterov=False, **fields):
    return dict(
        name="sgd", momentum=momentum, nesterov=nesterov, weight_decay=decay, decay="all",
        clip_norm=0.0, combine="sum()", ema=0.0, ema_ramp=True,
    ) | fields


def test_paper_001():
    config = load("wang2020_cifar100")
    assert config["views"]["x"]["ops"] == "pad_crop(4)|flip"
    assert config["views"]["mixed"]["ops"] == (
        'view("x")|repeat(2)|cutmix(1.0, partner="derangement")|pick("kl")'
    )
    ce, kd = config["terms"]["ce"], config["terms"]["kd"]
    assert ce["on"] == ("x",) and ce["weight"] == pytest.approx(0.1)
    assert (kd["loss"], kd["on"], kd["weight"]) == ("kl", ("x", "mixed"), 0.9)
    assert (kd["temperature"], kd["times_t2"], kd["class_mean"]) == (4.0, True, False)
    assert optim_of(config) == (sgd(0.9, 5e-4), milestones(0.05))
    assert (config["train"]["epochs"], config["data"]["batch_size"]) == (240.0, 64)
    student = config["networks"]["student"]
    assert student["mean"] == pytest.approx((129.3105, 124.1085, 112.404))
    assert student["std"] == pytest.approx((68.2125, 65.4075, 70.4055))
    (teacher,) = teachers_of(config)
    assert teacher["networks"]["student"]["name"] == "wrn_40_2"
    assert teacher["optim"] == config["optim"] and list(teacher["terms"]) == ["ce"]


@pytest.mark.parametrize("pair", ["vgg13-mobilenetv2", "resnet32x4-shufflev2"])
def test_mobile_students_of_paper_001_start_lower(pair):
    config = load("wang2020_cifar100", f"pair={pair},epoch_factor=4")
    assert optim_of(config)[1] == milestones(0.01, (600.0, 720.0, 840.0))
    assert config["train"]["epochs"] == 960.0
    (teacher,) = teachers_of(config)
    assert optim_of(teacher)[1] == milestones(0.05) and teacher["train"]["epochs"] == 240.0


def test_crd_with_picked_views():
    config = load("wang2020_cifar100", "loss=crd")
    crd = config["terms"]["crd"]
    assert (crd["weight"], crd["negatives"], crd["dim"]) == (0.8, 16384, 128)
    assert (crd["temperature"], crd["momentum"], crd["on"]) == (0.07, 0.5, ("x",))
    assert (config["terms"]["ce"]["weight"], config["terms"]["kd"]["weight"]) == (1.0, 1.0)


def test_the_row_crd_has_kl_too_and_crd_alone_has_not():
    """75.64 of WRN-16-2 is CRD+KD; CRD alone is 75.48 in public tables."""
    row = load("wang2020_cifar100", "loss=crd,da=standard")
    weights = {name: term["weight"] for name, term in row["terms"].items()}
    assert weights == {"ce": 1.0, "crd": 0.8, "kd": 1.0}
    assert (row["terms"]["kd"]["on"], row["terms"]["kd"]["temperature"]) == (("x",), 4.0)
    alone = load("wang2020_cifar100", "loss=crd,da=standard,kd=False")
    assert sorted(alone["terms"]) == ["ce", "crd"]


def test_tiny_imagenet_of_paper_001():
    config = load("wang2020_cifar100", "dataset=tiny")
    assert config["views"]["x"]["ops"] == "pad_crop(8)|flip"
    assert config["data"]["test"] == "validation"
    assert config["networks"]["student"]["mean"] == (123.675, 116.28, 103.53)


@pytest.mark.parametrize(
    "data, network, epochs, batch, rate, decay",
    [
        ("cifar100", "wrn_40_2", 200, 128, 0.1, 2e-4),
        ("cifar100", "wrn_28_10", 200, 128, 0.1, 5e-4),
        ("cifar100", "shake26_2x96d", 1800, 128, 0.01, 2.5e-3),
        ("cifar10", "shake26_2x32d", 1800, 128, 0.01, 1e-3),
        ("cifar10", "pyramidnet272", 1800, 64, 0.05, 5e-5),
    ],
)
def test_paper_002(data, network, epochs, batch, rate, decay):
    config = load("a2aug_cifar", f"dataset={data},network={network}")
    assert (config["train"]["epochs"], config["data"]["batch_size"]) == (epochs, batch)
    assert optim_of(config) == autoaugment(rate, decay)
    assert sorted(config["views"]) == ["a0", "a1", "a2", "a3"]
    assert [config["views"][f"a{i}"]["branch"] for i in range(4)] == [0, 1, 2, 3]
    for view in config["views"].values():
        assert view["ops"].startswith("randaugment(") and view["ops"].endswith("|" + PIPELINE)
    assert len({view["ops"] for view in config["views"].values()}) == 4
    ensemble = config["terms"]["ensemble"]
    assert ensemble["on"] == config["terms"]["ce"]["on"] == ("a0", "a1", "a2", "a3")
    assert (ensemble["form"], ensemble["logit_scale"]) == ("kl_norm", "sqrt_classes")
    assert ensemble["weight"] == config["terms"]["ce"]["weight"] == 1.0
    assert config["data"]["validation"] == "stratified(train[98%:])"


def test_views_of_paper_002_follow_the_seed_unless_their_draw_is_given():
    views, same, other = (load("a2aug_cifar", arg)["views"] for arg in ("", "runs=2", "draw=1"))
    assert views == same != other
    for name in ("a2aug_cifar", "a2aug_imagenet"):
        drawn = []
        for arg, seed in (("", 0), ("", 1), ("draw=1", 0), ("draw=1", 7)):
            config = importlib.import_module(f"configs.{name}").get_config(arg)
            config.seed = seed  # as --config.seed does
            drawn.append(configs.validate(config)["views"])
        assert drawn[0] != drawn[1] == drawn[2] == drawn[3]
    independent = load("a2aug_cifar", "networks=independent")
    assert independent["terms"]["ensemble"]["student"] == ("n0", "n1", "n2", "n3")
    assert {view["branch"] for view in independent["views"].values()} == {0}


def decaying(base, **fields):
    return dict(name="step_decay", base=base, every=60.0, factor=0.5, unit="epoch",
                warmup=0.0) | fields


LATE, EARLY = (60.0, 120.0, 180.0), (60.0, 120.0, 160.0)


def test_paper_003():
    config = load("rolewise")
    student = config["networks"]["student"]
    assert (student["name"], student["options"], student["init"]) == (
        "rolekd_resnet18", dict(bits=(4, 4)), "teacher"
    )
    assert kd_of(config) == ("ii_kd", decaying(0.4))
    kd = config["terms"]["kd"]
    assert kd["features"] == ("feat0", "feat1", "feat2", "feat3") and kd["heads"] == 4
    assert (kd["distance"], kd["angle"], kd["part"]) == (50.0, 100.0, "both")
    assert (kd["rkd"], kd["graphs"], kd["vectors"]) == (1.0, 1.0, 1.0)
    clipped = sgd(0.9, 1e-5, nesterov=True, combine="clip_per_variable()")
    assert optim_of(config) == (clipped, milestones(1e-3, LATE))
    assert (config["train"]["epochs"], config["data"]["batch_size"]) == (200.0, 128)
    (teacher,) = teachers_of(config)
    assert optim_of(teacher) == (sgd(0.9, 5e-4, nesterov=True), milestones(0.1, LATE))
    assert teacher["networks"]["student"]["options"] == {}


@pytest.mark.parametrize(
    "method, loss, clip",
    [("soft", "cross_entropy_kd", False), ("dml", "dml", False), ("rkd", "rkd_role", False),
     ("mhgd", "mhgd", True), ("kd_svd", "kd_svd", True)],
)
def test_baselines_of_paper_003(method, loss, clip):
    config = load("rolewise", f"method={method},bits=2")
    assert kd_of(config) == (loss, decaying(1.0))
    assert config["optim"]["combine"] == ("clip_per_variable()" if clip else "sum()")
    assert config["optim"]["name"] == "sgd" and config["networks"]["teacher"]["trainable"] is False


@pytest.mark.parametrize(
    "method, optimizer, weight",
    [("ii_kd", "adam", 1.0), ("mhgd", "adam", 1.0), ("kd_svd", "sgd", 1.0), ("soft", "sgd", 0.3),
     ("rkd", "sgd", milestones(1.0, EARLY, 0.6)), ("dml", "adam", milestones(1.0, EARLY, 0.6))],
)
def test_paper_003_as_its_code_ran(method, optimizer, weight):
    config = load("rolewise", f"method={method},mode=official_code")
    optim, schedule = optim_of(config)
    assert schedule == milestones(1e-3, EARLY)
    if optimizer == "adam":
        assert (optim["name"], optim["eps"], optim["decay"]) == ("adam", 1e-5, "kernels")
    else:
        assert (optim["name"], optim["nesterov"], optim["decay"]) == ("sgd", True, "all")
    assert config["terms"]["kd"]["weight"] == weight
    if method == "soft":
        kd = config["terms"]["kd"]
        assert (kd["temperature"], kd["times_t2"]) == (3.0, False)
        assert config["terms"]["ce"]["weight"] == 0.7
    if method in ("ii_kd", "mhgd"):
        assert config["terms"]["kd"]["part"] == "graphs"
        assert config["terms"]["kd"]["kernels"] == "fan_in"
    if method == "dml":
        assert config["networks"]["teacher"]["trainable"] and config["terms"]["kd_teacher"]


def test_full_precision_rows_of_paper_003():
    vanilla = load("rolewise", "stage=teacher")
    assert optim_of(vanilla) == (sgd(0.9, 5e-4, nesterov=True), milestones(0.1, LATE))
    assert list(vanilla["networks"]) == ["student"]
    pair = load("rolewise", "pair=wrn_28_10-preresnet56,schedule=s.json")
    assert pair["views"]["x"]["ops"] == (
        'schedule("s.json")|pad_crop(4, "mean", False)|flip|cutout(8)'
    )
    assert pair["terms"]["kd"]["features"] == (
        "layer1_post:f1_post", "layer2_post:f2_post", "layer3_post:f3_post"
    )
    assert pair["networks"]["student"]["init"] == ""
    assert optim_of(pair)[1] == milestones(0.1, LATE)


@pytest.mark.parametrize("mode", ["paper", "official_code"])
@pytest.mark.parametrize("dataset, side", [("cifar10", 16), ("cifar100", 8)])
def test_cutout_of_paper_003(mode, dataset, side):
    arg = f"dataset={dataset},mode={mode}"
    for config in (load("rolewise", arg), *teachers_of(load("rolewise", arg))):
        assert config["views"]["x"]["ops"].endswith(f"|flip|cutout({side})")
    assert load("rolewise", f"{arg},cutout=0")["views"]["x"]["ops"].endswith("|flip")


def test_the_code_of_paper_003_evaluates_with_the_statistics_of_batches():
    config = load("rolewise", "mode=official_code")
    for each in (config, *teachers_of(config)):
        assert each["eval"]["batch_statistics"] is True and each["data"]["batch_size"] == 128
    assert load("rolewise")["eval"]["batch_statistics"] is False


def test_the_peer_of_the_released_mutual_learning_starts_at_random():
    config = load("rolewise", "mode=official_code,method=dml")
    assert config["networks"]["teacher"]["init"] == ""
    assert config["networks"]["student"]["init"] == "pretrained"


@pytest.mark.parametrize(
    "name, arg",
    [("wang2020_cifar100", "pair=vgg13-vgg8"), ("wang2020_imagenet", ""), ("rolewise", ""),
     ("rolewise", "pair=preresnet164-preresnet32"), ("das2020_cifar10", "teacher_aug=mixup"),
     ("das2020_cifar10", "dataset=mnist")],
)
def test_a_stage_trains_the_teacher_that_a_run_would(name, arg):
    student = load(name, arg)
    alone = load(name, ",".join(filter(None, ("stage=teacher", arg))))
    (teacher,) = teachers_of(student)
    for section in ("networks", "terms", "optim", "train", "data", "phases", "population"):
        assert alone[section] == teacher[section], section
    assert alone["views"]["x"] == teacher["views"]["x"]


def test_magnitude_0_is_no_policy():
    """Level 0 of the TPU tables inverts, and of the paper's space darkens, whole images."""
    for name, arg in (
        ("efficientnet_b0_kd", "magnitude=0"), ("wei2020_fig2", "magnitude=0"),
        ("efficientnet_b0_kd", "magnitude=0,teacher_policy=same"),
        ("wei2020_table2", "policy=randaugment,magnitude=0,kd=False"),
        ("wei2020_table1", "magnitude=0"),
    ):
        config = load(name, arg)
        assert "randaugment" not in config["views"]["x"]["ops"]
        assert "wei2020" not in config["views"]["x"]["ops"]
        if "same" in arg:
            (teacher,) = teachers_of(config)
            assert teacher["views"]["x"]["ops"] == "inception_crop(224)|flip"


def test_the_ops_of_section_3_1_of_paper_000():
    config = load("efficientnet_b0_kd", "ops=wei2020")
    _, names = config["views"]["x"]["ops"].split("ops=")
    assert ast.literal_eval(names.removesuffix(")")) == (
        "Invert", "AutoContrast", "Equalize", "Rotate", "Solarize", "Color", "Posterize",
        "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY",
    )


def test_a_teacher_for_each_magnitude():
    cells = importlib.import_module("configs.wei2020_table1").CELLS["table1-same-teacher"]
    assert len(cells) == 16
    for m in range(8):
        alone, taught = cells[2 * m:2 * m + 2]
        config = load("wei2020_table1", taught.options)
        assert taught.overrides == {"networks.teacher.checkpoint": f"cell:{alone.name}"}
        (teacher,) = teachers_of(config)
        without = load("wei2020_table1", alone.options)
        assert teacher["views"] == without["views"] == config["views"]
        assert teacher["optim"] == without["optim"]


def test_smaller_groups_of_batchnorm():
    config = load("efficientnet_b7_kd", "replica_batch=128")
    (teacher,) = teachers_of(config)
    for section in (config["train"], teacher["train"]):
        assert section["replica_batch_size"] == 128
        assert section["recipe_replica_batch_size"] == 512
    for each in teachers_of(load("efficientnet_b8_kd", "replica_batch=128")):
        assert each["train"]["replica_batch_size"] == 128


def test_randaugments_published_strengths():
    for arg, stage in (("", "(2, 14)"), ("dataset=cifar10", "(3, 5)"), ("n=1", "(1, 14)"),
                       ("dataset=cifar10,network=shake26_2x96d", "(3, 9)"),
                       ("network=wrn_40_2,n=2,magnitude=9", "(2, 9)")):
        config = load("wei2020_table2", f"policy=randaugment,kd=False,{arg}")
        assert config["views"]["x"]["ops"].startswith(f"randaugment{stage}|")


def test_holes_of_cutout_of_paper_004():
    for arg, stage in (("", "cutout(16, n_holes=1)"), ("holes=16", "cutout(4, n_holes=16)"),
                       ("holes=16,length=8", "cutout(8, n_holes=16)")):
        config = load("das2020_cifar10", f"student_aug=cutout,teacher_aug=cutout,{arg}")
        assert config["views"]["x"]["ops"] == stage


def test_mnist_at_the_size_of_the_papers_lenet():
    config = load("das2020_cifar10", "dataset=mnist,size=32,teacher_aug=mixup")
    (teacher,) = teachers_of(config)
    assert config["views"]["x"]["ops"] == config["eval"]["view"] == "resize(32, 32)"
    assert teacher["views"]["x"]["ops"] == "resize(32, 32)|mixup(1.0)"


def test_what_is_chosen_and_evaluated_in_paper_004():
    last, code = load("das2020_cifar10"), load("das2020_cifar10", "select=best_test_loss")
    assert (last["checkpoint"]["best"], code["checkpoint"]["best"]) == ("", "eval/validation/nll")
    cinic = load("das2020_cifar10", "cinic=data/CINIC-10")
    assert cinic["eval"]["sets"] == (
        ("cinic", "cinic10:data/CINIC-10,stratified(test[20000:])"),
    )
    assert "reliability" in last["eval"]["metrics"]


def test_paper_004():
    config = load("das2020_cifar10", "teacher_aug=cutmix+augment")
    ce, kd = config["terms"]["ce"], config["terms"]["kd"]
    assert (ce["weight"], kd["weight"], kd["loss"]) == (0.5, 0.5, "kl")
    assert (kd["temperature"], kd["times_t2"], kd["class_mean"]) == (20.0, True, False)
    assert config["views"]["x"]["ops"] == ""
    assert optim_of(config) == (sgd(0.99, 0.0), milestones(1e-4, (60.0, 80.0, 120.0)))
    assert (config["train"]["epochs"], config["data"]["batch_size"]) == (250.0, 128)
    student = config["networks"]["student"]
    assert student["mean"] == pytest.approx((125.307, 122.961, 113.8575))
    assert student["std"] == pytest.approx((62.985, 61.965, 66.555))
    (teacher,) = teachers_of(config)
    assert teacher["networks"]["student"]["name"] == "resnet18_cifar"
    assert teacher["views"]["x"]["ops"] == "pad_crop(4)|flip|cutmix(1.0, probability=0.5)"
    assert optim_of(teacher) == (sgd(0.9, 1e-4), milestones(0.1, (60.0, 80.0, 120.0)))
    assert config["eval"]["bins"] == 10 and config["eval"]["table5"] is True


@pytest.mark.parametrize(
    "name, ops",
    [("none", ""), ("augment", "pad_crop(4)|flip"), ("cutout", "cutout(16, n_holes=1)"),
     ("mixup", "mixup(1.0)"), ("cutmix", "cutmix(1.0, probability=0.5)"),
     ("mixup+augment", "pad_crop(4)|flip|mixup(1.0)")],
)
def test_augmentations_of_paper_004(name, ops):
    config = load("das2020_cifar10", f"teacher_aug={name},student_aug={name}")
    (teacher,) = teachers_of(config)
    assert teacher["views"]["x"]["ops"] == config["views"]["x"]["ops"] == ops


def test_mnist_of_paper_004():
    config = load("das2020_cifar10", "dataset=mnist,reduction=element")
    assert config["data"]["batch_size"] == 16 and config["terms"]["kd"]["class_mean"] is True
    assert config["train"]["epochs"] == 150.0
    (teacher,) = teachers_of(config)
    assert teacher["networks"]["student"]["name"] == "alexnet_vrm"
    assert teacher["data"]["batch_size"] == 128 and teacher["optim"]["schedule"]["base"] == 1e-4
