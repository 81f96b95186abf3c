"""Measures the cost of a recipe's training (time, operations, memory) against that of a plain network."""
