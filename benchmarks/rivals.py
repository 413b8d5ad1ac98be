"""The usual ways to a whole-episode policy gradient, written as well as we can, to be measured against.

All estimate what `jaxpg.policy_gradient` does by default, the mean over episodes of

    Σ_t γ^t ∇ log π(a_t | s_t) G_t,        G_t = r_t + γ G_{t+1},

with the same environment, network and number of episodes:

- `idiomatic`: `vmap` over episodes of a `scan` over gymnax's own `step`, as in its documentation: every episode runs to
  the limit through automatic resets, what follows its end is masked, and one flat batch of all stored steps is
  differentiated.
- `masked`: batches of episodes side by side, `step_env` without resets, one random draw for the whole batch, a loop to
  the limit with what follows an episode's end masked, and a backward pass over blocks that fit the cache.
- `early_exit`: the same with all episodes side by side, but the loop stops when the last one has ended, and so does the
  backward pass.
- `early_exit_batches`: the same in small batches, each of which ends with its own last episode: fewer dead steps, and
  all of a batch stays in the cache.

The last three have a number of lanes (episodes side by side) and of steps in a block of the backward pass, which the
benchmark tries out (`candidates`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Problem(NamedTuple):
    """What every contender is given.

    Fields:
      game, game_params: the gymnax environment.
      env: the same environment as a `jaxpg.Environment`.
      policy: π; `apply` takes batches of observations.
      num_episodes, limit, discount: N, the episode limit and γ.
    """

    game: Any
    game_params: Any
    env: Any
    policy: Any
    num_episodes: int
    limit: int
    discount: float = 0.99


class Result(NamedTuple):
    """The estimate; the steps of the episodes; and these over the steps that were computed."""

    gradient: Any
    num_steps: jax.Array
    utilization: jax.Array


class Steps(NamedTuple):
    """[step, episode] arrays; `alive` marks the steps up to the episode's end."""

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    alive: jax.Array


def cartpole(num_episodes, limit, hidden_sizes, full_length=False):
    """CartPole-v1 with a tanh network, as a `Problem`.

    Args:
      full_length: nothing ends an episode before the limit: the dynamics and observations of CartPole, kept in bounds
        once the pole has fallen. All methods then have the same steps to compute.
    """
    from gymnax.environments.classic_control.cartpole import CartPole

    import jaxpg

    class FullLengthCartPole(CartPole):
        def is_terminated(self, state, params):
            return jnp.zeros_like(state.x, dtype=bool)

        def step_env(self, key, state, action, params):
            _, state, reward, terminated, info = super().step_env(key, state, action, params)
            kept = {name: jnp.clip(getattr(state, name), -10.0, 10.0) for name in ("x", "x_dot", "theta", "theta_dot")}
            state = state.replace(**kept)
            return self.get_obs(state), state, reward, terminated, info

    game = FullLengthCartPole() if full_length else CartPole()
    game_params = game.default_params.replace(max_steps_in_episode=limit)
    env = jaxpg.envs.from_gymnax(game, game_params)
    policy = jaxpg.policies.mlp(env, hidden_sizes=tuple(hidden_sizes))
    return Problem(game, game_params, env, policy, num_episodes, limit)


# --- Idiomatic -------------------------------------------------------------------------------------------------------


def idiomatic(problem):
    """(key, params) -> Result: `vmap` of `scan` over `step`, one flat batch for the gradient."""

    def gradient(key, params):
        steps = play_each(problem, key, params)
        return Result(flat_gradient(problem, params, steps), *_work(steps.alive))

    return gradient


def play_each(problem, key, params):
    """Steps, here as [episode, step] arrays."""

    def episode(key):
        reset_key, scan_key = jax.random.split(key)
        observation, state = problem.game.reset(reset_key, problem.game_params)

        def step(carry, key):
            observation, state = carry
            action_key, step_key = jax.random.split(key)
            action = problem.policy.apply(params, observation).sample(action_key)
            following, state, reward, terminated, truncated, _ = problem.game.step(
                step_key, state, action, problem.game_params
            )
            return (following, state), (observation, action, reward, terminated | truncated)

        keys = jax.random.split(scan_key, problem.limit)
        _, (observation, action, reward, done) = jax.lax.scan(step, (observation, state), keys)
        alive = jnp.cumsum(done) - done == 0
        return Steps(observation, action, reward, alive)

    return jax.vmap(episode)(jax.random.split(key, problem.num_episodes))


