"""One start of a library, from importing it to a trained CartPole-v1 policy, for `solve.py`: its settings, its way.

Run by the Python that has the library; nothing of jaxpg is imported but by `jaxpg` itself. Prints one JSON line: when
training ended, by the wall clock, and the mean return of 128 fresh episodes, played afterwards: actions sampled, but
where the algorithm trains the mode.

    python solve_program.py rejax 100000 0
"""

import json
import os
import sys
import time

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_enable_concurrency_optimized_scheduler=false")
NUM_EPISODES = 128


def jaxpg(steps, seed):
    """The preset: 16 × 64, 10 epochs × 8 minibatches, the rate annealed from 1e-3 over the budget."""
    import jax

    import jaxpg
    from jaxpg.algorithms import presets

    env = jaxpg.make("CartPole-v1")
    algorithm = presets.make("ppo", env, steps)
    result = jaxpg.train(algorithm, jax.random.key(seed), num_env_steps=steps, progress=False)
    trained = time.time()
    played = jaxpg.evaluate(
        jax.random.key(seed + 1), env, algorithm.policy, result.params, num_episodes=NUM_EPISODES, deterministic=False
    )
    return trained, float(played.returns.mean())


def jaxpg_linear(steps, seed):
    """PGPE of a linear policy, which takes no gradient of it: 32 pairs of episodes an update, compiled quickly."""
    import jax

    import jaxpg

    env = jaxpg.make("CartPole-v1")
    policy = jaxpg.policies.mlp(env, ())
    algorithm = jaxpg.pgpe(env, policy, num_perturbations=32, initial_std=0.3, learning_rate=0.1)
    result = jaxpg.train(algorithm, jax.random.key(seed), num_env_steps=steps, progress=False, quick_compile=True)
    trained = time.time()
    played = jaxpg.evaluate(
        jax.random.key(seed + 1), env, policy, result.params, num_episodes=NUM_EPISODES, deterministic=True
    )
    return trained, float(played.returns.mean())


def rejax(steps, seed):
    """As its repository configures PPO for CartPole-v1: 5 × 100, 5 epochs × 5 minibatches, 7.5e-4."""
    import jax
    import rejax
    from rejax.evaluate import evaluate

    algorithm = rejax.PPO.create(
        env="CartPole-v1", agent_kwargs={"activation": "tanh"}, num_envs=5, num_steps=100, num_epochs=5,
        num_minibatches=5, learning_rate=7.5e-4, max_grad_norm=0.5, total_timesteps=steps, eval_freq=steps,
        gamma=0.99, gae_lambda=0.95, clip_eps=0.2, ent_coef=0.01, vf_coef=0.5, skip_initial_evaluation=True,
    ).replace(eval_callback=lambda *_: ())  # fmt: skip

    def train(key):
        return algorithm.train(key)[0].actor_ts.params

    params = jax.block_until_ready(jax.jit(train)(jax.random.key(seed)))
    trained = time.time()

    def act(observation, key):
        return algorithm.actor.apply(params, observation[None], key, method="act")[0]

    played = evaluate(act, jax.random.key(seed + 1), algorithm.env, algorithm.env_params, NUM_EPISODES, 500)
    return trained, float(played[1].mean())


def single_file(path, steps, seed):
    """As the file configures itself for CartPole-v1: 4 × 128, 4 epochs × 4 minibatches, annealed from 2.5e-4."""
    import importlib.util

    # The file imports its wrappers from beside it, which need brax; gymnax has the same two.
    import gymnax.wrappers.purerl
    import jax

    sys.modules["wrappers"] = gymnax.wrappers.purerl
    spec = importlib.util.spec_from_file_location("single_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = {
        "LR": 2.5e-4, "NUM_ENVS": 4, "NUM_STEPS": 128, "TOTAL_TIMESTEPS": steps, "UPDATE_EPOCHS": 4,
        "NUM_MINIBATCHES": 4, "GAMMA": 0.99, "GAE_LAMBDA": 0.95, "CLIP_EPS": 0.2, "ENT_COEF": 0.01, "VF_COEF": 0.5,
        "MAX_GRAD_NORM": 0.5, "ACTIVATION": "tanh", "ENV_NAME": "CartPole-v1", "ANNEAL_LR": True, "DEBUG": False,
    }  # fmt: skip
    left = jax.block_until_ready(jax.jit(module.make_train(config))(jax.random.key(seed)))
    trained = time.time()
    from rejax.evaluate import evaluate

    env, env_params = gymnax.make("CartPole-v1")
    network, params = module.ActorCritic(2, activation="tanh"), left["runner_state"][0].params

    def act(observation, key):
        return network.apply(params, observation.reshape(-1))[0].sample(seed=key)

    return trained, float(evaluate(act, jax.random.key(seed + 1), env, env_params, NUM_EPISODES, 500)[1].mean())


def stable_baselines3(steps, seed):
    """As its zoo tunes PPO for CartPole-v1: 8 × 32, 20 epochs of one minibatch, rate and clipping annealed."""
    from stable_baselines3 import PPO

    return _gym(PPO, steps, seed)


def sbx(steps, seed):
    """The same settings."""
    from sbx import PPO

    return _gym(PPO, steps, seed)


def _gym(make, steps, seed):
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    model = make(
        "MlpPolicy", make_vec_env("CartPole-v1", n_envs=8, seed=seed), n_steps=32, batch_size=256, gae_lambda=0.8,
        gamma=0.98, n_epochs=20, ent_coef=0.0, learning_rate=lambda left: 1e-3 * left,
        clip_range=lambda left: 0.2 * left, seed=seed,
    )  # fmt: skip
    model.learn(steps)
    trained = time.time()
    env = make_vec_env("CartPole-v1", n_envs=8, seed=seed + 1)
    return trained, float(evaluate_policy(model, env, n_eval_episodes=NUM_EPISODES, deterministic=False)[0])


KINDS = {
    "jaxpg": jaxpg,
    "jaxpg_linear": jaxpg_linear,
    "rejax": rejax,
    "stable_baselines3": stable_baselines3,
    "sbx": sbx,
}


def run(kind, steps, seed):
    answers = os.fdopen(os.dup(1), "w")  # What the libraries print goes to the error output.
    os.dup2(2, 1)
    sys.path[:] = [place for place in sys.path if place != os.path.dirname(os.path.abspath(__file__))]
    found = KINDS[kind](steps, seed) if kind in KINDS else single_file(kind, steps, seed)
    print(json.dumps({"trained": found[0], "return": found[1]}), file=answers, flush=True)


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
