"""The shipped spaces, as data files: the published systems, the quickstart and block libraries."""

# The repository root may be on the path, where a second import name would load every module twice.
if __name__ != "spacelang.spaces":
    raise ImportError(f"import this package as spacelang.spaces, not {__name__}")
