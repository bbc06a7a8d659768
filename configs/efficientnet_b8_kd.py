"""EfficientNet-B8 on ImageNet, taught by a distilled EfficientNet-B7 (paper 000).

Wei et al. 2020, "Circumventing Outliers of AutoAugment with Knowledge Distillation", Tables 3, 4.

    python main.py --config=configs/efficientnet_b8_kd.py --workdir=runs/b8_kd \
      --config.data.source=folder:data/imagenet --config.precision=bfloat16 \
      --config.networks.teacher.checkpoint=runs/b7_kd

| row | options | top-1 |
|---|---|---|
| Table 3, ours | (none) | 85.7 |
| Table 4, ours, tested at 800 pixels | `test_side=800` | 85.8 |

One run each, no spread. AA (84.8), RA (85.4) and AdvProp (85.5) are quoted in the table; the
authors have no run of their own without distillation, which `kd=False` would be.

The teacher is the run of efficientnet_b7_kd.py (85.5). Without
--config.networks.teacher.checkpoint the run makes it first, and that one's own teacher before it,
three trainings one inside the other: <workdir>/teacher/teacher, <workdir>/teacher, <workdir>.
It sees the student's view at 672 pixels, though it was trained at 600: the paper does not say.

Options: `kd`; `k` (50); `weight`, λ (2.0); `magnitude` (28), "the same as in training B7";
`test_side`; `epochs`, `space`, `teacher_policy` (of the innermost teacher) and `holdout` as in
efficientnet_b0_kd.py, where the recipe, what of it is from the cited code, and where ImageNet is
looked for stand too; `smoke`.

Cost: 4 x 62.6 billion multiply-adds an image for the student, which computes its blocks again in
the backward pass, and 1 x 47 for the teacher at 672 pixels, 1.9e20 for the run without its
teachers. It has not been run here.
"""

from __future__ import annotations

from configs import efficientnet_b7_kd
from configs.common import EFFICIENTNET_OPTIONS, efficientnet, imagenet_network, one_of, parse_arg
from kdaug_jax.experiment.sections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(
        arg, **EFFICIENTNET_OPTIONS, k=50, weight=2.0, magnitude=28, test_side=one_of(672, 800)
    )
    config = efficientnet("b8", options, distilled_teacher(options), devices=256)
    if options.test_side != 672 and not options.smoke:
        config.eval.view = f"efficientnet_crop({options.test_side})"
    return config.lock()


def distilled_teacher(options: ConfigDict) -> dict:
    """Returns the section of the EfficientNet-B7 that efficientnet_b7_kd.py trains."""
    shared = ("epochs", "space", "teacher_policy", "smoke")
    b7 = efficientnet_b7_kd.get_config(",".join(f"{name}={options[name]}" for name in shared))
    return imagenet_network(
        "efficientnet_b7",
        options=b7.networks.student.options.to_dict(),
        recipe=(
            ("networks", b7.networks.to_dict()),
            ("terms", b7.terms.to_dict()),
            ("views.x", b7.views.x),
            ("eval.view", b7.eval.view),
        ),
    )
