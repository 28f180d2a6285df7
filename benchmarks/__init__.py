"""Scripts that measure the package on real clips with truth, beside COLMAP: `python -m benchmarks.run`."""
