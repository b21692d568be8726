"""The cost of learning."""
