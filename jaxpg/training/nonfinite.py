"""What a run does about NaN and infinite values: names them, and says how to look at them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxpg.algorithms.types import Algorithm
from jaxpg.training._describe import acts_by_mode

__all__ = ["NonFiniteError"]


class NonFiniteError(ArithmeticError):
    """Raised by `train(…, nonfinite="raise")`; `result` is the `TrainResult` of the run until then."""

    def __init__(self, message: str, result: Any = None):
        super().__init__(message)
        self.result = result


def refused_updates(block: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which updates of the block were not applied; none where the algorithm does not say."""
    return np.flatnonzero(np.asarray(block.get("nonfinite", np.zeros(1))) > 0)


def describe_refused(
    algorithm: Algorithm, block: Mapping[str, np.ndarray], index: int, update: int, stopped: bool
) -> str:
    """What is known of an update that was not applied, and how to look at its episode."""
    entry = {name: int(block[name][index]) for name in ("nonfinite_lane", "nonfinite_episode") if name in block}
    lane, episode = entry.get("nonfinite_lane", -1), entry.get("nonfinite_episode", -1)
    head = f"update {update} met NaN or infinite values and was not applied"
    if episode < 0:
        return f"{head}; they arose in the gradient or in the new parameters, from episodes that were finite"
    where = f"episode {episode}" if lane < 0 else f"episode {episode} of lane {lane}"
    if algorithm.episode_key is None or algorithm.env is None or algorithm.policy is None:
        return f"{head}: {where}"
    name = f"{episode}" if lane < 0 else f"({lane}, {episode})"
    mode = ", deterministic=True" if acts_by_mode(algorithm) else ""
    replay = f"jaxpg.replay(algorithm.env, algorithm.policy, params, algorithm.episode_key(state), {name}{mode})"
    plays = (
        f"{replay} plays it with params = result.params and state = result.state; it may go another way where other "
        f"parameters had acted"
    )
    if stopped:
        return f"{head}: {where}. {plays}"
    return f'{head}: {where}. To look at it, run the same with nonfinite="stop"; then {plays}'


def describe_params(update: int) -> str:
    """The message for parameters that are NaN or infinite themselves."""
    return f"the parameters are NaN or infinite after update {update}; a smaller learning rate may help"
