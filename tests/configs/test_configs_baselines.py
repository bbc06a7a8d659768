"""The published baselines against numbers that were typed in a second time, from their code."""

import importlib

import pytest

from tests.configs.choices import load

SAME = ("wrn_40_2-wrn_16_2 wrn_40_2-wrn_40_1 resnet56-resnet20 resnet110-resnet20 "
        "resnet110-resnet32 resnet32x4-resnet8x4 vgg13-vgg8").split()
CROSS = ("vgg13-mobilenetv2 resnet50_cifar-mobilenetv2 resnet50_cifar-vgg8 "
         "resnet32x4-shufflev1 resnet32x4-shufflev2 wrn_40_2-shufflev1").split()
PLAIN = {  # method: cross entropy, then its other terms
    "none": (1, {}),
    "kd": (0.1, {"kl": 0.9}), "fitnet": (1, {"fitnet": 100}), "at": (1, {"at": 1000}),
    "sp": (1, {"sp": 3000}), "cc": (1, {"cc": 0.02}), "vid": (1, {"vid": 1}),
    "rkd": (1, {"rkd": 1}), "pkt": (1, {"pkt": 30000}), "nst": (1, {"nst": 50}),
    "kd_svd": (1, {"kd_svd": 1}), "crd": (1, {"crd": 0.8}), "crd_kd": (1, {"crd": 0.8, "kl": 1}),
    "ofd": (1, {"ofd": 1}), "dist": (1, {"dist": 2}), "kd_dot": (0.1, {"kl": 0.9}),
    "crd_dot": (1, {"crd": 0.8}),
}
OPTIONS = {
    "at": dict(p=2), "cc": dict(dim=128), "rkd": dict(distance=25, angle=50), "kd_svd": dict(k=1),
    "crd": dict(dim=128, negatives=16384, temperature=0.07, momentum=0.5),
    "ofd": dict(scale=1e-3, margin="batchnorm"), "dist": dict(beta=1, gamma=1, temperature=4),
    "ab": dict(margin=1, scale=3e-3), "ft": dict(share=0.5, part="paraphraser"),
}
# Features of student and teacher on a pair of three stages and on one of four.
THREE, FOUR = "resnet32x4-resnet8x4", "vgg13-vgg8"
FEATURES = {
    "fitnet": ("f2", "f2"), "at": ("f1 f2 f3", "f1 f2 f3 f4"), "vid": ("f1 f2 f3", "f1 f2 f3 f4"),
    "nst": ("f1 f2 f3", "f1 f2 f3 f4"), "kd_svd": ("f1 f2 f3", "f1 f2 f3 f4"),
    "sp": ("f3", "f4"), "ft": ("f3", "f4"), "cc": ("pooled", "pooled"),
    "rkd": ("pooled", "pooled"), "pkt": ("pooled", "pooled"), "crd": ("pooled", "pooled"),
    "fsp": ("f0 f1 f2 f3", "f0 f1 f2 f3 f4"),
    "ab": ("f1_pre:f1_pre f2_pre:f2_pre f3_pre:f3_pre",
           "f1_pre:f1_pre f2_pre:f2_pre f3_pre:f3_pre f4_pre:f4_pre"),
    "ofd": ("f1_pre:f1_pre f2_pre:f2_pre f3_pre:f3_pre",
            "f1_pre:f1_pre f2_pre:f2_pre f3_pre:f3_pre f4_pre:f4_pre"),
}
BETA = {
    "resnet56-resnet20": 2, "resnet110-resnet32": 2, "wrn_40_2-wrn_16_2": 6,
    "wrn_40_2-wrn_40_1": 6, "vgg13-vgg8": 6, "resnet32x4-resnet8x4": 8, "vgg13-mobilenetv2": 6,
    "resnet50_cifar-mobilenetv2": 8, "resnet32x4-shufflev1": 8, "resnet32x4-shufflev2": 8,
    "wrn_40_2-shufflev1": 8,
}
REVIEW = {
    "wrn_40_2-wrn_16_2": 5, "wrn_40_2-wrn_40_1": 5, "resnet56-resnet20": 0.6,
    "resnet110-resnet32": 1, "resnet32x4-resnet8x4": 5, "resnet32x4-shufflev1": 5,
    "wrn_40_2-shufflev1": 5, "resnet32x4-shufflev2": 8,
}
# T, w of KD; T, w, BETA of DKD; T, w of MLKD.
STANDARDISED = {
    "resnet32x4-resnet8x4": (2, 9, 2, 9, 8, 2, 9), "vgg13-vgg8": (3, 9, 2, 15, 2, 2, 6),
    "wrn_40_2-wrn_40_1": (2, 9, 2, 12, 2, 2, 9), "wrn_40_2-wrn_16_2": (2, 9, 2, 12, 2, 2, 9),
    "resnet56-resnet20": (2, 9, 3, 18, 2, 2, 9), "resnet110-resnet32": (2, 9, 2, 15, 2, 2, 9),
    "resnet110-resnet20": (4, 12, 2, 15, 2, 2, 9), "resnet32x4-shufflev2": (2, 9, 2, 9, 8, 2, 6),
    "vgg13-mobilenetv2": (3, 9, 3, 9, 2, 2, 6),
    "resnet50_cifar-mobilenetv2": (3, 1, 2, 15, 2, 2, 9),
}
UNTOLD = (2, 9, 2, 9, 8, 2, 9)
# Sums of the figures of the 7 and 6 pairs, of the READMEs' tables.
SUMS = {
    "teacher": (526.24, 467.77), "none": (497.36, 412.38), "kd": (509.18, 431.88),
    "fitnet": (499.6, 418.85), "at": (504.8, 407.6), "sp": (504.28, 430.28),
    "cc": (500.04, 414.35), "vid": (504.88, 423.82), "rkd": (499.63, 418.15),
    "pkt": (507.71, 429.34), "ab": (498.97, 425.11), "ft": (500.71, 409.34), "fsp": (427.71, 0),
    "nst": (501.84, 418.09), "crd": (515.17, 439.95), "crd_kd": (516.71, 0),
    "ofd": (220.26, 221.84), "reviewkd": (447.47, 372.63), "dkd": (519.18, 370.28),
    "dist-authors": (222.49, 222.35), "dist": (517.53, 441.36), "ctkd": (511.99, 212.54),
    "mlkd": (522.43, 220.05), "kd_ls": (518.54, 213.19), "ctkd_ls": (518.54, 214.52),
    "dkd_ls": (521.56, 217.8), "mlkd_ls": (524.93, 220.89), "kd_dot": (148.89, 75.55),
    "mixup": (521.89, 0), "cutmix": (523.18, 0), "supermix": (525.77, 0),
    "mixup_kd": (525.98, 0), "cutmix_kd": (526.03, 0), "supermix_kd": (528.96, 0),
}


