"""The README's Python runs as written, in order, each block by itself."""

import pathlib
import re

import pytest

README = pathlib.Path(__file__).resolve().parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


SLOW = [pytest.param(block, marks=pytest.mark.slow) for block in range(1, len(BLOCKS))]


@pytest.mark.every_row
@pytest.mark.parametrize("block", [0, *SLOW])
def test_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Some write files.
    names = {}
    exec(compile(BLOCKS[block], f"README.md, Python block {block}", "exec"), names)
    if "scores" in names:
        assert float(names["scores"].returns.mean()) > 200  # Untrained: 22.
    if "estimate" in names:
        assert float(names["estimate"].trace) > 0
