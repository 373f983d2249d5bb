"""How processes find each other: what is checked and recognised, and who is missing."""
import os
import re
import threading

import pytest
import runs

from r1jax.runtime import joining


@pytest.mark.parametrize('fields, said', [
    (dict(coordinator='10.0.0.2', num_hosts=2, host=0), "coordinator='10.0.0.2' is not an address"),
    (dict(coordinator='a:70000', num_hosts=2, host=0), 'HOST:PORT'),
    (dict(coordinator='a:1', host=0), 'num_hosts must be at least 1, got 0'),
    (dict(coordinator='a:1', num_hosts=2, host=2), 'from 0 to 1'),
    (dict(num_hosts=2, host=0), '--coordinator=HOST:PORT'),
    (dict(coordinator='a:1', num_hosts=2, host=0, lost_s=0), 'lost_s=0')])
def test_how_to_join_is_checked(fields, said):
  with pytest.raises(joining.JoinError, match=re.escape(said)):
    joining.Joining(**fields)


@pytest.mark.parametrize('environment, several', [
    ({}, False),
    (dict(SLURM_JOB_ID='1', SLURM_STEP_NODELIST='a[1-2]', SLURM_NTASKS='2', SLURM_PROCID='0',
          SLURM_LOCALID='0'), True),
    (dict(SLURM_JOB_ID='1', SLURM_NTASKS='2'), False),     # an allocation, but no srun
    (dict(SLURM_JOB_ID='1', SLURM_STEP_NODELIST='a', SLURM_NTASKS='1', SLURM_PROCID='0',
          SLURM_LOCALID='0'), False),
    (dict(OMPI_MCA_orte_hnp_uri='1.0;tcp://10.0.0.1:1', OMPI_COMM_WORLD_SIZE='4'), True),
    (dict(MEGASCALE_NUM_SLICES='2'), True)])
def test_what_is_recognised(monkeypatch, environment, several):
  for name in list(os.environ):
    if name.startswith(('SLURM', 'OMPI', 'MEGASCALE')):
      monkeypatch.delenv(name)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert joining.several_recognised() == several


@pytest.mark.parametrize('tasks, alone', [
    ('1', True), ('1(x4)', True), ('8(x2)', False), ('1(x2),8', False), ('', False)])
def test_a_single_task_of_a_node_takes_all_its_devices(monkeypatch, tasks, alone):
  monkeypatch.setenv('SLURM_STEP_TASKS_PER_NODE', tasks)
  assert joining.alone_on_its_node() == alone


def wait_for_hosts(*told, num_hosts=2, wait_s=1):
  """What each process says that is told (its number, how many there are), in their order."""
  said, address = [None] * len(told), f'127.0.0.1:{runs.free_port()}'

  def tell(place, host, count):
    how = joining.Joining(address, count, host, wait_s)
    try:
      (joining._wait_for_hosts if host == 0 else joining._report_to_coordinator)(how)
    except joining.JoinError as error:
      said[place] = str(error)
  threads = [threading.Thread(target=tell, args=(place, *one)) for place, one in enumerate(told)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(30)
  return said


def test_hosts_that_all_report_find_each_other():
  assert wait_for_hosts((1, 3), (0, 3), (2, 3), wait_s=10) == [None] * 3


def test_those_who_are_missing_are_named_to_all():
  said = wait_for_hosts((0, 4), (2, 4))
  assert said[0] == said[1] and 'num_hosts=4 hosts 1, 3 did not answer' in said[0]


def test_two_hosts_of_one_number_and_other_counts_are_refused():
  assert all('two hosts have host=1' in one
             for one in wait_for_hosts((0, 3), (1, 3), (1, 3), wait_s=10))
  assert all('has num_hosts=3 and host 0 has num_hosts=2' in one
             for one in wait_for_hosts((0, 2), (1, 3)))


def test_a_coordinator_that_nobody_reaches_is_named():
  (said,) = wait_for_hosts((1, 2))
  assert re.search(r'host 1 cannot reach the coordinator 127.0.0.1:\d+ within join_wait_s=1', said)
