"""The `jaxpg` command: `jaxpg demo`, `jaxpg gradient ENV`, `jaxpg train ENV`, `jaxpg envs`.

`commands` holds what can be typed, one dataclass for a subcommand; each has a module of its own that does the work.
`jaxpg --help` needs neither JAX nor anything else that is slow to load.
"""

import sys
from collections.abc import Sequence

__all__ = ["main"]

USER_ERROR, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line `arguments` (default: the process's own).

    Raises:
      SystemExit: 2 for a mistake of the user, told in one line; 130 after Ctrl-C. Other errors are raised as they are.
    """
    from jaxpg.cli.arguments import parse

    command = parse(list(sys.argv[1:] if arguments is None else arguments))
    try:
        command.run()
    except KeyboardInterrupt:
        _say_error("interrupted")
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # `jaxpg envs | head`
        sys.stderr.close()
        raise SystemExit(0) from None
    except (ValueError, TypeError, OSError) as error:
        if command.debug:
            raise
        _say_error(str(error) or type(error).__name__)
        raise SystemExit(USER_ERROR) from None


def _say_error(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, highlight=False).print(Text(f"jaxpg: {message}", style="bold red"), soft_wrap=True)
