"""Folders of JPEGs of many sizes: pieces of scikit-learn's two photographs with shapes on them."""

import os

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

CLASSES = ("circle", "cross", "square", "triangle")


def photographs(directory, counts, *, classes=CLASSES, smallest=40, largest=120, seed=0):
    """Writes DIR/SPLIT/CLASS/*.jpg, no two sizes alike but by chance, and returns DIR.

    Args:
      directory: a path.
      counts: images a class by split, `{"train": 400}`.
      classes: names; the shape drawn is that of the number of the class.
      smallest, largest: sides in pixels.
      seed: of sizes, places and colours.
    """
    random = np.random.RandomState(seed)
    sources = [Image.fromarray(image) for image in load_sample_images().images]
    for split, count in counts.items():
        for number, name in enumerate(classes):
            folder = directory / split / name
            os.makedirs(folder, exist_ok=True)
            for position in range(count):
                image = photograph(random, sources, number, smallest, largest)
                image.save(folder / f"{position:04d}.jpg", quality=90)
    return directory


def photograph(random, sources, number, smallest, largest):
    """Makes one image: a piece of a photograph and the shape of a class in a colour of its own."""
    width, height = random.randint(smallest, largest + 1, 2)
    source = sources[random.randint(len(sources))]
    left, top = random.randint(source.width - width), random.randint(source.height - height)
    image = source.crop((left, top, left + width, top + height))
    side = int(0.6 * min(width, height))
    x, y = random.randint(width - side + 1), random.randint(height - side + 1)
    draw, colour = ImageDraw.Draw(image), tuple(random.randint(0, 256, 3).tolist())
    box, middle = (x, y, x + side - 1, y + side - 1), (x + side // 2, y + side // 2)
    kind = number % 4
    if kind == 0:
        draw.ellipse(box, fill=colour)
    elif kind == 1:
        draw.line((x, y, x + side, y + side), colour, max(side // 6, 2))
        draw.line((x, y + side, x + side, y), colour, max(side // 6, 2))
    elif kind == 2:
        draw.rectangle(box, fill=colour)
    else:
        draw.polygon([(middle[0], y), (x, y + side), (x + side, y + side)], fill=colour)
    return image
