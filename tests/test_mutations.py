"""Mistakes that others shipped, planted one by one: for each a check that passes on the honest code must fail.

A mutation replaces one name of the library while its check runs: everything is built anew inside the check, so that no
compiled program from before hides it. docs/mutations.md is the same table to read.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_distributions
import test_oracle
import test_rollout
import test_weights
from mutating import Check, Mutation, of_arguments, of_result, of_suite, plant, prepare, with_options
from test_gradient import close, line_walk

import jaxpg
from jaxpg import (
    _accumulate,
    _groups,
    _linear_fit,
    _play,
    _weigh,
    baselines,
    fitting,
    gradient,
    lanes,
    rollout,
    segments,
    stored,
    weights,
)
from jaxpg.lanes import Trajectory
from jaxpg.policies.distributions import Categorical, DiagonalNormal, TanhNormal

DISCOUNT, LAMBDA = 0.9, 0.7
THIS = "test_mutations.py::test_honest_code_passes"

# --- Stored episodes, by the forward definitions ----------------------------------------------------------------------

VALUE = np.array([1.5, -0.5, 0.7])
LOGITS = np.array([[0.3, -0.4], [1.0, 0.2], [-0.6, 0.1]])
BEHAVIOR = np.array([[-0.5, 0.4], [0.1, 0.6], [0.8, -0.3]])
# Two lanes of episodes (length, how each ends), back to back; a truncated one is followed by its final observation.
EPISODES = [[(3, "terminated"), (2, "truncated"), (1, "terminated")], [(2, "truncated"), (4, "terminated")]]
NUM_EPISODES, NUM_ROWS = 5, 8


class Episode(NamedTuple):
    """An episode in numpy: n steps, and n + 1 observations."""

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    truncated: bool

    @property
    def value(self):
        """V(s_0) … V(s_n), the last one 0 where the task has ended."""
        return np.append(VALUE[self.observation[:-1]], VALUE[self.observation[-1]] * self.truncated)

    def table(self, logits):
        return np.array([log_probs(logits)[s, a] for s, a in zip(self.observation, self.action)])


def log_probs(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def stored_episodes():
    """The episodes, and the same as a trajectory; rows that nobody played hold what must not be looked at."""
    rng = np.random.default_rng(2)
    fields = {name: np.zeros((NUM_ROWS, 2), int) for name in ("observation", "action", "episode", "time")}
    flags = {name: np.zeros((NUM_ROWS, 2), bool) for name in ("terminated", "truncated", "valid")}
    reward, log_mu = np.full((NUM_ROWS, 2), 50.0), np.full((NUM_ROWS, 2), 9.0)
    episodes = []
    for lane, (places, parts) in enumerate(zip(np.arange(2 * NUM_ROWS).reshape(2, -1) % NUM_ROWS, EPISODES)):
        for n, end in parts:
            states, actions, rewards = rng.integers(3, size=n + 1), rng.integers(2, size=n), rng.normal(size=n) + 1
            episode = Episode(states, actions, rewards, end == "truncated")
            rows, places = places[:n], places[n:]
            fields["observation"][rows, lane], fields["action"][rows, lane] = states[:-1], actions
            fields["time"][rows, lane], fields["episode"][rows, lane] = np.arange(n), len(episodes)
            reward[rows, lane], log_mu[rows, lane] = rewards, episode.table(BEHAVIOR)
            flags["valid"][rows, lane], flags[end][rows[-1], lane] = True, True
            if end == "truncated":
                final, places = places[0], places[1:]
                for name, x in (("observation", states[-1]), ("episode", len(episodes)), ("time", n)):
                    fields[name][final, lane] = x
            episodes.append(episode)
        fields["episode"][places, lane] = len(episodes) - 1
    arrays = {name: jnp.asarray(x) for name, x in {**fields, **flags}.items()}
    return episodes, Trajectory(
        **arrays, reward=jnp.asarray(reward), log_prob=jnp.asarray(log_mu), value=None, carry=None
    )


def scores(observation, action, logits=LOGITS):
    """∇ log π(a_t | s_t) of a softmax policy, [n, S, A]."""
    out = np.zeros((len(action), *logits.shape))
    for t, (s, a) in enumerate(zip(observation, action)):
        out[t, s] = -np.exp(log_probs(logits)[s])
        out[t, s, a] += 1
    return out


def discounted_sum(x, factor):
    """Σ_k factor^k x_{t+k} for every t."""
    return np.array([factor ** np.arange(len(x) - t) @ x[t:] for t in range(len(x))])


def gae(episode):
    v = episode.value
    return discounted_sum(episode.reward + DISCOUNT * v[1:] - v[:-1], DISCOUNT * LAMBDA)


def v_trace(episode, clip_rho=1.1, clip_c=0.9):
    """ρ̄_t (r_t + γ v_{t+1} − V(s_t)), v_t = V(s_t) + Σ_k γ^k (Π_{i<k} c_{t+i}) ρ̄_{t+k} δ_{t+k}."""
    v, n = episode.value, len(episode.action)
    ratio = np.exp(episode.table(LOGITS) - episode.table(BEHAVIOR))
    rho, c = np.minimum(ratio, clip_rho), LAMBDA * np.minimum(ratio, clip_c)
    delta = rho * (episode.reward + DISCOUNT * v[1:] - v[:-1])
    target = v.copy()
    for t in range(n):
        target[t] += sum(DISCOUNT**k * np.prod(c[t : t + k]) * delta[t + k] for k in range(n - t))
    return rho * (episode.reward + DISCOUNT * target[1:] - v[:-1])


def less_time_baseline(episodes):
    """Q̂_{i,t} less the mean of Q̂_{j,t} over the other episodes that reach step t."""
    to_go = [discounted_sum(e.reward, DISCOUNT) for e in episodes]
    for i, own in enumerate(to_go):
        others = [[x[t] for j, x in enumerate(to_go) if j != i and t < len(x)] for t in range(len(own))]
        yield own - [np.mean(o) if o else 0.0 for o in others]


def stored_check(weight, psi, baseline=None, importance=None):
    """gradient_from against Σ_i p_i Σ_t w^t ∇ log π Ψ_t in numpy, with its variance; `psi` gives each episode's Ψ."""
    episodes, trajectory = stored_episodes()
    share = np.full(NUM_EPISODES, 1 / NUM_EPISODES)
    if importance == "self_normalized":
        ratios = np.array([np.exp((e.table(LOGITS) - e.table(BEHAVIOR)).sum()) for e in episodes])
        share = ratios / ratios.sum()
    terms = np.stack(
        [
            np.einsum("t,t,tsa->sa", DISCOUNT ** np.arange(len(x)), x, scores(e.observation, e.action))
            for e, x in zip(episodes, psi(episodes))
        ]
    )
    policy = jaxpg.Policy(init=lambda key: jnp.asarray(LOGITS), apply=lambda params, s: Categorical(params[s]))
    found = jaxpg.gradient_from(
        trajectory, policy, jnp.asarray(LOGITS), weight(), baseline and baseline(), importance_sampling=importance,
        num_groups=NUM_EPISODES,
    )  # fmt: skip
    np.testing.assert_allclose(found.gradient, np.tensordot(share, terms, 1), rtol=1e-10, atol=1e-12)
    if baseline is None and importance is None:  # Then the episodes are independent of each other.
        np.testing.assert_allclose(found.variance, terms.var(0, ddof=1) / NUM_EPISODES, rtol=1e-10, atol=1e-12)


