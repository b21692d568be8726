"""One equation, one function: backups, losses and returns, on whatever axes the caller brings."""