def is_mobile(pair):
    return pair.endswith(("mobilenetv2", "shufflev1", "shufflev2"))


def rows():
    return importlib.import_module("configs.cifar100_kd").ROWS


def recipe_of(config):
    optim, schedule = config["optim"], config["optim"]["schedule"]
    return (config["train"]["epochs"], config["data"]["batch_size"], schedule["base"],
            schedule.get("at"), optim["momentum"], optim["nesterov"], optim["weight_decay"],
            optim["decay"])


def weights_of(config):
    return {section["loss"]: section["weight"] for section in config["terms"].values()}


def expected(pair, rate=0.05, epochs=240, batch=64, at=(150, 180, 210), nesterov=False):
    rate = 0.01 * rate / 0.05 if is_mobile(pair) else rate
    return epochs, batch, pytest.approx(rate), at, 0.9, nesterov, 5e-4, "all"


def is_runnable(method, pair):
    return method != "fsp" or pair in SAME and not pair.endswith("wrn_40_1")


@pytest.mark.parametrize("method", PLAIN)
def test_methods_with_the_numbers_of_repdistiller(method):
    for pair in (*SAME, *CROSS):
        config = load("cifar100_kd", f"pair={pair},method={method}")
        assert recipe_of(config) == expected(pair), pair
        ce, terms = PLAIN[method]
        assert weights_of(config) == {"cross_entropy": ce, **terms}, pair
        assert config["optim"]["combine"] == ("dot(0.075)" if "dot" in method else "sum()")
        teacher, _, student = pair.partition("-")
        assert config["networks"]["student"]["name"] == student
        if method != "none":
            assert config["networks"]["teacher"]["name"] == teacher
            recipe = dict(config["networks"]["teacher"]["recipe"])
            assert recipe["train.epochs"] == 240 and recipe["optim"]["schedule"]["base"] == 0.05
        for name, section in config["terms"].items():
            assert OPTIONS.get(name, {}).items() <= section.items(), name
            if name == "kd":
                assert section["temperature"] == 4 and not section["standardize"]
    assert config["views"]["x"]["ops"] == "pad_crop(4)|flip"


