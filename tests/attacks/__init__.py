"""What `test_attacks.py` attacks runs with: commands and answers, moments of a save, damages, mutated commands."""
