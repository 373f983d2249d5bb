"""The jitted, sharded, donated update: micro-batches weighted exactly, non-finite steps skipped."""
import dataclasses
import functools
from typing import Callable

import jax
import jax.numpy as jnp
import optax

from r1jax.records import TrainState
from r1jax.runtime import sharding


def make_optimizer(
    *, learning_rate: float, warmup_steps: int = 0, decay_steps: int = 0,
    final_learning_rate: float = 0.0, weight_decay: float = 0.0, max_grad_norm: float = 1.0,
    beta1: float = 0.9, beta2: float = 0.95,
) -> optax.GradientTransformation:
  """AdamW behind a clip of the global gradient norm.

  The learning rate rises linearly from 0 over `warmup_steps` (its first update already has
  1/warmup_steps of it), then stays, or with `decay_steps` > 0 follows a half cosine to
  `final_learning_rate` over the steps that remain of `decay_steps`. Matrices are decayed, vectors
  (norms, biases) are not.
  """
  def schedule(step):
    rate = jnp.float32(learning_rate)
    if decay_steps:
      share = jnp.clip((step - warmup_steps) / max(1, decay_steps - warmup_steps), 0, 1)
      rate = final_learning_rate + (learning_rate - final_learning_rate) * (
          1 + jnp.cos(jnp.pi * share)) / 2
    return rate * jnp.minimum(1.0, (step + 1) / max(1, warmup_steps))

  def is_matrix(params):
    vectors = ('scale', 'qkv_bias', 'balancing_bias')
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in vectors, params)

  return optax.chain(
      optax.clip_by_global_norm(max_grad_norm),
      optax.adamw(schedule, b1=beta1, b2=beta2, weight_decay=weight_decay, mask=is_matrix))


def init_state(params, optimizer: optax.GradientTransformation) -> TrainState:
  """The state before the first update. The parameters are taken as they are, not copied."""
  return TrainState(params, optimizer.init(params), jnp.int32(0), jnp.int32(0))


def state_shardings(mesh: jax.sharding.Mesh, logical_axes, state):
  """Where each leaf of a TrainState lies: moments beside their parameters, the rest everywhere.

  `state` may be abstract (`jax.eval_shape` of `init_state`).
  """
  by_param = sharding.shardings(mesh, logical_axes, state.params)
  structure = jax.tree.structure(state.params)
  is_params = lambda x: jax.tree.structure(x) == structure
  optimizer = jax.tree.map(
      lambda x: by_param if is_params(x) else sharding.replicated(mesh),
      state.optimizer, is_leaf=is_params)
  everywhere = sharding.replicated(mesh)
  return TrainState(by_param, optimizer, everywhere, everywhere)


def make_update(loss: Callable, optimizer: optax.GradientTransformation, *,
                num_micro_batches: int = 1, split: Callable | None = None,
                after: Callable | None = None) -> Callable:
  """update(state, batch, normalizer) -> (state, metrics), to be jitted with the state donated.

  `loss(params, micro_batch, normalizer) -> (loss, metrics)` divides its sum by the `normalizer`
  of the *whole* batch, so that the micro-batches' losses and gradients add up exactly; its metrics
  are divided likewise and added, those named '…/max' are the largest. Every leaf of a batch is
  split along its first axis; groups lie together, so none is torn. Instead, `split(batch)` gives
  (how many micro-batches, a number that may be traced; the function from an index to one). An
  update whose loss or gradient is not finite leaves parameters and optimiser as they were and is
  counted in `skipped_updates`.
  `after(params, metrics) -> (params, metrics)` moves what no gradient trains, by what the whole
  batch measured.
  """
  gradient = jax.value_and_grad(loss, has_aux=True)

  def merge(name, old, new):
    return jnp.maximum(old, new) if name.endswith('/max') else old + new

  def accumulate(params, batch, normalizer):
    if num_micro_batches == 1 and split is None:
      return gradient(params, batch, normalizer)

    def add(total, piece):
      (value, metrics), grads = gradient(params, piece, normalizer)
      (total_value, total_metrics), total_grads = total
      metrics = {name: merge(name, total_metrics[name], metrics[name]) for name in metrics}
      grads = jax.tree.map(jnp.add, total_grads, grads)
      return ((total_value + value, metrics), grads), None

    def zeros(piece):
      like = jax.eval_shape(gradient, params, piece, normalizer)
      return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)

    if split is not None:
      count, micro_batch = split(batch)
      return jax.lax.fori_loop(0, count, lambda index, total: add(total, micro_batch(index))[0],
                               zeros(jax.eval_shape(micro_batch, jnp.int32(0))))
    pieces = jax.tree.map(
        lambda x: x.reshape(num_micro_batches, x.shape[0] // num_micro_batches, *x.shape[1:]),
        batch)
    pieces = sharding.constrain_rows(pieces, None)
    return jax.lax.scan(add, zeros(jax.tree.map(lambda x: x[0], pieces)), pieces)[0]

  def update(state: TrainState, batch, normalizer):
    (value, metrics), grads = accumulate(state.params, batch, normalizer)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(value) & jnp.isfinite(norm)
    changes, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
    params = optax.apply_updates(state.params, changes)
    if after is not None:
      params, metrics = after(params, metrics)
    changed = TrainState(params, optimizer_state, state.step, state.skipped_updates)
    kept = jax.tree.map(functools.partial(jnp.where, finite), changed, state)
    state = dataclasses.replace(kept, step=state.step + 1,
                                skipped_updates=state.skipped_updates + jnp.where(finite, 0, 1))
    metrics = metrics | {'loss': value, 'grad_norm': norm, 'skipped_updates': state.skipped_updates}
    return state, metrics

  return update
