"""What README.md shows for images of one's own, typed as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_config_of_the_readme_trains(tmp_path, run, capsys):
    text = (ROOT / "README.md").read_text()
    shown = re.search(r"```python\n(from kdaug_jax.*?)```", text, re.DOTALL)
    config = shown[1].replace("epochs = 50.0", "epochs = 2.0").replace("30.0", "1.0")
    (tmp_path / "mine.py").write_text(config)
    words = [f"--config={tmp_path}/mine.py", f"--workdir={tmp_path}/first"]
    assert run(*words, "--config.train.allow_weak_teacher=True") == 0
    assert "student (lenet_vrm)" in capsys.readouterr().out


@pytest.mark.slow
def test_own_images_in_five_lines(tmp_path):
    random = np.random.default_rng(0)
    for number, name in enumerate(("cat", "dog", "owl")):
        folder = tmp_path / "data" / "photos" / "train" / name
        folder.mkdir(parents=True)
        for image in range(40):
            height, width = random.integers(24, 40, 2)
            pixels = random.normal(60 + 60 * number, 20, (height, width, 3)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{image}.jpg")
    text = (ROOT / "README.md").read_text()
    block = re.search(r"```sh\n(mine\(\).*?)^```", text, re.DOTALL | re.MULTILINE)[1]
    # Small and short; all else as it stands.
    small = block.replace(
        "images_kd.py", "images_kd.py:side=16,epochs=1 --config.train.allow_weak_teacher=True"
    )
    assert small != block
    for name in ("main.py", "configs", "kdaug_jax"):
        (tmp_path / name).symlink_to(ROOT / name)
    shell = subprocess.run(
        ["bash", "-euc", f'python() {{ "{sys.executable}" "$@"; }}\n{small}'], cwd=tmp_path,
        capture_output=True, text=True, check=False, timeout=900,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert shell.returncode == 0, shell.stdout[-2000:] + shell.stderr[-2000:]
    assert (tmp_path / "runs" / "mine" / "preview.png").exists()
    assert re.search(r"%  (cat|dog|owl)\n", shell.stdout)
