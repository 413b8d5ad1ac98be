"""Policies in files: what comes back, without jaxpg too; damage, mismatches, and what a failed save leaves behind."""

import json
import os
import subprocess
import sys
import typing

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxpg
from jaxpg import policies
from jaxpg.envs.base import Environment
from jaxpg.envs.spaces import Box, Discrete, MultiDiscrete
from jaxpg.policies import Policy, _folder, _leaves


def environment(observation_space, action_space, **options):
    """An environment for its spaces; nothing here steps it."""
    return Environment(
        reset=lambda key: None,
        step=lambda key, state, action: None,
        observation_space=observation_space,
        action_space=action_space,
        **options,
    )


VECTOR = environment(Box(-jnp.inf, jnp.inf, (3,)), Discrete(2))
REAL = environment(Box(-jnp.inf, jnp.inf, (3,)), Box(-1.0, 2.0, (2,)))
IMAGE = environment(Box(0, 1, (5, 5, 1)), Discrete(2))
TABLE = environment(Discrete(4), Discrete(2))
MIXED = environment(
    {"a": Box((-1.0, -jnp.inf), (1.0, jnp.inf), (2,)), "b": (Discrete(3), MultiDiscrete((2, 2)))},
    {"move": Discrete(3), "aim": Box(-1, 1, (1,))},
)
POLICIES = {
    "mlp": (VECTOR, lambda: policies.mlp(VECTOR, (4,), "relu", head_gain=0.5)),
    "shared": (VECTOR, lambda: policies.mlp(VECTOR, (4,), shared_value=True)),
    "squashed": (REAL, lambda: policies.mlp(REAL, (4,), jnp.tanh, squash="tanh", log_std_init=np.float32(-0.5))),
    "half": (REAL, lambda: policies.mlp(REAL, (4,), dtype=jnp.bfloat16, state_dependent_std=True)),
    "cnn": (IMAGE, lambda: policies.cnn(IMAGE, (2,), (4,))),
    "gru": (VECTOR, lambda: policies.recurrent(VECTOR, "gru", 3, (4,))),
    "linear": (IMAGE, lambda: policies.recurrent(IMAGE, "linear", 3, (4,), features=[2], shared_value=True)),
    "tabular": (TABLE, lambda: policies.tabular(TABLE)),
    "linear_gaussian": (REAL, lambda: policies.linear_gaussian(REAL, log_std_init=-1.0)),
    "mixed": (MIXED, lambda: policies.mlp(MIXED, (4,))),
    "normalized": (VECTOR, lambda: policies.normalized(policies.recurrent(VECTOR, "lstm", 3, (4,)), VECTOR, clip=5.0)),
}
CRITICS = {
    "value_mlp": lambda: policies.value_mlp(VECTOR, (4,), "relu"),
    "value_cnn": lambda: policies.value_cnn(IMAGE, (2,), (4,)),
    "value_recurrent": lambda: policies.value_recurrent(VECTOR, "linear", 3),
    "value_tabular": lambda: policies.value_tabular(TABLE),
    "normalized": lambda: policies.normalized(policies.value_mlp(VECTOR, (4,)), VECTOR),
}


def noisy(params, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype(x.dtype), params)


def output(env, policy, params):
    observation = jaxpg.envs.spaces.sample(env.observation_space, jax.random.key(5))
    memory = () if policy.initial_carry is None else (policy.initial_carry,)
    return jax.jit(policy.apply)(params, observation, *memory)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert [leaf.dtype for leaf in jax.tree.leaves(a)] == [leaf.dtype for leaf in jax.tree.leaves(b)]


def ones_own(init=lambda key: {"w": jnp.ones(2)}):
    return Policy(init=init, apply=lambda params, observation: None)


# --- Descriptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
def test_saved_and_loaded(name, tmp_path):
    """Rebuilt from its description: the same numbers in, the same distribution out."""
    env, build = POLICIES[name]
    policy = build()
    params = noisy(policy.init(jax.random.key(0)))
    folder = jaxpg.save_policy(tmp_path / "deep" / "policy", policy, params, env=env)
    twin, loaded = jaxpg.load_policy(folder, env=env)
    assert twin is not policy
    assert_same(loaded, params)
    assert twin.description == policy.description == json.loads(json.dumps(policy.description))
    assert twin.has_value == policy.has_value and (twin.observe is None) == (policy.observe is None)
    assert_same(output(env, twin, loaded), output(env, policy, params))
    assert sorted(os.listdir(tmp_path / "deep")) == ["policy"]
    assert sorted(os.listdir(folder)) == ["policy.json", "policy.safetensors"]


