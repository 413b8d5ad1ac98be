"""A comparison as a table of text."""

import math
from typing import Any

__all__ = ["check_comparison", "table"]

COLUMNS = {
    "bias_squared": "bias²",
    "variance": "variance",
    "mean_squared_error": "mean squared error",
    "mean_squared_error_ratio": "ratio",
    "cosine_similarity": "cosine",
    "seconds": "seconds",
    "bytes": "bytes",
    "efficiency": "1/(MSE·s)",
}


def table(dataset: Any) -> str:
    """What `compare` found, as a Markdown table: value ± standard error, one row for each estimator.

    Columns that hold nothing (time and memory without timing rounds) are left out. `print` it.
    """
    check_comparison(dataset)
    shown = {name: title for name, title in COLUMNS.items() if not bool(dataset[name].isnull().all())}
    rows = [["estimator", *shown.values()]]
    for name in dataset.estimator.values:
        row = dataset.sel(estimator=name)
        rows.append([str(name).replace("|", "\\|"), *(_cell(row, variable) for variable in shown)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(_pad(cell, width, place > 0) for place, (cell, width) in enumerate(zip(row, widths))) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 1) + (":" if place else "-") for place, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def check_comparison(dataset: Any) -> None:
    """Raises TypeError unless `dataset` is of the kind that `compare` returns."""
    if "estimator" not in getattr(dataset, "dims", ()) or "bias_squared" not in dataset:
        raise TypeError(f"dataset must be what jaxpg.compare returns; got {type(dataset).__name__}")


def _pad(cell: str, width: int, number: bool) -> str:
    return cell.rjust(width) if number else cell.ljust(width)


def _cell(row: Any, variable: str) -> str:
    value = float(row[variable])
    if variable == "bytes":
        return binary_size(value)
    return value_and_error(value, float(row[f"{variable}_error"]))


def value_and_error(value: float, error: float) -> str:
    """`0.0123 ± 0.0004`, `(1.23 ± 0.04)e-07`: the error with one or two digits, the value to the same place."""
    if not math.isfinite(value):
        return "–"
    if not math.isfinite(error) or error <= 0:
        return f"{value:.3g}"
    size = math.floor(math.log10(max(abs(value), error)))
    if -4 <= size < 5:
        scale, suffix = 1.0, ""
    else:
        scale, suffix = 10.0**size, f"e{size:+03d}"
    digits = math.floor(math.log10(error / scale))
    places = min(max(1 - digits if error / scale < 2 * 10.0**digits else -digits, 0), 9)
    text = f"{value / scale:.{places}f} ± {error / scale:.{places}f}"
    return f"({text}){suffix}" if suffix else text


def binary_size(value: float) -> str:
    """`1.5 MiB`."""
    if not math.isfinite(value):
        return "–"
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(int(math.log2(max(value, 1.0)) // 10), len(units) - 1)
    return f"{value / 1024**power:.3g} {units[power]}"
