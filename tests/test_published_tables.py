"""Numbers that other libraries publish in their tests, as facts: inputs, and what must come out."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg import weights
from jaxpg.algorithms._batch import Batch
from jaxpg.algorithms.impala import v_trace


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


# rlax (google-deepmind/rlax, rlax/_src/vtrace_test.py): two sequences of four steps, each with discounts of its own.
BEHAVIOR = np.array(
    [[[8.9, 0.7], [5.0, 1.0], [0.6, 0.1], [-0.9, -0.1]], [[0.3, -5.0], [1.0, -8.0], [0.3, 1.7], [4.7, 3.3]]]
)
TARGET = np.array(
    [[[0.4, 0.5], [9.2, 8.8], [0.7, 4.4], [7.9, 1.4]], [[1.0, 0.9], [1.0, -1.0], [-4.3, 8.7], [0.8, 0.3]]]
)
ACTIONS = np.array([[0, 1, 0, 0], [1, 0, 0, 1]])
REWARDS = np.array([[-1.3, -1.3, 2.3, 42.0], [1.3, 5.3, -3.3, -5.0]])
DISCOUNTS = np.array([[0.0, 0.89, 0.85, 0.99], [0.88, 1.0, 0.83, 0.95]])
VALUES = np.array([[2.1, 1.1, -3.1, 0.0], [3.1, 0.1, -1.1, 7.4]])
BOOTSTRAP = np.array([8.4, -1.2])
ERRORS = np.array(
    [[-1.6155143, -3.4973226, 1.8670533, 5.0316002e1], [1.4662437, 3.6116405, -8.3327293e-5, -1.3540000e1]]
)
ADVANTAGES = np.array(
    [[-1.6155143, -3.4973226, 1.8670534, 5.0316002e1], [1.4662433, 3.6116405, -8.3369283e-05, -1.3540000e1]]
)


@pytest.mark.parametrize("gamma", [0.5, 0.9], ids=str)
@pytest.mark.parametrize("sequence", [0, 1])
def test_v_trace_of_rlax(sequence, gamma, x64):
    """jaxpg has one γ. In units D_t = Π_{k<t} d_k / γ discounts d_t are all γ; d_t = 0 terminates."""
    row = sequence
    ratio = np.take_along_axis(softmax(TARGET) / softmax(BEHAVIOR), ACTIONS[..., None], -1)[row, :, 0]
    terminated = DISCOUNTS[row] == 0
    factors = np.where(terminated, 1.0, DISCOUNTS[row] / gamma)
    units = np.concatenate([[1.0], np.cumprod(factors)])
    column = lambda x: jnp.asarray(x)[:, None]  # noqa: E731
    batch = Batch(
        observation=None, action=None, log_prob=None,
        reward=column(REWARDS[row] * units[:-1]), terminated=column(terminated),
        truncated=column(np.zeros(4, bool)), valid=column(np.ones(4, bool)), starts=None,
        value=column(VALUES[row] * units[:-1]), last_value=jnp.asarray([BOOTSTRAP[row] * units[-1]]),
        policy_carry=None, critic_carry=None,
    )  # fmt: skip
    advantages, targets = v_trace(batch, column(ratio), weights.v_trace(gamma, 1.0, lambda observation: 0.0))
    np.testing.assert_allclose(advantages[:, 0] / units[:-1], ADVANTAGES[row], rtol=1e-3)
    np.testing.assert_allclose((targets - batch.value)[:, 0] / units[:-1], ERRORS[row], rtol=1e-3)


# tianshou (thu-ml/tianshou, test/base/test_returns.py): rewards, ends of episodes, V of each step's successor, and
# V(s_t) + A_t with γ = 0.99, λ = 0.95; then the same with two of the three episodes truncated.
ENDS = np.array([0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1], bool)
TRUNCATED = np.array([0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0], bool)
GAE_REWARDS = np.array([101, 102, 103.0, 200, 104, 105, 106, 201, 107, 108, 109, 202])
NEXT_VALUES = np.array([2.0, 3.0, 4, -1, 5.0, 6.0, 7, -2, 8.0, 9.0, 10, -3])
TARGETS = {
    "terminated": [454.8344, 376.1143, 291.298, 200.0, 464.5610, 383.1085, 295.387, 201.0, 474.2876, 390.1027, 299.476,
                   202.0],
    "truncated": [454.0109, 375.2386, 290.3669, 199.01, 462.9138, 381.3571, 293.5248, 199.02, 474.2876, 390.1027,
                  299.476, 202.0],
}  # fmt: skip


@pytest.mark.parametrize("how", list(TARGETS))
def test_generalized_advantages_of_tianshou(how, x64):
    """V(s_t) is V of the step before's successor; at an episode's first step it cancels in V(s_t) + A_t."""
    truncated = TRUNCATED if how == "truncated" else np.zeros(12, bool)
    values = np.roll(NEXT_VALUES, 1)
    advantages = weights.generalized_advantages(
        GAE_REWARDS, values, NEXT_VALUES, ENDS & ~truncated, truncated, 0.99, 0.95
    )
    np.testing.assert_allclose(values + advantages, TARGETS[how], rtol=1e-5)


@pytest.mark.parametrize(
    "rewards, ends, returns",
    [
        ([0, 1, 2, 3, 4, 5, 6, 7.0], [1, 0, 0, 1, 0, 1, 0, 1], [0, 1.23, 2.3, 3, 4.5, 5, 6.7, 7]),
        ([7, 6, 1, 2, 3, 4, 5.0], [0, 1, 0, 1, 0, 1, 0], [7.6, 6, 1.2, 2, 3.4, 4, 5]),
        ([7, 6, 1, 2, 3, 4, 5.0], [0, 1, 0, 1, 0, 0, 1], [7.6, 6, 1.2, 2, 3.45, 4.5, 5]),
    ],
)
def test_episodic_returns_of_tianshou(rewards, ends, returns, x64):
    discounts = jnp.where(jnp.asarray(ends, bool), 0.0, 0.1)
    np.testing.assert_allclose(weights.discounted_returns(jnp.asarray(rewards), discounts), returns, rtol=1e-6)
