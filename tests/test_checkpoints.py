"""Runs that cannot lose work: checkpoints, resuming, damaged files, full disks, signals."""

import dataclasses
import errno
import importlib.metadata
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_runs import environment, real, same, same_run, tiny

import jaxpg
from jaxpg.training import _store, checkpoints

ROOT = pathlib.Path(__file__).resolve().parent.parent
OPTIONS = {"evaluate_every": 60, "evaluation_episodes": 4, "checkpoint_every": 50, "progress": False}


@pytest.fixture(scope="module")
def algorithm():
    return tiny()


@pytest.fixture
def run(algorithm, key, tmp_path):
    """run(num_env_steps, …): the tiny algorithm, in a directory; the next call goes on there."""

    def play(num_env_steps, algorithm=algorithm, key=key, directory=tmp_path / "run", **options):
        options = {**OPTIONS, **options}
        return jaxpg.train(algorithm, key, num_env_steps=num_env_steps, directory=directory, **options)

    return play


@pytest.fixture(scope="module")
def whole(algorithm):
    """The run of 400 steps that nothing interrupts, in memory alone."""
    options = {k: v for k, v in OPTIONS.items() if k != "checkpoint_every"}
    return jaxpg.train(algorithm, jax.random.key(0), num_env_steps=400, **options)


def names(path):
    return checkpoints.checkpoint_names(path / "checkpoints")


def interrupt_after(num_blocks):
    """A callback that presses Ctrl-C after so many blocks."""
    blocks = []

    def callback(block):
        blocks.append(block)
        if len(blocks) == num_blocks:
            signal.raise_signal(signal.SIGINT)

    return callback


# --- Going on ---------------------------------------------------------------------------------------------------------


def test_files_change_nothing(run, whole, tmp_path):
    same_run(run(400), whole)
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        ".lock", "best", "checkpoints", "evaluations.jsonl", "metrics.jsonl", "run.json"
    }  # fmt: skip
    assert len(names(folder)) == 3 and int(names(folder)[-1]) == whole.num_updates
    assert json.loads((folder / "run.json").read_text())["algorithm"] == "tiny"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == list(range(1, whole.num_updates + 1))
    assert [row["total_env_steps"] for row in rows] == whole.history["total_env_steps"].tolist()
    returns = [np.nan if row["episode_return"] is None else row["episode_return"] for row in rows]
    np.testing.assert_array_equal(np.float32(returns), whole.history["episode_return"])
    assert np.isnan(returns).any() and "Infinity" in {row["loss"] for row in rows}


@pytest.mark.parametrize("num_blocks", [1, 4, 5, 8])
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(run, whole, num_blocks):
    """Called back at each block's end, stopped, gone on with: state, history, evaluations and best, bit for bit."""
    first = run(400, callback=interrupt_after(num_blocks))
    assert first.stopped == "interrupted" and 0 < first.num_updates < whole.num_updates
    same_run(run(400), whole)


def test_a_resumed_run_stops_at_the_same_target(run, key, algorithm):
    options = {"target_return": 0.9, "progress": False}
    alone = jaxpg.train(algorithm, key, num_env_steps=10_000, **options)
    assert alone.stopped == "target" and alone.num_updates > 8
    plain = {**options, "evaluate_every": None}

    def interrupt(block):
        if block["total_env_steps"][-1] >= alone.num_env_steps // 2:
            signal.raise_signal(signal.SIGTERM)

    assert run(10_000, callback=interrupt, checkpoint_every=7, **plain).stopped == "terminated"
    same_run(run(10_000, checkpoint_every=11, **plain), alone)
    same_run(run(10_000, **plain), alone)  # The target is reached: nothing more is played.


def test_a_run_is_prolonged_and_a_finished_one_returned(run, whole, key, algorithm):
    run(200)
    longer = run(400)
    np.testing.assert_array_equal(longer.history["env_steps"], whole.history["env_steps"])
    same(longer.state, whole.state)
    calls = []
    again = run(400, callback=calls.append)
    assert not calls
    same_run(again, longer)
    smaller = run(100)
    assert smaller.stopped == "budget" and smaller.num_env_steps == longer.num_env_steps


def test_the_key_may_be_left_out_to_go_on(run, whole):
    run(150, callback=interrupt_after(5))
    assert run(400, key=None).num_updates == whole.num_updates


