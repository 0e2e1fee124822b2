"""XLA's flags for the programs of tests, which run once and take far longer to compile than to run.

LLVM does not optimise them, and the older of two generators writes the code of their fusions: a
train step that takes 8.5 CPU seconds to compile takes 5.3 with the first and 1.9 with both. They
change how sums are rounded and nothing else: tests compare with NumPy within tolerances, or two
programs that were compiled alike. Needs no jax, which reads XLA_FLAGS once.
"""

from importlib.metadata import version

# Newer releases have one generator alone, and end at a flag that they don't know.
_TWO_GENERATORS = tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11)
# For jax.jit's compiler_options, where a test is about the bits of users' programs.
USUAL: dict[str, bool | int] = {"xla_backend_optimization_level": 3}
_QUICK: dict[str, bool | int] = {"xla_backend_optimization_level": 0}
if _TWO_GENERATORS:
    USUAL["xla_cpu_use_fusion_emitters"] = True
    _QUICK["xla_cpu_use_fusion_emitters"] = False


def flags(devices: int) -> str:
    """XLA_FLAGS for a process with so many CPU devices."""
    quick = " ".join(f"--{name}={str(value).lower()}" for name, value in _QUICK.items())
    return f"--xla_force_host_platform_device_count={devices} {quick}"
