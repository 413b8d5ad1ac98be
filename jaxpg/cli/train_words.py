"""The words of `jaxpg train` as options: one for each hyperparameter of the algorithms, and their help."""

import dataclasses
import inspect
import re
import typing
from collections.abc import Mapping
from typing import Any, NoReturn

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from jaxpg.cli import kinds
from jaxpg.cli.options import (
    ALGORITHMS,
    Option,
    algorithm_options,
    dashed,
    describe,
    network_options,
    run_options,
)
from jaxpg.cli.settings import Settings, known_options, preset, resolve
from jaxpg.cli.unknown import known_words, refuse, unknown_option

__all__ = ["HELP", "parse_train", "with_values"]

HELP = ("-h", "--help")


def parse_train(words: list[str], about: type, wrapped: Any) -> tuple[str | None, dict[str, list[str]]]:
    """(ENV, the words given for each option).

    Args:
      about: the command, whose docstring `--help` shows.
      wrapped: fills a text to the width of the terminal.
    Raises:
      SystemExit: 0 after `--help`, 2 for words that make no sense; what to say has been said.
      ValueError: an option that there is not.
    """
    words = with_values(words, _flags())
    if not set(words) & set(HELP):
        if (option := unknown_option(words, known_options())) is not None:
            _refuse(option, words)
        return _split(words)
    algorithm, network, line = _chosen([word for word in words if word not in HELP])
    text = inspect.getdoc(about) or ""
    groups: dict[str, Mapping[str, Option]] = {"run": run_options()}
    if algorithm is None:
        text += "\n\nAlgorithms:\n" + "\n".join(
            f"{i}. {name}: {describe(name)}" for i, name in enumerate(ALGORITHMS, 1)
        )
    else:
        groups[algorithm] = algorithm_options(algorithm)
    if network is not None:
        groups[network] = network_options(network)
    tyro.cli(
        _as_class(groups, line), prog="jaxpg train", description=wrapped(text), args=["--help"],
        config=(tyro.conf.OmitArgPrefixes,),
    )  # fmt: skip
    raise SystemExit(0)


def _split(words: list[str], quiet: bool = False) -> tuple[str | None, dict[str, list[str]]]:
    every = {name: options[0] for name, options in known_options().items()}
    made: Any = tyro.cli(
        _as_class({"options": every}, {}), prog="jaxpg train", args=words, console_outputs=not quiet,
        config=(tyro.conf.OmitArgPrefixes,),
    )  # fmt: skip
    given = {name: value for name, value in vars(made.options).items() if value is not None}
    return made.env[0] if made.env else None, given


def _chosen(words: list[str]) -> tuple[str | None, str | None, dict[str, Any]]:
    """(algorithm, network, preset) that words name, for their help; None for what they do not."""
    try:
        given, settings = _settings(words)
        is_asked = "algorithm" in given or "config" in given
        line = preset(settings.run["algorithm"], settings.env)
        has_network = is_asked or "network" in given
        algorithm = settings.run["algorithm"] if is_asked else None
        return algorithm, settings.run["network"] if has_network else None, line
    except (SystemExit, ValueError):
        return None, None, {}


def _settings(words: list[str]) -> tuple[dict[str, list[str]], Settings]:
    """(what was given, what it makes); an environment need not be named."""
    env, given = _split(words, quiet=True)
    return given, resolve("" if env is None and "config" not in given else env, given)


def _refuse(option: str, words: list[str]) -> NoReturn:
    """Says that there is no `option`: what the chosen algorithm and network have comes first."""
    every = known_options()
    try:
        settings = _settings(known_words(words, every))[1]
    except (SystemExit, ValueError):  # Something else is wrong, too: an option of another algorithm, say.
        settings = resolve("", {})
    chosen = {**settings.run, **settings.hyperparameters, **settings.network}
    others = [name for name in every if name not in chosen]
    refuse(option, f"train --algorithm {settings.run['algorithm']}", chosen, "ENV", others)


def _flags() -> dict[str, bool]:
    """The options that are true or false, and whether they can be nothing else."""
    return {
        dashed(name): all(kinds.kind_of(option).metavar == "true|false" for option in options)
        for name, options in known_options().items()
        if any(kinds.kind_of(option).metavar.startswith("true|false") for option in options)
    }


def with_values(words: list[str], flags: Mapping[str, bool]) -> list[str]:
    """With `true` behind options that are true or false and have no word of their own: `--anneal`.

    Args:
      flags: `--name` of each such option -> whether it takes true and false alone.
    """
    result = []
    for word, following in zip(words, [*words[1:], None]):
        result.append(word)
        word = word.replace("_", "-")
        if word not in flags:
            continue
        is_boolean = following is not None and following.lower() in (*kinds.TRUE, *kinds.FALSE, *kinds.NONE)
        if following is None or following.startswith("-") or (flags[word] and not is_boolean):
            result.append("true")
    return result


def _as_class(groups: Mapping[str, Mapping[str, Option]], line: Mapping[str, Any]) -> type:
    """A dataclass for tyro: ENV, and one of options for each group. Values are the words."""
    about = "The environment: a name that `jaxpg envs` lists, or MODULE:NAME, one of your own (see `jaxpg check-env`)."
    env = typing.Annotated[
        Any, _words(1, "ENV"), tyro.conf.Positional, tyro.conf.arg(help=about, help_behavior_hint=""),
    ]  # fmt: skip
    fields: list[Any] = [("env", env, None)]
    for group, options in groups.items():
        made = dataclasses.make_dataclass(group, [_field(option, line) for option in options.values()], kw_only=True)
        fields.append((group, made, dataclasses.field(default_factory=made)))
    return dataclasses.make_dataclass("Train", fields, kw_only=True)


def _field(option: Option, line: Mapping[str, Any]) -> tuple[str, Any, Any]:
    kind = kinds.kind_of(option)
    is_told = option.default is None and re.search(r"\bdefault\b", option.help, re.IGNORECASE)
    values = [] if is_told else [f"default: {kinds.shown(option.default)}"]
    if option.name in line:
        values.append(f"preset: {kinds.shown(line[option.name])}")
    hint = f"({'; '.join(values)})" if values else ""
    text = re.sub(r"\bNone\b", "none", option.help)
    described = tyro.conf.arg(help=text, help_behavior_hint=hint, name=dashed(option.name)[2:])
    return option.name, typing.Annotated[Any, _words("*" if kind.many else 1, kind.metavar), described], None


def _words(count: Any, metavar: str) -> Any:
    """Takes words as they are: what they mean depends on the algorithm."""
    return PrimitiveConstructorSpec(
        nargs=count,
        metavar=f"[{metavar} ...]" if count == "*" else metavar,
        instance_from_str=list,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [],
    )