def value_of(observation):
    return jnp.asarray(VALUE)[observation]


def each(psi):
    return lambda episodes: map(psi, episodes)


def stored_gae():
    stored_check(lambda: weights.gae(DISCOUNT, LAMBDA, value_of), each(gae))


def stored_v_trace():
    stored_check(
        lambda: weights.v_trace(DISCOUNT, LAMBDA, value_of, clip_rho=1.1, clip_c=0.9), each(v_trace),
        importance="per_decision",
    )  # fmt: skip


def stored_time_baseline():
    stored_check(lambda: weights.reward_to_go(DISCOUNT), less_time_baseline, baselines.time)


def stored_self_normalized():
    to_go = each(lambda e: discounted_sum(e.reward, DISCOUNT))
    stored_check(lambda: weights.reward_to_go(DISCOUNT), to_go, importance="self_normalized")


def critic_targets():
    """The rewards-to-go that a critic is fitted to."""
    episodes, trajectory = stored_episodes()
    found = np.asarray(weights.trajectory_weights(trajectory, weights.reward_to_go(DISCOUNT)))
    for i, episode in enumerate(episodes):
        rows = np.asarray(trajectory.valid & (trajectory.episode == i))
        np.testing.assert_allclose(found[rows], discounted_sum(episode.reward, DISCOUNT), rtol=1e-12)


