"""What a compiled program costs: operations and bytes, also of loops and fusions."""
import functools

import jax
import jax.numpy as jnp
import pytest

from r1jax import models
from r1jax.kernels.decode import BLOCK
from r1jax.plan import costs, hlo
from r1jax.plan.trip_counts import trip_count
from r1jax.stages.program_shapes import Columns

cost = functools.partial(costs.cost, flops_per_second=1e12, bytes_per_second=1e11)


def compiled_text(function, *arguments):
  return jax.jit(function).lower(*arguments).compile().as_text()


def like(*shape, dtype='float32'):
  return jax.ShapeDtypeStruct(shape, dtype)


def test_a_loop_costs_its_body_times_its_trips():
  def layers(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

  def repeated(x, weights):
    return jax.lax.scan(lambda x, _: (layers(x, weights), None), x, None, length=3)[0]

  one = 2 * 64 * 32 * 32
  for count in (2, 7):
    arguments = like(64, 32), like(count, 32, 32)
    assert cost(compiled_text(layers, *arguments)).flops == count * one
    assert cost(compiled_text(repeated, *arguments)).flops == 3 * count * one
    slope = compiled_text(jax.grad(lambda x, w: layers(x, w).sum(), 1), *arguments)
    assert cost(slope).flops in (3 * count * one, (3 * count - 1) * one)   # none to x of the first


def test_a_loop_whose_trips_the_data_decide_runs_as_often_as_is_said():
  def decode(x, w, end):
    def going_on(state):
      return (state[1] < end) & (jnp.max(state[0]) < 9)
    return jax.lax.while_loop(going_on, lambda state: (state[0] @ w, state[1] + 1), (x, 0))[0]
  text = compiled_text(decode, like(8, 32), like(32, 32), like(dtype='int32'))
  found = cost(text, unknown_trips=5)
  assert found.flops == 5 * 2 * 8 * 32 * 32
  assert found.unknown_loops == 1


def test_a_loop_within_one_whose_trips_the_data_decide_runs_once():
  def repeated(x, w, ends):
    def inner(x, end):
      return jax.lax.while_loop(lambda state: state[1] < end,
                                lambda state: (state[0] @ w, state[1] + 1), (x, 0))[0]
    return jax.lax.while_loop(lambda state: state[1] < ends[0], lambda state: (
        inner(state[0], ends[1]), state[1] + 1), (x, 0))[0]
  text = compiled_text(repeated, like(8, 32), like(32, 32), like(2, dtype='int32'))
  assert cost(text, unknown_trips=5).flops == 5 * 2 * 8 * 32 * 32


@pytest.mark.parametrize('tied', [True, False])
def test_a_forward_pass_is_that_of_flops_per_token(tied):
  config = models.ModelConfig(
      family='qwen3', vocab_size=256, width=64, num_layers=3, num_heads=4, num_kv_heads=2,
      head_dim=16, mlp_width=96, qk_norm=True, tied_embedding=tied)
  model = models.build(config)

  def forward(params, tokens):
    ones = jnp.ones_like(tokens)
    hidden, _, _ = model.apply(
        params, tokens, positions=jnp.cumsum(ones, 1), segment_ids=ones)
    return model.unembed(params, hidden)
  params = jax.eval_shape(model.init, jax.random.key(0))
  found = cost(compiled_text(forward, params, like(2, 48, dtype='int32'))).flops
  # The plain form multiplies with all positions, later ones too, and norms are no products.
  assert found == pytest.approx(2 * 48 * models.flops_per_token(config, 48), rel=0.01)


def test_of_stacked_weights_a_layer_reads_its_own():
  def layers(x, weights):
    return jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0]
  count, stack = 50, 50 * 64 * 64 * 4
  found = cost(compiled_text(layers, like(4, 64), like(count, 64, 64))).bytes
  assert stack < found < 4 * stack     # and not 50 times the stack


