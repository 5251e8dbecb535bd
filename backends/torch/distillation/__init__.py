"""Students and their teachers: lessons, stored outputs, inner values of both."""
