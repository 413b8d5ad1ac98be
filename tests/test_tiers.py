"""The choice of slow tests leaves none out of both `make test-slow` and `make test-exhaustive`, and some to each."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT
from tiers import rows_tried

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("number, rows", [(1, [0]), (2, [0, 1]), (3, [0, 2]), (4, [0, 3]), (6, [0, 2, 5]), (37, None)])
def test_rows(number, rows):
    found = rows_tried(number)
    assert found == rows if rows else (len(found), found[0], found[-1]) == (7, 0, 36)


EXAMPLE = """
import pytest

@pytest.mark.parametrize("i", range(9))
@pytest.mark.slow
def test_rows(i): pass

@pytest.mark.parametrize("i", range(9))
@pytest.mark.slow
@pytest.mark.every_row
def test_pages(i): pass

@pytest.mark.exhaustive
def test_long(): pass

@pytest.mark.slow
@pytest.mark.learning
def test_learns(): pass

def test_fast(): pass
"""


def test_make_runs_each_test_once(tmp_path):
    """By the very expressions of the Makefile."""
    (tmp_path / "test_example.py").write_text(EXAMPLE)
    (tmp_path / "conftest.py").write_text("from tiers import mark_exhaustive as pytest_collection_modifyitems\n")
    names = ("slow", "every_row", "exhaustive", "learning")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n" + "".join(f"  {name}\n" for name in names))
    found = {}
    for expression in re.findall(r'-m "([^"]+)"', MAKEFILE):
        listed = subprocess.run(
            [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-m", expression],
            cwd=tmp_path, capture_output=True, text=True,
        ).stdout  # fmt: skip
        found[expression] = re.findall(r"^test_example.py::(\S+)$", listed, re.MULTILINE)
    chosen = sorted(name for names in found.values() for name in names)
    assert len(found) == 5 and chosen == sorted(set(chosen)) and len(chosen) == 21, found
    assert found["not slow"] == ["test_fast"]
    slow = found["slow and not learning and not exhaustive"]
    assert slow == ["test_rows[0]", "test_rows[4]", "test_rows[8]", *(f"test_pages[{i}]" for i in range(9))]
