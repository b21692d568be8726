"""What learning costs and what it does inside."""
