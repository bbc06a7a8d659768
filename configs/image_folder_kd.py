"""Your own photographs and your own teacher, documented line by line.

    python main.py --config=configs/image_folder_kd.py:teacher=runs/mine --workdir=runs/student \
      --config.data.source=folder:DIR

DIR holds train/CLASS/*.jpg, and perhaps validation/CLASS and test/CLASS. `teacher` is a directory
that a run of this package made, or a file that it exported; the teacher must know the classes of
DIR under the same names. Without `teacher` a larger network is trained first, with labels alone,
into <workdir>/teacher. Read `get_config` below: each line says what it decides, and what to write
instead. images_kd.py is the same for small images, in fewer lines. This is a starting point for
data of your own, not a row of a table.

Options: `teacher`, see above; `student`, any network of `kdaug_jax.models.names()`; `side`, of what
the networks see in pixels (224); `epochs` (100); `holdout`, the share of each class that is taken
out of train for validation where there is no validation folder (0.15), 0 to require one; `test`, to
report on the test folder; `smoke`.
"""

from __future__ import annotations

from configs.common import SMOKE_SIDE, check, imagenet_network, parse_arg, shrink
from kdaug_jax.experiment.sections import ConfigDict, default, optimizer, term

SMALL = {
    name: (name, dict(width=0.125)) for name in ("tv_resnet18", "tv_resnet34", "tv_resnet50")
}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(
        arg, teacher="", student="tv_resnet18", side=224, epochs=100.0, holdout=0.15, test=False,
    )
    check(options.side >= 32, f"option side={options.side}", "at least 32")
    check(0 <= options.holdout < 1, f"option holdout={options.holdout}", "0 or more, less than 1")
    check(options.epochs > 0, f"option epochs={options.epochs}", "more than 0")
    check(not (options.smoke and options.teacher), "option teacher of the smoke form, whose images "
          "are made up", "drop one of them")
    side = SMOKE_SIDE if options.smoke else options.side
    config = default()  # all fields with their defaults, see docs/config.md
    with config.unlocked():  # sections may be added until the end of this block

        # Data. Photographs of any sizes; they are decoded and cropped on the CPUs, ahead of time.
        config.data.source = "folder:data/photographs"
        # Examples of a step over all devices; at most the number of training photographs.
        config.data.batch_size = 128
        # Split that is reported at the end; "" reports the validation split.
        config.data.test = "test" if options.test else ""
        if options.holdout:
            # One text for both: the first takes what is left, the second what is held out.
            config.data.train = config.data.validation = f"holdout({100 * options.holdout:g}%)"

        # What is trained on. A crop of random area and shape, resized to a square; a random flip;
        # one random op of random strength. Add "|mixup(0.2)" for small data sets, and look at the
        # result with --mode=preview.
        config.views.x = f"random_resized_crop({side})|flip|trivialaugment_wide()"
        # What is evaluated: the middle of the photograph, seven eighths of its shorter side.
        config.eval.view = f"resize_shorter({side * 8 // 7})|crop_center({side})"

        # The network that learns. Pixels are normalised with ImageNet's statistics, as those of
        # imported weights are; leave mean and std out for the statistics of your photographs.
        config.networks.student = imagenet_network(options.student, trainable=True)
        # The network that teaches. It is not trained with the student and runs in inference mode.
        if options.teacher:
            # Its architecture, classes and normalisation are read from the checkpoint.
            # "DIR@best" takes the best checkpoint of a run instead of the last.
            config.networks.teacher = imagenet_network("", checkpoint=options.teacher)
        else:
            # Trained first, by this config with the changes listed in `recipe`.
            config.networks.teacher = imagenet_network(
                "tv_resnet50", recipe=(("terms.ce.label_smoothing", 0.1),)
            )

        # What is minimised: the sum of the terms, each times its weight. First the labels.
        config.terms.ce = term("cross_entropy", on=("x",), weight=0.5, gradient_group="task")
        # Then the teacher's answers on the very same crops. A higher temperature shows more of its
        # smaller probabilities; 1 is usual for many classes, 4 for few.
        config.terms.kd = term(
            "kl", on=("x",), teacher="teacher", temperature=2.0, weight=0.5,
            gradient_group="distill",
        )

        # How: SGD with Nesterov momentum; the rate rises for 5 epochs, then falls to 0.
        config.optim = optimizer(
            "sgd",
            dict(name="cosine", base=0.05, unit="epoch", warmup=min(5.0, options.epochs / 10),
                 end=0.0),
            momentum=0.9, nesterov=True, weight_decay=1e-4,
            # Biases and BatchNorm do not decay; gradients of a larger norm are scaled down.
            decay="kernels", clip_norm=5.0,
        )
        # Passes over the training photographs. Distillation gains from long training.
        config.train.epochs = options.epochs
        # How often the validation split is evaluated and the state saved. The best checkpoint is
        # kept beside the last two.
        config.eval.every_epochs = config.checkpoint.every_epochs = 5.0
        config.eval.metrics = ("accuracy", "nll", "ece")
        if options.smoke:  # made-up photographs, small networks, seconds
            shrink(config, SMALL, f"synthetic:{2 * side}x{3 * side},4,64")
            config.data.crop = "host"
    return config.lock()  # fields may still be overridden on the command line, none added