@pytest.mark.parametrize("method", FEATURES)
def test_features_by_the_number_of_stages(method):
    for pair, names in zip((THREE, FOUR), FEATURES[method], strict=True):
        config = load("cifar100_kd", f"pair={pair},method={method}")
        assert " ".join(config["terms"][method]["features"]) == names


def test_features_of_a_student_without_a_last_relu():
    for method in ("ab", "ofd"):
        config = load("cifar100_kd", f"pair=vgg13-mobilenetv2,method={method}")
        assert config["terms"][method]["features"] == tuple(f"f{i}:f{i}_pre" for i in range(1, 5))


@pytest.mark.parametrize("method", ["ab", "fsp", "ft"])
def test_methods_with_an_initial_stage(method):
    for pair in filter(lambda pair: is_runnable(method, pair), (*SAME, *CROSS)):
        config = load("cifar100_kd", f"pair={pair},method={method}")
        rate = 0.01 if is_mobile(pair) else 0.05
        residual = pair.partition("-")[2].startswith(("resnet", "wrn"))
        assert recipe_of(config)[:4] == (
            270, 64, 0.01 if method == "ft" and residual else rate, None
        ), pair
        assert config["optim"]["schedule"]["name"] == "constant"
        assert weights_of(config) == {"cross_entropy": 0, method: 1}
        assert OPTIONS.get(method, {}).items() <= config["terms"][method].items()
        ((epoch, changes),) = config["phases"]
        changes = dict(changes)
        schedule = changes.pop("optim.schedule")
        assert epoch == 30 and schedule["at"] == (180, 210, 240) and schedule["base"] == rate
        later = {"terms.ft.part": "translator"} if method == "ft" else {}
        assert changes == {
            "terms.ce.weight": 1, "optim.restart": True,
            f"terms.{method}.weight": 200 if method == "ft" else 0, **later,
        }


def test_reviewkd_has_its_authors_recipe():
    for pair, weight in REVIEW.items():
        config = load("cifar100_kd", f"pair={pair},method=reviewkd")
        assert recipe_of(config) == expected(
            pair, rate=0.1, batch=128, at=(151, 181, 211), nesterov=True
        ), pair
        term = config["terms"]["reviewkd"]
        assert term["weight"] == dict(name="constant", base=weight, unit="epoch", warmup=20,
                                      stairs="epoch", offset=0)
        stages = 4 if "vgg" in pair else 3
        assert term["middle"] == 512 and term["features"] == (
            *(f"f{i}:f{i}_pre" for i in range(1, stages + 1)), "pooled"
        )
        assert config["networks"]["student"]["mean"] == (125.3, 123.0, 113.9)


def test_dkd_and_its_warm_up():
    for pair, beta in BETA.items():
        config = load("cifar100_kd", f"pair={pair},method=dkd")
        assert recipe_of(config) == expected(pair)
        term = config["terms"]["dkd"]
        assert (term["alpha"], term["beta"], term["temperature"]) == (1, beta, 4), pair
        assert term["weight"] == dict(name="constant", base=1, unit="epoch", warmup=20,
                                      stairs="epoch", offset=1)
    given = load("cifar100_kd", "pair=resnet110-resnet20,method=dkd,weight=3")
    assert given["terms"]["dkd"]["beta"] == 3


def test_standardised_logits():
    for pair in (*SAME, *CROSS):
        t_kd, w_kd, t_dkd, w_dkd, beta, _, _ = STANDARDISED.get(pair, UNTOLD)
        config = load("cifar100_kd", f"pair={pair},method=kd_ls")
        assert recipe_of(config) == expected(pair)
        assert weights_of(config) == {"cross_entropy": 0.1, "kl": w_kd}, pair
        assert config["terms"]["kd"]["temperature"] == t_kd
        config = load("cifar100_kd", f"pair={pair},method=dkd_ls")
        term = config["terms"]["dkd"]
        assert weights_of(config)["cross_entropy"] == 1 and term["standardize"]
        assert (term["alpha"], term["beta"], term["temperature"]) == (
            w_dkd, w_dkd * beta, t_dkd
        ), pair


