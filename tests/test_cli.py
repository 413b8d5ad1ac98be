"""The `jaxpg` command: what it prints, the files it writes, and how it speaks of mistakes."""

import contextlib
import csv
import importlib
import inspect
import io
import json
import os
import pathlib
import re
import shutil
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray
import yaml
from PIL import Image

import jaxpg
from jaxpg import cli
from jaxpg.algorithms import presets
from jaxpg.cli import build, commands, devices, kinds, options, plot_sweep, settings, unknown
from jaxpg.cli.arguments import parse
from jaxpg.cli.console import rate, with_error
from jaxpg.cli.plot import read_curves
from jaxpg.cli.report import interquartile_mean
from jaxpg.cli.run_folder import RunFolder, as_json
from jaxpg.cli.train import settings_of
from jaxpg.envs import registry
from jaxpg.training.checkpoints import load_best
from jaxpg.training.evaluate import Evaluation

TINY = ["--hidden-sizes", "8"]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """A wide terminal, and nothing is written into the user's home."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("JAXPG_COMPILATION_CACHE", "off")


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Runs here are many and alike: what one compiles the next ones read."""
    from jax.experimental.compilation_cache import compilation_cache

    before = {name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir",
              "jax_persistent_cache_min_compile_time_secs")}  # fmt: skip
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def says(capsys):
    """`says(words, exit_code=0)`: what `jaxpg words…` prints to standard output, and to standard error if it fails."""

    def run(*words, exit_code=0):
        __tracebackhide__ = True
        code = 0
        try:
            cli.main([str(word) for word in words])
        except SystemExit as exit:
            code = exit.code
        printed = capsys.readouterr()
        assert code == exit_code, printed.out + printed.err
        return printed.err if exit_code else printed.out

    return run


def facts(text):
    """The report's lines as {name: rest}."""
    return dict(re.findall(r"^  (\w[\w ]*?)  +(\S.*?) *$", text, re.MULTILINE))


# --- words -----------------------------------------------------------------------------------------------------------


def options_in(text):
    """The entries of a page of help, each in one line."""
    parts = re.split(r"\n(?:│ | {1,2})(?=--[a-z])", text)
    return [" ".join(part.replace("│", " ").split()) for part in parts]