def critic_steps():
    """The critic is fitted to steps that were played: all of these are 1 away from it, no other row is."""
    _, trajectory = stored_episodes()
    targets, optimizer = jnp.where(trajectory.valid, 1.0, 50.0), optax.sgd(0.0)
    critic, params, key = lambda params, s: params[s], jnp.zeros(3), jax.random.key(0)
    _, _, loss = fitting.fit_steps(critic, params, optimizer.init(params), optimizer, trajectory, targets, key, 4, 64)
    np.testing.assert_allclose(loss, 0.5)


# --- Played episodes, by their names ----------------------------------------------------------------------------------


def walk():
    """`line_walk`, limit 5: starts at 0 … 8, ends above 9. The policy's params are logits for each observation."""
    env, params = line_walk(5), jnp.asarray(np.random.default_rng(4).normal(size=(16, 2)), jnp.float32)
    return env, jaxpg.Policy(init=lambda key: params, apply=lambda p, o: Categorical(p[o[0].astype(jnp.int32)])), params


@jax.jit
def walk_by_name(key, params):
    """Starts [N] and actions [N, 5] of the walk's episodes, by the documented keys."""

    def episode(i):
        name = jax.random.fold_in(key, i)
        start = jax.random.randint(jax.random.fold_in(name, 0), (), 0, 9)
        draw = lambda t: Categorical(params[start + t]).sample(jax.random.fold_in(name, t + 1))  # noqa: E731
        return start, jax.vmap(draw)(jnp.arange(5))

    return jax.vmap(episode)(jnp.arange(12))


def played(rows):
    """`policy_gradient` with everything that it tells, in a buffer of so many rows for each of four lanes.

    The weight is the soft one of GAE, with V(o) = sin(o) + 2: the reward is r_t − α log π(a_t | s_t).
    """
    (env, policy, params), key, temperature, n = walk(), jax.random.key(3), 0.3, 12
    starts, actions = map(np.asarray, walk_by_name(key, params))
    logits = np.asarray(params, np.float64)
    terms, objectives, returns, lengths = [], [], [], []
    for start, action in zip(starts, actions):
        length = min(5, 10 - start)
        o = start + np.arange(length)
        v = np.append(np.sin(o) + 2, (np.sin(start + 5) + 2) * (length == 5 and start + 5 <= 9))
        r = 2.0 + o
        soft = r - temperature * log_probs(logits)[o, action[:length]]
        psi = discounted_sum(soft + DISCOUNT * v[1:] - v[:-1], DISCOUNT * LAMBDA)
        factor = DISCOUNT ** np.arange(length)
        terms.append(np.einsum("t,t,tsa->sa", factor, psi, scores(o, action[:length], logits)))
        objectives.append(factor @ soft)
        returns.append(r.sum())
        lengths.append(length)
    weight = weights.gae(DISCOUNT, LAMBDA, value=lambda o: jnp.sin(o[0]) + 2)
    bytes_of_a_row = 4 + 4 + 4 + 1 + 1 + 4 + 4 + 4 + 1 + 8  # Of one lane.
    found = jaxpg.policy_gradient(
        env, policy, num_episodes=n, num_groups=n, weight=weight, temperature=temperature, num_lanes=4,
        buffer_bytes=4 * rows * bytes_of_a_row,
    )(key, params)  # fmt: skip
    close(found.gradient, np.mean(terms, 0), 1e-4)
    close(found.variance, np.var(terms, 0, ddof=1) / n, 1e-3)
    np.testing.assert_allclose(found.objective, np.mean(objectives), rtol=1e-5)
    np.testing.assert_allclose(found.objective_error, np.std(objectives, ddof=1) / np.sqrt(n), rtol=1e-4)
    np.testing.assert_allclose(found.episode_return, np.mean(returns), rtol=1e-5)
    assert int(found.num_episodes) == n
    assert int(found.num_steps) == sum(lengths)


def played_in_small_buffers():
    """With room for one longest episode and its final observation: others are cut, and played again."""
    played(6)


def antithetic_pairs():
    """The variance under antithetic sampling is that of the pairs' means."""
    env, policy, params = walk()
    found = jaxpg.policy_gradient(
        env, policy, num_episodes=8, num_groups=8, sampling=jaxpg.sampling.antithetic(), per_episode=True
    )(jax.random.key(0), params)
    pairs = np.asarray(found.episodes.gradient, np.float64).reshape(4, 2, 16, 2).mean(1)
    close(found.variance, pairs.var(0, ddof=1) / 4, 1e-4)
    assert int(found.num_groups) == 4


