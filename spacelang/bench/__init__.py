"""Side-by-side measurements: what is compared, how it is timed, and the page that says so."""
