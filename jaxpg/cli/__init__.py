"""The `jaxpg` command: `jaxpg demo`, `jaxpg gradient ENV`, `jaxpg train ENV`, `jaxpg envs`.

`commands` holds what can be typed, one dataclass for a subcommand; each has a module of its own that does the work.
`jaxpg --help` needs neither JAX nor anything else that is slow to load.
"""

import linecache
import os
import pathlib
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

    debug = False
    try:
        command = parse(list(sys.argv[1:] if arguments is None else arguments))
        debug = command.debug
        command.run()
    except KeyboardInterrupt:
        _say_error("interrupted")
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # `jaxpg envs | head`: nobody reads on, and Python must not try to write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except (ValueError, TypeError, OSError) as error:
        if debug or not _is_users_mistake(error):
            raise
        _say_error(str(error) or type(error).__name__)
        raise SystemExit(USER_ERROR) from None


def _is_users_mistake(error: BaseException) -> bool:
    """Whether the error was raised on purpose, by a check in jaxpg; a slip in the code must not look like one."""
    if isinstance(error, OSError):
        return True
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return False
    file = traceback.tb_frame.f_code.co_filename
    is_ours = pathlib.Path(__file__).parent.parent in pathlib.Path(file).parents
    return is_ours and linecache.getline(file, traceback.tb_lineno).lstrip().startswith("raise ")


def _say_error(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, highlight=False).print(Text(f"jaxpg: {message}", style="bold red"), soft_wrap=True)
