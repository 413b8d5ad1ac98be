"""Parts of a run, from the options of a command."""

from typing import Any

__all__ = ["make_environment", "num_parameters"]


def make_environment(name: str, max_steps: int | None) -> Any:
    """`jaxpg.make`, with a shorter list of names in its error."""
    import jaxpg

    try:
        return jaxpg.make(str(name), max_steps=max_steps)
    except ValueError as error:
        every = ", ".join(map(repr, jaxpg.envs.available()))
        raise ValueError(str(error).replace(f"name must be one of {every}", "ENV must be a name that `jaxpg envs` lists")
                         ) from error


def num_parameters(params: Any) -> int:
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(params))
