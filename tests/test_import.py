"""What installing and importing promises: `import jaxpg` is light, starts no JAX backend, and versions are consistent.

Time is not asserted here (benchmarks/import_time.py measures it): what costs time is asserted, the packages loaded.
"""

import importlib.metadata
import pathlib
import pkgutil
import re
import tomllib

import pytest

import jaxpg

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Cheap to import after jax: chex and optax add a tenth to a fifth of its time. gymnax adds seconds, flax a third.
LIGHT = {"absl", "chex", "optax", "toolz", "typing_extensions"}

# What reads the command line; no part of `import jaxpg`.
COMMAND_LINE = {"docstring_parser", "tyro"}

MODULES = sorted(module.name for module in pkgutil.walk_packages(jaxpg.__path__, "jaxpg."))

REPORT_PACKAGES = """
import sys
before = {name.split(".")[0] for name in sys.modules}
import jax
IMPORTS
after = {name.split(".")[0] for name in sys.modules}
print(*sorted(after - before - set(sys.stdlib_module_names)))
"""

# After a backend has started, JAX refuses this setting (jax.distributed.initialize likewise).
CHOOSE_DEVICES = """
IMPORTS
import jax
jax.config.update("jax_num_cpu_devices", 3)
print(len(jax.devices("cpu")))
"""


@pytest.fixture
def fresh_import(run_in_subprocess):
    """Runs one of the programs above on the modules named, in a Python without device settings of its own."""

    def run(program, *modules):
        __tracebackhide__ = True
        imports = "\n".join(f"import {module}" for module in modules)
        return run_in_subprocess(program.replace("IMPORTS", imports), env={"XLA_FLAGS": ""}).split()

    return run


LIBRARY = [name for name in MODULES if not name.startswith(("jaxpg.cli", "jaxpg.__main__"))]


@pytest.mark.parametrize(
    ("modules", "light"),
    [(["jaxpg"], LIGHT), (LIBRARY, LIGHT), (MODULES, LIGHT | COMMAND_LINE)],
    ids=["jaxpg", "every module but those of the command line", "every module"],
)
def test_import_loads_light_packages_only(fresh_import, modules, light):
    heavy = set(fresh_import(REPORT_PACKAGES, *modules)) - set(fresh_import(REPORT_PACKAGES)) - light - {"jaxpg"}
    assert not heavy, (
        f"import {' '.join(modules)} also loads {', '.join(sorted(heavy))}: import them where they are used"
    )


EVERY_ATTRIBUTE = """
IMPORTS
print(*(name for name in NAMES if not hasattr(jaxpg, name)))
print(*(name for name in NAMES if name not in dir(jaxpg)))
"""


def test_every_public_module_is_an_attribute_of_the_package(fresh_import):
    """In a Python that has imported nothing but jaxpg: an earlier import of the module would make it one, too."""
    names = {module.name for module in pkgutil.iter_modules(jaxpg.__path__)} - {"cli"}
    public = sorted(name for name in names if not name.startswith("_"))
    assert {"gradient", "landscape", "stored"} <= set(public)
    assert fresh_import(EVERY_ATTRIBUTE.replace("NAMES", repr(public)), "jaxpg") == []


@pytest.mark.parametrize("modules", [["jaxpg"], MODULES], ids=["jaxpg", "every module"])
def test_import_starts_no_backend(fresh_import, modules):
    assert fresh_import(CHOOSE_DEVICES, *modules) == ["3"]


def test_the_checks_above_notice_gymnax(fresh_import):
    assert {"gymnax", "flax", "matplotlib"} <= set(fresh_import(REPORT_PACKAGES, "gymnax"))
    with pytest.raises(pytest.fail.Exception, match="before backends are initialized"):
        fresh_import(CHOOSE_DEVICES, "gymnax")


def test_the_version_is_the_installed_one():
    assert importlib.metadata.version("jaxpg") == jaxpg.__version__


def constraints(name):
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-lowest.txt", "constraints-colab.txt"])
def test_constraints_are_names_and_versions_only(name):
    exact = re.compile(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*(; python_version (<|>=) \"3\.[0-9]+\")?")
    assert [line for line in constraints(name) if not exact.fullmatch(line)] == []


def test_constraints_cover_the_dependencies_and_lowest_are_their_floors():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    floors = dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in project["dependencies"])
    held = {line.split("==")[0].lower() for line in constraints("constraints.txt")}
    assert set(floors) - held == set()
    lowest = dict(line.split("==") for line in constraints("constraints-lowest.txt"))
    assert lowest.pop("jaxlib") == lowest["jax"]

    def release(version):  # 3.9 is 3.9.0
        return [int(part) for part in (version + ".0.0").split(".")[:3]]

    assert {name: release(version) for name, version in lowest.items()} == {
        name: release(version) for name, version in floors.items()
    }
