"""A source of targets, a network, an environment and a recipe for sharedq, in one installable package."""
