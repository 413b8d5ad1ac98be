"""The benchmarks compare like with like: every rival computes the gradient that jaxpg computes."""

import itertools
import json
import math
import pathlib
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from benchmarks import __main__ as runner
from benchmarks import common, floor, rivals, suites
from jaxpg.rollout import Trajectory


def norm(tree):
    return float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree))))


def relative_distance(tree, other):
    return norm(jax.tree.map(jnp.subtract, tree, other)) / norm(other)


def as_trajectory(problem, steps, num_rows=None):
    """[step, episode] `Steps` as jaxpg stores them."""
    limit, lanes = steps.reward.shape
    rows = jnp.arange(limit)[:, None]
    alive = steps.alive & (rows < (limit if num_rows is None else num_rows))
    following = jnp.append(alive[1:], jnp.zeros((1, lanes), bool), axis=0)
    return Trajectory(
        observation=steps.observation, action=steps.action, log_prob=None, reward=steps.reward,
        terminated=alive & ~following, truncated=jnp.zeros_like(alive), value=None, carry=None,
        episode=jnp.broadcast_to(jnp.arange(lanes), alive.shape), time=jnp.broadcast_to(rows, alive.shape), valid=alive,
    )  # fmt: skip


@pytest.fixture(scope="module")
def params():
    # A policy with preferences: large weights in the last layer.
    params = rivals.cartpole(1, 1, (8, 8)).policy.init(jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), params)


@pytest.mark.slow
@pytest.mark.parametrize("full_length", [False, True])
def test_idiomatic_gradient_is_jaxpg_s_on_the_same_steps(params, full_length, key):
    problem = rivals.cartpole(24, 20, (8, 8), full_length)
    steps = jax.jit(lambda key, params: rivals.play_each(problem, key, params))(key, params)
    stored = as_trajectory(problem, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), steps))
    expected = jaxpg.gradient_from(stored, problem.policy, params, jaxpg.weights.reward_to_go(discount=0.99))
    result = jax.jit(rivals.idiomatic(problem))(key, params)
    assert relative_distance(result.gradient, expected.gradient) < 1e-5
    assert int(result.num_steps) == int(expected.num_steps)
    assert float(result.utilization) == pytest.approx(int(expected.num_steps) / (24 * 20))
    assert full_length == (int(result.num_steps) == 24 * 20)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, limit, full_length", [("masked", 120, False), ("early_exit_batches", 120, False), ("masked", 10, True)]
)
def test_batched_gradient_is_jaxpg_s_on_the_same_steps(params, name, limit, full_length, key):
    problem = rivals.cartpole(24, limit, (8, 8), full_length)
    lanes, stop_early = 8, name == "early_exit_batches"
    buffer = rivals.empty_buffer(problem, lanes, key, params)
    play = jax.jit(lambda key, params: rivals.play(problem, key, params, buffer, stop_early))
    gradients, num_steps, num_rows = [], 0, 0
    for index in range(3):
        steps, rows = play(jax.random.fold_in(key, index), params)
        stored = as_trajectory(problem, steps, rows)
        estimate = jaxpg.gradient_from(stored, problem.policy, params, jaxpg.weights.reward_to_go(discount=0.99))
        gradients.append(estimate.gradient)
        num_steps += int(estimate.num_steps)
        num_rows += int(rows)
    expected = jax.tree.map(lambda *g: sum(g) / 3, *gradients)

    result = jax.jit(rivals.RIVALS[name](problem, lanes=lanes, block=4))(key, params)
    assert relative_distance(result.gradient, expected) < 1e-5
    assert int(result.num_steps) == num_steps
    assert float(result.utilization) == pytest.approx(num_steps / (num_rows * lanes))
    assert (num_rows < 3 * limit) == stop_early
    assert (num_steps == 24 * limit) == full_length


