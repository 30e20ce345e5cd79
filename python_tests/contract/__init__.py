"""The contract of every op: what `test_op_*.py` check, for whatever `gankern.backend.discover` finds."""
