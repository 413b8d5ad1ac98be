"""`jaxpg.sweep`: the settings, the runs against single ones, the dataset, its files."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import xarray
from training_runs import same, tiny

import jaxpg
from jaxpg import sweeps
from jaxpg.sweeps import _memory, _store
from jaxpg.sweeps._dataset import labels
from jaxpg.sweeps._settings import settle
from jaxpg.sweeps.points import as_points
from jaxpg.training._files import locked

RATES = [0.01, 0.1, 1.0]


@pytest.fixture
def key():
    return jax.random.key(5)


def build(learning_rate=0.1, width=2, refused_at=None):
    return tiny(learning_rate=learning_rate, width=width, refused_at=refused_at)


def run(key, hyperparameters=None, builder=build, **changes):
    """A small sweep: 3 rates × 4 seeds of about 15 updates."""
    options = {"seeds": 4, "num_env_steps": 90, "progress": False, **changes}
    given = {"learning_rate": RATES} if hyperparameters is None else hyperparameters
    return jaxpg.sweep(builder, given, key=key, **options)


def without_time(runs):
    return runs.drop_vars("wall_time")


# --- Settings ---------------------------------------------------------------------------------------------------------


def test_a_grid_has_every_combination_in_order():
    points = sweeps.grid({"a": [1, 2], "b": ["x", "y", "z"]})
    assert points.settings == tuple({"a": a, "b": b} for a in (1, 2) for b in ("x", "y", "z"))
    assert points.dims == ("a", "b") and points.shape == (2, 3)
    assert as_points({}).settings == ({},) and as_points({}).shape == ()
    assert sweeps.grid({"a": np.array([0.5, 1.5])}).settings == ({"a": 0.5}, {"a": 1.5})


def test_samples_fill_their_ranges():
    ranges = {
        "rate": sweeps.log_uniform(1e-4, 1e-1), "clip": sweeps.uniform(-1.0, 3.0), "steps": sweeps.integers(2, 5),
        "kind": sweeps.choice(["a", "b"]),
    }  # fmt: skip
    for points in (sweeps.random(ranges, 512), sweeps.sobol(ranges, 512)):
        assert points.dims == ("sample",) and points.shape == (512,)
        rate, clip, steps = (np.array([s[name] for s in points.settings]) for name in ("rate", "clip", "steps"))
        kinds = [s["kind"] for s in points.settings]
        assert 1e-4 <= rate.min() < 1.2e-4 and 0.09 < rate.max() <= 0.1
        np.testing.assert_allclose(np.median(np.log10(rate)), -2.5, atol=0.25)
        assert -1 <= clip.min() < -0.9 and 2.9 < clip.max() <= 3
        assert np.bincount(steps, minlength=6)[2:].min() > 90 and set(steps.tolist()) == {2, 3, 4, 5}
        assert 200 < kinds.count("a") < 312
    # Every eighth of the range holds the same number of Sobol' points; of random ones it does not.
    counts = [
        np.histogram([s["clip"] for s in p.settings], 8, (-1, 3))[0] for p in (points, sweeps.random(ranges, 512))
    ]
    assert set(counts[0]) == {64} and set(counts[1]) != {64}
    assert sweeps.sobol(ranges, 5, seed=1) != sweeps.sobol(ranges, 5, seed=2)
    assert sweeps.sobol(ranges, 5) == sweeps.sobol(ranges, 5)
    assert len(sweeps.sobol(ranges, 1).settings) == 1


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: sweeps.grid([1, 2]), TypeError, "hyperparameters must be a mapping"),
        (lambda: sweeps.grid({"a": "abc"}), TypeError, "a must be a list of values; got str"),
        (lambda: sweeps.grid({"a": []}), ValueError, "a must have at least one value"),
        (lambda: sweeps.grid({"a": [1, 2, 1]}), ValueError, "a must have different values; got 1 more than once"),
        (lambda: sweeps.grid({"seed": [1]}), ValueError, "must not be called 'seed'"),
        (lambda: sweeps.grid({"a b": [1]}), TypeError, "names that can be arguments"),
        (lambda: sweeps.samples([]), ValueError, "at least one setting"),
        (lambda: sweeps.samples([{"a": 1}, {"b": 1}]), ValueError, "the same names"),
        (lambda: sweeps.random({"a": [1, 2]}, 3), TypeError, "ranges must map names to ranges"),
        (lambda: sweeps.random({"a": sweeps.uniform(0, 1)}, 0), ValueError, "num_samples must be"),
        (lambda: sweeps.uniform(2, 1), ValueError, "low must be below high; got low=2, high=1"),
        (lambda: sweeps.log_uniform(0, 1), ValueError, "low must be"),
        (lambda: sweeps.integers(3, 2), ValueError, "low must be below high"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_what_can_be_traced_is_found_by_trying():
    settings, _ = settle(build, as_points({"learning_rate": RATES, "width": [2, 3]}))
    assert settings.traced == ("learning_rate",) and list(settings.looped) == ["width"]
    assert [g.fixed for g in settings.groups] == [{"width": 2}, {"width": 3}]
    assert [g.points for g in settings.groups] == [(0, 2, 4), (1, 3, 5)]
    np.testing.assert_array_equal(settings.groups[1].traced["learning_rate"], np.float32(RATES))
    assert "traced, all values in one program: learning_rate" in settings.describe()
    assert "looped, a program for each value: width" in settings.describe()

    def choosy(learning_rate, name, width=2):
        return tiny(learning_rate=0.1 if learning_rate > 0.5 else learning_rate, name=name, width=width)

    settings, _ = settle(choosy, as_points({"learning_rate": RATES, "name": ["a", "b"], "width": [2]}))
    assert settings.traced == () and set(settings.looped) == {"learning_rate", "name"} and len(settings.groups) == 6
    assert settings.looped["name"] == "its values are not all numbers"


def test_what_is_traced_but_not_mapped_is_looped():
    """Settings of one program lie along a mapped axis: what refuses that is played value by value."""

    def build(learning_rate):
        number = jax.ShapeDtypeStruct((), np.float32)
        return tiny(learning_rate=jax.pure_callback(np.float32, number, learning_rate))

    settings, _ = settle(build, as_points({"learning_rate": RATES}))
    assert settings.traced == () and "vmap" in settings.looped["learning_rate"]


def test_one_that_can_only_be_traced_where_another_is_not():
    both, _ = settle(build, as_points({"width": [2, 3], "learning_rate": [0.1]}))
    assert both.traced == () and both.groups[0].fixed == {"width": 2, "learning_rate": 0.1}


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"builder": lambda learning_rate: 3}, TypeError, "build must give a jaxpg Algorithm; got int"),
        ({"builder": 3}, TypeError, "build must be a function"),
        ({"builder": lambda rate: tiny()}, TypeError, r"build\(learning_rate=0.01\):"),
        ({"seeds": 0}, ValueError, "seeds must be"),
        ({"seeds": []}, ValueError, "seeds must have at least one seed"),
        ({"seeds": [1, 1]}, ValueError, "seeds must be different"),
        ({"seeds": "all"}, TypeError, "seeds must be a number of seeds, or a list"),
        ({"num_env_steps": 0}, ValueError, "num_env_steps must be"),
        ({"runs_per_batch": 0}, ValueError, "runs_per_batch must be"),
        ({"mesh": 2}, TypeError, "mesh must be a jax.sharding.Mesh, 'auto'"),
        ({"nonfinite": "raise"}, ValueError, "nonfinite must be one of 'stop', 'skip'"),
        ({"return_params": 1}, TypeError, "return_params must be True or False"),
        ({"save_every": -1}, ValueError, "save_every must be"),
        ({"evaluate_every": -1}, ValueError, "evaluate_every must be"),
        ({"directory": 3}, TypeError, "directory must be the path of a folder"),
    ],
)
def test_wrong_arguments_are_refused(key, changes, error, message):
    with pytest.raises(error, match=message):
        run(key, **changes)


def test_every_value_is_checked_though_it_would_be_traced(key, bandit):
    env, policy = bandit
    with pytest.raises(ValueError, match=r"build\(discount=1.5\): discount must be a finite real number in \[0, 1\]"):
        run(key, {"discount": [0.5, 1.5]}, lambda discount: jaxpg.a2c(env, policy, discount=discount))


@pytest.fixture
def bandit():
    mdp = jaxpg.exact.FiniteMDP(np.ones((1, 2, 1)), np.array([[0.0, 1.0]]), np.ones(1), discount=0.9, horizon=3)
    env = mdp.environment()
    return env, jaxpg.policies.tabular(env)


# --- Runs -------------------------------------------------------------------------------------------------------------


def test_runs_are_those_of_train(key):
    """Each run has train's own episodes, updates and length; other runs end earlier and later."""
    runs, params = run(key, return_params=True, evaluate_every=30, evaluation_episodes=3)
    assert dict(runs.sizes) == {"seed": 4, "learning_rate": 3, "update": int(runs.num_updates.max())}
    assert len(np.unique(runs.num_updates)) > 1 and bool(runs.finished.all()) and not bool(runs.diverged.any())
    counts = runs.num_updates.values
    for seed, place in (*np.argwhere(counts == counts.min())[:1], *np.argwhere(counts == counts.max())[:1]):
        rate = RATES[place]
        single = jaxpg.train(
            build(rate), jax.random.fold_in(key, seed), num_env_steps=90, progress=False, evaluate_every=30,
            evaluation_episodes=3,
        )  # fmt: skip
        one = runs.isel(seed=seed, learning_rate=place)
        length = single.num_updates
        assert int(one.num_updates) == length
        np.testing.assert_array_equal(one.env_steps[:length], single.history["total_env_steps"])
        np.testing.assert_allclose(one.episode_return[:length], single.history["episode_return"], rtol=1e-6)
        assert bool(np.isnan(one.env_steps[length:]).all()) and bool(np.isnan(one.loss[length:]).all())
        evaluated = one.evaluation_return.dropna("update")
        np.testing.assert_array_equal(evaluated["update"], single.evaluations["update"])
        np.testing.assert_allclose(evaluated, single.evaluations["episode_return"], rtol=1e-6)
        np.testing.assert_allclose(
            one.evaluation_return_error.dropna("update"), single.evaluations["episode_return_error"], rtol=1e-5
        )
        mine = params(seed=int(seed), learning_rate=rate)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), mine, single.params)
    stacked = params.stacked()
    assert stacked["logits"].shape == (4, 3, 2)
    np.testing.assert_array_equal(stacked["logits"][3, 1], params(seed=3, learning_rate=0.1)["logits"])


