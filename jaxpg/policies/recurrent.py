"""Policies and critics with memory: hidden layers, a recurrent cell, and hidden layers again.

    x_t = encoder(s_t),    h_t = cell(x_t, h_{t−1}),    outputs = head(x_t, h_t)

The head sees the encoded observation beside the memory, so that what needs no memory need not pass through it. The
cells' equations are in `jaxpg/policies/_cells.py`. Along a sequence the encoder and the head work on all steps at once,
and only the cell goes from step to step; the linear one goes in O(log T) rounds.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jaxpg import _check
from jaxpg._keywords import hinted
from jaxpg.envs.base import Environment
from jaxpg.policies._build import (
    activation_name,
    build_critic,
    build_policy,
    dtype_name,
    image_trunk,
    sizes,
    vector_trunk,
)
from jaxpg.policies._cells import CELLS
from jaxpg.policies._describe import describe
from jaxpg.policies._linen import Trunk
from jaxpg.policies.base import Critic, Policy

__all__ = ["recurrent", "value_recurrent"]


@hinted
def recurrent(
    env: Environment,
    cell: str = "gru",
    size: int = 64,
    hidden_sizes: Sequence[int] = (64,),
    activation: str | Callable[..., Any] = "tanh",
    *,
    head_sizes: Sequence[int] = (64,),
    features: Sequence[int] | None = None,
    kernel_size: int = 3,
    strides: int = 1,
    squash: bool | str = False,
    state_dependent_std: bool = False,
    log_std_init: float = 0.0,
    head_gain: float = 0.01,
    shared_value: bool = False,
    dtype: Any = None,
) -> Policy:
    """A policy with memory, π(a_t | s_0, …, s_t).

        gru      h' = (1 − z) ⊙ n + z ⊙ h,  n = tanh(W_n x + b_n + r ⊙ U_n h),  r, z = σ(W x + b + U h)
        lstm     c' = f ⊙ c + i ⊙ tanh(W_g x + b_g + U_g h),  h' = o ⊙ tanh(c'),  i, f, o = σ(W x + b + U h)
        linear   h' = a ⊙ h + (1 − a) ⊙ (W_v x + b_v),  a = σ(W_a x + b_a)

    Args:
      cell: "gru" (Cho et al., 2014), "lstm" (Hochreiter & Schmidhuber, 1997) or "linear", whose gates see the input
        alone (minGRU; Feng et al., 2024), for long segments.
      size: of the memory. With 0 there is none, and the policy is that of `mlp` or `cnn` with hidden layers
        (*hidden_sizes, *head_sizes).
      hidden_sizes, head_sizes: widths of the hidden layers before and after the cell.
      features, kernel_size, strides: convolutions before the hidden layers, for images, as in `cnn`; None: flat
        observations, as in `mlp`.
      activation, squash, state_dependent_std, log_std_init, head_gain, shared_value, dtype: as in `mlp`. The memory is
        kept in full precision whatever `dtype` is.

    Weights of the cell start orthogonal gate by gate, biases at 0, but at 1 for the lstm's forget gate, and for the
    linear cell's gate such that its units average over 2 to 100 steps.

    Returns: a `Policy`; params is {"hidden_0", …, "memory": {"input": {"kernel", "bias"}, "recurrent"}, …, "head",
      "log_std"}, layers numbered on behind the cell. The carry is zeros at first: h [size], or {"cell", "hidden"} for
      an lstm.
    Raises: TypeError or ValueError for arguments out of range, and for spaces without a head.
    """
    trunk, network = _trunk(env, cell, size, hidden_sizes, activation, head_sizes, features, kernel_size, strides)
    head: dict[str, Any] = dict(
        squash=squash,
        state_dependent_std=state_dependent_std,
        log_std_init=log_std_init,
        head_gain=head_gain,
        shared_value=shared_value,
    )
    return build_policy(
        env,
        trunk,
        **head,
        dtype=dtype,
        critic=lambda: value_recurrent(env, **network, dtype=dtype),
        description=describe("policy", "recurrent", **network, **head, dtype=dtype_name(dtype)),
    )


@hinted
def value_recurrent(
    env: Environment,
    cell: str = "gru",
    size: int = 64,
    hidden_sizes: Sequence[int] = (64,),
    activation: str | Callable[..., Any] = "tanh",
    *,
    head_sizes: Sequence[int] = (64,),
    features: Sequence[int] | None = None,
    kernel_size: int = 3,
    strides: int = 1,
    head_gain: float = 1.0,
    dtype: Any = None,
) -> Critic:
    """A critic with memory, V(s_0, …, s_t), like the policy that `recurrent` builds, with one output."""
    trunk, network = _trunk(env, cell, size, hidden_sizes, activation, head_sizes, features, kernel_size, strides)
    description = describe("critic", "value_recurrent", **network, head_gain=head_gain, dtype=dtype_name(dtype))
    return build_critic(trunk, head_gain, dtype, description)


def _trunk(
    env: Environment,
    cell: Any,
    size: Any,
    hidden_sizes: Any,
    activation: Any,
    head_sizes: Any,
    features: Any,
    kernel_size: Any,
    strides: Any,
) -> tuple[Trunk, dict[str, Any]]:
    """The trunk, and the arguments that make another like it."""
    memory: dict[str, Any] = dict(
        cell=_check.named("cell", cell, CELLS),
        cell_size=_check.count("size", size, 0),
        head_sizes=sizes("head_sizes", head_sizes),
    )
    if features is None:
        trunk = vector_trunk(env, hidden_sizes, activation, **memory)
    else:
        trunk = image_trunk(env, features, hidden_sizes, activation, kernel_size, strides, **memory)
    arguments = dict(
        cell=cell,
        size=trunk.cell_size,
        hidden_sizes=trunk.hidden_sizes,
        activation=activation_name(activation),
        head_sizes=trunk.head_sizes,
        features=None if features is None else trunk.channels,
        kernel_size=_check.count("kernel_size", kernel_size),
        strides=_check.count("strides", strides),
    )
    return trunk, arguments
