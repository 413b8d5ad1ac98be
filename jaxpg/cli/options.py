"""Options of `jaxpg train`, read from the code they belong to: names and defaults in signatures, help in docstrings.

The sources are read as text. Nothing is imported: JAX takes longer to load than a page of help may take to appear.
"""

import ast
import functools
import importlib.resources
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = [
    "ALGORITHMS",
    "NETWORKS",
    "Option",
    "algorithm_options",
    "dashed",
    "describe",
    "network_options",
    "run_options",
]

# Where the functions are; each name is that of a function, too.
ALGORITHMS = {
    name: f"algorithms/{name}.py" for name in ("reinforce", "a2c", "ppo", "npg", "trpo", "v_mpo", "impala", "pgpe")
}
NETWORKS = {"mlp": "policies/networks.py", "cnn": "policies/networks.py", "recurrent": "policies/recurrent.py"}
_NOT_OPTIONS = ("env", "policy")


class Option(NamedTuple):
    """One thing that can be set.

    Fields:
      name: as in Python.
      annotation, default: those of the argument, the annotation as text.
      help: what the docstring says of it.
    """

    name: str
    annotation: str
    default: Any
    help: str


def algorithm_options(name: str) -> dict[str, Option]:
    """The hyperparameters of an algorithm: all arguments of its function but the environment and the policy."""
    return _function_options(ALGORITHMS[name], name)


def network_options(name: str) -> dict[str, Option]:
    """The arguments of a network's function but the environment."""
    return _function_options(NETWORKS[name], name)


def run_options() -> dict[str, Option]:
    """What all runs have, the fields of `jaxpg.cli.run_options.RunOptions`."""
    return _class_options("cli/run_options.py", "RunOptions")


def describe(name: str) -> str:
    """An algorithm in a line: the first of its module's docstring, without its name."""
    text = ast.get_docstring(_module(ALGORITHMS[name])) or ""
    return text.split("\n")[0].partition(": ")[2].rstrip(".")


def dashed(name: str) -> str:
    """`--learning-rate` for learning_rate, `--lambda` for lambda_."""
    return "--" + name.strip("_").replace("_", "-")


@functools.cache
def _module(path: str) -> ast.Module:
    return ast.parse(importlib.resources.files("jaxpg").joinpath(path).read_text(encoding="utf-8"))


@functools.cache
def _function_options(path: str, name: str) -> dict[str, Option]:
    function = next(n for n in _module(path).body if isinstance(n, ast.FunctionDef) and n.name == name)
    arguments = function.args
    required = len(arguments.args) - len(arguments.defaults)
    pairs = [*zip(arguments.args[required:], arguments.defaults), *zip(arguments.kwonlyargs, arguments.kw_defaults)]
    documentation = _documentation(ast.get_docstring(function) or "")
    found = {}
    for argument, default in pairs:
        if argument.arg in _NOT_OPTIONS or default is None:
            continue
        text = documentation.get(argument.arg) or _mention(argument.arg, documentation)
        if (like := re.search(r"(?:^|: )as in `(\w+)`", text)) is not None:
            text = _function_options({**ALGORITHMS, **NETWORKS}[like.group(1)], like.group(1))[argument.arg].help
        annotation = "Any" if argument.annotation is None else ast.unparse(argument.annotation)
        found[argument.arg] = Option(argument.arg, annotation, ast.literal_eval(default), text)
    return found


@functools.cache
def _class_options(path: str, name: str) -> dict[str, Option]:
    body = next(n for n in _module(path).body if isinstance(n, ast.ClassDef) and n.name == name).body
    found = {}
    for field, text in zip(body, body[1:]):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name) and field.value is not None
            help_text = " ".join(ast.literal_eval(text.value).split())
            annotation = ast.unparse(field.annotation)
            found[field.target.id] = Option(field.target.id, annotation, ast.literal_eval(field.value), help_text)
    return found


def _documentation(docstring: str) -> Mapping[str, str]:
    """What a docstring's "Args" say of each argument; several may share an entry, `a, b: …`."""
    section = re.search(r"^Args:\n((?:  .*\n|\n)*)", docstring + "\n", re.MULTILINE)
    found: dict[str, str] = {}
    names: list[str] = []
    pending = ""  # Names of an entry that fill more than a line.
    for line in (section.group(1) if section else "").splitlines():
        indent = len(line) - len(line.lstrip())
        if indent == 2:
            entry = re.fullmatch(r"(\w+(?:, \w+)*): ?(.*)", pending + line.strip())
            if entry is None:
                pending += line.strip() + " "
                continue
            pending, names = "", entry.group(1).split(", ")
            shared = f"{entry.group(1)}: " if len(names) > 1 else ""
            found.update(dict.fromkeys(names, shared + entry.group(2)))
        elif indent > 2:
            found.update({name: f"{found[name]} {line.strip()}".strip() for name in names})
    return found


def _mention(name: str, documentation: Mapping[str, str]) -> str:
    """A reference to the entry that explains an argument along with its own."""
    return next((f"see {dashed(other)}." for other, text in documentation.items() if name in text), "")
