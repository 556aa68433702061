"""What the plugin makes fast beside the plain way of doing it: times, memory and differences."""

from .run import run_benchmarks

__all__ = ["run_benchmarks"]
