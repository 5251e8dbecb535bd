"""Backends: what turns a Graph into running code, one package each, found through entry points."""

# The repository root may be on the path, where a second import name would load every module twice.
if __name__ != "spacelang.backends":
    raise ImportError(f"import this package as spacelang.backends, not {__name__}")
