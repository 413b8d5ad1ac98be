"""`jaxpg envs` and `jaxpg check-env`: a table of the environments, and whether one keeps its promises."""

from typing import Any

from jaxpg import _install
from jaxpg.cli import devices
from jaxpg.cli.build import make_environment
from jaxpg.cli.commands import CheckEnv, Envs
from jaxpg.cli.console import console

__all__ = ["run_check_env", "run_envs"]


def run_envs(command: Envs) -> None:
    """Prints the environments with their spaces and limits, and the suites that could be installed."""
    devices.prepare(1)
    import jaxpg
    from jaxpg.envs.registry import SUITES
    from jaxpg.render import can_render

    names = jaxpg.envs.available(command.suite)
    output = console()
    table = _table()
    with output.status("looking at the environments"):
        for name in names:
            try:
                env = jaxpg.make(name)
            except Exception as error:  # Of a suite's own making: the others are listed all the same.
                table.add_row(name, f"cannot be built: {error}", "", "", "")
                continue
            limit = "none" if env.max_steps is None else f"{env.max_steps:,}"
            film = "yes" if can_render(env) else ""
            table.add_row(name, str(env.observation_space), str(env.action_space), limit, film)
    output.print(table)
    others = [suite for suite, facts in SUITES.items() if facts.is_installed and suite != command.suite]
    missing = [facts.extra for facts in SUITES.values() if not facts.is_installed]
    lines = ["Parameters go by keyword in Python: jaxpg.make('Pendulum-v1', max_steps=100, g=9.8)"]
    if others and command.suite != "all":
        lines.append(f"Also installed: {', '.join(others)}; jaxpg envs --suite NAME")
    if missing:
        lines.append(f"Not installed: {', '.join(missing)}; {_install.line('NAME')}")
    for line in lines:
        output.print(line, style="dim", markup=False)


def run_check_env(command: CheckEnv) -> None:
    """Prints what `jaxpg.envs.check_env` found.

    Raises:
      SystemExit: 1 if a check failed.
    """
    devices.prepare(1)
    import jax

    from jaxpg.envs import check_env

    output = console()
    with output.status(f"playing {command.env}"):
        env = make_environment(command.env, command.max_steps)
        key = jax.random.key(command.seed)
        report = check_env(env, key, num_episodes=command.num_episodes, num_steps=command.num_steps)
    colors = {"passed": "green", "failed": "bold red", "note": "yellow"}
    table = _table("check", "", "what was seen")
    for finding in report.findings:
        table.add_row(finding.check, f"[{colors[finding.status]}]{finding.status}[/]", _plain(finding.message))
    output.print(table)
    output.print(f"{report.name}: {'conforms' if report.passed else 'does not conform'}", markup=False)
    if not report.passed:
        raise SystemExit(1)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    if columns:
        for column in columns:
            table.add_column(column, overflow="fold")
        return table
    table.add_column("environment", style="cyan", no_wrap=True)
    table.add_column("observations", overflow="fold")
    table.add_column("actions", overflow="fold")
    table.add_column("limit", justify="right")
    table.add_column("film", justify="center")
    return table
