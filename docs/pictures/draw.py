"""Draws the pictures of README.md and of these pages.

    python docs/pictures/draw.py gallery --teacher=runs/fashion/teacher --data=idx:DIR
    python docs/pictures/draw.py results runs/digits_compare
    python docs/pictures/draw.py life

The teacher is that of docs/your-images.md, "Another data set, same experiment", trained for 6
epochs (`--config.networks.teacher.recipe` with `train.epochs` 6.0: 81.9 % on the validation split);
the runs of `results` are those of `make demo`.
"""

import argparse
import html
import json
from pathlib import Path

import jax
import numpy as np

HERE = Path(__file__).parent
MAGNITUDES = (0, 1, 2, 3, 5, 7)
CLASSES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
           "boot")
SHOWN = (1, 5, 7, 9)  # classes, one image each
COLOURS = ("#D55E00", "#0072B2")  # of Okabe and Ito, told apart by all readers


def gallery(teacher: str, source: str, path: Path) -> None:
    """Draws a row for each image and a column for each magnitude, with the teacher's answers."""
    from kdaug_jax import data
    from kdaug_jax.analysis.pictures import image_grid
    from kdaug_jax.experiment import views
    from kdaug_jax.experiment.frozen.standalone import load_one

    network = load_one(teacher, say=print)
    test = data.load_test(source).splits["test"]
    chosen = np.asarray([np.flatnonzero(test.label == number)[3] for number in SHOWN])
    images = np.asarray(test.reader.read(test.index[chosen]))
    images = np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images
    keys = jax.random.split(jax.random.key(1), len(images))
    columns = [
        np.asarray(jax.jit(views.build_augment(f"wei2020(2, {m})"))(keys, images))
        for m in MAGNITUDES
    ]
    captions, titles = [], []
    for row in range(len(images)):
        views_of_row = np.stack([column[row] for column in columns])
        outputs, _ = network.model.apply(network.variables, views_of_row, train=False)
        answers = np.asarray(jax.nn.softmax(outputs.logits))
        captions.append([
            "\n".join([f"M = {m}", *(f"{100 * answer[c]:.0f} % {CLASSES[c]}"
                                     for c in np.argsort(-answer)[:2]), ""])
            for m, answer in zip(MAGNITUDES, answers, strict=True)
        ])
        titles.append(f"label: {CLASSES[test.label[chosen[row]]]}")
    rows = [np.stack([column[row] for column in columns]) for row in range(len(images))]
    image_grid(path, titles, rows, captions)


def results(directory: Path, path: Path) -> None:
    """Draws accuracy and likelihood of each run, with and without distillation."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    members = json.loads((directory / "results.json").read_text())
    figure = Figure(figsize=(7.5, 2.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = (("eval/test/accuracy", 100, "test accuracy in %"),
              ("eval/test/nll", 1, "test negative log-likelihood"))
    for axis, (metric, factor, label) in zip(figure.subplots(1, 2), panels, strict=True):
        for row, weight in enumerate(("0.0", "1.0")):
            values = [factor * scores[metric] for name, scores in members.items()
                      if f"terms.kd.weight={weight}," in name and metric in scores]
            axis.scatter(values, [row] * len(values), s=50, color=COLOURS[row], alpha=0.8)
            axis.plot([np.mean(values)] * 2, [row - 0.25, row + 0.25], color=COLOURS[row], lw=3)
        axis.set_yticks([0, 1], ["labels alone", "with a teacher"])
        axis.set_ylim(1.6, -0.6)
        axis.set_xlabel(label)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, format="png")


BATCH = (
    ("files or arrays", "index: names, labels, sizes", "#eeeeee"),
    ("order", "position = f(seed, epoch)", "#eeeeee"),
    ("reading", "decoded, leading crop cut (hosts)", "#dde8f4"),
    ("u8 batch on the devices", "images, labels, positions", "#dde8f4"),
    ("views", "keys = f(seed, view, stage, epoch, position)", "#dcefe4"),
    ("networks on views", "student@x, teacher@x: logits, features", "#dcefe4"),
    ("terms", "one number each, times its weight", "#dcefe4"),
    ("gradients by group", "task, distill; summed over devices", "#fbe9d9"),
    ("update", "optimiser, averages, BatchNorm; withheld if not finite", "#fbe9d9"),
    ("row of metrics, checkpoint", "(sum, count) reduced once; manifest of digests", "#eeeeee"),
)
NUMBER = (
    ("config file or command line", "terms.kd.weight = 0.5", "#eeeeee"),
    ("validate", "type and range of fields.py", "#eeeeee"),
    ("population and phases", "one value a member and a phase", "#dde8f4"),
    ("hparams", "{path: f32[]}, an argument of the step", "#dcefe4"),
    ("schedule", "value at this step", "#dcefe4"),
    ("term, view or optimiser", "a traced number: no new compilation", "#fbe9d9"),
)


def life(path: Path) -> None:
    """Writes the two chains of docs/life.md as one SVG."""
    width, height, gap = 330, 46, 22
    parts = []
    for column, (title, chain) in enumerate((("a batch", BATCH), ("a hyper-parameter", NUMBER))):
        left = 10 + column * (width + 40)
        parts.append(f'<text x="{left + width / 2}" y="22" class="t">Life of {title}</text>')
        for row, (name, text, colour) in enumerate(chain):
            top = 36 + row * (height + gap)
            parts.append(
                f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="6" '
                f'fill="{colour}" stroke="#555"/>'
                f'<text x="{left + width / 2}" y="{top + 19}" class="n">{html.escape(name)}</text>'
                f'<text x="{left + width / 2}" y="{top + 36}" class="s">{html.escape(text)}</text>'
            )
            if row + 1 < len(chain):
                middle, start = left + width / 2, top + height
                parts.append(f'<path d="M{middle} {start} v{gap - 2}" class="a"/>')
    total = 36 + len(BATCH) * (height + gap)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {total}" role="img">\n'
        "<title>Life of a batch and of a hyper-parameter</title>\n"
        "<style>text{font-family:sans-serif;text-anchor:middle;fill:#111}.t{font-size:15px;"
        "font-weight:bold;fill:#888}.n{font-size:14px;font-weight:bold}.s{font-size:12px}"
        ".a{stroke:#888;stroke-width:2;fill:none;marker-end:url(#e)}</style>\n"
        '<defs><marker id="e" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" '
        'markerHeight="6" orient="auto"><path d="M0 0L8 4L0 8z" fill="#888"/></marker></defs>\n'
        + "\n".join(parts) + "\n</svg>\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", choices=("gallery", "results", "life"))
    parser.add_argument("directory", nargs="?", default="runs/digits_compare", type=Path)
    parser.add_argument("--teacher", default="runs/fashion/teacher")
    parser.add_argument("--data", default="idx:/usr/share/datasets/fashion-mnist")
    options = parser.parse_args()
    if options.picture == "gallery":
        gallery(options.teacher, options.data, HERE / "gallery.png")
    elif options.picture == "results":
        results(options.directory, HERE / "results.png")
    else:
        life(HERE / "life.svg")