@pytest.mark.parametrize("method", ["mlkd", "mlkd_ls"])
def test_multi_level_distillation_is_what_its_code_sums(method):
    for pair in (*SAME, *CROSS):
        first, weight = STANDARDISED.get(pair, UNTOLD)[-2:] if method == "mlkd_ls" else (4, 0.9)
        config = load("cifar100_kd", f"pair={pair},method={method}")
        slow = is_mobile(pair) or method == "mlkd_ls" and pair == "vgg13-vgg8"
        long = pair in ("resnet32x4-shufflev1", "resnet32x4-shufflev2")
        assert recipe_of(config)[:4] == (
            960 if long else 480, 64, 0.01 if slow else 0.025, (150, 180, 210)
        ), pair
        terms = dict(config["terms"])
        ce, grams = terms.pop("ce"), terms.pop("grams")
        assert ce["weight"] == 0.1 and ce["on"] == ("x", "x_strong")
        assert grams["loss"] == "mlkd" and grams["parts"] == ("examples", "classes")
        assert not grams["standardize"]
        assert grams["weight"] == weight / 2 and not grams["masked"]
        assert sorted(grams["temperatures"]) == sorted((2, 3, 5, 6, first))
        sums = {"x": {}, "x_strong": {}}
        for term in terms.values():
            (view,) = term["on"]
            assert term["loss"] == "kl" and term["standardize"] is (method == "mlkd_ls")
            sums[view][term["temperature"]] = pytest.approx(term["weight"] / weight)
        weak = {2: 1.5, 3: 0.5, 5: 0.5, 6: 1.5}
        weak[first] = weak.get(first, 0) + 0.5
        strong = {3: 1, 5: 1}
        strong[first] = 1
        assert sums == {"x": weak, "x_strong": strong}, pair
    assert config["views"]["x_strong"]["ops"] == "pad_crop(4)|flip|fixmatch(2)"


def test_each_method_has_a_figure_or_a_reason_on_each_pair():
    names = {row.name for row in rows()}
    for pair in (*SAME, *CROSS):
        for method in {*PLAIN, "ab", "ft", "fsp", "reviewkd", "dkd", "mlkd", "kd_ls", "ctkd"}:
            if method not in ("kd_svd", "crd_dot"):  # of which nothing is published
                assert f"{method}-{pair}" in names
    for row in rows():
        if row.options is None:
            assert row.note.startswith("FSP needs") or "SuperMix" in row.note or (
                "temperature" in row.note
            )
        elif not row.figures:
            assert "unknown" in row.note, row
        else:
            assert "@" in row.note or "commit" in row.note, row
            assert "epoch" in row.note, row


@pytest.mark.parametrize("method", SUMS)
def test_figures_add_up(method):
    figures = {row.name: row.figures["accuracy"] for row in rows() if row.figures}
    for pairs, total in zip((SAME, CROSS), SUMS[method], strict=True):
        values = [figures.get(f"{method}-{pair}", 0) for pair in pairs]
        assert sum(values) == pytest.approx(total, abs=1e-6)


def test_the_cells_of_a_pair_are_all_methods():
    module = importlib.import_module("configs.cifar100_kd")
    assert set(module.CELLS) == {f"baselines-{pair}" for pair in (*SAME, *CROSS)}
    assert len(module.CELLS["baselines-vgg13-vgg8"]) == len(module.METHODS) == 26
    assert len(module.CELLS["baselines-vgg13-mobilenetv2"]) == 25  # without FSP


