"""Every experiment with every choice resolves, and what does not fit is told in one line."""

import functools
import importlib
import inspect
from pathlib import Path

import jax
import pytest

from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment.networks import build_network
from kdaug_jax.experiment.phases import resolve_phases
from tests.configs.choices import CHOICES, SLOW, describe, info_of, load, programs_of, teachers_of

FOLDER = Path(__file__).parents[2] / "configs"
EACH = [
    pytest.param(name, arg, id=f"{name}:{arg}", marks=[pytest.mark.slow] * (arg in SLOW[name]))
    for name, args in CHOICES.items() for arg in args
]


def test_every_experiment_is_here():
    others = {"__init__", "common", "digits_kd", "digits_search", "images_kd", "image_folder_kd"}
    assert {path.stem for path in FOLDER.glob("*.py")} - others == set(CHOICES)


@pytest.mark.parametrize("arg", ["", "side=32,epochs=2", "holdout=0,test", "kd=False", "smoke"])
def test_a_folder_of_images_resolves_with_its_teacher(arg):
    config = load("images_kd", arg)
    if arg != "smoke":
        assert config["data"]["source"].startswith("folder:")
        for each in (config, *teachers_of(config)):
            (program,) = programs_of(each)
            assert program.view_specs[0].leading is not None


@pytest.mark.parametrize(
    "arg", ["", "side=64,epochs=2,student=tv_resnet34", "holdout=0,test", "smoke"]
)
def test_photographs_resolve_with_a_teacher_of_their_own(arg):
    config = load("image_folder_kd", arg)
    assert config["terms"]["kd"]["teacher"] == "teacher"
    if arg != "smoke":
        assert config["data"]["source"].startswith("folder:")
        phases = resolve_phases(config, info_of(config))
        assert len(phases) == 1


def test_a_teacher_may_be_named():
    config = load("image_folder_kd", "teacher=runs/mine")
    teacher = config["networks"]["teacher"]
    assert (teacher["name"], teacher["checkpoint"], teacher["recipe"]) == ("", "runs/mine", ())


@pytest.mark.parametrize("name, arg", EACH)
def test_a_choice_resolves_with_its_teachers(name, arg):
    config = load(name, arg)
    programs = programs_of(config)
    assert len(programs) == 1 + len(config["phases"])
    if name != "efficientnet_b8_kd" or arg:  # its teachers are those of efficientnet_b7_kd
        for teacher in teachers_of(config):
            programs_of(teacher)


@pytest.mark.parametrize("name", CHOICES)
def test_the_docstring_is_a_notebook(name):
    module = importlib.import_module(f"configs.{name}")
    words = module.__doc__
    assert f"--config=configs/{name}.py" in words and "Cost" in words and "`smoke`" in words
    assert "|---|" in words and "has not been run here" in words.replace("\n", " ")
    assert inspect.signature(module.get_config).parameters["arg"].default == ""
    config = module.get_config()
    assert config.is_locked


