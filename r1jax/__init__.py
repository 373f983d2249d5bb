"""r1jax: language models learn to reason by the DeepSeek-R1 recipe, in JAX."""
