"""The parts of `benchmarks/cpu_attention.py`: work items, contenders, and an interleaved clock."""
