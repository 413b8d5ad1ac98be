"""What `make` does with keyword arguments in every suite: their names are checked, what they made is kept."""

from collections.abc import Callable, Hashable, Iterable
from typing import Any

from jaxpg import _check
from jaxpg.envs.base import Environment

__all__ = ["Kept", "check_names"]

# What suites call their episode limit.
_LIMITS = ("episode_length", "max_episode_steps", "max_steps_in_episode", "max_timesteps", "time_limit")


def check_names(title: str, given: Iterable[str], known: Iterable[str], *, limit: str = "") -> None:
    """A ValueError for the first name in `given` that `title` does not have.

    `limit` is what this suite calls its episode limit, which `max_steps` sets for all suites.
    """
    known = [name for name in known if name != limit]
    for name in given:
        if (limit and name == limit) or (name in _LIMITS and name not in known):
            by = "the argument max_steps of jaxpg.make" if name == "max_steps" else f"max_steps, not by {name}"
            raise ValueError(f"{title}: the episode limit is set by {by}")
        if name not in known:
            raise ValueError(
                f"{title} has no parameter {name!r}; it has {', '.join(known) or 'none'}{_check.nearest(name, known)}"
            )


class Kept:
    """The environments made last, by what they depend on: equal arguments give the same object."""

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._environments: dict[Hashable, Environment] = {}

    def get(self, key: Any, make: Callable[[], Environment]) -> Environment:
        """What was made for `key`, or `make()`. A key without a hash, or None, finds and keeps nothing."""
        try:
            hash(key)
        except TypeError:
            key = None
        if key in self._environments:
            return self._environments[key]
        environment = make()
        if key is not None:
            while len(self._environments) >= self._most:
                self._environments.pop(next(iter(self._environments)))
            self._environments[key] = environment
        return environment

    def __len__(self) -> int:
        return len(self._environments)
