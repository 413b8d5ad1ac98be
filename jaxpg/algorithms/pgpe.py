"""PGPE: policy gradients with parameter-based exploration (Sehnke et al., 2008).

The noise is in the parameters, drawn once for an episode, and the policy may act without any:

    J(μ, σ) = E_{θ ~ N(μ, σ²)}[ R(θ) ],    θ = μ + σ z,    z ~ N(0, I)
    ∇_μ J = E[ z/σ · (R(μ + σ z) − R(μ − σ z)) / 2 ]
    ∇_{log σ} J = E[ (z² − 1) · ((R(μ + σ z) + R(μ − σ z)) / 2 − b) ]

with a σ for each parameter. The two of a pair play the same episodes (common random numbers), so that what their
returns differ by is the parameters' doing.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _check, _mesh, rollout
from jaxpg._keywords import hinted
from jaxpg._plan import require_max_steps
from jaxpg._threefry import fold_in
from jaxpg.algorithms import _parts
from jaxpg.algorithms.types import Algorithm
from jaxpg.envs.base import Environment
from jaxpg.envs.check import check_structure
from jaxpg.lanes import EpisodeStatistics, Player, float_dtype
from jaxpg.policies.base import Policy

__all__ = ["PgpeState", "pgpe"]

BASELINES = ("leave_one_out", "moving", "none")
SHAPINGS = ("ranks", "standardize", "none")


class PgpeState(NamedTuple):
    """What PGPE carries from update to update.

    Fields:
      params: μ, the policy's parameters.
      log_std: log σ, a pytree like params.
      optimizer, std_optimizer: the optimisers' states.
      baseline: (Σ weight · fitness, Σ weight) of earlier updates, for the moving baseline.
      key, update: the number of updates done, and what names their random draws.
    """

    params: Any
    log_std: Any
    optimizer: Any
    std_optimizer: Any
    baseline: tuple[jax.Array, jax.Array]
    key: jax.Array
    update: jax.Array


@hinted
def pgpe(
    env: Environment,
    policy: Policy,
    *,
    num_perturbations: int = 16,
    episodes_per_perturbation: int = 1,
    antithetic: bool = True,
    discount: Any = 1.0,
    initial_std: Any = 0.1,
    baseline: str = "leave_one_out",
    baseline_decay: Any = 0.9,
    shaping: str = "standardize",
    deterministic: bool | None = None,
    learning_rate: Any = None,
    optimizer: Any = None,
    max_gradient_norm: Any = None,
    std_learning_rate: Any = None,
    std_optimizer: Any = None,
) -> Algorithm:
    """PGPE with symmetric sampling. There is no critic, and no gradient of the policy is taken.

    Args:
      env: needs an episode limit.
      policy: may have a memory; its gradients need not exist. `params` of the state is μ.
      num_perturbations: draws of z; each is played as μ + σ z and, if `antithetic`, as μ − σ z.
      episodes_per_perturbation: whole episodes that each of these plays; their mean return is R.
      antithetic: play both signs. Else the gradients are the means of z/σ (R − b) and (z² − 1)(R − b).
      discount: γ of the return, 1 for the return that `evaluate` shows.
      initial_std: σ at first, the same for all parameters.
      baseline: b. "leave_one_out": the mean of the other draws' R. "moving": the exponential mean of the updates
        before, which weighs the last one 1 − baseline_decay (leave-one-out in the first update). "none": 0. All leave
        the gradients unbiased; symmetric ∇_μ needs none.
      shaping: what stands for R. "standardize": (R − mean) / std over all R of the update; "ranks": their ranks, from
        −½ to ½, ties sharing their mean, which an outlier cannot spoil. Both make the step independent of the scale of
        rewards, and the gradients biased: they are not those of J. "none": R itself.
      deterministic: act with the mode of the policy's distributions. Default: where they have one; evaluate the result
        in the same way, evaluate(…, deterministic=True).
      learning_rate: of the Adam that changes μ; a number, or a function of the number of updates. Default 0.05.
      optimizer: an optax optimiser in the place of Adam and the learning rate.
      max_gradient_norm: the gradient in μ is clipped to this global norm; None: not at all.
      std_learning_rate: of the Adam that changes log σ; a number or a function of the number of updates. Default 0.01.
        With std_optimizer=optax.set_to_zero() σ stays, and this is an evolution strategy (Salimans et al., 2017).
      std_optimizer: an optax optimiser in the place of it.

    Episode j of draw i has the key fold_in(fold_in(k, i), j), k that of `Algorithm.episode_key`, for both signs; i and
    j are `nonfinite_lane` and `nonfinite_episode`. It was played with perturbed parameters, not with `params`.
    Raises:
      ValueError, TypeError: for arguments out of range, an environment without an episode limit, and policies that
        normalise observations: their statistics are not followed here.
    Source: Sehnke et al. (2008; 2010).
    """
    check_structure(_check.instance("env", env, Environment))
    longest = require_max_steps(env)
    if _check.instance("policy", policy, Policy).observe is not None:
        raise ValueError(
            "policy keeps statistics of its observations (observe), which pgpe would leave as they are at first: take "
            "a policy without normalisation, or scale the observations in the environment"
        )
    n = _check.count("num_perturbations", num_perturbations)
    num_episodes = _check.count("episodes_per_perturbation", episodes_per_perturbation)
    _check.boolean("antithetic", antithetic)
    _check.unit("discount", discount)
    _check.positive("initial_std", initial_std)
    _check.named("baseline", baseline, BASELINES)
    _check.number("baseline_decay", baseline_decay, 0.0, 1.0)
    _check.named("shaping", shaping, SHAPINGS)
    if n == 1 and baseline != "none":
        raise ValueError(f"num_perturbations must be at least 2 for baseline={baseline!r}; got 1: take baseline='none'")
    has_mode = _parts.of_distribution(env, policy, lambda distribution: callable(getattr(distribution, "mode", None)))
    acts_by_mode = _check.boolean("deterministic", has_mode if deterministic is None else deterministic)
    if acts_by_mode and not has_mode:
        raise TypeError(
            "deterministic needs distributions with mode(); the policy's have none: take deterministic=False"
        )
    _parts.check_optimizer(optimizer, learning_rate, max_gradient_norm)
    _check.optional(_check.optimizer, "std_optimizer", std_optimizer)
    if std_optimizer is not None and std_learning_rate is not None:
        raise ValueError("give std_learning_rate or a std_optimizer, which has a learning rate of its own; got both")
    rate = 0.05 if learning_rate is None else learning_rate
    std_rate = 0.01 if std_learning_rate is None else std_learning_rate
    _parts.schedule("std_learning_rate", std_rate)
    descent = _parts.make_descent(optimizer, rate, max_gradient_norm, None)
    std_descent = _parts.make_descent(std_optimizer, std_rate, None, None)
    signs = jnp.array([1, -1]) if antithetic else jnp.array([1])
    player = Player(env=env, policy=policy, discount=discount, deterministic=acts_by_mode)

    def free(params: Any, vector: Any) -> Any:
        if policy.trainable is None:
            return vector
        return jax.tree.map(lambda t, v: jnp.where(t, v, 0), policy.trainable(params), vector)

    def keys_of(state: PgpeState, update: Any) -> tuple[jax.Array, jax.Array]:
        """The keys of an update's perturbations and of its episodes."""
        keys = jax.random.split(jax.random.fold_in(state.key, update))
        return keys[0], keys[1]

    def init(key: Any) -> PgpeState:
        policy_key, key = jax.random.split(_check.key("key", key))
        params = _check.params("params", policy.init(policy_key))
        log_std = jax.tree.map(lambda p: jnp.full_like(p, jnp.log(initial_std)), params)
        zero = jnp.zeros((), float_dtype())
        return PgpeState(
            params=params,
            log_std=log_std,
            optimizer=descent.init(params),
            std_optimizer=std_descent.init(log_std),
            baseline=(zero, zero),
            key=key,
            update=jnp.zeros((), jnp.int32),
        )

    def play(key: jax.Array, params: Any) -> EpisodeStatistics:
        queue = rollout.Queue.of(0, num_episodes, num_episodes)
        most_rows = min(num_episodes * longest, jnp.iinfo(jnp.int32).max)
        return rollout.episodes(player, params, key, queue, None, num_rows=most_rows, max_slots=num_episodes)[2]

    def step(state: PgpeState) -> tuple[PgpeState, dict[str, Any]]:
        noise_key, episode_key = keys_of(state, state.update)
        z = free(state.params, _normal_like(noise_key, state.params, n))

        def perturbed(draw: tuple, mean: Any, log_std: Any, episode_key: jax.Array) -> EpisodeStatistics:
            indices, z = draw

            def one(sign: jax.Array, place: jax.Array) -> EpisodeStatistics:
                params = jax.tree.map(lambda mean, s, z: mean + sign * jnp.exp(s) * z[place], mean, log_std, z)
                return play(fold_in(episode_key, indices[place]), params)

            # Signs and draws as one axis: with two, `vmap` would batch the loop over episodes twice.
            sign, place = jnp.repeat(signs, indices.size), jnp.tile(jnp.arange(indices.size), signs.size)
            played = jax.vmap(one)(sign, place)
            return jax.tree.map(lambda x: x.reshape(signs.size, -1, *x.shape[1:]), played)

        _mesh.divides("num_perturbations", n)
        on_devices = _mesh.along_devices(_mesh.current(), perturbed, cut={0: 0}, axes=1)
        played = on_devices((jnp.arange(n), z), state.params, state.log_std, episode_key)
        fitness = jnp.mean(played.discounted_returns, axis=-1)  # [sign, draw]
        value = shaped(fitness, shaping)
        even = jnp.mean(value, axis=0)
        b, after_baseline = _baseline(even, state.baseline, baseline, baseline_decay)
        odd = 0.5 * (value[0] - value[1]) if antithetic else even - b

        def mean_over_draws(weight: jax.Array, x: jax.Array) -> jax.Array:
            return jnp.tensordot(weight.astype(x.dtype), x, 1, precision="highest") / n

        ascent = jax.tree.map(lambda z, s: mean_over_draws(odd, z) * jnp.exp(-s), z, state.log_std)
        std_ascent = free(state.params, jax.tree.map(lambda z: mean_over_draws(even - b, z**2 - 1), z))
        # Gradients point uphill, optax's updates descend.
        params, optimizer_state = descent.step(
            jax.tree.map(jnp.negative, ascent), state.optimizer, state.params, state.update
        )
        log_std, std_optimizer_state = std_descent.step(
            jax.tree.map(jnp.negative, std_ascent), state.std_optimizer, state.log_std, state.update
        )
        new = state._replace(
            params=params,
            log_std=log_std,
            optimizer=optimizer_state,
            std_optimizer=std_optimizer_state,
            baseline=after_baseline,
        )
        norm = _parts.global_norm(ascent)
        bad = ~jnp.isfinite(played.discounted_returns)
        lane, episode = _first(bad)
        is_finite = _parts.finite((params, log_std, optimizer_state, std_optimizer_state, norm))
        applied = is_finite & ~jnp.any(bad)
        new = jax.tree.map(
            lambda after, before: jnp.where(applied, after, before), new._replace(key=None), state._replace(key=None)
        )
        return new._replace(key=state.key, update=state.update + 1), {
            "episode_return": jnp.mean(played.returns),
            "episode_length": jnp.mean(played.length.astype(float_dtype())),
            "num_episodes": jnp.asarray(played.length.size, jnp.int32),
            "env_steps": jnp.sum(played.length, dtype=jnp.int32),
            "fitness_std": jnp.std(fitness),
            "gradient_norm": norm,
            "std": _mean_std(new.params, new.log_std),
            "nonfinite": jnp.sum(bad, dtype=jnp.int32) + ~is_finite,
            "nonfinite_lane": lane,
            "nonfinite_episode": episode,
        }

    def _mean_std(params: Any, log_std: Any) -> jax.Array:
        """The mean of σ over the parameters that are perturbed."""
        counted = free(params, jax.tree.map(jnp.ones_like, params))
        summed = jax.tree.map(lambda c, s: jnp.stack([jnp.sum(c * jnp.exp(s)), jnp.sum(c)]), counted, log_std)
        total, number = sum(jax.tree.leaves(summed), jnp.zeros(2))
        return total / number

    return Algorithm(
        init=init,
        step=step,
        env=env,
        policy=policy,
        name="pgpe",
        config={
            **_parts.plain(
                num_perturbations=n, episodes_per_perturbation=num_episodes, antithetic=antithetic, discount=discount,
                initial_std=initial_std, baseline=baseline, baseline_decay=baseline_decay, shaping=shaping,
                deterministic=acts_by_mode, learning_rate=rate, optimizer=optimizer,
                max_gradient_norm=max_gradient_norm, std_learning_rate=std_rate, std_optimizer=std_optimizer,
            ),
            "policy": policy.description,
        },
        episode_key=lambda state: keys_of(state, state.update - 1)[1],
    )  # fmt: skip


