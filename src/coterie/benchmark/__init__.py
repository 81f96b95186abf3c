"""What a recipe's training costs: time, operations and memory, measured against a plain network in one run."""
