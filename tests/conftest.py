"""Shared by all tests: XLA's flags, set before JAX starts, and the fixtures `key`, `x64` and `run_in_subprocess`.

The tests run on one CPU device (a second one slows ordinary code by 10-60%): what needs several asks
`run_in_subprocess` for them.
"""

import gc
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest
import tiers

ROOT = pathlib.Path(__file__).resolve().parent.parent

# As jaxpg.use_cpu_cores and the command line set it.
_NO_HANG = "--xla_cpu_enable_concurrency_optimized_scheduler=false"

# What the tests share is imported by its file's name, also in the processes that they start.
_PATH = [str(ROOT / "tests"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(_PATH))

if _NO_HANG.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_NO_HANG}".strip()


@pytest.hookimpl(tryfirst=True)  # Before -m chooses.
def pytest_collection_modifyitems(items):
    """Marks those that take too long to be run each time."""
    tiers.mark_exhaustive(items)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """A compiled program takes some memory maps, of which Linux gives a process 65,530: the tests need more."""
    yield
    jax = sys.modules.get("jax")
    if jax is not None:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def key():
    """A typed random key, the same in every test."""
    import jax

    return jax.random.key(0)


@pytest.fixture
def x64():
    """The test runs with 64-bit floats and integers."""
    import jax

    if hasattr(jax, "enable_x64"):
        enable_x64 = jax.enable_x64
    else:  # before jax 0.8
        from jax.experimental import enable_x64

    with enable_x64(True):
        yield


@pytest.fixture
def run_in_subprocess():
    """`run_in_subprocess(code, devices=1, env={}, timeout=300)`: what `code` prints, run by a fresh Python.

    `devices` is the number of CPU devices that JAX finds there. The test fails, with everything that was printed, if
    the code raises or takes longer than `timeout` seconds.
    """

    def run(code, devices=1, env=None, timeout=300):
        __tracebackhide__ = True
        flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "host_platform_device_count" not in flag]
        flags.append(f"--xla_force_host_platform_device_count={devices}")
        variables = {**os.environ, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu", **(env or {})}
        variables.pop("JAX_NUM_CPU_DEVICES", None)
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(code)],
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        problem = None
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            problem = f"no end after {timeout} s"
            process.send_signal(signal.SIGABRT)  # faulthandler then prints where every thread stands
            output, errors = process.communicate()
        if process.returncode:
            pytest.fail(f"{problem or f'exit status {process.returncode}'}; printed:\n{output}\n{errors}")
        return output

    return run
