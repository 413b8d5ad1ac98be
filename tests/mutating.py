"""Mistakes planted on purpose: a name of the library replaced while a check runs, which must then fail."""

import types
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest


class Check(NamedTuple):
    """A test that passes on the honest code: its name in the report, what it runs, and whether in double precision."""

    name: str
    run: Callable[[], None]
    double: bool = False


class Mutation(NamedTuple):
    """A mistake: `broken` makes of the honest attribute of `owner` the wrong one that takes its place."""

    owner: Any
    attribute: str
    broken: Callable[[Any], Any]
    check: Check

    @property
    def place(self):
        owner = self.owner
        name = owner.__name__ if isinstance(owner, types.ModuleType) else f"{owner.__module__}.{owner.__qualname__}"
        return f"{name.removeprefix('jaxpg.')}.{self.attribute}"


def of_suite(test, *arguments, case="", double=False):
    """A test of another file, called as it is."""
    name = f"{test.__module__}.py::{test.__name__}{f'[{case}]' if case else ''}"
    return Check(name, lambda: test(*arguments), double)


def plant(mutation, request, monkeypatch):
    """Runs the mutation's check on the broken code; it must fail."""
    owner, attribute, broken, check = mutation
    prepare(check, request)
    monkeypatch.setattr(owner, attribute, broken(getattr(owner, attribute)))
    with pytest.raises(AssertionError):
        check.run()


def prepare(check, request):
    if check.double:
        request.getfixturevalue("x64")


def with_options(**changes):
    """The function, called with other keyword arguments than it is given."""
    return lambda honest: lambda *args, **options: honest(*args, **{**options, **changes})


def of_result(change):
    """The function's result, as `change` has it."""
    return lambda honest: lambda *args, **options: change(honest(*args, **options))


def of_arguments(change):
    """The function of other positional arguments."""
    return lambda honest: lambda *args, **options: honest(*change(*args), **options)
