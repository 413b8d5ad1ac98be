"""Whether an environment keeps what an `Environment` promises: played with random actions, not only traced."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxpg import _check
from jaxpg.envs import spaces
from jaxpg.envs._played import STEPS_AFTER_THE_END, TIMES_COMPARED, Played, is_key, leaves, row
from jaxpg.envs.base import Environment
from jaxpg.envs.check import check_structure

__all__ = ["Conformance", "Finding", "check_env"]

PASSED, FAILED, NOTE = "passed", "failed", "note"
_MOST_STEPS = 1_000
_LANES_COMPARED = 4


class Finding(NamedTuple):
    """What one check found: its name, "passed", "failed" or "note", and what was seen."""

    check: str
    status: str
    message: str


@dataclasses.dataclass(frozen=True)
class Conformance:
    """What `check_env` found: `passed` if no check failed; notes are things to know, not mistakes."""

    name: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.status == FAILED)

    @property
    def notes(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.status == NOTE)

    def __str__(self) -> str:
        width = max(len(finding.check) for finding in self.findings)
        lines = [f"{finding.status:6}  {finding.check:{width}}  {finding.message}" for finding in self.findings]
        return "\n".join([f"{self.name}: {'conforms' if self.passed else 'does not conform'}", *lines])


def check_env(
    env: Environment, key: Any = None, *, num_episodes: int = 16, num_steps: int | None = None
) -> Conformance:
    """Plays episodes side by side with random legal actions and looks at what an `Environment` promises.

    - structure: what `reset` and `step` return, by tracing (`TypeError`s and `ValueError`s are told as failures).
    - purity: equal arguments give equal results, bit for bit, and tracing twice gives the same program.
    - no recompilation: a compiled `step` takes the states of `reset` and of `step` alike.
    - vmap = loop: an environment among others does what it does alone, up to rounding.
    - spaces: observations lie in their space until the end of the episode, the last one included, and masks leave an
      action.
    - finite: rewards and float observations.
    - ends: the step that ends an episode returns its last observation and state, not those of the next one.
    - after the end: whether steps go on to say so, and stay finite. Nothing looks at them, so this is a note.
    - time limit: `truncated` says it, and not before `max_steps`; or it is left to the rollout, which truncates there.
    - initial states: how many differ.

    Args:
      env: yours, or one from `jaxpg.make`.
      key: names the episodes and actions; the default is `jax.random.key(0)`.
      num_episodes: played side by side.
      num_steps: most steps of each; the default is the episode limit, at most 1,000.
    Returns:
      A `Conformance`; print it.
    Raises:
      TypeError, ValueError: arguments that are none of these. What is wrong with `env` itself is told, not raised.
    """
    _check.instance("env", env, Environment)
    key = jax.random.key(0) if key is None else _check.key("key", key)
    num_episodes = _check.count("num_episodes", num_episodes, 2)
    num_steps = _check.count_or("num_steps", num_steps, min(env.max_steps or _MOST_STEPS, _MOST_STEPS))

    try:
        check_structure(env)
    except Exception as error:  # Whatever the user's functions raise is what is to be told.
        return Conformance(env.name, (Finding("structure", FAILED, f"{type(error).__name__}: {error}"),))
    findings = [Finding("structure", PASSED, f"{env.observation_space} -> {env.action_space}")]
    findings += _purity_of_tracing(env)
    try:
        played = Played(env, key, num_episodes, num_steps)
    except Exception as error:
        return Conformance(env.name, (*findings, Finding("play", FAILED, f"{type(error).__name__}: {error}")))
    for check in (_purity, _recompilation, _vmap, _spaces, _finite, _ends, _after_the_end, _time_limit, _initial):
        findings += check(played)
    return Conformance(env.name, tuple(findings))


def _purity_of_tracing(env: Environment) -> list[Finding]:
    """Numbers from Python's or numpy's generators are constants of the program: another tracing draws others."""
    key, action = jax.random.key(0), spaces.shape_dtype(env.action_space)
    state, _ = jax.eval_shape(env.reset, key)

    def programs() -> Any:
        made = [
            jax.make_jaxpr(lambda *arguments, f=f: f(*arguments))(*arguments)
            for f, arguments in ((env.reset, (key,)), (env.step, (key, state, action)))
        ]
        text = [re.sub(r"0x[0-9a-f]+", "", str(one)) for one in made]
        return text, [np.asarray(c) for one in made for c in one.consts if not is_key(c)]

    (text, constants), (text_again, constants_again) = programs(), programs()
    same = text == text_again and all(map(_identical, constants, constants_again))
    if same:
        return []
    message = "traced twice, reset or step gives two different programs: they draw numbers or count outside of JAX"
    return [Finding("purity", FAILED, message)]


def _purity(played: Played) -> list[Finding]:
    state, observation = played.reset(played.reset_keys)
    if path := _difference((played.first_state, played.first_observation), (state, observation)):
        return [Finding("purity", FAILED, f"reset with the same key gave another result at {path}")]
    for keys, state, observation, action, after, timestep in played.kept:
        again = played.step(keys, state, observation)[:3]
        if path := _difference((action, after, timestep), again):
            return [Finding("purity", FAILED, f"step with the same arguments gave another result at {path}")]
    return [Finding("purity", PASSED, "the same key gives the same result, bit for bit")]


def _recompilation(played: Played) -> list[Finding]:
    reset = jax.jit(played.env.reset)
    state, _ = reset(played.reset_keys[0])
    action = row(played.kept[0][3], 0)
    for _ in range(3):
        state, _ = played.alone(played.reset_keys[0], state, action)
    if played.num_traces == 1:
        return [Finding("no recompilation", PASSED, "one program takes the states of reset and of step")]
    first, _ = jax.eval_shape(played.env.reset, played.reset_keys[0])
    weak = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(first)
        if getattr(leaf, "weak_type", False)
    ]
    because = f": weakly typed after reset is {', '.join(weak)} (give it a dtype)" if weak else ""
    message = f"step was compiled {played.num_traces} times for states of reset and of step{because}"
    return [Finding("no recompilation", FAILED, message)]


def _vmap(played: Played) -> list[Finding]:
    for t, (keys, state, _, action, after, timestep) in zip(TIMES_COMPARED, played.kept, strict=False):
        for lane in range(min(_LANES_COMPARED, len(keys))):
            alone = played.alone(keys[lane], row(state, lane), row(action, lane))
            if path := _difference(row((after, timestep), lane), alone, rounding=True):
                return [Finding("vmap = loop", FAILED, f"step {t} among others and alone differ at {path}")]
    return [Finding("vmap = loop", PASSED, "an environment among others does what it does alone")]


def _spaces(played: Played) -> list[Finding]:
    names = [name for name, _, _ in leaves(played.env, row(played.first_observation, 0))]
    for t, seen, living in [(-1, played.first_seen, np.ones(len(played.lengths), bool)), *played.living()]:
        where = "reset" if t < 0 else f"step {t}"
        outside = np.argwhere(~seen.inside & living[:, None])
        if len(outside):
            lane, leaf = outside[0]
            return [Finding("spaces", FAILED, f"the observation{names[leaf]} of {where} lies outside of its space")]
        ended_here = played.lengths == t + 1
        if np.any(~seen.leaves_an_action & living & ~ended_here):
            return [Finding("spaces", FAILED, f"the action_mask of {where} leaves no action")]
    return [Finding("spaces", PASSED, f"{_number_of_steps(played):,} observations lie in their space")]


def _finite(played: Played) -> list[Finding]:
    for t, seen, living in played.living():
        for what, finite in (("observation", seen.finite_observation), ("reward", seen.finite_reward)):
            if np.any(~finite & living):
                return [Finding("finite", FAILED, f"the {what} of step {t} is NaN or infinite")]
    return [Finding("finite", PASSED, "rewards and observations are finite")]


def _ends(played: Played) -> list[Finding]:
    """An episode that ended was reset by `step` itself if its state went back to where it began."""
    lanes = [int(lane) for lane in np.flatnonzero(played.ended)]
    if not lanes:
        return [Finding("ends", NOTE, f"no episode ended within {len(played.steps):,} steps")]
    reset_lanes = []
    for lane in lanes:
        before, last, _ = played.final[lane]
        first = row(played.first_state, lane)
        if _goes_on(played, lane) and _went_back(first, before, last, int(played.lengths[lane])):
            reset_lanes.append(lane)
    shortest, longest = played.lengths[lanes].min(), played.lengths[lanes].max()
    if reset_lanes:
        message = (
            f"{len(reset_lanes)} of {len(lanes)} episodes ended with the state of a new episode: step must not reset; "
            f"the last observation is lost"
        )
        return [Finding("ends", FAILED, message)]
    message = f"{len(lanes)} of {len(played.lengths)} episodes ended, after {shortest:,} to {longest:,} steps"
    return [Finding("ends", PASSED, message)]


def _goes_on(played: Played, lane: int) -> bool:
    """Whether the step after the last says nothing of an end: a number may start anew without a reset."""
    after = played.steps[played.lengths[lane] : played.lengths[lane] + 1]
    return not any(seen.terminated[lane] | seen.truncated[lane] for seen in after)


def _went_back(first: Any, before: Any, last: Any, length: int) -> bool:
    """Whether the last state is the first one again, or a counter in it fell back to where it began."""
    moved = []
    for a, b, c in zip(*(jax.tree.leaves(tree) for tree in (first, before, last)), strict=True):
        if is_key(a):
            continue
        a, b, c = np.asarray(a), np.asarray(b), np.asarray(c)
        if np.array_equal(a, b):
            continue
        moved.append(np.array_equal(a, c))
        counts = a.size == 1 and length > 2 and float(b.reshape(())) - float(a.reshape(())) == length - 1
        if counts and moved[-1]:
            return True
    return bool(moved) and all(moved)


def _after_the_end(played: Played) -> list[Finding]:
    said, asked, finite = 0, 0, True
    for t, seen in enumerate(played.steps):
        after = (played.lengths <= t) & (played.lengths + STEPS_AFTER_THE_END > t)
        asked += int(after.sum())
        said += int(((seen.terminated | seen.truncated) & after).sum())
        finite &= bool(np.all(seen.finite_observation[after]) and np.all(seen.finite_reward[after]))
    if not asked:
        return []
    message = f"steps after the end say that it has ended in {said} of {asked} cases"
    if not finite:
        message += ", and give NaN or infinite values (looked at by nobody, but they may reach a gradient)"
    return [Finding("after the end", PASSED if said == asked and finite else NOTE, message)]


def _time_limit(played: Played) -> list[Finding]:
    limit = played.env.max_steps
    if limit is None:
        return [Finding("time limit", NOTE, "there is none: what plays whole episodes refuses the environment")]
    cut = np.array([played.ended[lane] and _flags(played, lane)[1] for lane in range(len(played.lengths))])
    early = played.lengths[cut & (played.lengths < limit)]
    if len(early):
        message = f"truncated at step {early.min():,} already, max_steps is {limit:,}: not by the time limit?"
        return [Finding("time limit", NOTE, message)]
    if len(played.steps) < limit and not played.ended.all():
        return [Finding("time limit", NOTE, f"{limit:,} steps: further than was played (num_steps)")]
    late = played.lengths > limit
    if late.any():
        return [Finding("time limit", PASSED, f"{limit:,} steps, left to the rollout")]
    there = np.flatnonzero(played.lengths == limit)
    if not len(there):
        return [Finding("time limit", NOTE, f"{limit:,} steps: no episode lasted so long")]
    if not cut[there].any():
        message = (
            f"every episode of max_steps = {limit:,} steps was terminated and none truncated: right for a task with "
            f"that horizon, wrong for a time limit"
        )
        return [Finding("time limit", NOTE, message)]
    return [Finding("time limit", PASSED, f"truncated at step {limit:,}")]


def _initial(played: Played) -> list[Finding]:
    num_lanes = len(played.lengths)
    leaves = [np.asarray(leaf).reshape(num_lanes, -1) for leaf in jax.tree.leaves(played.first_observation)]
    distinct = len({b"".join(leaf[lane].tobytes() for leaf in leaves) for lane in range(num_lanes)})
    return [Finding("initial states", PASSED, f"{distinct} different first observations of {num_lanes}")]


def _flags(played: Played, lane: int) -> tuple[bool, bool]:
    last = played.steps[played.lengths[lane] - 1]
    return bool(last.terminated[lane]), bool(last.truncated[lane])


def _number_of_steps(played: Played) -> int:
    return int(np.minimum(played.lengths, len(played.steps)).sum())


def _difference(one: Any, other: Any, rounding: bool = False) -> str:
    """The path of the first leaf that differs, or an empty string."""
    equal: Callable[[Any, Any], bool] = _close if rounding else _identical
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        if is_key(a):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        if not equal(np.asarray(a), np.asarray(b)):
            return jax.tree_util.keystr(path) or "its value"
    return ""


def _identical(a: np.ndarray, b: np.ndarray) -> bool:
    return a.tobytes() == b.tobytes()


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype.kind not in "fc":
        return bool(np.array_equal(a, b))
    scale = np.max(np.abs(a[np.isfinite(a)]), initial=1.0)
    return bool(np.allclose(a, b, rtol=1e-4, atol=1e-5 * scale, equal_nan=True))
