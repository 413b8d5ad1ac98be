"""From words to a command: tyro reads the dataclasses of `jaxpg.cli.commands`."""

import dataclasses
import functools
import inspect
import operator
import pathlib
import re
import shutil
import textwrap
import typing
from collections.abc import Callable
from typing import Any, NoReturn

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

from jaxpg.cli import kinds
from jaxpg.cli.commands import COMMANDS, EnvironmentName, FileName, Train
from jaxpg.cli.options import dashed
from jaxpg.cli.settings import resolve
from jaxpg.cli.train_words import HELP, parse_train, with_values
from jaxpg.cli.unknown import refuse, unknown_option

__all__ = ["parse"]

_ABOUT = """Policy gradients of whole episodes, in one compiled step.

`jaxpg COMMAND --help` explains a command's options. Start with `jaxpg demo`.
`jaxpg --version` tells the versions of jaxpg and JAX."""


def parse(words: list[str]) -> Any:
    """The command that `words` ask for, an instance of a class in `COMMANDS`.

    Raises:
      SystemExit: 0 after `--help` and `--version`, 2 for words that make no sense; what to say has been said.
    """
    if words and words[0] in ("--version", "-V"):
        _print_version()
        raise SystemExit(0)
    config = (tyro.conf.PositionalRequiredArgs, tyro.conf.FlagCreatePairsOff)
    with _registry():
        if words and words[0] == "train":
            return _train(words[1:])
        if words and words[0] in COMMANDS:
            command = COMMANDS[words[0]]
            about = _wrapped(inspect.getdoc(command) or "")
            flags = {
                dashed(field.name): True for field in dataclasses.fields(command) if "bool | None" in str(field.type)
            }
            args = with_values(words[1:], flags)
            if not set(args) & set(HELP):
                _check_options(words[0], args)
            return tyro.cli(command, prog=f"jaxpg {words[0]}", description=about, args=args, config=config)
        if words and not words[0].startswith("-"):
            _refuse_command(words[0])
        # What a command takes is not asked here, only what it is called and does.
        every = [
            typing.Annotated[_named(command), tyro.conf.subcommand(name, description=_first_line(command))]
            for name, command in COMMANDS.items()
        ]
        union: Any = functools.reduce(operator.or_, every)
        return tyro.cli(union, prog="jaxpg", description=_wrapped(_ABOUT), args=words or ["--help"], config=config)


def _train(words: list[str]) -> Train:
    env, given = parse_train(words, Train, _wrapped)
    settings = resolve(env, given)
    return Train(settings=settings, debug=settings.run["debug"])


def _check_options(name: str, words: list[str]) -> None:
    """Refuses an option that the command does not have; tyro would not know what others call it."""
    fields = [field.name for field in dataclasses.fields(COMMANDS[name])]
    plain = {"env": "ENV", "directory": "DIR", "directories": "DIR"}
    names = [field for field in fields if field not in plain]
    if (option := unknown_option(words, names)) is not None:
        refuse(option, name, names, next((plain[field] for field in fields if field in plain), ""))


def _named(command: type) -> type:
    """A class without fields that is called like the command."""
    return dataclasses.make_dataclass(command.__name__, [])


def _first_line(command: type) -> str:
    return (command.__doc__ or "").split("\n")[0]


def _print_version() -> None:
    from importlib.metadata import version

    print(*(f"{package} {version(package)}" for package in ("jaxpg", "jax", "jaxlib")))


def _refuse_command(name: str) -> NoReturn:
    from jaxpg._check import nearest  # Imports jax.

    raise ValueError(f"there is no command {name!r}; the commands are {', '.join(COMMANDS)}{nearest(name, COMMANDS)}")


def _wrapped(text: str) -> str:
    """Paragraphs and numbered lines, filled to the terminal's width.

    tyro joins lines unless the next one begins with something else than a letter: those that go on begin with a space.
    """
    width = min(shutil.get_terminal_size().columns, 100)
    filled = [
        textwrap.fill(" ".join(item.split()), width, subsequent_indent=" ") if item.strip() else ""
        for item in re.split(r"\n(?=\n|\d\. )|(?<=\n)\n", text)
    ]
    return "\n".join(filled)


def _registry() -> Any:
    """How single words are read, and called in `--help`: integers may be written 1e6, optional ones show plainly."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def rule(info: Any) -> Any:
        alternatives = typing.get_args(info.type)
        is_optional = len(alternatives) == 2 and type(None) in alternatives
        kind = next(a for a in alternatives if a is not type(None)) if is_optional else info.type
        if typing.get_origin(kind) is typing.Literal:
            return _one_of(typing.get_args(kind))
        if kind not in _KINDS or (kind is bool and not is_optional):  # Plain ones are flags, as tyro has them.
            return None
        name, read = _KINDS[kind]
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=name,
            instance_from_str=lambda words: read(words[0]),
            is_instance=lambda value: isinstance(value, kind) or (is_optional and value is None),
            str_from_instance=lambda value: ["none"] if value is None else [_written(value)],
        )

    return registry


def _one_of(choices: tuple[str, ...]) -> Any:
    """One of some words, which may be written as in Python: reward_to_go for reward-to-go."""

    def read(word: str) -> str:
        from jaxpg._check import named

        name = word.replace("_", "-")
        return name if name in choices else named("it", word, choices)

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="|".join(choices),
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: value in choices,
        str_from_instance=lambda value: [value],
    )


def _integer(word: str) -> int:
    """12345, 12_345 or 1.2e4."""
    try:
        return int(word)
    except ValueError:
        number = float(word)
    if not number.is_integer():
        raise ValueError(f"{word} is not a whole number")
    return int(number)


def _boolean(word: str) -> bool:
    if word.lower() not in (*kinds.TRUE, *kinds.FALSE):
        raise ValueError(f"{word} is neither true nor false")
    return word.lower() in kinds.TRUE


def _written(value: Any) -> str:
    is_large = isinstance(value, int) and not isinstance(value, bool) and value >= 10_000
    return f"{value:_}" if is_large else str(value)


_KINDS: dict[Any, tuple[str, Callable[[str], Any]]] = {
    EnvironmentName: ("ENV", EnvironmentName),
    FileName: ("FILE", FileName),
    int: ("N", _integer),
    float: ("X", float),
    pathlib.Path: ("DIR", pathlib.Path),
    bool: ("true|false", _boolean),
}
