"""Chaos: a real fleet of processes, killed in every way that production knows, and the books checked afterwards."""
