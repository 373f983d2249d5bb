import subprocess
import sys

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import checks


def test_what_fits_passes():
  x = np.zeros((2, 3), np.float32)
  checks.floats(x=x, half=jnp.zeros(2, jnp.bfloat16), nothing=None)
  checks.rank('[N, C]', x=x)
  checks.rank('[N]', x=x[0])
  checks.shapes((2, 3), (2,), x=x, y=x[:, 0], nothing=None)
  checks.word(('a', 'b'), letter='b')
  checks.at_least(0, zero=0, more=2.5)
  jax.jit(lambda x: checks.at_least(0, x=x))(-1.0)      # known to a trace alone


@pytest.mark.parametrize('call, message', [
    (lambda: checks.floats(x=np.zeros(2, np.int32)),
     'x must have a floating-point dtype, got int32'),
    (lambda: checks.floats(x=[1.0]), 'x must be a jax or numpy array, got a list'),
    (lambda: checks.rank('[N, C]', x=np.zeros(2)), r'x must have shape \[N, C\], got \[2\]'),
    (lambda: checks.rank('[N, C]', x=1.0), r'x must have shape \[N, C\], got a float'),
    (lambda: checks.shapes((2,), (2, 3), x=np.zeros(3)),
     r'x must have shape \[2\] or \[2, 3\], got \[3\]'),
    (lambda: checks.shapes((2,), x=[1, 2]), r'x must have shape \[2\], got a list'),
    (lambda: checks.word(('a', 'b'), letter='c'),
     "letter='c' is unknown: did you mean 'b'. .known: a, b"),
    (lambda: checks.at_least(0, x=-1), 'x must be at least 0, got -1'),
    (lambda: checks.at_least(1, strictly=True, x=1), 'x must be greater than 1, got 1'),
    (lambda: checks.at_least(0, x=float('nan')), 'x must be at least 0, got nan')])
def test_what_does_not_fit_is_refused_in_one_sentence(call, message):
  with pytest.raises(ValueError, match=message):
    call()


@hypothesis.given(st.text(), st.lists(st.text(), min_size=1))
def test_the_nearest_is_one_of_the_words_and_itself_where_it_is_there(word, words):
  assert checks.nearest(word, words) in words
  if word in words:
    assert checks.nearest(word, words) == word


def test_did_you_mean_names_the_nearest_and_all():
  words = dict(format=1, language=2)
  assert checks.did_you_mean('formatt', words) == "did you mean 'format'? (known: format, language)"
  assert checks.did_you_mean(3, words).startswith('did you mean ')


@pytest.mark.parametrize('name', [
    '', ' ', '.', '..', '../up', 'a/b', '/a', '~x', 'a::b', 'a\0b', 'a\nb', '\x1b[2J', 'a\u202eb',
    'e\u0301', 'a ', 'a.', '-a', 'a' * 101, 'é' * 51, '\ud800', 3, None], ids=ascii)
def test_names_that_no_folder_can_have_are_refused(name):
  (fault,) = checks.name_faults(['zero', name], 'config.stages')
  assert fault.startswith('config.stages must have names that can be folders')
  assert fault.isprintable() and len(fault) < 400


def test_names_that_some_disks_take_for_one_are_refused():
  assert not list(checks.name_faults(
      ['zero', 'a b', 'v1.5-x_y', '零', 'é', 'a' * 100], 'evaluations'))
  for names in (('Zero', 'zero'), ('straße', 'STRASSE'), ('ﬁve', 'five')):
    (fault,) = checks.name_faults(names, 'evaluations')
    assert f'the names {names[0]!r} and {names[1]!r}, which some disks take for one' in fault


def test_checks_load_without_jax():
  subprocess.run([sys.executable, '-c',
                  'import sys, r1jax.checks; assert "jax" not in sys.modules'], check=True)
