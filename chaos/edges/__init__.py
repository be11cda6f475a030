"""Real factories on real repositories: engines do what agents do with git, beside each other and under faults, and what
they made is looked for from outside. Promises 14, 16 and 17.
"""
