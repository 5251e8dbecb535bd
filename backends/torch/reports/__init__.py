"""report.html of trainings and searches."""
