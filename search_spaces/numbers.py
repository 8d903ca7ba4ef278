"""Large numbers as people write them."""


def format_number(value: float) -> str:
    """A large number as people write it: `385.8M`."""
    for suffix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:.4g}{suffix}"
    return f"{value:.4g}"
