"""Mistakes in algorithms and training that others shipped, planted one by one: each makes its check fail.

The machinery is in tests/mutating.py; docs/mutations.md is the table of this file and of tests/test_mutations.py.
"""

import dataclasses
import pathlib
import re
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_algorithm_networks as networks
import test_mutations
import test_ppo_a2c as learning
from mutating import Check, Mutation, of_arguments, of_result, of_suite, plant, prepare, with_options

import jaxpg
from jaxpg import _shuffle, baselines
from jaxpg.algorithms import _actor_critic, _parts
from jaxpg.algorithms.types import Algorithm
from jaxpg.cli import demo
from jaxpg.training import _run, train
from jaxpg.training.evaluate import Evaluation

THIS = "test_mutations_training.py::test_honest_code_passes"

# --- Algorithms and training ------------------------------------------------------------------------------------------


def default_reinforce():
    """The default optimiser sees a gradient of norm 10 where the norm was larger; each update plays new episodes."""
    env, policy, _ = test_mutations.walk()
    step_once = env.step

    def large_rewards(*args):
        state, timestep = step_once(*args)
        return state, timestep._replace(reward=20 * timestep.reward)

    env = dataclasses.replace(env, step=large_rewards)
    algorithm = jaxpg.reinforce(env, policy, num_episodes=4, baseline=baselines.none())
    step, state = jax.jit(algorithm.step), algorithm.init(jax.random.key(0))
    state, first = step(state)
    (_, adam) = state.optimizer_state
    assert first["gradient_norm"] > 50  # In several coordinates: each by itself could pass 10.
    np.testing.assert_allclose(np.linalg.norm(adam.mu) / 0.1, 10.0, rtol=1e-4)  # μ = (1 − 0.9) g.
    _, second = step(state)
    assert first["episode_return"] != second["episode_return"]


def trained():
    """80 steps by updates of 7 are 12 updates; returns of −1 do not reach −0.5, and 12 episodes are too few to tell."""

    class Count(NamedTuple):
        params: jax.Array

    metrics = {"env_steps": jnp.int32(7), "num_episodes": jnp.int32(1), "episode_return": jnp.float32(-1)}
    algorithm = Algorithm(init=lambda key: Count(jnp.zeros(())), step=lambda state: (Count(state.params + 1), metrics))
    # With a target, the lengths of the compiled blocks do not depend on the clock.
    result = jaxpg.train(algorithm, jax.random.key(0), num_env_steps=80, target_return=-0.5, progress=False)
    assert result.stopped == "budget"
    assert result.num_env_steps == 84 and result.num_updates == 12
    assert float(result.params) == 12


