"""One network made fast for inputs of one shape, on a processor."""