@pytest.mark.slow
@pytest.mark.parametrize("full_length", [False, True])
def test_all_contenders_estimate_the_same(params, full_length):
    """Independent samples of 4,096 episodes differ as much as their standard errors say."""
    problem = rivals.cartpole(4096, 30, (8, 8), full_length)
    gradient = jaxpg.policy_gradient(problem.env, problem.policy, num_episodes=problem.num_episodes)
    packed = jax.jit(gradient)(jax.random.key(0), params)
    for name, rival in rivals.RIVALS.items():
        result = jax.jit(rival(problem))(jax.random.key(1), params)
        difference = norm(jax.tree.map(jnp.subtract, result.gradient, packed.gradient))
        assert 0.1 < difference / np.sqrt(2 * packed.trace) < 2.5, name
        if full_length:
            assert int(result.num_steps) == int(packed.num_steps) == 4096 * 30
        else:  # Every reward is 1: the spread of the returns is about that of the lengths.
            length, error = float(packed.episode_length), float(packed.objective_error)
            assert abs(int(result.num_steps) / 4096 - length) < 5 * np.sqrt(2) * error, name


def test_full_length_cartpole_is_cartpole_until_the_pole_falls(key):
    ordinary, endless = (rivals.cartpole(1, 300, (8,), full_length).env for full_length in (False, True))
    (state, observation), (endless_state, endless_observation) = ordinary.reset(key), endless.reset(key)
    np.testing.assert_array_equal(observation, endless_observation)
    step, endless_step = jax.jit(ordinary.step), jax.jit(endless.step)
    fell = False
    for t in range(300):  # Always to the right: falls within about ten steps and spins from then on.
        state, timestep = step(key, state, 1)
        endless_state, endless_timestep = endless_step(key, endless_state, 1)
        if not fell:
            np.testing.assert_allclose(timestep.observation, endless_timestep.observation, rtol=1e-6)
        fell |= bool(timestep.terminated)
        assert np.isfinite(endless_timestep.observation).all()
        assert not endless_timestep.terminated
        assert bool(endless_timestep.truncated) == (t == 299)
    assert fell


def test_candidates_divide_what_they_split():
    for name, num_episodes in itertools.product(rivals.TUNABLE, (1, 7, 96, 4096)):
        for backend in ("cpu", "gpu"):
            found = rivals.candidates(name, num_episodes, backend)
            assert found and len({tuple(pair.values()) for pair in found}) == len(found)
            assert all(num_episodes % pair["lanes"] == 0 == pair["lanes"] % pair["block"] for pair in found)
    with pytest.raises(ValueError, match="lanes must divide 24 episodes"):
        rivals.masked(rivals.cartpole(24, 20, (8,)), lanes=7)


def test_operations_of_a_step():
    params = rivals.cartpole(1, 1, (64, 64)).policy.init(jax.random.key(0))
    weights, first = 4 * 64 + 64 * 64 + 64 * 2, 4 * 64
    assert floor.operations_per_step(params) == (8 * weights - 2 * first, 2 * 128)
    params = rivals.cartpole(1, 1, ()).policy.init(jax.random.key(0))
    assert floor.operations_per_step(params) == (6 * 8, 0)


def test_rates_count_the_operations_done():
    rates = floor.Rates(rows=64, width=8, large=64, seconds=0.002)
    run, start = rates._compiled["layer"]
    final_x, _, final_gradient = (leaf[0] for leaf in run(3, start))
    x, weights, gradient = (leaf[0] for leaf in start)
    for _ in range(3):
        gradient = gradient + x.T @ (x @ weights)
        x = jnp.flip(x @ weights, axis=1) @ weights.T
    np.testing.assert_allclose(final_x, x, atol=1e-4)
    np.testing.assert_allclose(final_gradient, gradient, atol=1e-2)
    assert all(np.isfinite(rate) and rate > 0 for rate in rates.measure().values())