@pytest.mark.parametrize("size", [1, 5, 7])
def test_batches_change_nothing(key, size):
    together, batched = run(key), run(key, runs_per_batch=size)
    assert without_time(together).identical(without_time(batched))
    assert bool((batched.wall_time.diff("update") > 0).where(batched.wall_time.notnull()[..., 1:], True).all())


def test_seeds_alone_and_chosen_seeds(key):
    all_seeds, some = run(key, {}), run(key, {}, seeds=[3, 1])
    assert dict(all_seeds.sizes).keys() == {"seed", "update"}
    assert some.seed.values.tolist() == [3, 1]
    np.testing.assert_array_equal(
        some.episode_return, all_seeds.episode_return.sel(seed=[3, 1])[:, : some.sizes["update"]]
    )


def test_samples_are_coordinates_along_one_dimension(key):
    ranges = {"learning_rate": sweeps.log_uniform(0.01, 1), "width": sweeps.choice([2, 3])}
    points = sweeps.sobol(ranges, 4)
    runs, params = run(key, points, seeds=2, return_params=True)
    assert dict(runs.sizes).keys() == {"seed", "sample", "update"}
    assert runs.learning_rate.dims == ("sample",) and runs.width.values.tolist() == [
        s["width"] for s in points.settings
    ]
    setting = points.settings[2]
    grid = run(key, {name: [value] for name, value in setting.items()}, seeds=2)
    length = grid.sizes["update"]
    np.testing.assert_allclose(runs.loss[:, 2, :length], grid.loss[:, 0, 0], rtol=1e-5)
    assert params(seed=1, sample=2)["logits"].shape == (setting["width"],)
    with pytest.raises(ValueError, match="different shapes"):
        params.stacked()
    with pytest.raises(ValueError, match="give sample=0 … 3"):
        params(seed=1, learning_rate=0.1)
    with pytest.raises(ValueError, match=r"seed must be one of \[0, 1\]; got 7"):
        params(seed=7, sample=0)


