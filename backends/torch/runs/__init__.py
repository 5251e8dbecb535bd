"""What every long run has: its folder, log and lock, processes, progress, signals that end it."""
