"""REINFORCE, `train` and `evaluate`."""

import dataclasses
import signal
import threading
import time
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_runs import same, tiny

import jaxpg
from jaxpg import baselines, rollout, weights
from jaxpg.fitting import fit_steps
from jaxpg.training._position import Position, play_block
from jaxpg.training.nonfinite import describe_refused


def small(critic=False, **options):
    env = jaxpg.make("CartPole-v1", max_steps=30)
    policy = jaxpg.policies.mlp(env, (8,))
    critic = jaxpg.policies.value_mlp(env, (8,)) if critic else None
    return jaxpg.reinforce(env, policy, critic, num_episodes=4, critic_steps=3, **options)


def test_a_step_is_the_optimisers_step_along_the_estimated_gradient(key):
    env = jaxpg.make("CartPole-v1", max_steps=30)
    policy = jaxpg.policies.mlp(env, (8,))
    weight, baseline = weights.reward_to_go(0.9), baselines.leave_one_out()
    algorithm = jaxpg.reinforce(env, policy, num_episodes=6, weight=weight, baseline=baseline,
                                optimizer=optax.sgd(0.1), max_gradient_norm=None)  # fmt: skip
    state = algorithm.init(key)
    after, metrics = jax.jit(algorithm.step)(state)
    sample_key, _ = jax.random.split(jax.random.fold_in(state.key, 0))
    gradient = jaxpg.policy_gradient(env, policy, num_episodes=6, weight=weight, baseline=baseline)
    estimate = gradient(sample_key, state.params)
    want = jax.tree.map(lambda p, g: p + 0.1 * g, state.params, estimate.gradient)  # Uphill.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after.params, want)
    np.testing.assert_allclose(metrics["episode_return"], estimate.episode_return, rtol=1e-6)
    assert int(metrics["env_steps"]) == int(estimate.num_steps)
    assert int(after.update) == 1


@pytest.mark.slow
def test_the_critics_baseline_is_that_of_before_the_update(key):
    """The value function that is subtracted has not seen the episodes it is subtracted from."""
    env = jaxpg.make("CartPole-v1", max_steps=30)
    policy, critic = jaxpg.policies.mlp(env, (8,)), jaxpg.policies.value_mlp(env, (8,))
    algorithm = jaxpg.reinforce(env, policy, critic, num_episodes=6, optimizer=optax.sgd(0.1), max_gradient_norm=None)
    state = algorithm.init(key)
    after, _ = jax.jit(algorithm.step)(state)
    sample_key, _ = jax.random.split(jax.random.fold_in(state.key, 0))
    gradient = jaxpg.policy_gradient(
        env,
        policy,
        num_episodes=6,
        weight=weights.reward_to_go(0.99, discount_states=False),
        baseline=baselines.value(lambda o: critic.apply(state.critic_params, o)),
    )
    want = jax.tree.map(lambda p, g: p + 0.1 * g, state.params, gradient(sample_key, state.params).gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after.params, want)
    changed = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), after.critic_params, state.critic_params)
    assert max(jax.tree.leaves(changed)) > 0


def test_the_critic_learns_the_returns(key):
    """On a chain that lasts k more steps, V(s) approaches Σ γ^j; steps are drawn from valid rows alone."""
    from jaxpg.envs import Box, Discrete, Environment, Timestep

    def observe(state):
        return jax.nn.one_hot(state, 5)

    def reset(key):
        state = jax.random.randint(key, (), 0, 4)
        return state, observe(state)

    env = Environment(
        reset=reset, max_steps=10, observation_space=Box(0, 1, (5,)), action_space=Discrete(2),
        step=lambda key, s, a: (s + 1, Timestep(observe(s + 1), 1.0, s + 1 >= 4, jnp.zeros((), bool))),
    )  # fmt: skip
    policy = jaxpg.policies.mlp(env, (4,))
    trajectory, _ = rollout.collect(env, policy, policy.init(key), key, num_episodes=50, num_lanes=7)
    targets = weights.trajectory_weights(trajectory, weights.reward_to_go(0.5))
    optimizer = optax.adam(0.05)
    params = jnp.zeros(5)
    params, _, loss = fit_steps(
        lambda p, o: p @ o, params, optimizer.init(params), optimizer, trajectory, targets, key, 400, 64
    )
    np.testing.assert_allclose(params[:4], [1.875, 1.75, 1.5, 1.0], atol=0.02)
    assert np.isfinite(loss)