def segments_by_name():
    """V(o) = o counts down by one with each step, at truncations too; each episode starts as its key says."""
    env, key = test_rollout.countdown(5, terminate=False), jax.random.key(0)
    policy = jaxpg.Policy(init=lambda key: jnp.zeros(2), apply=lambda params, o: Categorical(params))
    state = segments.start_segments(env, policy, key, 3)
    _, part = segments.segment(env, policy, jnp.zeros(2), state, 23, value=lambda o, time: o[0])
    t = part.trajectory
    valid = np.asarray(t.valid)
    next_value = np.concatenate([t.value[1:], part.last_value[None]])
    np.testing.assert_array_equal(next_value[valid], np.asarray(t.value)[valid] - 1)
    for row, lane in np.argwhere(valid & np.asarray(t.time == 0)):
        name = jax.random.fold_in(jax.random.fold_in(key, lane), t.episode[row, lane])
        assert t.observation[row, lane, 0] == env.reset(jax.random.fold_in(name, 0))[1][0]


# --- The table of checks ----------------------------------------------------------------------------------------------


def oracle(row):
    return of_suite(test_oracle.test_mean_over_every_trajectory_is_exact, row, None, case=row, double=True)


def by_hand(environment):
    test = test_rollout.test_episodes_are_those_played_by_hand
    return Check(of_suite(test, case=f"4-{environment}").name, lambda: test(environment, 4, jax.random.key(0)))


def against_numpyro(row):
    return of_suite(test_distributions.test_log_prob_equals_numpyro, row, False, None, case=f"False-{row}")


def own(run, double=False):
    return Check(f"{THIS}[{run.__name__}]", run, double)


# --- The mutations ----------------------------------------------------------------------------------------------------


def of_step(change):
    """A step of a lane as `change(lane before, step)` has it."""

    def broken(honest):
        def play_step(player, params, lane):
            after, step = honest(player, params, lane)
            return after, change(lane, step)

        return play_step

    return broken


def of_td_error(change):
    """The temporal-difference error, as `change(honest, step)` has it."""
    return lambda honest: lambda discount: lambda step: change(honest(discount), step)


def full(step, number):
    return jnp.full_like(step.reward, number)


def end_seen_late(honest):
    def shifted(rewards, values, next_values, terminated, truncated, *args, **options):
        terminated, truncated = (jnp.roll(x, 1, axis=0) for x in (terminated, truncated))
        return honest(rewards, values, next_values, terminated, truncated, *args, **options)

    return shifted


def gae_from_the_next_step(honest):
    """δ + (GAE − δ)/λ = δ_t + γ A_{t+1}."""

    def broken(discount, *args, **options):
        weight = honest(discount, *args, **options)
        return dataclasses.replace(weight, direct=weight.increment, carry=lambda step: full(step, discount))

    return broken


def without_own_reward(honest):
    def broken(discount, *args, **options):
        weight = honest(discount, *args, **options)
        return dataclasses.replace(weight, direct=lambda step: full(step, 0), carry=lambda step: full(step, discount))

    return broken


def one_initial_state(honest):
    def reset_lane(player, key, *args):
        cached = honest(player, jax.random.key(0), *args)
        return honest(player, key, *args)._replace(state=cached.state, observation=cached.observation)

    return reset_lane


def own_group_in_the_constant(honest):
    """Every group is given the totals /(G − 1), so that the others of each sum to the total over all."""

    def group_sums(sums, optimal):
        total = lambda x: jnp.broadcast_to(x.sum(0) / (x.shape[0] - 1), x.shape)  # noqa: E731
        if optimal is not None:
            sums = sums._replace(cross=jax.tree.map(total, sums.cross), square=jax.tree.map(total, sums.square))
        return honest(sums, optimal)

    return group_sums


def fitted_on_own_fold(honest):
    def fit(*args):
        b = honest(*args)
        return lambda observation, time, slot: b(observation, time, slot ^ 1)

    return fit


def uncentred(estimate):
    extra = jax.tree.map(lambda g: g**2 / (estimate.num_groups - 1), estimate.gradient)
    return estimate._replace(variance=jax.tree.map(jnp.add, estimate.variance, extra))


