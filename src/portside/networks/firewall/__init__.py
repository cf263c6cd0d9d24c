"""The engine's firewall table, and a look at the host's own rules."""
