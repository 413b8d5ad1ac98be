"""How results are told: headings, facts in two columns, numbers with their errors. Plain text where nobody watches."""

import math
from collections.abc import Iterable
from typing import Any

__all__ = ["console", "facts", "heading", "rate", "seconds", "say_files", "with_error"]


def console() -> Any:
    """Standard output. In a pipe or a file lines are wide rather than broken."""
    from rich.console import Console

    output = Console(highlight=False, soft_wrap=False)
    return output if output.is_terminal else Console(highlight=False, width=max(output.width, 120))


def heading(output: Any, text: str, note: str = "") -> None:
    """A line that opens a part of the report."""
    from rich.text import Text

    output.print()
    output.print(Text.assemble((text, "bold"), (f"  {note}" if note else "", "dim")))


def facts(output: Any, rows: Iterable[tuple[str, ...]]) -> None:
    """Lines of (name, value) or (name, value, remark), in columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(overflow="fold")
    for name, value, *remark in rows:
        table.add_row(Text(f"  {name}", style="cyan"), Text(value), Text("".join(remark), style="dim"))
    output.print(table)


def say_files(output: Any, paths: Iterable[Any]) -> None:
    """The files that were written, one a line, to be copied whole."""
    from rich.text import Text

    heading(output, "Written")
    for path in paths:
        output.print(Text(f"  {path}", style="green"), soft_wrap=True)


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"


def rate(count: float, duration: float) -> str:
    """Three digits, without an exponent: 497,000."""
    value = count / max(duration, 1e-9)
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def with_error(value: Any, error: Any) -> str:
    """`27.13 ± 0.23`: the error with two digits, the value to the same place."""
    value, error = float(value), float(error)
    if not math.isfinite(error) or not math.isfinite(value) or error <= 0:
        return f"{value:.5g} ± {error:.2g}"
    digits = 1 - math.floor(math.log10(error))
    if digits > 6:
        places = digits + math.floor(math.log10(max(abs(value), error)))
        return f"{value:.{places}e} ± {error:.1e}"
    digits = max(digits, 0)
    return f"{value:,.{digits}f} ± {error:,.{digits}f}"