def test_a_run_from_a_state_is_resumed_from_its_checkpoint(run, algorithm, key):
    start = jax.jit(algorithm.step)(algorithm.init(jax.random.key(5)))[0]
    plain = {"key": None, "state": start, "evaluate_every": None}
    alone = jaxpg.train(algorithm, state=start, num_env_steps=200, progress=False)
    run(200, callback=interrupt_after(3), **plain)
    same_run(run(200, **plain), alone)
    with pytest.raises(ValueError, match="another state"):
        run(300, **{**plain, "state": algorithm.init(key)})
    with pytest.raises(ValueError, match="a state and no key"):
        run(300, evaluate_every=None)


def test_counters_do_not_overflow(key, tmp_path):
    """Each update takes 2^31 − 1 steps, as many as the metric holds."""
    steps = 2**31 - 1
    algorithm = tiny(steps_of_an_update=steps)
    blocks = []  # A counter that overflows would never get there.
    options = {"directory": tmp_path, "progress": False, "callback": lambda b: blocks.append(b) or len(blocks) > 20}
    result = jaxpg.train(algorithm, key, num_env_steps=5 * steps - 1, **options)
    assert result.num_updates == 5 and result.num_env_steps == 5 * steps > 2**33
    assert result.history["total_env_steps"].tolist() == [steps * i for i in range(1, 6)]
    again = jaxpg.train(algorithm, key, num_env_steps=6 * steps, directory=tmp_path, progress=False)
    assert again.num_env_steps == 6 * steps and again.num_updates == 6


@pytest.mark.slow
def test_real_algorithms_resume_bit_for_bit(key, tmp_path):
    for name, algorithm in {"reinforce": real(), **actor_critics()}.items():
        options = {"num_env_steps": 2000, "evaluate_every": 500, "evaluation_episodes": 4, "progress": False}
        alone = jaxpg.train(algorithm, key, **options)
        first = jaxpg.train(algorithm, key, directory=tmp_path / name, callback=interrupt_after(2), **options)
        assert first.stopped == "interrupted" and first.num_updates < alone.num_updates
        same_run(jaxpg.train(algorithm, key, directory=tmp_path / name, **options), alone)


def actor_critics():
    env = jaxpg.make("CartPole-v1", max_steps=30)
    policy = jaxpg.policies.mlp(env, (8,))
    options = {"num_envs": 4, "num_steps": 16}
    return {"a2c": jaxpg.a2c(env, policy, **options), "ppo": jaxpg.ppo(env, policy, **options)}


def test_everything_comes_back_in_64_bits(x64, tmp_path):
    key, algorithm = jax.random.key(0), tiny()
    result = jaxpg.train(algorithm, key, num_env_steps=50, directory=tmp_path, progress=False)
    assert result.params["logits"].dtype == jnp.float64
    loaded = jaxpg.load_checkpoint(tmp_path, algorithm)
    same(loaded.state, result.state)


# --- Checkpoints ------------------------------------------------------------------------------------------------------


def test_checkpoints_are_loaded_by_number_and_without_training(run, algorithm, tmp_path):
    results = []
    for budget in (100, 200, 300):
        results.append(run(budget, checkpoint_every=None))
    path = tmp_path / "run"
    assert [int(name) for name in names(path)] == [r.num_updates for r in results]
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    for result in results:
        loaded = jaxpg.load_checkpoint(path, algorithm, result.num_updates)
        same(loaded.state, result.state)
        same(loaded.best_params, result.best_params)
        assert (loaded.num_updates, loaded.num_env_steps) == (result.num_updates, result.num_env_steps)
    assert jaxpg.load_checkpoint(path, algorithm).num_updates == results[-1].num_updates
    params, info = checkpoints.load_best(path, algorithm.policy)
    same(params, results[-1].best_params)
    assert info["episode_return"] == results[-1].best_return
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*")} == before
    with pytest.raises(FileNotFoundError, match="update must be one of"):
        jaxpg.load_checkpoint(path, algorithm, 999)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        jaxpg.load_checkpoint(tmp_path / "elsewhere", algorithm)
    with pytest.raises(ValueError, match="another policy"):
        checkpoints.load_best(path, tiny(width=3).policy)


