"""What the benchmarks share: workloads, correctness gates, timing, records and tables."""
