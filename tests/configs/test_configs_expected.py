"""Each row of each table against numbers that were typed in a second time, from the papers.

Sources: the papers' sections on training, AutoAugment's, RepDistiller's and EfficientNet's code.
"""

import importlib

import pytest

from tests.configs.choices import load

EFFICIENTNETS = {"b0": (224, 9, 5, 0.5), "b4": (380, 15, 50, 2.0), "b7": (600, 28, 50, 2.0),
                 "b8": (672, 28, 50, 2.0)}
# Epochs, batch, rate, decay.
CIFAR = {
    ("cifar10", "wrn_28_10"): (200, 128, 0.1, 5e-4),
    ("cifar10", "wrn_40_2"): (200, 128, 0.1, 2e-4),
    ("cifar10", "shake26_2x32d"): (1800, 128, 0.01, 1e-3),
    ("cifar10", "shake26_2x96d"): (1800, 128, 0.01, 1e-3),
    ("cifar10", "shake26_2x112d"): (1800, 128, 0.01, 1e-3),
    ("cifar10", "pyramidnet272"): (1800, 64, 0.05, 5e-5),
    ("cifar100", "wrn_28_10"): (200, 128, 0.1, 5e-4),
    ("cifar100", "wrn_40_2"): (200, 128, 0.1, 2e-4),
    ("cifar100", "shake26_2x96d"): (1800, 128, 0.01, 2.5e-3),
    ("cifar100", "pyramidnet272"): (1800, 64, 0.025, 5e-4),
}
RANDAUGMENT = {("cifar10", "wrn_28_10"): "(3, 5)", ("cifar10", "shake26_2x96d"): "(3, 9)",
               ("cifar10", "pyramidnet272"): "(3, 10)", ("cifar100", "wrn_28_10"): "(2, 14)"}
AA_PIPELINE = '|pad_crop(4, "mean", False)|flip|cutout(16)'


def rows_of(name):
    for row in importlib.import_module(f"configs.{name}").ROWS:
        if row.options is not None:
            words = (word.partition("=") for word in row.options.split(",") if word)
            yield row, {key: value for key, _, value in words}, load(name, row.options)


def recipe_of(config):
    optim = config["optim"]
    return (config["train"]["epochs"], config["data"]["batch_size"], optim["schedule"]["base"],
            optim["weight_decay"])


def losses_of(config):
    return {name: (term["loss"], term["weight"]) for name, term in config["terms"].items()}


def ops_of(config):
    return {name: view["ops"] for name, view in config["views"].items()}


@pytest.mark.parametrize("variant", EFFICIENTNETS)
def test_paper_000_on_imagenet(variant):
    side, magnitude, k, weight = EFFICIENTNETS[variant]
    for row, given, config in rows_of(f"efficientnet_{variant}_kd"):
        assert recipe_of(config) == (500.0, 4096, 0.256, 1e-5), row
        stage = f'randaugment(2, {magnitude}, "tpu_clean")'
        if given.get("policy") == "autoaugment":
            stage = 'autoaugment("imagenet_v0")'
        assert ops_of(config) == {"x": f"inception_crop({side})|flip|{stage}"}, row
        if given.get("kd") == "False":
            assert losses_of(config) == {"ce": ("cross_entropy", 1.0)}, row
            continue
        swept = given.get("sweep")
        assert config["terms"]["kd"]["loss"] == "topk_kl"
        if swept != "k":
            assert config["terms"]["kd"]["k"] == (10 if swept == "weight" else k), row
        if swept != "weight":
            assert config["terms"]["kd"]["weight"] == weight, row
        side_tested = given.get("test_side", side)
        assert config["eval"]["view"] == f"efficientnet_crop({side_tested})"


def test_figure_2_of_paper_000():
    magnitudes = []
    for row, given, config in rows_of("wei2020_fig2"):
        m = int(given["magnitude"])
        stage = f'|randaugment(2, {m}, "tpu_clean")' if m else ""
        assert ops_of(config) == {"x": f"inception_crop(224)|flip{stage}"}, row
        assert losses_of(config) == {"ce": ("cross_entropy", 1.0)}
        assert recipe_of(config) == (500.0, 4096, 0.256, 1e-5)
        magnitudes.append(m)
    assert magnitudes == [0, 9, 18, 27, 36]


def test_table_1_of_paper_000():
    for row, given, config in rows_of("wei2020_table1"):
        m = int(given["magnitude"])
        stage = f"wei2020(2, {m})" if m else ""
        assert ops_of(config) == {"x": f"{stage}{AA_PIPELINE}".removeprefix("|")}, row
        assert recipe_of(config) == (200.0, 128, 0.1, 5e-4)
        if "kd" in given:
            assert list(config["terms"]) == ["ce"]
        else:
            assert losses_of(config)["kd"] == ("topk_kl", 1.0)
            assert config["terms"]["kd"]["k"] == 5


