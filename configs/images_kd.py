"""Distillation on a folder of your own images, of whatever sizes they are.

    python main.py --config=configs/images_kd.py --workdir=runs/mine \
      --config.data.source=folder:DIR

DIR holds train/CLASS/*.jpg, and perhaps validation/ and test/ of the same classes; or the class
folders alone, DIR/CLASS/*.jpg. Folders below a class belong to it. `--mode=preview` draws what the
networks would see.

--config.data.alpha=white (or black) puts pictures with transparency on a background;
--config.data.exif=apply turns photographs that a camera stored on their side;
--config.data.bad_images=skip takes the next picture where one cannot be decoded.

A teacher is trained first, then a smaller student with cross entropy on the labels and KL
(Hinton et al. 2015) to the teacher's answers on the very same augmented images. Crops are those of
ImageNet training (Szegedy et al. 2015), each at another place and scale of the stored image, then
flips and TrivialAugment; evaluation sees the middle square. This is a starting point for data of
your own, not a row of a table.

Options: `side`, of what the networks see in pixels (64); `holdout`, the share of each class that is
taken out of train for validation at random where there is no validation folder (0.15), 0 to require
one; `test`, to report on the test folder; `kd=False` for the student alone; `epochs` (40); `smoke`.
"""

from __future__ import annotations

from configs.common import SMOKE_SIDE, check, parse_arg, shrink
from kdaug_jax.experiment.sections import ConfigDict, default, network, term


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(arg, side=64, holdout=0.15, test=False, kd=True, epochs=40.0)
    check(options.side >= 8, f"option side={options.side}", "at least 8")
    check(0 <= options.holdout < 1, f"option holdout={options.holdout}", "0 or more, less than 1")
    check(options.epochs > 0, f"option epochs={options.epochs}", "more than 0")
    side = SMOKE_SIDE if options.smoke else options.side
    config = default()
    with config.unlocked():
        config.data.source = "folder:data/images"
        config.data.batch_size = 64
        config.data.test = "test" if options.test else ""
        if options.holdout:
            config.data.train = config.data.validation = f"holdout({100 * options.holdout:g}%)"
        config.views.x = f"random_resized_crop({side})|flip|trivialaugment_wide()"
        config.eval.view = f"center_crop({side})"
        config.networks.student = network("resnet8", trainable=True)
        config.terms.ce = term("cross_entropy", on=("x",), weight=1.0, gradient_group="task")
        if options.kd:
            config.networks.teacher = network("resnet20", recipe=(("optim.schedule.base", 0.1),))
            config.terms.kd = term(
                "kl", on=("x",), teacher="teacher", temperature=4.0, weight=1.0,
                gradient_group="distill",
            )
        config.optim.schedule = dict(
            name="cosine", base=0.05, unit="epoch", warmup=min(2.0, options.epochs / 10), end=0.0
        )
        config.optim.momentum = 0.9
        config.optim.nesterov = True
        config.optim.weight_decay = 5e-4
        config.optim.clip_norm = 5.0
        config.train.epochs = options.epochs
        config.eval.every_epochs = config.checkpoint.every_epochs = 5.0
        if options.smoke:
            shrink(config, {"resnet20": "resnet8"}, f"synthetic:{2 * side}x{3 * side},4,64")
            config.data.crop = "host"
    return config.lock()
