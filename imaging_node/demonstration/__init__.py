"""The demo: the main job of the node on real sockets, on one machine, with no patient."""
