"""Networks that teach one another."""
