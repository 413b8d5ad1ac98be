"""What a release consists of says the same everywhere. The wheel itself is tried by `make release`."""

import pathlib
import re
import tomllib

import yaml

import jaxpg

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


def test_the_version_stands_in_one_place():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "jaxpg/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", jaxpg.__version__)
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_citation_is_whole_and_of_this_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["license"] == PROJECT["project"]["license"]
    assert citation["repository-code"] == PROJECT["project"]["urls"]["Repository"]


def test_the_workflow_runs_what_ci_runs():
    jobs = yaml.safe_load(WORKFLOW)["jobs"]
    more = [f"make {run}" for run in jobs["more"]["strategy"]["matrix"]["run"]]
    runs = [re.sub(r" PYTHON=\S+", "", step["run"]) for step in jobs["test"]["steps"] if "run" in step] + more
    lines = re.findall(r"^make [^#\n]+", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) >= 5
    quotes = str.maketrans("", "", "'\"")
    missing = {line.strip().translate(quotes) for line in lines} - {run.translate(quotes) for run in runs}
    assert not missing


def test_the_workflow_s_targets_and_files_are_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    jobs = yaml.safe_load(WORKFLOW)["jobs"]
    versions = jobs["versions"]["strategy"]["matrix"]["include"]
    named = {word for entry in versions for word in entry["run"].split() if "=" not in word}
    named |= {run.split()[0] for run in jobs["more"]["strategy"]["matrix"]["run"]}
    assert named <= targets
    assert all((ROOT / entry["constraints"]).exists() for entry in versions)
    assert [entry["name"] for entry in versions] == ["lowest versions", "Colab's versions", "newest versions"]


def test_pythons_are_those_that_the_metadata_names():
    pythons = yaml.safe_load(WORKFLOW)["jobs"]["test"]["strategy"]["matrix"]["python"]
    classifiers = [line.rpartition(" ")[2] for line in PROJECT["project"]["classifiers"] if "Python :: 3." in line]
    assert pythons == classifiers
    assert PROJECT["project"]["requires-python"] == f">={pythons[0]}"


def test_lines_that_install_jaxpg_work_before_it_is_on_pypi():
    from jaxpg import _install

    assert _install.line("brax") == 'pip install "jaxpg[brax] @ git+https://github.com/jaxpg/jaxpg"'
    folders = [ROOT / folder for folder in ("docs", "jaxpg", "notebooks")]
    pages = [file for folder in folders for ending in ("md", "py") for file in folder.rglob(f"*.{ending}")]
    for file in [ROOT / "README.md", *pages]:
        for line in re.findall(r"pip install .*?[\"']jaxpg.*", file.read_text(encoding="utf-8")):
            assert " @ " in line, f"{file}: {line}"
