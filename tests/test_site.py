"""The site of the documentation: every public name is in the reference, every page in the navigation, and it builds.

The pages' links and code are tests/test_guides.py's.
"""

import importlib
import pathlib
import pkgutil
import re
import subprocess
import sys
import zlib

import pytest
import yaml

import jaxpg

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

# Public are the modules directly below jaxpg, but for the command line, and these.
DEEPER = {"algorithms.presets", "envs.wrappers", "policies.distributions", "training.loggers"}
DIRECT = {module.name for module in pkgutil.iter_modules(jaxpg.__path__)} - {"cli"}
MODULES = ["jaxpg", *sorted(f"jaxpg.{name}" for name in DIRECT | DEEPER if not name.startswith("_"))]

DIRECTIVE = re.compile(r"^::: (\S+)\n((?:    .*\n?)*)", re.MULTILINE)


def public_names(module):
    return {name: getattr(module, name) for name in getattr(module, "__all__", ())}


def written(path):
    """The object whose page says `::: path`."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def shown(path, hidden):
    """What `::: path` of a module shows: not what the options hide, nor plain values, which have no docstrings; and
    not what is named as a module of the package, which is read in its place."""
    module = importlib.import_module(path)
    shadowed = {found.name for found in pkgutil.iter_modules(getattr(module, "__path__", ()))}
    names = {name: value for name, value in public_names(module).items() if name not in shadowed}
    return [
        value
        for name, value in names.items()
        if not any(pattern.search(name) for pattern in hidden) and getattr(value, "__module__", None)
    ]


@pytest.fixture(scope="module")
def reference():
    """(the objects, the paths) that the pages show."""
    objects, paths = [], set()
    for page in (DOCS / "reference").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        paths |= set(re.findall(r"^# `[\w.]+` \{ #([\w.]+) \}$", text, re.MULTILINE))
        for path, block in DIRECTIVE.findall(text):
            options = (yaml.safe_load(block) or {}).get("options", {}) if block else {}
            hidden = [re.compile(pattern.removeprefix("!")) for pattern in options.get("filters", [])]
            paths.add(path)
            objects += shown(path, hidden) if path in MODULES else [written(path)]
    return objects, paths


@pytest.mark.parametrize("name", MODULES)
def test_the_reference_has_every_public_name(reference, name):
    objects, paths = reference
    known = {id(value) for value in objects}
    missing = {
        public
        for public, value in public_names(importlib.import_module(name)).items()
        if id(value) not in known and f"{name}.{public}" not in paths and getattr(value, "__name__", None) not in paths
    }
    assert not missing, f"docs/reference/*.md: no page shows {sorted(missing)} of {name}"


def test_the_index_of_the_reference_has_every_name_of_the_package():
    text = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\[`jaxpg\.(\w+)`\]", text))
    assert set(jaxpg.__all__) <= linked


def pages_of(navigation):
    for entry in navigation:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from pages_of(value) if isinstance(value, list) else [value]


def test_every_page_is_in_the_navigation_once():
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    shown = [page for page in pages_of(navigation) if page != "suites.md" or page in pages]
    assert sorted(shown) == pages, "mkdocs.yml: nav"


# Only where `make docs` has installed what it needs.


@pytest.mark.slow
def test_the_site_builds_and_each_public_name_has_an_address(tmp_path):
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550)
    assert built.returncode == 0, built.stdout + built.stderr
    inventory = (tmp_path / "objects.inv").read_bytes().split(b"\n", 4)[4]
    addresses = {line.split(" ")[0] for line in zlib.decompress(inventory).decode().splitlines()}
    for name in MODULES:
        for public, value in public_names(importlib.import_module(name)).items():
            path, own = f"{name}.{public}", getattr(value, "__name__", "")
            home = f"{getattr(value, '__module__', '')}.{own}"
            assert own in MODULES or {path, home} & addresses, path
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert 'class="arithmatex"' not in text and not re.search(r"<p>\$\$", text), page
        for address in re.findall(r'<(?:script|img|link)[^>]* (?:src|href)="(https?:[^"]+)"', text):
            assert re.match(r"https://(github\.com/jaxpg|colab\.research\.google\.com)/", address), f"{page}: {address}"
