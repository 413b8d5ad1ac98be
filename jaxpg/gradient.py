"""The policy gradient, estimated from whole episodes:

    ∇J(θ)  =  E_{τ ~ π_θ} [ Σ_t  w^t ∇_θ log π_θ(a_t | s_t) · ( Ψ_t(τ) − b_t ) ].

`policy_gradient` plays the episodes and averages; `jaxpg.stored.gradient_from` takes stored ones. Both run the same
code on them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check, _groups, _mesh, baselines, weights
from jaxpg import sampling as sampling_schemes
from jaxpg._accumulate import Terms
from jaxpg._batching import any_member
from jaxpg._estimate import EpisodeGradients, GradientEstimate, finish, merge
from jaxpg._importance import correction_for
from jaxpg._keywords import hinted
from jaxpg._plan import require_max_steps, row_bytes
from jaxpg._play import Job, example_row, lay_out, play_range
from jaxpg.baselines import Baseline
from jaxpg.envs.base import Environment
from jaxpg.envs.check import check_action, check_structure
from jaxpg.lanes import Player
from jaxpg.policies.base import Policy
from jaxpg.policies.distributions import is_distribution, to_environment
from jaxpg.sampling import Sampling
from jaxpg.weights import Weight

__all__ = ["EpisodeGradients", "GradientEstimate", "policy_gradient"]

FIRST_BATCH = 256  # Episodes that num_episodes="auto" starts with.


@hinted
def policy_gradient(
    env: Environment,
    policy: Policy,
    *,
    num_episodes: int | str,
    weight: Weight | None = None,
    baseline: Baseline | None = None,
    entropy_coefficient: Any = None,
    temperature: Any = None,
    behavior: tuple[Policy, Any] | None = None,
    importance_sampling: str = "per_decision",
    sampling: Sampling | None = None,
    per_episode: bool = False,
    target_snr: Any = None,
    target_error: Any = None,
    max_episodes: int = 2**20,
    chunk_size: int | None = None,
    num_groups: int | None = None,
    num_lanes: int | None = None,
    block_size: int | None = None,
    buffer_bytes: int | None = None,
    mesh: Any = None,
) -> Callable[[Any, Any], GradientEstimate]:
    """Builds (key, params) -> GradientEstimate, the policy gradient averaged over `num_episodes` whole episodes.

    The function may be put under `jit`, `vmap` (over keys, params, and whatever `env`, `weight` and `baseline` hold).
    Episode i depends on `key` and i alone; the arguments from `chunk_size` on change the estimate by rounding only,
    except that `chunk_size` is the default group of baselines that are made of other episodes.

    `jax.jvp` and `jax.jacfwd` differentiate the estimate, its episodes given, in what `weight`, `baseline` and
    `temperature` hold: an unbiased estimate's derivative in γ is an unbiased one of ∂∇J/∂γ. Not in params, which decide
    what is played (`jaxpg.dice` is for that). Reverse mode stops at the loops with JAX's error.

    Args:
      env: needs an episode limit, `env.max_steps`.
      policy: without memory.
      num_episodes: N; or "auto": 256 episodes, then twice as many each time until a target is met or `max_episodes`
        are played. Stopping on what was sampled biases the estimate: by less than its standard error, but not zero.
        For an unbiased one take N from the noise scale of a first estimate by another key.
      weight: Ψ, from `jaxpg.weights`; default `reward_to_go(discount=0.99)`.
      baseline: b, from `jaxpg.baselines`; default `none()`.
      entropy_coefficient: β ≥ 0 adds the entropy bonus β Σ_t w^t ∇H(π(· | s_t)), which takes the states as given: the
        sum is the gradient of no objective.
      temperature: α ≥ 0 for the soft policy gradient: that of E[Σ_t γ^t (r_t − α log π(a_t | s_t))], the
        maximum-entropy objective (Haarnoja et al., 2017). Rewards, `objective` and baselines then include that term.
      behavior: None, or (policy, params) of another policy μ that acts in the place of `policy`; the estimate is then
        corrected by importance sampling.
      importance_sampling: how (Precup et al., 2000). With ρ_t = π(a_t | s_t) / μ(a_t | s_t): "per_decision" gives the
        reward of step t the ratios up to t (a weight that is one for the whole episode takes all of them), "trajectory"
        gives every term of an episode the product of all, both unbiased; "self_normalized" divides that by the sum of
        the products, with a bias of the order of 1/N. V-trace corrects itself.
      sampling: from `jaxpg.sampling`: how the noise of actions depends between episodes; default `independent()`.
      per_episode: return each episode's own gradient and score, too: memory 2 N × size of params.
      target_snr, target_error: for "auto": the signal-to-noise ratio, or the standard error √(tr Σ / N) of the
        gradient, at which to stop; the first that is met counts.
      max_episodes: for "auto", which plays at most the largest 256 · 2^k within it.
      chunk_size: most episodes started before their gradient is taken and their steps are dropped.
      num_groups: groups of consecutive episodes from which the variance is estimated (default 32, at most N). Their
        gradients are held at once: memory num_groups × size of params. `num_groups=num_episodes` takes every episode by
        itself.
      num_lanes: episodes played side by side; default 256 on a CPU, 32,768 on a GPU.
      block_size: steps of one block of the backward pass.
      buffer_bytes: most bytes of the buffers that hold steps, for one device and one member of a `vmap`; default 6 to
        24 MiB on a CPU, and 256 MiB where a baseline needs whole groups in memory.
      mesh: None for one device, "auto" for all, or a `jax.sharding.Mesh`; the episodes are laid over its devices.
    Raises:
      ValueError, TypeError: for arguments out of range, an environment without limit or of wrong structure, a policy
        that does not fit it; and, where `key` and `params` are concrete, for rewards or a gradient that is not finite.
    """
    weight = weights.reward_to_go(discount=0.99) if weight is None else _check.instance("weight", weight, Weight)
    baseline = baselines.none() if baseline is None else _check.instance("baseline", baseline, Baseline)
    scheme = sampling_schemes.independent() if sampling is None else _check.instance("sampling", sampling, Sampling)
    _check_players(env, policy, behavior)
    size = _size(num_episodes, target_snr, target_error, max_episodes, num_groups, baseline, scheme)
    _check_combination(weight, baseline, scheme, behavior, temperature, size)
    per_episode = _check.boolean("per_episode", per_episode)
    options = {
        "chunk_size": _check.optional(_check.count, "chunk_size", chunk_size, 2 if baseline.of_other_episodes else 1),
        "num_lanes": _check.optional(_check.count, "num_lanes", num_lanes),
        "block_size": _check.optional(_check.count, "block_size", block_size),
        "buffer_bytes": _check.optional(_check.count, "buffer_bytes", buffer_bytes),
    }
    mesh = _mesh.as_mesh("mesh", mesh)
    terms = Terms(
        policy, weight, baseline, _check.optional(_check.number, "entropy_coefficient", entropy_coefficient, 0)
    )
    player = Player(
        env=env,
        policy=policy if behavior is None else behavior[0],
        discount=weight.discount,
        temperature=_check.optional(_check.number, "temperature", temperature, 0),
        value=weight.value,
        final_rows=weight.value is not None,
    )
    acting = None if behavior is None else behavior[1]
    correction = correction_for(importance_sampling, weight)  # Checked in any case.
    correction = None if behavior is None else correction
    check_structure(env)

    def estimate(key, params):
        row = jax.eval_shape(
            lambda k, p: example_row(player, acting is not None, k, p), key, params if acting is None else acting
        )
        layout = lay_out(
            player, terms, size.largest, options, row_bytes(row), 1 if mesh is None else mesh.size, size.most
        )
        ends = size.ends(layout.peer_group_size if baseline.of_other_episodes else None)
        job = Job(
            player=player,
            acting=acting,
            terms=terms,
            correction=correction,
            sampling=scheme,
            layout=layout,
            num_groups=len(ends),
            per_episode=size.most if per_episode else 0,
            mesh=mesh,
        )
        return _whole(job, size, ends, key, params)

    compiled = jax.jit(estimate)
    seen = set()  # Structures of params that have been checked.

    def gradient(key, params):
        key = _check.key("key", key)
        leaves, structure = jax.tree.flatten(params)
        form = (structure, *((getattr(leaf, "shape", ()), getattr(leaf, "dtype", type(leaf))) for leaf in leaves))
        if form not in seen:
            _check_policy(env, policy, params, "params", "policy")
            if behavior is not None:
                _check_policy(env, *behavior, "behavior's params", "behavior's policy")
            seen.add(form)
        result = compiled(key, params)
        if _check.is_concrete(result.num_nonfinite) and result.num_nonfinite > 0:
            raise ValueError(
                f"reward: {int(result.num_nonfinite)} of {int(result.num_episodes)} episodes of {env.name} have a "
                f"return that is not finite"
            )
        if _check.is_concrete(result.gradient_norm) and not np.isfinite(result.gradient_norm):
            _check.finite("params", params)
            raise ValueError(
                f"gradient: its norm is {result.gradient_norm} though all returns are finite: look at the observations "
                f"of {env.name}, the policy's log_prob, and the functions given to weight and baseline"
            )
        return result

    return gradient


class _Size(NamedTuple):
    """How many episodes: `first` to begin with, then twice as many each time, up to `most`, until a target is met."""

    first: int
    most: int
    num_groups: int | None
    sampling_group: int | None
    target_snr: Any
    target_error: Any

    @property
    def largest(self) -> int:
        """Most episodes that are played at a time."""
        return self.first if self.most == self.first else max(self.first, self.most // 2)

    def ends(self, peer_group: int | None) -> list[int]:
        """The variance's groups of the first range."""
        if self.sampling_group is not None:
            return _groups.variance_groups(self.first, self.num_groups, self.sampling_group, strict=True)
        return _groups.variance_groups(self.first, self.num_groups, peer_group)


