"""Inputs that nobody means to give: each must end in success or in a VqtkError, within a time and a memory."""
