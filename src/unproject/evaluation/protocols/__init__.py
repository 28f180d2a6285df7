"""Published benchmarks, one file each, exactly as their authors compute them."""
