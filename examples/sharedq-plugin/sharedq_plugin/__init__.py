"""A source of targets, a network, an environment, a measure and a recipe for sharedq, in one installable package."""
