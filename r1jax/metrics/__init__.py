"""What a person sees of a run: metrics and rollouts on disk, a progress line, curves and tables.

    from r1jax import metrics
    writer = metrics.MetricWriter(workdir, resume_step=1)

Of several hosts only the first writes and prints; on the others the writers do nothing.
"""
from r1jax.metrics.curves import plot_curves
from r1jax.metrics.jsonl import JsonlWriter, read_jsonl, read_part
from r1jax.metrics.progress import Progress
from r1jax.metrics.stopwatch import Stopwatch
from r1jax.metrics.tables import format_table, print_table
from r1jax.metrics.writers import MetricWriter, RolloutWriter, read_metrics
