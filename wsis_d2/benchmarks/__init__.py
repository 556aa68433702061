"""How long every stage takes, and how far that is from what the machine could do; and what is fast
beside the plain way of doing it."""

from .run import run_benchmarks
from .tables import format_comparison, format_results, read_results

__all__ = ["format_comparison", "format_results", "read_results", "run_benchmarks"]
