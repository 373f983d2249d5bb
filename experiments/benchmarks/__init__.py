"""Measurements of speed and memory, from the checkout: python -m r1jax.experiments.benchmarks.grpo.

docs/benchmarks.md and docs/scale.md have the results.
"""
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]    # of the checkout
