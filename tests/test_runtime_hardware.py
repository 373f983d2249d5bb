"""Peaks come from data sheets, or there are none."""
import types

import jax
import pytest

from r1jax.runtime import hardware


def test_no_peak_is_made_up_for_a_device_that_is_not_in_the_table():
  assert hardware.peak_flops('float32') is None
  assert hardware.no_peak_message() == (
      "no peak is known for device kind 'cpu': utilisation is not reported")


@pytest.mark.parametrize('kind, dtype, peak', [
    ('TPU v5 lite', 'bfloat16', 197e12), ('TPU v5', 'float32', 459e12),
    ('NVIDIA H200', 'bfloat16', 989e12), ('NVIDIA A100-SXM4-80GB', 'float32', 156e12)])
def test_the_peak_is_that_of_all_devices_for_the_dtype(kind, dtype, peak, monkeypatch):
  device = types.SimpleNamespace(device_kind=kind)
  monkeypatch.setattr(jax, 'devices', lambda: [device] * 4)
  monkeypatch.setattr(jax, 'device_count', lambda: 4)
  assert hardware.peak_flops(dtype) == 4 * peak


def test_every_chip_has_a_peak_for_every_compute_dtype():
  for chip in hardware.DEVICE_KINDS.values():
    assert set(chip.peaks) == {'bfloat16', 'float32'}
