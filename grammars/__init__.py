"""The grammars of the texts, and the tables that lark makes of them."""

# The repository root may be on the path, where a second import name would load every module twice.
if __name__ != "spacelang.grammars":
    raise ImportError(f"import this package as spacelang.grammars, not {__name__}")