def test_what_lies_behind_an_episodes_end_does_not_reach_the_critic(key):
    from jaxpg.envs import Box, Discrete, Environment, Timestep

    def step(key, state, action):
        state = state + 1.0
        reward = jnp.where(state > 3, jnp.nan, 1.0)  # The episode ends at 3; what comes after is not looked at.
        return state, Timestep(state[None], reward, state >= 3, jnp.zeros((), bool))

    env = Environment(reset=lambda key: (jnp.zeros(()), jnp.zeros(1)), step=step, max_steps=9,
                      observation_space=Box(0, 99, (1,)), action_space=Discrete(2))  # fmt: skip
    critic = jaxpg.policies.value_mlp(env, (8,))
    algorithm = jaxpg.reinforce(env, jaxpg.policies.mlp(env, (8,)), critic, num_episodes=7, num_lanes=3)
    state, metrics = jax.jit(algorithm.step)(algorithm.init(key))
    assert np.isfinite(metrics["value_loss"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.params, state.critic_params)))


@pytest.mark.parametrize("critic", [False, True])
def test_the_budget_is_met_by_the_fewest_whole_updates(critic, key):
    result = jaxpg.train(small(critic), key, num_env_steps=2000, progress=False)
    steps = result.history["env_steps"]
    assert result.num_env_steps == steps.sum() >= 2000 > steps[:-1].sum()
    np.testing.assert_array_equal(result.history["total_env_steps"], np.cumsum(steps))
    assert result.num_updates == len(steps) == int(result.state.update)
    assert result.stopped == "budget"
    assert all(len(v) == len(steps) for v in result.history.values())


@pytest.mark.slow
def test_blocks_do_not_matter_and_a_run_goes_on_where_it_stopped(key):
    algorithm = small(True)
    whole = jaxpg.train(algorithm, key, num_env_steps=1500, progress=False)
    state = algorithm.init(key)
    step = jax.jit(algorithm.step)
    returns = []
    for _ in range(whole.num_updates):
        state, metrics = step(state)
        returns.append(float(metrics["episode_return"]))
    np.testing.assert_allclose(whole.history["episode_return"], returns, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), whole.params, state.params)
    first = jaxpg.train(algorithm, key, num_env_steps=700, progress=False)
    second = jaxpg.train(algorithm, num_env_steps=1500 - first.num_env_steps, state=first.state, progress=False)
    jax.tree.map(np.testing.assert_array_equal, whole.params, second.params)


@pytest.mark.slow
def test_stops_at_a_target_and_on_a_callbacks_word(key):
    result = jaxpg.train(small(), key, num_env_steps=10**7, target_return=5.0, progress=False)
    assert result.stopped == "target" and result.num_env_steps < 10**6
    assert sum(result.history["num_episodes"]) >= 100
    calls = []
    result = jaxpg.train(
        small(),
        key,
        num_env_steps=10**7,
        progress=False,
        callback=lambda block: calls.append(len(block["env_steps"])) or len(calls) == 3,
    )
    assert result.stopped == "callback" and sum(calls) == result.num_updates


def test_interrupt_returns_what_there_is(key):
    algorithm = small()
    jaxpg.train(algorithm, key, num_env_steps=1, progress=False)  # Compiled before the clock starts.
    main = threading.main_thread().ident
    timer = threading.Timer(1.0, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    try:
        result = jaxpg.train(algorithm, key, num_env_steps=10**9, progress=False)
    finally:
        timer.cancel()
    assert result.stopped == "interrupted"
    assert 0 < result.num_env_steps < 10**9 and result.num_updates == len(result.history["env_steps"])
    assert result.num_updates == int(result.state.update)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(result.params))


