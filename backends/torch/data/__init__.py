"""Labelled images: where they come from, how they are divided, varied and put into batches."""