def test_spread_and_ratios():
    assert common.spread([3.0, 1.0, 2.0, 5.0, 4.0]) == {
        "median": 3.0, "min": 1.0, "max": 5.0, "quartiles": [2.0, 4.0], "interquartile_range": 2.0
    }  # fmt: skip
    assert common.spread([7.0])["quartiles"] == [7.0, 7.0]
    ratio = common.ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0])
    assert common.ratio_text(ratio) == "2.00 (1.00 to 3.00)"


def test_a_process_answers_passes_errors_on_and_its_end_is_noticed():
    process = common.Process("third", Fraction, 314, 100)
    try:
        assert process.ask("limit_denominator", 10) == Fraction(22, 7)
        with pytest.raises(RuntimeError, match=r"(?s)failed in the process of third.*max_denominator"):
            process.ask("limit_denominator", 0)
        process._process.kill()
        with pytest.raises(RuntimeError, match="process of third ended in limit_denominator with exit status -9"):
            process.ask("limit_denominator", 10)
    finally:
        process.close()


def test_the_runner_finds_the_scripts_and_their_questions(capsys, monkeypatch):
    found = runner.scripts()
    assert {"gradient", "import_time", "segments", "vmap"} <= set(found)
    assert not {"common", "rivals", "floor", "__main__"} & set(found)
    assert all("?" in question for question, _ in found.values())
    assert runner.main(["--list"]) == 0
    assert found["gradient"][0] in capsys.readouterr().out

    ran = []
    monkeypatch.setattr(runner, "run", lambda name, arguments: ran.append((name, arguments)) or int(name == "vmap"))
    assert runner.main([]) == 1
    assert ("gradient", ["--quick"]) in ran and {name for name, _ in ran} == set(found)
    assert "failed: vmap" in capsys.readouterr().err
    ran.clear()
    assert runner.main(["gradient", "--rounds", "3"]) == 0 and ran == [("gradient", ["--rounds", "3"])]
    assert runner.main(["gradiant"]) == 2
    assert "did you mean 'gradient'" in capsys.readouterr().err


def check_gradient_result(result, contenders, rounds):
    assert result["question"].endswith("?") and result["machine"]["cores"] >= 1
    workload = result["workloads"]["untrained"]
    assert list(workload["contenders"]) == contenders
    for facts in workload["contenders"].values():
        assert len(facts["seconds"]["rounds"]) == rounds and facts["seconds"]["min"] > 0
        assert 0 < facts["utilization"] <= 1 and facts["memory"]["total"] > 0
        assert np.isfinite(facts["distance"]) and facts["distance"] < 5
        assert all(np.isfinite(times) for times in facts["times_the_floor"].values())
    assert set(workload["ratios"]["packed"]) == set(contenders) - {"packed"}


@pytest.mark.slow
def test_gradient_benchmark_in_one_process(tmp_path, capsys):
    from benchmarks import gradient

    out = tmp_path / "new" / "gradient.json"
    sizes = "--num-episodes 32 --limit 10 --hidden 4 --rounds 2 --workloads untrained".split()
    contenders = ["--contenders", "packed", "packed_per_core", "early_exit"]
    gradient.main(["--one-process", "--no-tune", *sizes, *contenders, "--out", str(out)])
    check_gradient_result(json.loads(out.read_text()), ["packed", "early_exit"], 2)
    assert "early_exit / packed" in capsys.readouterr().out


