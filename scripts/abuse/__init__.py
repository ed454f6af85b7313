"""Faults that peers and disks commit against a running node, and what it must do then."""