def shaped(fitness: jax.Array, shaping: str) -> jax.Array:
    """What stands for the returns, an array like `fitness`; see `pgpe`."""
    if shaping == "standardize":
        return (fitness - jnp.mean(fitness)) / (jnp.std(fitness) + 1e-8)
    if shaping == "ranks":
        flat = fitness.reshape(-1)
        ordered = jnp.sort(flat)
        below, upto = (jnp.searchsorted(ordered, flat, side=side) for side in ("left", "right"))
        return ((below + upto - 1) / (2 * max(flat.size - 1, 1)) - 0.5).astype(fitness.dtype).reshape(fitness.shape)
    return fitness


def _baseline(fitness: jax.Array, moving: Any, kind: str, decay: Any) -> tuple[jax.Array, Any]:
    """(b for each draw, the moving mean with these draws counted in)."""
    n = fitness.shape[0]
    total, weight = moving
    counted = ((decay * total + jnp.mean(fitness)).astype(total.dtype), (decay * weight + 1).astype(weight.dtype))
    if kind == "none":
        return jnp.zeros_like(fitness), counted
    others = (jnp.sum(fitness) - fitness) / (n - 1)
    if kind == "moving":
        earlier = total / jnp.where(weight > 0, weight, 1)
        return jnp.where(weight > 0, earlier, others).astype(fitness.dtype), counted
    return others, counted


def _normal_like(key: jax.Array, params: Any, n: int) -> Any:
    """z, a pytree like `params` with a leading axis of n draws."""
    leaves, structure = jax.tree.flatten(params)
    keys = [jax.random.fold_in(key, index) for index in range(len(leaves))]
    return structure.unflatten([jax.random.normal(k, (n, *p.shape), p.dtype) for k, p in zip(keys, leaves)])


def _first(bad: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(draw, episode) of the first entry of `bad` [sign, draw, episode], or (−1, −1)."""
    rows = jnp.any(bad, axis=0)
    first = jnp.argmax(rows.reshape(-1)).astype(jnp.int32)
    where = jnp.stack([first // rows.shape[1], first % rows.shape[1]])
    where = jnp.where(jnp.any(rows), where, jnp.int32(-1))
    return where[0], where[1]
