"""A model explored in a browser: one page, served on this machine."""