@pytest.mark.parametrize(
    "name, arg, message",
    [
        ("efficientnet_b0_kd", "magnitud=3", "has no option 'magnitud'; did you mean magnitude?"),
        ("efficientnet_b0_kd", "space=tpu_clea", "option space='tpu_clea'; did you mean tpu_clean"),
        ("efficientnet_b0_kd", "sweep=k,kd=False", "option sweep needs distillation"),
        ("efficientnet_b0_kd", "k=0.5", "option k=0.5; must be a int"),
        ("efficientnet_b8_kd", "test_side=600", "option test_side=600; must be one of 672, 800"),
        ("wei2020_table1", "magnitude=8", "option magnitude=8; must be one of 3, 0, 1, 2"),
        ("wei2020_table1", "table,kd=False", "option table has both rows"),
        ("wei2020_table1", "base_cutout=64", "option base_cutout=64; 0..32"),
        ("wei2020_table2", "network=wrn_28", "option network='wrn_28'; did you mean wrn_28_10"),
        ("wei2020_table2", "network=shake26_2x32d", "cifar100 has no row of shake26_2x32d"),
        ("wei2020_table2", "policy=schedule", "option file=''"),
        ("wei2020_table2", "clean=kd,kd=False", "option clean=kd distils"),
        ("wei2020_table2", "clean=ce", "option clean=ce does not distil"),
        ("wei2020_table2", "network=pyramidnet272,variant=aa", "there is one PyramidNet"),
        ("wang2020_cifar100", "pair=resnet56-resnet2", "did you mean resnet56-resnet20"),
        ("wang2020_cifar100", "da=cutmixpick", "did you mean cutmix-pick or cutmix"),
        ("wang2020_cifar100", "epoch_factor=0", "option epoch_factor=0.0; more than 0"),
        ("wang2020_cifar100", "by=teacher_entropy,da=cutmix", "option by changes nothing without"),
        ("wang2020_cifar100", "loss=ce,pool=1", "option pool changes nothing"),
        ("wang2020_cifar100", "loss=ce,da=mixup", "option da=mixup is for distillation; drop"),
        ("a2aug_cifar", "n_views=7", "option n_views=7; must be one of 4, 1, 2, 3"),
        (
            "a2aug_cifar", "logit_scale=sqrt",
            "must be a number above 0, or sqrt_classes or mean_norm",
        ),
        ("a2aug_cifar", "logit_scale=nan", "must be a number above 0"),
        ("a2aug_cifar", "network=shake26_2x32d", "cifar100 has no row of shake26_2x32d"),
        ("rolewise", "bits=3", "option bits=3; must be one of 4, 2"),
        ("rolewise", "stage=teacher,bits=2", "option bits changes nothing with stage=teacher"),
        ("rolewise", "stage=teacher,teacher_schedule=a.json", "give it as schedule"),
        ("rolewise", "pair=wrn_28_10-wrn_16_2,network=alexnet", "option pair names the networks"),
        ("rolewise", "pair=wrn_28_10-wrn_16_2,method=dml", "Table 4 has no row of method=dml"),
        ("rolewise", "cutout=64", "option cutout=64; 0..32"),
        ("rolewise", "stge=teacher", "has no option 'stge'; did you mean stage?"),
        ("efficientnet_b0_kd", "replica_batch=100", "must divide the batch of 4,096"),
        ("efficientnet_b0_kd", "replica_batch=-1", "option replica_batch=-1; 0 for the recipe's"),
        ("efficientnet_b0_kd", "magnitude=0,ops=wei2020", "ops changes nothing with magnitude=0"),
        (
            "efficientnet_b0_kd", "kd=False,policy=autoaugment,magnitude=3",
            "magnitude changes nothing with policy=autoaugment",
        ),
        ("wei2020_fig2", "magnitude=8", "option magnitude=8; must be one of 9, 0, 18, 27, 36"),
        ("wei2020_fig2", "kd=True", "has no option 'kd'"),
        (
            "wei2020_table1", "table,teacher_policy=same",
            "run the experiment table1-same-teacher, or a magnitude at a time",
        ),
        ("wei2020_table1", "table,magnitude=3", "option magnitude changes nothing with table"),
        (
            "wei2020_table2", "network=shake26_2x96d,policy=randaugment,kd=False",
            "RandAugment's n for shake26_2x96d on cifar100 is not published; give n=...",
        ),
        ("wei2020_table2", "policy=file,file=a.json,subset=f", "is of a file of Python"),
        ("wei2020_table2", "policy=randaugment,n=-2,kd=False", "option n=-2; 0 or more"),
        ("wang2020_cifar100", "kd=False", "loss=crd,kd=False is CRD alone"),
        ("wang2020_cifar100", "loss=crd,kd=False", "makes images for the KL"),
        ("wang2020_cifar100", "stage=teacher,loss=crd", "option loss changes nothing with stage="),
        ("wang2020_cifar100", "runs=0", "option runs=0; at least 1"),
        ("wang2020_imagenet", "kd=False", "method=crd,kd=False is CRD alone"),
        ("wang2020_imagenet", "method=at,da=cutmix", "makes images for a KL"),
        ("wang2020_imagenet", "pool=1", "option pool changes nothing without da=cutmix-pick"),
        ("wang2020_imagenet", "method=spp", "option method='spp'; did you mean sp"),
        ("wang2020_imagenet", "replica_batch=100", "0, or a divisor of the batch of 256"),
        ("wang2020_imagenet", "epoch_factor=0", "option epoch_factor=0.0; more than 0"),
        ("cifar100_kd", "method=fsp,pair=vgg13-mobilenetv2", "method=fsp needs equal widths"),
        ("cifar100_kd", "method=fsp,pair=wrn_40_2-wrn_40_1", "use wrn_40_2-wrn_16_2, resnet56"),
        (
            "cifar100_kd", "method=reviewkd,pair=vgg13-vgg8",
            "the weight of ReviewKD for vgg13-vgg8 is not published; give weight=...",
        ),
        (
            "cifar100_kd", "method=dkd,pair=resnet110-resnet20",
            "β of DKD for resnet110-resnet20 is not published; give weight=...",
        ),
        ("cifar100_kd", "method=dkd,weight=-1", "option weight=-1.0; 0 or more"),
        ("cifar100_kd", "weight=2.0", "option weight changes nothing with method=kd"),
        ("cifar100_kd", "stage=teacher,method=at", "method changes nothing with stage=teacher"),
        ("cifar100_kd", "method=reviewd", "option method='reviewd'; did you mean reviewkd"),
        ("cifar100_kd", "runs=0", "option runs=0; at least 1"),
        ("imagenet_kd", "method=at,source=dist", "use source=mdistiller or torchdistill"),
        ("imagenet_kd", "stage=teacher,source=dist", "source changes nothing with stage=teacher"),
        ("imagenet_kd", "replica_batch=100", "0, or a divisor of the batch of 512"),
        ("function_matching", "epochs=3", "option epochs=3.0; more than the warm-up of 16.0"),
        ("function_matching", "temperature=0", "option temperature=0.0; more than 0"),
        ("function_matching", "consistent=False,mix=True", "mix changes nothing with consistent="),
        ("resnet_strikes_back", "epochs=5", "option epochs=5.0; more than the warm-up of 5"),
        ("resnet_strikes_back", "repeats=2", "option repeats=2; must be one of 3, 1"),
        ("resnet_strikes_back", "replica_batch=5", "0, or a divisor of the batch of 684"),
        ("teacher_clean_student_strong", "weight=0", "weight=0.0; more than 0, at most 1"),
        ("teacher_clean_student_strong", "temperature=0", "temperature=0.0; more than 0"),
        ("teacher_clean_student_strong", "magnitude=31", "option magnitude=31; 0..30"),
        ("teacher_clean_student_strong", "cutout=33", "option cutout=33; 0..32"),
        ("teacher_clean_student_strong", "kd=False,weight=0.5", "changes nothing with kd=False"),
        (
            "teacher_clean_student_strong", "strong=autoaugment,magnitude=3",
            "magnitude changes nothing with strong=autoaugment",
        ),
        ("image_folder_kd", "side=16", "option side=16; at least 32"),
        ("image_folder_kd", "holdout=1", "option holdout=1.0; 0 or more, less than 1"),
        ("image_folder_kd", "epochs=0", "option epochs=0.0; more than 0"),
        ("image_folder_kd", "smoke,teacher=DIR", "option teacher of the smoke form"),
        ("a2aug_cifar", "draw=x", "option draw='x'; must be seed or a number of at least 0"),
        ("a2aug_imagenet", "only=baseline,scales=multi", "option scales changes nothing with only"),
        ("a2aug_imagenet", "scales=multi,n_views=2", "n_views changes nothing with scales=multi"),
        ("a2aug_imagenet", "replica_batch=100", "0, or a divisor of the batch of 1,024"),
        ("a2aug_imagenet", "form=klnorm", "option form='klnorm'; did you mean kl_norm"),
        ("das2020_cifar10", "size=32", "option size is of MNIST; drop it"),
        ("das2020_cifar10", "dataset=mnist,cinic=DIR", "option cinic is of CIFAR-10; drop it"),
        ("das2020_cifar10", "dataset=mnist,human=F", "option human is of CIFAR-10; drop it"),
        ("das2020_cifar10", "length=8", "option length changes nothing without cutout"),
        ("das2020_cifar10", "student_aug=cutout,length=64", "option length=64; 1 to 32"),
        (
            "das2020_cifar10", "select=best_test_loss,holdout",
            "chooses on the test split, which holdout keeps out",
        ),
        ("das2020_cifar10", "stage=teacher,student=alexnet", "student changes nothing with stage"),
        ("rolewise", "method=iikd", "option method='iikd'; did you mean ii_kd"),
        ("rolewise", "pair=wrn_28_10-wrn_16_2,dataset=cifar10", "option pair is of"),
        ("rolewise", "method=none,teacher_schedule=a.json", "there is no teacher"),
        ("das2020_cifar10", "teacher_aug=cutmx", "did you mean cutmix"),
        ("das2020_cifar10", "dataset=mnist,teacher_aug=cutout", "mnist has no row of teacher_aug"),
        ("das2020_cifar10", "dataset=mnist,student=alexnet", "mnist has no row of student=alexnet"),
        (
            "das2020_cifar10", "teacher_aug=cutmix,cutmix_prob=2.0",
            "option cutmix_prob=2.0; 0 to 1",
        ),
        ("das2020_cifar10", "teacher_aug=cutmix,holes=2", "holes changes nothing without cutout"),
        ("das2020_cifar10", "student_lr=-1", "option student_lr=-1.0; more than 0"),
        ("efficientnet_b7_kd", "kd=False,k=5", "option k changes nothing with kd=False; drop one"),
        ("efficientnet_b0_kd", "sweep=weight,k=5", "option k changes nothing with sweep=weight"),
        ("efficientnet_b0_kd", "k=0", "option k=0; at least 1"),
        ("efficientnet_b8_kd", "weight=-1", "option weight=-1.0; 0 or more"),
        ("efficientnet_b4_kd", "epochs=0", "option epochs=0.0; more than 0"),
        ("wei2020_table1", "kd=False,teacher_policy=none", "teacher_policy changes nothing with"),
        ("wei2020_table2", "n=3", "option n changes nothing with policy=autoaugment"),
        ("a2aug_cifar", "only=baseline,networks=independent", "networks changes nothing with only"),
        ("a2aug_cifar", "n_views=1,form=kl", "option form changes nothing with n_views=1"),
        ("a2aug_cifar", "form=kl,logit_scale=2.0", "logit_scale changes nothing with form=kl"),
        ("a2aug_cifar", "networks=independent,bn=split", "option bn changes nothing with networks"),
        (
            "rolewise", "pair=wrn_28_10-wrn_16_2,bits=4",
            "option pair is in full precision; drop bits",
        ),
    ],
)
def test_choices_that_do_not_fit_are_told_in_one_line(name, arg, message):
    with pytest.raises(ConfigError) as caught:
        load(name, arg)
    text = str(caught.value)
    assert text.startswith("--config: ") and message in text and "\n" not in text


