"""The `jaxpg` command: `demo`, `gradient`, `train`, `resume`, `evaluate`, `render`, `plot`, `envs`.

`commands` holds what can be typed, one dataclass for a subcommand; the options of `train` are read from the algorithms
and networks they belong to (`options`, `settings`). Each command has a module that does the work. `jaxpg --help` and
`jaxpg train --help` need neither JAX nor anything else that is slow to load.
"""

import linecache
import os
import pathlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any

__all__ = ["main"]

USER_ERROR, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line `arguments` (default: the process's own).

    Raises:
      SystemExit: 2 for a mistake of the user, told in one line; 130 after Ctrl-C; 143 after a SIGTERM that `train` or
        `resume` have saved the run at. Other errors are raised as they are.
    """
    from jaxpg.cli.arguments import parse

    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            show = warnings.showwarning
            warnings.showwarning = lambda *warning: _show_warning(show, *warning)
            parse(words).run()
    except KeyboardInterrupt:
        _say_error("interrupted")
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # `jaxpg envs | head`: nobody reads on, and Python must not try to write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        if "--debug" in words or not _is_users_mistake(error):
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


def _show_warning(show: Any, message: Any, category: type, *where: Any) -> None:
    """What runs warn of in a line, without the place in the code; other warnings as ever."""
    if category is RuntimeWarning:
        _say(f"warning: {message}", "yellow")
    else:
        show(message, category, *where)


def _say_error(message: str) -> None:
    _say(message, "bold red")


def _say(message: str, style: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, highlight=False).print(Text(f"jaxpg: {message}", style=style), soft_wrap=True)