def test_values_that_are_no_numbers_are_named(key):
    def maker(name):
        return lambda: name

    first, second = maker("one"), maker("two")
    first.__name__, second.__name__ = "first", "second"
    runs = run(key, {"make": [first, second], "flag": [True]}, lambda make, flag: tiny(name=make()), seeds=1)
    assert runs.make.values.tolist() == ["first", "second"] and runs.flag.dtype == bool
    assert labels([None, 2]).tolist() == ["None", "2"] and labels([0.5, 2]).tolist() == [0.5, 2.0]
    second.__name__ = "first"
    assert labels([first, second]).tolist() == ["first (0)", "first (1)"]


@pytest.mark.parametrize("how", ["stop", "skip"])
def test_a_run_that_diverges_leaves_the_others_alone(key, how):
    healthy = run(key, {"refused_at": [10**6, 10**7]})
    runs = run(key, {"refused_at": [10**6, 4]}, nonfinite=how)
    well = runs.isel(refused_at=0)
    for name in ("episode_return", "loss", "env_steps"):
        np.testing.assert_array_equal(well[name][:, : healthy.sizes["update"]], healthy[name].isel(refused_at=0))
    ill = runs.sel(refused_at=4)
    assert not bool(well.diverged.any()) and bool(ill.diverged.all()) == (how == "stop")
    assert bool((ill.nonfinite.sel(update=4) == 1).all())
    if how == "stop":
        assert bool((ill.num_updates == 4).all()) and bool(np.isnan(ill.env_steps.sel(update=slice(5, None))).all())
    else:
        assert bool((ill.env_steps.max("update") >= 90).all())


