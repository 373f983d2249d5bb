"""Programs that are compiled ahead: the same results, the errors of a call, threads that end."""
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import compilations  # noqa: F401 (fixture)

from r1jax.runtime import compiling, sharding


@pytest.fixture
def threads():
  with compiling.Threads(2) as threads:
    yield threads


def shape(*sizes, dtype='float32', where=None):
  return jax.ShapeDtypeStruct(sizes, dtype, sharding=where)


def softmax_of(tree, scale):
  return jax.tree.map(lambda x: jax.nn.softmax(x * scale) @ x.T, tree), scale + 1


def test_a_prepared_program_is_compiled_once_and_gives_the_same_bits(threads, compilations):
  x = jax.random.normal(jax.random.key(0), (33, 65))
  scale = jnp.float32(3)
  expected = jax.jit(softmax_of)([x], scale)
  program = compiling.Program(softmax_of)
  prepared = program.prepare(threads, [shape(33, 65)], shape())
  assert program.prepare(threads, [shape(33, 65)], shape()) is prepared
  prepared.compiled()
  del compilations[:]
  for _ in range(2):
    jax.tree.map(np.testing.assert_array_equal, program([x], scale), expected)
  assert compilations == []


@pytest.mark.parametrize('arguments', [
    ([np.ones((3, 5), np.float32)], 2.0),                       # a weakly typed scalar
    ([np.ones((3, 5), np.int32)], np.float32(2)),               # another type
    ([np.ones((5, 3), np.float32)], np.float32(2)),             # another shape
    ((np.ones((3, 5), np.float32),), np.float32(2)),            # another tree
])
def test_a_call_that_was_not_prepared_is_compiled_as_usual(threads, arguments):
  program = compiling.Program(softmax_of)
  program.prepare(threads, [shape(3, 5)], shape())
  jax.tree.map(np.testing.assert_array_equal, program(*arguments), jax.jit(softmax_of)(*arguments))


def test_a_scalar_of_a_weak_type_is_not_taken_for_another(threads):
  program = compiling.Program(lambda scale: scale * jnp.ones(2, jnp.bfloat16))
  program.prepare(threads, shape())
  assert program(2.0).dtype == jnp.bfloat16 and program(np.float32(2)).dtype == jnp.float32


def test_static_arguments_choose_among_the_prepared(threads, compilations):
  program = compiling.Program(lambda x, *, size: x[:size] * 2, static_argnames='size')
  for size in (2, 3):
    program.prepare(threads, shape(4), size=size).compiled()
  x = jnp.arange(4.0)
  del compilations[:]
  assert [program(x, size=size).tolist() for size in (3, 2)] == [[0, 2, 4], [0, 2]]
  assert compilations == []
  assert program(x, size=1).tolist() == [0]


def test_a_caller_can_ask_whether_it_would_wait():
  begun, release = threading.Event(), threading.Event()
  program = compiling.Program(lambda x: x * 2)
  with compiling.Threads(1) as threads:
    threads.submit(lambda: (begun.set(), release.wait(60)))
    begun.wait(60)
    program.prepare(threads, shape(2))
    assert program.is_compiling(jnp.ones(2)) and not program.is_compiling(jnp.ones(3))
    release.set()
    threads.wait()
    assert not program.is_compiling(jnp.ones(2))


def test_of_few_threads_none_is_taken_by_what_is_last():
  programs = [compiling.Program(lambda x, n=n: x * n) for n in range(3)]
  with compiling.Threads(2) as threads:
    for program in programs:
      program.prepare(threads, shape(2), last=True)
    assert all(program.is_compiling(jnp.ones(2)) for program in programs)
    assert programs[2](jnp.ones(2)).tolist() == [2, 2]     # a call that needs it begins it
    threads.wait()
    assert not any(program.is_compiling(jnp.ones(2)) for program in programs)
    late = compiling.Program(lambda x: x + 1)
    late.prepare(threads, shape(2), last=True)
  assert late(jnp.ones(2)).tolist() == [2, 2]     # compiled by its call
  with compiling.Threads(3) as threads:
    program = compiling.Program(lambda x: x + 2)
    assert program.prepare(threads, shape(2), last=True).compiled()


def test_donated_arguments_are_donated(threads):
  program = compiling.Program(lambda x: x + 1, donate_argnums=0)
  program.prepare(threads, shape(8))
  x = jnp.zeros(8)
  assert program(x).tolist() == [1] * 8
  assert x.is_deleted()


def test_programs_are_traced_under_the_mesh_and_the_rules_of_their_preparation(
    threads, compilations):
  mesh = sharding.make_mesh(fsdp=-1)
  size = 4 * mesh.size
  def split(x):
    return sharding.constrain(jnp.cumsum(x, 0), 'embed', None)
  x = sharding.place(np.ones((size, 3), np.float32), mesh)
  with sharding.use(mesh):
    for table in (sharding.RULES, sharding.ROLLOUT_RULES):
      program = compiling.Program(split)
      with sharding.rules(table):
        prepared = program.prepare(threads, sharding.shapes_on(shape(size, 3), mesh))
        expected = jax.jit(split)(x)
      assert prepared.outputs().sharding.is_equivalent_to(expected.sharding, 2)
      del compilations[:]
      y = program(x)
      assert compilations == []
      assert y.sharding.is_equivalent_to(expected.sharding, 2)
      np.testing.assert_array_equal(y, expected)
      by_rows = sharding.place(np.ones((size, 3), np.float32), mesh, batch=True)
      np.testing.assert_array_equal(program(by_rows), expected)     # placed in another way


def test_an_error_of_the_compiler_is_raised_by_the_call(threads):
  program = compiling.Program(lambda x: x * 2)
  prepared = program.prepare(_Broken(threads), shape(2))
  for use in (lambda: program(jnp.zeros(2)), prepared.outputs):
    with pytest.raises(RuntimeError, match='does not fit'):
      use()
  assert program(jnp.zeros(3)).tolist() == [0] * 3


class _Broken:
  """Threads in which the compiler fails."""

  def __init__(self, threads):
    self._threads = threads

  def begin_last(self):
    pass

  def submit(self, compile_):
    def fail():
      raise RuntimeError('the program does not fit')
    return self._threads.submit(fail)


def test_an_error_of_tracing_is_raised_where_the_program_is_prepared(threads):
  with pytest.raises(TypeError, match='incompatible shapes'):
    compiling.Program(jnp.add).prepare(threads, shape(2), shape(3))


def test_threads_end_and_what_was_waiting_is_compiled_by_its_call():
  begun, release = threading.Event(), threading.Event()
  before = threading.active_count()
  program = compiling.Program(lambda x: x * 2)
  with pytest.raises(KeyboardInterrupt):
    with compiling.Threads(1) as threads:
      threads.submit(lambda: (begun.set(), release.wait(60)))
      begun.wait(60)
      program.prepare(threads, shape(2))
      threading.Timer(0.05, release.set).start()
      raise KeyboardInterrupt
  assert release.is_set() and threading.active_count() <= before + 1   # the timer
  assert program(jnp.ones(2)).tolist() == [2, 2]
