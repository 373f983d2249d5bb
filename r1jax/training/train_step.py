"""The update: micro-batches add up exactly, updates that are not finite are skipped.

The name of a metric says how micro-batches combine it: those named '…/max' by their maximum, all
others by their sum.
"""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from r1jax.records import TrainState
from r1jax.runtime import sharding
from r1jax.training.finite import all_finite


def init_state(params, optimizer: optax.GradientTransformation) -> TrainState:
  """The state before the first update. The parameters are used as they are, not copied."""
  return TrainState(params, optimizer.init(params), *map(jnp.int32, (0, 0, 0)))


def state_shardings(mesh: jax.sharding.Mesh, logical_axes, state: TrainState) -> TrainState:
  """Where each leaf of a TrainState lies: moments beside their parameters, the rest replicated.

  Args:
    mesh: the mesh that the state is placed on.
    logical_axes: of the parameters, a tree of tuples as in `Model.logical_axes`.
    state: a state, or its shapes (`jax.eval_shape` of `init_state`).

  Returns:
    A TrainState with a `NamedSharding` for each leaf of `state`.
  """
  by_param = sharding.shardings(mesh, logical_axes, state.params)
  structure = jax.tree.structure(state.params)
  replicated: Any = sharding.replicated(mesh)     # in the place of arrays

  def is_params(x):
    return jax.tree.structure(x) == structure

  optimizer = jax.tree.map(
      lambda x: by_param if is_params(x) else replicated, state.optimizer, is_leaf=is_params)
  return TrainState(by_param, optimizer, replicated, replicated, replicated)


def make_update(loss: Callable, optimizer: optax.GradientTransformation, *,
                num_micro_batches: int = 1, split: Callable | None = None,
                after: Callable | None = None) -> Callable:
  """Makes update(state, batch, normalizer) -> (state, metrics), to be jitted with donated state.

  An update whose loss or gradient is not finite, or that would leave a parameter or the state of
  the optimizer so, is skipped: both stay as they were, and it is counted in `skipped_updates`.

  Args:
    loss: (params, micro_batch, normalizer) -> (loss, metrics). It divides its sums by the
      `normalizer` of the *whole* batch, so that losses, gradients and metrics of micro-batches add
      up exactly.
    optimizer: an optax transformation.
    num_micro_batches: into how many micro-batches a batch is split, every leaf along its first
      axis. Each gets whole groups if this number divides the number of groups.
    split: used instead of `num_micro_batches`: batch -> (the number of micro-batches, which may be
      traced; a function from an index to the micro-batch).
    after: (params, metrics) -> (params, metrics), called after the optimizer; it changes what is
      not trained by gradient, from what was measured on the whole batch.

  Returns:
    update(state, batch, normalizer) -> (state, metrics); metrics are those of `loss` plus `loss`,
    `grad_norm` (before clipping) and `skipped_updates`.
  """
  gradient = jax.value_and_grad(loss, has_aux=True)

  def update(state: TrainState, batch, normalizer):
    def gradient_of(micro_batch):
      return gradient(state.params, micro_batch, normalizer)

    (value, metrics), grads = _accumulate(gradient_of, batch, num_micro_batches, split)
    norm = optax.tree.norm(grads)

    def changed():
      changes, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
      params = optax.apply_updates(state.params, changes)
      params, measured = (params, metrics) if after is None else after(params, metrics)
      return params, optimizer_state, measured

    def unchanged():
      return state.params, state.optimizer, changed()[2]

    # The change is computed twice: to keep it until all of it is known to be finite would take the
    # memory of parameters and moments once more.
    finite = (jnp.isfinite(value) & jnp.isfinite(norm)
              & all_finite(changed()[:2], alike=state.params))
    params, optimizer_state, measured = jax.lax.cond(finite, changed, unchanged)
    state = TrainState(
        params, optimizer_state, state.step + 1,
        skipped_updates=state.skipped_updates + jnp.where(finite, 0, 1),
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1))
    return state, measured | {'loss': value, 'grad_norm': norm,
                              'skipped_updates': state.skipped_updates}

  return update


def _accumulate(gradient_of: Callable, batch, num_micro_batches: int, split: Callable | None):
  """The sum over micro-batches of gradient_of(micro_batch) -> ((loss, metrics), gradients)."""
  if num_micro_batches == 1 and split is None:
    return gradient_of(batch)

  def zeros(micro_batch):
    shapes = jax.eval_shape(gradient_of, micro_batch)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  if split is not None:
    count, micro_batch = split(batch)

    def add_indexed(index, total):
      return _add(total, gradient_of(micro_batch(index)))
    return jax.lax.fori_loop(
        0, count, add_indexed, zeros(jax.eval_shape(micro_batch, jnp.int32(0))))

  def add(total, micro_batch):
    return _add(total, gradient_of(micro_batch)), None

  micro_batches = jax.tree.map(
      lambda x: x.reshape(num_micro_batches, x.shape[0] // num_micro_batches, *x.shape[1:]), batch)
  micro_batches = sharding.constrain_rows(micro_batches, None)
  return jax.lax.scan(add, zeros(jax.tree.map(lambda x: x[0], micro_batches)), micro_batches)[0]


def _add(total, more):
  """Two ((loss, metrics), gradients) as one."""
  (value, metrics), grads = more
  (total_value, total_metrics), total_grads = total
  metrics = {name: jnp.maximum(total_metrics[name], x) if name.endswith('/max') else
             total_metrics[name] + x for name, x in metrics.items()}
  return (total_value + value, metrics), jax.tree.map(jnp.add, total_grads, grads)
