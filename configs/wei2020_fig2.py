"""EfficientNet-B0 on ImageNet without distillation, from no to far too much augmentation (000).

Wei et al. 2020, "Circumventing Outliers of AutoAugment with Knowledge Distillation", Figure 2,
right: training loss and validation accuracy over the epochs, for rising magnitudes of RandAugment.

| curve | options |
|---|---|
| no augmentation | `magnitude=0` |
| where validation accuracy is best | `magnitude=9` |
| between | `magnitude=18`, `magnitude=27` |
| "lower than the baseline without AutoAugment" | `magnitude=36` |

    python main.py --config=configs/wei2020_fig2.py:magnitude=9 --workdir=runs/fig2/m9 \
      --config.data.source=folder:data/imagenet --config.precision=bfloat16

The paper prints curves, no numbers, and names the magnitudes 0 and 36 only; the others are our
choice. All five are the experiment `figure-2` of several runs. Training loss is `train/loss` in
metrics.jsonl and TensorBoard, accuracy `eval/validation/accuracy`.

Options: `magnitude` (9); `epochs`, `space`, `ops`, `replica_batch` and `holdout` as in
efficientnet_b0_kd.py with `kd=False`, whose recipe this is; `smoke`.

Cost: 3 x 0.386 billion multiply-adds an image, 0.7e18 a run. It has not been run here.
"""

from __future__ import annotations

from configs import efficientnet_b0_kd
from configs.common import one_of, parse_arg
from kdaug_jax.experiment.rows import Cell, Row
from kdaug_jax.experiment.sections import ConfigDict

MAGNITUDES = (0, 9, 18, 27, 36)
PAPER = "000"
ROWS = tuple(
    Row("Figure 2", f"figure2-m{m}", f"magnitude={m}", {}, note="right; the paper prints a curve")
    for m in MAGNITUDES
)
CELLS = {"figure-2": tuple(Cell(f"m{m}", f"magnitude={m}") for m in MAGNITUDES)}
# Of Figure 2 the images; its curves are the rows.
FIGURES = {
    f"Figure {number}": f"python -m kdaug_jax.analysis.gallery figure{number}.png --figure={number}"
    for number in (1, 2, 3)
}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(
        arg, magnitude=one_of(9, *(m for m in MAGNITUDES if m != 9)), epochs=500.0,
        space=one_of("tpu_clean", "tpu"), ops=one_of("tpu", "wei2020"), replica_batch=0,
        holdout=False,
    )
    given = ",".join(f"{name}={options[name]}" for name in options.given)
    return efficientnet_b0_kd.get_config(f"kd=False,{given}")
