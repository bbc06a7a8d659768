"""The true reason of what is refused, and names that no terminal obeys."""

import gzip
import io
import struct
import subprocess
import sys
import unicodedata

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from kdaug_jax import data
from kdaug_jax.data.recorded import class_changes
from kdaug_jax.data.sources.idx import read as read_idx
from kdaug_jax.deploy import artifact, predict
from kdaug_jax.errors import ConfigError, DataError, distinct
from kdaug_jax.evaluation.evaluate_run import evaluate_run
from kdaug_jax.experiment import config as configs
from kdaug_jax.images.decode import decode
from kdaug_jax.runtime import workdir
from kdaug_jax.runtime.console import Console, table, write_lines
from kdaug_jax.runtime.model_card import ModelCard
from kdaug_jax.training import loop
from tests.bad_input.helpers import ROOT
from tests.conftest import tiny_config

# Clears a screen, begins a line, turns the direction of writing round.
HOSTILE = "ant\x1b[2J\n\r\u202ebee\u2028"
SHOWN = r"ant\x1b[2J\n\r\u202ebee\u2028"
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def save(path, size=(6, 8), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path, **options)


def turned(orientation=6):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_one_function_shows_names():
    stream = io.StringIO()
    console = Console(stream)
    write_lines(HOSTILE, "fine · é", stream=stream)
    console.say(HOSTILE, "second")
    console.progress(0.5, HOSTILE)
    console.say(table([("member", HOSTILE), (HOSTILE, "1")]).split("\n")[0])
    lines = stream.getvalue().split("\n")
    assert lines[:5] == [SHOWN, "fine · é", SHOWN, "second", SHOWN]
    assert SHOWN in lines[5] and lines[6:] == [""]
    assert str(ConfigError(HOSTILE, HOSTILE, HOSTILE)) == f"{SHOWN}: {SHOWN}; {SHOWN}"


def test_names_of_classes_and_files_never_break_a_line(tmp_path, capsys):
    for name in (HOSTILE, "bee"):
        for number in range(2):
            save(tmp_path / "train" / name / f"{number}{HOSTILE}.png", exif=turned())
    (tmp_path / "train" / "bee" / f"{HOSTILE}.txt").write_text("")
    stream = io.StringIO()
    options = data.ReadOptions(say=Console(stream).say, bad_images="skip")
    dataset = data.load(f"folder:{tmp_path}", {"train": "train"}, options)
    assert set(dataset.class_names) == {HOSTILE, "bee"}
    (tmp_path / "train" / HOSTILE / f"0{HOSTILE}.png").write_bytes(b"no image")
    data.load(f"folder:{tmp_path}", {"train": "train"}, options)
    said = stream.getvalue()
    assert said.count("\n") >= 3 and "cannot be decoded" in said and SHOWN in said
    for letter in HOSTILE:
        assert letter.isalnum() or letter in "[\n" or letter not in said
    with pytest.raises(DataError) as caught:
        data.load(f"folder:{tmp_path}", {"train": "train"})
    assert SHOWN in str(caught.value) and str(caught.value).isprintable()