def flat_gradient(problem, params, steps):
    """The gradient of Σ γ^t G_t log π(a_t | s_t) / N over all steps at once."""

    def returns_of(reward, alive):
        def step(following, step):
            reward, alive = step
            total = jnp.where(alive, reward + problem.discount * following, 0.0)
            return total, total

        return jax.lax.scan(step, jnp.zeros(()), (reward, alive), reverse=True)[1]

    returns = jax.vmap(returns_of)(steps.reward, steps.alive)
    weights = problem.discount ** jnp.arange(problem.limit) * returns

    def objective(params):
        log_prob = problem.policy.apply(params, steps.observation).log_prob(steps.action)
        return jnp.sum(weights * log_prob) / problem.num_episodes

    return jax.grad(objective)(params)


def _work(alive):
    num_steps = jnp.sum(alive)
    return num_steps, num_steps / alive.size


# --- Masked, with and without early exit -----------------------------------------------------------------------------


def masked(problem, lanes=None, block=None):
    """(key, params) -> Result: every batch of `lanes` episodes to the limit, in blocks of `block` steps backward."""
    return _in_batches(problem, lanes or _divisor(problem.num_episodes, 512), block, stop_early=False)


def early_exit(problem, lanes=None, block=None):
    """(key, params) -> Result: `masked`, but ends with the last episode."""
    return _in_batches(problem, lanes or problem.num_episodes, block, stop_early=True)


def early_exit_batches(problem, lanes=None, block=None):
    """(key, params) -> Result: `masked`, but every batch ends with its last episode."""
    return _in_batches(problem, lanes or _divisor(problem.num_episodes, 128), block, stop_early=True)


def candidates(name, num_episodes, backend):
    """The lanes and blocks that are worth trying for a rival; each divides what it splits."""
    if backend == "cpu":
        all_lanes = [(num_episodes, block) for block in (256, 512, 1024, num_episodes)]
        batches = [(64, 64), (128, 128), (256, 256), (512, 256), (512, 512), (1024, 512)]
    else:
        all_lanes = [(num_episodes, block) for block in (16_384, 65_536, num_episodes)]
        batches = [(4096, 4096), (16_384, 16_384), (65_536, 65_536)]
    wanted = {"masked": [*batches[2:], *all_lanes[1:]], "early_exit": all_lanes, "early_exit_batches": batches}[name]
    found = []
    for lanes, block in wanted:
        lanes = _divisor(num_episodes, lanes)
        pair = {"lanes": lanes, "block": _divisor(lanes, block)}
        if pair not in found:
            found.append(pair)
    return found


def _divisor(number, most):
    """The largest divisor of `number` that is at most `most`."""
    return next(d for d in range(min(number, most), 0, -1) if number % d == 0)


