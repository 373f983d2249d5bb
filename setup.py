"""Where the packages lie, which pyproject.toml cannot say; everything else is in pyproject.toml."""
from setuptools import find_packages, setup

# These two folders are at the top level; the links r1jax/kernels and r1jax/experiments, which are
# for running from the checkout, must not be installed a second time.
LINKED = {'r1jax.kernels': 'kernels', 'r1jax.experiments': 'experiments'}

setup(
    packages=find_packages(
        include=['r1jax', 'r1jax.*'], exclude=[f'{name}*' for name in LINKED]) + [*LINKED],
    package_dir=LINKED,
)