def test_a_diverged_run_stops_and_says_so(key):
    algorithm = small(optimizer=optax.sgd(float("inf")))
    result = jaxpg.train(algorithm, key, num_env_steps=10**6, progress=False)
    assert result.stopped == "nonfinite" and result.num_env_steps < 10**6


@pytest.mark.slow
def test_training_is_vmapped_over_seeds_and_learning_rates(key):
    env = jaxpg.make("CartPole-v1", max_steps=20)
    policy = jaxpg.policies.mlp(env, (8,))

    def learn(key, learning_rate):
        algorithm = jaxpg.reinforce(env, policy, num_episodes=4, optimizer=optax.adam(learning_rate))
        return jax.lax.scan(lambda s, _: algorithm.step(s), algorithm.init(key), None, length=3)

    keys, rates = jax.random.split(key, 3), jnp.array([1e-3, 1e-2, 1e-1])
    state, metrics = jax.jit(jax.vmap(learn))(keys, rates)
    for i in range(3):
        one_state, one_metrics = jax.jit(learn)(keys[i], rates[i])
        np.testing.assert_allclose(metrics["episode_return"][i], one_metrics["episode_return"], rtol=1e-4)
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-3, atol=2e-4), state.params, one_state.params
        )


def test_the_progress_bar_draws(key, capsys):
    jaxpg.train(small(), key, num_env_steps=500, progress=True)
    shown = capsys.readouterr().err
    assert "reinforce" in shown and "steps" in shown


# --- Evaluation -------------------------------------------------------------------------------------------------------


def test_evaluation_plays_the_named_episodes(key):
    env = jaxpg.make("CartPole-v1", max_steps=60)
    policy = jaxpg.policies.mlp(env, (8,))
    params = policy.init(key)
    _, statistics = rollout.collect(env, policy, params, key, num_episodes=30)
    for num_lanes in (None, 4):
        scores = jaxpg.evaluate(key, env, policy, params, num_episodes=30, num_lanes=num_lanes)
        np.testing.assert_array_equal(scores.lengths, statistics.length)
        np.testing.assert_allclose(scores.returns, statistics.returns)


def test_a_second_evaluation_does_not_trace_again(key):
    env = jaxpg.make("CartPole-v1", max_steps=20)
    base, traces = jaxpg.policies.mlp(env, (8,)), []
    policy = jaxpg.Policy(init=base.init, apply=lambda p, o: (traces.append(1), base.apply(p, o))[1])
    params = policy.init(key)
    jaxpg.evaluate(key, env, policy, params, num_episodes=5)
    before = len(traces)
    jaxpg.evaluate(jax.random.key(4), env, policy, params, num_episodes=5)
    assert len(traces) == before > 0


def test_deterministic_evaluation_takes_the_mode(key):
    mdp = jaxpg.exact.FiniteMDP(jnp.ones((1, 2, 1)), jnp.array([[0.0, 1.0]]), jnp.ones(1), discount=1.0, horizon=3)
    env = mdp.environment()
    policy = jaxpg.policies.tabular(env)
    params = jnp.array([[0.0, 0.1]])
    best = jaxpg.evaluate(key, env, policy, params, num_episodes=50, deterministic=True)
    np.testing.assert_array_equal(best.returns, 3.0)
    assert float(jaxpg.evaluate(key, env, policy, params, num_episodes=500).returns.mean()) < 2.0


# --- Evaluation during training ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick():
    return tiny()


def test_training_is_the_same_with_and_without_evaluation(quick, key):
    alone = jaxpg.train(quick, key, num_env_steps=400, progress=False)
    evaluated = jaxpg.train(quick, key, num_env_steps=400, progress=False, evaluate_every=50, evaluation_episodes=4)
    same(alone.state, evaluated.state)
    same(dict(alone.history), dict(evaluated.history))
    assert len(evaluated.evaluations["update"]) > 5
    assert alone.best_params is None and alone.best_return is None
    assert set(alone.evaluations) == set(evaluated.evaluations)
    assert all(len(values) == 0 for values in alone.evaluations.values())


