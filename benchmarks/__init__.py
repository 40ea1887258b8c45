"""planish beside its peers: `make bench`, or `.venv/bin/python benchmarks/run.py --list`."""