def test_parameters_that_are_not_finite_end_a_run_whatever_is_asked(key):
    def wild(offset):
        algorithm = tiny(wild=True)
        return algorithm

    runs = run(key, {"offset": [0.0]}, wild, nonfinite="skip")
    assert bool(runs.diverged.all()) and bool((runs.num_updates == 3).all())


@pytest.mark.slow
def test_one_update_of_real_algorithms_is_that_of_a_single_run(bandit):
    """From the same state, 1e-5 relative: vmapped, batched and alone."""
    env, policy = bandit
    maker = lambda discount, learning_rate: jaxpg.a2c(  # noqa: E731
        env, policy, num_envs=4, num_steps=6, discount=discount, learning_rate=learning_rate
    )
    axes = {"discount": [0.9, 0.99], "learning_rate": [1e-2, 1e-1]}
    runs, params = jaxpg.sweep(
        maker, axes, seeds=2, key=jax.random.key(1), num_env_steps=1, return_params=True, progress=False
    )
    assert json.loads(runs.attrs["traced"]) == ["discount", "learning_rate"]
    for discount in axes["discount"]:
        for rate in axes["learning_rate"]:
            algorithm = maker(discount, rate)
            state = jax.jit(algorithm.init)(jax.random.fold_in(jax.random.key(1), 1))
            state, metrics = jax.jit(algorithm.step)(state)
            one = runs.sel(seed=1, discount=discount, learning_rate=rate, update=1)
            for name in ("policy_loss", "value_loss", "gradient_norm", "entropy"):
                np.testing.assert_allclose(one[name], metrics[name], rtol=1e-5, atol=1e-7)
            mine = params(seed=1, discount=discount, learning_rate=rate)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), mine, state.params)


@pytest.mark.slow
def test_keys_may_be_given_and_updates_of_whole_episodes_end_each_run_by_itself():
    env = jaxpg.make("CartPole-v1", max_steps=60)
    algorithm = jaxpg.reinforce(
        env, jaxpg.policies.mlp(env, (8,)), jaxpg.policies.value_mlp(env, (8,)), num_episodes=4, critic_steps=2
    )
    keys = jax.random.split(jax.random.key(0), 3)
    runs, params = jaxpg.sweep(
        lambda: algorithm, {}, seeds=3, key=keys, num_env_steps=700, return_params=True, progress=False
    )
    numbers = runs.num_updates.values
    assert len(set(numbers)) > 1  # Some had to wait for others.
    for seed in (int(np.argmin(numbers)), int(np.argmax(numbers))):
        state, step = algorithm.init(keys[seed]), jax.jit(algorithm.step)
        one, taken = runs.isel(seed=seed), 0
        for update in range(numbers[seed]):
            assert taken < 700
            state, metrics = step(state)
            taken += int(metrics["env_steps"])
            assert taken == one.env_steps[update]
            np.testing.assert_allclose(metrics["episode_return"], one.episode_return[update], rtol=1e-6)
        assert taken >= 700
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state.params, params(seed=seed)
        )
    with pytest.raises(ValueError, match="one for each of the 2 seeds; got 3"):
        jaxpg.sweep(lambda: algorithm, {}, seeds=2, key=keys, num_env_steps=700)


