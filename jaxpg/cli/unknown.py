"""Options that there are not: what was probably meant, in jaxpg's own words, and whose option that is."""

import re
from collections.abc import Collection, Iterable
from typing import NoReturn

from jaxpg.cli.options import dashed

__all__ = ["known_words", "refuse", "unknown_option"]

# What others write with an option in front, and stands without one here.
_PLAIN = {
    "ENV": ("env", "env_id", "env_name", "environment", "game", "task"),
    "DIR": ("checkpoint", "dir", "directory", "folder", "load", "model", "path", "run"),
}


def unknown_option(words: Iterable[str], names: Iterable[str]) -> str | None:
    """The first of `words` that is written as an option and is none of `names` (as in Python); else None."""
    known = {dashed(name) for name in names}
    for word in words:
        if word == "--":  # Behind it there are no options.
            return None
        if _is_option(word) and word.partition("=")[0].replace("_", "-") not in known:
            return word.partition("=")[0]
    return None


def known_words(words: Iterable[str], names: Collection[str]) -> list[str]:
    """`words` without unknown options and the one word behind each, unless its value is in it: --x=1."""
    left, is_value = [], False
    for word in words:
        if _is_option(word) and unknown_option([word], names) is not None:
            is_value = "=" not in word
        elif is_value and not _is_option(word):
            is_value = False
        else:
            left.append(word)
            is_value = False
    return left


def refuse(option: str, command: str, chosen: Collection[str], plain: str, others: Collection[str] = ()) -> NoReturn:
    """Says that there is no `option`.

    Args:
      command: behind `jaxpg`, whose `--help` lists what there is.
      chosen: the names of its options, as in Python.
      plain: what the command takes without an option, "ENV", "DIR" or "".
      others: names of further options, those of algorithms and networks that were not chosen.
    """
    from jaxpg import _keywords  # Imports jax.
    from jaxpg.cli.commands import COMMANDS
    from jaxpg.cli.settings import IN_THE_WEIGHT, owners

    name = option.lstrip("-").replace("-", "_")
    message = f"there is no option {option}"
    near = _keywords.meant(name, [*chosen, *others])
    if _keywords.belongs_to_weight(name, chosen):
        raise ValueError(f"{message}; the discount belongs to the weight, {IN_THE_WEIGHT}")
    if name in _PLAIN.get(plain, ()):
        raise ValueError(f"{message}; {plain} stands without one: `jaxpg {command.split()[0]} {plain}`")
    if name in COMMANDS:
        raise ValueError(f"{message}, but a command: `jaxpg {name} --help`")
    suggested = [dashed(n) for n in near if n in chosen]
    suggested += [f"{dashed(n)}, an option of {owners(n)}" for n in near if n not in chosen][:1]
    hint = f"did you mean {' or '.join(suggested)}?" if suggested else f"`jaxpg {command} --help` lists those there are"
    raise ValueError(f"{message}; {hint}")


def _is_option(word: str) -> bool:
    """Whether it begins with dashes and is no number, as -1e-3 and -inf are, and none of those that tyro has itself."""
    if not re.match(r"--?[A-Za-z]", word) or word in ("-h", "--help") or word.startswith("--tyro-"):
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False
