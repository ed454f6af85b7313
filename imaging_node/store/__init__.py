"""The state edge: the database and the spool, and nothing else that lasts."""
