"""Compiled programs are kept on disk while these tests run: every run of a training
compiles its own, and most are those of the run before."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

SETTINGS = {
    "jax_compilation_cache_dir": None,  # filled in below
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@pytest.fixture(scope="package", autouse=True)
def compiled_programs(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("compiled"))
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    for name, value in (SETTINGS | {"jax_compilation_cache_dir": folder}).items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # earlier tests have fixed that there is none
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
