"""Collectives of a compiled program: their groups, axes, bytes and time."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import pytest
from test_plan_costs import compiled_text, cost, like

from r1jax.plan import collectives
from r1jax.plan.topology import Topology
from r1jax.runtime import hardware, sharding

COLLECTIVES = {
    'all-reduce': (lambda x: jax.lax.psum(x, 'fsdp'), 'fsdp', lambda size: 2 * 3 / 4 * size),
    'all-gather': (lambda x: jnp.sum(jax.lax.all_gather(x, 'tensor'), 0), 'tensor',
                   lambda size: size),
    'reduce-scatter': (lambda x: jnp.tile(jax.lax.psum_scatter(x, 'fsdp', tiled=True), (4, 1)),
                       'fsdp', lambda size: 3 / 4 * size),
    'all-to-all': (lambda x: jax.lax.all_to_all(x, 'fsdp', 0, 0, tiled=True), 'fsdp',
                   lambda size: 3 / 4 * size),
    'collective-permute': (lambda x: jax.lax.ppermute(
        x, 'fsdp', [(i, (i + 1) % 4) for i in range(4)]), 'fsdp', lambda size: size)}


@pytest.mark.parametrize('kind', COLLECTIVES)
def test_collectives_are_counted_by_kind_axis_and_trip(kind):
  one, axes, moved = COLLECTIVES[kind]
  mesh = sharding.make_mesh(4, 2)

  @functools.partial(jax.shard_map, mesh=mesh, in_specs=P('fsdp', 'tensor'),
                     out_specs=P('fsdp', 'tensor'), check_vma=False)
  def program(x):
    return jax.lax.scan(lambda x, _: (one(jnp.sin(x)), None), x, None, length=5)[0]
  found = cost(compiled_text(program, like(32, 16))).collectives
  found = [c for c in found if c.kind == kind]
  assert sum(c.times for c in found) == 5
  assert {c.loops for c in found} == {1}
  assert {collectives.mesh_axes(c, mesh.shape_tuple) for c in found} == {axes}
  assert sum(c.moved * c.times for c in found) == 5 * moved(8 * 8 * 4)


def test_groups_are_read_in_every_form():
  expected = ((0, 2, 4, 6), (1, 3, 5, 7))
  for written in ('replica_groups={{0,2,4,6},{1,3,5,7}}', 'replica_groups=[2,4]<=[4,2]T(1,0)',
                  "replica_groups=mesh['a'=4,'b'=2] {'a'}",
                  "replica_groups=mesh['a'=8] {'a':(1)4}"):
    assert collectives.device_groups(f'channel_id=1, {written}, dimensions={{0}}', 8) == expected
  assert collectives.device_groups("replica_groups=mesh['a'=4,'b'=2] {'b'}", 8) == (
      (0, 1), (2, 3), (4, 5), (6, 7))
  assert collectives.device_groups('replica_groups=[4,2]<=[8]', 8) == (
      (0, 1), (2, 3), (4, 5), (6, 7))
  assert collectives.device_groups('channel_id=1', 3) == ((0, 1, 2),)


@dataclasses.dataclass
class _Device:
  coords: tuple[int, ...]


def test_a_collective_uses_the_links_along_which_its_group_lies():
  chip = dataclasses.replace(hardware.TPUS['v5p'], network=600.0)
  grid = [_Device((x, y, z)) for z in range(4) for y in range(4) for x in range(2)]
  topology = Topology('v5p:2x4x4', chip, tuple(grid))

  def seconds(*groups):
    gather = collectives.Collective('all-gather', '', 100.0, groups, 0, '')
    return collectives.network_seconds(gather, topology)
  along_y = (0, 2, 4, 6)          # a ring of four: two of the six links
  assert seconds(along_y) == pytest.approx(300 / 200)
  assert seconds((0, 1)) == pytest.approx(100 / 100)      # two chips: one link
  assert seconds(tuple(range(32))) == pytest.approx(3100 / 500)
  assert seconds((0,)) == 0