def test_torch_competes_where_there_is_a_python_for_it(monkeypatch):
    from benchmarks import check, gradient, peers

    played = []

    def compete(settings, contenders, rounds, tune, one_process, torch_python):
        played.append(("torch" in contenders, torch_python))
        return {"device": "none"}

    monkeypatch.setattr(gradient, "compete", compete)
    monkeypatch.setattr(gradient, "backend_of_this_machine", lambda: "cpu")
    for name in ("summarize", "report"):
        monkeypatch.setattr(gradient, name, lambda *_: None)
    monkeypatch.setattr(gradient.common, "write_json", lambda *_: None)
    monkeypatch.setattr(peers, "_made", lambda group: f"made for {group}")
    one = ["--workloads", "untrained"]
    for arguments in (one, [*one, "--quick"], [*one, "--quick", "--gym-python", "mine"], [*one, "--no-peers"],
                      [*one, "--contenders", "packed"], check.ARGUMENTS["gradient"]):  # fmt: skip
        gradient.main(arguments)
    made = (True, "made for torch")
    assert played == [made, (False, None), (True, "mine"), (False, None), (False, None), made, made]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_gradient_benchmark_in_processes(tmp_path):
    out = tmp_path / "gradient.json"
    contenders = ["packed", "packed_per_core", "early_exit"]
    arguments = ["--num-episodes", "32", "--limit", "10", "--rounds", "2", "--workloads", "untrained"]
    status = runner.run("gradient", [*arguments, "--contenders", *contenders, "--out", str(out)])
    assert status == 0
    result = json.loads(out.read_text())
    check_gradient_result(result, contenders, 2)
    workload = result["workloads"]["untrained"]
    assert set(workload["rates"]) == {"one_device", "per_core"}
    best = workload["tuning"]["early_exit"][0]
    assert workload["contenders"]["early_exit"]["options"] == {"lanes": best["lanes"], "block": best["block"]}
    # The same key names the same episodes, on one device and on all.
    assert workload["contenders"]["packed_per_core"]["distance"] < 1e-4


@pytest.mark.slow
def test_vmap_and_segments_write_their_results(tmp_path):
    from benchmarks import segments, vmap

    vmap.main(["--num-episodes", "16", "--num-keys", "2", "--rounds", "2", "--limit", "10", "--workloads", "untrained",
               "--out", str(tmp_path / "vmap.json")])  # fmt: skip
    result = json.loads((tmp_path / "vmap.json").read_text())
    assert len(result["workloads"]["untrained"]["seconds"]["vmap"]["rounds"]) == 2
    segments.main(["--num-lanes", "4", "--quick", "--num-steps", "201", "--environments", "Pendulum-v1", "--out",
                   str(tmp_path / "segments.json")])  # fmt: skip
    measured = json.loads((tmp_path / "segments.json").read_text())["environments"]["Pendulum-v1"]
    # Every 201st row holds a final observation.
    assert measured["steps"] == {"without": 2 * 4 * 201, "with": 2 * 4 * 200}


def test_results_and_performance_page_belong_together():
    from benchmarks import report

    results = report.load()
    assert {"gradient", "sweeps"} <= set(results) <= set(report.RESULTS)
    assert report.PAGE.read_text(encoding="utf-8") == report.page(results)


@pytest.mark.slow
def test_ppo_benchmark(tmp_path):
    from benchmarks import ppo, report

    out = tmp_path / "ppo.json"
    result = ppo.main(["--quick", "--jobs", "cartpole_4", "--out", str(out)])
    facts = result["jobs"]["cartpole_4"]["contenders"]
    assert result["jobs"] == json.loads(out.read_text())["jobs"] and "train" in facts
    assert all(f["steps_per_second"] > 0 for f in facts.values())
    assert all(("networks" in name) or len(f["returns"]) == 1 for name, f in facts.items())
    text = report.ppo(result)
    assert "CartPole-v1, 4 × 128" in text and "its networks alone, one device |" in text