def as_if_valid(rows):
    return rows._replace(valid=jnp.ones_like(rows.valid)) if isinstance(rows, Trajectory) else rows


MUTATIONS = {
    # Ends of episodes, and the values behind them.
    "truncation treated as termination": Mutation(
        weights, "_td_error",
        of_td_error(lambda error, step: error(step._replace(terminated=step.terminated | step.truncated))),
        own(stored_gae, True),
    ),
    "truncation treated as termination, advantages of arrays": Mutation(
        weights, "generalized_advantages",
        of_arguments(lambda r, v, n, end, cut, *rest: (r, v, n, end | cut, cut, *rest)),
        of_suite(test_weights.test_truncation_bootstraps_and_termination_does_not),
    ),
    "bootstrap from the observation after the reset": Mutation(
        gradient, "Player", with_options(final_rows=False), own(played_in_small_buffers)
    ),
    "bootstrap from the observation after the reset, segments": Mutation(
        segments, "Player", with_options(final_rows=False), own(segments_by_name)
    ),
    "truncated steps given zero advantage": Mutation(
        weights, "_td_error", of_td_error(lambda error, step: jnp.where(step.truncated, 0.0, error(step))),
        own(stored_gae, True),
    ),
    "the end seen one step late, advantages of arrays": Mutation(
        weights, "generalized_advantages", end_seen_late,
        of_suite(test_weights.test_generalized_advantages_by_hand),
    ),
    "the end seen one step late, stored steps": Mutation(
        _accumulate, "weigh",
        of_arguments(lambda b, *rest: (b._replace(terminated=jnp.roll(b.terminated, 1, axis=0)), *rest)),
        own(stored_gae, True),
    ),
    "GAE as δ + (GAE − δ)/λ": Mutation(weights, "gae", gae_from_the_next_step, own(stored_gae, True)),
    "V-trace with ratios that are not clipped": Mutation(
        weights, "v_trace", with_options(clip_rho=1e9, clip_c=1e9), own(stored_v_trace, True)
    ),
    "returns leak across episode ends": Mutation(
        _weigh, "recursion", lambda honest: lambda x, c, ended, following: x + c * following, own(stored_gae, True)
    ),
    "returns leak across lanes": Mutation(
        _weigh, "recursion", of_arguments(lambda x, c, ended, following: (x, c, ended, jnp.roll(following, 1))),
        own(stored_gae, True),
    ),
    "returns leak across episode ends, critic's targets": Mutation(
        weights, "backward_recursion", of_arguments(lambda x, c: (x, jnp.full_like(c, c.max()))),
        own(critic_targets, True),
    ),
    "a step past the end of an episode": Mutation(
        lanes, "play_step",
        of_step(lambda lane, step: step._replace(terminated=step.terminated & (step.time % 2 == 1))),
        by_hand("countdown"),
    ),
    "final observations counted as steps": Mutation(
        lanes, "play_step", of_step(lambda lane, step: step._replace(valid=lane.playing)), own(played_in_small_buffers)
    ),
    "short episodes favoured: what the buffer cuts is dropped": Mutation(
        rollout, "_what_is_left",
        of_result(lambda out: (out[0], out[1]._replace(num_pending=jnp.int32(0), num_slots=jnp.int32(0)))),
        own(played_in_small_buffers),
    ),
    # Random keys.
    "one key for the reset and the first action": Mutation(
        lanes, "fold_in",
        of_arguments(lambda key, data: (key, data - 1 if isinstance(data, jax.Array) else data)), by_hand("countdown"),
    ),
    "one key for the action and the environment": Mutation(
        lanes, "key_for_environment", lambda honest: lambda key: key, by_hand("countdown")
    ),
    "two episodes share a key": Mutation(rollout.Queue, "ids", of_result(lambda ids: ids // 2), by_hand("countdown")),
    "every episode starts from one cached state": Mutation(
        rollout, "reset_lane", one_initial_state, by_hand("countdown")
    ),
    "every episode starts from one cached state, segments": Mutation(
        segments, "reset_lane", one_initial_state, own(segments_by_name)
    ),
    # Weights.
    "a missing γ^t": Mutation(weights, "_state_discount", lambda honest: lambda *args: 1.0, oracle("reward-to-go")),
    "own reward left out of the reward-to-go": Mutation(
        weights, "reward_to_go", without_own_reward, oracle("reward-to-go")
    ),
    "probabilities left out of the sum over all actions": Mutation(
        _accumulate, "quadrature", of_result(lambda out: (out[0], jnp.ones_like(out[1]))),
        oracle("all actions, exact values"),
    ),
    "importance ratio of the step itself left out": Mutation(
        stored, "importance_ratios", of_result(lambda out: out._replace(ratio=jnp.ones_like(out.ratio))),
        oracle("off-policy, per decision"),
    ),
    "importance ratio of the step itself counted twice": Mutation(
        stored, "importance_ratios", of_result(lambda out: out._replace(prefix=out.prefix * out.ratio)),
        oracle("off-policy, per decision"),
    ),
    "self-normalised estimate divided by N": Mutation(
        stored, "finish", lambda honest: lambda *args: honest(*args[:5]), own(stored_self_normalized, True)
    ),
    "entropy bonus of the wrong sign": Mutation(
        _accumulate.Terms, "step",
        of_arguments(
            lambda terms, *rest: (terms._replace(entropy_coefficient=-(terms.entropy_coefficient or 0.0)), *rest)
        ),
        oracle("entropy bonus"),
    ),
    "+ α log π in the soft reward": Mutation(
        lanes, "play_step",
        of_arguments(lambda player, *rest: (dataclasses.replace(player, temperature=-player.temperature), *rest)),
        own(played_in_small_buffers),
    ),
    # Baselines.
    "a mean that includes the episode itself": Mutation(
        baselines, "leave_one_out",
        of_result(lambda b: dataclasses.replace(b, peers=lambda total, own, size, count: total / size)),
        oracle("total return, leave-one-out"),
    ),
    "the optimal constant fitted on its own group": Mutation(
        _groups, "group_sums", own_group_in_the_constant, oracle("total return, optimal constant")
    ),
    "a linear baseline fitted on its own fold": Mutation(
        _linear_fit, "fit", fitted_on_own_fold, oracle("reward-to-go, linear fit")
    ),
    "episodes counted in a time baseline after their end": Mutation(
        baselines, "time",
        of_result(lambda b: dataclasses.replace(b, peers=lambda total, own, size, count: (total - own) / (size - 1))),
        own(stored_time_baseline, True),
    ),
    "padding averaged into a time baseline": Mutation(
        _weigh, "read_row", of_result(as_if_valid), own(stored_time_baseline, True)
    ),
    "padding in the steps that a critic is fitted to": Mutation(
        fitting, "fit_steps",
        of_arguments(lambda a, p, s, o, trajectory, *rest: (a, p, s, o, as_if_valid(trajectory), *rest)),
        own(critic_steps, True),
    ),
    # Errors and reports.
    "variance divided by N twice": Mutation(
        stored, "finish",
        of_result(lambda out: out._replace(variance=jax.tree.map(lambda v: v / out.num_episodes, out.variance))),
        own(stored_gae, True),
    ),
    "variance about zero in the place of the mean": Mutation(
        stored, "finish", of_result(uncentred), own(stored_gae, True)
    ),
    "variance of antithetic episodes one by one": Mutation(
        _groups, "variance_groups", lambda honest: lambda n, groups, *_, **__: honest(n, groups, None),
        own(antithetic_pairs),
    ),
    "returns of episodes that have not ended in the mean": Mutation(
        _play, "returns_of",
        of_arguments(lambda s, *rest: (s._replace(length=jnp.maximum(s.length, 1)), *rest)),
        own(played_in_small_buffers),
    ),
    # Distributions.
    "log-probability of the clipped action": Mutation(
        DiagonalNormal, "log_prob", lambda honest: lambda self, action: honest(self, self.to_environment(action)),
        against_numpyro("normal, clipped"),
    ),
    "one-sided tanh correction": Mutation(
        TanhNormal, "log_prob",
        lambda honest: lambda self, action: honest(self, action) + jnp.log1p(jnp.tanh(action)).sum(-1),
        against_numpyro("tanh-normal"),
    ),
}  # fmt: skip
CHECKS = {mutation.check.name: mutation.check for mutation in MUTATIONS.values()}


def honest_case(name):
    """Tests of other files run there, too: here they are slow."""
    if name.startswith(THIS):
        return pytest.param(name, id=name.removeprefix(THIS)[1:-1])
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [honest_case(name) for name in CHECKS])
def test_honest_code_passes(name, request):
    prepare(CHECKS[name], request)
    CHECKS[name].run()


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_caught(name, request, monkeypatch):
    plant(MUTATIONS[name], request, monkeypatch)
