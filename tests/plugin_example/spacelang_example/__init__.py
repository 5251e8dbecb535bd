"""What a package outside spacelang can add, each in a file of its own."""