def _size(
    num_episodes: Any,
    target_snr: Any,
    target_error: Any,
    max_episodes: Any,
    num_groups: Any,
    baseline: Baseline,
    scheme: Sampling,
) -> _Size:
    """The sizes, checked."""
    num_groups = _check.optional(_check.count, "num_groups", num_groups)
    sampling_group = scheme.group_size if scheme.group_size > 1 else None
    targets = (target_snr, target_error)
    if not isinstance(num_episodes, str):
        number = _check.count("num_episodes", num_episodes)
        if number >= 2**31:
            raise ValueError(f"num_episodes must be below 2³¹, since episode ids are 32 bits wide; got {number}")
        if targets != (None, None):
            raise ValueError('target_snr and target_error belong to num_episodes="auto"; got a number of episodes')
        if number % scheme.group_size:
            raise ValueError(
                f"num_episodes must be a multiple of {scheme.group_size} for {scheme.name} sampling; got {number}"
            )
        return _Size(number, number, num_groups, sampling_group, None, None)
    if num_episodes != "auto":
        raise TypeError(f'num_episodes must be an integer of at least 1, or "auto"; got {num_episodes!r}')
    if targets == (None, None):
        raise ValueError('num_episodes="auto" needs target_snr or target_error')
    _check.optional(_check.positive, "target_snr", target_snr)
    _check.optional(_check.positive, "target_error", target_error)
    most = _check.count("max_episodes", max_episodes, FIRST_BATCH)
    if most >= 2**31:
        raise ValueError(f"max_episodes must be below 2³¹, since episode ids are 32 bits wide; got {most}")
    doublings = int(np.log2(most / FIRST_BATCH))
    groups = num_groups or _groups.DEFAULT_GROUPS
    if FIRST_BATCH % groups:
        raise ValueError(f'num_groups must divide {FIRST_BATCH} for num_episodes="auto"; got {groups}')
    tied = baseline.group_size if baseline.of_other_episodes else scheme.group_size
    if tied is not None and (FIRST_BATCH // groups) % tied:
        raise ValueError(
            f'num_episodes="auto" takes its variance from groups that start with {FIRST_BATCH // groups} episodes; '
            f"episodes that depend on each other must divide them, and these are {tied}: give another num_groups"
        )
    return _Size(FIRST_BATCH, FIRST_BATCH * 2**doublings, groups, sampling_group, target_snr, target_error)


def _whole(job: Job, size: _Size, ends: list[int], key: jax.Array, params: Any) -> GradientEstimate:
    """Plays range after range of episodes and gives the estimate from all of them."""
    optimal = job.terms.baseline.optimal

    def estimate(moments, sizes, number):
        sums = _groups.group_sums(moments.sums, optimal)
        self_normalized, dependent = job.correction == "self_normalized", job.sampling.group_size > 1
        return finish(moments, sums, params, sizes, number, self_normalized, dependent)

    first_ends = jnp.asarray(ends, jnp.int32)
    moments = play_range(job, key, params, 0, size.first, first_ends)
    sizes = jnp.diff(first_ends, prepend=0)
    if size.most == size.first:
        return estimate(moments, sizes, size.first)

    def wanting(moments, number):
        """Whether no target is met and more episodes may be played."""
        now = estimate(moments, sizes * (number // size.first), number)
        met = jnp.zeros((), bool)
        if size.target_snr is not None:
            met |= now.snr >= size.target_snr
        if size.target_error is not None:
            met |= jnp.sqrt(now.trace) <= size.target_error
        return ~met & (number < size.most)

    def body(state):
        moments, number, going, _ = state
        # Each range doubles what there is, group by group. Under `vmap`, a member that is done plays nothing more.
        last = jnp.where(going, 2 * number, number)
        new = play_range(job, key, params, number, last, number + first_ends * (number // size.first))
        moments = merge(moments, new)
        going = going & wanting(moments, last)
        return moments, last, going, any_member(going)

    number = jnp.asarray(size.first, jnp.int32)
    going = wanting(moments, number)
    moments, number, _, _ = jax.lax.while_loop(
        lambda state: state[-1], body, (moments, number, going, any_member(going))
    )
    return estimate(moments, sizes * (number // size.first), number)


def _check_players(env: Any, policy: Any, behavior: Any) -> None:
    """The environment, the policy and the one that acts in its place, by themselves."""
    require_max_steps(_check.instance("env", env, Environment))
    if _check.instance("policy", policy, Policy).initial_carry is not None:
        raise ValueError("policy has a memory (initial_carry); policy_gradient takes policies without one")
    if behavior is None:
        return
    if not (isinstance(behavior, tuple) and len(behavior) == 2 and isinstance(behavior[0], Policy)):
        raise TypeError(f"behavior must be a pair (policy, params); got {type(behavior).__name__} ({behavior!r:.80})")
    if behavior[0].initial_carry is not None:
        raise ValueError("behavior's policy has a memory (initial_carry); policy_gradient takes policies without one")


def _check_combination(
    weight: Weight, baseline: Baseline, scheme: Sampling, behavior: Any, temperature: Any, size: _Size
) -> None:
    """What cannot be combined, and why."""
    if baseline.of_other_episodes and size.first < 2:
        raise ValueError(f"num_episodes must be at least 2 for a baseline made of the other episodes; got {size.first}")
    if baseline.optimal is not None and len(size.ends(None)) < 2:
        raise ValueError(
            f"num_episodes and num_groups must leave at least 2 groups of independent episodes for the optimal "
            f"baseline, which is fitted on other groups; got 1 group of {size.first} episodes"
        )
    if weight.corrected and behavior is not None and baseline != baselines.none():
        raise ValueError(
            "baseline: V-trace subtracts its own, V; with behavior the scores have no mean of 0, and another one would "
            "bias the estimate further"
        )
    if baseline.of_other_episodes and scheme.group_size > 1:
        raise ValueError(
            f"baseline: the other episodes of a group are not independent of each other under {scheme.name} sampling, "
            f"so a baseline made of them would bias the estimate; give one that is known, or the optimal one"
        )
    if baseline.of_other_episodes and behavior is not None:
        raise ValueError(
            "baseline: one made of other episodes is available where the policy itself acts, not with behavior"
        )
    if temperature is not None and behavior is not None:
        raise ValueError("temperature is available where the policy itself acts, not with behavior")
    if weight.action_value is not None and temperature is not None:
        raise ValueError("temperature: give all_action a soft action value instead, Q(s, a) − α log π(a | s)")
    if weight.action_value is not None and (baseline.of_other_episodes or baseline.optimal is not None):
        raise ValueError("baseline: the sum over all actions has no sampled weight to fit a baseline to")


def _check_policy(env: Environment, policy: Policy, params: Any, params_name: str, policy_name: str) -> None:
    """One abstract step: does the policy take these params and the environment the policy's actions?"""
    _check.params(params_name, params)
    structure = check_structure(env)

    def act(params, observation, key):
        distribution = policy.apply(params, observation)
        if not is_distribution(distribution):
            raise TypeError(
                f"it must give a distribution, with sample(key) and log_prob(action); got "
                f"{_check.described(distribution)}"
            )
        action = distribution.sample(key)
        return to_environment(distribution, action), distribution.log_prob(action)

    try:
        action, log_prob = jax.eval_shape(act, params, structure.observation, jax.eval_shape(lambda: jax.random.key(0)))
    except Exception as error:
        raise ValueError(
            f"{params_name} do not fit the policy, or the policy does not fit {env.name}: policy.apply(params, "
            f"observation) failed with {type(error).__name__}: {error}"
        ) from error
    if log_prob.shape != ():
        raise ValueError(f"{policy_name}: log_prob of one action must be a scalar; got shape {log_prob.shape}")
    check_action(env, action)
