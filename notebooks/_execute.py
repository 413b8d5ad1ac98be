"""Executes notebooks from their sources, and keeps what they show: `python notebooks/_execute.py [NAME …]`.

`make notebooks-save` calls it. The source is NAME.py (jupytext's percent format); NAME.ipynb is written whole: the cells of
the source, with their outputs. A cell that fails ends it, and that notebook stays as it was.
"""

import argparse
import pathlib
import re
import sys
import time

import jupytext
import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).resolve().parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def execute(source, timeout):
    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict({"jupytext": {"formats": "ipynb,py:percent"}, "kernelspec": KERNEL})
    client = nbclient.NotebookClient(
        notebook, timeout=timeout, resources={"metadata": {"path": str(FOLDER)}}, record_timing=False
    )
    client.execute()
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # The same at every execution, for short diffs.
        cell.source = cell.source.strip("\n")  # Of sources, where two empty lines precede a function.
        if cell.cell_type == "code":  # What XLA says of a slow machine is for the terminal.
            said = [output for output in cell.outputs if output.get("name") == "stderr"]
            sys.stderr.write("".join(output.text for output in said))
            cell.outputs = [output for output in cell.outputs if output not in said]
    text = nbformat.writes(notebook, version=4)
    private = re.search(r"/(?:home|root|tmp|work|Users)/[\w.-]+", text)
    if private:
        raise SystemExit(f"{source.name}: its outputs name a path of this machine, {private[0]}")
    source.with_suffix(".ipynb").write_text(text + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="such as 02_variance; default: all")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds of the longest cell")
    options = parser.parse_args()
    sources = [FOLDER / f"{name.removesuffix('.py')}.py" for name in options.names]
    for source in sources or sorted(FOLDER.glob("[!_]*.py")):
        start = time.perf_counter()
        execute(source, options.timeout)
        print(f"{source.stem}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