def test_as_many_checkpoints_are_kept_as_asked_for(run, tmp_path):
    run(300, checkpoint_every=20, keep_checkpoints=2)
    assert len(names(tmp_path / "run")) == 2
    assert len(list((tmp_path / "run" / "best").iterdir())) == 1
    run(400, checkpoint_every=20, keep_checkpoints=1)
    assert len(names(tmp_path / "run")) == 1


def test_a_checkpoint_comes_about_every_minute(run, monkeypatch, tmp_path):
    monkeypatch.setattr(_store, "SECONDS", 0.0)
    monkeypatch.setattr(_store, "MOST_OF_TIME", 1e9)
    run(400, checkpoint_every=None, keep_checkpoints=100)
    assert len(names(tmp_path / "run")) > 4


@pytest.mark.parametrize(
    ("changed", "differences"),
    [
        (lambda: tiny(config={"rate": 0.2}), ["config.rate: 0.1 in the checkpoint, 0.2 now"]),
        (lambda: tiny(config={"rate": 0.1, "extra": 1}), ["config.extra: not in the checkpoint, 1 now"]),
        (lambda: tiny(name="other"), ["algorithm: 'tiny' in the checkpoint, 'other' now"]),
        (lambda: tiny(width=3), ["state.params['logits']: 'float32[2]' in the checkpoint, 'float32[3]' now"]),
        (lambda: tiny(env=environment(5)), ["environment.max_steps: 4"]),
        (lambda: tiny(env=dataclasses.replace(environment(), name="other")), ["environment.name: 'coin'"]),
        (
            lambda: tiny(env=dataclasses.replace(environment(), observation_space=jaxpg.envs.Box(0, 9, (1,)))),
            ["environment.observation_space: "],
        ),
    ],
)
def test_a_changed_algorithm_is_refused_with_the_difference(run, changed, differences, tmp_path):
    run(60)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for attempt in (lambda: run(100, algorithm=changed()), lambda: jaxpg.load_checkpoint(tmp_path / "run", changed())):
        with pytest.raises(ValueError) as error:
            attempt()
        assert all(line in str(error.value) for line in differences), error.value
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("from_state", [False, True])
def test_runs_with_keys_of_another_generator_are_resumed_and_loaded(run, algorithm, from_state, tmp_path):
    """The words of such a key have another shape, and states hold them as typed keys and as words."""
    key = jax.random.key(0, impl="rbg")
    start = {"key": None, "state": algorithm.init(key)} if from_state else {"key": key}
    options = {**start, "evaluate_every": None}
    alone = run(120, directory=None, checkpoint_every=None, **options)
    run(60, **options)
    loaded = jaxpg.load_checkpoint(tmp_path / "run", algorithm)
    assert str(jax.random.key_impl(loaded.state.key)) == "rbg" == loaded.info["start"]["generator"]
    assert run(90, key=None, evaluate_every=None).stopped == "budget"
    same_run(run(120, **options), alone)


def test_another_key_is_refused(run):
    run(60)
    with pytest.raises(ValueError, match="key: the run in .* was started with"):
        run(100, key=jax.random.key(1))
    with pytest.raises(ValueError, match="started with a key"):
        run(100, key=None, state=tiny().init(jax.random.key(0)), evaluate_every=None)


def test_other_versions_are_a_warning(run, monkeypatch):
    run(60)
    monkeypatch.setattr(checkpoints, "versions", lambda: {"jax": "0.0.1"})
    with pytest.warns(RuntimeWarning, match="jax: .* in the checkpoint, '0.0.1' now"):
        run(100)


def test_the_versions_that_decide_the_numbers_are_recorded(run, tmp_path):
    run(5, evaluate_every=None)
    found = json.loads((tmp_path / "run" / "run.json").read_text())["versions"]
    assert found["optax"] == importlib.metadata.version("optax")
    assert {"jaxpg", "jax", "jaxlib", "flax", "optax", "gymnax", "numpy", "orbax-checkpoint", "python"} < set(found)


