"""What a function is known by: everything that decides its results, and nothing else."""
import importlib.util
import itertools
import linecache
import socket
import subprocess
import sys

import jax
import pytest

from r1jax.errors import UserError
from r1jax.rewards.suite import REWARDS
from r1jax.stages.function_identity import function_identity

_numbers = itertools.count()


def cell(source, **names):
  """The function `f` of a notebook's cell, in which these names stand."""
  file = f'<cell {next(_numbers)}>'
  linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
  space = {'__name__': '__main__', **names}
  exec(compile(source, file, 'exec'), space)
  return space['f']


def known(source, **names):
  return function_identity(cell(source, **names))


def module(folder, name, source):
  """A module of the user's own."""
  path = folder / f'{name}.py'
  path.write_text(source)
  spec = importlib.util.spec_from_file_location(name, path)
  sys.modules[name] = found = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(found)
  return found


ONE = 'def f(c, e):\n  return float(len(c) > 3)\n'
# What stands for %% in a source, once and then otherwise: two results.
DIFFERENT = {
    'its source': ('3', '4', '''
def f(c, e):
  return float(len(c) > %%)
'''),
    'a global': ('3', '4', '''
limit = %%
def f(c, e): return c > limit
'''),
    'a helper': ('1', '2', '''
def g(c): return %%
def f(c, e): return g(c)
'''),
    "a helper's helper": ('1', '2', '''
def h(): return %%
def g(c): return h()
def f(c, e): return g(c)
'''),
    "a helper's global": ('2', '3', '''
w = [1, {"a": (%%,)}]
def g(): return w
def f(c, e): return g()
'''),
    'a closure': ('1', '2', '''
def make(n):
  def f(c, e): return n
  return f
f = make(%%)
'''),
    'a function within': ('1', '2', '''
def f(c, e):
  def g(): return limit
  return g()
limit = %%
'''),
    'a default': ('1', '2', '''
def make(n):
  def f(c, e, k=n): return k
  return f
f = make(%%)
'''),
    'a keyword default': ('1', '2', '''
n = %%
def f(c, e, *, k=n): return k
'''),
    'an attribute': ('1', '2', '''
def f(c, e): return f.n
f.n = %%
'''),
    'a partial': ('1', '2', '''
import functools
def g(n, c, e): return n
f = functools.partial(g, %%)
'''),
    "a partial's keyword": ('1', '2', '''
import functools
def g(c, e, n): pass
f = functools.partial(g, n=%%)
'''),
    'an object': ('1', '2', '''
class A:
  def __init__(self, n): self.n = n
  def __call__(self, c, e): return self.n
f = A(%%)
'''),
    "an object's class": ('1', '2', '''
class A:
  def __call__(self, c, e): return %%
f = A()
'''),
    'a base class': ('1', '2', '''
class B:
  n = %%
class A(B):
  def __call__(self, c, e): return self.n
f = A()
'''),
    'slots': ('1', '2', '''
class A:
  __slots__ = "n",
  def __call__(self, c, e): pass
f = A()
f.n = %%
'''),
    'a method': ('1', '2', '''
class A:
  def g(self, c, e): return %%
f = A().g
'''),
    'a property': ('1', '2', '''
class A:
  @property
  def n(self): return %%
a = A()
def f(c, e): return a.n
'''),
    'a static method': ('1', '2', '''
class A:
  @staticmethod
  def g(): return %%
def f(c, e): return A.g()
'''),
    'a cached helper': ('1', '2', '''
import functools
@functools.cache
def g(): return %%
def f(c, e): return g()
'''),
    'a decorated one': ('1', '2', '''
import functools
def d(g):
  @functools.wraps(g)
  def h(c, e): return g(c, e)
  return h
@d
def f(c, e): return %%
'''),
    'its decorator': ('', '-', '''
import functools
def d(g):
  @functools.wraps(g)
  def h(c, e): return %%g(c, e)
  return h
@d
def f(c, e): return 1
'''),
    'a lambda': ('1', '2', '''
f = lambda c, e: %%
'''),
    'a set': ('b', 'c', '''
s = {"a", "%%"}
def f(c, e): return c in s
'''),
    'an array': ('', 'w[5] = 0\n', '''
import numpy
w = numpy.arange(9)
%%def f(c, e): return w
'''),
    'a pattern': ('a', 'b', '''
import re
p = re.compile("%%")
def f(c, e): return p.search(c)
'''),
    "a pattern's method": ('a', 'b', '''
import re
s = re.compile("%%").search
def f(c, e): return s(c)
'''),
    'a data class': ('1', '2', '''
import dataclasses
@dataclasses.dataclass
class A:
  n: int
a = A(%%)
def f(c, e): return a.n
'''),
    'an enumeration': ('X', 'Y', '''
import enum
class A(enum.Enum):
  X = 1
  Y = 2
a = A.%%
def f(c, e): return a
'''),
    'a decimal': ('1', '2', '''
from decimal import Decimal
d = Decimal(%%)
def f(c, e): return d
'''),
    'a counter': ('b', 'c', '''
import collections
d = collections.Counter("a%%")
def f(c, e): return d
'''),
    'a coroutine': ('1', '2', '''
async def f(c, e): return %%
'''),
    'a value in a changed name': ('', '.0', '''
n = 1%%
def f(c, e): return n
'''),
}
# The same, where it is one result.
SAME = {
    'itself': ('', '', '''
def f(c, e):
  return float(len(c) > 3)
'''),
    'other cells': ('', '\n\nunused = 3\n', '''
%%def f(c, e):
  return float(len(c) > 3)
'''),
    'another place': ('if 0: pass', 'if 1:\n  pass\n', '''
%%
def f(c, e): return c
'''),
    'what it does not name': ('1', '2', '''
n = %%
def f(c, e):
  return float(len(c) > 3)
'''),
    'what it has seen': ('', '1', '''
seen = [%%]
def f(c, e):
  seen.append(c)
  return 1
'''),
    'its cache': ('', '1: 1', '''
d = {%%}
def f(c, e):
  d[c] = d.get(c, 1)
  return d[c]
'''),
    'its cache as a default': ('', 'f(1, 2)', '''
def f(c, e, d={}):
  d[c] = 1
  return d[c]
%%
'''),
    'its counter': ('0', '5', '''
n = %%
def f(c, e):
  global n
  n += 1
  return 1
'''),
    "a closure's counter": ('0', '4', '''
def make(n):
  def f(c, e):
    nonlocal n
    n += 1
    return 1
  return f
f = make(%%)
'''),
    'its iterator': ('', '4', '''
import itertools
n = itertools.count(%%)
def f(c, e): return next(n)
'''),
    'its own attribute': ('', '', '''
def f(c, e):
  f.n += 1
  return 1
f.n = 1
'''),
    "an object's counter": ('', '\nf(1, 2)', '''
class A:
  n = 0
  def __call__(self, c, e):
    self.n += 1
    return 1
f = A()%%
'''),
    "a lambda's list": ('', '2', '''
seen = [%%]
f = lambda c, e: seen.append(c) or 1
'''),
    'a lock': ('', '', '''
import threading
l = threading.Lock()
def f(c, e):
  with l: return 1
'''),
    'a logger': ('', '', '''
import logging
l = logging.getLogger("x")
def f(c, e): l.info(c)
'''),
    'itself inside': ('', '', '''
def f(c, e): return f(c[1:], e) if c else 1
'''),
    'limits': ('3', '4', '''
from r1jax.rewards.calls import limits
@limits(at_once=%%)
def f(c, e): return 1
'''),
}


