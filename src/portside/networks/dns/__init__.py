"""The engine's name server: what containers ask, what they are answered, who is asked next."""
