"""Top-K distillation on strongly augmented handwritten digits, on a CPU in minutes.

The method of paper 000 (Wei et al. 2020, "Circumventing Outliers of AutoAugment with Knowledge
Distillation") on 1,200 real images: a teacher is trained on views that paper 000's own space of
shears, translations and cutout distorts with magnitude 2, then a small student on views of
magnitude 3, with cross entropy + λ · top-K KL (K = 3, λ = 1, the paper's values for ten classes).

    python main.py --config=configs/digits_kd.py --workdir=runs/digits_kd

Options after a colon: `smoke` (synthetic data, seconds); `compare` (the same student with λ = 0
and λ = 1, three seeds each, through one compiled step; give it the teacher of the first run by
--config.networks.teacher.checkpoint=runs/digits_kd/teacher); `magnitude` 0..10.

The paper's Table 1 has this comparison for CIFAR-100 and WRN-28-10: at M = 3, 22.4 % error without
and 19.9 % with distillation. On the digits only the direction can be expected.
"""

from __future__ import annotations

from configs.common import parse_arg, shrink
from kdaug_jax.experiment.sections import ConfigDict, default, network, term


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(arg, compare=False, magnitude=3)
    config = default()
    with config.unlocked():
        config.data.source = "digits"
        config.data.batch_size = 60
        config.views.x = f"pad_crop(4)|wei2020(2, {options.magnitude})"
        config.networks.student = network("lenet_vrm", trainable=True)
        config.networks.teacher = network(
            "resnet8",
            recipe=(
                ("views.x", "pad_crop(4)|wei2020(2, 2)"),
                ("optim.schedule.base", 0.1),
                ("train.epochs", 30.0),
            ),
        )
        config.terms.ce = term("cross_entropy", on=("x",), weight=1.0, gradient_group="task")
        config.terms.kd = term(
            "topk_kl", on=("x",), teacher="teacher", k=3, weight=1.0, gradient_group="distill"
        )
        config.optim.schedule = dict(name="cosine", base=0.02, unit="epoch", warmup=1.0, end=0.0)
        config.optim.momentum = 0.9
        config.optim.nesterov = True
        config.optim.weight_decay = 5e-4
        config.optim.clip_norm = 5.0
        config.train.epochs = 50.0
        config.log.every_steps = 100
        config.eval.every_epochs = 10.0
        config.checkpoint.every_epochs = 10.0
        if options.compare:
            config.population = (("terms.kd.weight", (0.0, 1.0)), ("seed", (0, 1, 2)))
        if options.smoke:
            shrink(config, {"teacher": "resnet8"}, "synthetic:32x32,10,64")
            config.networks.teacher.recipe = (("views.x", "pad_crop(4)"),)
            config.eval.every_epochs = 1.0
            config.checkpoint.every_epochs = 1.0
    return config.lock()