# --- Memory -----------------------------------------------------------------------------------------------------------


def test_runs_that_do_not_fit_are_batched(key, monkeypatch):
    compiled = []
    real = _memory._compile

    def counted(program, traced, key, num_runs, evaluates):
        compiled.append(num_runs)
        return real(program, traced, key, num_runs, evaluates)._replace(bytes_per_device=100 * num_runs)

    monkeypatch.setattr(_memory, "_compile", counted)
    monkeypatch.setattr(_memory, "available_bytes", lambda: 600 / _memory.SHARE)
    runs = run(key)
    # 12 do not fit, nor would 6 with a margin of a tenth: 5 do, and three batches of 4 need no filling.
    assert compiled == [12, 5, 4]
    monkeypatch.undo()
    assert without_time(runs).identical(without_time(run(key)))


def test_a_plan_tells_what_a_sweep_takes(key, capsys):
    plan = jaxpg.plan(build, {"learning_rate": RATES, "width": [2, 40]}, seeds=4, key=key, num_env_steps=90,
                      runs_per_batch=8)  # fmt: skip
    printed = capsys.readouterr().out
    assert printed.strip() == str(plan)
    assert plan.num_compiles == 2 and [p.fixed for p in plan.parts] == [{"width": 2}, {"width": 40}]
    assert [(p.num_runs, p.runs_per_batch, p.num_batches) for p in plan.parts] == [(12, 6, 2), (12, 6, 2)]
    assert plan.parts[1].bytes_per_device > plan.parts[0].bytes_per_device > 100
    assert all(10 <= p.num_updates <= 30 and p.update_seconds > 0 for p in plan.parts)
    assert plan.seconds >= sum(p.compile_seconds for p in plan.parts) > 0
    assert (
        "24 runs = 3 learning_rate × 2 width × 4 seeds" in printed and "width=40: 12 runs in 2 batches of 6" in printed
    )


# --- Files ------------------------------------------------------------------------------------------------------------


def test_a_finished_sweep_is_read_not_played(key, tmp_path, monkeypatch):
    runs, params = run(key, directory=tmp_path / "s", return_params=True, evaluate_every=40, evaluation_episodes=2)
    monkeypatch.setattr(_memory, "_compile", None)  # Nothing is compiled again.
    again, other = run(key, directory=tmp_path / "s", return_params=True, evaluate_every=40, evaluation_episodes=2)
    assert runs.identical(again)
    same(params.stacked(), other.stacked())
    with xarray.open_dataset(tmp_path / "s" / "runs.nc") as kept:
        assert kept.identical(runs)
    assert json.loads(runs.attrs["versions"])["jax"] == jax.__version__ and runs.attrs["algorithm"] == "tiny"


def test_an_interrupted_sweep_goes_on_and_ends_the_same(key, tmp_path, monkeypatch):
    whole = run(key, runs_per_batch=4)
    seen = []
    real = _store.SweepStore.save_playing

    def interrupted(self, job, pending, position):
        real(self, job, pending, position)
        seen.append(int(position.num_updates.sum()))
        if len(seen) in (3, 9):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(_store.SweepStore, "save_playing", interrupted)
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="the sweep was interrupted by signal 2: .* runs are finished"):
            part = run(key, runs_per_batch=4, directory=tmp_path, save_every=0)
        assert part.attrs["stopped"] == "interrupted" and not bool(part.finished.all())
        done = part.finished.values
        for name in ("episode_return", "env_steps"):
            np.testing.assert_array_equal(
                part[name].values[done], whole[name][..., : part.sizes["update"]].values[done]
            )
    runs = run(key, runs_per_batch=4, directory=tmp_path, save_every=0)
    assert without_time(runs).identical(without_time(whole))
    assert not list((tmp_path / "playing").iterdir())


