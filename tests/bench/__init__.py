"""Benchmarks, run by hand: ``python -m tests.bench.NAME``. Each prints ratios measured in one run.

The machines are shared and noisy: trust the ratio, not the absolute figure.
"""
