"""`vqtk bench`."""
def bench() -> None:
    """Later."""
