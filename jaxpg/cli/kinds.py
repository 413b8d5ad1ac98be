"""Kinds of options: how words, and what a YAML file holds, become values.

Values are plain data (numbers, strings, lists, None), so that a run can write down what it was started with. What is a
function or an optimiser in Python is kept as the text of the call, `rmsprop(6e-4, decay=0.99)`, and called by `build`.
"""

import ast
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxpg.cli.options import Option

__all__ = ["LIKE_THE_POLICY", "Kind", "call", "kind_of", "read", "shown"]

TRUE, FALSE, NONE = ("true", "yes", "on"), ("false", "no", "off"), ("none", "null")
LIKE_THE_POLICY = "like the policy"


class Kind(NamedTuple):
    """What an option takes.

    Fields:
      accepted: in words, for messages.
      metavar: in short, for help.
      read: word -> value, or ValueError.
      none, many: whether it may be `none`, and whether it takes any number of words.
      choices: the words that it takes, where these are few.
      calls: the module whose functions a value that is text is a call of, for `call`; else "".
    """

    accepted: str
    metavar: str
    read: Callable[[str], Any]
    none: bool = False
    many: bool = False
    calls: str = ""
    choices: Sequence[str] = ()


def kind_of(option: Option) -> Kind:
    """The kind, from the argument's annotation, its default and what is said of it."""
    name, annotation = option.name, option.annotation
    none = option.default is None or "None" in annotation
    none |= annotation == "Any" and re.search(r"\bNone\b", option.help) is not None
    many = annotation.startswith("Sequence[")
    inner = re.sub(r" \| None$", "", annotation)
    inner = re.sub(r"^Sequence\[(.*)\]$", r"\1", inner)
    if inner.startswith("Literal["):
        choices = ast.literal_eval(inner.removeprefix("Literal"))
        return Kind(f"one of {', '.join(choices)}", "|".join(choices), _choice(choices), many=many, choices=choices)
    if name.endswith("optimizer"):
        return Kind("a call in optax such as adam(1e-3)", "CALL", _call, none, calls="optax")
    if inner == "Weight":
        return Kind("a call in jaxpg.weights such as total_return(0.99)", "CALL", _call, none, calls="jaxpg.weights")
    if inner == "Baseline":
        accepted = "a call in jaxpg.baselines such as leave_one_out(group_size=8)"
        return Kind(accepted, "CALL", _call, none, calls="jaxpg.baselines")
    if inner == "Critic":
        accepted = "like-the-policy, or a call in jaxpg.policies such as value_mlp(hidden_sizes=(64, 64))"
        return Kind(accepted, "CALL", _critic, none, calls="jaxpg.policies")
    if name == "dtype" or inner in ("str", "str | Callable[..., Any]"):
        return Kind("a name", "NAME", str, none, many)
    if inner == "bool | str":
        return Kind("true, false or a name", "true|false|NAME", _boolean_or_name, none)
    if inner == "bool":
        return Kind("true or false", "true|false", _boolean, none)
    if inner == "int":
        return Kind("a whole number", "N", _integer, none, many)
    if inner == "pathlib.Path":
        return Kind("a path", "PATH", str, none)
    assert inner in ("Any", "float"), f"{name}: {annotation}"
    if "function of the number of updates" in option.help:
        accepted = "a number, or a schedule of optax such as linear_schedule(1e-3, 0, 500)"
        return Kind(accepted, "X", _number_or_call, none, calls="optax")
    return Kind("a number", "X", float, none)


def read(argument: str, option: Option, words: Any) -> Any:
    """The value that words, or the contents of a YAML file, give.

    Raises:
      ValueError: names `argument`, what is accepted and what came.
    """
    kind = kind_of(option)
    if words is None and kind.none:
        return None
    words = [_word(w) for w in words] if isinstance(words, (list, tuple)) else [_word(words)]
    try:
        if kind.none and len(words) == 1 and words[0].lower() in NONE and option.annotation != "Baseline | None":
            return None
        if kind.many:
            return tuple(kind.read(word) for word in words)
        (word,) = words
        return kind.read(word)
    except (ValueError, OverflowError):
        several = "any number of values, each " if kind.many else ""
        or_none = " or none" if kind.none else ""
        raise ValueError(
            f"{argument} must be {several}{kind.accepted}{or_none}; got {' '.join(map(repr, words)) or 'nothing'}"
            f"{_nearest(words, kind.choices)}"
        ) from None


def shown(value: Any) -> str:
    """The words for a value, as they would be typed; "(nothing)" for no words."""
    if isinstance(value, (tuple, list)):
        return " ".join(map(shown, value)) or "(nothing)"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:_}"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def call(argument: str, text: str, module: Any, *first: Any) -> Any:
    """What the call gives: a function of `module`, with numbers, strings and the like as arguments after `first`.

    The text is not run as a program: it can name only what the module offers.
    """
    name, arguments, keywords = _parsed(text)
    names = [n for n in getattr(module, "__all__", dir(module)) if not n.startswith("_")]
    if name not in names or not callable(getattr(module, name)):
        from jaxpg._check import nearest

        raise ValueError(f"{argument} must name a function of {module.__name__}; got {text!r}{nearest(name, names)}")
    try:
        return getattr(module, name)(*first, *arguments, **keywords)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{argument}: {text}: {error}") from error


def _nearest(words: Sequence[str], choices: Sequence[str]) -> str:
    from jaxpg._check import nearest  # Imports jax.

    wrong = [word for word in words if word.replace("-", "_") not in choices]
    return nearest(wrong[0], choices) if wrong and choices else ""


def _word(value: Any) -> str:
    if isinstance(value, (list, tuple, dict)):
        raise ValueError(f"options must be single values or lists of them; got {value!r:.80}")
    return repr(value) if isinstance(value, float) else str(value)


def _parsed(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """(name, arguments, keywords) of `name`, `module.name` or `name(1, b=2)`; ValueError for anything else."""
    if re.fullmatch(r"[\w.-]+", text):
        text = text.replace("-", "_")
    try:
        tree: Any = ast.parse(text.strip(), mode="eval").body
        node = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
        names = ast.unparse(node.func).split(".")
        if not all(name.isidentifier() for name in names) or any(keyword.arg is None for keyword in node.keywords):
            raise ValueError
        keywords: Any = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
        return names[-1], [ast.literal_eval(argument) for argument in node.args], keywords
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError(f"{text!r} is not a call with numbers or strings as arguments") from None


def _call(word: str) -> str:
    _parsed(word)
    return word


def _critic(word: str) -> str:
    return LIKE_THE_POLICY if word.replace("-", " ").replace("_", " ") == LIKE_THE_POLICY else _call(word)


def _number_or_call(word: str) -> Any:
    return _call(word) if "(" in word else float(word)


def _choice(choices: Sequence[str]) -> Callable[[str], str]:
    def choose(word: str) -> str:
        if (name := word.replace("-", "_")) not in choices:
            raise ValueError
        return name

    return choose


def _boolean(word: str) -> bool:
    if word.lower() not in (*TRUE, *FALSE):
        raise ValueError
    return word.lower() in TRUE


def _boolean_or_name(word: str) -> bool | str:
    return _boolean(word) if word.lower() in (*TRUE, *FALSE) else word


def _integer(word: str) -> int:
    """12345, 12_345 or 1.2e4."""
    try:
        return int(word)
    except ValueError:
        number = float(word)
    if not number.is_integer():
        raise ValueError
    return int(number)
