"""The `jaxpg` command: what it prints, the files it writes, and how it speaks of mistakes."""

import csv
import json
import pathlib
import re

import jax
import numpy as np
import pytest
from PIL import Image

import jaxpg
from jaxpg import cli
from jaxpg.cli import commands, devices
from jaxpg.cli.arguments import parse
from jaxpg.cli.console import rate, with_error
from jaxpg.cli.run_folder import RunFolder, as_json
from jaxpg.cli.seeds import train_seeds

TINY = ["--hidden-sizes", "8"]


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")


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


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_explains_every_option(says, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # One column of options.
    text = says(name, "--help")
    fields = {field.name: field for field in commands.COMMANDS[name].__dataclass_fields__.values()}
    assert ("ENV" in text) == ("env" in fields)
    assert f"Example: jaxpg {name}" in text
    options = [" ".join(part.split()) for part in re.split(r"\n\s*│?\s*(?=--)", text.replace("│\n", "\n"))]
    for field in set(fields) - {"env"}:
        name = f"--{field.replace('_', '-')} "
        assert any(option.startswith(name) and "(default:" in option.replace("│ ", "") for option in options), field


def test_help_lists_the_commands(says):
    text = says("--help")
    for name in commands.COMMANDS:
        assert re.search(rf"[•*] {name} +[A-Z]", text)
    assert says() == text


def test_help_and_parsing_load_nothing_slow(run_in_subprocess):
    program = """
    import sys
    from jaxpg.cli import main
    for words in (["--help"], ["train", "--help"], ["--version"]):
        try:
            main(words)
        except SystemExit as exit:
            assert exit.code == 0
    print(*sys.modules, file=sys.stderr)
    slow = {"jax", "numpy", "flax", "gymnax", "matplotlib", "rich"} & set(sys.modules)
    assert not slow, slow
    """
    assert f"jaxpg {jaxpg.__version__}" in run_in_subprocess(program)


def test_words_become_options():
    command = parse("train CartPole-v1 --num-env-steps 2e5 --num-episodes 1_000 --hidden-sizes --out a/b".split())
    assert command == commands.Train(
        env=commands.EnvironmentName("CartPole-v1"),
        num_env_steps=200_000,
        num_episodes=1_000,
        hidden_sizes=(),
        out=pathlib.Path("a/b"),
    )
    assert type(command.num_env_steps) is int
    assert parse(["demo"]) == commands.Demo()
    assert parse("gradient X --hidden-sizes 3 4 --devices 2 --debug".split()) == commands.Gradient(
        env=commands.EnvironmentName("X"), hidden_sizes=(3, 4), devices=2, debug=True
    )


@pytest.mark.parametrize(("words", "message"), [
    ("trian CartPole-v1", "no command 'trian'; the commands are demo, .*did you mean 'train'"),
    ("train", "ENV"),
    ("train CartPole-v1 --learning-rat 0.1", "--learning-rate"),
    ("train CartPole-v1 --num-env-steps 1.5", "1.5 is not a whole number"),
    ("train CartPole-v1 --num-env-steps many", "--num-env-steps"),
    ("gradient CartPole-v1 --weight gae", "reward-to-go"),
    ("train CartPole-v1 --algorithm ppo", "reinforce"),
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
    ("train CartPole-v1 --num-env-steps 0", "num_env_steps must be an integer of at least 1"),
    ("train CartPole-v1 --eval-episodes 0", "eval_episodes must be an integer of at least 1"),
    ("train CartPole-v1 --target-return inf", "target_return must be a finite real number"),
    ("demo --seeds 0", "seeds must be an integer of at least 1"),
])  # fmt: skip
def test_mistakes_are_named_and_exit_with_2(says, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    text = says(*words.split(), exit_code=2)
    assert re.search(message, re.sub(r"[│|\s]+", " ", text)), text
    assert "Traceback" not in text
    assert not text.startswith("jaxpg:") or text.count("\n") == 1  # One line; what tyro says comes in a frame.


def test_debug_shows_the_traceback_and_slips_are_not_called_mistakes(monkeypatch):
    with pytest.raises(ValueError, match="num_episodes must be"):
        cli.main("gradient CartPole-v1 --num-episodes 0 --debug".split())
    monkeypatch.setattr(commands.Envs, "run", lambda self: int("not a number of ours"))
    with pytest.raises(ValueError, match="invalid literal"):
        cli.main(["envs"])


def test_ctrl_c_leaves_with_130(says, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.Envs, "run", interrupt)
    assert says("envs", exit_code=130) == "jaxpg: interrupted\n"


# --- envs and gradient -----------------------------------------------------------------------------------------------


def test_envs_lists_all(says):
    text = says("envs")
    for name in jaxpg.envs.available():
        assert re.search(rf"^ *{re.escape(name)} ", text, re.MULTILINE), name
    assert re.search(r"Pendulum-v1 +Box\(…, …, \(3,\), float32\) +Box\(-2, 2, \(1,\), float32\) +200 +yes", text)


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

TRAIN = ["train", "CartPole-v1", *TINY, "--num-episodes", "4", "--max-steps", "30", "--eval-episodes", "5"]


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_train_writes_what_the_run_leaves(says, tmp_path):
    folder = tmp_path / "runs" / "one"
    text = says(*TRAIN, "--num-env-steps", "500", "--target-return", "400", "--out", folder, "--seed", "7")
    names = ["config.json", "metrics.csv", "result.json", "learning_curve.png", "policy.gif"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert all(f"  {folder / name}\n" in text for name in names)

    config = json.loads((folder / "config.json").read_text())
    assert config["options"]["env"] == "CartPole-v1" and config["options"]["hidden_sizes"] == [8]
    assert config["options"]["seed"] == 7 and config["options"]["out"] == str(folder)
    assert config["versions"]["jaxpg"] == jaxpg.__version__

    rows = rows_of(folder / "metrics.csv")
    result = json.loads((folder / "result.json").read_text())
    steps = [int(row["total_env_steps"]) for row in rows]
    assert [int(row["update"]) for row in rows] == list(range(1, len(rows) + 1))
    assert steps == np.cumsum([int(row["env_steps"]) for row in rows]).tolist()
    assert steps[-2] < 500 <= steps[-1]
    assert result["num_env_steps"] == steps[-1] and result["num_updates"] == len(rows)
    assert result["stopped"] == "budget" and len(result["evaluation"]["returns"]) == 5
    assert all(1 <= float(row["episode_return"]) <= 30 for row in rows)

    report = facts(text)
    returns = np.array(result["evaluation"]["returns"])
    assert report["evaluation"].startswith(with_error(returns.mean(), returns.std(ddof=1) / 5**0.5) + " ")
    assert report["steps"].startswith(f"{steps[-1]:,} ")
    with Image.open(folder / "learning_curve.png") as figure:
        assert figure.size == (1020, 690)
    with Image.open(folder / "policy.gif") as film:
        assert film.n_frames > 1 and film.size == (480, 270)

    # A second run does not write over the first.
    again = says(*TRAIN, "--out", folder, exit_code=2)
    assert "holds a run already" in again and "--overwrite" in again


def test_train_without_a_drawing_says_so(says, tmp_path):
    words = [
        "train",
        "PointRobot-misc",
        *TINY,
        "--num-episodes",
        "2",
        "--max-steps",
        "3",
        "--num-env-steps",
        "12",
        "--baseline",
        "none",
        "--eval-episodes",
        "1",
        "--out",
        tmp_path,
    ]
    text = says(*words)
    assert "no drawing for PointRobot-misc" in text
    assert not (tmp_path / "policy.gif").exists() and (tmp_path / "learning_curve.png").exists()
    assert facts(text)["baseline"] == "none"


def test_ctrl_c_keeps_what_there_is(says, tmp_path, monkeypatch):
    blocks = []

    def stop_at_second(block):
        blocks.append(len(block["env_steps"]))
        if len(blocks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("jaxpg.cli.train.progress_lines", lambda *_: stop_at_second)
    says(*TRAIN, "--num-env-steps", "1_000_000", "--baseline", "leave-one-out", "--out", tmp_path, exit_code=130)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["stopped"] == "interrupted" and result["num_updates"] == sum(blocks)
    assert len(rows_of(tmp_path / "metrics.csv")) == sum(blocks)
    assert (tmp_path / "policy.gif").exists()


def test_progress_lines_tell_how_far_a_run_is(capsys):
    from jaxpg.cli.console import console
    from jaxpg.cli.train import progress_lines

    block = {"total_env_steps": np.array([100, 1200]), "episode_return": np.array([np.nan, 21.25])}
    progress_lines(console(), 50_000, interval=1e6)(block)
    assert capsys.readouterr().out == ""
    progress_lines(console(), 50_000, interval=0.0)(block)
    assert capsys.readouterr().out == "  1,200 of 50,000 steps, 0 s, return 21.25\n"


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


# --- many seeds, and the demo ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def algorithm():
    env = jaxpg.make("CartPole-v1", max_steps=60)
    return jaxpg.reinforce(
        env, jaxpg.policies.mlp(env, (8,)), jaxpg.policies.value_mlp(env, (8,)), num_episodes=4, critic_steps=2
    )


def test_seeds_run_as_they_would_alone_and_each_to_its_own_end(algorithm, key):
    keys = jax.random.split(key, 3)
    runs = train_seeds(algorithm, keys, 700)
    for steps, returns in zip(runs.steps, runs.returns):
        assert steps[-2] < 700 <= steps[-1] and len(steps) == len(returns)
    numbers = [len(steps) for steps in runs.steps]
    assert len(set(numbers)) > 1  # Some had to wait for others.

    seed = int(np.argmin(numbers))
    state, step = algorithm.init(keys[seed]), jax.jit(algorithm.step)
    for update in range(numbers[seed]):
        state, metrics = step(state)
        assert metrics["env_steps"] == np.diff(runs.steps[seed], prepend=0)[update]
        np.testing.assert_allclose(metrics["episode_return"], runs.returns[seed][update], rtol=1e-6)
    jax.tree.map(
        lambda alone, together: np.testing.assert_allclose(alone, together[seed], rtol=1e-4, atol=1e-5),
        state.params,
        runs.params,
    )


def test_solve_ends_when_fresh_episodes_say_so_or_the_budget_is_spent(algorithm, key):
    from jaxpg.cli.demo import solve

    result, scores, taken = solve(algorithm, key, 25.0, 100_000)
    assert scores.returns.mean() >= 25.0 and scores.returns.shape == (100,)
    assert result.num_env_steps <= taken < 100_000
    result, scores, taken = solve(algorithm, key, 61.0, 900)  # More than an episode can earn.
    assert result.stopped == "budget" and scores.returns.mean() < 61 and taken >= 900


@pytest.mark.slow
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