@pytest.mark.slow
def test_a_sweep_grows_and_keeps_what_is_finished(key, tmp_path, monkeypatch):
    run(key, {"learning_rate": [0.1]}, seeds=2, directory=tmp_path)
    played = []
    real = _store.SweepStore.save_finished
    monkeypatch.setattr(
        _store.SweepStore, "save_finished", lambda self, job, runs, results: (
            played.extend(job.run_of(s, p) for _, s, p in runs), real(self, job, runs, results))[1],
    )  # fmt: skip
    grown = run(key, directory=tmp_path)
    assert len(played) == 10 and ('{"learning_rate": 0.1}', 0) not in played
    # Runs of another batch are the same up to rounding.
    np.testing.assert_array_equal(grown.env_steps, run(key).env_steps)
    np.testing.assert_allclose(grown.loss, run(key).loss, rtol=1e-5)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_env_steps": 100}, "num_env_steps: 90 in the checkpoint, 100 now"),
        ({"key": jax.random.key(6)}, "key.words"),
        ({"nonfinite": "skip"}, "nonfinite: 'stop' in the checkpoint, 'skip' now"),
        ({"builder": lambda learning_rate: tiny(config={"rate": 0.2})}, "config.rate: 0.1 in the checkpoint, 0.2 now"),
        ({"builder": lambda learning_rate: tiny(name="other")}, "algorithm: 'tiny' in the checkpoint, 'other' now"),
    ],
)
def test_another_sweep_is_refused(key, tmp_path, changes, message):
    run(key, seeds=1, directory=tmp_path)
    with pytest.raises(ValueError, match=message):
        run(**{"key": key, "seeds": 1, "directory": tmp_path, **changes})


def test_damaged_files_are_named_and_their_runs_played_again(key, tmp_path):
    whole = run(key, runs_per_batch=6, directory=tmp_path)
    file = next(path for path in (tmp_path / "finished" / "00000000").rglob("*") if path.stat().st_size > 500)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.warns(
        RuntimeWarning, match="finished/00000000 is damaged: .*00000000.damaged, and its runs are played"
    ):
        runs = run(key, runs_per_batch=6, directory=tmp_path)
    assert without_time(runs).identical(without_time(whole))


def test_results_are_not_lost_where_they_cannot_be_written(key, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_store.checkpoints, "write_arrays", full)
    with pytest.warns(RuntimeWarning, match="finished runs could not be written .*No space left"):
        runs = run(key, directory=tmp_path)
    assert without_time(runs).identical(without_time(run(key)))


def test_one_sweep_at_a_time(key, tmp_path):
    run(key, seeds=1, directory=tmp_path)
    with locked(tmp_path):
        with pytest.raises(RuntimeError, match="another run is writing"):
            run(key, seeds=1, directory=tmp_path)


# --- What a review had found ------------------------------------------------------------------------------------------


def test_integers_are_traced_as_floats(key):
    """10 ** −2 is 0.01, not 0 as in arithmetic of 32-bit integers; what overflows there is looped."""
    runs = run(key, {"power": [-2, -1]}, lambda power: tiny(learning_rate=10**power), seeds=1)
    floats = run(key, {"rate": [0.01, 0.1]}, lambda rate: tiny(learning_rate=rate), seeds=1)
    assert json.loads(runs.attrs["traced"]) == ["power"] and runs.power.values.tolist() == [-2, -1]
    np.testing.assert_allclose(runs.loss.values, floats.loss.values, rtol=1e-5)
    _, params = run(key, {"power": [-2, -1]}, lambda power: tiny(learning_rate=10**power), seeds=1, return_params=True)
    assert np.abs(params(seed=0, power=-2)["logits"]).max() > 1e-3
    settings, _ = settle(lambda n: tiny(learning_rate=n * 1e-9), as_points({"n": [2**24 + 1, 2**31]}))
    assert settings.traced == () and "16,777,216" in settings.looped["n"]


def test_values_of_one_name_are_not_exchanged(key, tmp_path):
    one, other = (lambda: 1e-3), (lambda: 1.0)
    maker = lambda rate: tiny(learning_rate=rate())  # noqa: E731
    runs, params = run(key, {"rate": [one, other]}, maker, seeds=1, return_params=True)
    assert runs.rate.values.tolist() == ["<lambda> (0)", "<lambda> (1)"]
    sizes = [np.abs(params(seed=0, rate=value)["logits"]).max() for value in (one, other, "<lambda> (1)")]
    assert sizes[1] > 100 * sizes[0] and sizes[1] == sizes[2]
    with pytest.raises(ValueError, match="directory: two settings are both called"):
        run(key, {"rate": [one, other]}, maker, seeds=1, directory=tmp_path)


