"""Benchmarks: scripts with a question in their first line. `python -m benchmarks --list` lists them."""