@pytest.mark.parametrize("name", sorted(set(commands.COMMANDS) - {"train"}))
def test_help_explains_every_option(says, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # One column of options.
    text = says(name, "--help")
    fields = {field.name: field for field in commands.COMMANDS[name].__dataclass_fields__.values()}
    assert ("ENV" in text) == ("env" in fields)
    assert f"Example: jaxpg {name}" in text
    found = options_in(text)
    for field in set(fields) - {"env", "directory", "directories"}:
        option = f"--{field.replace('_', '-')} "
        entry = [entry for entry in found if entry.startswith(option)][-1]  # The example may have it, too.
        assert ("by default" in entry) != ("(default:" in entry)  # Told once.


def functions():
    from jaxpg import policies

    for name in options.ALGORITHMS:
        yield name, getattr(importlib.import_module(f"jaxpg.algorithms.{name}"), name), options.algorithm_options(name)
    for name in options.NETWORKS:
        yield name, getattr(policies, name), options.network_options(name)


@pytest.mark.parametrize(
    ("name", "function", "found"), list(functions()), ids=lambda x: x if isinstance(x, str) else ""
)
def test_every_argument_of_every_algorithm_and_network_is_an_option(name, function, found):
    """Read from the source, and as Python sees it: the same names in the same order, with the same defaults."""
    arguments = {k: p.default for k, p in inspect.signature(function).parameters.items() if k not in ("env", "policy")}
    assert list(found) == list(arguments)
    for argument, default in arguments.items():
        option = found[argument]
        assert option.default == default and type(option.default) is type(default)
        assert option.help, argument
        kind = kinds.kind_of(option)
        if default is None:
            assert kind.none
        words = [kinds.shown(x) for x in default] if kind.many and default is not None else kinds.shown(default)
        if argument != "baseline" or name == "pgpe":  # `none` is a baseline.
            assert kinds.read("x", option, words) == default
        assert kinds.read("x", option, as_json(default)) == default


def test_no_name_means_two_things():
    run = set(options.run_options())
    for algorithm in options.ALGORITHMS:
        names = set(options.algorithm_options(algorithm))
        assert not names & run
        for network in options.NETWORKS:
            assert not (names | run) & set(options.network_options(network)) and "env" not in names


def test_presets_hold_only_options():
    for algorithm, env in presets.names():
        line = settings.preset(algorithm, env)
        known = {**options.run_options(), **options.algorithm_options(algorithm)}
        known |= options.network_options(line.get("network", "mlp"))
        assert set(line) <= set(known)


@pytest.mark.parametrize(("algorithm", "network"), [("trpo", "mlp"), ("ppo", "recurrent"), ("v-mpo", "cnn")])
def test_help_of_an_algorithm_lists_its_hyperparameters(says, algorithm, network, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = options_in(says("train", "--algorithm", algorithm, "--network", network, "--help"))
    algorithm = algorithm.replace("-", "_")
    every = {**options.run_options(), **options.algorithm_options(algorithm), **options.network_options(network)}
    for name in every:
        assert any(entry.startswith(f"{options.dashed(name)} ") and "default" in entry.lower() for entry in found), name
    if algorithm == "trpo":
        assert any(re.match(r"--damping X λ ≥ 0 in F \+ λI\. \(default: 0\.01\)", entry) for entry in found)


def test_help_of_train_lists_the_algorithms_and_presets(says, monkeypatch):
    text = says("train", "--help")
    for name in options.ALGORITHMS:
        assert re.search(rf"\d\. {name}: \w", text)
    assert "--clip" not in text and "--num-env-steps" in text and "Example: jaxpg train" in text
    monkeypatch.setenv("COLUMNS", "80")
    entries = options_in(says("train", "Pendulum-v1", "--algorithm", "ppo", "--help"))
    assert any(re.match(r"--discount X .*\(default: 0.99; preset: 0.95\)", entry) for entry in entries)


def test_help_tells_one_default(says, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    entries = options_in(says("train", "Pendulum-v1", "--algorithm", "npg", "--help"))
    (rate,) = (entry for entry in entries if entry.startswith("--critic-learning-rate "))
    assert "Default 0.001." in rate and "(default:" not in rate
    (every,) = (entry for entry in entries if entry.startswith("--checkpoint-every "))
    assert "by default about a minute." in every and "none" not in every
    (limit,) = (entry for entry in entries if entry.startswith("--max-steps "))
    assert "(default: none)" in limit


def test_help_lists_the_commands(says):
    text = says("--help")
    for name in commands.COMMANDS:
        assert re.search(rf"[•*] {name} +[A-Z]", text)
    assert says() == text


def test_help_and_parsing_load_nothing_slow(run_in_subprocess):
    program = """
    import sys
    from jaxpg.cli import main
    for words in ("--help", "train --help", "train --algorithm trpo --help", "resume --help", "--version"):
        try:
            main(words.split())
        except SystemExit as exit:
            assert exit.code == 0
    print(*sys.modules, file=sys.stderr)
    slow = {"jax", "numpy", "flax", "gymnax", "matplotlib", "rich"} & set(sys.modules)
    assert not slow, slow
    """
    assert f"jaxpg {jaxpg.__version__}" in run_in_subprocess(program)


def settings_for(words):
    return parse(["train", *words.split()]).settings


def test_words_become_options():
    found = settings_for("X --num-env-steps 2e5 --num-envs 1_000 --hidden-sizes --out a/b --lambda 0.5 --clip 1e-1")
    assert found.env == "X" and found.run["out"] == "a/b"
    assert found.run["num_env_steps"] == 200_000 and type(found.run["num_env_steps"]) is int
    assert found.network["hidden_sizes"] == () and found.hyperparameters["num_envs"] == 1_000
    assert found.hyperparameters["lambda_"] == 0.5 and found.hyperparameters["clip"] == 0.1
    assert found.hyperparameters["entropy_coefficient"] == 0.0 and found.run["algorithm"] == "ppo"
    assert parse(["demo"]) == commands.Demo()
    assert parse("gradient X --hidden-sizes 3 4 --devices 2 --debug".split()) == commands.Gradient(
        env=commands.EnvironmentName("X"), hidden_sizes=(3, 4), devices=2, debug=True
    )
    assert parse("resume a --num-env-steps 1e6".split()) == commands.Resume(
        directory=pathlib.Path("a"), num_env_steps=1_000_000
    )


def test_true_may_be_left_out():
    found = settings_for("--anneal X --scale-rewards --shared-value --squash tanh --entropy-coefficient -0.1 --debug")
    assert found.env == "X" and found.run["anneal"] is True and found.run["debug"] is True
    assert found.hyperparameters["scale_rewards"] is True and found.hyperparameters["entropy_coefficient"] == -0.1
    assert found.network["squash"] == "tanh" and found.network["shared_value"] is True
    found = settings_for("X --scale-rewards false --squash --max-gradient-norm none --algorithm v-mpo --overwrite")
    assert found.hyperparameters["scale_rewards"] is False and found.network["squash"] is True
    assert found.hyperparameters["max_gradient_norm"] is None and found.run["overwrite"] is True
    assert settings_for("X --algorithm a2c --normalize-advantages").hyperparameters["normalize_advantages"] is True


def test_the_command_line_goes_before_the_file_the_file_before_the_preset(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("num-steps: 128\nlearning_rate: 1e-4\nlambda: 0.8\nhidden_sizes: [3, 4]\nmax_gradient_norm: none\n")
    words = f"CartPole-v1 --config {file} --learning-rate 0.02 --num-epochs 3"
    found = settings_for(words)
    line = presets.PRESETS["ppo"]["CartPole-v1"]
    for name, value, source in [
        ("learning_rate", 0.02, "command line"), ("num_epochs", 3, "command line"), ("num_steps", 128, "file"),
        ("lambda_", 0.8, "file"), ("hidden_sizes", (3, 4), "file"), ("max_gradient_norm", None, "file"),
        ("num_env_steps", line["num_env_steps"], "preset"), ("anneal", True, "preset"), ("clip", 0.2, "default"),
    ]:  # fmt: skip
        assert found.values[name] == (value if name != "hidden_sizes" else (3, 4)), name
        assert found.sources[name] == source, name
    assert line["num_env_steps"] != 500_000 and line["learning_rate"] != 0.02  # The test can tell.
    found = settings_for(f"{words} --no-preset")
    assert found.values["anneal"] is False and found.values["num_env_steps"] == 500_000
    assert "preset" not in found.sources.values()


def test_the_file_may_name_the_environment_and_the_algorithm(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"env": "Pendulum-v1", "algorithm": "trpo", "max_kl": 1e-5}))
    found = settings_for(f"--config {file}")
    assert found.env == "Pendulum-v1" and found.hyperparameters["max_kl"] == 1e-5
    assert found.hyperparameters["scale_rewards"] is True and found.sources["scale_rewards"] == "preset"
    assert settings_for(f"--config {file} CartPole-v1").env == "CartPole-v1"


def test_what_is_asked_for_sets_aside_what_the_preset_has_in_its_place():
    found = settings_for("CartPole-v1 --optimizer rmsprop(6e-4,decay=0.99)")
    assert found.values["learning_rate"] is None and found.values["anneal"] is False
    assert settings_for("CartPole-v1 --algorithm reinforce").values["critic"] == "like the policy"
    found = settings_for("CartPole-v1 --algorithm reinforce --baseline leave-one-out")
    assert found.values["critic"] is None
    # A preset's layers are those of its own network.
    line = presets.PRESETS["pgpe"]["MountainCarContinuous-v0"]
    assert line["policy"] == {"hidden_sizes": ()} and "network" not in line
    words = "MountainCarContinuous-v0 --algorithm pgpe"
    assert settings_for(words).network["hidden_sizes"] == ()
    assert settings_for(f"{words} --network recurrent").network["hidden_sizes"] == (64,)


def test_what_a_run_writes_down_gives_the_same_run(tmp_path):
    words = (
        "Pendulum-v1 --algorithm npg --critic-learning-rate 1.23456789e-5 --step-size 0.1 --network recurrent "
        "--cell lstm --features none --hidden-sizes --target-return -200 --loggers csv jsonl"
    )
    first = settings_for(words)
    RunFolder(tmp_path).write_config({"command": "train", **first.values, "versions": build.versions()})
    again = settings_for(f"--config {tmp_path / 'config.yaml'} --no-preset")
    assert again.values == first.values and first.values["critic_learning_rate"] == 1.23456789e-5
    assert set(again.sources.values()) <= {"file", "command line", "default"}
    content = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert content["versions"]["jaxpg"] == jaxpg.__version__ and "out" not in content


@pytest.mark.parametrize(("words", "message"), [
    ("trian CartPole-v1", "no command 'trian'; the commands are demo, .*did you mean 'train'"),
    ("train", "ENV is missing"),
    ("train CartPole-v1 --learning-rat 0.1", "--learning-rat; did you mean --learning-rate"),
    ("train CartPole-v1 --lr 1e-3", r"there is no option --lr; did you mean --learning-rate\?"),
    ("train --lr=1e-3 CartPole-v1", r"there is no option --lr; did you mean --learning-rate\?"),
    ("train CartPole-v1 --n-envs 3", r"--n-envs; did you mean --num-envs\?"),
    ("train CartPole-v1 --algorithm a2c --ent_coef 3", r"--ent_coef; did you mean --entropy-coefficient\?"),
    ("train CartPole-v1 --total-timesteps 9", r"--total-timesteps; did you mean --num-env-steps\?"),
    ("train CartPole-v1 --gae-lambda 1", r"--gae-lambda; did you mean --lambda\?"),
    ("train CartPole-v1 --log-dir a", r"--log-dir; did you mean --out\?"),
    ("train CartPole-v1 -lr 1", r"there is no option -lr; did you mean --learning-rate\?"),
    ("train CartPole-v1 --gamma 1", r"--gamma; did you mean --discount\?"),
    ("train CartPole-v1 --algorithm reinforce --gamma 1", '--gamma; the discount belongs to the weight, --weight "rew'),
    ("train CartPole-v1 --algorithm reinforce --discount 1", "reinforce does not have it: it belongs to the weight"),
    ("train CartPole-v1 --algorithm trpo --clip-range 1", "did you mean --clip, an option of --algorithm ppo"),
    ("train X --algorithm reinforce --num-env 2", "mean --num-env-steps or --num-envs, an option of --algorithm a2c, "),
    ("train X --clip-rang 1 --algorithm reinforce --clip 1", "--clip-rang; did you mean --clip or --clip-rho, an opt"),
    ("train --env-id CartPole-v1", "no option --env-id; ENV stands without one: `jaxpg train ENV`"),
    ("train CartPole-v1 --resume a", "no option --resume, but a command: `jaxpg resume --help`"),
    ("train CartPole-v1 --xyzzy", "no option --xyzzy; `jaxpg train --algorithm ppo --help` lists"),
    ("gradient CartPole-v1 --gamma 1", r"no option --gamma; did you mean --discount\?"),
    ("evaluate --dir a", "no option --dir; DIR stands without one: `jaxpg evaluate DIR`"),
    ("evaluate a --episodes 1", r"no option --episodes; did you mean --num-episodes\?"),
    ("train CartPole-v1 --num-env-steps 1.5", "--num-env-steps must be a whole number; got '1.5'"),
    ("train CartPole-v1 --num-env-steps many", "--num-env-steps must be a whole number; got 'many'"),
    ("train CartPole-v1 --max-gradient-norm some", "--max-gradient-norm must be a number or none; got 'some'"),
    ("train CartPole-v1 --scale-rewards maybe", "Unrecognized options: maybe"),
    ("train CartPole-v1 --learning-rate f(x)", "--learning-rate must be a number, or a schedule of optax"),
    ("train CartPole-v1 --learning-rate adamm(1)", "--learning-rate must name a function of optax.*did you mean 'adam"),
    ("train CartPole-v1 --optimizer adam(rate=1)", r"--optimizer: adam\(rate=1\): .*rate"),
    ("train CartPole-v1 --critic mlp", "--critic must be a critic|critic must be a Critic"),
    ("gradient CartPole-v1 --weight gae", "--weight: it must be one of 'reward-to-go', 'total-return'; got 'gae'"),
    ("gradient CartPole-v1 --weight reward_to_gg", "got 'reward_to_gg'; did you mean 'reward-to-go'"),
    ("train CartPole-v1 --algorithm pp0", "--algorithm must be one of reinforce, .*; got 'pp0'; did you mean 'ppo'"),
    ("train CartPole-v1 --network mpl", "got 'mpl'; did you mean 'mlp'"),
    ("train CartPole-v1 --loggers csv tensorbord", "got 'csv' 'tensorbord'; did you mean 'tensorboard'"),
    ("train json:dumps", "json:dumps must be a jaxpg.Env.* got the function dumps, which needs arguments"),
    ("gradient json:load", "json:load must be a jaxpg.Environment .* which needs arguments"),
    ("check-env json:loadz", "module 'json' has no 'loadz'; did you mean 'load' or 'loads'"),
    ("check-env platform:python_version", r"platform:python_version\(\) gives str"),
    ("train a.py:corridor", "MODULE:NAME, without .py: a:corridor"),
    ("train :corridor", "ENV must be MODULE:NAME, such as .* got ':corridor'"),
    ("train json.:dumps", "ENV must be MODULE:NAME, such as"),
    ("train CartPole-v1 --algorithm a2c --clip 0.1", "--clip is an option of --algorithm ppo; a2c does not have it"),
    ("train CartPole-v1 --damping 0.1", "--damping is an option of --algorithm npg or trpo; ppo does not have it"),
    ("train CartPole-v1 --cell gru", "--cell is an option of --network recurrent; mlp does not have it"),
    ("train CartPole-v1 --algorithm trpo --anneal", "anneal needs a learning rate .* trpo has no learning rate"),
    ("train CartPole-v1 --algorithm pgpe --anneal", "anneal needs .* pgpe plays whole episodes"),
    ("train CartPole-v1 --learning-rate linear_schedule(1e-3,0,9) --anneal", "learning_rate is a schedule already"),
    ("train CartPole-v1 --config nowhere.yaml", "--config: nowhere.yaml cannot be read: No such file"),
    ("train CartPole-v1 --loggers csv", "--loggers csv write to the folder of --out"),
    ("train CartPole-v1 --loggers paper", "--loggers must be any number of values, each one of csv, jsonl"),
    ("train CartPol-v1", "ENV must be a name that `jaxpg envs` lists; got 'CartPol-v1'; did you mean 'CartPole-v1'"),
    ("gradient CartPole-v1 --max-steps 0", "max_steps must be an integer of at least 1; got 0"),
    ("gradient CartPole-v1 --num-episodes 0", "num_episodes must be an integer of at least 1; got 0"),
    ("gradient CartPole-v1 --num-episodes 1 --baseline leave-one-out", "num_episodes must be at least 2"),
    ("gradient CartPole-v1 --discount 1.1", r"discount must be a finite real number in \[0, 1\]; got 1.1"),
    ("gradient CartPole-v1 --discount nan", "discount must be .* got nan"),
    ("gradient CartPole-v1 --devices 99", "devices must be from 1 to 1, what JAX has here"),
    ("gradient CartPole-v1 --devices 0", "num_devices must be an integer of at least 1"),
    ("train CartPole-v1 --hidden-sizes 8 0", r"hidden_sizes\[1\] must be an integer of at least 1"),
    ("train CartPole-v1 --learning-rate 0", "learning_rate must be"),
    ("train CartPole-v1 --discount nan", "discount must be .* got nan"),
    ("train CartPole-v1 --num-env-steps 0", "num_env_steps must be an integer of at least 1"),
    ("train CartPole-v1 --evaluation-episodes 0", "evaluation_episodes must be an integer of at least 1"),
    ("train CartPole-v1 --target-return inf", "target_return must be a finite real number"),
    ("resume nowhere", "DIR must be the folder of a run, the --out of `jaxpg train`; nowhere is not a folder"),
    ("evaluate nowhere", "DIR must be the folder of a run, .*; nowhere is not a folder"),
    ("render .", r"DIR must be the folder of a run, .*; \. has neither"),
    ("plot", "DIR is missing"),
    ("plot .", r"DIR must be the folder of a run, .*; \. has no metrics.jsonl"),
    ("plot nowhere", "DIR must be the folder of a run, .*; nowhere is not a folder"),
    ("evaluate . --deterministic=maybe", "maybe is neither true nor false"),
    ("demo --seeds 0", "seeds must be an integer of at least 1"),
])  # fmt: skip
def test_mistakes_are_named_and_exit_with_2(says, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    text = says(*words.split(), exit_code=2)
    assert re.search(message, re.sub(r"[│|\s]+", " ", text)), text
    assert "Traceback" not in text
    assert not text.startswith("jaxpg:") or text.count("\n") == 1  # One line; what tyro says comes in a frame.


@pytest.mark.parametrize(("content", "message"), [
    ("learning_rat: 1", "'learning_rat' is not an option for a file; did you mean 'learning_rate'"),
    ("lr: 1", "'lr' is not an option for a file; did you mean 'learning_rate'"),
    ("debug: true", "'debug' is not an option for a file"),
    ("clip: {a: 1}", "must be single values or lists"),
    ("clip: high", r"a.yaml: clip must be a number, or a schedule .*; got 'high'"),
    ("num_envs: null", r"a.yaml: num_envs must be a whole number; got 'None'"),
    ("damping: 1", r"a.yaml: damping is an option of --algorithm npg or trpo; ppo does not have it"),
    ("num_envs: 1\nnum-envs: 2", "'num-envs' is there twice"),
    ("- a", "must hold lines such as `learning_rate: 0.001`"),
    ("a: [", "is not YAML"),
])  # fmt: skip
def test_mistakes_in_a_file_are_named(says, tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(content)
    assert re.search(message, says("train", "CartPole-v1", "--config", "a.yaml", exit_code=2))


def test_debug_shows_the_traceback_and_slips_are_not_called_mistakes(monkeypatch):
    with pytest.raises(ValueError, match="num_episodes must be"):
        cli.main("gradient CartPole-v1 --num-episodes 0 --debug".split())
    with pytest.raises(ValueError, match="--clip must be"):
        cli.main("train CartPole-v1 --clip a --debug".split())
    monkeypatch.setattr(commands.Envs, "run", lambda self: int("not a number of ours"))
    with pytest.raises(ValueError, match="invalid literal"):
        cli.main(["envs"])


def test_ctrl_c_leaves_with_130(says, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.Envs, "run", interrupt)
    assert says("envs", exit_code=130) == "jaxpg: interrupted\n"


# --- what is built ---------------------------------------------------------------------------------------------------


def algorithm_for(words):
    return build.make_algorithm(settings_for(words))


def test_calls_are_made_not_run_as_programs():
    made = algorithm_for("CartPole-v1 --algorithm reinforce --weight total_return(0.5) --baseline leave-one-out")
    assert made.config["weight"]["discount"] == 0.5 and made.config["critic"] is None
    assert (
        made.config["baseline"] != algorithm_for("CartPole-v1 --algorithm reinforce --baseline none").config["baseline"]
    )
    made = algorithm_for("CartPole-v1 --critic value_mlp(hidden_sizes=(3,)) --optimizer optax.sgd(0.1)")
    assert made.config["critic"]["hidden_sizes"] == [3] and made.config["optimizer"] is not None
    rate = kinds.call("x", "linear_schedule(1e-3, 0, 10)", optax)
    assert float(rate(5)) == pytest.approx(5e-4)
    for text in ("__import__('os')", "().__class__", "adam(lambda: 1)", "adam(a)", "_src.x()", "adam(**{})"):
        with pytest.raises(ValueError, match=r"x must name|not a call"):
            kinds.call("x", text, optax)


@pytest.mark.slow
def test_every_option_reaches_its_algorithm():
    """Each hyperparameter that is a number, at another value than its default, is found in the algorithm's record."""
    for name in options.ALGORITHMS:
        numbers = {k: o for k, o in options.algorithm_options(name).items() if kinds.kind_of(o).metavar in ("N", "X")}
        alone = {"step_size": {"npg"}, "num_lanes": {"reinforce"}}
        for option, o in numbers.items():
            if name in alone.get(option, ()):
                continue
            value = 2 * o.default if o.default else 0.25
            value = (
                min(value, 0.5) if option in ("discount", "lambda_", "baseline_decay", "backtrack_factor") else value
            )
            made = algorithm_for(f"CartPole-v1 --no-preset --algorithm {name} {options.dashed(option)} {value}")
            assert made.config[option] == value, (name, option)


def test_the_network_is_what_was_asked_for():
    made = algorithm_for("CartPole-v1 --network recurrent --cell lstm --size 4 --hidden-sizes 3 --head-sizes "
                         "--normalize-observations --num-envs 8 --num-minibatches 4")  # fmt: skip
    inner = made.policy.description["model"]
    assert made.policy.description["policy"] == "normalized" and inner["policy"] == "recurrent"
    assert (inner["cell"], inner["size"], inner["hidden_sizes"], inner["head_sizes"]) == ("lstm", 4, [3], [])
    assert made.config["critic"]["critic"] == "normalized"
    assert made.config["critic"]["model"]["critic"] == "value_recurrent"
    made = algorithm_for("Pendulum-v1 --activation relu --squash tanh --shared-value --no-preset")
    assert made.policy.has_value and made.config["critic"] is None
    assert made.policy.description["activation"] == "relu" and made.policy.description["squash"] == "tanh"


@pytest.fixture
def rates(monkeypatch):
    """The schedules that are made from here on."""
    found, make = [], presets.annealed
    monkeypatch.setattr(presets, "annealed", lambda *a: found.append(make(*a)) or found[-1])
    return found


def test_anneal_takes_the_rate_to_0_over_the_run(rates):
    algorithm_for("CartPole-v1 --no-preset --anneal --num-envs 4 --num-steps 8 --num-env-steps 320 --num-minibatches 2")
    algorithm_for("CartPole-v1 --num-envs 4 --num-steps 8 --num-env-steps 640 --learning-rate 0.5 --num-minibatches 2")
    (of_default, given) = rates
    assert [float(of_default(n)) for n in (0, 5, 10)] == pytest.approx([3e-4, 1.5e-4, 0])
    assert [float(given(n)) for n in (0, 10, 20)] == pytest.approx([0.5, 0.25, 0])


def test_the_last_update_that_a_budget_needs_has_a_rate_above_0(rates):
    """330 steps are 11 updates of 32."""
    algorithm_for("CartPole-v1 --no-preset --anneal --num-envs 4 --num-steps 8 --num-env-steps 330 --num-minibatches 2")
    assert float(rates[0](10)) == pytest.approx(3e-4 / 11) and float(rates[0](11)) == 0


def test_a_traced_rate_can_be_annealed(rates):
    env = jaxpg.make("CartPole-v1")

    def of(first):
        rates.clear()
        presets.make("a2c", env, 320, num_envs=4, num_steps=8, learning_rate=first)
        return jnp.stack([rates[0](n) for n in (0, 5)])

    assert presets.PRESETS["a2c"]["CartPole-v1"]["anneal"]
    np.testing.assert_allclose(jax.vmap(of)(jnp.array([0.1, 0.2])), [[0.1, 0.05], [0.2, 0.1]], rtol=1e-6)


def test_an_annealed_rate_is_noted_without_its_budget():
    env = jaxpg.make("CartPole-v1")
    some, more, plain = (presets.make("a2c", env, n, anneal=a) for n, a in ((320, True), (640, True), (320, False)))
    assert some.config == more.config == {**plain.config, "anneal": True}
    assert plain.config["learning_rate"] == presets.PRESETS["a2c"]["CartPole-v1"]["learning_rate"]


def test_a_budget_of_0_is_not_the_default():
    with pytest.raises(ValueError, match="num_env_steps must be an integer of at least 1; got 0"):
        presets.make("a2c", jaxpg.make("CartPole-v1"), 0)


def test_compiled_programs_are_kept_where_the_user_wants_them(run_in_subprocess, tmp_path):
    program = """
    import os, pathlib
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    import jax
    from jaxpg.cli import devices
    base = pathlib.Path(BASE)
    os.environ["XDG_CACHE_HOME"] = str(base)
    os.environ["HOME"] = str(base / "home")
    os.environ["JAXPG_COMPILATION_CACHE"] = "off"
    assert devices.use_compilation_cache() is None and not list(base.iterdir())
    del os.environ["JAXPG_COMPILATION_CACHE"]
    (base / "file").write_text("")
    os.environ["XDG_CACHE_HOME"] = str(base / "file")
    assert devices.use_compilation_cache() is None and jax.config.jax_compilation_cache_dir is None
    os.environ["XDG_CACHE_HOME"] = str(base)
    folder = devices.use_compilation_cache()
    assert base / "jaxpg" / "compiled" in folder.parents and jax.config.jax_compilation_cache_dir == str(folder)
    jax.config.update("jax_compilation_cache_dir", "/of/the/user")
    assert devices.use_compilation_cache() is None and jax.config.jax_compilation_cache_dir == "/of/the/user"
    print("done")
    """.replace("BASE", repr(str(tmp_path)))
    assert run_in_subprocess(program) == "done\n"


# --- envs and gradient -----------------------------------------------------------------------------------------------


def test_envs_lists_all(says):
    text = says("envs")
    for name in jaxpg.envs.available():
        assert re.search(rf"^ *{re.escape(name)} ", text, re.MULTILINE), name
    assert re.search(r"Pendulum-v1 +Box\(…, …, \(3,\), float32\) +Box\(-2, 2, \(1,\), float32\) +200 +yes", text)


MINE = """
import jax.numpy as jnp
import jaxpg

cart_pole = jaxpg.make("CartPole-v1")
nothing = 3


def forgets_the_time(limit=4):
    def reset(key):
        return jnp.zeros(()), jnp.zeros(1)

    def step(key, state, action):
        ended = state >= limit - 1
        state = jnp.where(ended, 0.0, state + 1)
        return state, jaxpg.Timestep(state[None], state, jnp.asarray(False), ended)

    return jaxpg.Environment(reset=reset, step=step, observation_space=jaxpg.Box(0, 9, (1,)),
                             action_space=jaxpg.Discrete(2), max_steps=4)
"""


def test_check_env_of_a_module_of_ones_own(says, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_environments.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    assert "CartPole-v1: conforms" in says("check-env", "my_environments:cart_pole", "--num-episodes", "4")
    with pytest.raises(SystemExit, match="1"):
        cli.main(["check-env", "my_environments:forgets_the_time"])
    text = capsys.readouterr().out
    assert re.search(r"ends +failed", text) and "does not conform" in text
    assert "module 'my_environments' has no 'other'" in says("check-env", "my_environments:other", exit_code=2)
    (tmp_path / "misses.py").write_text("import not_there\n")
    text = says("train", "misses:x", exit_code=2)
    assert "ENV: module 'misses' cannot be imported: ModuleNotFoundError: No module named 'not_there'" in text
    (tmp_path / "fails.py").write_text("def make():\n    return 1 / 0\n")
    text = says("gradient", "fails:make", exit_code=2)
    assert "ENV: fails:make could not be called: ZeroDivisionError: division by zero (--debug shows where)" in text
    assert "must be a jaxpg.Environment or a function that makes one; got int" in says(
        "check-env", "my_environments:nothing", exit_code=2
    )
    assert "there is no module 'not_mine'" in says("check-env", "not_mine:x", exit_code=2)


def test_suites_that_are_not_installed(says, monkeypatch):
    missing = {name: facts._replace(package="not_there") for name, facts in registry.SUITES.items() if name != "gymnax"}
    monkeypatch.setattr(registry, "SUITES", {"gymnax": registry.SUITES["gymnax"], **missing})
    assert 'pip install "jaxpg[brax] @ git+https://' in says("envs", "--suite", "brax", exit_code=2)
    assert "Not installed: brax, craftax, jumanji, mujoco-playground, navix, pgx, xminigrid" in says("envs")
    with pytest.raises(ImportError, match=r'need it: pip install "jaxpg\[mujoco-playground\] @ git\+https://'):
        jaxpg.make("mujoco_playground/CartpoleBalance")
    with pytest.raises(ValueError, match="suite must be one of 'all', 'gymnax'.* did you mean 'jumanji'"):
        jaxpg.envs.available("jumanjy")
    with pytest.raises(ValueError, match="with a suite among 'gymnax', 'brax'"):
        jaxpg.make("bracks/ant")
    assert jaxpg.envs.available("all") == jaxpg.envs.available()


@pytest.mark.slow
@pytest.mark.parametrize(("words", "weight", "baseline"), [
    ([], jaxpg.weights.reward_to_go(0.99), jaxpg.baselines.none()),
    (["--weight", "total-return", "--baseline", "leave-one-out", "--discount", "0.9", "--chunk-size", "16"],
     jaxpg.weights.total_return(0.9), jaxpg.baselines.leave_one_out()),
])  # fmt: skip
def test_gradient_prints_what_policy_gradient_gives(says, words, weight, baseline):
    report = facts(says("gradient", "CartPole-v1", *TINY, *"--num-episodes 48 --max-steps 20 --seed 3".split(), *words))
    env = jaxpg.make("CartPole-v1", max_steps=20)
    policy = jaxpg.policies.mlp(env, (8,))
    params_key, episodes_key = jax.random.split(jax.random.key(3))
    chunk_size = 16 if words else None
    gradient = jaxpg.policy_gradient(
        env, policy, num_episodes=48, weight=weight, baseline=baseline, chunk_size=chunk_size
    )
    estimate = gradient(episodes_key, policy.init(params_key))
    assert report["gradient norm"].startswith(with_error(estimate.gradient_norm, estimate.gradient_norm_error) + " ")
    assert report["discounted return"].startswith(with_error(estimate.objective, estimate.objective_error) + " ")
    assert report["episodes"].startswith("48 ") and report["steps"].startswith(f"{int(estimate.num_steps):,} ")
    assert report["signal to noise"].startswith(f"{estimate.snr:.3g} ")
    assert report["utilization"].startswith(f"{100 * estimate.utilization:.1f}% ")


def test_rewards_that_are_not_finite_are_refused():
    from jaxpg.cli.gradient import timed_gradient

    env = jaxpg.Environment(
        reset=lambda key: (np.zeros(()), np.zeros(1)), observation_space=jaxpg.Box(0, 1, (1,)), max_steps=2,
        step=lambda key, state, action: (state, jaxpg.Timestep(np.zeros(1), np.inf, False, False)),
        action_space=jaxpg.Discrete(2),
    )  # fmt: skip
    with pytest.raises(ValueError, match="no finite return"):
        timed_gradient(env, jaxpg.policies.mlp(env, (4,)), 0, num_episodes=4)


def test_all_cores_are_used_and_the_users_choice_stands(run_in_subprocess):
    program = """
    import os
    for name in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES"):
        if not os.environ.get(name):
            os.environ.pop(name, None)
    from jaxpg.cli import devices
    devices.prepare(NUMBER)
    import jax
    assert "--xla_cpu_enable_concurrency_optimized_scheduler=false" in os.environ["XLA_FLAGS"]
    mesh = devices.mesh_over(None)
    print(len(jax.devices()), 1 if mesh is None else mesh.size)
    """
    of_user = {"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}
    for number, env, found in (("3", {"XLA_FLAGS": ""}, 3), ("None", of_user, 5)):
        assert run_in_subprocess(program.replace("NUMBER", number), env=env).split() == [str(found)] * 2


def test_mesh_over_the_devices_there_are():
    assert devices.mesh_over(None) is None and devices.mesh_over(1) is None  # The tests have one.
    with pytest.raises(ValueError, match="devices must be from 1 to 1"):
        devices.mesh_over(2)


# --- train -----------------------------------------------------------------------------------------------------------

TRAIN = ["train", "CartPole-v1", "--algorithm", "a2c", *TINY, *"--num-envs 4 --num-steps 16 --max-steps 30".split(),
         *"--evaluation-episodes 5 --no-preset --learning-rate 0.01".split()]  # fmt: skip
RUN = [*TRAIN, *"--num-env-steps 600 --evaluate-every 200 --checkpoint-every 100 --anneal --seed 7".split()]
WRITTEN = ["config.yaml", "metrics.csv", "result.json", "policy", "learning_curve.png", "policy.gif"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run that nothing interrupted, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        cli.main([*RUN, "--out", str(folder), "--loggers", "csv", "jsonl"])
    return folder, printed.getvalue()


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def test_train_writes_what_the_run_leaves(finished):
    folder, text = finished
    names = {path.name for path in folder.iterdir() if path.name != ".lock"}
    assert names == {*WRITTEN, "run.json", "metrics.jsonl", "evaluations.jsonl", "checkpoints", "best", "log.csv",
                     "log.jsonl"}  # fmt: skip
    assert all(f"  {folder / name}\n" in text for name in WRITTEN)

    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["env"] == "CartPole-v1" and config["hidden_sizes"] == [8] and config["seed"] == 7
    assert config["algorithm"] == "a2c" and config["anneal"] is True and config["lambda_"] == 0.95
    assert config["versions"]["jaxpg"] == jaxpg.__version__

    rows, result = rows_of(folder / "metrics.csv"), result_of(folder)
    steps = [int(row["total_env_steps"]) for row in rows]
    assert [int(row["update"]) for row in rows] == list(range(1, len(rows) + 1))
    assert steps == np.cumsum([int(row["env_steps"]) for row in rows]).tolist()
    assert steps[-2] < 600 <= steps[-1]
    assert result["num_env_steps"] == steps[-1] and result["num_updates"] == len(rows)
    assert result["stopped"] == "budget" and len(result["evaluation"]["returns"]) == 5
    assert all(row["episode_return"] == "" or 1 <= float(row["episode_return"]) <= 30 for row in rows)
    assert len(rows_of(folder / "log.csv")) == len(rows)

    report = facts(text)
    returns = np.array(result["evaluation"]["returns"])
    assert report["evaluation"].startswith(with_error(returns.mean(), returns.std(ddof=1) / 5**0.5) + " ")
    assert re.search(rf"steps +{steps[-1]:,} ", text) and "best" in report
    with Image.open(folder / "learning_curve.png") as figure:
        assert figure.size == (1020, 690)
    with Image.open(folder / "policy.gif") as film:
        assert film.n_frames > 1 and film.size == (480, 270)


def test_train_says_what_runs_and_where_it_comes_from(finished):
    _, text = finished
    assert re.search(r"^  learning-rate +0.01 +command line", text, re.MULTILINE)
    assert re.search(r"^  entropy-coefficient +0 *$", text, re.MULTILINE)
    for name in (*options.algorithm_options("a2c"), *options.network_options("mlp")):
        assert re.search(rf"^  {options.dashed(name)[2:]} ", text, re.MULTILINE), name
    assert f"jaxpg {jaxpg.__version__} jax {jax.__version__}" in text and "1 cpu device" in text


def test_resume_compiles_as_the_run_did(says, tmp_path, monkeypatch):
    given, honest = [], jaxpg.train

    def train(*arguments, **options):
        given.append(options["quick_compile"])
        return honest(*arguments, **options)

    monkeypatch.setattr(jaxpg, "train", train)
    says(*TRAIN, "--num-env-steps", "64", "--quick-compile", "--out", tmp_path / "run")
    says("resume", tmp_path / "run", "--num-env-steps", "128")
    assert given == [True, True]


def test_the_exported_policy_is_that_of_the_newest_checkpoint(finished):
    folder, _ = finished
    policy, params = jaxpg.load_policy(folder / "policy")
    algorithm = build.make_algorithm(settings_of(folder))
    checkpoint = jaxpg.load_checkpoint(folder, algorithm)
    jax.tree.map(np.testing.assert_array_equal, params, checkpoint.state.params)
    assert policy.description == algorithm.policy.description
    assert checkpoint.num_env_steps == result_of(folder)["num_env_steps"]


def test_a_folder_with_a_run_is_kept_unless_overwrite_is_asked_for(says, finished, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    text = says(*TRAIN, "--num-env-steps", "100", "--out", folder, exit_code=2)
    assert f"holds a run already; `jaxpg resume {folder}` goes on with it" in text and "--overwrite" in text
    # A mistake is found before anything is removed.
    says(*TRAIN, "--evaluate-every", "0", "--out", folder, "--overwrite", exit_code=2)
    says(*TRAIN, "--algorithm", "ppo", "--num-minibatches", "7", "--out", folder, "--overwrite", exit_code=2)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorboardX", None)  # Not installed.
        text = says(*TRAIN, "--loggers", "tensorboard", "--out", folder, "--overwrite", exit_code=2)
    assert re.fullmatch(r"jaxpg: loggers.tensorboard needs tensorboardX: pip install .*\n", text)
    rate = ["--learning-rate", "none", "--optimizer", "sgd(learning_rate='x')"]  # Fails when it is traced.
    with pytest.raises(TypeError):
        cli.main([*TRAIN, *rate, "--out", str(folder), "--overwrite"])
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    says(*TRAIN, "--num-env-steps", "100", "--out", folder, "--overwrite")
    assert result_of(folder)["num_env_steps"] < 200 and (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "best").exists() and not (folder / "log.csv").exists()


def send(signum, at):
    """In the place of `progress_lines`: sends a signal after some blocks."""
    blocks = []

    def callback(block):
        blocks.append(block)
        if len(blocks) == at:
            os.kill(os.getpid(), signum)

    return lambda *_: callback


@pytest.mark.parametrize(("signum", "code"), [
    (signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_run_that_was_stopped_is_saved_and_resumed_to_the_same_end(
    says, tmp_path, monkeypatch, finished, signum, code
):
    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr("jaxpg.cli.train.progress_lines", send(signum, at=3))
        text = says(*RUN, "--out", folder, exit_code=code)
    assert f"`jaxpg resume {folder}` goes on from here" in text
    stopped = result_of(folder)
    assert stopped["stopped"] == {143: "terminated", 130: "interrupted"}[code] and stopped["evaluation"] is None
    assert 0 < stopped["num_env_steps"] < 600
    assert len(rows_of(folder / "metrics.csv")) == stopped["num_updates"]

    text = says("resume", folder)
    assert "goes on" in text
    whole, resumed = result_of(finished[0]), result_of(folder)
    assert {**whole, "seconds": 0} == {**resumed, "seconds": 0}
    for name in ("metrics.jsonl", "evaluations.jsonl", "metrics.csv", "policy/policy.safetensors", "policy.gif"):
        assert (finished[0] / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.slow
def test_resume_prolongs_a_run(says, finished, tmp_path):
    folder = tmp_path / "longer"
    shutil.copytree(finished[0], folder)
    says("resume", folder, "--num-env-steps", "900")
    before, after = (rows_of(path / "metrics.csv") for path in (finished[0], folder))
    assert after[: len(before)] == before and int(after[-1]["total_env_steps"]) >= 900 > int(
        after[-2]["total_env_steps"]
    )
    assert yaml.safe_load((folder / "config.yaml").read_text())["num_env_steps"] == 900
    last = [path.name for path in sorted((folder / "checkpoints").iterdir())][-1]
    assert int(last) == len(after)


def test_resume_says_that_another_budget_moves_an_annealed_rate(finished, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    config = yaml.safe_load((finished[0] / "config.yaml").read_text())
    monkeypatch.setattr("jaxpg.cli.train._run", lambda *_: None)

    def told(anneal, *words):
        (folder / "config.yaml").write_text(yaml.safe_dump({**config, "anneal": anneal}))
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            cli.main(["resume", str(folder), *words])
        return printed.getvalue()

    assert told(True, "--num-env-steps", "1200") == (
        "jaxpg: warning: anneal: the learning rate was to fall to 0 over 600 steps and now falls over 1,200: it jumps "
        "up where the run goes on\n"
    )
    assert "over 600 steps and now falls over 500: it jumps down" in told(True, "--num-env-steps", "500")
    assert not told(True) and not told(True, "--num-env-steps", "600") and not told(False, "--num-env-steps", "900")


@pytest.mark.parametrize(("failing", "name"), [
    ("write_policy", "policy"), ("write_json", "result.json"), ("write_metrics", "metrics.csv"),
    ("write_learning_curve", "learning_curve.png"), ("write_film", "policy.gif"),
])  # fmt: skip
def test_a_file_that_cannot_be_written_costs_no_other(finished, tmp_path, monkeypatch, capsys, failing, name):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    written = [other for other in WRITTEN if other != "config.yaml"]
    for other in written:
        shutil.rmtree(folder / other) if other == "policy" else (folder / other).unlink()

    def fail(*_):
        assert (folder / "policy").exists() or failing == "write_policy"  # It comes first.
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, failing, fail)
    cli.main(["resume", str(folder)])
    printed = capsys.readouterr()
    assert printed.err.endswith(f"jaxpg: warning: {folder / name} could not be written: No space left on device\n")
    assert {other for other in written if (folder / other).exists()} == {*written} - {name}
    assert all((f"  {folder / other}\n" in printed.out) == (other != name) for other in written)


def test_a_file_that_is_written_again_is_whole_at_any_moment(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.write_json("a.json", {"a": 1})
    folder.write_metrics("a.csv", {"loss": np.array([1.0])})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    for write in (
        lambda: folder.write_json("a.json", {"a": 2}),
        lambda: folder.write_json("b.json", {"a": 2}),
        lambda: folder.write_metrics("a.csv", {"loss": np.array([2.0, 3.0])}),
    ):
        with pytest.raises(OSError, match="No space left"):
            write()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert [path.name for path in folder.written] == ["a.json", "a.csv"]


@pytest.mark.parametrize(("words", "acts_by_mode"), [
    ("--algorithm pgpe --num-perturbations 2", True),
    ("--algorithm pgpe --num-perturbations 2 --deterministic-evaluation no", False),
    ("--algorithm a2c --num-envs 4 --num-steps 16 --deterministic-evaluation", True),
])  # fmt: skip
def test_evaluations_and_the_film_show_the_policy_that_is_trained(says, tmp_path, monkeypatch, words, acts_by_mode):
    """PGPE trains the mode; where samples or the mode are asked for, those are shown, in the film as well."""
    seen = {}

    def spy(path, what):
        """Nothing is played: what that would look like is another test's."""

        def spied(*_, deterministic, **options):
            seen.setdefault(what, set()).add(deterministic)
            return Evaluation(jnp.ones(3), jnp.ones(3))

        monkeypatch.setattr(path, spied)

    spy("jaxpg.training._evaluator.evaluate", "during the run")
    spy("jaxpg.evaluate", "at the end")
    spy("jaxpg.render.render_episode", "film")
    text = says("train", "CartPole-v1", *TINY, *words.split(), *"--no-preset --max-steps 5 --num-env-steps 40".split(),
                *"--evaluate-every 20 --evaluation-episodes 3".split(), "--out", tmp_path / "run")  # fmt: skip
    assert seen == {what: {acts_by_mode} for what in ("during the run", "at the end", "film")}
    assert re.search(rf"^  deterministic-evaluation +{str(acts_by_mode).lower()} ", text, re.MULTILINE)

    trains_mode = "pgpe" in words
    run = tmp_path / "run"
    for folder, given, expected in (
        (run, [], trains_mode), (run, ["--deterministic", "no"], False), (run / "policy", [], trains_mode),
        (run / "policy", ["--deterministic"], True),
    ):  # fmt: skip
        seen.clear()
        text = " ".join(says("evaluate", *given, folder, "--num-episodes", "3").split())
        acting = "the mode of its distribution" if expected else "samples"
        assert f"actions are {acting}" in text and seen == {"at the end": {expected}}
    seen.clear()
    says("render", run)
    assert seen == {"film": {trains_mode}}


def test_a_run_that_meets_nan_says_so_and_keeps_what_there_is(says, tmp_path):
    words = [*TRAIN, "--learning-rate", "none", "--optimizer", "sgd(1e38)", "--max-gradient-norm", "none"]
    text = says(*words, "--num-env-steps", "400", "--out", tmp_path, exit_code=2)
    assert re.search(r"^jaxpg: warning: update \d+ met NaN or infinite values and was not applied", text)
    assert re.search(r"^jaxpg: the run ended at \d+ steps: .*--nonfinite skip goes on", text, re.MULTILINE)
    result = result_of(tmp_path)
    assert result["stopped"] == "nonfinite" and result["num_nonfinite"] == 1 and result["num_env_steps"] < 400
    jaxpg.load_policy(tmp_path / "policy")
    text = says(*words, "--num-env-steps", "400", "--nonfinite", "skip")
    assert int(facts(text)["not applied"].split()[0]) > 1


def test_without_a_folder_a_stopped_run_says_that_nothing_is_kept(says, monkeypatch):
    monkeypatch.setattr("jaxpg.cli.train.progress_lines", send(signal.SIGINT, at=1))
    assert "without --out nothing is kept" in says(*TRAIN, "--num-env-steps", "1_000_000", exit_code=130)


def test_train_without_a_drawing_says_so(says, tmp_path):
    words = "train PointRobot-misc --algorithm reinforce --num-episodes 2 --max-steps 3 --num-env-steps 12"
    text = says(*words.split(), *TINY, "--baseline", "none", "--evaluation-episodes", "1", "--out", tmp_path)
    assert "no drawing for PointRobot-misc" in text
    assert not (tmp_path / "policy.gif").exists() and (tmp_path / "learning_curve.png").exists()
    assert facts(text)["baseline"].startswith("none")


def test_progress_lines_tell_how_far_a_run_is(capsys):
    from jaxpg.cli.console import console
    from jaxpg.cli.train import progress_lines

    block = {"total_env_steps": np.array([100, 1200]), "episode_return": np.array([21.25, np.nan])}
    progress_lines(console(), 50_000, interval=1e6)(block)
    assert capsys.readouterr().out == ""
    progress_lines(console(), 50_000, interval=0.0)(block)
    assert capsys.readouterr().out == "  1,200 of 50,000 steps, 0 s, return 21.25\n"
    progress_lines(console(), 50_000, interval=0.0)({**block, "episode_return": np.full(2, np.nan)})
    assert capsys.readouterr().out == "  1,200 of 50,000 steps, 0 s, no episode has ended\n"


@pytest.mark.parametrize("blocked", ["a file", "a folder without rights"])
def test_a_folder_that_cannot_be_written_is_told_before_the_run(says, tmp_path, monkeypatch, blocked):
    out = tmp_path / "out"
    if blocked == "a file":
        out.write_text("")
    else:
        out.mkdir()

        def refuse(dir):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # Root may write everywhere.
    text = says(*TRAIN, "--out", out, exit_code=2)
    assert f"--out: nothing can be written to {out}" in text


@pytest.mark.slow
@pytest.mark.every_row
@pytest.mark.parametrize("algorithm", options.ALGORITHMS)
def test_every_algorithm_runs_evaluates_and_goes_on(says, tmp_path, algorithm):
    env = "Pendulum-v1" if algorithm == "trpo" else "CartPole-v1"
    small = {
        "reinforce": "--num-episodes 4 --critic-steps 2", "pgpe": "--num-perturbations 4",
        "a2c": "--num-envs 4", "impala": "--num-envs 4 --num-steps 8",
    }.get(algorithm, "--num-envs 4 --num-steps 16")  # fmt: skip
    words = f"train {env} --algorithm {algorithm} {small} --max-steps 20 --num-env-steps 200 --evaluation-episodes 4"
    says(*words.split(), *TINY, "--out", tmp_path / "run")
    assert result_of(tmp_path / "run")["num_env_steps"] >= 200
    says("resume", tmp_path / "run", "--num-env-steps", "400")
    assert result_of(tmp_path / "run")["num_env_steps"] >= 400
    assert "return" in facts(says("evaluate", tmp_path / "run", "--num-episodes", "4"))
    if algorithm != "trpo":  # An observation normaliser draws no differently.
        says("render", tmp_path / "run", "--out", tmp_path / "film.gif", "--deterministic")
        assert (tmp_path / "film.gif").exists()


@pytest.mark.slow
@pytest.mark.parametrize("network", ["cnn", "recurrent"])
def test_other_networks_run(says, tmp_path, network):
    words = f"train Breakout-MinAtar --network {network} --num-envs 4 --num-steps 8 --num-minibatches 2 --num-epochs 1"
    words += " --max-steps 20 --num-env-steps 100 --evaluation-episodes 4 --num-env-steps 64"
    says(*words.split(), *TINY, "--out", tmp_path / "run")
    says("render", tmp_path / "run")
    assert "return" in facts(says("evaluate", tmp_path / "run" / "policy", "--num-episodes", "4"))


# --- evaluate, render, plot ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "best", "folder"), [
    ("", False, ""), ("--best", True, ""), ("--deterministic", False, "policy"), ("", False, "policy/policy.json"),
])  # fmt: skip
def test_evaluate_says_what_fresh_episodes_return(says, finished, words, best, folder):
    report = facts(says("evaluate", finished[0] / folder, *words.split(), "--num-episodes", "21", "--seed", "3"))
    algorithm = build.make_algorithm(settings_of(finished[0]))
    if best:
        params = load_best(finished[0], algorithm.policy)[0]
    else:
        params = jaxpg.load_checkpoint(finished[0], algorithm).state.params
    key = jax.random.fold_in(jax.random.key(3), 0x65766173)
    deterministic = words == "--deterministic"
    scores = jaxpg.evaluate(key, algorithm.env, algorithm.policy, params, num_episodes=21, deterministic=deterministic)
    returns = np.asarray(scores.returns, float)
    assert report["return"].startswith(with_error(returns.mean(), returns.std(ddof=1) / 21**0.5) + " ")
    assert report["interquartile mean"].startswith(f"{np.sort(returns)[5:16].mean():.5g} ")
    assert report["range"] == f"{returns.min():.5g} to {returns.max():.5g}"


def test_the_episodes_of_an_evaluation_are_not_those_of_the_run(says, finished):
    """fold_in(key, i) and split(key)[i] are the same key: seed 0 must not play what the run's keys are made of."""
    from jaxpg.cli.evaluate import episodes_key

    words = {tuple(np.asarray(jax.random.key_data(key))) for key in jax.random.split(jax.random.key(7), 3)}
    episodes = jax.vmap(lambda i: jax.random.fold_in(episodes_key(7), i))(np.arange(1000))
    assert not words & set(map(tuple, np.asarray(jax.random.key_data(episodes))))


def test_render_draws_the_episode_that_evaluate_plays(says, finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / "policy.gif").unlink()
    assert f"  {folder / 'policy.gif'}\n" in says("render", folder)
    assert f"  {folder / 'best.gif'}\n" in says("render", folder, "--best")
    says("render", folder, "--out", tmp_path / "deep" / "a.gif", "--seed", "5", "--episode", "2")
    text = says("render", folder / "policy", "--seed", "5", "--episode", "2")
    assert f"  {folder / 'policy.gif'}\n" in text
    assert (folder / "policy.gif").read_bytes() == (tmp_path / "deep" / "a.gif").read_bytes()
    with Image.open(tmp_path / "deep" / "a.gif") as film:
        assert film.size == (480, 270) and film.n_frames > 1
    assert "--best is for the folders of runs" in says("render", folder / "policy", "--best", exit_code=2)


def fake_run(path, seed, values, **config):
    """A folder as a run leaves it, with these returns after 100, 200, … steps."""
    path.mkdir()
    lines = [
        json.dumps({"update": i, "total_env_steps": 100 * i, "episode_return": value, "loss": 1.0 / i})
        for i, value in enumerate(values, 1)
    ]
    (path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"update": ')  # A run that goes on.
    (path / "config.yaml").write_text(yaml.safe_dump({"env": "X", "seed": seed, "versions": {"jax": seed}, **config}))
    (path / "evaluations.jsonl").write_text(
        '{"update": 2, "total_env_steps": 200, "episode_return": 5.0, "episode_return_error": 0.5}\n'
    )
    return path


def test_plot_puts_runs_together_that_differ_in_the_seed_alone(says, tmp_path):
    a, b = (fake_run(tmp_path / f"ppo-{s}", s, [1.0 + s, None, 3.0 + s, 4.0], clip=0.2) for s in (0, 1))
    c = fake_run(tmp_path / "wide", 0, [0.0, 1.0, 2.0, 3.0], clip=0.4)
    together, alone = read_curves([a, b, c], "episode_return")
    assert together.label == "ppo-0, ppo-1: mean of 2 seeds and its 95% band" and alone.label == "wide"
    np.testing.assert_array_equal(together.x[0], [100, 200, 300, 400])
    np.testing.assert_array_equal(together.y[1], [2, np.nan, 4, 4])
    np.testing.assert_array_equal(np.squeeze(together.evaluations), [[200, 5, 0.5]] * 2)
    assert not read_curves([c], "loss")[0].evaluations
    np.testing.assert_array_equal(read_curves([c], "loss", "updates")[0].x[0], [1, 2, 3, 4])
    (first, second) = read_curves([c, fake_run(tmp_path / "deep", 0, [1.0, 2.0], clip=0.1)], "episode_return")
    assert (first.label, second.label) == ("wide", "deep")

    out = tmp_path / "figures" / "curves.png"
    assert f"  {out}\n" in says("plot", a, b, c, "--out", out, "--target", "4")
    with Image.open(out) as figure:
        assert figure.size == (1500, 960)
        colors = {color for _, color in figure.convert("RGB").getcolors(10**6)}
    assert {(0, 114, 178), (213, 94, 0)} <= colors  # Blue and vermillion.
    says("plot", a, c, "--out", tmp_path / "curves.pdf", "--x", "updates", "--metric", "loss")
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")
    text = says("plot", a, "--metric", "los", exit_code=2)
    assert "--metric must be one of" in text and "did you mean 'loss'" in text
    assert "--out must end in one of" in says("plot", a, "--out", "curves.mp4", exit_code=2)
    short = fake_run(tmp_path / "short", 0, [None, 1.0])
    assert "fewer than two values of episode_return" in says("plot", short, exit_code=2)


def fake_sweep(path, **values):
    path.mkdir()
    (path / "sweep.json").write_text("{}")
    shape = (3, *map(len, values.values()), 5)
    dims = ("seed", *values, "update")
    metrics = {"episode_return": (dims, np.random.default_rng(0).normal(size=shape))}
    metrics["env_steps"] = (dims, np.broadcast_to(100.0 * np.arange(1, 6), shape))
    runs = xarray.Dataset(metrics, {"seed": range(3), **values, "update": range(1, 6)})
    runs.to_netcdf(path / "runs.nc", engine="h5netcdf")
    return path


def test_plot_draws_a_sweep(says, tmp_path, monkeypatch):
    calls = []

    def sweep_curves(runs, variable, **options):
        calls.append((runs, options))
        return real(runs, variable, **options)

    real = jaxpg.plot.sweep_curves
    monkeypatch.setattr(jaxpg.plot, "sweep_curves", sweep_curves)
    rates = fake_sweep(tmp_path / "rates", learning_rate=[0.1, 0.01])
    says("plot", rates, "--out", tmp_path / "a.png", "--target", "1")
    assert calls[-1][1] == {"by": "learning_rate", "x": "env_steps"} and (tmp_path / "a.png").exists()
    two = fake_sweep(tmp_path / "two", learning_rate=[0.1, 0.01], discount=[0.9, 1.0], clip=[0.2])
    says("plot", two, "--out", tmp_path / "b.png", "--x", "updates")
    drawn, asked = calls[-1]
    assert asked == {"by": "learning_rate, discount", "x": "update"}
    assert list(drawn[asked["by"]].values) == ["0.1, 0.9", "0.1, 1.0", "0.01, 0.9", "0.01, 1.0"]
    assert "did you mean 'episode_return'" in says("plot", two, "--metric", "return", exit_code=2)
    assert "drawn alone" in says("plot", two, rates, exit_code=2)
    many = fake_sweep(tmp_path / "many", learning_rate=np.arange(9.0))
    assert "has 9 settings, and at most 8 curves" in says("plot", many, exit_code=2)
    (two / "runs.nc").unlink()
    assert "is not finished: the same call of jaxpg.sweep goes on" in says("plot", two, exit_code=2)
    assert f"`jaxpg plot {rates}` draws it" in says("resume", rates, exit_code=2)


def test_folders_that_are_no_runs_tell_what_they_are(says, tmp_path):
    (tmp_path / "runs").mkdir()
    a, _ = fake_run(tmp_path / "runs" / "a", 0, [0.0]), fake_run(tmp_path / "runs" / "b", 0, [0.0])
    assert f"has no metrics.jsonl, but there is {a} and 1 more" in says("plot", tmp_path / "runs", exit_code=2)
    assert f"has neither, but there is {a} and 1 more" in says("evaluate", tmp_path / "runs", exit_code=2)
    (a / "metrics.jsonl").unlink()
    assert "its run has not come to its first update" in says("plot", a, exit_code=2)
    (a / "config.yaml").rename(a / "run.json")
    assert "that of jaxpg.train in Python: the same call goes on" in says("resume", a, exit_code=2)


def test_plot_draws_a_run(says, finished, tmp_path):
    says("plot", finished[0], "--out", tmp_path / "run.svg")
    assert "finished" in [group.label for group in read_curves([finished[0]], "episode_return")]
    assert (tmp_path / "run.svg").read_text().startswith("<?xml")


def test_interquartile_mean():
    assert interquartile_mean([100, 1, 2, 3, 4, -50, 9, 50]) == pytest.approx((2 + 3 + 4 + 9) / 4)
    assert interquartile_mean([1.0, 5.0, 9.0]) == 5.0 and interquartile_mean([2.0]) == 2.0


# --- the demo ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def algorithm():
    env = jaxpg.make("CartPole-v1", max_steps=60)
    return jaxpg.reinforce(
        env, jaxpg.policies.mlp(env, (8,)), jaxpg.policies.value_mlp(env, (8,)), num_episodes=4, critic_steps=2
    )


def test_solve_ends_when_fresh_episodes_say_so_or_the_budget_is_spent(algorithm, key):
    from jaxpg.cli.demo import solve

    result, scores, taken = solve(algorithm, key, 25.0, 100_000)
    assert scores.returns.mean() >= 25.0 and scores.returns.shape == (100,)
    assert result.num_env_steps <= taken < 100_000
    result, scores, taken = solve(algorithm, key, 61.0, 900)  # More than an episode can earn.
    assert result.stopped == "budget" and scores.returns.mean() < 61 and taken >= 900


@pytest.mark.slow
@pytest.mark.learning
def test_demo_does_it_all(says, tmp_path):
    text = says("demo", "--out", tmp_path / "demo", "--num-episodes", "64", "--seeds", "2", "--num-env-steps", "2_000",
                "--max-env-steps", "2_000")  # fmt: skip
    report = facts(text)
    assert report["episodes"].startswith("64 ")
    assert {"steps", "utilization", "gradient norm", "signal to noise", "discounted return"} <= set(report)
    assert re.search(r"not solved +[\d,]+ steps", text) and "2 seeds at once" in text
    curves, film = tmp_path / "demo" / "learning_curves.png", tmp_path / "demo" / "policy.gif"
    assert f"  {curves}\n" in text and f"  {film}\n" in text
    with Image.open(curves) as figure:
        assert figure.size == (1020, 690) and len(figure.convert("RGB").getcolors(10**6)) > 50
    with Image.open(film) as frames:
        assert frames.n_frames > 1 and frames.size == (480, 270)
    assert film.stat().st_size < 3_000_000


# --- small parts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "error", "text"), [
    (27.1286, 0.2345, "27.13 ± 0.23"), (1234.5, 67.8, "1,234 ± 68"), (-0.00123, 0.00045, "-0.00123 ± 0.00045"),
    (500, 0, "500 ± 0"), (3.25, np.nan, "3.25 ± nan"), (1e-9, 2e-10, "1.00e-09 ± 2.0e-10"), (5.0, 0.96, "5.00 ± 0.96"),
])  # fmt: skip
def test_errors_have_two_digits(value, error, text):
    assert with_error(value, error) == text


@pytest.mark.parametrize(("count", "duration", "text"), [
    (1_450_858, 2.92, "497,000"), (0, 1.0, "0"), (64, 0.9, "71.1"), (1, 3.0, "0.333"), (999_999, 1.0, "1,000,000"),
])  # fmt: skip
def test_rates_have_three_digits(count, duration, text):
    assert rate(count, duration) == text


def test_what_is_missing_is_empty_in_csv_and_null_in_json(tmp_path):
    folder = RunFolder(tmp_path)
    history = {
        "loss": np.array([0.5, np.nan]),
        "episode_return": np.array([np.nan, 2.0]),
        "total_env_steps": np.array([10, 20]),
    }
    folder.write_metrics("metrics.csv", history)
    assert (tmp_path / "metrics.csv").read_text().split() == [
        "update,total_env_steps,episode_return,loss", "1,10,,0.5", "2,20,2.0,"]  # fmt: skip
    content = {"a": np.float32(np.nan), "b": np.arange(2), "c": pathlib.Path("x"), "d": (1, True, None), "e": 1e300}
    assert as_json(content) == {"a": None, "b": [0, 1], "c": "x", "d": [1, True, None], "e": 1e300}


def test_the_page_of_returns_has_dashes_for_what_there_is_not():
    from benchmarks import returns

    def row(page):
        return next(line for line in page.splitlines() if line.startswith(f"| ppo | {name} |"))

    name = f"MemoryChain-bsuite{returns.NO_MEMORY}"
    assert returns.TARGETS["ppo", name][0] is None
    empty = returns.page({})
    assert empty.count("| not run |") == len(returns.TARGETS) and "None" not in empty
    assert row(empty) == f"| ppo | {name} | not run | | | – | | the same without memory: 0 is guessing | |"
    line = dict(num_env_steps=1000, mean=0.5, iqm=0.5, iqm_low=0.25, iqm_high=0.75, returns=[0.5], steps_per_second=9)
    assert "| – | – | the same without memory" in row(returns.page({f"ppo/{name}": line}))


def test_words_behind_unknown_options():
    names = ("learning_rate", "algorithm")
    assert unknown.known_words(["--lr", "1", "ENV", "--algorithm", "a2c"], names) == ["ENV", "--algorithm", "a2c"]
    assert unknown.known_words(["--lr=1", "ENV"], names) == ["ENV"]
    assert unknown.unknown_option(["--", "-weird"], names) is None
    assert unknown.unknown_option(["--algorithm", "a2c", "--lr", "1"], names) == "--lr"


def test_settings_that_differ_little_have_curves_of_their_own():
    a, b = [0.12345671, 0.12345672], [1.0, 2.0]
    runs = xarray.Dataset(
        {"episode_return": (("a", "b", "seed", "update"), np.zeros((2, 2, 3, 4)))}, coords={"a": a, "b": b}
    )
    stacked, by = plot_sweep._by_setting(runs, "episode_return")
    assert by == "a, b" and len(set(stacked[by].values.tolist())) == 4
