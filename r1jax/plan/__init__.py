"""What a run would take on devices that are not rented yet: `python -m r1jax.plan --help`.

The experiment's own programs are lowered with shapes alone and compiled, by libtpu for a slice of
TPU chips, without one. `hlo` reads their costs, `chips` knows the slices, `estimate` compiles and
counts, `search` looks for settings that fit, `table` shows it.
"""