def test_table_2_of_paper_000():
    for row, given, config in rows_of("wei2020_table2"):
        key = given.get("dataset", "cifar100"), given.get("network", "wrn_28_10")
        epochs, *others = CIFAR[key]
        extra = 50 if "clean" in given else 0
        assert recipe_of(config) == (epochs + extra, *others), row
        column = row.name.rpartition("-")[2]
        stage = {
            "ours": 'autoaugment("cifar10")', "aa": 'autoaugment("cifar10")',
            "faa": 'autoaugment("data/policies/archive.py", table="fa_reduced_cifar10")',
            "pba": 'schedule("data/policies/rcifar10_16_wrn.txt")',
            "ra": f"randaugment{RANDAUGMENT.get(key)}",
        }.get(column, "")
        ops = config["views"]["x"]["ops"]
        if column == "na":
            assert ops == 'pad_crop(4, "mean", False)|flip'
        else:
            assert ops.startswith(stage) and ops.endswith(AA_PIPELINE), row
        if given.get("kd") == "False":
            assert losses_of(config) == {"ce": ("cross_entropy", 1.0)}
        else:
            weight = 0.0 if given.get("clean") == "kd" else 1.0
            assert losses_of(config)["kd"] == ("topk_kl", weight)
            assert config["terms"]["kd"]["k"] == {"cifar10": 3, "cifar100": 5}[key[0]]


def test_paper_001():
    mixed = {
        "cutmix": 'view("x")|cutmix(1.0, partner="derangement")',
        "mixup": 'view("x")|mixup(1.0, partner="derangement")',
    }
    for row, given, config in rows_of("wang2020_cifar100"):
        teacher, student = given["pair"].split("-")
        padding = 8 if given.get("dataset") == "tiny" else 4
        trained = teacher if given.get("stage") == "teacher" else student
        rate = 0.01 if trained in ("mobilenetv2", "shufflev2") else 0.05
        epochs = 240 * float(given.get("epoch_factor", 1))
        assert recipe_of(config) == (epochs, 64, rate, 5e-4), row
        assert config["optim"]["schedule"]["at"] == tuple(epochs * at / 8 for at in (5, 6, 7))
        ops, losses = ops_of(config), losses_of(config)
        assert ops.pop("x") == f"pad_crop({padding})|flip"
        if given.get("stage") == "teacher" or given.get("loss") == "ce":
            assert losses == {"ce": ("cross_entropy", 1.0)} and not ops, row
            continue
        crd = given.get("loss") == "crd"
        assert losses["ce"] == ("cross_entropy", pytest.approx(1.0 if crd else 0.1))
        assert losses["kd"] == ("kl", 1.0 if crd else 0.9), row
        assert config["terms"]["kd"]["temperature"] == 4.0
        assert losses.get("crd") == (("crd", 0.8) if crd else None)
        da = given.get("da", "cutmix-pick")
        if da == "standard":
            assert not ops and config["terms"]["kd"]["on"] == ("x",)
        else:
            by = given.get("by", "kl")
            picked = f'view("x")|repeat(2)|cutmix(1.0, partner="derangement")|pick("{by}")'
            assert ops == {"mixed": mixed.get(da, picked)}, row
            assert config["terms"]["kd"]["on"] == ("x", "mixed")


def test_imagenet_of_paper_001():
    for row, given, config in rows_of("wang2020_imagenet"):
        epochs = 200.0 if given.get("epoch_factor") == "2" else 100.0
        assert recipe_of(config) == (epochs, 256, 0.1, 1e-4), row
        assert config["optim"]["schedule"]["at"] == tuple(epochs * at for at in (0.3, 0.6, 0.9))
        assert config["optim"]["momentum"] == 0.9 and config["optim"]["nesterov"] is False
        losses = losses_of(config)
        if given.get("stage") == "teacher" or given.get("method") == "ce":
            assert losses == {"ce": ("cross_entropy", 1.0)}
            continue
        weights = {
            "kd": {"kd": 0.9}, "at": {"at": 1000.0}, "sp": {"sp": 3000.0},
            "crd": {"crd": 0.8, "kd": 1.0},
        }[given.get("method", "kd")]
        assert {name: weight for name, (_, weight) in losses.items() if name != "ce"} == weights
        assert config["networks"]["student"]["name"] == "tv_resnet18"
        assert config["networks"]["teacher"]["name"] == "tv_resnet34"


def test_paper_002_on_cifar():
    for row, given, config in rows_of("a2aug_cifar"):
        key = given["dataset"], given["network"]
        assert recipe_of(config) == CIFAR[key], row
        views = list(ops_of(config).values())
        if given.get("only") == "baseline":
            assert views == ['pad_crop(4, "mean", False)|flip']
        elif given.get("only") == "cutout":
            assert views == [AA_PIPELINE.removeprefix("|")]
        elif "only" in given:
            policy = {
                "aa": 'autoaugment("cifar10")', "ra": "randaugment" + RANDAUGMENT.get(key, ""),
                "pba": 'schedule("data/policies/rcifar10_16_wrn.txt")',
                "faa": 'autoaugment("data/policies/archive.py", table="fa_reduced_cifar10")',
            }[given["only"]]
            assert views == [policy + AA_PIPELINE], row
        else:
            assert len(views) == 4 and all(text.endswith(AA_PIPELINE) for text in views)
            assert losses_of(config)["ensemble"] == ("a2aug", 1.0)