@pytest.mark.parametrize("name", CRITICS)
def test_critics_from_descriptions(name):
    critic = CRITICS[name]()
    env = {"value_cnn": IMAGE, "value_tabular": TABLE}.get(name, VECTOR)
    twin = policies.from_description(env, json.loads(json.dumps(critic.description)))
    assert isinstance(twin, policies.Critic) and twin.description == critic.description
    params = noisy(critic.init(jax.random.key(0)))
    assert_same(output(env, twin, params), output(env, critic, params))


@pytest.mark.parametrize("name", POLICIES)
def test_a_policys_critic_is_like_it(name):
    env, build = POLICIES[name]
    policy, critic = build(), build().critic()
    assert isinstance(critic, policies.Critic)
    assert (critic.initial_carry is None) == (policy.initial_carry is None)
    same = {"hidden_sizes", "activation", "cell", "size", "features", "dtype", "head_sizes", "clip", "epsilon"}
    for argument in same & set(policy.description) & set(critic.description):
        assert critic.description[argument] == policy.description[argument]


def test_descriptions_in_full():
    assert policies.mlp(VECTOR, (8,), jnp.tanh, dtype=jnp.bfloat16).description == {
        "policy": "mlp",
        "hidden_sizes": [8],
        "activation": "tanh",
        "squash": False,
        "state_dependent_std": False,
        "log_std_init": 0.0,
        "head_gain": 0.01,
        "shared_value": False,
        "dtype": "bfloat16",
    }
    assert policies.mlp(VECTOR, activation=lambda x: x).description is None
    assert policies.normalized(policies.mlp(VECTOR, activation=lambda x: x), VECTOR).description is None
    seen = []
    jax.jit(lambda gain: (seen.append(policies.mlp(VECTOR, head_gain=gain).description), gain)[1])(0.1)
    assert seen == [None]


@pytest.mark.parametrize(
    ("description", "error", "message"),
    [
        (None, TypeError, "description must be a dict"),
        ({}, ValueError, "description must have one entry 'policy' or 'critic'"),
        ({"policy": "mpl"}, ValueError, r"description\['policy'\] must be one of .*did you mean 'mlp'"),
        ({"policy": "mlp", "hidden": 3}, ValueError, "got 'hidden'; did you mean 'hidden_sizes'"),
        ({"policy": "mlp", "hidden_sizes": 3}, TypeError, "hidden_sizes must be a sequence"),
        ({"policy": "normalized"}, TypeError, "description must be a dict"),
        (
            {"policy": "normalized", "model": {"critic": "value_mlp"}},
            ValueError,
            "must have the description of a policy",
        ),
    ],
)
def test_bad_descriptions(description, error, message):
    with pytest.raises(error, match=message):
        policies.from_description(VECTOR, description)


# --- The files -------------------------------------------------------------------------------------------------------


def test_an_environment_by_name(tmp_path):
    env = jaxpg.make("CartPole-v1", max_steps=7)
    policy = policies.mlp(env, (4,))
    params = policy.init(jax.random.key(0))
    jaxpg.save_policy(tmp_path / "p", policy, params, env=env, metadata={"return": 495.5, "seeds": [1, 2]})
    loaded, numbers = jaxpg.load_policy(str(tmp_path / "p"))
    assert_same(numbers, params)
    assert loaded.description == policy.description
    record = json.loads((tmp_path / "p" / "policy.json").read_text())
    assert (record["env"]["name"], record["env"]["max_steps"]) == ("CartPole-v1", 7)
    assert record["metadata"] == {"return": 495.5, "seeds": [1, 2]}
    assert record["versions"]["jaxpg"] == jaxpg.__version__ and record["versions"]["jax"] == jax.__version__
    assert record["params"]["hidden_0/kernel"] == {"shape": [4, 4], "dtype": "float32"}
    assert record["env"]["action_space"] == {"space": "Discrete", "n": 2, "dtype": "int32"}