def test_evaluations_come_at_the_first_update_that_reaches_each_multiple_and_at_the_end(quick, key):
    result = jaxpg.train(quick, key, num_env_steps=333, progress=False, evaluate_every=50, evaluation_episodes=4)
    total = result.history["total_env_steps"]
    want = [int(np.argmax(total >= multiple)) + 1 for multiple in range(50, total[-1] + 1, 50)]
    want += [] if want[-1] == result.num_updates else [result.num_updates]
    assert result.evaluations["update"].tolist() == want
    np.testing.assert_array_equal(result.evaluations["total_env_steps"], total[np.array(want) - 1])
    often = jaxpg.train(quick, key, num_env_steps=50, progress=False, evaluate_every=1, evaluation_episodes=4)
    assert often.evaluations["update"].tolist() == list(range(1, often.num_updates + 1))


def test_the_best_parameters_are_those_that_were_evaluated(quick, key):
    """Each evaluation, computed again: of the parameters after its update, with its own key."""
    result = jaxpg.train(quick, key, num_env_steps=150, progress=False, evaluate_every=1, evaluation_episodes=5)
    state, step, params = quick.init(key), jax.jit(quick.step), []
    for _ in range(result.num_updates):
        state, _ = step(state)
        params.append(state.params)
    found = result.evaluations
    for update in (1, 2, result.num_updates):
        name = jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(b"jaxpg evaluation")), update)
        scores = jaxpg.evaluate(name, quick.env, quick.policy, params[update - 1], num_episodes=5)
        returns = np.asarray(scores.returns, float)
        assert found["episode_return"][update - 1] == returns.mean()
        assert found["episode_return_error"][update - 1] == returns.std(ddof=1) / np.sqrt(5)
        assert found["episode_length"][update - 1] == scores.lengths.mean()
    best = int(np.argmax(found["episode_return"]))
    assert result.best_return == found["episode_return"][best] and 0 < best < result.num_updates - 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), result.best_params, params[best])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), result.params, params[-1])
    assert float(jnp.abs(result.best_params["logits"] - params[best - 1]["logits"]).max()) > 1e-3  # Not before it.


def test_evaluation_takes_the_mode_where_asked(quick, key):
    options = {"num_env_steps": 40, "progress": False, "evaluate_every": 20, "evaluation_episodes": 200}
    result = jaxpg.train(quick, key, deterministic_evaluation=True, **options)
    mode = quick.policy.apply(result.params, jnp.ones(1)).mode()
    # Rewards are those of action 1 alone: the mode earns them at every step or never.
    expected = result.evaluations["episode_length"][-1] if int(mode) else 0.0
    later = quick.policy.apply(result.params, 3 * jnp.ones(1)).mode()
    assert int(later) != int(mode) or result.evaluations["episode_return"][-1] == pytest.approx(expected)


def test_evaluation_acts_as_the_algorithm_does_unless_told(quick, key):
    """By the mode where `config` says so, as PGPE's does."""
    mode = dataclasses.replace(quick, config={"deterministic": True})
    options = {"num_env_steps": 20, "progress": False, "evaluate_every": 20, "evaluation_episodes": 50}
    by_default = jaxpg.train(mode, key, **options)
    told = jaxpg.train(mode, key, deterministic_evaluation=False, **options)
    name = jax.random.fold_in(key, zlib.crc32(b"jaxpg evaluation"))
    by_mode, sampled = (
        jaxpg.evaluate(jax.random.fold_in(name, by_default.num_updates), quick.env, quick.policy, by_default.params,
                       num_episodes=50, deterministic=deterministic).returns.mean()
        for deterministic in (True, False)
    )  # fmt: skip
    assert by_mode != sampled
    assert by_default.evaluations["episode_return"].tolist() == [by_mode]
    assert told.evaluations["episode_return"].tolist() == [sampled]