def _in_batches(problem, lanes, block, stop_early):
    block = block or _divisor(lanes, 512)
    if problem.num_episodes % lanes or lanes % block:
        raise ValueError(f"lanes must divide {problem.num_episodes} episodes and block the lanes; got {lanes}, {block}")

    def gradient(key, params):
        # One set of buffers serves all batches: to fill them anew would cost as much as short episodes do.
        buffer = empty_buffer(problem, lanes, key, params)

        def batch(state, index):
            buffer, weights, sums = state
            buffer, num_rows = play(problem, jax.random.fold_in(key, index), params, buffer, stop_early)
            weights = weigh(problem, buffer, num_rows, weights)
            sums = add_blocks(problem, params, buffer, num_rows if stop_early else problem.limit, weights, block, sums)
            live = (jnp.arange(problem.limit) < num_rows)[:, None] & buffer.alive
            return (buffer, weights, sums), (jnp.sum(live), num_rows)

        start = (buffer, jnp.zeros_like(buffer.reward), jax.tree.map(jnp.zeros_like, params))
        (_, _, sums), (live, rows) = jax.lax.scan(batch, start, jnp.arange(problem.num_episodes // lanes))
        num_steps = jnp.sum(live)
        return Result(
            gradient=jax.tree.map(lambda s: s / problem.num_episodes, sums),
            num_steps=num_steps,
            utilization=num_steps / (jnp.sum(rows) * lanes),
        )

    return gradient


def empty_buffer(problem, lanes, key, params):
    """`Steps` of zeros, [limit, lanes, …]."""
    _, observation = jax.eval_shape(lambda key: _start(problem, lanes, key), key)
    action = jax.eval_shape(lambda observation: problem.policy.apply(params, observation).sample(key), observation)
    reward, alive = (jax.ShapeDtypeStruct((lanes,), dtype) for dtype in (jnp.result_type(float), bool))
    row = Steps(observation, action, reward, alive)
    return jax.tree.map(lambda x: jnp.zeros((problem.limit, *x.shape), x.dtype), row)


def _start(problem, lanes, key):
    observation, state = jax.vmap(problem.game.reset_env, (0, None))(jax.random.split(key, lanes), problem.game_params)
    return state, observation


def play(problem, key, params, buffer, stop_early):
    """Plays a batch of episodes into the buffer's rows; returns it and the number of rows played."""
    lanes = buffer.reward.shape[1]
    reset_key, loop_key = jax.random.split(key)
    state, observation = _start(problem, lanes, reset_key)
    step_env = jax.vmap(problem.game.step_env, (0, 0, 0, None))
    is_truncated = jax.vmap(problem.game.is_truncated, (0, None))

    def body(carry):
        row, state, observation, alive, buffer = carry
        action_key, step_key = jax.random.split(jax.random.fold_in(loop_key, row))
        action = problem.policy.apply(params, observation).sample(action_key)
        # CartPole draws nothing: these keys are not computed.
        keys = jax.random.split(step_key, lanes)
        following, state, reward, terminated, _ = step_env(keys, state, action, problem.game_params)
        steps = Steps(observation, action, reward, alive)
        buffer = jax.tree.map(lambda rows, new: rows.at[row].set(new.astype(rows.dtype)), buffer, steps)
        alive = alive & ~(terminated | is_truncated(state, problem.game_params))
        return row + 1, state, following, alive, buffer

    def goes_on(carry):
        row, _, _, alive, _ = carry
        return (row < problem.limit) & jnp.any(alive) if stop_early else row < problem.limit

    start = (jnp.zeros((), jnp.int32), state, observation, jnp.ones(lanes, bool), buffer)
    num_rows, _, _, _, buffer = jax.lax.while_loop(goes_on, body, start)
    return buffer, num_rows


def weigh(problem, buffer, num_rows, weights):
    """γ^t G_t of the first `num_rows` rows, 0 behind an episode's end, written into `weights`."""

    def body(carry):
        row, following, weights = carry
        row = row - 1
        following = jnp.where(buffer.alive[row], buffer.reward[row] + problem.discount * following, 0.0)
        return row, following, weights.at[row].set(problem.discount**row * following)

    start = (num_rows, jnp.zeros_like(buffer.reward[0]), weights)
    return jax.lax.while_loop(lambda carry: carry[0] > 0, body, start)[2]


def add_blocks(problem, params, buffer, num_rows, weights, block, sums):
    """Adds Σ weight ∇ log π(a | s) over the first `num_rows` rows, a block of `block` steps at a time, to `sums`."""
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (buffer.observation, buffer.action, weights))

    def objective(params, observation, action, weight):
        return jnp.sum(weight * problem.policy.apply(params, observation).log_prob(action))

    def add(index, sums):
        steps = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, index * block, block), flat)
        return jax.tree.map(jnp.add, sums, jax.grad(objective)(params, *steps))

    return jax.lax.fori_loop(0, num_rows * (weights.shape[1] // block), add, sums)


TUNABLE = {"masked": masked, "early_exit": early_exit, "early_exit_batches": early_exit_batches}
RIVALS = {"idiomatic": idiomatic, **TUNABLE}