def test_read_without_jaxpg(tmp_path):
    """safetensors and NumPy alone give the parameters, and by hand the policy's logits."""
    policy = policies.mlp(VECTOR, (4,), head_gain=1.0)
    params = noisy(policy.init(jax.random.key(0)))
    jaxpg.save_policy(tmp_path / "p", policy, params)
    program = """
import sys, json, numpy as np
from safetensors.numpy import load_file
folder = sys.argv[1]
p, record = load_file(folder + "/policy.safetensors"), json.load(open(folder + "/policy.json"))
assert record["description"]["activation"] == "tanh"
x = np.tanh(np.array([0.5, -1.0, 2.0]) @ p["hidden_0/kernel"] + p["hidden_0/bias"])
print(*(x @ p["head/kernel"] + p["head/bias"]))
assert not {"jax", "jaxpg", "flax"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "p")], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    expected = policy.apply(params, jnp.asarray([0.5, -1.0, 2.0])).logits
    np.testing.assert_allclose([float(word) for word in done.stdout.split()], expected, rtol=1e-5)


class Layer(typing.NamedTuple):
    weight: typing.Any
    bias: typing.Any


def test_all_kinds_of_trees_and_dtypes(tmp_path):
    """Dicts, tuples, lists, named tuples and None; keys with slashes; empty arrays and scalars; every dtype."""
    kinds = ["float32", "float16", "bfloat16", "int32", "int16", "int8", "uint32", "uint16", "uint8", "bool"]
    params = {
        "a/b": {"c": jnp.ones((2, 3)), "~0": jnp.zeros((0, 3))},
        "a": {"b/c": jnp.full((2, 3), 2.0)},
        "list": [jnp.asarray(1.5), (None, Layer(jnp.arange(3), None))],
        "kinds": {name: jnp.asarray([0, 1, 2]).astype(name) for name in kinds},
        3: jnp.ones(1),
    }
    params = {str(key): value for key, value in params.items()}
    policy = ones_own(lambda key: jax.tree.map(jnp.zeros_like, params))
    folder = jaxpg.save_policy(tmp_path / "p", policy, params)
    _, loaded = jaxpg.load_policy(folder, policy=policy)
    assert_same(loaded, params)
    names = set(json.loads((folder / "policy.json").read_text())["params"])
    assert {"a~1b/c", "a/b~1c", "a~1b/~00", "list/0", "list/1/1/weight", "kinds/bfloat16", "3"} <= names


def test_names():
    assert _leaves.leaf_names(jnp.ones(2)) == ["params"]
    assert _leaves.leaf_names({"a": (1, {"b": 2})}) == ["a/0", "a/1/b"]
    with pytest.raises(ValueError, match="paths differ as text; got 'a/1' more than once"):
        _leaves.leaf_names({"a": {"1": 1}, "b": 2} | {"a": Ambiguous(1, 2)})


@jax.tree_util.register_pytree_with_keys_class
class Ambiguous:
    """Two leaves whose keys differ by type alone."""

    def __init__(self, *children):
        self.children = children

    def tree_flatten_with_keys(self):
        keys = (jax.tree_util.DictKey(1), jax.tree_util.DictKey("1"))
        return list(zip(keys, self.children)), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def test_numpys_bytes_in_any_order(tmp_path):
    policy = ones_own()
    folder = jaxpg.save_policy(tmp_path / "p", policy, {"w": np.asarray([1.0, 2.0], ">f4")})
    assert jaxpg.load_policy(folder, policy=policy)[1]["w"].tolist() == [1.0, 2.0]
    folder = jaxpg.save_policy(
        tmp_path / "q", policy, {"w": np.asarray([[1.0, 9], [2.0, 9]], ml_dtypes.bfloat16)[:, 0]}
    )
    assert jaxpg.load_policy(folder, policy=policy)[1]["w"].tolist() == [1.0, 2.0]


def test_sixty_four_bits(tmp_path, x64):
    policy = ones_own()
    folder = jaxpg.save_policy(tmp_path / "p", policy, {"w": jnp.asarray([1 / 3, 2.0])})
    assert jaxpg.load_policy(folder, policy=policy)[1]["w"][0] == np.float64(1) / 3


def test_sixty_four_bits_where_they_are_not_enabled(tmp_path):
    policy = ones_own()
    folder = jaxpg.save_policy(tmp_path / "p", policy, {"w": np.asarray([1 / 3, 2.0])})
    with pytest.warns(UserWarning, match="'w' was saved as float64 and is loaded as float32"):
        _, params = jaxpg.load_policy(folder, policy=policy)
    assert params["w"].dtype == jnp.float32


def test_statistics_travel(tmp_path):
    env, build = POLICIES["normalized"]
    policy = build()
    x = np.random.default_rng(0).normal(3, 2, (6, 3)).astype(np.float32)
    params = policy.observe(policy.init(jax.random.key(0)), x, np.ones(6, bool))
    _, loaded = jaxpg.load_policy(jaxpg.save_policy(tmp_path / "p", policy, params, env=env), env=env)
    assert_same(loaded["observations"], params["observations"])
    assert float(loaded["observations"]["count"]) == 6


# --- Nothing is lost -------------------------------------------------------------------------------------------------


def saved(tmp_path, value=1.0, **options):
    return jaxpg.save_policy(tmp_path / "p", ones_own(), {"w": jnp.full(2, value)}, **options)


def test_overwriting(tmp_path):
    folder = saved(tmp_path)
    with pytest.raises(ValueError, match="holds a saved policy already; name another folder, or pass overwrite=True"):
        saved(tmp_path, 2.0)
    assert jaxpg.load_policy(folder, policy=ones_own())[1]["w"][0] == 1
    saved(tmp_path, 2.0, overwrite=True)
    assert jaxpg.load_policy(folder, policy=ones_own())[1]["w"][0] == 2
    assert os.listdir(tmp_path) == ["p"]


def test_what_is_not_a_saved_policy_is_left_alone(tmp_path):
    (tmp_path / "p").mkdir()
    saved(tmp_path)  # An empty folder may be used.
    (tmp_path / "p" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for path, found in ((tmp_path / "p", "holds 'notes.txt'"), (tmp_path / "file", "is a file")):
        with pytest.raises(ValueError, match=f"path must be a new folder, or one that holds a saved policy; .*{found}"):
            jaxpg.save_policy(path, ones_own(), {"w": jnp.ones(2)}, overwrite=True)
    assert (tmp_path / "p" / "notes.txt").read_text() == (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("moment", ["writing", "renaming the new", "renaming the old"])
def test_a_failure_in_the_middle_leaves_the_old(tmp_path, monkeypatch, moment):
    folder = saved(tmp_path)
    calls = {"rename": 0}
    rename = os.rename

    def failing_rename(source, target):
        calls["rename"] += 1
        if calls["rename"] == {"renaming the old": 1, "renaming the new": 2}.get(moment):
            raise OSError(28, "No space left on device")
        return rename(source, target)

    def failing_fsync(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_folder.os, "rename", failing_rename)
    if moment == "writing":
        monkeypatch.setattr(_folder.os, "fsync", failing_fsync)
    with pytest.raises(OSError, match="No space left"):
        saved(tmp_path, 2.0, overwrite=True)
    if moment == "writing":
        with pytest.raises(OSError, match="No space left"):
            jaxpg.save_policy(tmp_path / "new", ones_own(), {"w": jnp.ones(2)})
    assert os.listdir(tmp_path) == ["p"]
    assert jaxpg.load_policy(folder, policy=ones_own())[1]["w"][0] == 1


def test_links_keep_pointing(tmp_path):
    folder = saved(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    jaxpg.save_policy(tmp_path / "link", ones_own(), {"w": jnp.full(2, 3.0)}, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert jaxpg.load_policy(folder, policy=ones_own())[1]["w"][0] == 3


# --- Damage and mismatches -------------------------------------------------------------------------------------------


def test_damaged_files(tmp_path):
    folder = saved(tmp_path)
    numbers, meaning = folder / "policy.safetensors", folder / "policy.json"
    content, text = numbers.read_bytes(), meaning.read_text()

    def load():
        return jaxpg.load_policy(folder, policy=ones_own())

    for position in (3, 20, len(content) - 1):  # A flipped bit in the length, the header, a number.
        numbers.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        with pytest.raises(ValueError, match=r"policy.safetensors is damaged .* checksum"):
            load()
    numbers.write_bytes(content[:-4])
    with pytest.raises(ValueError, match=r"policy.safetensors is damaged"):
        load()
    numbers.unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no saved policy at .*: it has no file policy.safetensors"):
        load()
    numbers.write_bytes(content)
    for broken, message in (
        (text[:-40], "policy.json is damaged, it is not JSON"),
        ("{}", "must have the entry 'format'"),
        (text.replace('"format_version": 1', '"format_version": 9'), "has format_version 9; this jaxpg reads 1"),
        (text.replace('"sha256"', '"sha"'), "is damaged, it has no entry 'sha256'"),
    ):
        meaning.write_text(broken)
        with pytest.raises(ValueError, match=message):
            load()
    meaning.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="policy.json is damaged"):
        load()
    meaning.write_text(text)
    assert load()[1]["w"][0] == 1


OTHER = environment(Box(-jnp.inf, jnp.inf, (3,)), Discrete(5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env": OTHER}, r"env must have the spaces .*: env\['action_space'\]\['n'\] is 5, and 2 in the file"),
        ({"env": IMAGE}, r"env\['observation_space'\]\['low'\] is 0.0, and '-Infinity' in the file"),
        (
            {"policy": policies.mlp(VECTOR, (4,), "relu")},
            r"policy.description\['activation'\] is 'relu', and 'tanh' in the file",
        ),
        (
            {"policy": policies.mlp(VECTOR, (6,), lambda x: x)},
            r"'head/kernel' must have shape \(6, 2\), as policy.init says; got \(4, 2\)",
        ),
        ({"policy": policies.mlp(VECTOR, (), lambda x: x)}, "'hidden_0/bias' is not among them"),
        ({"policy": policies.mlp(VECTOR, (4, 4), lambda x: x)}, "'hidden_1/bias' is missing"),
        ({}, "env must be given: jaxpg.make does not make 'environment', which .* was saved for"),
    ],
)
def test_mismatches(tmp_path, options, message):
    policy = policies.mlp(VECTOR, (4,))
    folder = jaxpg.save_policy(tmp_path / "p", policy, policy.init(jax.random.key(0)), env=VECTOR)
    with pytest.raises(ValueError, match=message):
        jaxpg.load_policy(folder, **options)


def test_what_must_be_given(tmp_path):
    policy = policies.mlp(VECTOR, (4,))
    folder = jaxpg.save_policy(tmp_path / "p", policy, policy.init(jax.random.key(0)))
    with pytest.raises(ValueError, match="env must be given: .* was saved without one; pass env="):
        jaxpg.load_policy(folder)
    assert jaxpg.load_policy(folder, env=VECTOR)[0].description == policy.description
    with pytest.raises(ValueError, match="policy must be given: .* without a description"):
        jaxpg.load_policy(saved(tmp_path / "q"), env=VECTOR)


def test_another_environment_of_the_name(tmp_path):
    env = environment(Box(-1, 1, (3,)), Discrete(2), name="CartPole-v1")
    policy = policies.mlp(env, (4,))
    folder = jaxpg.save_policy(tmp_path / "p", policy, policy.init(jax.random.key(0)), env=env)
    with pytest.raises(ValueError, match=r"jaxpg.make\('CartPole-v1'\) has other spaces than .*observation_space"):
        jaxpg.load_policy(folder)


MLP = policies.mlp(VECTOR, (4,))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"path": 3}, TypeError, "path must be the name of a folder; got int"),
        ({"policy": "mlp"}, TypeError, "policy must be a Policy, .*; got str"),
        (
            {"params": {"w": 1.0}},
            ValueError,
            "params must have the leaves that policy.init gives; 'head/bias' is missing",
        ),
        (
            {"params": lambda p: jax.tree.map(lambda x: jnp.stack([x, x]), p)},
            ValueError,
            r"must have shape \(2,\), as policy.init says; got \(2, 2\): pick one of several seeds",
        ),
        ({"params": lambda p: {**p, "head": "x"}}, TypeError, "params must be a pytree of arrays; 'head' is str"),
        ({"params": lambda p: {**p, "k": jax.random.key(0)}}, TypeError, "'k' is a random key"),
        ({"params": lambda p: {**p, "c": jnp.ones(2, jnp.complex64)}}, TypeError, "'c' is complex64"),
        ({"env": TABLE}, ValueError, "policy does not take the observations of env, Discrete"),
        ({"env": "CartPole-v1"}, TypeError, "env must be an Environment"),
        ({"metadata": [1]}, TypeError, "metadata must be None or a dict; got list"),
        ({"metadata": {"x": jnp.ones(2)}}, TypeError, "metadata must hold what JSON can hold"),
        ({"metadata": {"x": float("nan")}}, TypeError, "metadata must hold what JSON can hold, and finite numbers"),
        ({"overwrite": 1}, TypeError, "overwrite must be True or False; got int"),
    ],
)
def test_bad_arguments(tmp_path, change, error, message):
    arguments = {"path": tmp_path / "p", "policy": MLP, "params": MLP.init(jax.random.key(0)), **change}
    if callable(arguments["params"]):
        arguments["params"] = arguments["params"](MLP.init(jax.random.key(0)))
    with pytest.raises(error, match=message):
        jaxpg.save_policy(**arguments)
    assert not os.listdir(tmp_path)


def test_inside_jit(tmp_path):
    with pytest.raises(TypeError, match="'w' is traced: save outside of jit"):
        jax.jit(lambda w: jaxpg.save_policy(tmp_path / "p", ones_own(), {"w": w}))(jnp.ones(2))
    with pytest.raises(FileNotFoundError, match="there is no saved policy"):
        jaxpg.load_policy(tmp_path / "p")
