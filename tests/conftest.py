"""Eight fake CPU devices and strict numpy semantics for every test."""

import os
import pathlib

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile much and compute little: without optimisation, twice as fast. XLA aborts
# when a device waits 40 s for another, which on two busy cores need not be an error.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600"
)

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# A law does not depend on how fast the machine is.
hypothesis.settings.register_profile(
    "untimed",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="module")
def _room_for_programs():
    """Each compiled program holds a dozen memory maps or more, and Linux allows a
    process 65,530: without room XLA crashes, here after a quarter of an hour."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and len(maps.read_text().splitlines()) > 20_000:
        jax.clear_caches()
