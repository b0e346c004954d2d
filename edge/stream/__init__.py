"""The runner: readers, admission, the two loops and what they measure. `run.Run` brings them together."""