def evaluation_keys():
    """Of the demo: no two evaluations share their key, and none has the training's or one that is folded from it."""
    keys = []

    def record_training(algorithm, key=None, **options):
        keys.extend([] if key is None else [key])
        return train.TrainResult(None, 0, {}, 1, 1, 0.0, "target")

    def record_evaluation(key, *args, **options):
        keys.append(key)
        return Evaluation(jnp.zeros(1), jnp.ones(1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxpg, "train", record_training)
        patch.setattr(jaxpg, "evaluate", record_evaluation)
        demo.solve(types.SimpleNamespace(env=None, policy=None), jax.random.key(0), 1.0, 3)
    training, *evaluations = keys
    keys += [jax.random.fold_in(training, i) for i in range(3)]
    assert len(evaluations) == 3
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(keys)


# --- The mutations ----------------------------------------------------------------------------------------------------


def own(run):
    return Check(f"{THIS}[{run.__name__}]", run)


def with_key(test, *arguments, case=""):
    """A test of another file that takes the fixture `key`."""
    return Check(of_suite(test, case=case).name, lambda: test(jax.random.key(0), *arguments))


def state_of_before(honest):
    def play_block(algorithm, position, *rest):
        return honest(algorithm, position, *rest)._replace(state=position.state)

    return play_block


def starts_late(model, params, batch, *rest):
    return (model, params, batch._replace(starts=jnp.roll(batch.starts, 1, axis=0)), *rest)


def other_statistics(env, policy, params, *rest):
    """What acts sees observations standardised otherwise than what learns."""
    if policy.observe is not None:
        moved = jax.tree.map(lambda x: x + 0.5, params["observations"])
        params = {**params, "observations": moved}
    return (env, policy, params, *rest)


def without_first(policy, critic, parameters, observations, valid):
    return policy, critic, parameters, observations, valid & (observations[..., 1] > 0)


def nobody_to_blame(result):
    bad, (lane, episode) = result
    return jnp.zeros_like(bad), (lane, episode)


with_statistics = with_key(
    networks.test_statistics_are_frozen_while_acting_and_learning_and_count_every_observation, "mlp", case="mlp"
)
MUTATIONS = {
    # Random keys and budgets.
    "every update plays the same episodes": Mutation(
        jax.random, "fold_in", lambda honest: lambda key, data: key, own(default_reinforce)
    ),
    "evaluation takes the key of training": Mutation(
        jax.random, "split", lambda honest: lambda key, num=2: jnp.stack([key] * num), own(evaluation_keys)
    ),
    "a return of 0 reported before enough episodes ended": Mutation(
        _run, "recent_return", of_result(np.nan_to_num), own(trained)
    ),
    "gradient clipped element by element": Mutation(
        optax, "clip_by_global_norm", lambda honest: optax.clip, own(default_reinforce)
    ),
    "total steps rounded up to whole blocks": Mutation(
        _run, "play_block", of_arguments(lambda algorithm, position, left, *rest: (algorithm, position, 2**30, *rest)),
        own(trained),
    ),
    "parameters from before the update": Mutation(_run, "play_block", state_of_before, own(trained)),
    # Segments that algorithms learn from.
    "truncation treated as termination, actor-critic": Mutation(
        _parts, "generalized_advantages",
        of_arguments(lambda r, v, n, end, cut, *rest: (r, v, n, end | cut, cut, *rest)),
        with_key(learning.test_truncation_bootstraps_from_the_observation_before_the_reset),
    ),
    "bootstrap from the observation after the reset, actor-critic": Mutation(
        _actor_critic, "segment", with_options(final_rows=False),
        with_key(learning.test_truncation_bootstraps_from_the_observation_before_the_reset),
    ),
    "rows without a step averaged into the loss": Mutation(
        _parts, "sum_where", of_arguments(lambda mask, values: (jnp.ones_like(mask), values)),
        with_key(learning.test_the_loss_is_that_of_the_paper),
    ),
    "rows without a step averaged into standardised advantages": Mutation(
        _parts, "standardized", of_arguments(lambda values, mask: (values, jnp.ones_like(mask))),
        of_suite(learning.test_standardising_leaves_out_rows_without_a_step),
    ),
    "minibatches drawn with replacement": Mutation(
        _shuffle, "permutation", lambda honest: lambda key, n: jax.random.randint(key, (n,), 0, n),
        with_key(learning.test_each_step_is_learnt_from_once_in_an_epoch),
    ),
    "a return of 0 logged for updates in which no episode ended": Mutation(
        _actor_critic, "mean_where", of_result(jnp.nan_to_num), with_key(learning.test_metrics_name_what_they_are)
    ),
    "the scale of rewards leaks across episodes": Mutation(
        _parts, "scaled_rewards",
        of_arguments(lambda scale, r, ended, *rest: (scale, r, jnp.zeros_like(ended), *rest)),
        of_suite(learning.test_reward_scale_is_that_of_running_returns_and_stops_at_ends),
    ),
    # Memories and statistics.
    "a memory reset one step late": Mutation(
        _actor_critic, "forward", of_arguments(starts_late),
        with_key(networks.test_the_memory_that_learns_is_the_one_that_acted, "gru", case="gru"),
    ),
    "statistics renewed between acting and learning": Mutation(
        _actor_critic, "segment", of_arguments(other_statistics), with_statistics
    ),
    "first observations not counted": Mutation(
        _actor_critic, "observe", of_arguments(without_first), with_statistics
    ),
    # The guard.
    "parameters that are infinite kept": Mutation(
        _actor_critic, "finite", of_result(jnp.ones_like),
        with_key(learning.test_a_seed_that_diverges_leaves_the_others_alone),
    ),
    "an episode with a NaN learnt from": Mutation(
        _actor_critic, "blame", of_result(nobody_to_blame),
        with_key(learning.test_an_update_with_a_nan_is_counted_named_and_not_applied, "a2c", case="a2c"),
    ),
}  # fmt: skip
CHECKS = {mutation.check.name: mutation.check for mutation in MUTATIONS.values()}
SLOW = (
    "test_metrics_name",
    "_memory_",
    "loss_is_that_of_the_paper",
    "statistics",
    "diverges",
    "with_a_nan",
    "truncation",
    "each_step",
)


@pytest.mark.parametrize("name", [name for name in CHECKS if name.startswith(THIS)])
def test_honest_code_passes(name, request):
    prepare(CHECKS[name], request)
    CHECKS[name].run()


def case(name):
    """Those that compile much are slow."""
    slow = any(part in MUTATIONS[name].check.name for part in SLOW)
    return pytest.param(name, marks=pytest.mark.slow) if slow else name


@pytest.mark.parametrize("name", list(map(case, MUTATIONS)))
def test_mutation_is_caught(name, request, monkeypatch):
    plant(MUTATIONS[name], request, monkeypatch)


def test_the_page_lists_every_mutation():
    page = pathlib.Path(__file__).parent.parent.joinpath("docs", "mutations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+?) \| `([^|]+?)` \| `([^|]+?)` \|$", page, re.MULTILINE)
    every = [*test_mutations.MUTATIONS.items(), *MUTATIONS.items()]
    assert rows == [(name, m.place, m.check.name) for name, m in every]
