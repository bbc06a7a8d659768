"""Population based augmentation on handwritten digits: 16 policies compete on a CPU.

The search of PBA (Ho et al. 2019), which paper 003 runs for its teachers and students, in small:
16 runs of LeNet on 1,200 real images, all without augmentation at first. Every 3 epochs the worst
quarter copies members of the best one and goes on with changed policies.

    python main.py --config=configs/digits_search.py --workdir=runs/digits_search
    python main.py --config=configs/digits_search.py:schedule=runs/digits_search/schedule.json \
        --workdir=runs/digits_replay

The first command searches and writes `schedule.json`, see docs/search.md; the second trains with
that schedule three times. Options after a colon: `smoke` (synthetic data, seconds); `schedule`, a
file to train with instead of searching; `plain`, to train without policies, which is what a
schedule is to be compared with.

No figure is printed for this data: paper and PBA search on CIFAR-10 and SVHN.
"""

from __future__ import annotations

from configs.common import parse_arg, shrink
from kdaug_jax.experiment.sections import ConfigDict, default, network, term


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(arg, schedule="", plain=False)
    searches = not (options.schedule or options.plain)
    policy = "pba" if searches else f"schedule({options.schedule!r})" if options.schedule else ""
    config = default()
    with config.unlocked():
        config.mode = "search" if searches else "train"
        config.data.source = "digits"
        config.data.batch_size = 60
        config.views.x = "|".join(filter(None, (policy, "pad_crop(2)")))
        config.networks.student = network("lenet_vrm", trainable=True)
        config.terms.ce = term("cross_entropy", on=("x",), weight=1.0, gradient_group="task")
        config.optim.schedule = dict(name="cosine", base=0.05, unit="epoch", warmup=1.0, end=0.0)
        config.optim.momentum = 0.9
        config.optim.nesterov = True
        config.optim.weight_decay = 5e-4
        config.optim.clip_norm = 5.0
        config.train.epochs = 30.0
        config.log.every_steps = 100
        config.eval.every_epochs = 10.0
        config.checkpoint.every_epochs = 6.0
        config.search.name = "pba"
        if not searches:
            config.population = (("seed", (0, 1, 2)),)
        if options.smoke:
            shrink(config, {}, "synthetic:32x32,10,64")
            config.search.members = 4
            config.search.interval = 1
    return config.lock()