@pytest.mark.parametrize("later", [False, True])
def test_a_run_that_was_killed_before_run_json_gets_it_later(run, whole, monkeypatch, tmp_path, later):
    def killed(path, content):
        raise SystemExit if path.name == "run.json" else AssertionError(path)

    with monkeypatch.context() as context, pytest.raises(SystemExit):
        context.setattr(_store, "replace_file", killed)
        run(400)
    file = tmp_path / "run" / "run.json"
    assert names(tmp_path / "run") == ["00000000"] and not file.exists()
    if later:
        run(100)
        written = json.loads(file.read_text())
        file.unlink()
        run(130)
    else:
        same_run(run(400), whole)
    found = json.loads(file.read_text())
    assert found["algorithm"] == "tiny" and found["start"]["key"]["words"] == [0, 0] and found["versions"]["jax"]
    assert found["started"] is None if later else found["started"]  # Not known any more where it was removed.
    if later:
        assert written == {**found, "started": written["started"]} and written["started"]


@pytest.mark.slow
def test_functions_in_a_configuration_compare_by_name(run, key, tmp_path):
    def schedule(count):
        return count

    def other(count):
        return count

    config = {"rate": schedule, "array": np.arange(3), "traced": jnp.float32(0.5), "nan": np.nan, "inf": np.inf}
    path = tmp_path / "named"
    run(60, algorithm=tiny(config=config), directory=path)
    saved = json.loads((path / "run.json").read_text())["config"]
    assert saved["array"] == [0, 1, 2] and "0x" not in saved["rate"] and saved["inf"] == "Infinity"
    run(90, algorithm=tiny(config=config), directory=path)
    with pytest.raises(ValueError, match="config.rate"):
        run(120, algorithm=tiny(config={**config, "rate": other}), directory=path)


# --- Damage -----------------------------------------------------------------------------------------------------------


def damage(path, how):
    data = path.read_bytes()
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        place = len(data) // 2
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


@pytest.mark.slow
def test_every_damaged_file_of_a_checkpoint_is_noticed(run, whole, tmp_path):
    """Each file, cut, flipped or gone: the checkpoint before is used, the damaged one kept, the end the same."""
    run(150, callback=interrupt_after(6))
    path = tmp_path / "run"
    assert len(names(path)) >= 2
    newest, older = names(path)[-1], names(path)[-2]
    files = sorted(p.relative_to(path) for p in (path / "checkpoints" / newest).rglob("*") if p.is_file())
    assert {"manifest.json", "checkpoint.json"} < {p.name for p in files} and len(files) > 5
    for i, (file, how) in enumerate((f, h) for f in files for h in ("deleted", "truncated", "flipped")):
        copy = tmp_path / "copy"
        shutil.copytree(path, copy)
        damage(copy / file, how)
        with pytest.warns(RuntimeWarning, match=f"checkpoint .*{newest} is damaged"):
            loaded = jaxpg.load_checkpoint(copy, tiny())
        assert loaded.path.name == older
        if i % 9 == 0:  # The run goes on, too.
            with pytest.warns(RuntimeWarning, match=f"goes on from checkpoint {older}"):
                same_run(run(400, directory=copy), whole)
            assert (copy / "checkpoints" / f"{newest}.damaged").is_dir()
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                run(400, directory=copy)
        shutil.rmtree(copy)


def test_another_way_of_compiling_is_told(run, tmp_path):
    run(100, quick_compile=True)
    with pytest.warns(
        RuntimeWarning, match="quick_compile: the run in .* was started with True and goes on with False"
    ):
        run(200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(300, quick_compile=True)
    start = json.loads((tmp_path / "run" / "run.json").read_text())["start"]
    assert start["quick_compile"] is True


def test_where_every_checkpoint_is_damaged_nothing_is_touched(run, algorithm, tmp_path):
    run(150)
    path = tmp_path / "run"
    for name in names(path):
        damage(path / "checkpoints" / name / "checkpoint.json", "flipped")
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != ".lock"}
    for attempt in (lambda: run(400), lambda: run(400), lambda: jaxpg.load_checkpoint(path, algorithm)):
        with pytest.raises(ValueError, match="every checkpoint .* is damaged:\n.*checkpoint.json is not as"):
            attempt()
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != ".lock"} == before


def test_a_run_whose_checkpoints_are_gone_is_not_written_over(run, tmp_path):
    run(100)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match="no checkpoint to go on from"):
        run(100)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_rows_behind_the_checkpoint_and_a_torn_line_are_cut_off(run, whole, tmp_path):
    run(150, callback=interrupt_after(6))
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        with (tmp_path / "run" / name).open("ab") as file:
            file.write(b'{"update": 9999, "env_steps": 1}\n{"update": 100')
    same_run(run(400), whole)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_bytes().splitlines()]
    assert [row["update"] for row in rows] == list(range(1, whole.num_updates + 1))