def test_paper_002_on_imagenet():
    for row, given, config in rows_of("a2aug_imagenet"):
        assert recipe_of(config) == (120.0, 1024, 0.4, 1e-4), row
        schedule = config["optim"]["schedule"]
        assert schedule["warmup"] == 5.0 and [round(at, 1) for at in schedule["at"]] == [
            40.0, 80.0, 106.7
        ]
        views = list(ops_of(config).values())
        if given.get("only") == "baseline":
            assert views == ["random_resized_crop(224)|flip"]
            continue
        if given.get("only") == "aa":
            assert views == ['random_resized_crop(224)|flip|autoaugment("imagenet_v0")']
            continue
        if given.get("scales") == "multi":
            assert views == [f"random_resized_crop({side})|flip" for side in (224, 192, 160, 128)]
        else:
            assert len(views) == 3
            assert all(text.startswith("random_resized_crop(224)|flip|rand") for text in views)
        shared = given.get("bn") == "shared" or "networks" in given
        branches = [view["branch"] for view in config["views"].values()]
        assert branches == ([0] * len(views) if shared else list(range(len(views))))
        ensemble = config["terms"]["ensemble"]
        assert ensemble["form"] == given.get("form", "kl_norm")
        assert ensemble["adaptive"] is ("ensemble" not in given)


def test_paper_003():
    weights = {"ii_kd": 0.4}
    for row, given, config in rows_of("rolewise"):
        full = "pair" in given or given.get("stage") == "teacher"
        rate, decay = (0.1, 5e-4) if full else (1e-3, 1e-5)
        assert recipe_of(config) == (200.0, 128, rate, decay), row
        assert config["optim"]["nesterov"] is True
        assert config["optim"]["schedule"]["at"] == (60.0, 120.0, 180.0)
        cutout = 16 if given.get("dataset") == "cifar10" else 8
        schedule = f'schedule("{given["schedule"]}")|' if "schedule" in given else ""
        plain = f'pad_crop(4, "mean", False)|flip|cutout({cutout})'
        assert ops_of(config) == {"x": schedule + plain}, row
        method = given.get("method", "ii_kd")
        if given.get("stage") == "teacher" or method == "none":
            assert list(config["terms"]) == ["ce"], row
            continue
        kd = config["terms"]["kd"]
        assert kd["loss"] == {"soft": "cross_entropy_kd", "rkd": "rkd_role"}.get(method, method)
        if method == "kd_svd":
            assert kd["reduction"] == "sum"
        if method in ("ii_kd", "mhgd"):
            assert kd["kernels"] == "glorot" and kd["part"] == "both"
        if "pair" in given:
            assert all(":" in name and name.count("_post") == 2 for name in kd["features"])
        weight = kd["weight"]
        assert (weight["base"], weight["every"], weight["factor"]) == (
            weights.get(method, 1.0), 60.0, 0.5
        )
        bits = int(given["bits"]) if "bits" in given else 32
        assert config["networks"]["student"]["options"] == (
            {} if bits == 32 else {"bits": (bits, bits)}
        )


def test_the_searches_of_paper_003():
    """α 5, Table 2 8, Table 1 10, Table 3 2, Table 4 alone 5 and with II-KD 6."""
    searches = importlib.import_module("configs.rolewise").SEARCHES
    kinds = [name.removeprefix("data/schedules/").partition("-")[0] for name in searches]
    assert {kind: kinds.count(kind) for kind in kinds} == dict(alpha=5, beta=20, alone=5, pair=6)


def test_paper_004():
    stages = {
        "none": "", "augment": "pad_crop(4)|flip", "cutout": "cutout(16, n_holes=1)",
        "mixup": "mixup(1.0)", "cutmix": "cutmix(1.0, probability=0.5)",
    }
    for row, given, config in rows_of("das2020_cifar10"):
        mnist, teacher = given.get("dataset") == "mnist", given.get("stage") == "teacher"
        epochs, batch = (150.0 if mnist else 250.0), (16 if mnist and not teacher else 128)
        rate, decay, momentum = 1e-4, 0.0, 0.99
        if teacher:
            rate, decay, momentum = (1e-4 if mnist else 0.1), 1e-4, 0.9
        assert recipe_of(config) == (epochs, batch, rate, decay), row
        assert config["optim"]["momentum"] == momentum
        assert config["optim"]["schedule"]["at"] == (60.0, 80.0, 120.0)
        augmentation = given.get("teacher_aug" if teacher else "student_aug", "none")
        assert ops_of(config) == {"x": stages[augmentation]}, row
        if not teacher:
            assert losses_of(config) == {"ce": ("cross_entropy", 0.5), "kd": ("kl", 0.5)}
            assert config["terms"]["kd"]["temperature"] == 20.0
        assert config["eval"]["bins"] == 10 and config["eval"]["table5"] is True
        assert "cinic" in dict(config["eval"]["sets"]) or "cinic" not in given