# Batch, rate, cross entropy; then weights by loss, options that matter.
IMAGENET = {
    "": (512, 0.2, 0.5, {"kl": 0.5}, dict(temperature=1)),
    "source=torchdistill": (256, 0.1, 0.5, {"kl": 0.5}, dict(temperature=1)),
    "source=dist": (256, 0.1, 0.9, {"kl": 1}, dict(temperature=4)),
    "source=ctkd": (256, 0.1, 1, {"kl": 1}, dict(temperature=4)),
    "source=repdistiller": (256, 0.1, 0.5, {"kl": 0.9}, dict(temperature=4)),
    "source=mmrazor": (256, 0.1, 1, {"kl": 3}, dict(temperature=1)),
    "method=none": (512, 0.2, 1, {}, {}),
    "method=at": (512, 0.2, 1, {"at": 1000}, dict(features=tuple(
        f"layer{i}:layer{i}" for i in (1, 2, 3, 4)
    ))),
    "method=at,source=torchdistill": (
        256, 0.1, 1, {"at": 1000}, dict(features=("layer3:layer3", "layer4:layer4"))
    ),
    "method=crd": (256, 0.1, 1, {"crd": 0.8}, dict(negatives=16384, dim=128)),
    "method=crd,source=torchdistill": (255, 0.1, 1, {"crd": 0.8}, dict(temperature=0.07)),
    "method=ofd": (256, 0.1, 1, {"ofd": 1}, dict(scale=1e-4)),
    "method=ofd,source=mdistiller": (128, 0.05, 1, {"ofd": 1}, dict(scale=1e-4)),
    "method=reviewkd": (256, 0.1, 1, {"reviewkd": 1}, dict(middle=512)),
    "method=reviewkd,source=mdistiller": (256, 0.1, 1, {"reviewkd": 1}, dict(middle=512)),
    "method=dkd": (512, 0.2, 1, {"dkd": 1}, dict(alpha=1, beta=0.5, temperature=1)),
    "method=dkd,source=mmrazor": (256, 0.1, 1, {"dkd": 1}, dict(beta=0.5, temperature=1)),
    "method=dist": (256, 0.1, 1, {"dist": 2}, dict(beta=1, gamma=1, temperature=1)),
    "method=dist,source=torchdistill": (256, 0.1, 1, {"dist": 2}, dict(temperature=1)),
    "method=dist,source=mmrazor": (256, 0.1, 1, {"dist": 2}, dict(temperature=1)),
    "method=kd_ls": (512, 0.2, 1, {"kl": 9}, dict(temperature=2, standardize=True)),
    "method=kd_ls,source=torchdistill": (512, 0.2, 0.5, {"kl": 9}, dict(temperature=2)),
    "method=kd_dot": (512, 0.2, 0.5, {"kl": 0.5}, dict(temperature=1)),
}
NESTEROV = ("source=dist", "method=ofd", "method=dist", "method=dist,source=mmrazor")


@pytest.mark.parametrize("arg", IMAGENET)
def test_methods_on_imagenet(arg):
    batch, rate, ce, terms, options = IMAGENET[arg]
    config = load("imagenet_kd", arg)
    optim, schedule = config["optim"], config["optim"]["schedule"]
    assert (config["data"]["batch_size"], schedule["base"]) == (batch, rate)
    assert config["train"]["epochs"] == (120 if arg == "source=ctkd" else 100)
    assert schedule["at"] == (30, 60, 90)
    assert (optim["momentum"], optim["weight_decay"]) == (0.9, 1e-4)
    assert optim["nesterov"] is (arg in NESTEROV)
    assert optim["decay"] == ("kernels" if arg in ("source=dist", "method=dist") else "all")
    assert optim["combine"] == ("dot(0.09)" if "dot" in arg else "sum()")
    assert weights_of(config) == {"cross_entropy": ce, **terms}
    for name, section in config["terms"].items():
        if name != "ce":
            assert options.items() <= section.items()
    assert config["networks"]["student"]["name"] == "tv_resnet18"
    if terms:
        assert config["networks"]["teacher"]["name"] == "tv_resnet34"


def test_resnet_50_to_mobilenet_on_imagenet():
    names = {"student": "mobilenetv1", "teacher": "tv_resnet50"}
    for method, after, before in (
        ("at", "", ""), ("ofd", "_pre", "_pre"), ("reviewkd", "", "_pre")
    ):
        config = load("imagenet_kd", f"pair=resnet50-mobilenetv1,method={method}")
        features = tuple(f"f{i}{after}:layer{i}{before}" for i in (1, 2, 3, 4))
        assert config["terms"][method]["features"][:4] == features
    for method, field, value in (
        ("dkd", "beta", 2), ("reviewkd", "weight", 8), ("reviewkd", "middle", 256),
        ("kd", "weight", 0.5), ("dist", "weight", 2),
    ):
        config = load("imagenet_kd", f"pair=resnet50-mobilenetv1,method={method}")
        assert config["terms"][method][field] == value
        assert {name: section["name"] for name, section in config["networks"].items()} == names