def test_a_changed_metrics_file_is_named_and_kept(run, whole, tmp_path):
    first = run(150, callback=interrupt_after(6))
    file = tmp_path / "run" / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    changed = b"".join([lines[0], lines[1][:10] + b"\n", *lines[2:]])
    file.write_bytes(changed)
    with pytest.warns(RuntimeWarning, match=f"metrics.jsonl is not as it was written: {first.num_updates - 1} rows"):
        result = run(400)
    same(result.state, whole.state)
    assert result.num_updates == whole.num_updates and len(result.history["env_steps"]) == whole.num_updates - 1
    np.testing.assert_array_equal(result.history["env_steps"][1:], whole.history["env_steps"][2:])
    assert (tmp_path / "run" / "metrics.jsonl.damaged").read_bytes() == changed


@pytest.mark.parametrize(("old", "new"), [("episode_return", "episode_seturn"), ('_return": ', '_return": "x",')])
@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations.jsonl"])
def test_a_row_with_a_damaged_name_or_number_is_left_out(run, whole, tmp_path, name, old, new):
    """Not only lines that are no JSON: the run goes on with the other rows, and the file is set aside once."""
    run(150, callback=interrupt_after(6))
    file = tmp_path / "run" / name
    lines = file.read_text().splitlines()
    lines[0] = lines[0].replace(old, new)
    file.write_text("\n".join(lines) + "\n")
    with pytest.warns(RuntimeWarning, match=f"{name} is not as it was written: {len(lines) - 1} rows"):
        result = run(400)
    same(result.state, whole.state)
    same(result.best_params, whole.best_params)
    lost = "history" if name == "metrics.jsonl" else "evaluations"
    for field in ("history", "evaluations"):
        found, want = getattr(result, field), getattr(whole, field)
        same(dict(found), {name: values[field == lost :] for name, values in want.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same_run(run(400), result)


@pytest.mark.parametrize(
    "line",
    [
        '{"update": 2, "steps": 4, "return": 0.5, "losses": [1.0, null]}',
        '{"update": 2, "steps": 4, "return": "-Infinity", "losses": [1, 2.5]}',
        None,  # No line at all.
        '{"update": 2, "steps": 4, "seturn": 0.5, "losses": [1.0, 2.0]}',
        '{"update": 2, "steps": 4, "return": 0.5}',
        '{"update": 2, "steps": 4, "return": 0.5, "losses": [1.0, 2.0], "more": 1}',
        '{"update": 2, "steps": 4, "return": "much", "losses": [1.0, 2.0]}',
        '{"update": 2, "steps": 4, "return": [0.5], "losses": [1.0, 2.0]}',
        '{"update": 2, "steps": 4, "return": {"a": 1}, "losses": [1.0, 2.0]}',
        '{"update": 2, "steps": 4, "return": 0.5, "losses": [1.2]}',
        '{"update": 2, "steps": 4, "return": 0.5, "losses": [[1.0], 2.0]}',
        '{"update": 2, "steps": null, "return": 0.5, "losses": [1.0, 2.0]}',
        '{"update": 2, "steps": 4.5, "return": 0.5, "losses": [1.0, 2.0]}',
        '{"update": 2, "steps": true, "return": 0.5, "losses": [1.0, 2.0]}',
        '{"update": 2, "steps": 5000000000, "return": 0.5, "losses": [1.0, 2.0]}',
        '{"update": true, "steps": 4, "return": 0.5, "losses": [1.0, 2.0]}',
        '{"update": 9, "steps": 4, "return": 0.5, "losses": [1.0, 2.0]}',
        "3", "null", '"update"', '["update"]', "{",
    ],
)  # fmt: skip
def test_what_can_be_read_of_a_changed_file(tmp_path, line):
    """Of three rows the one in the middle is good, or is left out."""
    good = line is not None and ("null]" in line or "-Infinity" in line)
    like = {"steps": np.zeros((), np.int32), "return": np.zeros((), np.float32), "losses": np.zeros(2, np.float32)}
    rows = [{"update": i, "steps": 4, "return": 0.5, "losses": [1.0, 2.0]} for i in (1, 3)]
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(rows[0]), *([] if line is None else [line]), json.dumps(rows[1])]
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.warns(RuntimeWarning, match=f"is not as it was written: {2 + good} rows"):
        records, found, changed = _store.Records.resume(path, {"bytes": 9999, "sha256": "another"}, 3, like)
    assert changed and [row["update"] for row in found] == ([1, 2, 3] if good else [1, 3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, again, changed = _store.Records.resume(path, records.mark(), 3, like)
    assert again == found and not changed
    # A file that holds only good rows is not set aside: it is what is gone on with.
    assert (tmp_path / "rows.jsonl.damaged").exists() == (line is not None and not good)


def test_a_finished_run_with_a_damaged_file_is_repaired_once(run, tmp_path):
    run(100)
    file = tmp_path / "run" / "evaluations.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"episode_length"', b'"episode_lenght"', 1))
    with pytest.warns(RuntimeWarning, match="is not as it was written"):
        first = run(100)
    assert len(first.evaluations["update"]) > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same_run(run(100), first)
    assert len(list((tmp_path / "run").glob("*.damaged*"))) == 1


def test_a_metric_that_earlier_updates_lack_is_nan_there(run, tmp_path):
    """As where a newer version brings it."""
    base = tiny()

    def step(state):
        after, metrics = base.step(state)
        return after, {**metrics, "new": state.update}

    newer = dataclasses.replace(base, step=step)
    first = run(60, algorithm=base, evaluate_every=None)
    run(100, algorithm=newer, evaluate_every=None)
    last = run(140, algorithm=newer, evaluate_every=None)
    assert np.isnan(last.history["new"][: first.num_updates]).all()
    assert last.history["new"][first.num_updates :].tolist() == list(range(first.num_updates, last.num_updates))


def test_left_overs_of_killed_saves_are_removed(run, whole, tmp_path):
    run(150, callback=interrupt_after(6))
    for name in (".part-00000099", ".removed-00000001"):
        (tmp_path / "run" / "checkpoints" / name).mkdir()
        (tmp_path / "run" / "checkpoints" / name / "file").write_bytes(b"x")
    same_run(run(400), whole)
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


# --- Disks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["orbax", "replace", "info", "metrics", "fsync"])
def test_a_disk_that_fills_up_costs_nothing_but_checkpoints(run, whole, monkeypatch, tmp_path, where):
    """Some writes fail with ENOSPC: each is a warning, results are whole, and what was saved before is still good."""
    full = [False]

    def failing(function, error=None):
        def wrapped(*arguments, **options):
            if full[0]:
                raise error or OSError(errno.ENOSPC, "No space left on device")
            return function(*arguments, **options)

        return wrapped

    if where == "orbax":  # tensorstore reports the system's errors as ValueError.
        import orbax.checkpoint as ocp

        error = ValueError("RESOURCE_EXHAUSTED: No space left on device")
        monkeypatch.setattr(ocp.Checkpointer, "save", failing(ocp.Checkpointer.save, error))
    elif where == "replace":
        monkeypatch.setattr(os, "replace", failing(os.replace))
    elif where == "info":
        monkeypatch.setattr(checkpoints, "write_file", failing(checkpoints.write_file))
    elif where == "metrics":
        monkeypatch.setattr(_store.Records, "flush", failing(_store.Records.flush))
    else:
        monkeypatch.setattr(os, "fsync", failing(os.fsync))

    def fill(block):
        full[0] = 100 < block["total_env_steps"][-1]

    with pytest.warns(RuntimeWarning, match="could not be written to .*No space left.*The run goes on"):
        same_run(run(400, callback=fill), whole)
    saved = names(tmp_path / "run")
    assert saved and 0 < int(saved[-1]) < whole.num_updates
    assert not list((tmp_path / "run" / "checkpoints").glob(".part*"))
    full[0] = False  # There is space again: the last good checkpoint is gone on from.
    same_run(run(400), whole)


def test_a_disk_that_has_space_again_gets_checkpoints_again(run, whole, monkeypatch, tmp_path):
    write, full = checkpoints.write_file, [False]

    def failing(path, content):
        if full[0]:
            path.write_bytes(content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(checkpoints, "write_file", failing)

    def fill(block):
        full[0] = 100 < block["total_env_steps"][-1] < 250

    with pytest.warns(RuntimeWarning, match="No space left"):
        run(400, callback=fill)
    assert int(names(tmp_path / "run")[-1]) == whole.num_updates


@pytest.mark.parametrize("restarted", [False, True])
def test_best_parameters_that_could_not_be_written_are_written_later(run, whole, monkeypatch, tmp_path, restarted):
    """By the next save, or by the next start of the run; no better ones come."""
    write, full = checkpoints.write_checkpoint, [True]

    def failing(folder, num_updates, *rest):
        if folder.name == "best" and full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(folder, num_updates, *rest)

    monkeypatch.setattr(checkpoints, "write_checkpoint", failing)
    reached = (
        0 if restarted else int(whole.evaluations["total_env_steps"][np.argmax(whole.evaluations["episode_return"])])
    )

    def empty(block):
        full[0] = restarted or block["total_env_steps"][-1] <= reached

    assert restarted or reached < 300
    with pytest.warns(RuntimeWarning, match="best parameters could not be written"):
        run(400, callback=empty)
    if restarted:
        assert not checkpoints.checkpoint_names(tmp_path / "run" / "best")
        full[0] = False
        run(400)
    params, info = checkpoints.load_best(tmp_path / "run", tiny().policy)
    same(params, whole.best_params)
    assert info["episode_return"] == whole.best_return
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "best").rglob("*")}
    run(400)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "best").rglob("*")} == before


