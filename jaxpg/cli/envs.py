"""`jaxpg envs`: a table of the environments."""

from typing import Any

from jaxpg.cli import devices
from jaxpg.cli.commands import Envs
from jaxpg.cli.console import console

__all__ = ["run_envs"]


def run_envs(command: Envs) -> None:
    """Prints the environments with their spaces and limits."""
    del command
    devices.prepare(1)
    import jaxpg
    from jaxpg.render import can_render

    output = console()
    with output.status("looking at the environments"):
        environments = [jaxpg.make(name) for name in jaxpg.envs.available()]
    table = _table()
    for env in environments:
        limit = "none" if env.max_steps is None else f"{env.max_steps:,}"
        table.add_row(
            env.name, str(env.observation_space), str(env.action_space), limit, "yes" if can_render(env) else ""
        )
    output.print(table)
    output.print(
        "Parameters go by keyword in Python: jaxpg.make('Pendulum-v1', max_steps=100, g=9.8)", style="dim", markup=False
    )


def _table() -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("environment", style="cyan", no_wrap=True)
    table.add_column("observations", overflow="fold")
    table.add_column("actions", overflow="fold")
    table.add_column("limit", justify="right")
    table.add_column("film", justify="center")
    return table