def test_multi_level_distillation_on_imagenet():
    config = load("imagenet_kd", "method=mlkd")
    assert (config["data"]["batch_size"], config["optim"]["schedule"]["base"]) == (512, 0.1)
    terms = dict(config["terms"])
    assert terms.pop("ce")["weight"] == 0.5 and terms.pop("grams")["weight"] == 0.25
    sums = {(term["on"], term["temperature"]): term["weight"] for term in terms.values()}
    weak, strong = ("x",), ("x_strong",)
    assert sums == {
        (weak, 1): 0.25, (weak, 2): 0.75, (weak, 3): 0.25, (weak, 5): 0.25, (weak, 6): 0.75,
        (strong, 1): 0.5, (strong, 3): 0.5, (strong, 5): 0.5,
    }


def test_each_row_of_kd_on_imagenet_names_its_convention():
    module = importlib.import_module("configs.imagenet_kd")
    for row in module.ROWS:
        if row.name.startswith(("kd-", "kd_dot", "kd_ls-resnet")) and row.options is not None:
            assert row.note.startswith("CE ") and "KL " in row.note and "T = " in row.note, row
        assert "@" in row.note or "arXiv" in row.note or "torchvision" in row.note or (
            "unknown" in row.note
        ), row


def test_procedure_a2():
    config = load("resnet_strikes_back")
    optim, schedule = config["optim"], config["optim"]["schedule"]
    assert (optim["name"], schedule["base"], optim["weight_decay"]) == ("lamb", 5e-3, 0.02)
    assert optim["decay"] == "kernels" and schedule["name"] == "cosine"
    assert config["train"]["epochs"] == 100 and schedule["warmup"] == pytest.approx(5 / 3)
    assert 3 * config["data"]["batch_size"] == 2052
    plain = load("resnet_strikes_back", "repeats=1")
    assert plain["data"]["batch_size"] == 2048 and plain["train"]["epochs"] == 300
    assert plain["views"]["x"]["ops"] == (
        'random_resized_crop(224, "bicubic")|flip|randaugment("rand-m7-mstd0.5-inc1")|'
        'mixup_or_cutmix(0.1, 1.0, partner="flip")'
    )
    assert config["views"]["x"]["ops"] == f'repeat(3)|{plain["views"]["x"]["ops"]}'
    bce = config["terms"]["bce"]
    assert (bce["loss"], bce["threshold"]) == ("binary_cross_entropy", 0.2)
    assert config["eval"]["view"] == 'resize_shorter(236, "bicubic")|crop_center(224)'


def test_function_matching():
    config = load("function_matching")
    assert list(config["terms"]) == ["kd"]  # no labels
    kd = config["terms"]["kd"]
    assert (kd["loss"], kd["temperature"], kd["on"], kd["teacher"]) == ("kl", 1, ("x",), "teacher")
    assert config["views"]["x"]["ops"] == "inception_crop(224)|flip|mixup(1.0)"
    optim, schedule = config["optim"], config["optim"]["schedule"]
    assert (config["train"]["epochs"], config["data"]["batch_size"]) == (1200, 4096)
    assert (optim["name"], schedule["base"], optim["clip_norm"]) == ("adamw", 0.03, 1)
    assert schedule["base"] * optim["weight_decay"] == pytest.approx(3e-4)
    assert schedule["warmup"] * 1_281_167 / 4096 == pytest.approx(5000)
    apart = load("function_matching", "consistent=False")
    assert apart["terms"]["kd"]["teacher"] == "teacher@x_uncropped"
    assert "mixup" not in str(apart["views"])


def test_a_teacher_of_clean_images():
    config = load("teacher_clean_student_strong")
    assert config["views"]["x"]["ops"] == 'view("clean")|randaugment(2, 14)|cutout(16)'
    assert config["terms"]["kd"]["teacher"] == "teacher@clean"
    strong = load("teacher_clean_student_strong", "teacher_sees=strong")
    assert strong["views"]["x"]["ops"] == "pad_crop(4)|flip|randaugment(2, 14)|cutout(16)"
    assert strong["terms"]["kd"]["teacher"] == "teacher"
    recipes = (dict(each["networks"]["teacher"]["recipe"]) for each in (config, strong))
    assert next(recipes) == next(recipes)
    alone = load("teacher_clean_student_strong", "kd=False")
    assert list(alone["terms"]) == ["ce"] and alone["terms"]["ce"]["weight"] == 1
