"""What the programs of a term see of the machine: its variables, a home, and what a sandbox leaves visible."""
