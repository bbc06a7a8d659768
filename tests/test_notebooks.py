"""The notebooks run as they are, in a short form, and hold no outputs in git."""

import json
import os
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Lines that replace values of the cell tagged "parameters".
SMALL = {
    "01_augmentation": "SIDE, COPIES = 32, 2",
    "02_compose_a_step": "STEPS, TEACHER_STEPS, SEEDS, BATCH = 4, 2, 2, 20",
    "03_gain_by_magnitude": "EPOCHS, TEACHER_EPOCHS, MAGNITUDES = 2.0, 2.0, (0, 3)",
    "04_your_photographs": "TEACHER_EPOCHS, EPOCHS = 2, 2.0",
    "05_read_runs": "EPOCHS, SEEDS = 2.0, (0, 1)",
    "06_many_devices": "EPOCHS = 2.0",
}
IN_CI = ("01_augmentation", "02_compose_a_step", "05_read_runs")


def cells(path, kind):
    notebook = json.loads(path.read_text())
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def executed(path, folder, monkeypatch):
    """Executes a notebook with small values and returns all that its cells showed."""
    nbformat = pytest.importorskip("nbformat", reason="not installed: make install-dev")
    nbclient = pytest.importorskip("nbclient", reason="not installed: make install-dev")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    ))
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source += "\n" + SMALL[path.stem]
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def test_all_notebooks_have_a_short_form():
    assert sorted(SMALL) == [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stripped_and_opens_with_what_the_reader_will_have(path):
    code = cells(path, "code")
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert "At the end you will have" in source(cells(path, "markdown")[0])
    assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in code) == 1


def test_first_cells_install_from_the_address_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    address = project["urls"]["Repository"]
    first = {source(cells(path, "code")[0]) for path in NOTEBOOKS}
    assert len(first) == 1 and f'"git+{address}"' in first.pop()


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=() if path.stem in IN_CI else pytest.mark.slow, id=path.stem)
     for path in NOTEBOOKS],
)
# Of the client's event loop and sockets, which are not ours.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    outputs = executed(path, tmp_path, monkeypatch)
    assert not [output for output in outputs if output.output_type == "error"]
    assert path.stem == "06_many_devices" or any(
        "image/png" in output.get("data", ()) for output in outputs
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_photographs_do_without_pytorch(tmp_path, monkeypatch):
    path = next(path for path in NOTEBOOKS if path.stem == "04_your_photographs")
    hide = "import sys\nsys.modules['torch'] = None\nHAS_TORCH = False"
    monkeypatch.setitem(SMALL, path.stem, f"{SMALL[path.stem]}\n{hide}")
    outputs = executed(path, tmp_path, monkeypatch)
    text = "".join(output.get("text", "") for output in outputs)
    assert "PyTorch is not installed: the teacher is trained in JAX" in text
