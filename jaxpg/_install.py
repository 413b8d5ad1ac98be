"""How jaxpg is installed, for messages that name the line; README.md and docs/ say the same."""

__all__ = ["line"]


def line(extra: str) -> str:
    """`pip install …` for jaxpg with an extra."""
    return f'pip install "jaxpg[{extra}] @ git+https://github.com/jaxpg/jaxpg"'
