"""Topologies by name, and what is said of those that are not there."""
import sys

import pytest

from r1jax.plan import topology


@pytest.mark.parametrize('name, said', [
    ('v9:4x4', "topology='v9:4x4' is unknown: use one of v5e, v6e, v5p"),
    ('v5p:4x4', "has 2 sizes, but slices of v5p have 3: write it as 'v5p:4x4x4'"),
    ('v5e', "is unknown"), ('local:two', "write 'local', or 'local:8'")])
def test_a_topology_that_is_none_is_refused(name, said, monkeypatch):
  monkeypatch.setattr(topology.os, 'environ', {})
  with pytest.raises(ValueError, match=said):
    topology.prepare_environment(name)


def test_without_libtpu_its_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'libtpu', None)
  with pytest.raises(ModuleNotFoundError, match=r"install it with pip install 'r1jax\[plan\]'"):
    topology.open_topology('v5e:4x4')