def test_predict_shows_names_on_one_line(tmp_path, monkeypatch, capsys):
    card = ModelCard("tiny", 2, (6, 8), (0.0,) * 3, (1.0,) * 3, (HOSTILE, "bee"), member=HOSTILE)
    monkeypatch.setattr(artifact, "read", lambda path, packed: (
        card, lambda image: jnp.zeros((len(image), 2)),
    ))
    save(tmp_path / f"{HOSTILE}.png")
    assert predict.main([f"--model={tmp_path}", str(tmp_path / f"{HOSTILE}.png")]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 3 and SHOWN in shown.out and "\x1b" not in shown.out
    assert shown.err.count("\n") == 1 and SHOWN in shown.err and "\x1b" not in shown.err


def test_a_jpeg_of_twelve_bits_is_told():
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(stream, "JPEG")
    content = bytearray(stream.getvalue())
    frame = content.index(b"\xff\xc0")
    content[frame + 4] = 12
    with pytest.raises(DataError, match="image 3 is a JPEG of 12 bits a channel, which is not dec"):
        decode(bytes(content), "a.jpg", 3)
    content[frame + 4] = 8
    assert decode(bytes(content), "a.jpg", 3).shape == (8, 8, 3)


@pytest.mark.parametrize("exif, said", [
    ("ignore", "8×6 as it is stored, and its EXIF turns it, which data.exif='apply' applies"),
    ("apply", "6×8 as its EXIF turns it, which data.exif='ignore' does not apply"),
])
@pytest.mark.parametrize("packed", [False, True])
def test_sizes_that_only_a_turn_tells_apart(tmp_path, exif, said, packed):
    # As they are shown: three of one size. As they are stored: one is on its side, or the turned.
    turned_size, size = ((6, 8), (8, 6)) if exif == "ignore" else ((6, 8), (6, 8))
    for number in range(3):
        save(tmp_path / "set" / "train" / "ant" / f"{number}.jpg", size)
    save(tmp_path / "set" / "train" / "ant" / "3.jpg", turned_size, exif=turned())
    source = f"folder:{tmp_path / 'set'}"
    if packed:
        import tarfile

        with tarfile.open(tmp_path / "set-train.tar", "w") as archive:
            for file in sorted((tmp_path / "set").rglob("*.jpg")):
                archive.add(file, f"{file.stem}.jpg")
                label = tarfile.TarInfo(f"{file.stem}.cls")
                label.size = 1
                archive.addfile(label, io.BytesIO(b"0"))
        source = f"tar:{tmp_path / 'set-train.tar'}"
    options = data.ReadOptions(exif=exif, say=lambda line: None)
    split = data.load(source, {"train": "train"}, options).splits["train"]
    assert said in data.describe_sizes(split)


def test_predict_tells_that_exif_notes_a_turn(tmp_path):
    card = ModelCard("tiny", 2, (8, 6), (0.0,) * 3, (1.0,) * 3)
    save(tmp_path / "a.jpg", (6, 8), exif=turned())
    with pytest.raises(DataError, match="8×6 pixels .its EXIF notes a turn, and the run has data"):
        predict.read_image(tmp_path / "a.jpg", 0, card, False)
    save(tmp_path / "b.jpg", (6, 8))
    with pytest.raises(DataError, match="has 8×6 pixels, the network takes 6×8; resize it"):
        predict.read_image(tmp_path / "b.jpg", 0, card, False)


def test_bombs_are_told_by_their_size(tmp_path, monkeypatch):
    content = struct.pack(">4B3I", 0, 0, 8, 3, 2, 2, 2) + bytes(50_000_000)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(content, 1))
    with pytest.raises(DataError, match="holds 25 bytes; its header says 24: fetch it again"):
        read_idx(path, 3)
    monkeypatch.setattr("kdaug_jax.images.decode.MAX_PIXELS", 40)
    save(tmp_path / "a.png", (6, 8))
    card = ModelCard("tiny", 2, (8, 6), (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(DataError, match="has 8×6 pixels, and 40 is the limit; make it smaller"):
        predict.read_image(tmp_path / "a.png", 0, card, False)


def test_what_pillow_logs_is_no_second_line(tmp_path):
    """A TIFF of 14,595 samples a pixel."""
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "TIFF")
    tag = struct.pack("<HHIH", 277, 3, 1, 3)
    assert tag in content.getvalue()
    file = tmp_path / "a.tif"
    file.write_bytes(content.getvalue().replace(tag, struct.pack("<HHIH", 277, 3, 1, 14595)))
    script = (
        "import sys; from kdaug_jax.images.decode import *\n"
        "try: open_image(open(sys.argv[1], 'rb').read(), 'here', 0)\n"
        "except DataError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.startswith("here: image 0 is not a PNG") and done.stderr == ""


def test_names_in_two_unicode_forms(tmp_path):
    assert NFC != NFD and distinct("ant", "Ant") == ("ant", "Ant")
    assert distinct(NFC, NFD) == (r"caf\xe9", r"cafe\u0301")
    (line,) = class_changes(["bee", NFC], ["bee", NFD])
    assert line == r"class 1 was 'caf\xe9' and is 'cafe\u0301'"
    save(tmp_path / NFD / "train" / "ant" / "1.png")
    with pytest.raises(DataError, match="is not there, but 'cafe.u0301' of another Unicode form"):
        data.load(f"folder:{tmp_path / NFC}", {"train": "train"})
    with pytest.raises(ConfigError, match="of another Unicode form is; write the name as it is st"):
        workdir.place("--workdir", tmp_path / NFC / "run")
    assert workdir.place("--workdir", tmp_path / "new" / NFC) == tmp_path / "new" / NFC
    save(tmp_path / "set" / "train" / "ant" / "1.png")
    save(tmp_path / "set" / "val" / f"{NFD}.png")
    (tmp_path / "labels.csv").write_text(f"{NFC}.png,ant\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"names 'caf.xe9.png', and the file is called 'cafe.u0301"):
        data.load(
            f"folder:{tmp_path / 'set'}?val_labels={tmp_path / 'labels.csv'}",
            {"validation": "validation"},
        )


def test_links_that_lead_back_to_themselves(tmp_path):
    save(tmp_path / "set" / "train" / "ant" / "1.png")
    (tmp_path / "set" / "train" / "ant" / "2.png").symlink_to("2.png")
    with pytest.raises(DataError, match="cannot be followed .its links lead back to themselves.; "):
        data.load(f"folder:{tmp_path / 'set'}", {"train": "train"})
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match="its links lead back to themselves"):
        data.load(f"folder:{tmp_path / 'loop'}", {"train": "train"})
    with pytest.raises(ConfigError, match="its links lead back to themselves"):
        workdir.place("--workdir", tmp_path / "loop" / "run")


def test_evaluation_depends_on_the_batch_of_the_run_alone(tmp_path, run):
    made = tiny_config(train=dict(accumulate=2, epochs=1.0))
    loop.train(made, tmp_path / "w", stream=io.StringIO())
    wanted = evaluate_run(made, tmp_path / "w", stream=io.StringIO())
    made.data.batch_size, made.data.seed = 7, 5  # 7 is no multiple of devices or micro-batches
    with pytest.raises(ConfigError, match="2 micro-batches cannot share"):
        configs.validate(made)
    made.mode = "evaluate"
    assert evaluate_run(made, tmp_path / "w", stream=io.StringIO()) == wanted
    (tmp_path / "config.py").write_text(
        "from tests.conftest import tiny_config\n"
        "def get_config():\n    return tiny_config(train=dict(accumulate=2, epochs=1.0))\n"
    )
    words = [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'w'}"]
    assert run(*words, "--mode=evaluate", "--config.data.batch_size=7") == 0
