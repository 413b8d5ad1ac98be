"""What a run of `jaxpg train` is to be: the command line before a file before the presets before the defaults."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jaxpg.cli import kinds
from jaxpg.cli.options import ALGORITHMS, NETWORKS, Option, algorithm_options, dashed, network_options, run_options

__all__ = ["IN_THE_WEIGHT", "RECORDED", "Settings", "known_options", "owners", "preset", "read_config", "resolve"]

IN_THE_WEIGHT = '--weight "reward_to_go(0.99, discount_states=False)"'
RECORDED = ("command", "versions")  # What a run's own config.yaml holds besides options.
_NOT_IN_FILES = ("config", "debug", "overwrite")
# Options that stand for others: where one was asked for, the preset does not set those.
_IN_PLACE_OF = {
    "optimizer": ("learning_rate", "anneal"), "std_optimizer": ("std_learning_rate",), "baseline": ("critic",),
    "critic_optimizer": ("critic_learning_rate",), "step_size": ("max_kl",), "shared_value": ("critic",),
}  # fmt: skip


class Settings(NamedTuple):
    """All that a run was asked for, as plain data.

    Fields:
      env: the environment's name.
      run, hyperparameters, network: values by name, of `RunOptions`, of the algorithm and of the network.
      sources: name -> "command line", "file", "preset" or "default".
    """

    env: str
    run: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    network: Mapping[str, Any]
    sources: Mapping[str, str]

    @property
    def values(self) -> dict[str, Any]:
        """What makes the run what it is, by name, as a file for `--config` holds it: not where it is kept."""
        run = {name: value for name, value in self.run.items() if name not in (*_NOT_IN_FILES, "out", "no_preset")}
        return {"env": self.env, **run, **self.hyperparameters, **self.network}


def known_options() -> dict[str, list[Option]]:
    """Every option of `jaxpg train`, by name; several where algorithms give one name other kinds."""
    found: dict[str, list[Option]] = {name: [option] for name, option in run_options().items()}
    for options in (*map(algorithm_options, ALGORITHMS), *map(network_options, NETWORKS)):
        for name, option in options.items():
            found.setdefault(name, []).append(option)
    return found


def resolve(env: str | None, given: Mapping[str, Any]) -> Settings:
    """The settings for what was typed: `given` are the words by name.

    Raises:
      ValueError: names the option that is unknown, out of place, or cannot be read.
    """
    base = run_options()
    typed = {name: words for name, words in given.items() if name in base}
    run = {name: kinds.read(dashed(name), base[name], words) for name, words in typed.items()}
    file: dict[str, Any] = {}
    if run.get("config") is not None:
        file = read_config(pathlib.Path(run["config"]).expanduser())
    env = file.pop("env", None) if env is None else env
    file.pop("env", None)
    if not isinstance(env, str):
        raise ValueError(
            "ENV is missing, the name of an environment, in front of the options: `jaxpg train ENV …`; `jaxpg envs` "
            "lists them"
        )
    layers = [("command line", given), ("file", file)]
    choice = _layered(layers, {name: base[name] for name in ("algorithm", "no_preset")}, run.get("config"))[0]
    line = {} if choice["no_preset"] else preset(choice["algorithm"], env)
    network = _layered([*layers, ("preset", line)], {"network": base["network"]}, run.get("config"))[0]["network"]
    options = {**base, **algorithm_options(choice["algorithm"]), **network_options(network)}
    for source, layer in layers:
        for name in layer:
            if name not in options:
                _refuse(name, choice["algorithm"], network, "" if source == "command line" else f"{run['config']}: ")
    # What the preset says of another network than the one that was chosen is left out, and what would be in the way.
    asked = {name for _, layer in layers for name in layer}
    yielding = {other for name in asked for other in _IN_PLACE_OF.get(name, ())}
    if network != line.get("network", base["network"].default):
        yielding |= set(network_options(network))
    line = {name: value for name, value in line.items() if name in options and name not in yielding}
    layers.append(("preset", line))
    values, sources = _layered(layers, options, run.get("config"))
    return Settings(
        env=env,
        run={name: values[name] for name in base},
        hyperparameters={name: values[name] for name in algorithm_options(choice["algorithm"])},
        network={name: values[name] for name in network_options(network)},
        sources=sources,
    )


def preset(algorithm: str, env: str) -> dict[str, Any]:
    """The line of `jaxpg.algorithms.presets` by the names of options."""
    if not env:
        return {}
    from jaxpg.algorithms.presets import PRESETS  # Imports jax.

    line = dict(PRESETS.get(algorithm, {}).get(env, {}))
    return line | line.pop("policy", {})


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """The options in a YAML or JSON file, name -> what stands there.

    Raises:
      ValueError: a file that cannot be read, that holds something else, or an unknown name.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--config: {path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config: {path} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        content = {}
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"--config: {path} must hold lines such as `learning_rate: 0.001`; got {content!r:.80}")
    known = known_options()
    found: dict[str, Any] = {}
    for key, value in content.items():
        if key in RECORDED:
            continue
        name = next((n for n in (key, *known) if n in known and _same(n, key)), key)
        if name in _NOT_IN_FILES or (name not in known and name != "env"):
            raise ValueError(f"--config: {path}: {key!r} is not an option for a file{_nearest(key, known)}")
        if name in found:
            raise ValueError(f"--config: {path}: {key!r} is there twice")
        found[name] = value
    return found


def _same(name: str, key: str) -> bool:
    return name.strip("_") == key.replace("-", "_").strip("_")


def _layered(
    layers: Iterable[tuple[str, Mapping[str, Any]]], options: Mapping[str, Option], file: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """(the value of each option, from the first layer that has it, and where that is)."""
    values, sources = {}, {}
    for name, option in options.items():
        values[name], sources[name] = option.default, "default"
        for source, layer in layers:
            if name in layer:
                argument = {"file": f"{file}: {name}"}.get(source, dashed(name))
                values[name] = layer[name] if source == "preset" else kinds.read(argument, option, layer[name])
                sources[name] = source
                break
    return values, sources


def owners(name: str) -> str:
    """Whose option it is: `--algorithm npg or trpo`; empty for one that every run has."""
    for choice, having in (
        ("algorithm", [a for a in ALGORITHMS if name in algorithm_options(a)]),
        ("network", [n for n in NETWORKS if name in network_options(n)]),
    ):
        if having:
            return f"--{choice} {' or '.join(filter(None, (', '.join(having[:-1]), having[-1])))}"
    return ""


def _refuse(name: str, algorithm: str, network: str, where: str) -> None:
    """Says whose option it is."""
    from jaxpg._keywords import belongs_to_weight  # Imports jax.

    argument, owner = f"{where}{name}" if where else dashed(name), owners(name)
    other = algorithm if owner.startswith("--algorithm") else network
    hint = ""
    if belongs_to_weight(name, algorithm_options(algorithm)):
        hint = f": it belongs to the weight, {IN_THE_WEIGHT}"
    raise ValueError(f"{argument} is an option of {owner}; {other} does not have it{hint}")


def _nearest(name: str, names: Iterable[str]) -> str:
    from jaxpg._keywords import meant  # Imports jax.

    found = meant(name.replace("-", "_"), [*names, "env"])
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""
