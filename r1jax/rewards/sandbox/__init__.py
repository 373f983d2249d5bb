"""A sandbox for Python programs that a model wrote: `docs/sandbox.md` says what it holds, and how.

Nothing here imports more than the standard library, and nothing has to be installed.
"""
from r1jax.rewards.sandbox.pool import Sandbox, layers
from r1jax.rewards.sandbox.programs import Outcome, Program
