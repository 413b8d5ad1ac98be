"""Other libraries' PPO, one run or vmapped seeds and learning rates, for `sweeps.py` and `ppo.py`.

Run by an environment of its own. Reads requests from its input, a JSON list [method, arguments…] a line, and writes
the answers, one JSON line each.
Nothing of jaxpg is imported: the other libraries need other versions of some packages.

    python peer_seeds.py rejax '{"num_envs": 16, …}'
    python peer_seeds.py PATH/ppo.py '{"num_envs": 16, …}'       a single file with make_train(config), as PureJaxRL's
"""

import importlib.metadata
import importlib.util
import json
import os
import sys
import time

# XLA's concurrency-optimised CPU scheduler can deadlock on vmapped training loops; jaxpg is run without it as well.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_enable_concurrency_optimized_scheduler=false"

import jax
import jax.numpy as jnp

PACKAGES = ("rejax", "gymnax", "jax", "jaxlib", "flax", "optax", "distrax", "numpy")


class Rejax:
    """rejax's PPO."""

    def __init__(self, given):
        import rejax

        self._segment = given["num_envs"] * given["num_steps"]
        self._given = given
        self._ppo = rejax.PPO

    def _algorithm(self, updates):
        given = self._given
        return self._ppo.create(
            env=given["env"], num_envs=given["num_envs"], num_steps=given["num_steps"], num_epochs=given["num_epochs"],
            num_minibatches=given["num_minibatches"], gamma=given["discount"], gae_lambda=given["lambda_"],
            clip_eps=given["clip"], vf_coef=given["value_coefficient"], ent_coef=given["entropy_coefficient"],
            max_grad_norm=given["max_gradient_norm"], total_timesteps=updates * self._segment,
            eval_freq=updates * self._segment, skip_initial_evaluation=True,
            agent_kwargs={"activation": given["activation"], "hidden_layer_sizes": given["hidden"]},
        ).replace(eval_callback=lambda *_: ())  # fmt: skip

    def train(self, updates):
        algorithm = self._algorithm(updates)

        def run(rate, key):  # The optimiser, with its traced rate, is part of rejax's state: only params may leave.
            state, _ = algorithm.replace(learning_rate=rate).train(key)
            return state.actor_ts.params, state.critic_ts.params

        return run

    def evaluate(self, params, key):
        from rejax.evaluate import evaluate

        algorithm = self._algorithm(1)

        def act(observation, key):
            return algorithm.actor.apply(params[0], observation[None], key, method="act")[0]

        env_params = algorithm.env_params
        return evaluate(act, key, algorithm.env, env_params, 128, env_params.max_steps_in_episode)[1]


class SingleFile:
    """A file with `make_train(config)`."""

    def __init__(self, path, given):
        import gymnax.wrappers.purerl

        # The file imports its wrappers from beside it, which need brax; gymnax has the same two.
        sys.modules["wrappers"] = gymnax.wrappers.purerl
        spec = importlib.util.spec_from_file_location("single_file", path)
        self._module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._module)
        self._given = given
        self._segment = given["num_envs"] * given["num_steps"]

    def train(self, updates):
        given = self._given

        def run(rate, key):
            config = {
                "LR": rate, "NUM_ENVS": given["num_envs"], "NUM_STEPS": given["num_steps"],
                "TOTAL_TIMESTEPS": updates * self._segment, "UPDATE_EPOCHS": given["num_epochs"],
                "NUM_MINIBATCHES": given["num_minibatches"], "GAMMA": given["discount"],
                "GAE_LAMBDA": given["lambda_"], "CLIP_EPS": given["clip"], "ENT_COEF": given["entropy_coefficient"],
                "VF_COEF": given["value_coefficient"], "MAX_GRAD_NORM": given["max_gradient_norm"],
                "ACTIVATION": given["activation"], "ENV_NAME": given["env"], "ANNEAL_LR": given["anneal"],
                "DEBUG": False,
            }  # fmt: skip
            left = self._module.make_train(config)(key)
            finished = left["metrics"]["returned_episode"]
            returns = left["metrics"]["returned_episode_returns"]
            # The training's own returns, an update each, as its users keep them.
            curve = jnp.sum(returns * finished, axis=(1, 2)) / jnp.maximum(jnp.sum(finished, axis=(1, 2)), 1)
            return left["runner_state"][0].params, curve

        return run

    def evaluate(self, left, key):
        import gymnax
        from rejax.evaluate import evaluate

        params, _ = left
        env, env_params = gymnax.make(self._given["env"])
        network = self._module.ActorCritic(env.action_space(env_params).n, activation=self._given["activation"])

        def act(observation, key):
            return network.apply(params, observation.reshape(-1))[0].sample(seed=key)

        return evaluate(act, key, env, env_params, 128, env_params.max_steps_in_episode)[1]


class Turns:
    """Compiles and runs a peer for several numbers of runs."""

    def __init__(self, peer):
        self._peer = peer
        self._prepared = {}

    def describe(self):
        found = {}
        for name in PACKAGES:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = None
        return {"packages": found, "devices": [str(device) for device in jax.devices()]}

    def _compiled(self, rates, updates, key):
        """(so many updates of `len(rates)` runs from their start, compiled; its arguments; seconds of compiling)."""
        given = jnp.asarray(rates), jax.random.split(jax.random.key(key), len(rates))
        start = time.perf_counter()
        train = self._peer.train(updates)

        def alone(rates, keys):  # As one would write it: a vmapped `cond` would run both branches.
            return jax.tree.map(lambda x: x[None], train(rates[0], keys[0]))

        compiled = jax.jit(alone if len(rates) == 1 else jax.vmap(train)).lower(*given).compile()
        return compiled, given, time.perf_counter() - start

    def prepare(self, rates, updates):
        """Compiles a call of so many updates of `len(rates)` runs and makes one."""
        compiled, given, seconds = self._compiled(rates, updates, 0)
        self._prepared[len(rates)] = compiled, given, updates
        self.run(len(rates))
        return {"compile_seconds": seconds}

    def run(self, num_runs):
        """One call; seconds, and the processor's seconds, of an update of all runs."""
        compiled, given, updates = self._prepared[num_runs]
        start, start_processor = time.perf_counter(), time.process_time()
        jax.block_until_ready(compiled(*given))
        end, end_processor = time.perf_counter(), time.process_time()
        return {"seconds": (end - start) / updates, "processor_seconds": (end_processor - start_processor) / updates}

    def returns(self, rates, updates):
        """Mean returns of 128 episodes of each run after so many updates, and how long training took."""
        compiled, given, _ = self._compiled(rates, updates, 1)
        start = time.perf_counter()
        left = jax.block_until_ready(compiled(*given))
        seconds = time.perf_counter() - start
        played = jax.jit(jax.vmap(self._peer.evaluate))(left, jax.random.split(jax.random.key(2), len(rates)))
        return {"seconds": seconds, "returns": jnp.mean(played, axis=1).tolist()}


def start(kind, given):
    return Turns(Rejax(given) if kind == "rejax" else SingleFile(kind, given))


if __name__ == "__main__":
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    from peer_protocol import serve

    serve(lambda: start(sys.argv[1], json.loads(sys.argv[2])))