def test_a_run_from_a_state_is_evaluated_with_a_key(quick, key):
    state = quick.init(key)
    options = {"num_env_steps": 40, "progress": False, "evaluate_every": 20, "evaluation_episodes": 4}
    with pytest.raises(TypeError, match="key: evaluations need one"):
        jaxpg.train(quick, state=state, **options)
    same(dict(jaxpg.train(quick, key, state=state, **options).evaluations),
         dict(jaxpg.train(quick, key, **options).evaluations))  # fmt: skip
    with pytest.raises(TypeError, match="either a key"):
        jaxpg.train(quick, key, state=state, num_env_steps=40)
    bare = jaxpg.Algorithm(init=quick.init, step=quick.step)
    with pytest.raises(ValueError, match="evaluate_every: .* no env or policy"):
        jaxpg.train(bare, key, **options)


def test_the_progress_bar_shows_the_newest_evaluation(quick, key, capsys):
    jaxpg.train(quick, key, num_env_steps=100, progress=True, evaluate_every=20, evaluation_episodes=4)
    assert "evaluated" in capsys.readouterr().err


# --- Values that are not finite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("refused_at", [1, 4])
def test_a_refused_update_stops_the_run_right_there(key, refused_at, tmp_path):
    algorithm = dataclasses.replace(tiny(refused_at=refused_at), episode_key=lambda state: state.key)
    message = rf"update {refused_at} met NaN.*7 of lane 1.*replay\(.*\(1, 7\)\).*other parameters had acted"
    with pytest.warns(RuntimeWarning, match=message):
        result = jaxpg.train(algorithm, key, num_env_steps=10**6, progress=False, directory=tmp_path)
    assert result.stopped == "nonfinite" and result.num_updates == refused_at and result.num_nonfinite == 1
    assert result.history["nonfinite"].tolist() == [0] * (refused_at - 1) + [1]
    assert jaxpg.load_checkpoint(tmp_path, algorithm).num_updates == refused_at
    more = jaxpg.train(algorithm, key, num_env_steps=200, progress=False, directory=tmp_path)  # Goes on behind it.
    assert more.stopped == "budget" and more.num_nonfinite == 1


def test_messages_name_only_what_the_algorithm_has(quick):
    """Without `episode_key` there is nothing to replay by; where the mode is trained, replay takes it."""
    block = {"nonfinite_lane": np.array([-1, 1]), "nonfinite_episode": np.array([-1, 7])}
    assert describe_refused(quick, block, 1, 2, True).endswith("was not applied: episode 7 of lane 1")
    assert "replay" not in describe_refused(quick, block, 1, 2, False)
    mode = dataclasses.replace(quick, config={"deterministic": True}, episode_key=lambda state: state.key)
    assert "episode_key(state), (1, 7), deterministic=True) plays it" in describe_refused(mode, block, 1, 2, True)
    assert "deterministic" not in describe_refused(dataclasses.replace(mode, config={}), block, 1, 2, True)


def test_a_block_ends_with_a_refused_update_where_it_is_to_halt(key):
    algorithm = tiny(refused_at=4)
    start = Position(algorithm.init(key))
    ends = [play_block(algorithm, start, 10**6, 20, halt).num_updates for halt in (True, False)]
    assert ends == [4, 20]


def test_refused_updates_are_skipped_and_counted(key):
    with pytest.warns(RuntimeWarning) as caught:
        algorithm = dataclasses.replace(tiny(refused_at=4), episode_key=lambda state: state.key)
        result = jaxpg.train(algorithm, key, num_env_steps=300, progress=False, nonfinite="skip")
    messages = [str(w.message) for w in caught if "NaN" in str(w.message)]
    assert len(messages) == 1 and "update 4" in messages[0] and 'nonfinite="stop"' in messages[0]
    assert result.stopped == "budget" and result.num_nonfinite == 1 and result.num_updates > 20


def test_refused_updates_raise_with_the_result(key, tmp_path):
    algorithm = tiny(refused_at=4)
    with pytest.raises(jaxpg.NonFiniteError, match="episode 7 of lane 1") as error:
        jaxpg.train(algorithm, key, num_env_steps=300, progress=False, nonfinite="raise", directory=tmp_path)
    result = error.value.result
    assert isinstance(error.value, ArithmeticError)
    assert isinstance(result, jaxpg.TrainResult) and result.num_updates == 4 and result.stopped == "nonfinite"
    same(jaxpg.load_checkpoint(tmp_path, algorithm).state, result.state)