# As libtpu writes: a batched product as a convolution, a loop's bounds behind copies, memory S(1).
TPU = '''HloModule jit_f, is_scheduled=true, num_partitions=4

%body (p: (s32[], bf16[8,16,32], bf16[8,32,64])) -> (s32[], bf16[8,16,32], bf16[8,32,64]) {
  %p = (s32[]{:T(128)}, bf16[8,16,32]{2,1,0:T(8,128)(2,1)}, bf16[8,32,64]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = bf16[8,16,32]{2,1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %w = bf16[8,32,64]{2,1,0:T(8,128)(2,1)} get-tuple-element(%p), index=2
  %one = s32[]{:T(128)} constant(1)
  %i.c = s32[]{:T(128)S(6)} copy(%i), backend_config={"flag_configs":[]}
  %next = s32[]{:T(128)} add(%i.c, %one)
  %y = bf16[8,16,64]{2,1,0:T(8,128)S(1)} convolution(%x, %w), window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf, metadata={op_name="dot"}
  ROOT %t = (s32[], bf16[8,16,32], bf16[8,32,64]) tuple(%next, %x, %w)
}

%condition (q: (s32[], bf16[8,16,32], bf16[8,32,64])) -> pred[] {
  %q = (s32[]{:T(128)}, bf16[8,16,32]{2,1,0}, bf16[8,32,64]{2,1,0}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  %end = s32[]{:T(128)} constant(12)
  ROOT %lt = pred[]{:T(512)} compare(%j, %end), direction=LT
}

ENTRY %main (a: bf16[8,16,32], b: bf16[8,32,64]) -> bf16[8,16,32] {
  %a = bf16[8,16,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[8,32,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  %begin = s32[]{:T(128)} constant(2)
  %begin.c = s32[]{:T(128)} copy(%begin)
  %state = (s32[]{:T(128)}, bf16[8,16,32]{2,1,0}, bf16[8,32,64]{2,1,0}) tuple(%begin.c, %a, %b)
  %loop = (s32[]{:T(128)}, bf16[8,16,32]{2,1,0}, bf16[8,32,64]{2,1,0}) while(%state), condition=%condition, body=%body
  %k = bf16[8,16,32]{2,1,0} custom-call(%a), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"cost_estimate":{"flops":"1000","bytes_accessed":"9"}}}
  ROOT %out = bf16[8,16,32]{2,1,0} get-tuple-element(%loop), index=1
}
'''  # noqa: E501  (as libtpu wrote it)


def test_programs_as_libtpu_writes_them():
  module = hlo.parse(TPU)
  entry = module.computations[module.entry]
  assert trip_count(entry['loop'], entry, module) == 10
  found = cost(TPU)
  assert found.flops == 10 * 2 * 8 * 16 * 32 * 64 + 1000     # the kernel by its own estimate
  read, kernel, scalars = (8 * 16 * 32 + 8 * 32 * 64) * 2, 9, 10 * 100 + 8     # as the kernel says
  assert 10 * read + kernel <= found.bytes <= 10 * read + kernel + scalars   # S(1) is no memory


# As libtpu writes the decoding kernel, which says on a line of its own what it costs.
DECODING = '''HloModule jit_f, is_scheduled=true

%body (p: (s32[], bf16[8,2,8,128])) -> (s32[], bf16[8,2,8,128]) {
  %p = (s32[], bf16[8,2,8,128]{3,2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = bf16[8,2,8,128]{3,2,1,0} get-tuple-element(%p), index=1
  %k = bf16[8,2,8,128]{3,2,1,0} custom-call(%x), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"decode_attention":"{\\"rows\\": 8, \\"column_flops\\": 100, \\"fixed_bytes\\": 7, \\"sets\\": [{\\"shared\\": true, \\"readers\\": 2, \\"columns\\": 256, \\"block\\": 128, \\"column_bytes\\": 10}, {\\"shared\\": false, \\"readers\\": 8, \\"columns\\": 1024, \\"block\\": 128, \\"column_bytes\\": 10}]}"
}}, metadata={op_name="decode_attention"}, backend_config={"custom_call_config":{"cost_estimate":{"bytes_accessed":"99","flops":"999"}}}
  ROOT %t = (s32[], bf16[8,2,8,128]{3,2,1,0}) tuple(%i, %k)
}, execution_thread="main"

%condition (q: (s32[], bf16[8,2,8,128])) -> pred[] {
  %q = (s32[], bf16[8,2,8,128]{3,2,1,0}) parameter(0)
  ROOT %go = pred[] custom-call(%q), custom_call_target="any"
}

ENTRY %main (a: s32[], b: bf16[8,2,8,128]) -> (s32[], bf16[8,2,8,128]) {
  %a = s32[] parameter(0)
  %b = bf16[8,2,8,128]{3,2,1,0} parameter(1)
  %state = (s32[], bf16[8,2,8,128]{3,2,1,0}) tuple(%a, %b)
  ROOT %loop = (s32[], bf16[8,2,8,128]{3,2,1,0}) while(%state), condition=%condition, body=%body
}
'''  # noqa: E501  (as libtpu wrote it)


def test_decoding_costs_what_rows_read():
  found = cost(DECODING, unknown_trips=3)
  assert (found.flops, found.bytes) == (3 * 999, 3 * 99)
  some = cost(DECODING, unknown_trips=3, columns=Columns(own=100, prompt=64))
  assert some.flops == 3 * 8 * 100 * (100 + 64)
  assert some.bytes == 3 * (7 + 2 * 10 * (64 + 64) + 8 * 10 * (100 + 64))    # and half a block