@pytest.mark.parametrize(
    "name, arg, expected",
    [("wei2020_table1", "", 100), ("wei2020_table2", "dataset=cifar10", 10),
     ("wang2020_cifar100", "dataset=tiny", 200), ("wang2020_imagenet", "", 1000),
     ("a2aug_cifar", "", 100), ("rolewise", "", 100), ("das2020_cifar10", "dataset=mnist", 10)],
)
def test_data_of_another_number_of_classes_are_refused(name, arg, expected):
    config, others = load(name, arg), describe(32, 7, 5000)
    with pytest.raises(ConfigError) as caught:
        resolve_phases(config, others)
    assert str(caught.value) == (
        f"data.classes: the experiment is of {expected:,} classes, '{config['data']['source']}' "
        "has 7; take its options for these data, or --config.data.classes=0 to keep its recipe"
    )


def test_a_recipe_may_be_kept_for_other_data():
    config = load("wei2020_table1")
    config = {**config, "data": {**config["data"], "classes": 0}}
    assert resolve_phases(config, describe(32, 7, 5000))


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "schedule.json"),
        ('{"segments": []}', "has no segments; must hold at least one [epochs, policy]"),
        ('{"segments": [[9, [1, 2]]]}', "segment 1"),
        ('{"segments": [[0, ' + str([0] * 60) + "]]}", "must last at least 1"),
    ],
)
def test_schedules_of_wrong_form_are_told_in_one_line(tmp_path, text, message):
    file = tmp_path / "schedule.json"
    file.write_text(text)
    config = load("rolewise", f"stage=teacher,schedule={file}")
    with pytest.raises(ConfigError) as caught:
        resolve_phases(config, info_of(config))
    told = str(caught.value)
    assert told.startswith("views.x") and message in told and "\n" not in told