@pytest.mark.parametrize('what', DIFFERENT)
def test_what_decides_its_results_is_part_of_it(what):
  one, other, source = DIFFERENT[what]
  found = [known(source.replace('%%', text)) for text in (one, one, other)]
  assert found[0] == found[1] != found[2]


@pytest.mark.parametrize('what', SAME)
def test_what_does_not_is_not(what):
  one, other, source = SAME[what]
  assert known(source.replace('%%', one)) == known(source.replace('%%', other))


def test_what_is_beside_it_is_part_of_it():
  assert function_identity(cell(ONE), 1.0) != function_identity(cell(ONE), 2.0)
  assert len({function_identity(function) for function in REWARDS.values()}) == len(REWARDS)


def test_the_users_own_modules_are_followed_where_they_are_named(tmp_path):
  inner = module(tmp_path, 'own_inner', 'limit = 1\ndef g(): return limit\n')
  outer = module(tmp_path, 'own_outer', 'import own_inner\nother = 2\ndef h(): return 1\n')
  source = 'def f(c, e): return own_outer.own_inner.g() + own_outer.h()'
  before = known(source, own_outer=outer)
  outer.other = 3
  assert known(source, own_outer=outer) == before
  inner.limit = 4
  assert known(source, own_outer=outer) != before
  inner.limit = 1
  assert known(source, own_outer=outer) == before
  outer.h = cell('def f(): return 2')
  assert known(source, own_outer=outer) != before


def test_a_file_that_was_edited_after_its_import_is_not_taken_for_what_runs(tmp_path):
  old = module(tmp_path, 'own_old', ONE).f
  before = function_identity(old)
  new = module(tmp_path, 'own_old', ONE.replace('3', '49')).f
  linecache.checkcache()
  assert function_identity(new) not in (before, function_identity(old))


@pytest.mark.parametrize('value', [
    socket.socket(), (one for one in 'ab'), sys._getframe(), memoryview(b'')])
def test_what_cannot_be_known_is_refused_by_name_unless_it_says_what_it_is(value):
  source = 'def f(c, e): return client'
  with pytest.raises(UserError, match="function 'f' depends on client, of type .* set f.identity"):
    known(source, client=value)
  said = [known(source + f'\nf.identity = {word!r}', client=value) for word in ('a', 'b', 'a')]
  assert said[0] == said[2] != said[1]


def test_built_in_functions_are_refused_as_rewards_and_known_within():
  with pytest.raises(UserError, match='built-in function len.* has no source .* wrap it'):
    function_identity(len)
  assert known('g = len\ndef f(c, e): return g(c)') != known('g = max\ndef f(c, e): return g(c)')


def test_it_is_the_same_in_another_process(tmp_path):
  """Sets and ids have another order there."""
  source = ('import re\nfrom r1jax.stages.function_identity import function_identity\n'
            's = {"a", "b", ("c", 1), ("d", 2)}\nt = ("c", 1)\np = re.compile("x")\n'
            'def f(c, e): return c in s or p or t\nprint(function_identity(f))\n')
  (tmp_path / 'own.py').write_text(source)
  said = {subprocess.run([sys.executable, tmp_path / 'own.py'], text=True, capture_output=True,
                         env={'PYTHONHASHSEED': seed, 'PYTHONPATH': '.'}).stdout for seed in '12'}
  assert len(said) == 1 and len(said.pop()) == 17


def test_arrays_of_jax_count_by_their_numbers(tiny):
  source, weights = 'def f(c, e): return w', jax.tree.leaves(tiny.params)[0]
  assert known(source, w=weights) == known(source, w=weights + 0)
  assert known(source, w=weights) != known(source, w=weights + 1)
