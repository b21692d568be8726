"""Backups, losses and returns. Each function is one equation and works on any leading axes."""