@pytest.mark.parametrize("num_envs", [8, pytest.param(512, marks=pytest.mark.slow)])  # One block, and several.
def test_the_networks_alone_do_all_products_of_an_update(num_envs):
    from benchmarks import networks, ppo

    job = {**ppo.JOBS["cartpole_4"], "num_envs": num_envs, "num_steps": 16}
    env, policy, critic = networks.models(job)
    params = (policy.init(jax.random.key(0)), critic.init(jax.random.key(1)))
    observations = jnp.ones((16, num_envs, 4))

    def products(jaxpr, times=1):
        """Floating-point operations in matrix products, those in a loop as often as it runs."""
        total = 0
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                contracted = equation.params["dimension_numbers"][0][0]
                shape = equation.invars[0].aval.shape
                total += 2 * times * equation.outvars[0].aval.size * math.prod(shape[i] for i in contracted)
            inner = times * equation.params.get("length", 1)  # A scan's.
            for sub in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
                if hasattr(sub, "eqns") or hasattr(sub, "jaxpr"):
                    total += products(getattr(sub, "jaxpr", sub), inner)
        return total

    jaxpr = jax.make_jaxpr(lambda p, x: networks.update(job, policy, critic, p, x))(params, observations).jaxpr
    weights = [sum(layer["kernel"].size for layer in model.values()) for model in params]
    first = 4 * 64
    rows, epochs = 16 * num_envs, job["num_epochs"]
    forward = 2 * rows * sum(weights)
    gradient = 2 * rows * epochs * sum(3 * number - first for number in weights)
    padded = 2 * rows * epochs * 64  # The critic's one output, as two (policies/_product.py).
    assert forward + gradient <= products(jaxpr) <= forward + gradient + padded
    # And XLA leaves none of them out: 3 and 3 forward, 16 of the gradient, of which one may become a sum.
    text = (
        jax.jit(lambda p, x: networks.update(job, policy, critic, p, x)).lower(params, observations).compile().as_text()
    )
    assert text.count(" dot(") >= 20 and text.count(" while(") == (2 if num_envs == 8 else 4)


def of_rounds(*seconds):
    return {"seconds": {**common.spread(seconds), "rounds": list(seconds)}}


def test_goals_compare_the_quickest_peer_with_our_best():
    from benchmarks import check

    job = {"train": of_rounds(2.0, 2.2), "train_per_core": of_rounds(1.0, 1.0), "rejax": of_rounds(4.0, 3.0),
           "purejaxrl": of_rounds(9.0, 9.0)}  # fmt: skip
    results = {"ppo": {"jobs": {"cartpole_4": {"contenders": job}}}}
    goals = [goal for goal in check.GOALS if goal.benchmark == "ppo"]
    judged = {goal.what: (ratio, needed) for goal, ratio, needed in check.judge(goals, results)}
    assert judged["CartPole, 4 × 128: the quickest peer"] == (3.5, pytest.approx(0.9 * 1.5))
    assert judged["CartPole, 2,048 × 128: the quickest peer"][0] is None  # Not measured: not judged.
    slower = {"ppo": {"jobs": {"cartpole_4": {"contenders": {**job, "rejax": of_rounds(1.2, 1.2)}}}}}
    assert check.judge(goals, slower)[0][1:] == (pytest.approx(1.2), pytest.approx(1.35))
    assert check.judge(goals, results, reached=slower)[0][2] == pytest.approx(0.9 * 1.2)


def test_the_goal_of_solving_takes_each_at_its_best_and_ours_only_where_it_solves():
    from benchmarks import check, report, solve, solve_program

    def facts(seconds, lowest=500.0):
        return {**of_rounds(seconds, seconds), "returns": [500.0, lowest]}

    found = {"jaxpg": facts(6.0), "jaxpg_linear": facts(3.0), "rejax": facts(9.0), "rejax, quick": facts(7.5),
             "jaxpg_linear, cached": facts(2.0), "rejax, cached": facts(5.0)}  # fmt: skip
    cold, cached = check.of_solve(""), check.of_solve(", cached")
    assert cold({"contenders": found}) == 2.5 and cached({"contenders": found}) == 2.5
    assert cold({"contenders": {**found, "jaxpg_linear": facts(3.0, 400.0)}}) == 1.25
    assert set(solve.BUDGETS) <= set(report.PLAYERS)
    assert set(solve.BUDGETS) - {"purejaxrl"} == set(solve_program.KINDS)


@pytest.mark.slow
def test_pgpe_of_a_linear_policy_solves():
    from benchmarks import solve_program

    assert solve_program.jaxpg_linear(200_000, 0)[1] >= 475


