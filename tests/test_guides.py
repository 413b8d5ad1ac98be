"""The pages of docs/ and the README: links lead somewhere, Python runs as written and prints what the page says.

A page's Python is one session, in order. A block whose first line is `# name.py` is a file, which is run by itself. A
`text` block behind a Python block is what that prints; below `<!-- about -->` its numbers are those of one machine.
"""

import contextlib
import io
import os
import pathlib
import re
import socket
import subprocess
import sys
from typing import NamedTuple

import pytest
import yaml

import jaxpg

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"
ROOT = DOCS.parent
PAGES = sorted(path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md"))
FENCE = re.compile(r"(<!-- about -->\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# Which test runs a page's Python: one of the two below, one of its own further down, or one in another file.
QUICK = ("guides/nan", "guides/reproduce", "guides/resume", "index", "start")
SLOW = ("guides/extend", "guides/gradient", "guides/train")
BY_THEMSELVES = ("environments", "sweeps", "devices", "populations", "derivations", "plots", "statistics")


class Block(NamedTuple):
    """A fenced block: `text` in `language`; `about`: its numbers are not always the same."""

    language: str
    text: str
    about: bool


class Step(NamedTuple):
    """Python, and what it prints if the page tells."""

    code: str
    printed: Block | None


def page_of(page):
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


def blocks_of(page):
    return [Block(language, text, bool(about)) for about, language, text in FENCE.findall(page_of(page))]


def steps_of(page):
    """The page's Python but for its files."""
    found = []
    blocks = blocks_of(page)
    for block, after in zip(blocks, [*blocks[1:], Block("", "", False)]):
        if block.language == "python" and not re.match(r"# \w+\.py\n", block.text):
            found.append(Step(block.text, after if after.language == "text" else None))
    return found


def files_of(page):
    """name -> content."""
    found = (re.match(r"# (\w+\.py)\n", block.text) for block in blocks_of(page) if block.language == "python")
    return {match[1]: match.string for match in found if match}


def same_words(text):
    """The text without what differs between machines: numbers, their units, and the layout that follows from them."""
    text = re.sub(r"\b(True|False|nan)\b|[-+]?\d[\d.,_]*(e[-+]?\d+)?", "#", text)
    text = re.sub(r"# ?([KMG]?i?B|[kM]?s|min|h)\b", "#", text)
    text = re.sub(r"[\[\]]|\.{2,}|-{2,}:?", " ", text)
    return re.sub(r"#(\s*#)+", "#", " ".join(text.split()))


def check_printed(expected, printed):
    if expected.about:
        assert same_words(printed) == same_words(expected.text), printed
    else:
        assert printed.strip() == expected.text.strip()


def run_steps(steps, names):
    """One session; what is printed must be what the page says."""
    for i, step in enumerate(steps):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(step.code, f"Python block {i}: {step.code[:60]!r}", "exec"), names)
        if step.printed is not None:
            check_printed(step.printed, output.getvalue())
    return names


def test_numbers_are_compared_unless_they_are_about():
    check_printed(Block("text", "a 3\n", False), "a 3")
    check_printed(Block("text", "a 3.25 MiB in 1.5 s, [1. 2. nan]\n", True), "a 17 KiB in 2.25 min, [3.e-1]")
    for about, printed in ((False, "a 4"), (True, "b 3")):
        with pytest.raises(AssertionError):
            check_printed(Block("text", "a 3\n", about), printed)


# --- what takes no time -----------------------------------------------------------------------------------------------


def address_of(heading):
    """The anchor of a heading, as GitHub and the site make it."""
    heading = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")


def anchors_of(path):
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    if included := re.match(r'--8<-- "(.+)"', text):
        text = (ROOT / included[1]).read_text(encoding="utf-8")
    return {address_of(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


WRITTEN = [
    *(DOCS / f"{page}.md" for page in PAGES),
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_pictures_are_there(path):
    for target, anchor in re.findall(
        r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", FENCE.sub("", path.read_text(encoding="utf-8"))
    ):
        there = path.parent / target if target else path
        assert there.exists(), target
        assert not anchor or anchor in anchors_of(there), f"{target}#{anchor}"
        assert there.suffix != ".png" or path.parent == ROOT or there.stat().st_size < 60_000, target


def test_every_page_s_python_is_run():
    with_python = {page for page in PAGES if any(block.language == "python" for block in blocks_of(page))}
    assert with_python == {*QUICK, *SLOW, *BY_THEMSELVES}


@pytest.mark.parametrize("page", PAGES)
def test_names_are_those_of_the_library(page):
    for name in set(re.findall(r"(?<!^::: )\bjaxpg((?:\.[a-z_]\w*)+)", page_of(page), re.MULTILINE)):
        found = jaxpg
        for part in name[1:].split("."):
            found = getattr(found, part)


@pytest.mark.every_row
@pytest.mark.parametrize("page", [*QUICK, *(pytest.param(page, marks=pytest.mark.slow) for page in SLOW)])
def test_the_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_steps(steps_of(page), {})


def test_the_guide_to_environments_runs():
    names = run_steps(steps_of("environments"), {})
    assert names["evaluation"].returns.shape == (16,)


def test_points_of_the_page():
    steps = [step for step in steps_of("sweeps") if step.code.startswith("from jaxpg import sweeps")]
    assert steps
    run_steps(steps, {})


def test_the_example_is_the_page_s():
    example = (DOCS / "examples" / "population_based_training.py").read_text(encoding="utf-8")
    assert example in [step.code for step in steps_of("populations")]
    assert len(example.splitlines()) <= 60


def test_shell_lines_can_be_read():
    found = [block.text for block in blocks_of("devices") if block.language == "sh"]
    assert len(found) >= 3
    for text in found:
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_kubernetes_meets_at_the_first_pod():
    """Names of pods follow from those of jobs and services; all of a job's pods run at once."""
    texts = [block.text for block in blocks_of("devices") if block.language == "yaml"]
    documents = [document for text in texts for document in yaml.safe_load_all(text)]
    kinds = {document["kind"]: document for document in documents}
    assert set(kinds) == {"Service", "Job", "JobSet"}
    service, job, jobset = (kinds[kind] for kind in ("Service", "Job", "JobSet"))
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    (replicated,) = jobset["spec"]["replicatedJobs"]
    name, set_name = job["metadata"]["name"], jobset["metadata"]["name"]
    hosts = (
        (job["spec"], f"{name}-0.{service['metadata']['name']}"),
        (replicated["template"]["spec"], f"{set_name}-{replicated['name']}-0-0.{set_name}"),
    )
    for spec, host in hosts:
        assert spec["completions"] == spec["parallelism"] and spec.get("completionMode", "Indexed") == "Indexed"
        (container,) = spec["template"]["spec"]["containers"]
        variables = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert variables["COORDINATOR"].rpartition(":")[0] == host
        assert int(variables["PROCESSES"]) == spec["parallelism"]


# --- what compiles much -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.learning
def test_the_guide_to_sweeps_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_steps(steps_of("sweeps"), {})
    scores = names["scores"].mean("seed")
    assert float(scores.max()) > 400  # Untrained: 22.
    assert float(scores.sel(learning_rate=1e-2).min()) > float(scores.sel(learning_rate=1e-1).max())


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.learning
def test_the_guide_to_populations_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_steps(steps_of("populations"), {})
    along = names["landscape"].episode_return.mean("beta")
    assert float(along.sel(alpha=1)) > 2 * float(along.sel(alpha=0)) > 2 * float(along.sel(alpha=-1))
    assert 0.4 < float(names["noise"] / names["spread"]) < 2.5
    score = names["score"]
    assert (
        float(score(names["learned"], 0.1)) > -1.5 > -2 > max(float(score(names["untrained"], r)) for r in (0.03, 0.1))
    )
    last = {name: float(scores[-1].mean()) for name, (scores, _) in names["results"].items()}
    assert last["population"] > 400 > last["independent"]


def run(command, **environment):
    """What the command prints; its JAX has as many CPU devices as its code asks for."""
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "host_platform_device_count" not in flag]
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    variables = {"XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu", "PATH": path}
    done = subprocess.run(
        command, env={**os.environ, **variables, **environment}, capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-5000:]}"
    return done.stdout


SESSION = """
import sys
from test_guides import run_steps, steps_of
run_steps(steps_of(sys.argv[1]), {})
"""


@pytest.mark.slow
def test_the_guide_to_devices_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run([sys.executable, "-c", SESSION, "devices"])


@pytest.mark.slow
def test_the_script_runs_as_two_processes_by_the_line_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ((name, content),) = files_of("devices").items()
    (tmp_path / name).write_text(content, encoding="utf-8")
    (line,) = (block.text for block in blocks_of("devices") if block.language == "sh" and "127.0.0.1" in block.text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        line = line.replace("9876", str(free.getsockname()[1]))
    assert run(["bash", "-c", line]).count("budget on 2 processes with 2 devices") == 1
    assert list((tmp_path / "runs" / "cartpole" / "checkpoints").iterdir())
