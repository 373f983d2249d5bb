"""Installs r1jax: pip install .   (extras: test, gpu, tpu, plan)."""
from setuptools import find_packages, setup

setup(
    name='r1jax',
    version='0.1.0',
    description='Language models learn to reason by the DeepSeek-R1 recipe, in JAX',
    python_requires='>=3.11',
    # kernels/ stands at the top level; the link r1jax/kernels is for running from the checkout.
    packages=find_packages(include=['r1jax', 'r1jax.*'], exclude=['r1jax.kernels']) + [
        'r1jax.kernels'],
    package_dir={'r1jax.kernels': 'kernels'},
    package_data={'r1jax': ['miniature_base/*', 'miniature_small/*']},
    install_requires=[
        'absl-py',
        'array_record>=0.8',
        'flax>=0.12.8,<0.13',
        'fsspec',
        'gguf>=0.10',
        'grain>=0.2.18',
        'importlib_resources',     # tensorflow-datasets imports it undeclared
        'jax>=0.10.2,<0.13',
        'jinja2',
        'math-verify>=0.9',
        'matplotlib',
        'ml-collections>=1.1',
        'numpy',
        'optax>=0.2.8',
        'orbax-checkpoint>=0.12.8,<0.13',
        'reasoning-gym>=0.1.25',
        'rich',
        'safetensors',
        'tensorboardX>=2.6.5',
        'tensorflow-datasets>=4.9.10',
        'tokenizers',
        'transformers>=5.17,<6',
    ],
    extras_require={
        'test': ['equinox', 'hypothesis', 'pytest', 'pytest-xdist'],
        'gpu': ['jax[cuda13]>=0.10.2,<0.13'],
        'tpu': ['jax[tpu]>=0.10.2,<0.13'],
        'plan': ['libtpu'],    # the compiler for TPUs, where there is none: python -m r1jax.plan
    },
)
