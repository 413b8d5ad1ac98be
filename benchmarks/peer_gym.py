"""PPO of stable-baselines3 and of sbx, its sibling in JAX, on environments of gymnasium, for `ppo.py`.

Run by an environment of its own, with the requests and answers of peer_seeds.py:

    python peer_gym.py stable_baselines3 '{"num_envs": 8, …}'
    python peer_gym.py sbx '{"num_envs": 8, …}'

Environments step one after the other in one process (DummyVecEnv), for CartPole the quicker way. A turn is a call of
`learn` that goes on with the same model. For stable-baselines3 PyTorch gets as many threads as it takes by itself, or
one, whichever is quicker when the model is prepared; the answer says which.

What they have otherwise: both value coefficients are halved, since their loss is the squared error, jaxpg's half of it.
stable-baselines3 clips the critic's value and not the larger of two errors; sbx does not clip it (`clip_range_vf` is
without effect there), has an optimiser and a gradient norm for each network, and its first weights are flax's. Both add
γ V to the reward of a truncated step, as jaxpg does in effect. XLA's scheduler is as sbx's users have it.
"""

import importlib.metadata
import json
import os
import sys
import time

PACKAGES = ("stable-baselines3", "sbx-rl", "gymnasium", "torch", "jax", "jaxlib", "flax", "optax", "numpy")


class Turns:
    """One model that goes on from turn to turn."""

    def __init__(self, kind, given):
        import torch

        self._torch, self._kind, self._given = torch, kind, given
        self._segment = given["num_envs"] * given["num_steps"]
        self._policy = {
            "net_arch": {"pi": given["hidden"], "vf": given["hidden"]},
            "optimizer_kwargs": {"eps": given["adam_eps"]},
        }
        self._more = {}
        if kind == "stable_baselines3":
            from stable_baselines3 import PPO

            self._policy["activation_fn"] = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[given["activation"]]
            self._more["clip_range_vf"] = given["value_clip"]
        else:
            import flax.linen
            from sbx import PPO

            self._policy["activation_fn"] = getattr(flax.linen, given["activation"])
        self._ppo = PPO
        self._model = self._turn = None

    def describe(self):
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        return {"packages": versions, "devices": ["cpu"]}

    def _environments(self, seed):
        from stable_baselines3.common.env_util import make_vec_env

        return make_vec_env(self._given["env"], self._given["num_envs"], seed=seed)

    def _start(self, rate, seed):
        given = self._given
        return self._ppo(
            "MlpPolicy", self._environments(seed), learning_rate=rate, n_steps=given["num_steps"],
            batch_size=self._segment // given["num_minibatches"], n_epochs=given["num_epochs"],
            gamma=given["discount"], gae_lambda=given["lambda_"], clip_range=given["clip"],
            ent_coef=given["entropy_coefficient"], vf_coef=given["value_coefficient"] / 2,
            max_grad_norm=given["max_gradient_norm"], policy_kwargs=self._policy, seed=seed, device="cpu", **self._more,
        )  # fmt: skip

    def _learn(self, updates):
        """Seconds, and the processor's seconds, of an update."""
        start = time.perf_counter(), time.process_time()
        self._model.learn(updates * self._segment, reset_num_timesteps=False)
        end = time.perf_counter(), time.process_time()
        found = ((b - a) / updates for a, b in zip(start, end, strict=True))
        return dict(zip(("seconds", "processor_seconds"), found, strict=True))

    def prepare(self, rates, updates):
        """Makes a model and lets it do an update, which compiles, and a few more."""
        (rate,) = rates
        default = self._torch.get_num_threads()
        self._torch.set_num_threads(1)
        start = time.perf_counter()
        self._model, self._turn = self._start(rate, 0), updates
        self._learn(1)
        seconds = time.perf_counter() - start
        tried = {1: [], default: []} if self._kind == "stable_baselines3" else {default: []}
        for _ in range(2):
            for threads, found in tried.items():
                self._torch.set_num_threads(threads)
                found.append(self._learn(max(updates // 16, 1))["seconds"])
        best = min(tried, key=lambda threads: min(tried[threads]))
        self._torch.set_num_threads(best)
        facts = {"compile_seconds": seconds - next(min(found) for found in tried.values())}
        if self._kind == "stable_baselines3":
            facts |= {"torch_threads": best, "seconds_by_torch_threads": {n: min(f) for n, f in tried.items()}}
        return facts

    def run(self, num_runs):
        """A turn; seconds, and the processor's seconds, of an update."""
        return self._learn(self._turn)

    def returns(self, rates, updates):
        """Mean returns of 128 episodes, actions sampled, of each run after so many updates; how long training took."""
        from stable_baselines3.common.evaluation import evaluate_policy

        seconds, found = 0.0, []
        for seed, rate in enumerate(rates):
            self._model = self._start(rate, seed + 1)
            seconds += self._learn(updates)["seconds"] * updates
            environments = self._environments(1000 + 100 * seed)
            found.append(float(evaluate_policy(self._model, environments, 128, deterministic=False)[0]))
        return {"seconds": seconds, "returns": found}


if __name__ == "__main__":
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    from peer_protocol import serve

    serve(lambda: Turns(sys.argv[1], json.loads(sys.argv[2])))