@pytest.mark.parametrize("nonfinite", ["stop", "skip", "raise"])
def test_parameters_that_are_not_finite_end_the_run_in_any_case(key, nonfinite):
    """Of an algorithm that does not look for them."""
    options = {"num_env_steps": 10**6, "progress": False, "nonfinite": nonfinite}
    if nonfinite == "raise":
        with pytest.raises(jaxpg.NonFiniteError, match="parameters are NaN or infinite") as error:
            jaxpg.train(tiny(wild=True), key, **options)
        result = error.value.result
    else:
        with pytest.warns(RuntimeWarning, match="parameters are NaN or infinite"):
            result = jaxpg.train(tiny(wild=True), key, **options)
    assert result.stopped == "nonfinite" and 3 <= result.num_updates < 10


# --- Signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signals", "stopped"),
    [
        ([signal.SIGINT], "interrupted"),
        ([signal.SIGTERM], "terminated"),
        ([signal.SIGTERM, signal.SIGTERM], "terminated"),
        ([signal.SIGINT, signal.SIGTERM], "interrupted"),
        ([signal.SIGTERM, signal.SIGINT], "interrupted"),
        ([signal.SIGINT, signal.SIGINT], "interrupted"),
    ],
)
def test_signals_end_the_run_and_their_handlers_come_back(quick, key, signals, stopped):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]

    def press(block):
        for signum in signals:
            signal.raise_signal(signum)

    result = jaxpg.train(quick, key, num_env_steps=10**6, progress=False, callback=press)
    assert result.stopped == stopped and result.num_updates == len(result.history["env_steps"]) == 1
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_runs_in_other_threads_leave_signals_alone(quick, key):
    before, results = signal.getsignal(signal.SIGTERM), []

    def look(block):
        results.append(signal.getsignal(signal.SIGTERM) == before)

    thread = threading.Thread(target=lambda: jaxpg.train(quick, key, num_env_steps=60, progress=False, callback=look))
    thread.start()
    thread.join()
    assert results and all(results)


@pytest.mark.slow
@pytest.mark.learning
@pytest.mark.timeout(1500)
def test_reinforce_with_a_value_baseline_solves_cartpole():
    """At least 9 of 10 seeds end above 475 within 500,000 steps."""
    env = jaxpg.make("CartPole-v1")
    policy, critic = jaxpg.policies.mlp(env), jaxpg.policies.value_mlp(env)
    # About 45 updates make up the budget; the steps shrink towards the end, or some seeds fall back from 500.
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(optax.linear_schedule(1e-2, 0.0, 45)))
    algorithm = jaxpg.reinforce(env, policy, critic, optimizer=optimizer)
    budget, seeds = 500_000, 10
    state = jax.jit(jax.vmap(algorithm.init))(jax.random.split(jax.random.key(0), seeds))

    @jax.jit
    def update(state, taken):
        after, metrics = jax.vmap(algorithm.step)(state)
        done = taken >= budget  # A seed whose budget is spent stays as it is.
        keep = lambda old, new: jax.vmap(lambda d, a, b: jax.lax.select(d, a, b))(done, old, new)  # noqa: E731
        return jax.tree.map(keep, state, after), taken + jnp.where(done, 0, metrics["env_steps"])

    taken = jnp.zeros(seeds, jnp.int32)
    start = time.time()
    while bool((taken < budget).any()):
        state, taken = update(state, taken)
    keys = jax.random.split(jax.random.key(99), seeds)
    score = jax.vmap(lambda k, p: jaxpg.evaluate(k, env, policy, p, num_episodes=100).returns.mean())
    found = np.asarray(jax.jit(score)(keys, state.params))
    print(f"final mean returns {np.sort(found).round(1)}, {int(taken.sum()):,} steps in {time.time() - start:.0f} s")
    assert (found >= 475).sum() >= 9, found