def test_parameters_are_found_by_what_the_dataset_says(key):
    runs, params = run(key, return_params=True, seeds=1)
    expected = params(seed=0, learning_rate=0.1)
    for value in (runs.learning_rate[1], np.float32(0.1), runs.learning_rate.values[1]):
        same(params(seed=runs.seed[0], learning_rate=value), expected)
    with pytest.raises(ValueError, match=r"learning_rate must be one of \[0.01, 0.1, 1.0\]; got 0.2"):
        params(seed=0, learning_rate=0.2)


def test_keys_of_seeds_may_grow_and_not_change(key, tmp_path):
    keys = jax.random.split(key, 3)
    first = run(keys[:2], {}, seeds=2, directory=tmp_path)
    grown = run(keys, {}, seeds=3, directory=tmp_path)
    np.testing.assert_array_equal(grown.env_steps[:2, : first.sizes["update"]], first.env_steps)
    with pytest.raises(ValueError, match="keys.1.words"):
        run(keys[:2], {}, seeds=[1, 0], directory=tmp_path)
    legacy = run(jax.random.key_data(keys), {}, seeds=3)
    np.testing.assert_array_equal(legacy.env_steps, grown.env_steps)


def test_a_hyperparameter_with_the_name_of_a_metric(key):
    runs = run(key, {"loss": [0.1, 0.2]}, lambda loss: tiny(learning_rate=loss), seeds=1)
    assert runs.loss.dims == ("loss",) and runs.loss_measured.dims == ("seed", "loss", "update")
    with pytest.raises(ValueError, match="must not be called 'env_steps'"):
        run(key, {"env_steps": [1]}, lambda env_steps: tiny())


def test_optimisers_are_named_and_found_again(key, tmp_path):
    import optax

    assert labels([optax.adam(1e-3)]).tolist() == ["GradientTransformationExtraArgs"]
    assert labels([(64, "a"), (64, 64)]).tolist() == ["(64, a)", "(64, 64)"]
    points = sweeps.samples([{"sizes": (64, 64), "rate": r} for r in (0.1, 0.2)] + [{"sizes": (32,), "rate": 0.1}])
    settings, _ = settle(lambda sizes, rate: tiny(learning_rate=rate), points)
    assert settings.traced == ("rate",) and len(settings.groups) == 2


@pytest.mark.slow
def test_tracing_is_tried_with_every_other_value(key):
    def build(kind, n):
        return tiny(learning_rate=0.1 * (int(n) if kind == "b" else n))

    runs = run(key, {"kind": ["a", "b"], "n": [2, 3]}, build, seeds=1)
    assert json.loads(runs.attrs["traced"]) == [] and bool(runs.finished.all())


def test_states_that_change_their_dtypes_are_not_traced(key):
    import jax.numpy as jnp

    def build(rate):
        base = tiny()

        def step(state):
            after, metrics = base.step(state)
            return after._replace(lanes={**after.lanes, "half": state.lanes["half"] * rate}), metrics

        return jaxpg.Algorithm(init=base.init, step=step, env=base.env, policy=base.policy)

    assert tiny().init(key).lanes["half"].dtype == jnp.bfloat16
    runs = run(key, {"rate": [0.5, 0.25]}, build, seeds=1)
    assert "changes the dtypes" in json.loads(runs.attrs["looped"])["rate"]


