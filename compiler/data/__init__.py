"""Feeds: where they come from, whether they fit, which tokens count, code of the user."""