def test_a_loop_over_the_columns_of_a_cache_runs_as_often_as_they_have_blocks():
  def repeated(x, w, ends):
    def inner(x, end):
      return jax.lax.while_loop(lambda state: state[1] < end,
                                lambda state: (state[0] @ w, state[1] + 1), (x, 0))[0]
    return jax.lax.while_loop(lambda state: state[1] < ends[0], lambda state: (
        inner(state[0], ends[1]), state[1] + 1), (x, 0))[0]
  text = compiled_text(repeated, like(8, 32), like(32, 32), like(2, dtype='int32'))
  columns = Columns(own=5.5 * BLOCK, prompt=2 * BLOCK)
  found = cost(text, unknown_trips=2.5, columns=columns)
  assert found.flops == 2.5 * (6 + 2) / 2 * 2 * 8 * 32 * 32


def test_what_a_scatter_changes_in_place_is_what_it_writes():
  def write(stack, new, rows):
    def step(_, stack):
      return stack.at[rows].set(new)
    return jax.lax.fori_loop(0, 10, step, stack)
  text = compiled_text(write, like(4096, 64), like(8, 64), like(8, dtype='int32'))
  assert cost(text).bytes < 10 * 4096 * 64 * 4


NESTED = '''HloModule jit_f, is_scheduled=true

%slice (s: f32[50,64,64], i: s32[]) -> f32[64,64] {
  %s = f32[50,64,64]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %d = f32[1,64,64]{2,1,0} dynamic-slice(%s, %i, %zero, %zero), dynamic_slice_sizes={1,64,64}
  ROOT %flat = f32[64,64]{1,0} bitcast(%d)
}

%product (x: f32[8,64], w: f32[50,64,64], n: s32[]) -> f32[8,64] {
  %x = f32[8,64]{1,0} parameter(0)
  %n = s32[] parameter(2)
  %w = f32[50,64,64]{2,1,0} parameter(1)
  %one = f32[64,64]{1,0} fusion(%w, %n), kind=kLoop, calls=%slice
  ROOT %y = f32[8,64]{1,0} dot(%x, %one), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (a: f32[8,64], b: f32[50,64,64], c: s32[]) -> f32[8,64] {
  %a = f32[8,64]{1,0} parameter(0)
  %b = f32[50,64,64]{2,1,0} parameter(1)
  %c = s32[] parameter(2)
  ROOT %out = f32[8,64]{1,0} fusion(%a, %b, %c), kind=kOutput, calls=%product
}
'''


def test_a_slice_that_is_fused_twice_is_a_slice_all_the_same():
  found = cost(NESTED)
  assert found.bytes == 4 * (2 * 8 * 64 + 64 * 64 + 1)
  assert found.flops == 2 * 8 * 64 * 64


def test_a_slice_of_a_stack_that_is_converted_is_a_slice_of_what_is_stored():
  text = NESTED.replace('w: f32[50,64,64]', 'w: s8[50,64,64]').replace(
      'b: f32[50,64,64]', 'b: s8[50,64,64]').replace(
      '%w = f32[50,64,64]{2,1,0} parameter(1)',
      '%v = s8[50,64,64]{2,1,0} parameter(1)\n  %w = f32[50,64,64]{2,1,0} convert(%v)').replace(
      '%b = f32', '%b = s8')
  assert text.count('s8[50,64,64]') == 4
  assert cost(text).bytes == 4 * (2 * 8 * 64 + 1) + 64 * 64


# As libtpu writes a reduce-scatter: an all-reduce in a fusion with the slice that is kept.
SCATTERED = '''HloModule jit_f, is_scheduled=true, num_partitions=4

%all-reduce-scatter.clone (p: bf16[64,8]) -> bf16[16,8] {
  %p = bf16[64,8]{1,0} parameter(0)
  %r = bf16[64,8]{1,0} all-reduce(%p), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %s = bf16[16,8]{1,0} dynamic-slice(%r, %zero, %zero), dynamic_slice_sizes={16,8}
}

ENTRY %main (x: bf16[64,8]) -> bf16[16,8] {
  %x = bf16[64,8]{1,0} parameter(0)
  ROOT %f = bf16[16,8]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.clone
}
'''


def test_a_fused_reduce_scatter_is_no_all_reduce():
  found, = cost(SCATTERED).collectives
  assert found.kind == 'reduce-scatter' and found.moved == 3 / 4 * 64 * 8 * 2
