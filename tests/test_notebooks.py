"""Notebooks are what their sources say, were executed, and show no path of a machine. `make notebooks` runs them."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

NOTEBOOKS = pathlib.Path(__file__).resolve().parent.parent / "notebooks"
SOURCES = sorted(path for path in NOTEBOOKS.glob("*.py") if not path.stem.startswith("_"))
COLAB = "https://colab.research.google.com/github/jaxpg/jaxpg/blob/main/notebooks"


def code_of_source(path):
    """The code cells of a source in jupytext's percent format."""
    cells = re.split(r"^# %%", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    code = [cell.partition("\n")[2].strip() for cell in cells if not cell.startswith(" [markdown]")]
    return [
        re.sub(r"^(\s*)# (%\w+ )", r"\1\2", cell, flags=re.MULTILINE) for cell in code
    ]  # Magics are comments there.


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_shows_what_its_source_does(source):
    text = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    notebook = json.loads(text)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert ["".join(cell["source"]).strip() for cell in code] == code_of_source(source), "make notebooks-save"
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "make notebooks-save"
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert not re.search(r"/(home|root|tmp|work|Users)/[\w.-]+", text)
    assert f"{COLAB}/{source.stem}.ipynb" in text
    assert len(text) < 600_000


def test_notebooks_are_those_that_the_page_and_the_readme_name():
    for page in ("README.md", "docs/notebooks.md"):
        text = (NOTEBOOKS.parent / page).read_text(encoding="utf-8")
        assert set(re.findall(r"notebooks/(\w+)\.ipynb", text)) == {path.stem for path in SOURCES}, page


def test_the_first_figure_is_drawn():
    """A figure that no pyplot made, as `comparison.plot` gives, is a picture also where nothing was drawn before."""
    pytest.importorskip("matplotlib_inline")
    program = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell("from jaxpg.plot.style import paper_figure; figure, _ = paper_figure()", silent=True)
data, _ = shell.display_formatter.format(shell.user_ns["figure"])
print("image/png" in data)
"""
    environment = os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.split()[-1] == "True"
