"""Playing whole episodes with a trained agent: their returns, pictures of them, and films."""
