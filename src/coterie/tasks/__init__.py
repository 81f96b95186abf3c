"""What belongs to a kind of problem: its data, how its networks are built, how they are evaluated."""