def test_a_metrics_file_that_was_written_in_part_is_whole_later(tmp_path):
    from jaxpg.training._records import Records

    records = Records(tmp_path / "rows.jsonl")
    records.add([{"update": 1, "x": 0.1}])
    records.flush()
    records.add([{"update": 2, "x": 0.2}])
    with (tmp_path / "rows.jsonl").open("ab") as file:
        file.write(b'{"upd')  # What a failed write has left.
    records.flush()
    assert [json.loads(line)["update"] for line in records.path.read_bytes().splitlines()] == [1, 2]
    whole = records.path.read_bytes()
    records.path.write_bytes(whole + b'{"update": 3}\n{"up')  # Later than the mark, and torn.
    again, rows, changed = Records.resume(records.path, records.mark(), 2, {"x": np.zeros(())})
    assert not changed and records.path.read_bytes() == whole
    assert rows[1] == {"update": 2, "x": 0.2} and again.mark() == records.mark()


@pytest.mark.slow
def test_a_real_limit_on_the_size_of_files(run_in_subprocess, tmp_path):
    """The process may write files of 1 kB from the middle of the run on."""
    printed = run_in_subprocess(
        f"""
        import resource, warnings, jax, jaxpg
        from training_runs import tiny, same
        algorithm, key = tiny(), jax.random.key(0)
        options = dict(num_env_steps=400, progress=False, checkpoint_every=40)
        whole = jaxpg.train(algorithm, key, **{{**options, "checkpoint_every": None}})
        def limit(block):
            if block["total_env_steps"][-1] > 150:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = jaxpg.train(algorithm, key, directory={str(tmp_path)!r}, callback=limit, **options)
        same(result.state, whole.state)
        print(*{{str(w.message)[:200] for w in caught if "could not be written" in str(w.message)}}, sep="\\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        loaded = jaxpg.load_checkpoint({str(tmp_path)!r}, algorithm)
        assert 0 < loaded.num_updates < whole.num_updates
        same(jaxpg.train(algorithm, key, directory={str(tmp_path)!r}, **options).state, whole.state)
        print("same")
        """
    )
    assert "could not be written" in printed and printed.endswith("same\n"), printed


