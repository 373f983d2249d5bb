"""What a run would take on devices that are not rented yet: `python -m r1jax.plan --help`.

The experiment's own programs are lowered with shapes alone and compiled; libtpu compiles for a
slice of TPU chips without having one. From the command line inwards:

  table, search          print a plan; look for settings that fit
  estimate               compiles all programs of a stage and adds up what they take
  rough_memory           memory by arithmetic alone, for the search
  compiler               compiles one program, and keeps what it takes in a cache
  costs                  counts operations, bytes and collectives of a compiled program,
  memory_traffic,        with the bytes of an instruction,
  trip_counts,           how often a loop runs,
  collectives            and what collectives send, over which links
  hlo                    reads the text of a compiled program
  topology               the slices of chips; their data sheets are in `r1jax.runtime.hardware`
"""
