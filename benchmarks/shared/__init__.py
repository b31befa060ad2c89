"""What several benchmarks use; the scripts beside this folder import from here only."""