@pytest.mark.parametrize("place", ["/proc/nothing/run", "FILE/run", "FILE"])
def test_an_unwritable_directory_is_an_error_at_once(run, place, tmp_path):
    (tmp_path / "FILE").write_text("a file")
    compiled = []
    algorithm = jaxpg.Algorithm(init=lambda key: compiled.append(1), step=lambda state: compiled.append(1))
    with pytest.raises(OSError, match="directory: nothing can be written there"):
        run(100, algorithm=algorithm, directory=place.replace("FILE", str(tmp_path / "FILE")), evaluate_every=None)
    assert not compiled


def test_a_disk_that_is_full_at_the_start_is_an_error_at_once(run, monkeypatch):
    from jaxpg.training import _files

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_files, "write_file", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        run(100)
    assert error.value.errno == errno.ENOSPC


def test_two_runs_do_not_share_a_directory(run, tmp_path):
    problems = []

    def second(block):
        try:
            run(100)
        except RuntimeError as error:
            problems.append(str(error))
        return True

    run(100, callback=second)
    assert len(problems) == 1 and f"process {os.getpid()}" in problems[0]
    run(100)  # The lock has gone.


# --- Errors -----------------------------------------------------------------------------------------------------------


def test_an_error_of_a_callback_loses_nothing(run, whole, tmp_path):
    def fail(block):
        if block["total_env_steps"][-1] > 100:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(400, callback=fail, checkpoint_every=10**6)
    assert int(names(tmp_path / "run")[-1]) > 5
    same_run(run(400), whole)


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"directory": 3}, TypeError, "directory"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every"),
        ({"keep_checkpoints": 0}, ValueError, "keep_checkpoints"),
        ({"nonfinite": "ignore"}, ValueError, "nonfinite"),
        ({"evaluate_every": 0}, ValueError, "evaluate_every"),
        ({"evaluate_every": 5, "evaluation_episodes": 0}, ValueError, "evaluation_episodes"),
        ({"evaluate_every": 5, "deterministic_evaluation": 1}, TypeError, "deterministic_evaluation"),
        ({"key": None}, TypeError, "key"),
        ({"loggers": print}, TypeError, "loggers"),
        ({"loggers": [print]}, TypeError, "loggers"),
    ],
)
def test_arguments_out_of_range(run, options, error, word):
    with pytest.raises(error, match=word):
        run(10, **options)


