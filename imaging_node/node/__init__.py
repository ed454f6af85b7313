"""Composition root: settings become wired roles, and roles become a node."""
