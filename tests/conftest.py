"""Being here makes `tests/` importable: the tests share `graphs.py` and `streaming.py`."""
