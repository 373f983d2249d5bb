"""r1jax: language models learn to reason by the DeepSeek-R1 recipe, in JAX."""

__version__ = '0.1.0'