def test_the_check_fails_where_a_goal_is_missed(monkeypatch, tmp_path, capsys):
    from benchmarks import check

    job = {"train": of_rounds(1.0), "rejax": of_rounds(1.0), "sbx": of_rounds(20.0)}
    jobs = ["cartpole_4"]
    ran = []

    def run(name, arguments):
        ran.append(name)
        pathlib.Path(arguments[-1]).write_text(json.dumps({"jobs": {name: {"contenders": job} for name in jobs}}))
        return 0

    monkeypatch.setattr(check.runner, "run", run)
    monkeypatch.setattr(check.common, "result_path", lambda name, quick: tmp_path / f"{name}.json")
    assert check.main(["--benchmarks", "ppo"]) == 1 and ran == ["ppo"]
    assert "BELOW" in capsys.readouterr().out
    job["rejax"] = of_rounds(2.8)
    assert check.main(["--benchmarks", "ppo"]) == 1 and "NOT RUN" in capsys.readouterr().out
    jobs += ["cartpole_8", "cartpole_2048", "breakout_64", "pendulum_2048"]
    assert check.main(["--benchmarks", "ppo"]) == 0 and "NOT RUN" not in capsys.readouterr().out
    monkeypatch.setattr(check.runner, "run", lambda name, arguments: 3)
    assert check.main(["--benchmarks", "ppo"]) == 1


def test_budgets_of_solving_are_the_smallest_that_all_seeds_solve():
    from benchmarks import solve

    class Fake:
        name = "fake"

        def run(self, steps, seed):
            return 1.0, 500.0 if steps >= 300 or (steps == 200 and seed != 1001) else 100.0

    assert solve.smallest_budget(Fake(), (100, 200, 300, 400), 3) == (
        300, {100: [100.0], 200: [500.0, 100.0], 300: [500.0] * 3}
    )  # fmt: skip
    assert solve.smallest_budget(Fake(), (100,), 3)[0] == 100


@pytest.mark.slow
@pytest.mark.exhaustive
def test_sizes_startup_and_accelerator_run(tmp_path):
    from benchmarks import accelerator, report, sizes, startup

    found = sizes.main(["--quick", "--out", str(tmp_path / "sizes.json")])
    row = found["tables"]["episodes"][0]
    assert row["num_episodes"] == 1000 and row["peak_rss"] > row["baseline_rss"] > 2**20 and row["planned"]["total"] > 0
    assert "| 1,000 | default |" in report.sizes(found)
    started = startup.main(["--quick", "--entries", "evaluate", "--out", str(tmp_path / "startup.json")])
    cold, cached = (started["entries"]["evaluate"][kind] for kind in ("cold", "cached"))
    assert cold["total"]["median"] > cold["import"]["median"] + cold["build"]["median"] > 0
    assert cached["compile"]["median"] < cold["compile"]["median"]
    assert "`evaluate`, cached" in report.startup(started)
    given = accelerator.main(["--quick", "--parts", "gradient", "--out", str(tmp_path / "accelerator.json")])
    assert given["gradient"][0]["steps_per_second"] > 0 and given["gradient"][0]["kernels"]
    assert all(rate > 0 for rate in given["rates"].values())
    assert [facts["dtype"] for facts in given["gradient"]] == ["float32", "bfloat16"]
    nothing = accelerator.Budget(0)
    assert not nothing.allows("anything", 1) and nothing.left_out == ["anything"]


def test_the_page_of_the_suites_is_made_of_its_results():
    result = json.loads(common.result_path("suites_cpu", False).read_text())
    assert suites.PAGE.read_text(encoding="utf-8") == suites.page(result), "python -m benchmarks suites"
    assert set(result["suites"]) == set(suites.LIMITS)
    assert set(result["learning"]) == set(suites.LEARNING)
    for suite, names in suites.SOME.items():
        assert set(result["suites"][suite]["environments"]) == {f"{suite}/{name}" for name in names}
        assert result["suites"][suite]["num_names"] >= len(names)