# --- Processes that end -----------------------------------------------------------------------------------------------


# Each process compiles for itself, as a user's does; none dies while it writes to the kept programs.
FRESH = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}


def start(directory, kind, budget, pause):
    return subprocess.Popen(
        [sys.executable, "tests/training_runs.py", str(directory), kind, str(budget), str(pause)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=FRESH,
    )  # fmt: skip


def result_of(directory, kind, budget):
    """The run as it stands in the directory, which is complete, and the same run in memory."""
    algorithm = {"tiny": tiny, "real": real}[kind]()
    options = {"num_env_steps": budget, "evaluate_every": 300, "evaluation_episodes": 4, "progress": False}
    calls = []
    finished = jaxpg.train(algorithm, jax.random.key(3), directory=directory, callback=calls.append, **options)
    assert not calls and finished.stopped == "budget"
    return finished, jaxpg.train(algorithm, jax.random.key(3), **options)


def kill_and_resume(directory, kind, budget, kills, pause, seed):
    """Kills the run `kills` times with SIGKILL, each time some while after it has come further, then lets it end."""
    chance, killed = random.Random(seed), 0
    while True:
        process = start(directory, kind, budget, pause)
        if killed < kills:
            assert process.stdout is not None
            for _ in range(chance.randint(1, 3)):
                process.stdout.readline()
            time.sleep(chance.random() * (0.15 + 2 * pause))
            if process.poll() is None:
                process.kill()
                killed += 1
                process.communicate()
                continue
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        if killed == kills or '"budget"' in output:
            return killed


@pytest.mark.slow
def test_killed_runs_end_as_if_they_had_not_been(tmp_path):
    assert kill_and_resume(tmp_path / "run", "tiny", 900, 2, 0.05, seed=0) == 2
    same_run(*result_of(tmp_path / "run", "tiny", 900))


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["tiny", "real"])
def test_runs_killed_at_twenty_random_moments_end_as_if_they_had_not_been(tmp_path, kind):
    """Also while a checkpoint is being written: one is due after every block or two."""
    budget = {"tiny": 6000, "real": 15_000}[kind]
    assert kill_and_resume(tmp_path / "run", kind, budget, 20, 0.02, seed=1) == 20
    same_run(*result_of(tmp_path / "run", kind, budget))


@pytest.mark.parametrize(("signum", "stopped"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")])
def test_signals_save_and_leave_cleanly(tmp_path, signum, stopped):
    process = start(tmp_path / "run", "tiny", 10**6, 0.05)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("at "):
        assert process.poll() is None
    process.send_signal(signum)
    if signum == signal.SIGTERM:  # Launchers send it twice: to the process and to its group.
        process.send_signal(signum)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    end = json.loads(output.splitlines()[-1])
    assert end["stopped"] == stopped
    loaded = jaxpg.load_checkpoint(tmp_path / "run", tiny())
    assert loaded.num_updates == end["updates"] > 0