def test_a_write_that_failed_is_tried_again(key, tmp_path, monkeypatch):
    real, calls = _store.checkpoints.write_arrays, []

    def once(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(_store.checkpoints, "write_arrays", once)
    with pytest.warns(RuntimeWarning, match="No space left"):
        run(key, runs_per_batch=3, directory=tmp_path)
    assert len(list((tmp_path / "finished").iterdir())) == 4


def test_an_error_leaves_what_is_finished(key):
    def build(width):
        algorithm = tiny(width=width)
        if width == 2:
            return algorithm
        return jaxpg.Algorithm(
            init=algorithm.init, step=lambda state: 1 / 0, env=algorithm.env, policy=algorithm.policy
        )

    with pytest.raises(ZeroDivisionError) as caught:
        run(key, {"width": [2, 3]}, build)
    assert caught.value.runs.finished.values.tolist() == [[True, False]] * 4


def test_numbers_of_numpy_are_taken(key):
    runs = run(key, seeds=np.array([2, 1]), evaluate_every=40, evaluation_episodes=np.int64(2),
               deterministic_evaluation=np.bool_(False))  # fmt: skip
    assert runs.seed.values.tolist() == [2, 1] and runs.attrs["evaluation_episodes"] == 2
    for wrong, message in (({"a": np.array(0.1)}, "a must be a list of values"), ({"a": "x"}, "a must be a list")):
        with pytest.raises(TypeError, match=message):
            sweeps.grid(wrong)
    assert run(key, {}, seeds=np.int64(1), num_env_steps=9).sizes["seed"] == 1


@pytest.mark.slow
def test_a_smaller_batch_may_be_asked_for_when_going_on(key, tmp_path, monkeypatch):
    whole, real, seen = run(key), _store.SweepStore.save_playing, []

    def interrupted(self, job, pending, position):
        real(self, job, pending, position)
        seen.append(pending.compiled.num_runs)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(_store.SweepStore, "save_playing", interrupted)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        run(key, directory=tmp_path, save_every=0, evaluate_every=30, evaluation_episodes=2)
    first = len(seen)
    runs = run(key, directory=tmp_path, save_every=0, runs_per_batch=5, evaluate_every=30, evaluation_episodes=2)
    assert set(seen[:first]) == {12} and set(seen[first:]) == {4}
    for name in ("env_steps", "loss", "episode_return"):
        np.testing.assert_allclose(runs[name], whole[name], rtol=1e-5)
    assert bool((runs.evaluation_return.notnull().sum("update") >= 3).all())


def test_a_directory_holds_a_run_or_a_sweep(key, tmp_path):
    jaxpg.train(tiny(), key, num_env_steps=9, directory=tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="holds a run of train"):
        run(key, directory=tmp_path / "run")
    run(key, {}, seeds=1, num_env_steps=9, directory=tmp_path / "sweep")
    with pytest.raises(ValueError, match="holds a sweep"):
        jaxpg.train(tiny(), key, num_env_steps=9, directory=tmp_path / "sweep", progress=False)
    (tmp_path / "sweep" / "sweep.json").write_text("")
    with pytest.raises(ValueError, match="sweep.json is damaged"):
        run(key, {}, seeds=1, num_env_steps=9, directory=tmp_path / "sweep")


KILLED = """
import sys, time, jax, jaxpg
from jaxpg.sweeps import _batch
from training_runs import tiny
_batch.MAX_BLOCK = 8
real = _batch.Batch._play_block
def slow(self, *rest):
    time.sleep(0.05)
    return real(self, *rest)
_batch.Batch._play_block = slow
runs = jaxpg.sweep(lambda learning_rate: tiny(learning_rate=learning_rate), {"learning_rate": [0.01, 0.1, 1.0]},
                   seeds=4, key=jax.random.key(5), num_env_steps=900, runs_per_batch=4, directory=sys.argv[1],
                   save_every=0, progress=False)
"""


@pytest.mark.slow
def test_a_sweep_that_is_killed_five_times_ends_with_the_same_dataset(key, tmp_path):
    whole = run(key, num_env_steps=900, runs_per_batch=4)
    chance, killed = np.random.default_rng(0), 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
        )
        if killed < 5:
            before = sorted(tmp_path.glob("*/*"))
            while sorted(tmp_path.glob("*/*")) == before and process.poll() is None:
                time.sleep(0.02)
            time.sleep(chance.random())
            if process.poll() is None:
                process.kill()
                killed += 1
                process.wait()
                continue
        assert process.wait(120) == 0
        break
    assert killed == 5
    with xarray.open_dataset(tmp_path / "runs.nc") as runs:
        assert without_time(runs).identical(without_time(whole))
    assert runs.sizes["update"] > 100


def test_an_update_is_traced_once_for_its_metrics_and_the_loop():
    from jaxpg.sweeps._program import Program

    calls, algorithm = [], tiny()

    def step(state):
        calls.append(state)
        return algorithm.step(state)

    counted = dataclasses.replace(algorithm, step=step)
    program = Program(build=lambda traced: counted, mesh=None, num_episodes=1, deterministic=False, halt=False)
    states = jax.eval_shape(program.init, {}, jax.random.split(jax.random.key(0), 3))
    left, most = jax.ShapeDtypeStruct((3,), np.int32), jax.ShapeDtypeStruct((), np.int32)
    jax.eval_shape(program.block, {}, states, left, most)
    assert len(calls) == 1
