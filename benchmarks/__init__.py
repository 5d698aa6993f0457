"""Side-by-side runs; each module prints one table."""