@pytest.mark.parametrize("arg, expected", [("", 44_726), (",size=32", 62_006)])
def test_lenet_has_the_parameters_of_paper_004_at_32_pixels(arg, expected):
    (program,) = programs_of(load("das2020_cifar10", f"dataset=mnist{arg}"))
    network, size = program.networks["student"], program.view_specs[0].size
    assert parameters(network, size) == expected


def parameters(network, size):
    """Counts the parameters of a network without computing any."""
    shapes = jax.eval_shape(lambda key: network.model.init(key, size), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.slow
def test_each_network_of_the_configs_has_outputs_of_the_data_set():
    """Shapes of logits, of each architecture with each number of classes and side once."""
    seen = set()
    for name, args in CHOICES.items():
        for arg in args:
            config = load(name, arg)
            info = info_of(config)
            for key, section in config["networks"].items():
                side = 224 if info.size is None else info.size[0]
                spec = (section["name"], str(sorted(section["options"].items())), side,
                        info.num_classes)
                if spec in seen:
                    continue
                seen.add(spec)
                network = build_network(
                    key, section, info._replace(size=(side, side)), 1, 0, "float32"
                )
                images = jax.ShapeDtypeStruct((2, side, side, 3), "uint8")
                logits = jax.eval_shape(functools.partial(answer, network, (side, side)), images)
                assert logits.shape == (2, info.num_classes), spec
    assert len(seen) >= 40


def answer(network, size, images):
    variables = network.model.init(jax.random.key(0), size)
    return network.model.apply(variables, images, train=False)[0].logits
