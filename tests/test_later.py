"""Modules that are imported when they are used."""

import subprocess
import sys

import pytest

from jaxpg.envs._later import imported_later


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """A module that says when it is loaded, and one that imports it."""
    (tmp_path / "counted.py").write_text("import sys\nsys.loaded_counted = True\nnumber = 3\n")
    (tmp_path / "user.py").write_text("import counted as c\n\n\ndef number():\n    return c.number\n")
    (tmp_path / "hasty.py").write_text("import counted\nnumber = counted.number\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "loaded_counted", False, raising=False)
    yield
    for name in ("counted", "user", "hasty"):
        sys.modules.pop(name, None)


def test_a_module_is_loaded_when_something_of_it_is_used(counted):
    with imported_later("counted"):
        import user
    assert not sys.loaded_counted and "counted" not in sys.modules
    assert user.number() == 3 and sys.loaded_counted
    import counted as real

    assert real.number == 3 and real.__spec__.name == "counted"
    with pytest.raises(AttributeError, match="nothing_there"):
        user.c.nothing_there  # noqa: B018


def test_what_is_used_at_once_is_loaded_at_once(counted):
    with imported_later("counted"):
        import hasty
    assert hasty.number == 3 and sys.loaded_counted
    assert sys.modules["counted"].__spec__.name == "counted"


def test_what_is_loaded_already_stays(counted):
    import counted as real

    with imported_later("counted"):
        import user
    assert user.c is real is sys.modules["counted"]


def test_making_an_environment_imports_nothing_that_draws():
    code = (
        "import sys, jaxpg; jaxpg.make('CartPole-v1'); "
        "print([name for name in ('seaborn', 'matplotlib.pyplot', 'scipy.stats') if name in sys.modules]); "
        "from gymnax.environments.misc import pong; print(len(pong.sns.color_palette('husl', 2)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split("\n")[:2] == ["[]", "2"]
